"""Students by runs: how condensed sets do with networks that they were not made with (EDC section 4, cross-architecture)."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from engine.runs.compare import METRICS, OVER_RANDOM, Comparison, Group, Row
from engine.runs.results import set_place
from engine.runs.spread import Spread

MEASURES = (("condensed", "top1"), ("condensed", OVER_RANDOM), ("condensed", "top5"), ("random", "top1"), ("full", "top1"))


@dataclass(frozen=True)
class Entry:
    """A student's result in a column: mean and deviation, the difference to the baseline, whether it is the best of its row.

    `observer` says whether the student is one of the networks that the images were optimised with.
    """

    value: Spread
    delta: Spread | None = None
    best: bool = False
    observer: bool = False


@dataclass(frozen=True)
class Matrix:
    """Students by columns in one measure, and for each column the mean over the students that all columns have measured."""

    measure: tuple[str, str]  # (set, metric)
    students: tuple[str, ...]
    entries: tuple[tuple[Entry | None, ...], ...]
    means: tuple[float | None, ...]
    shared: int  # students that all columns have measured


def measures(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the (set, metric) pairs that any column has measured, the usual ones first."""
    found = {(row.name[0], row.name[2]) for row in comparison.rows if row.kind == "results"}
    others = sorted(found - set(MEASURES), key=lambda pair: (set_place(pair[0]), pair[1]))
    return [pair for pair in MEASURES if pair in found] + [pair for pair in others if pair[1] in METRICS]


def accuracies(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the measures that are a top-1, one for each set and evaluation."""
    return sorted((pair for pair in measures(comparison) if pair[1] == "top1"), key=lambda pair: set_place(pair[0]))


def cross_architecture(comparison: Comparison, measure: tuple[str, str]) -> Matrix:
    """Return every student's results in one measure, in percent, column by column."""
    rows = [row for row in comparison.rows if row.kind == "results" and (row.name[0], row.name[2]) == measure]
    shared = [row for row in rows if all(cell is not None for cell in row.cells)]
    count = len(comparison.groups)
    means = [statistics.fmean(_means(shared, index)) if len(shared) > 1 else None for index in range(count)]
    entries = tuple(tuple(_entry(row, group, index) for index, group in enumerate(comparison.groups)) for row in rows)
    return Matrix(measure, tuple(row.name[1] for row in rows), entries, tuple(means), len(shared))


def _means(rows: Sequence[Row], index: int) -> list[float]:
    return [cell.value.mean for row in rows if (cell := row.cells[index]) is not None]


def _entry(row: Row, group: Group, index: int) -> Entry | None:
    cell = row.cells[index]
    if cell is None:
        return None
    observers = group.runs[0].values.get("observers.synthesis")
    optimised = group.runs[0].values.get("synthesise.enabled", True) is not False
    return Entry(cell.value, cell.delta, cell.best, optimised and isinstance(observers, list) and row.name[1] in observers)
