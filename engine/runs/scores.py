"""DD-Ranking's scores (2505.13300) of a run's results: LRS, how little depends on soft labels, and ARS, how little on augmentation.

Both turn a difference of accuracies, as fractions in [-1, 1], into a number in [0, 1] by `(exp(x) - 1/e) / (e - 1/e)`. As good as random
real images is not one half but `AS_RANDOM`, about 0.269; and the weight between a score's two parts is arbitrary. So every part stands
beside its score, and the weight is swept.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.project.protocols import HARD, PUBLISHED

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # DD-Ranking's own is 0.5, of both scores

NO_FULL = 'the whole dataset with hard labels was not measured; add "full" to evaluate.controls'
NO_HARD = "the condensed set was not measured with hard labels; set evaluate.hard_labels = true"
NO_RANDOM = 'random real images were not measured with the same labels; add "random" to evaluate.controls'
WITHOUT = "measured without augmentation; set evaluate.without_augmentation = true"
NO_PLAIN, NO_PLAIN_RANDOM = f"the condensed set was not {WITHOUT}", f"random real images were not {WITHOUT}"


def score(difference: float) -> float:
    """Return the score of a (weighted) difference of accuracies, fractions: 0 at -1, about 0.269 at 0, and 1 at 1."""
    return (math.exp(difference) - math.exp(-1)) / (math.e - math.exp(-1))


AS_RANDOM = score(0.0)


@dataclass(frozen=True)
class Difference:
    """Of two results: the mean difference, and that of every seed that both were trained with."""

    mean: float
    by_seed: Mapping[int, float]

    def __neg__(self) -> "Difference":
        return Difference(-self.mean, {seed: -value for seed, value in self.by_seed.items()})


def scores(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the scores of every student and protocol among a summary's `results`, whose accuracies are in percent.

    `lrs` has the hard-label recovery gap `hlr` (whole dataset minus condensed set, hard labels; lower is better) and the improvement over
    random images `ior` (the method's own labels; higher is better): `score(w * ior - (1 - w) * hlr)`. `ars` has the improvement with
    and without augmentation: `score(w * augmented + (1 - w) * plain)`. All are fractions: mean, deviation (ddof 1) and n over the
    seeds that the results share; where they share none, n is 0 and the mean is that of the means. What cannot be had is None, and
    `missing` says which result is wanting.
    """
    table = {_name(row): row for row in rows}
    measured = dict.fromkeys((student, protocol) for set_name, student, protocol, *_ in table if set_name == "condensed")
    return [_of_student(table, student, protocol) for student, protocol in measured]


def _name(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a row is about; the rows of older summaries say neither protocol, labels nor augmentation."""
    return row.get("set"), row.get("student"), row.get("protocol", PUBLISHED), row.get("labels", ""), row.get("augmentation", True)


def _of_student(table: Mapping[tuple[Any, ...], Mapping[str, Any]], student: str, protocol: str) -> dict[str, Any]:
    regimes = [name[3] for name in table if name[:3] == ("condensed", student, protocol)]
    own = next((regime for regime in regimes if regime != HARD), HARD)  # hard labels alone are a method's own, too

    def row(set_name: str, labels: str, *, augmented: bool = True, of: str = protocol) -> Mapping[str, Any] | None:
        return table.get((set_name, student, of, labels, augmented))

    # The whole dataset is trained once, under the published protocol, and is the upper bound of both.
    full, hard = row("full", HARD, of=PUBLISHED), row("condensed", HARD)
    condensed, random = row("condensed", own), row("random", own)
    plain, plain_random = row("condensed", own, augmented=False), row("random", own, augmented=False)
    hlr, ior, without = difference(full, hard), difference(condensed, random), difference(plain, plain_random)
    lrs = {"hlr": _told(hlr), "ior": _told(ior), "by_weight": _swept(ior, None if hlr is None else -hlr)}
    ars = {"augmented": _told(ior), "plain": _told(without), "by_weight": _swept(ior, without)}
    return {
        "student": student,
        "protocol": protocol,
        "labels": own,
        "lrs": lrs | {"missing": _missing({NO_FULL: full, NO_HARD: hard, NO_RANDOM: random})},
        "ars": ars | {"missing": _missing({NO_RANDOM: random, NO_PLAIN: plain, NO_PLAIN_RANDOM: plain_random})},
    }


def _missing(wanted: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    return [sentence for sentence, row in wanted.items() if row is None]


def difference(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Difference | None:
    """Return the difference in top-1 between two rows as fractions, seed by seed where they share any; None where one is missing."""
    if one is None or other is None:
        return None
    first, second = _by_seed(one), _by_seed(other)
    shared = {seed: first[seed] - second[seed] for seed in first if seed in second}
    if not first or not second:
        return None
    return Difference(statistics.fmean(shared.values() if shared else [_mean(first) - _mean(second)]), shared)


def _by_seed(row: Mapping[str, Any]) -> dict[int, float]:
    return {seed: value / 100 for seed, value in zip(row["seeds"], row["top1"]["values"], strict=True)}


def _mean(values: Mapping[int, float]) -> float:
    return statistics.fmean(values.values())


def _swept(one: Difference | None, other: Difference | None) -> dict[str, dict[str, Any] | None]:
    """Return the score at each weight of the first part, the other having the rest; None where a part with a weight is missing."""
    return {f"{weight:g}": _score_at(weight, one, other) for weight in WEIGHTS}


def _score_at(weight: float, one: Difference | None, other: Difference | None) -> dict[str, Any] | None:
    weighted = [(share, part) for share, part in ((weight, one), (1 - weight, other)) if share]
    parts = [(share, part) for share, part in weighted if part is not None]
    if len(parts) < len(weighted):
        return None
    seeds = [seed for seed in parts[0][1].by_seed if all(seed in part.by_seed for _, part in parts)]
    values = [score(sum(share * part.by_seed[seed] for share, part in parts)) for seed in seeds]
    return _spread(values, score(sum(share * part.mean for share, part in parts)))


def _told(part: Difference | None) -> dict[str, Any] | None:
    return None if part is None else _spread(list(part.by_seed.values()), part.mean)


def _spread(values: Sequence[float], otherwise: float) -> dict[str, Any]:
    """Return mean, deviation (ddof 1) and number of values, rounded to a thousandth of a percent; without values a mean of means."""
    mean = statistics.fmean(values) if values else otherwise
    deviation = round(statistics.stdev(values), 5) if len(values) > 1 else None
    return {"mean": round(mean, 5), "std": deviation, "n": len(values)}
