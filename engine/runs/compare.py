"""Runs side by side: in which settings they differ, what they measured, what they cost, and how far they are from printed figures.

Everything here is plain data in and plain data out; `read_facts` alone reads files. Accuracies are in percent, times in seconds, sizes
in bytes. The curves of a run are in `engine.runs.curves`.
"""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.project.published import Figure, changed_settings, held_against
from engine.runs.events import number
from engine.runs.layout import Run, read_object
from engine.runs.results import base_set, headlines, own_regimes, result_name, set_place
from engine.runs.spread import Spread, spread
from engine.runs.status import run_status
from engine.runs.store import read_run_toml

SEEDS = ("condense.seed", "evaluate.seeds")  # runs that differ in these alone are one column
# What says nothing about a result: titles, places, machines. Of [frozen] only what a result depends on counts.
IGNORED = re.compile(
    r"schema|title|dataset\.root|condense\.published|compute\..*|frozen\.(?!(data_fingerprint|resolution|device|precision)$).*", re.DOTALL
)
METRICS = ("top1", "top5", "best_on_test")
OVER_RANDOM = "over_random"
OF_THE_RUN = ("condensed", "initial")  # sets that follow from condense.seed
TOTAL = "total"  # of all stages' seconds
BYTES = ("images", "labels", "peak_memory")

Better = Literal["up", "down"]
Pair = tuple[int | None, int | None]  # condense.seed and the training's seed, by which measurements of two runs belong together


class Absent:
    """Stands where a run has no value: it lacks the key (MISSING), or the key has no effect in it (IDLE)."""

    def __init__(self, word: str) -> None:
        self.word = word

    def __repr__(self) -> str:
        return self.word


MISSING, IDLE = Absent("missing"), Absent("idle")


@dataclass(frozen=True)
class Facts:
    """What a comparison needs to know of a run: `values` is run.toml in dotted keys, `summary` is summary.json, {} without one."""

    run: str
    project: str
    folder: str
    status: str
    values: dict[str, Any]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Group:
    """A column: one run, or several that differ in nothing but their seeds.

    `values` holds, for each key, the distinct values of its runs; `measured` each (set, student, metric) by pair of seeds.
    """

    label: str
    runs: tuple[Facts, ...]
    values: dict[str, tuple[Any, ...]]
    measured: dict[tuple[str, str, str], dict[Pair, float]]


@dataclass(frozen=True)
class Setting:
    """A key with its values in every column: a tuple of the distinct values of its runs, MISSING or IDLE."""

    key: str
    cells: tuple[Any, ...]
    differs: bool  # between columns, and worth showing by default


@dataclass(frozen=True)
class Cell:
    """A number of a column; `delta` is its signed difference to the baseline, over paired seeds where seeds pair up."""

    value: Spread
    delta: Spread | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A number in every column, None where there is none.

    `name` is (set, student, metric) for results, (stage,) for seconds, (what,) for bytes. `better` is the direction that is known to be
    better; controls have none, for a run is not better by what it is held against.
    """

    kind: Literal["results", "seconds", "bytes"]
    name: tuple[str, ...]
    better: Better | None
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Gap:
    """A column's mean top-1 beside a printed figure; `changed` are keys in which the run departs from its method."""

    group: int
    figure: Figure
    named: bool
    measured: Spread
    gap: float
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; the baseline, if any, is the first group."""

    groups: tuple[Group, ...]
    baseline: bool
    settings: tuple[Setting, ...]
    rows: tuple[Row, ...]
    gaps: tuple[Gap, ...] = ()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested tables into dotted keys; a key that holds a dot itself is quoted, an empty table stays as a value.

    A table in a section is the value of a key; only in [frozen] it is one of further keys.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = prefix + (f'"{name}"' if "." in name else name)
        if isinstance(value, Mapping) and value and (not prefix or prefix.startswith("frozen.")):
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def read_facts(run: Run) -> Facts:
    """Read what a comparison needs of a run, finished or not; raises UserError when its run.toml cannot be read."""
    values = flatten(read_run_toml(run))
    summary, _ = read_object(run.summary)
    return Facts(run.id, run.project, str(run.folder), run_status(run.folder).word, values, summary or {})


def _without_effect(values: Mapping[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the keys that change nothing in a run, and those of them that belong to optimising images where none are optimised.

    No keys at all for a run.toml with values that this version does not know.
    """
    from engine.project.checks import in_use, of_optimisation
    from engine.project.resolve import validate
    from engine.project.schema import keys

    project, _ = validate({name: values[name] for name in keys() if name in values})
    if project is None:
        return frozenset(), frozenset()
    idle = frozenset(name for name in keys() if not in_use(project, name))
    return idle, frozenset(name for name in idle if not project.synthesise.enabled and of_optimisation(project, name))


def compare(runs: Sequence[Facts], *, baseline: Facts | None = None) -> Comparison:
    """Compare runs (each once, in the order given); the baseline's column comes first, whether or not it is among them."""
    ordered = list({facts.folder: facts for facts in ([baseline] if baseline else []) + list(runs)}.values())
    regimes = own_regimes(row for facts in ordered for row in _objects(facts.summary.get("results")))
    groups = group_runs(ordered, regime=len(regimes) > 1)
    against = groups[0] if baseline else None
    rows = [*_result_rows(groups, against), *_cost_rows(groups, against)]
    return Comparison(tuple(groups), against is not None, tuple(_settings(groups)), tuple(rows), tuple(published_gaps(groups)))


def group_runs(runs: Sequence[Facts], *, regime: bool = False) -> list[Group]:
    """Group runs that differ in nothing but their seeds, in order of their first run; `regime` names the labels of every result.

    Runs that say different things of the same seeds are kept apart: something differs that no setting tells.
    """
    members: list[list[Facts]] = []
    keys: list[dict[str, Any]] = []
    for facts in runs:
        key = {name: value for name, value in facts.values.items() if name not in SEEDS and not IGNORED.fullmatch(name)}
        fits = (index for index, other in enumerate(keys) if other == key and not _contradict(members[index], facts))
        index = next(fits, None)
        if index is None:
            members.append([facts])
            keys.append(key)
        else:
            members[index].append(facts)
    return [_group(label, group, regime=regime) for label, group in zip(_labels(members), members, strict=True)]


def _labels(members: Sequence[Sequence[Facts]]) -> list[str]:
    """Name columns by project, with the run's id where a project has several, and `+1` for one further run in the column."""
    projects = [group[0].project for group in members]
    labels = []
    for group, project in zip(members, projects, strict=True):
        first = group[0].run
        others = [other[0].run for other in members if other[0].project == project]
        short = first[-4:] if sum(other[-4:] == first[-4:] for other in others) == 1 else first
        further = f" +{len(group) - 1}" if len(group) > 1 else ""
        labels.append((project if projects.count(project) == 1 else f"{project}/{short}") + further)
    return labels


def _group(label: str, runs: Sequence[Facts], *, regime: bool) -> Group:
    values = {key: _distinct(facts.values[key] for facts in runs if key in facts.values) for facts in runs for key in facts.values}
    return Group(label, tuple(runs), values, _merged(runs, regime=regime))


def _distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    """Return values without repetition, in order where they have one; unlike a set's, they need not be hashable."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    try:
        return tuple(sorted(found))
    except TypeError:
        return tuple(found)


def measurements(facts: Facts, *, regime: bool = False) -> dict[tuple[str, str, str], dict[Pair, float]]:
    """Return what a run measured: (set, student, metric) -> pair of seeds -> percent, with the gain over random where both are there.

    A set under another evaluation than the method's own is named after it (`engine.runs.results`).
    """
    found: dict[tuple[str, str, str], dict[Pair, float]] = {}
    seed_of_set = facts.values.get("condense.seed")
    for row in _objects(facts.summary.get("results")):
        set_name, student, seeds = str(row.get("set")), str(row.get("student")), row.get("seeds")
        # A control has no condensed set, so its seed is that of its training alone.
        first = seed_of_set if set_name in OF_THE_RUN and isinstance(seed_of_set, int) else None
        set_name = result_name(row, regime=regime)
        for metric in METRICS:
            values = row[metric].get("values") if isinstance(row.get(metric), dict) else None
            if isinstance(values, list) and isinstance(seeds, list) and len(values) == len(seeds):
                percents = {(first, seed): finite(value) for seed, value in zip(seeds, values, strict=True) if isinstance(seed, int)}
                pairs = {pair: percent for pair, percent in percents.items() if percent is not None}
                found |= {(set_name, student, metric): pairs} if pairs else {}
    return found | _over_random(found)


def _objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list, or the values of an object, that come from a file and may be anything."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, dict)]


def finite(value: object) -> float | None:
    """Return a JSON value as a number; None for what is none, or not finite."""
    found = number(value)
    return found if found is not None and math.isfinite(found) else None


def _over_random(measured: Mapping[tuple[str, str, str], dict[Pair, float]]) -> dict[tuple[str, str, str], dict[Pair, float]]:
    """Return the gain of the condensed set over random real images, training seed by training seed."""
    gains = {}
    for (set_name, student, metric), pairs in measured.items():
        control = measured.get((set_name.replace("condensed", "random", 1), student, "top1"), {})
        if (base_set(set_name), metric) == ("condensed", "top1"):
            shared = {(first, seed): value - control[None, seed] for (first, seed), value in pairs.items() if (None, seed) in control}
            if shared:
                gains[set_name, student, OVER_RANDOM] = shared
    return gains


def _merged(runs: Iterable[Facts], *, regime: bool) -> dict[tuple[str, str, str], dict[Pair, float]]:
    """Return the measurements of several runs; what two of them have is counted once."""
    merged: dict[tuple[str, str, str], dict[Pair, float]] = {}
    for facts in runs:
        for name, pairs in measurements(facts, regime=regime).items():
            merged[name] = pairs | merged.get(name, {})
    return merged | _over_random(merged)


def _contradict(runs: Sequence[Facts], facts: Facts) -> bool:
    """Say whether a run has another accuracy of its condensed set than one of `runs` for the same seeds."""
    mine = measurements(facts)
    return any(
        base_set(name[0]) == "condensed"
        and name[2] in METRICS
        and any(pairs[pair] != mine[name][pair] for pair in pairs.keys() & mine[name].keys())
        for other in runs
        for name, pairs in measurements(other).items()
        if name in mine
    )


def difference(values: Mapping[Pair, float], baseline: Mapping[Pair, float]) -> Spread:
    """Return the mean difference to a baseline and its deviation over the pairs of seeds that both have.

    Where no seeds pair up it is the difference of the means, without a deviation and with n = 0.
    """
    shared = [values[pair] - baseline[pair] for pair in values if pair in baseline]
    if shared:
        return spread(shared)
    return Spread(statistics.fmean(values.values()) - statistics.fmean(baseline.values()), None, 0)


def _settings(groups: Sequence[Group]) -> list[Setting]:
    """Return every key of any run in the order of run.toml; a run that optimises no images is not compared in how that is done."""
    effects = [_without_effect(group.runs[0].values) for group in groups]
    settings = []
    for key in dict.fromkeys(key for group in groups for key in group.values):
        cells = tuple(
            MISSING if key not in group.values else IDLE if key in idle else group.values[key]
            for group, (idle, _) in zip(groups, effects, strict=True)
        )
        counted = [cell for cell, (_, unasked) in zip(cells, effects, strict=True) if key not in unasked]
        differs = any(cell != counted[0] for cell in counted[1:])
        settings.append(Setting(key, cells, differs and not IGNORED.fullmatch(key)))
    return settings


def _result_rows(groups: Sequence[Group], baseline: Group | None) -> list[Row]:
    """Return a row for each (set, student, metric), student by student."""
    names = {name for group in groups for name in group.measured}
    students = list(dict.fromkeys(student for group in groups for _, student, _ in group.measured))
    metrics = (*METRICS[:1], OVER_RANDOM, *METRICS[1:])

    def place(name: tuple[str, str, str]) -> tuple[Any, ...]:
        return students.index(name[1]), set_place(name[0]), metrics.index(name[2])

    rows = []
    for name in sorted(names, key=place):
        better: Better | None = "up" if base_set(name[0]) == "condensed" else None
        against = baseline.measured.get(name) if baseline else None
        cells = [_result_cell(group, name, None if group is baseline else against) for group in groups]
        rows.append(Row("results", name, better, _with_best(cells, better)))
    return rows


def _result_cell(group: Group, name: tuple[str, str, str], baseline: Mapping[Pair, float] | None) -> Cell | None:
    values = group.measured.get(name)
    if values is None:
        return None
    return Cell(spread(list(values.values())), difference(values, baseline) if baseline else None)


def _cost_rows(groups: Sequence[Group], baseline: Group | None) -> list[Row]:
    """Return seconds of every finished stage and of all together, and the bytes of what was made and of the most memory taken."""
    from engine.project.plan import STAGES

    order = [*STAGES, TOTAL, *BYTES]
    rows = []
    for kind, costs in (("seconds", [_seconds(group) for group in groups]), ("bytes", [_bytes(group) for group in groups])):
        names = dict.fromkeys(what for cost in costs for what in cost)
        for what in sorted(names, key=lambda name: order.index(name) if name in order else -1):
            of_baseline = costs[0].get(what) if baseline else None
            cells: list[Cell | None] = []
            for index, cost in enumerate(costs):
                delta = None
                if what in cost and of_baseline and index:
                    delta = Spread(statistics.fmean(cost[what]) - statistics.fmean(of_baseline), None, 0)
                cells.append(Cell(spread(cost[what]), delta) if what in cost else None)
            rows.append(Row(kind, (what,), "down", _with_best(cells, "down")))
    return rows


def _seconds(group: Group) -> dict[str, list[float]]:
    """Return the seconds of stages and their total, a value for each run that has finished them, whenever they were computed."""
    found: dict[str, list[float]] = {}
    total: list[float] = []
    for facts in group.runs:
        stages = facts.summary.get("stages")
        stages = stages if isinstance(stages, dict) else {}
        finished = {name: stage for name, stage in stages.items() if isinstance(stage, dict) and stage.get("status") == "done"}
        took = {name: finite(stage.get("seconds")) for name, stage in finished.items()}
        done = {name: seconds for name, seconds in took.items() if seconds is not None}
        for name, seconds in done.items():
            found.setdefault(name, []).append(seconds)
        if done and len(done) == len(stages):
            total.append(sum(done.values()))
    return found | ({TOTAL: total} if total else {})


def _bytes(group: Group) -> dict[str, list[float]]:
    """Return the bytes of images and stored labels, and the most memory that a stage took, a value for each run."""
    found: dict[str, list[float]] = {}
    for facts in group.runs:
        condensed = facts.summary.get("condensed")
        condensed = condensed if isinstance(condensed, dict) else {}
        peaks = [finite(stage.get("peak_memory_bytes")) for stage in _objects(facts.summary.get("stages"))]
        most = max((peak for peak in peaks if peak), default=None)
        sizes = finite(condensed.get("image_bytes")), finite(condensed.get("label_bytes")), most
        for what, count in zip(BYTES, sizes, strict=True):
            if count is not None:
                found.setdefault(what, []).append(count)
    return found


def _with_best(cells: Sequence[Cell | None], better: Better | None) -> tuple[Cell | None, ...]:
    """Mark the best cells of a row, as far as two columns differ at all in what is known to be better."""
    means = [cell.value.mean for cell in cells if cell is not None]
    if better is None or len(set(means)) < 2:
        return tuple(cells)
    best = max(means) if better == "up" else min(means)
    return tuple(cell and Cell(cell.value, cell.delta, cell.value.mean == best) for cell in cells)


def published_gaps(groups: Sequence[Group]) -> list[Gap]:
    """Return every printed figure that a column is held against and has measured, with the signed gap in percent points."""
    gaps = []
    for index, group in enumerate(groups):
        values = group.runs[0].values
        for held in held_against(values):
            figure = held.figure
            measured = _headline(group, figure.set, figure.student)
            if measured:
                value = spread(list(measured.values()))
                changed = tuple(changed_settings(values, figure)) if figure.set == "condensed" else ()
                gaps.append(Gap(index, figure, held.named, value, value.mean - figure.top1, changed))
    return gaps


def _headline(group: Group, set_name: str, student: str) -> dict[Pair, float] | None:
    """Return the top-1 of a set in a column under the method's own evaluation, whatever its labels are called."""
    rows = [row for facts in group.runs for row in headlines(facts.summary.get("results"), set_name) if row.get("student") == student]
    names = [result_name(row, regime=regime) for row in rows for regime in (False, True)]
    return next((group.measured[key] for name in names if (key := (name, student, "top1")) in group.measured), None)


def as_json(comparison: Comparison, *, every: bool = False) -> dict[str, Any]:
    """Return a comparison as JSON values: the settings that differ (all with `every`), results, seconds, bytes and published figures.

    A key that a run lacks is left out of its column's `settings`, one without effect in it is listed under `unused`.
    """
    shown = [setting for setting in comparison.settings if every or setting.differs]
    columns = []
    for index, group in enumerate(comparison.groups):
        cells = {setting.key: setting.cells[index] for setting in shown}
        columns.append(
            {
                "label": group.label,
                "project": group.runs[0].project,
                "runs": [{"run": facts.run, "status": facts.status, "folder": facts.folder} for facts in group.runs],
                "baseline": comparison.baseline and index == 0,
                "settings": {key: cell[0] if len(cell) == 1 else {"each": list(cell)} for key, cell in cells.items() if _is_held(cell)},
                "unused": [key for key, cell in cells.items() if cell is IDLE],
                "results": [
                    {"set": row.name[0], "student": row.name[1], "metric": row.name[2], **_cell_json(row.cells[index])}
                    for row in comparison.rows
                    if row.kind == "results" and row.cells[index]
                ],
                **{
                    kind: {row.name[0]: _cell_json(row.cells[index]) for row in comparison.rows if row.kind == kind and row.cells[index]}
                    for kind in ("seconds", "bytes")
                },
                "published": [gap_json(gap) for gap in comparison.gaps if gap.group == index],
            }
        )
    return {"schema": 1, "columns": columns}


def _is_held(cell: Any) -> bool:
    return not isinstance(cell, Absent)


def _cell_json(cell: Cell | None) -> dict[str, Any]:
    if cell is None:
        return {}
    return {**cell.value.as_json(), **({"delta": cell.delta.as_json()} if cell.delta else {}), "best": cell.best}


def gap_json(gap: Gap) -> dict[str, Any]:
    """Return a published figure and the gap to it as JSON values."""
    figure = gap.figure
    return {
        "name": figure.name,
        "table": figure.table,
        "method": figure.method,
        "dataset": figure.dataset,
        "ipc": figure.ipc,
        "set": figure.set,
        "student": figure.student,
        "top1": figure.top1,
        "std": figure.std,
        "measured": gap.measured.as_json(),
        "gap": round(gap.gap, 6),
        "named": gap.named,
        "changed": list(gap.changed),
    }
