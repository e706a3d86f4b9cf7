"""The tables of a sweep: what it would do, and what came out of it, one row for each point and student."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.commands.request import Request
from engine.commands.tables import Column, count, escape_markdown, make_console, percent, print_json, print_table, seconds, styled_status
from engine.project.sweep import Point, Sweep, said_value, short_keys
from engine.runs.events import number
from engine.runs.layout import Run, read_object
from engine.runs.results import headline
from engine.runs.status import run_status
from engine.runs.text import printable

FORMATS = ("table", "csv", "markdown", "json")
SETS = ("condensed", "random", "over random")
COUNTS = {"steps": 2, "cached": 3, "shared": 4, "own": 0}  # of a plan's steps: when a table that is too wide drops the column


@dataclass(frozen=True)
class Cell:
    """A point of a sweep with its project's request and the run that stands for it, once there is one."""

    point: Point
    request: Request
    run: Run | None


def result_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the facts of every point: its values, its run, and for each student the accuracies beside the published ones."""
    rows = []
    for cell in cells:
        summary = (read_object(cell.run.summary)[0] if cell.run else None) or {}
        status = run_status(cell.run.folder) if cell.run else None
        row: dict[str, Any] = {"project": cell.request.name, "point": cell.point.name or None, "values": cell.point.values}
        row |= {"run": cell.run.id if cell.run else None, "status": status.word if status else "to do"}
        row |= {"seconds": _seconds(summary), "computed_seconds": _seconds(summary, computed=True)}
        row |= {"results": _results(summary, cell.request)}
        rows.append(row)
    return rows


def _seconds(summary: dict[str, Any], *, computed: bool = False) -> float | None:
    """Return what the finished steps took whenever they were computed, or only those that this run computed; None before any is."""
    steps = summary.get("steps")
    done = [step for step in steps.values() if isinstance(step, dict) and step.get("status") == "done"] if isinstance(steps, dict) else []
    counted = [step for step in done if not (computed and step.get("reused"))]
    return round(sum(number(step.get("seconds")) or 0.0 for step in counted), 3) if done else None


def _results(summary: dict[str, Any], request: Request) -> list[dict[str, Any]]:
    from engine.project.published import held_against
    from engine.project.resolve import flatten

    published = {
        held.figure.student: held.figure.top1
        for held in held_against(flatten(request.resolved.project.model_dump()))
        if held.figure.set == "condensed"
    }
    rows = []
    for student in request.resolved.project.evaluate.students:
        row: dict[str, Any] = {"student": student}
        for set_name in ("condensed", "random"):
            one = headline(summary.get("results"), set_name, student)
            if one is not None:
                row[set_name] = one.get("top1")
                row |= {"over_random": one["over_random"]} if "over_random" in one else {}
        rows.append(row | ({"published": published[student]} if student in published else {}))
    return rows


def print_rows(sweep: Sweep, rows: list[dict[str, Any]], form: str) -> None:
    """Print the facts of every point in one of FORMATS."""
    if form == "json":
        _print_json(sweep, rows)
    elif form == "csv":
        _print_csv(sweep, rows)
    elif form == "markdown":
        _print_markdown(_columns(sweep, rows), _texts(sweep, rows, repeat=True))
    else:
        _print_table(sweep, rows)


def _print_json(sweep: Sweep, rows: list[dict[str, Any]]) -> None:
    print_json({"schema": 1, "sweep": sweep.path.stem, "file": str(sweep.path.absolute()), "points": rows})


def _columns(sweep: Sweep, rows: list[dict[str, Any]]) -> list[Column]:
    """Return the columns that `_texts` fills."""
    named, several = any(point.name for point in sweep.points), any(len(row["results"]) > 1 for row in rows)
    keys = [Column(label, drop=3 if named else 0) for label in short_keys(sweep.shown_keys)]
    head = [*([Column("point")] if named else []), *keys, *([Column("student")] if several else [])]
    measured = [Column(f"{name} %", "right") for name in (*SETS, "paper")]
    return [*head, *measured, Column("seconds", "right", drop=2), Column("run", drop=4), Column("")]


def _texts(sweep: Sweep, rows: list[dict[str, Any]], *, repeat: bool) -> list[list[str]]:
    """Return the cells of every line, one for each point and student; without `repeat` a point is said on its first line only."""
    named, several = any(point.name for point in sweep.points), any(len(row["results"]) > 1 for row in rows)
    lines = []
    for row in rows:
        values = [row["values"].get(name) for name in sweep.shown_keys]
        head = [*([row["point"] or ""] if named else []), *("" if value is None else said_value(value) for value in values)]
        took = "" if row["seconds"] is None else seconds(row["seconds"])
        tail = [took, row["run"] or "", "" if row["status"] == "done" else row["status"]]
        for index, result in enumerate(row["results"]):
            first = repeat or index == 0
            paper = "" if "published" not in result else f"{result['published']:.1f}"
            line = [*(head if first else [""] * len(head)), *([result["student"]] if several else [])]
            measured = [percent(result.get(name)) for name in ("condensed", "random")]
            line += [*measured, percent(result.get("over_random"), signed=True), paper, *(tail if first else [""] * len(tail))]
            lines.append(line)
    return lines


def _print_table(sweep: Sweep, rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    best = _best(rows)
    columns, lines = _columns(sweep, rows), []
    at = next(index for index, column in enumerate(columns) if column.header == "condensed %")
    places = [(row, result) for row in rows for result in row["results"]]
    for texts, (row, result) in zip(_texts(sweep, rows, repeat=False), places, strict=True):
        line: list[str | Text] = list(texts)
        if best.get(result["student"]) is result:
            line[at] = Text(texts[at], "bold")
        if texts[at + 2]:
            line[at + 2] = Text(texts[at + 2], "green" if texts[at + 2].startswith("+") else "red")
        line[-1] = styled_status(row["status"]) if texts[-1] else ""
        lines.append(line)
    print_table(make_console(), columns, lines)


def _best(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each student the result with the highest accuracy, where there are several."""
    best: dict[str, dict[str, Any]] = {}
    for result in (result for row in rows for result in row["results"]):
        mean = _mean(result.get("condensed"))
        if mean is not None and mean > (_mean(best.get(result["student"], {}).get("condensed")) or -1.0):
            best[result["student"]] = result
    return best if len(rows) > 1 else {}


def _mean(spread: object) -> float | None:
    return number(spread.get("mean")) if isinstance(spread, dict) else None


def _print_csv(sweep: Sweep, rows: list[dict[str, Any]]) -> None:
    """Print one line for each point and student, each number in a column of its own."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    named = any(point.name for point in sweep.points)
    measured = [f"{name}{part}" for name in ("condensed", "random", "over_random") for part in ("", ".std", ".n")]
    head = [*(["point"] if named else []), *sweep.shown_keys]
    writer.writerow([*head, "student", *measured, "published", "seconds", "project", "run", "status"])
    for row in rows:
        values = [row["values"].get(name) for name in sweep.shown_keys]
        start = [*([row["point"]] if named else []), *("" if value is None else printable(said_value(value)) for value in values)]
        for result in row["results"]:
            spreads = [result.get(name) if isinstance(result.get(name), dict) else {} for name in ("condensed", "random", "over_random")]
            numbers = [spread.get(part) for spread in spreads for part in ("mean", "std", "n")]
            end = [result.get("published"), row["seconds"], row["project"], row["run"], row["status"]]
            writer.writerow([*start, result["student"], *numbers, *end])


def _print_markdown(columns: Sequence[Column], lines: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table without the columns that are empty; the one without a header is the status."""
    used = [index for index in range(len(columns)) if any(line[index] for line in lines)]
    print("| " + " | ".join(columns[index].header or "status" for index in used) + " |")
    print("|" + "|".join(" ---: " if columns[index].justify == "right" else " --- " for index in used) + "|")
    for line in lines:
        print("| " + " | ".join(escape_markdown(printable(line[index])) for index in used) + " |")


def print_plan(sweep: Sweep, cells: Sequence[Cell], form: str) -> None:
    """Print the grid in one of FORMATS: which steps of each point are cached, which an earlier step makes too, and which are its own."""
    rows = _plan_rows(cells)
    values = [["" if (value := row["values"].get(name)) is None else said_value(value) for name in sweep.shown_keys] for row in rows]
    numbers = [[str(row[name]) for name in COUNTS] for row in rows]
    keys = [Column(label) for label in short_keys(sweep.shown_keys)]
    counts = [Column(name, "right", drop) for name, drop in COUNTS.items()]
    columns = [Column("project"), *keys, *counts, Column("run", drop=5), Column("")]
    named = zip(rows, values, numbers, strict=True)
    lines = [[row["project"], *said, *texts, row["run"] or "", row["status"]] for row, said, texts in named]
    if form == "json":
        _print_json(sweep, rows)
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["project", *sweep.shown_keys, *COUNTS, "run", "status"])
        writer.writerows([printable(text) for text in line] for line in lines)
    elif form == "markdown":
        _print_markdown(columns, lines)
    else:
        console = make_console()
        print_table(console, columns, [[*line[:-1], styled_status(line[-1])] for line in lines])
        console.print()
        total, own = (count(sum(row[name] for row in rows), "step") for name in ("steps", "own"))
        console.print(f"{count(len(rows), 'project')} of {total}: {own} to compute, the rest is shared or cached")


def _plan_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the facts of every point before it is run; its steps are counted, also those of it that are one and the same work."""
    seen: set[str] = set()
    rows = []
    for cell in cells:
        steps = cell.request.plan.steps
        missing = [step.fingerprint for step in steps if not cell.request.in_cache(step)]
        own = set(missing) - seen
        seen |= own
        counts = {"steps": len(steps), "cached": len(steps) - len(missing), "shared": len(missing) - len(own), "own": len(own)}
        row = {"project": cell.request.name, "point": cell.point.name or None, "values": cell.point.values, **counts}
        status = run_status(cell.run.folder).word if cell.run else "to do"
        rows.append(row | {"run": cell.run.id if cell.run else None, "status": status})
    return rows
