"""The metrics of a run as curves of few points, for plots."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.runs.events import read_all, read_metrics
from engine.runs.layout import Run
from engine.runs.results import STEP

LIMIT = 400


@dataclass(frozen=True)
class Curve:
    """A metric over the steps of one piece of a stage: iterations of synthesise, epochs of evaluate.

    `set`, `student` and `seed` say whose training it is, and are None outside evaluate; `ending` is empty for the method's own
    evaluation. `values` may hold NaN and infinities.
    """

    stage: str
    step: str
    metric: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    set: str | None = None
    student: str | None = None
    seed: int | None = None
    ending: str = ""


def curves(run: Run, *, limit: int = LIMIT) -> list[Curve]:
    """Read the metrics of all stages of a run, in the order of the stages; each curve has at most `limit` points."""
    found = []
    for path in sorted(run.stages.glob("*/*/metrics.jsonl")):
        stage, step = path.parent.parent.name.partition("-")[2], path.parent.name
        rows = read_metrics(read_all(path))
        evaluation = STEP.fullmatch(step) if stage == "evaluate" else None
        whose: dict[str, Any] = {}
        if evaluation:
            whose = {"set": evaluation[1], "student": evaluation[2], "seed": int(evaluation[3]), "ending": evaluation[4] or ""}
        for metric in dict.fromkeys(metric for row in rows for metric in row.values):
            points = reduced(_forwards((row.step, row.values[metric]) for row in rows if metric in row.values), limit)
            found.append(Curve(stage, step, metric, tuple(step for step, _ in points), tuple(value for _, value in points), **whose))
    return found


def _forwards(points: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """Keep what still holds after resumes: a point at a step that was passed supersedes what came from there on.

    This goes by metric, since a stage tells its losses later than its accuracies.
    """
    kept: list[tuple[int, float]] = []
    for point in points:
        while kept and kept[-1][0] >= point[0]:
            kept.pop()
        kept.append(point)
    return kept


def reduced(points: Sequence[tuple[int, float]], limit: int = LIMIT) -> list[tuple[int, float]]:
    """Return at most `limit` (5 or more) points: the first, the last, and of each stretch between the lowest and the highest.

    A stretch with values that are not finite keeps the first of them, so that a curve that diverged shows it.
    """
    if len(points) <= limit:
        return list(points)
    inner = points[1:-1]
    finite = [math.isfinite(value) for _, value in inner]
    stretches = (limit - 2) // (2 if all(finite) else 3)
    kept = [points[0]]
    for index in range(stretches):
        part = range(index * len(inner) // stretches, (index + 1) * len(inner) // stretches)
        ordered = sorted((place for place in part if finite[place]), key=lambda place: inner[place][1])
        lost = next((place for place in part if not finite[place]), None)
        chosen = {*ordered[:1], *ordered[-1:]} | (set() if lost is None else {lost})
        kept += [inner[place] for place in sorted(chosen)]
    return [*kept, points[-1]]
