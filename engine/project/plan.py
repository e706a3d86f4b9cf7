"""The ordered steps of a run, each with its fingerprint, inputs, settings and cost; `engine.project.planner` makes them of a project.

A step is one piece of a stage that can be kept and shared by itself: one observer's squeeze, one student's training with one seed.
It sees only the settings that its fingerprint covers, so two steps with one fingerprint are the same work.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.files import digest
from engine.project.schema import Project

if TYPE_CHECKING:
    from engine.data.sources import Source

STAGES = ("squeeze", "statistics", "initialise", "synthesise", "relabel", "evaluate")
# Raised when a stage's code changes what it computes, so that results of the older code are not taken for it.
VERSIONS = {"squeeze": 1, "statistics": 1, "initialise": 1, "synthesise": 1, "relabel": 1, "evaluate": 1}


@dataclass(frozen=True)
class Step:
    """One piece of work: its stage, its name within the stage, what it depends on, and what it costs."""

    stage: str
    name: str
    settings: dict[str, Any]  # flat `section.key` values and a few of the plan's own (observer, student, seed, …)
    inputs: dict[str, tuple[str, ...]]  # role -> ids of the steps whose folders it reads
    fingerprint: str
    cost: dict[str, int]  # images, iterations and bytes, where they apply
    facts: dict[str, Any] = field(default_factory=dict)  # what its result is called; for evaluate: set, student, seed, protocol, labels, …

    @property
    def id(self) -> str:
        """Return `stage/name`."""
        return f"{self.stage}/{self.name}"

    @property
    def folder(self) -> str:
        """Return the step's folder below `stages/` of a run."""
        return f"{STAGES.index(self.stage) + 1}-{self.stage}/{self.name}"


def told(step: Step) -> dict[str, Any]:
    """Return what a summary tells of a step beside its state: for evaluate what its result is called and how many views it trains on."""
    return step.facts | ({"views": step.cost["images"]} if step.stage == "evaluate" else {})


@dataclass(frozen=True)
class Plan:
    """The ordered steps of a project on one dataset, device kind and precision."""

    project: Project
    source: "Source"
    device: str
    precision: str
    steps: tuple[Step, ...]

    @property
    def fingerprint(self) -> str:
        """Return the digest of all steps: two plans that share it are the same work."""
        return digest([step.fingerprint for step in self.steps])

    def step(self, step_id: str) -> Step:
        """Return the step of an id."""
        return next(step for step in self.steps if step.id == step_id)

    @property
    def condensed(self) -> Step | None:
        """Return the step whose images are the condensed set; None when the plan ends before it."""
        finals = [step for step in self.steps if step.name == "condensed" and step.stage in ("initialise", "synthesise")]
        return finals[-1] if finals and (finals[-1].stage == "synthesise" or not self.project.synthesise.enabled) else None
