"""One run in full: what came out of it, beside its controls, and what it cost."""

import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.progress import Follower, progress_line
from engine.commands.tables import Column, count, over_random, percent, print_fields, print_table, seconds, shortest, size, styled_status
from engine.errors import UserError
from engine.runs.events import number
from engine.runs.layout import Run, read_object
from engine.runs.results import evaluation_place, evaluation_words, headline, set_place
from engine.runs.scores import AS_RANDOM
from engine.runs.status import RunStatus, run_status
from engine.runs.store import asked_for, read_run_toml
from engine.runs.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from engine.runs.compare import Gap

LRS_PARTS = (("ior", "over random"), ("hlr", "hard labels behind the whole dataset"))
ARS_PARTS = (("augmented", "over random"), ("plain", "without augmentation"))


def facts_of(run: Run) -> dict[str, Any]:
    """Return a run's summary with its computed status, the reason for it, its folder, its progress while it lives, published figures."""
    return _facts_and_gaps(run)[0]


def _facts_and_gaps(run: Run) -> "tuple[dict[str, Any], list[Gap]]":
    summary, _ = read_object(run.summary)
    status = run_status(run.folder)
    facts = {"schema": 1, "run": run.id, "project": run.project, **(summary or asked_for(run)[0])}
    facts |= {"status": status.word, "reason": status.reason, "alive": status.alive, "folder": str(run.folder)}
    if status.alive:
        names = ("stage", "step", "done", "total", "unit", "rate")
        facts["progress"] = {name: getattr(status, name) for name in names}
    gaps = _gaps(run, facts)
    if gaps:
        from engine.runs.compare import gap_json

        facts["published"] = [gap_json(gap) for gap in gaps]
    return facts, gaps


def _gaps(run: Run, facts: dict[str, Any]) -> "list[Gap]":
    """Return the published figures that a run is held against, with the gap to each; none while it has no results."""
    if not _rows(facts.get("results")):
        return []
    from engine.runs.compare import Facts, flatten, group_runs, published_gaps

    try:
        values = flatten(read_run_toml(run))
    except UserError:
        return []
    return published_gaps(group_runs([Facts(run.id, run.project, str(run.folder), facts["status"], values, facts)]))


def print_report(console: "Console", run: Run) -> None:
    """Print a run's status, its accuracies beside those of its controls, its sizes, times and files."""
    from rich.text import Text

    (facts, gaps), status = _facts_and_gaps(run), run_status(run.folder)
    console.print(Text.assemble((printable(run.project), "bold"), "  ", (printable(run.id), "dim"), "  ", styled_status(status.word)))
    _print_lines(console, [*_what(facts), *_state(run, status)])
    problem = read_object(run.summary)[1]
    if problem and not status.alive:
        console.print(f"{printable(problem)}; `edc resume {printable(run.id)}` writes it anew", style="yellow")
    results = _rows(facts.get("results"))
    if results:
        console.print()
        _print_results(console, results, gaps)
        if gaps:
            from engine.commands.compare import published_notes

            console.print()
            print_fields(console, published_notes(gaps, [run.project]))
        if facts.get("select") == "best_on_test":
            console.print("These are the best of all measurements on the test set, which flatters.", style="yellow")
    stages = facts.get("stages")
    if isinstance(stages, dict) and any(isinstance(stage, dict) and stage.get("status") == "done" for stage in stages.values()):
        console.print()
        _print_stages(console, stages, alive=status.alive)
    console.print()
    print_fields(console, [*_score_lines(facts), *_observers(facts), *_condensed(facts), *_equal_bytes(facts)])
    _print_files(console, [shortest(path) for path in _files(run, facts)])


def _print_lines(console: "Console", lines: list[str]) -> None:
    for line in lines:
        console.print(line, style="dim")


def _what(facts: dict[str, Any]) -> list[str]:
    """Say in one line what was asked for."""
    if "dataset" not in facts:
        return []
    words = [
        f"{printable(facts.get('method'))} on {printable(facts['dataset'])}",
        count(number(facts.get("ipc")) or 0, "image") + " per class",
        f"seed {printable(facts.get('seed'))}",
        f"{printable(facts.get('device'))} in {printable(facts.get('precision'))}",
    ]
    return [", ".join(words)]


def _state(run: Run, status: RunStatus) -> list[str]:
    """Say why the status is what it is, and where the run stands while it lives."""
    if not status.alive:
        return [] if status.word == "done" else [status.reason]
    follower = Follower(run, from_start=True)
    follower.look()
    return [status.reason, *([progress_line(follower.now)] if follower.now.total else [])]


def _rows(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _print_results(console: "Console", results: list[dict[str, Any]], gaps: "list[Gap]") -> None:
    """Print every result as mean ± deviation over seeds, below a heading for each student and evaluation, beside what is published."""
    from rich.text import Text

    columns = [
        Column("trained on"),
        Column("top-1 %", "right"),
        Column("over random", "right"),
        Column("published", "right"),
        Column("gap", "right"),
        Column("best on test", "right", drop=1),
        Column("top-5 %", "right", drop=2),
        Column("rate", "right", drop=2),
        Column("updates", "right", drop=3),
        Column("seeds", "right"),
    ]
    ordered = sorted(results, key=lambda row: (str(row.get("student")), evaluation_place(row), set_place(str(row.get("set")))))
    rows: list[list[str | Text]] = []
    last = None
    for row in ordered:
        heading = (printable(row.get("student")), printable(evaluation_words(row)))
        if heading != last:
            rows += [[Text("")]] if last else []
            rows.append([Text.assemble((heading[0], "bold"), f"  {heading[1]}" if heading[1] else "")])
            last = heading
        style = "bold" if row.get("set") == "condensed" else ""
        gain = over_random(row)
        own = headline(results, str(row.get("set")), str(row.get("student"))) is row
        held = [gap for gap in gaps if own and (gap.figure.set, gap.figure.student) == (row.get("set"), row.get("student"))]
        published, *further = [[gap.figure.printed, f"{gap.gap:+.2f}"] for gap in held] or [["", ""]]
        rate, updates = number(row.get("learning_rate")), number(row.get("updates"))  # a rate that was searched for
        rows.append(
            [
                Text(f"  {printable(row.get('set'))}", style),
                Text(percent(row.get("top1")), style),
                Text(gain, "green" if gain.startswith("+") else "red"),
                *published,
                percent(row.get("best_on_test")),
                percent(row.get("top5")),
                "" if rate is None else f"{rate:g}",
                "" if updates is None else f"{updates:,.0f}",
                str(len(row["seeds"])) if isinstance(row.get("seeds"), list) else "",
            ]
        )
        rows += [["", "", "", *texts, *[""] * 5] for texts in further]
    print_table(console, columns, rows)


def _score_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Say DD-Ranking's scores of every student, each with its parts, as far as what they need was measured."""
    fields = []
    for score in _rows(facts.get("scores")):
        whose = f"{printable(score.get('student'))}, {printable(score.get('protocol'))} protocol"
        for name, parts in (("lrs", LRS_PARTS), ("ars", ARS_PARTS)):
            found = score.get(name)
            sweep = [_mean(value) for value in found["by_weight"].values()] if _is_scored(found) else []
            if not sweep or None in sweep:
                continue
            told = [f"{words} {percent(_points(part), signed=True)} points" for key, words in parts if (part := found.get(key))]
            weights = f"{sweep[0]:.3f} to {sweep[-1]:.3f} by its weight"
            middle = _scored(list(found["by_weight"].values())[len(sweep) // 2])
            text = f"{middle}, {weights}; {', '.join(told)}; as good as random is {AS_RANDOM:.3f} ({whose})"
            fields.append((name.upper(), text))
    return fields


def _scored(spread: dict[str, Any]) -> str:
    """Say a score with its deviation and number of paired seeds: `0.232 ± 0.011 (n 3)`."""
    deviation, seeds = number(spread.get("std")), number(spread.get("n"))
    told = f"{number(spread.get('mean')) or 0.0:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
    return f"{told} (n {seeds:.0f})" if seeds else told


def _points(part: object) -> dict[str, float | None]:
    """Return a part of a score, a spread of fractions, in percent points."""
    found = part if isinstance(part, dict) else {}
    return {name: None if (value := number(found.get(name))) is None else 100 * value for name in ("mean", "std")}


def _is_scored(found: object) -> bool:
    """Say whether a summary's score has its values by weight."""
    return isinstance(found, dict) and isinstance(found.get("by_weight"), dict)


def _mean(spread: object) -> float | None:
    return number(spread.get("mean")) if isinstance(spread, dict) else None


def _print_stages(console: "Console", stages: dict[str, Any], *, alive: bool) -> None:
    """Print what each stage took, and whether this run computed it."""
    from rich.text import Text

    rows = []
    for name, stage in stages.items():
        if not isinstance(stage, dict):
            continue
        state = "reused" if stage.get("reused") else "computed"
        if stage.get("status") != "done":
            state = str(stage.get("status")) if alive else "unfinished"
        memory = number(stage.get("peak_memory_bytes")) or 0
        done, steps = stage.get("steps_done", 0), stage.get("steps", 0)
        steps_text = str(steps) if done == steps else f"{done}/{steps}"
        took = seconds(number(stage.get("seconds")) or 0.0) if done else ""
        rows.append([printable(name), steps_text, took, Text(printable(state), "dim"), size(memory) if memory else ""])
    columns = [Column("stage"), Column("steps", "right"), Column("time", "right"), Column(""), Column("memory", "right", drop=1)]
    print_table(console, columns, rows)


def _observers(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the observers with their accuracies on the real test images."""
    observers = facts.get("observers")
    if not isinstance(observers, dict) or not observers:
        return []
    return [("observers", ", ".join(f"{printable(name)} {number(top1) or 0.0:.2f} %" for name, top1 in observers.items()))]


def _condensed(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return number and size of the condensed images, and the size of stored labels."""
    condensed = facts.get("condensed")
    if not isinstance(condensed, dict) or not condensed:
        return []
    fields = [("images", f"{count(number(condensed.get('images')) or 0, 'image')}, {size(number(condensed.get('image_bytes')) or 0)}")]
    labels = number(condensed.get("label_bytes")) or 0
    each = number(condensed.get("bytes_per_label"))
    told = f"{size(labels)} of stored logits" + (f", {each:g} bytes each" if each else "")
    return [*fields, *([("labels", told)] if labels else [])]


def _equal_bytes(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the bytes of the teachers that are asked online, and how many real images take as many bytes as all that is needed."""
    kept, rows = facts.get("bytes"), _rows(facts.get("results"))
    teachers = number(kept.get("teachers")) if isinstance(kept, dict) else None
    images = next((found for row in rows if row.get("set") == "equal-bytes" and (found := number(row.get("images")))), None)
    fields = [("teachers", f"{size(teachers)}, which online labels need (4 bytes a weight)")] if teachers else []
    return [*fields, *([("equal bytes", f"{count(images, 'real image')} take as many")] if images else [])]


def _files(run: Run, facts: dict[str, Any]) -> list[Path]:
    """Return the files one comes for, where they exist."""
    folder = facts.get("condensed", {}).get("folder") if isinstance(facts.get("condensed"), dict) else None
    if not isinstance(folder, str):
        return []
    return [path for name in ("images.safetensors", "contact-sheet.png") if (path := run.folder / folder / name).is_file()]


def _print_files(console: "Console", paths: list[Path]) -> None:
    """Print each path on a line where the lines are long enough, else their folder and below it their names."""
    lines = [printable(path) for path in paths]
    if max(map(len, lines), default=0) > console.width:
        lines = [f"{printable(paths[0].parent)}/", *(f"  {path.name}" for path in paths)]
    for line in lines:
        console.print(line, soft_wrap=True)


def age(run: Run, now: float | None = None) -> float | None:
    """Return how many seconds ago a run was created, by its id; None for an id that tells no time."""
    created = _created(run.id)
    return None if created is None else (time.time() if now is None else now) - created


@cache
def _created(run_id: str) -> float | None:
    """Return when a run was created (unix seconds); kept, because a live list asks it of every run each second."""
    import calendar

    try:
        return calendar.timegm(time.strptime(run_id[:15], "%Y%m%d-%H%M%S"))
    except ValueError:
        return None
