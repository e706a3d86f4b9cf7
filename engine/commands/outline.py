"""What a project would do, stage by stage, before it is run: work, what is reused, disk, and time by past runs on this machine."""

from dataclasses import dataclass
from pathlib import Path

from engine.commands.request import in_cache, plan_here
from engine.project.plan import STAGES, Plan, Step
from engine.project.resolve import Resolved, flatten
from engine.runs.estimates import PastWork, estimate, past_work, work_of
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
    resumes: str | None  # id of the unfinished run that would go on

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
    past = past_work(projects)
    unfinished = latest_unfinished(projects, name, plan.fingerprint)
    source = plan.source
    return Outline(
        classes=len(source.classes),
        resolution=source.resolution,
        train_images=sum(source.train_counts),
        test_images=sum(source.test_counts),
        device=plan.device,
        precision=plan.precision,
        stages=tuple(_stage(stage, plan, cache, past) for stage in STAGES if any(step.stage == stage for step in plan.steps)),
        resumes=unfinished.id if unfinished else None,
    )


def _stage(stage: str, plan: Plan, cache: Path, past: list[PastWork]) -> StageOutline:
    steps = [step for step in plan.steps if step.stage == stage]
    to_do = [step for step in steps if not in_cache(step, cache)]
    times = [_seconds(step, plan, past) for step in to_do]
    images, iterations, size = (sum(step.cost.get(name, 0) for step in to_do) for name in ("images", "iterations", "bytes"))
    known = [time for time in times if time is not None]
    return StageOutline(stage, len(steps), len(steps) - len(to_do), images, iterations, size, sum(known), len(times) - len(known))


def _seconds(step: Step, plan: Plan, past: list[PastWork]) -> float | None:
    """Return how long a step takes by past runs; None where no past run is like it."""
    facts = {
        "data": plan.source.fingerprint,
        "classes": len(plan.source.classes),
        "resolution": plan.source.resolution,
        "device": plan.device,
        "precision": plan.precision,
    }
    return estimate(work_of(step.stage, step.name, flatten(plan.project.model_dump()), facts), past)
