"""What a project would do, stage by stage, before it is run: work, what is reused, disk, and time by past runs on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.commands.cautions import machine_of, step_times
from engine.commands.request import in_cache, plan_here
from engine.project.plan import STAGES, Step
from engine.project.resolve import Resolved
from engine.project.warnings import Warning, warnings
from engine.runs.store import latest_unfinished
from engine.stages.cache import cache_folder


@dataclass(frozen=True)
class StageOutline:
    """One stage of a plan; images, iterations, bytes and seconds are of the steps that are still to do."""

    stage: str
    steps: int
    reused: int
    images: int
    iterations: int
    bytes: int
    seconds: float  # of the steps that are like some past one
    unknown: int  # steps to do that no past run is like


@dataclass(frozen=True)
class Outline:
    """A plan in short."""

    classes: int
    resolution: int
    train_images: int
    test_images: int
    device: str
    precision: str
    stages: tuple[StageOutline, ...]
    resumes: str | None
    warnings: tuple[Warning, ...] = ()  # id of the unfinished run that would go on

    @property
    def steps(self) -> int:
        """Return the number of all steps."""
        return sum(stage.steps for stage in self.stages)

    @property
    def reused(self) -> int:
        """Return how many steps the cache holds."""
        return sum(stage.reused for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Return how long the steps take that are like some past one."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def unknown(self) -> int:
        """Return how many steps to do no past run is like."""
        return sum(stage.unknown for stage in self.stages)

    @property
    def bytes(self) -> int:
        """Return what images and stored labels of the steps to do take on the disk."""
        return sum(stage.bytes for stage in self.stages)


def outline(resolved: Resolved, *, projects: Path, name: str) -> Outline:
    """Plan a project of the folder `projects` and look up what the cache and past runs say of it.

    Reads the dataset's files once where they are not known yet. Raises Misfit naming the key whose value does not fit this machine.
    """
    cache = cache_folder(projects)
    plan = plan_here(resolved, cache=cache)
    unfinished = latest_unfinished(projects, name, plan.fingerprint)
    source = plan.source
    to_do = [step for step in plan.steps if not in_cache(step, cache)]
    times = step_times(plan, to_do, projects)
    stages = []
    for stage in STAGES:
        steps = sum(step.stage == stage for step in plan.steps)
        if steps:
            stages.append(_stage(stage, steps, [step for step in to_do if step.stage == stage], times))
    return Outline(
        classes=len(source.classes),
        resolution=source.resolution,
        train_images=sum(source.train_counts),
        test_images=sum(source.test_counts),
        device=plan.device,
        precision=plan.precision,
        stages=tuple(stages),
        resumes=unfinished.id if unfinished else None,
        warnings=tuple(warnings(plan, machine_of(plan, projects, times))),
    )


def _stage(stage: str, steps: int, to_do: Sequence[Step], times: Mapping[str, float | None]) -> StageOutline:
    """Sum up a stage of so many steps; `times` has the seconds of those to do by their ids, None where no past run is like one."""
    images, iterations, size = (sum(step.cost.get(name, 0) for step in to_do) for name in ("images", "iterations", "bytes"))
    known = [time for step in to_do if (time := times[step.id]) is not None]
    return StageOutline(stage, steps, steps - len(to_do), images, iterations, size, sum(known), len(to_do) - len(known))
