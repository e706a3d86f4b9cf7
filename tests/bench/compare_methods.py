"""Every method and the ladder CONFIG A to G on one dataset, from one squeeze and one set of statistics; one table at the end.

    python tests/bench/compare_methods.py                        random sre2l cda rded g-vbsm edc, config-a … config-g
    python tests/bench/compare_methods.py --compat               EDC with one defect of the reference release at a time, then all of them
    python tests/bench/compare_methods.py --compat --draws 0,1,2,3   the same over several draws of the starting images
    python tests/bench/compare_methods.py --only edc config-c --iterations 200 --set match.weight=0.1 --markdown

It writes one project for each row into the work folder and runs them through `edc run`, one after the other; started again, it goes on
where it was. Dataset, observers, squeeze, students and seeds are those of the project given with `--project`.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomlkit

from engine.commands.request import make_request
from engine.commands.tables import percent, seconds
from engine.errors import RunError, UserError
from engine.files import read_json
from engine.project.checks import combination_problems, has_effect, value_of
from engine.project.files import SCHEMA_VERSION, parse_override, read_values, working_resolution
from engine.project.resolve import Resolved, resolve, unflatten
from engine.project.schema import SECTIONS, keys
from engine.runs.layout import Run
from engine.runs.store import list_runs, read_run_toml
from engine.stages.summary import paired_difference, spread_facts

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("random", "sre2l", "cda", "rded", "g-vbsm", "edc")
LADDER = tuple(f"config-{letter}" for letter in "abcdefg")
SHARED = ("squeeze", "statistics")  # stages that all rows take from one computation
STOPPED = 75

# One defect of the reference release each, as docs/methods.md names them, and the keys that reproduce it; of those that the method files
# keep (`-meant`), the keys that do what was meant. Whole profiles come last; they keep the shared squeeze, which D10 alone would spoil.
DEFECTS: dict[str, dict[str, Any]] = {
    "D1-meant": {"initialise.shuffle_patches": 2},
    "D2": {"match.swap_class_patch": True},
    "D3": {"match.class_variance": "within_image"},
    "D4-off": {"flatness.kind": "off"},
    "D4-two-crop": {"flatness.kind": "two_crop", "flatness.weight": 1.0, "flatness.tau": 4.0, "flatness.reduction": "mean"},
    "D5": {"flatness.reduction": "mean"},
    "D6": {"match.ema_start": "zero"},
    "D7": {"evaluate.schedule": "linear_zeta"},
    "D8": {"match.double_global_conv": True},
    "D9": {"evaluate.ema_batchnorm": "online"},
    "D10": {"squeeze.checkpoint": "every10"},
    "D15": {"initialise.replacement": "always"},
    "D16": {"match.ema_reset": False},
    "D18": {"batch.statistics": 25},
    "D21": {"save.format": "jpeg", "save.quality": 75, "save.quantise": "truncate"},
    "D22-meant": {"evaluate.ce_target": "mixed"},
    "D38": {"evaluate.select": "best_on_test"},
    "S1": {"labels.teacher_batchnorm": "train"},
    "nuclear-norm": {"diversity.weight": 1.0, "diversity.tau": 4.0},
}
PROFILES = ("edc-head", "edc-9836066")


@dataclass(frozen=True)
class Entry:
    """A row of the table: its name, its method, whose evaluation it has (`common` or `own`), and what it changes (flat keys)."""

    name: str
    method: str
    recipe: str = "own"
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What the command line changes for all rows; `iterations` is a limit, 0 for none."""

    epochs: int = 400
    iterations: int = 0
    ipc: int | None = None
    seeds: tuple[int, ...] | None = None
    draw: int | None = None  # the seed of starting images and synthesis
    overrides: tuple[str, ...] = ()


def entries(*, recipe: str, compat: bool, only: Sequence[str] = ()) -> list[Entry]:
    """Return the rows asked for; raises UserError when `only` names none.

    `recipe` is `common`, `own` or `mixed`: one evaluation for the methods, its own for each step of the ladder, which changes it.
    """
    if compat:
        every = [Entry("fixed", "edc"), *(Entry(name, "edc", changes=changes) for name, changes in DEFECTS.items())]
        every += [Entry(name, "edc", changes={"condense.compat": name}) for name in PROFILES]
    else:
        every = [Entry(name, name, "own" if recipe == "own" else "common") for name in METHODS]
        every += [Entry(name, name, "common" if recipe == "common" else "own") for name in LADDER]
    names = [entry.name for entry in every]
    if wrong := [name for name in only if name not in names]:
        raise UserError(f"--only {wrong[0]}: choose among {' '.join(names)}")
    return [entry for entry in every if not only or entry.name in only or entry.name == "fixed"]


def base_values(project: Path, options: Options) -> dict[str, Any]:
    """Return the flat values that all rows share: data, observers, squeeze, statistics, students, seeds and epochs.

    What the project says of method, matching and synthesis is left out, and of its evaluation what makes a recipe.
    """
    given, _ = read_values(project)
    kept = {"evaluate.students", "evaluate.seeds", "evaluate.full_epochs", "evaluate.full_batch_size", "condense.ipc", "condense.seed"}
    values = {
        name: value
        for name, value in given.items()
        if name.partition(".")[0] in ("dataset", "observers", "squeeze", "statistics", "compute") or name in kept
    }
    shared = resolved_of(given | {"condense.method": "edc"}).project
    for section in SHARED:
        kept_values = {leaf: getattr(getattr(shared, section), leaf) for leaf in SECTIONS[section].model_fields}
        values |= {f"{section}.{leaf}": value for leaf, value in kept_values.items() if value is not None}
    values["evaluate.epochs"] = options.epochs
    if options.ipc is not None:
        values["condense.ipc"] = options.ipc
    if options.seeds is not None:
        values["evaluate.seeds"] = list(options.seeds)
    if options.draw is not None:
        values["condense.seed"] = options.draw
    return values


def common_recipe(project: Path, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat `labels.*` and `evaluate.*` values of EDC on this dataset, as the project changes them."""
    given, _ = read_values(project)
    recipe = {name: value for name, value in given.items() if name.partition(".")[0] in ("labels", "evaluate")}
    edc = resolved_of(recipe | dict(base) | {"condense.method": "edc"}).project
    return {name: value_of(edc, name) for name in keys() if name.partition(".")[0] in ("labels", "evaluate")}


def project_values(entry: Entry, base: Mapping[str, Any], recipe: Mapping[str, Any], options: Options, *, compat: bool) -> dict[str, Any]:
    """Return the flat values of a row's project, without those that have no effect in it."""
    values = dict(recipe) if entry.recipe == "common" else {}
    values |= dict(base) | {"condense.method": entry.method} | dict(entry.changes)
    values["evaluate.controls"] = [] if compat else ["random", "full"] if entry.method == "random" else ["random"]
    values |= dict(parse_override(item) for item in options.overrides)
    resolved = resolved_of(values).project
    if options.iterations and resolved.synthesise.enabled and resolved.synthesise.iterations > options.iterations:
        values["synthesise.iterations"] = options.iterations
    return {name: value for name, value in values.items() if has_effect(resolved, name)}


def resolved_of(values: Mapping[str, Any]) -> Resolved:
    """Resolve flat values; raises UserError with a line for each problem, except for keys without effect, which the caller drops."""
    given = {name: value for name, value in values.items() if name != "title"}
    resolved, problems = resolve(given, resolution=working_resolution(given))
    if resolved is not None:
        problems = [problem for problem in combination_problems(resolved) if has_effect(resolved.project, problem.key)]
    if resolved is None or problems:
        raise UserError("\n".join(f"{problem.key}: {problem.message}" for problem in problems))
    return resolved


def project_text(entry: Entry, values: Mapping[str, Any]) -> str:
    """Return the TOML text of a row's project."""
    head = {"schema": SCHEMA_VERSION, "title": f"{entry.name}, {entry.recipe} evaluation"}
    return tomlkit.dumps(head | unflatten(dict(values)))


def finished_run(projects: Path, name: str, fingerprint: str) -> Run | None:
    """Return a project's newest finished run of the same plan, or None."""
    for listing in list_runs(projects, name):
        if listing.status.word == "done" and listing.problem is None:
            frozen = read_run_toml(listing.run).get("frozen", {})
            if frozen.get("project_fingerprint") == fingerprint:
                return listing.run
    return None


def run_project(path: Path) -> int:
    """Run or resume a project through `edc run` and return its exit status; Ctrl-C reaches it as well and stops it with a checkpoint."""
    process = subprocess.Popen([sys.executable, "-m", "engine.cli", "run", str(path)], cwd=ROOT)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


@dataclass(frozen=True)
class Row:
    """What a run has found: spreads in percent (`mean`, `std` with ddof 1, `values`), seconds, and the student's updates."""

    name: str
    recipe: str
    top1: dict[str, Any]
    reference: dict[str, Any] | None
    difference: dict[str, Any] | None
    seconds: float
    updates: int


def result_of(summary: Mapping[str, Any], set_name: str) -> dict[str, Any] | None:
    """Return the result of a set (`condensed`, `random` or `full`) for the first student."""
    return next((result for result in summary["results"] if result["set"] == set_name), None)


def row_of(entry: Entry, summary: Mapping[str, Any], reference: Mapping[str, Any] | None) -> Row:
    """Return the row of a run, held against a result `reference` of the same seeds, or against nothing."""
    condensed = result_of(summary, "condensed")
    assert condensed is not None
    made = [summary["steps"].get(f"{stage}/condensed", {}).get("seconds", 0.0) for stage in ("initialise", "synthesise")]
    return Row(
        name=entry.name,
        recipe=entry.recipe,
        top1=condensed["top1"],
        reference=reference["top1"] if reference else None,
        difference=paired_difference(condensed, dict(reference)) if reference else None,
        seconds=sum(made),
        updates=condensed["updates"],
    )


def over_draws(rows: Sequence[Row]) -> Row:
    """Return a row whose spreads are over draws of the starting images: each draw counts with the mean of its students."""

    def means(spreads: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
        return None if None in spreads else spread_facts([found["mean"] for found in spreads if found])

    top1 = means([row.top1 for row in rows])
    assert top1 is not None
    return replace(rows[0], top1=top1, reference=means([row.reference for row in rows]), difference=means([row.difference for row in rows]))


def full_row(summary: Mapping[str, Any]) -> Row | None:
    """Return the row of the whole dataset, trained with hard labels, or None when the run has none."""
    full = result_of(summary, "full")
    return full and Row("full", "hard labels", full["top1"], None, None, 0.0, full["updates"])


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool, left: int = 1) -> str:
    """Lay rows of texts out below their header, aligned or as Markdown; the first `left` columns to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = [
        [cell.ljust(width) if column < left else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in padded)
    rule = ["-" * width if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def comparison(rows: Sequence[Row], *, compat: bool, markdown: bool) -> str:
    """Return the table of the rows."""
    if compat:
        header = ["defect", "keys", "top-1 %", "against fixed", "updates"]
        cells = [[row.name, _changes(row.name), percent(row.top1), percent(row.difference, signed=True), str(row.updates)] for row in rows]
        return table(header, cells, markdown=markdown, left=2)
    header = ["method", "evaluation", "top-1 %", "random, same evaluation", "difference", "images made in", "updates"]
    cells = [
        [
            row.name,
            row.recipe,
            percent(row.top1),
            percent(row.reference),
            percent(row.difference, signed=True),
            seconds(row.seconds) if row.seconds else "",
            str(row.updates),
        ]
        for row in rows
    ]
    return table(header, cells, markdown=markdown, left=2)


def _changes(name: str) -> str:
    """Return the keys that a row of the comparison of defects sets, as one writes them after `--set`."""
    changes = DEFECTS.get(name, {"condense.compat": name} if name in PROFILES else {})
    return " ".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in changes.items())


@dataclass(frozen=True)
class SharedStep:
    """A step of squeeze or statistics in a run: its fingerprint, and whether the run took it from the cache."""

    fingerprint: str
    reused: bool


def shared_steps(run: Run) -> dict[str, SharedStep]:
    """Return a finished run's steps of squeeze and statistics by id, from its summary and the records of the steps."""
    steps = read_json(run.summary)["steps"]
    return {
        name: SharedStep(read_json(run.stages / facts["folder"] / "done.json")["fingerprint"], facts["reused"])
        for name, facts in steps.items()
        if name.partition("/")[0] in SHARED
    }


def sharing(runs: Mapping[str, Mapping[str, SharedStep]]) -> tuple[list[str], bool]:
    """Say of every shared step which row computed it and how many reused it, and whether every row had the same one, computed once."""
    sentences, shared = [], True
    for step_id in sorted({step_id for steps in runs.values() for step_id in steps}):
        prints: dict[str, list[str]] = {}
        for name, steps in runs.items():
            if step_id in steps:
                prints.setdefault(steps[step_id].fingerprint, []).append(name)
        shared = shared and len(prints) == 1
        for number, names in enumerate(prints.values()):
            computed = [name for name in names if not runs[name][step_id].reused]
            shared = shared and len(computed) <= 1
            whence = f"computed by {', '.join(computed)}" if computed else "in the cache before"
            variant = f" (variant {number + 1} of {len(prints)}: {', '.join(names)})" if len(prints) > 1 else ""
            sentences.append(f"{step_id}{variant}: {whence}, reused by {len(names) - len(computed)} of {len(names)}")
    return sentences, shared


def conditions(summary: Mapping[str, Any], options: Options) -> str:
    """Say in a line under which conditions the table was made."""
    observers = ", ".join(f"{name} {accuracy:.1f} %" for name, accuracy in summary["observers"].items())
    seeds = ", ".join(map(str, result_of(summary, "condensed")["seeds"]))
    limit = f", at most {options.iterations} iterations" if options.iterations else ""
    return (
        f"{summary['dataset']}, {summary['ipc']} images per class, student {summary['results'][0]['student']}, {options.epochs} epochs, "
        f"seeds {seeds}{limit}; {summary['device']} {summary['precision']}; observers: {observers}"
    )


def run_all(chosen: Sequence[Entry], work: Path, project: Path, options: Options, *, compat: bool) -> tuple[dict[str, Run], int]:
    """Write and run the rows' projects one after the other; return the finished runs by row and the exit status.

    A row that fails does not keep the next ones from running; one that is stopped does. Raises UserError before anything is run when a
    project is wrong.
    """
    base = base_values(project, options)
    recipe = common_recipe(project, base)
    work.mkdir(parents=True, exist_ok=True)
    paths = {}
    draw = "" if options.draw is None else f"-draw{options.draw}"
    for entry in chosen:
        path = work / f"{'compat-' if compat else ''}{entry.name}{draw}.toml"
        path.write_text(project_text(entry, project_values(entry, base, recipe, options, compat=compat)), encoding="utf-8")
        paths[entry.name] = (path, make_request(path).plan.fingerprint)
    finished, status = {}, 0
    for number, (name, (path, fingerprint)) in enumerate(paths.items(), start=1):
        if finished_run(work, path.stem, fingerprint) is None:
            print(f"\n{number} of {len(paths)}: {name}", flush=True)
            ended = run_project(path)
            status = status or ended
            if ended == STOPPED:
                break
        if (run := finished_run(work, path.stem, fingerprint)) is not None:
            finished[name] = run
    return finished, status


def rows_of(chosen: Sequence[Entry], summaries: Mapping[str, Mapping[str, Any]], *, compat: bool) -> list[Row]:
    """Return the rows of the finished runs, and that of the whole dataset where it was trained on."""
    fixed = result_of(summaries["fixed"], "condensed") if "fixed" in summaries else None
    rows = []
    for entry in chosen:
        if entry.name in summaries:
            reference = None if entry.name == "fixed" else fixed if compat else result_of(summaries[entry.name], "random")
            rows.append(row_of(entry, summaries[entry.name], reference))
    if "random" in summaries and (full := full_row(summaries["random"])):
        rows.append(full)
    return rows


def report(
    chosen: Sequence[Entry], draws: Sequence[Mapping[str, Run]], options: Options, *, compat: bool, markdown: bool
) -> tuple[str, bool]:
    """Return the table of the finished rows with its conditions and what the rows shared, and whether they shared what they should.

    `draws` holds the finished runs by row, for each draw of the starting images; with several, a row needs all of them.
    """
    read = [{name: read_json(run.summary) for name, run in finished.items()} for finished in draws]
    summaries, finished = read[0], draws[0]
    by_draw = [{row.name: row for row in rows_of(chosen, each, compat=compat)} for each in read]
    names = [name for name in by_draw[0] if all(name in rows for rows in by_draw)]
    rows = [over_draws([rows[name] for rows in by_draw]) if len(draws) > 1 else by_draw[0][name] for name in names]
    apart = [entry.name for entry in chosen if any(name.partition(".")[0] in SHARED for name in entry.changes)]
    sentences, shared = sharing({name: shared_steps(run) for name, run in finished.items() if name not in apart})
    sentences += [f"{name} changes them by what it is, and has its own" for name in apart if name in finished]
    verdict = f"squeeze and statistics: {'the same in all rows, computed once' if shared else 'NOT the same in all rows'}"
    told = conditions(next(iter(summaries.values())), options)
    if len(draws) > 1:
        told += f"; mean and deviation over {len(draws)} draws of the starting images, each the mean of its seeds"
    parts = [comparison(rows, compat=compat, markdown=markdown), told]
    return "\n\n".join([*parts, "\n".join([verdict, *(f"  {sentence}" for sentence in sentences)])]), shared


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-methods", help="where projects and runs go (%(default)s)")
    recipe = ROOT / "projects" / "fashion-mnist-edc-ipc10.toml"
    parser.add_argument("--project", type=Path, default=recipe, help="whose data, observers, students and seeds (%(default)s)")
    parser.add_argument("--compat", action="store_true", help="EDC with the defects of the reference release instead of the methods")
    evaluations = "the evaluation: common to all rows, each row's own, or mixed (the default): the ladder's own, common to the others"
    parser.add_argument("--recipe", choices=("mixed", "common", "own"), default="mixed", help=evaluations)
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="only these rows")
    parser.add_argument("--epochs", type=int, default=Options.epochs, help="epochs of every student (%(default)s)")
    parser.add_argument("--iterations", type=int, default=Options.iterations, help="most iterations of a synthesis; 0 for the methods' own")
    parser.add_argument("--ipc", type=int, help="images per class")
    parser.add_argument("--seeds", type=lambda text: tuple(map(int, text.split(","))), metavar="N,N,…", help="seeds of the students")
    draws = "seeds of the starting images and of synthesis; with several, each row is run once a draw and spreads are over draws"
    parser.add_argument("--draws", type=lambda text: tuple(map(int, text.split(","))), default=(None,), metavar="N,N,…", help=draws)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a value for all rows; may be given again")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(given)


def main() -> int:
    """Run what the command line asks for and print the table; the exit status is that of `edc run`, 1 where rows share too little."""
    asked = arguments()
    options = Options(asked.epochs, asked.iterations, asked.ipc, asked.seeds, overrides=tuple(asked.set))
    work, project, draws, status = asked.work.absolute(), asked.project.absolute(), [], 0
    try:
        chosen = entries(recipe=asked.recipe, compat=asked.compat, only=asked.only)
        for draw in asked.draws:
            finished, ended = run_all(chosen, work, project, replace(options, draw=draw), compat=asked.compat)
            draws.append(finished)
            status = status or ended
            if ended == STOPPED:
                break
        if all(draws):
            text, shared = report(chosen, draws, options, compat=asked.compat, markdown=asked.markdown)
            print(f"\n{text}")
            status = status or (0 if shared else 1)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
