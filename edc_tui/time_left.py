"""How long the stage at work still takes, and how long the run: by its own rate, and by what like steps took on this machine before."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edc_tui.words import seconds_left
from engine.runs.estimates import PastWork, estimate, frozen_values, past_work, work_of
from engine.runs.events import number
from engine.runs.layout import tables

if TYPE_CHECKING:
    from edc_tui.feed import View

KEPT_SECONDS = 60.0  # how long what past runs tell is taken to be still all they tell
Estimate = Callable[[str, str, Mapping[str, Any]], float | None]  # seconds of a step, by its stage, its name and its summary


@dataclass(frozen=True)
class Left:
    """Seconds that the current stage and the whole run still take, None where that cannot be told."""

    stage: float | None = None
    run: float | None = None


def time_left(view: "View", by_past: Estimate) -> Left:
    """Return how long a run at work still takes.

    The step at work is judged by its rate, those behind it by like steps of the past; in its own stage, where there are none, by the
    steps that are done, else by the step at work. Of later stages every step must be known.
    """
    status = view.status
    here = seconds_left(status.done, status.total, status.rate)
    if not status.alive or here is None or status.stage not in view.stages:
        return Left()
    steps = view.steps(status.stage)
    took = [number(facts.get("seconds")) or 0.0 for facts in steps.values() if facts.get("status") == "done" and not facts.get("reused")]
    each = sum(took) / len(took) if took else status.total / status.rate  # seconds_left tells neither is zero
    known = [by_past(status.stage, name, steps[name]) for name in _waiting(steps) if name != status.step]
    stage = here + sum(each if seconds is None else seconds for seconds in known)
    stages, run = list(view.stages), stage
    for later in stages[stages.index(status.stage) + 1 :]:
        steps = view.steps(later)
        times = [by_past(later, name, steps[name]) for name in _waiting(steps)]
        if not steps or None in times:
            return Left(stage)
        run += sum(times)
    return Left(stage, run)


def _waiting(steps: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name for name, facts in steps.items() if facts.get("status") == "waiting"]


class PastTimes:
    """What the steps of a run will take by past runs of its projects folder on its machine, which are looked through once a minute."""

    def __init__(self, projects: Path) -> None:
        self._projects = projects
        self._past: list[PastWork] = []
        self._read = -KEPT_SECONDS
        self._known: dict[tuple[str, str], float | None] = {}

    def estimate(self, frozen: Mapping[str, Any], stage: str, name: str, told: Mapping[str, Any]) -> float | None:
        """Return the seconds that a step of the run with this run.toml will take; None when no past step is like it."""
        if time.monotonic() >= self._read + KEPT_SECONDS:
            host = tables(dict(frozen)).get("frozen", {}).get("host")  # a folder on a shared disk holds runs of other machines too
            self._past, self._read, self._known = past_work(self._projects, host=host), time.monotonic(), {}
        if (stage, name) not in self._known:
            self._known[stage, name] = estimate(work_of(stage, name, *frozen_values(frozen), told), self._past)
        return self._known[stage, name]
