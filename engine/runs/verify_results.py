"""Findings about a run's results: how they stand to random and to chosen images, to noise, to the whole dataset, and to chance.

Accuracies are in percent; differences are paired seed by seed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.project.protocols import PUBLISHED
from engine.runs.events import number
from engine.runs.findings import FINE, LOOK, WRONG, Finding, listed
from engine.runs.layout import tables
from engine.runs.results import alike
from engine.runs.spread import Spread, spread
from engine.runs.text import printable

CHANCE_POINTS = 5.0  # that noise may lie above chance, and no more than chance itself
BEST_POINTS = 1.0  # by which the best on test may lie above the final measurement
STANDARD_ERRORS = 2.0
CHOSEN = ("initial", "easy", "medium", "herding", "k-center")  # controls that are real images, chosen; random has findings of its own

Row = Mapping[str, Any]  # of a summary's results


def of_results(rows: Sequence[Row], chance: float, values: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the findings about a run's result rows, each with a top-1; `values` are its flat settings, `chance` is in percent."""
    yield from of_floor(rows, chance, values)
    yield from of_best(rows, summary)
    yield from of_rates(rows, values.get("evaluate.search_learning_rates"))
    yield from of_whole(rows)
    yield from over_random(rows)
    yield from over_chosen(rows)
    yield from of_equal_bytes(rows)


def of_floor(rows: Sequence[Row], chance: float, values: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what labels teach on pure noise."""
    floors = [row for row in rows if row.get("set") == "noise"]
    if not floors and rows and values.get("evaluate.loss") != "ce":
        trains = values.get("labels.teacher_batchnorm") == "train"
        why = 'without it nothing tells what the labels teach alone; add "noise" to evaluate.controls'
        if trains:
            why = f"observers labelled by the batch's statistics, which teaches 42 % on the digits from pure noise; {why}"
        yield Finding("label floor", LOOK, "no noise control", why)
    for row in floors:
        floor, condensed = top1_of(row), top1_of(partner(rows, row, "condensed"))
        if floor is None:
            continue
        said = f"{_told(row)}: {floor.mean:.1f} % from pure noise; chance is {chance:.1f} %"
        best, margin = number(tables(row).get("best_on_test", {}).get("mean")) or floor.mean, min(CHANCE_POINTS, chance)
        if floor.mean <= chance + margin < best:
            why = "its best on test is nothing but the choice by test images: so much that choice adds to anything"
            yield Finding("label floor", LOOK, f"{said}, {best:.1f} % at its best on test", why)
        elif floor.mean <= chance + margin:
            yield Finding("label floor", FINE, said, "")
        elif condensed and floor.mean >= condensed.mean - STANDARD_ERRORS * _error(condensed):
            why = (
                f"the labels teach as much without the images as with them ({condensed.mean:.1f} %): the number says nothing of the images"
            )
            yield Finding("label floor", WRONG, said, why)
        else:
            yield Finding("label floor", LOOK, said, "so much of the accuracy comes from the labels whatever the images show")


def of_best(rows: Sequence[Row], summary: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield results whose best measurement on the test images lies far above the final one, or that are chosen so."""
    if summary.get("select") == "best_on_test":
        why = 'it flatters every method, the noisiest most; set evaluate.select = "last"'
        yield Finding("best on test", LOOK, "the headline is the best of all measurements on the test images", why)
        return
    far = []
    for row in (row for row in rows if row.get("set") != "noise"):  # whose best is told with the label floor
        best, final = number(tables(row).get("best_on_test", {}).get("mean")), top1_of(row)
        if best is not None and final and best > final.mean + BEST_POINTS:
            far.append(f"{row.get('set')} {_told(row)}: {best:.1f} % before the final {final.mean:.1f} %")
    if far:
        why = "the students forget towards the end: fewer epochs or another schedule; papers that print the best show the higher number"
        yield Finding("best on test", LOOK, listed(far), why)
    elif rows:
        yield Finding("best on test", FINE, "final measurements are within a point of the best", "")


def of_rates(rows: Sequence[Row], searched: object) -> Iterator[Finding]:
    """Yield whether a best learning rate is the smallest or the largest that was searched, beyond which a better one may lie."""
    rates = [rate for rate in searched if isinstance(rate, int | float)] if isinstance(searched, list) else []
    found = [rate for row in rows if (rate := number(row.get("learning_rate"))) is not None]
    if not rates or not found:
        return
    edges = {rate: found.count(rate) for rate in (min(rates), max(rates)) if rate in found}
    if edges:
        told = " and ".join(f"{rate:g} for {count}" for rate, count in edges.items())
        why = "better ones may lie beyond the smallest and the largest that were searched; widen evaluate.search_learning_rates"
        yield Finding("learning rate", LOOK, f"the best is at the edge of what was searched: {told} of {len(found)} results", why)
    else:
        yield Finding("learning rate", FINE, f"the best lies within the {len(rates)} searched for all {len(found)} results", "")


def of_whole(rows: Sequence[Row]) -> Iterator[Finding]:
    """Yield whether the whole dataset is the upper bound that it is taken for."""
    for row in rows:
        whole = top1_of(row) if row.get("set") == "full" else None
        parts = {str(other.get("set")): top1_of(other) for other in rows if other is not row and alike(row, other)}
        means = {name: part.mean for name, part in parts.items() if part is not None}
        if whole is None or not means:
            continue
        best = max(means, key=lambda name: means[name])
        said = f"{_told(row)}: {whole.mean:.1f} % from the whole dataset, {means[best]:.1f} % from {best}"
        if whole.mean < means[best]:
            why = "its training is too short to be an upper bound, so the gap to it says nothing; use more evaluate.full_epochs"
            yield Finding("whole dataset", LOOK, said, why)
        else:
            yield Finding("whole dataset", FINE, said, "")


def over_random(rows: Sequence[Row]) -> Iterator[Finding]:
    """Yield the paired difference of each condensed result to random real images, and whether chance explains it (t test, 95 %)."""
    for row in rows:
        if row.get("set") != "condensed":
            continue
        check, told, gain = "over random", _told(row), _values(row.get("over_random"))
        if gain is None:
            why = 'nothing tells what the method adds; add "random" to evaluate.controls'
            yield Finding(check, LOOK, f"{told}: random real images were not measured with the same labels", why)
            continue
        if gain.std is None:
            why = "one seed cannot tell a difference from chance; use at least 3 (5 at one image per class)"
            yield Finding(check, LOOK, f"{told}: {gain.mean:+.2f} points, one seed", why)
            continue
        margin = student_quantile(gain.n) * _error(gain)
        said = f"{told}: {gain.mean:+.2f} ± {gain.std:.2f} points over {gain.n} paired seeds; chance reaches {margin:.2f} (t test, 95 %)"
        if gain.mean > margin:
            yield Finding(check, FINE, said, "")
        elif gain.mean < -margin:
            yield Finding(check, LOOK, said, "random real images are better, by more than chance explains: the method does harm here")
        else:
            yield Finding(check, LOOK, said, "within chance: it cannot be told from random real images; more seeds may")


def over_chosen(rows: Sequence[Row]) -> Iterator[Finding]:
    """Yield the difference of each condensed result to the best of the merely chosen real images, and whether chance explains it."""
    for row in rows:
        gains = {name: gain for name in CHOSEN if (gain := paired_gain(row, partner(rows, row, name)))}
        if row.get("set") != "condensed" or not gains:
            continue
        name = min(gains, key=lambda name: gains[name].mean)
        gain, check = gains[name], "over coresets"
        best = f"{name}, the best of {len(gains)} choices of real images" if len(gains) > 1 else name
        margin = student_quantile(gain.n) * _error(gain) if gain.std is not None else math.inf
        reach = "" if gain.std is None else f"; chance reaches {margin:.2f} (t test, 95 %)"
        said = f"{_told(row)}: {_said_gain(gain)} against {best}{reach}"
        if gain.mean > margin:
            yield Finding(check, FINE, said, "")
        elif gain.mean < -margin:
            better = [other for other, one in gains.items() if one.mean < 0]
            why = f"images that are chosen, not made, teach more, by more than chance explains; higher on average: {listed(better)}"
            yield Finding(check, LOOK, said, why)
        else:
            yield Finding(check, LOOK, said, f"within chance: it cannot be told from {name}, which needs no optimisation; more seeds may")


def of_equal_bytes(rows: Sequence[Row]) -> Iterator[Finding]:
    """Yield whether the condensed set, labelled as serves it best, teaches more than real images with hard labels in the same bytes."""
    for row in (row for row in rows if row.get("set") == "equal-bytes"):
        rivals = [other for other in rows if other.get("set") == "condensed" and _same_training(row, other)]
        gains = [(gain, other) for other in rivals if (gain := paired_gain(other, row))]
        if not gains:
            continue
        gain, rival = max(gains, key=lambda pair: pair[0].mean)
        images = number(row.get("images"))
        many = f"{images:,.0f} real images" if images else "real images"
        said = f"{_told(rival)}: {_said_gain(gain)} against {many} with hard labels in the same bytes"
        why = "with its labels and teachers the set is no compression: the same bytes of real images teach more" if gain.mean < 0 else ""
        yield Finding("equal bytes", LOOK if why else FINE, said, why)


def _same_training(row: Row, other: Row) -> bool:
    """Say whether two rows are of one student under one protocol, whatever their labels."""
    return all(row.get(key) == other.get(key) for key in ("student", "protocol", "augmentation"))


def paired_gain(row: Row | None, other: Row | None) -> Spread | None:
    """Return the difference in top-1 of a row to another in percent points, over the seeds that both have; None where there are none."""
    if row is None or other is None:
        return None
    first, second = _by_seed(row), _by_seed(other)
    gains = [first[seed] - second[seed] for seed in first if seed in second]
    return spread(gains) if gains else None


def _by_seed(row: Row) -> dict[Any, float]:
    seeds, top1 = row.get("seeds"), row.get("top1")
    values = top1.get("values") if isinstance(top1, dict) else None
    return dict(zip(seeds, values, strict=False)) if isinstance(seeds, list) and isinstance(values, list) else {}


def _said_gain(gain: Spread) -> str:
    """Say a paired difference: `+2.39 ± 0.84 points over 3 paired seeds`."""
    deviation = "" if gain.std is None else f" ± {gain.std:.2f}"
    seeds = "one seed" if gain.n == 1 else f"{gain.n} paired seeds"
    return f"{gain.mean:+.2f}{deviation} points over {seeds}"


def partner(rows: Sequence[Row], row: Row, set_name: str) -> Row | None:
    """Return the row of another set that is otherwise about the same."""
    return next((other for other in rows if other.get("set") == set_name and alike(row, other)), None)


def top1_of(row: Row | None) -> Spread | None:
    """Return a row's top-1; None for no row, or one without."""
    return None if row is None else _values(row.get("top1"))


def _values(spread: object) -> Spread | None:
    """Return mean, deviation and number of values of a spread in a summary."""
    if not isinstance(spread, dict) or (mean := number(spread.get("mean"))) is None:
        return None
    values = spread.get("values")
    count = int(number(spread.get("n")) or (len(values) if isinstance(values, list) else 0))
    return Spread(mean, number(spread.get("std")), count)


def student_quantile(count: int) -> float:
    """Return how many standard errors a mean of `count` (2 or more) values may lie from zero by chance: Student's t, two-sided, 95 %."""
    from scipy.stats import t

    return float(t.ppf(0.975, count - 1))


def _error(spread: Spread) -> float:
    """Return the standard error of a mean; 0 where a single seed tells none."""
    return (spread.std or 0.0) / math.sqrt(max(spread.n, 1))


def _told(row: Row) -> str:
    """Say what a row is about beside its set: student, protocol, labels, and augmentation where there is none."""
    words = [row.get("student"), row.get("protocol", PUBLISHED), row.get("labels", "")]
    return " ".join(printable(word) for word in [*words, "" if row.get("augmentation", True) else "unaugmented"] if word)
