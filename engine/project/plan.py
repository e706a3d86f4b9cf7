"""From a project to the ordered steps of its run, each with its fingerprint, inputs, settings and cost.

A step is one piece of a stage that can be kept and shared by itself: one observer's squeeze, one student's training with one seed.
It sees only the settings that its fingerprint covers, so two steps with one fingerprint are the same work.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.files import digest
from engine.project.checks import has_effect, student_learning_rate, value_of
from engine.project.schema import SECTIONS, Project

if TYPE_CHECKING:
    from engine.data.sources import Source

STAGES = ("squeeze", "statistics", "initialise", "synthesise", "relabel", "evaluate")
# Raised when a stage's code changes what it computes, so that results of the older code are not taken for it.
VERSIONS = {"squeeze": 1, "statistics": 1, "initialise": 1, "synthesise": 1, "relabel": 1, "evaluate": 1}

# What trains a student and what shows it its images; stored labels hang on the second alone.
VIEWS = (
    "labels.crop_mode",
    "labels.crop_scale",
    "labels.padding",
    "labels.flip",
    "labels.mix",
    "evaluate.batch_size",
    "evaluate.epochs",
    "evaluate.randaugment",
    "evaluate.shuffle_patches",
)
LABELS = ("labels.ensemble", "labels.teacher_batchnorm")
# What says which students there are or which result is shown; a student's own learning rate takes the place of the usual one.
NOT_TRAINING = {"students", "seeds", "controls", "full_epochs", "full_batch_size", "select", "student_learning_rates"}
TRAINING = tuple(f"evaluate.{leaf}" for leaf in SECTIONS["evaluate"].model_fields if leaf not in NOT_TRAINING)

# Keys that came later, with the value that means what was done before them: at it a fingerprint leaves them out, so that what was
# computed without them still counts.
NEUTRAL = {
    "diversity.normalise": False,
    "labels.crop_mode": "fixed",
    "labels.padding": None,
    "evaluate.warmup_epochs": 0,
}


@dataclass(frozen=True)
class Step:
    """One piece of work: its stage, its name within the stage, what it depends on, and what it costs."""

    stage: str
    name: str
    settings: dict[str, Any]  # flat `section.key` values and a few of the plan's own (observer, student, seed, …)
    inputs: dict[str, tuple[str, ...]]  # role -> ids of the steps whose folders it reads
    fingerprint: str
    cost: dict[str, int]  # images, iterations and bytes, where they apply

    @property
    def id(self) -> str:
        """Return `stage/name`."""
        return f"{self.stage}/{self.name}"

    @property
    def folder(self) -> str:
        """Return the step's folder below `stages/` of a run."""
        return f"{STAGES.index(self.stage) + 1}-{self.stage}/{self.name}"


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


class _Planner:
    """Collects steps; the pieces of a plan refer to each other by step id."""

    def __init__(self, project: Project, source: "Source", device: str, precision: str) -> None:
        self.project, self.source, self.device, self.precision = project, source, device, precision
        self.steps: dict[str, Step] = {}
        self.classes, self.side = len(source.classes), source.resolution
        self.mirror = source.mirror if project.dataset.mirror is None else project.dataset.mirror
        self.everywhere = {
            "data": source.fingerprint,
            "classes": source.classes.digest,
            "resolution": source.resolution,
            "mirror": self.mirror,
            "device": device.partition(":")[0],
            "precision": precision,
        }

    def add(self, stage: str, name: str, settings: dict[str, Any], inputs: dict[str, Iterable[str]], **cost: int) -> str:
        """Add a step (once) and return its id."""
        step_id = f"{stage}/{name}"
        if step_id not in self.steps:
            settings = self.everywhere | settings
            roles = {role: tuple(ids) for role, ids in inputs.items()}
            prints = {role: [self.steps[other].fingerprint for other in ids] for role, ids in roles.items()}
            telling = {key: value for key, value in settings.items() if key not in NEUTRAL or value != NEUTRAL[key]}
            fingerprint = digest({"stage": stage, "version": VERSIONS[stage], "settings": telling, "inputs": prints})
            self.steps[step_id] = Step(stage, name, settings, roles, fingerprint, cost)
        return step_id

    def values(self, *names: str) -> dict[str, Any]:
        """Return the flat values of keys; a bare section name stands for all of its keys.

        A key of labels or evaluate that has no effect is None, so that methods which differ in it alone share their controls.
        """
        expanded = (
            f"{name}.{leaf}" if name in SECTIONS else name
            for name in names
            for leaf in (SECTIONS[name].model_fields if name in SECTIONS else [""])
        )
        return {
            name: value_of(self.project, name) if not name.startswith(("labels.", "evaluate.")) or has_effect(self.project, name) else None
            for name in expanded
        }

    def squeeze(self, observer: str) -> str:
        """Add the training of one observer."""
        squeeze, images = self.project.squeeze, sum(self.source.train_counts)
        epochs = squeeze.epochs if squeeze.checkpoint == "last" else (squeeze.epochs - 1) // 10 * 10 + 1
        steps = epochs * steps_an_epoch(images, squeeze.batch_size)
        return self.add("squeeze", observer, self.values("squeeze") | {"observer": observer}, {}, images=epochs * images, iterations=steps)

    def statistics(self, observer: str) -> str:
        """Add the class tables of one observer."""
        settings = self.values("statistics", "match.layers", "match.patch_size", "squeeze.padding", "squeeze.flip", "squeeze.seed") | {
            "observer": observer
        }
        return self.add("statistics", observer, settings, {"observer": [self.squeeze(observer)]}, images=sum(self.source.train_counts))

    def needs_tables(self) -> bool:
        """Say whether matching needs more than the running statistics that batch-norm layers carry."""
        match = self.project.match
        return match.layers == "bn+conv" or match.w_class > 0

    def initialise(self, name: str, *, source: str, seed: int, final: bool, **settings: Any) -> str:
        """Add the choice of `ipc` starting images of each class."""
        inputs: dict[str, list[str]] = {}
        values = {
            "source": source,
            "seed": seed,
            "ipc": self.project.condense.ipc,
            "rded": None,
            "save": self.values("save") if final else None,
        } | settings
        if source == "rded":
            values["rded"] = self.values("rded")
            inputs["scorer"] = [self.squeeze(self.project.observers.synthesis[0])]
            values["observer"] = self.project.observers.synthesis[0]
        images = self.project.condense.ipc * self.classes
        return self.add("initialise", name, values, inputs, images=images, bytes=images * 3 * self.side**2)

    def condensed(self) -> str:
        """Add the condensed set: the starting images and, where enabled, their optimisation."""
        project = self.project
        start = self.initialise(
            "condensed",
            source=project.initialise.source,
            seed=project.condense.seed,
            final=not project.synthesise.enabled,
            replacement=project.initialise.replacement,
            flip=project.initialise.flip and self.mirror,
            shuffle_patches=project.initialise.shuffle_patches,
        )
        if not project.synthesise.enabled:
            return start
        inputs = {"images": [start], "observers": [self.squeeze(name) for name in project.observers.synthesis]}
        if self.needs_tables():
            inputs["tables"] = [self.statistics(name) for name in project.observers.synthesis]
        settings = self.values(
            "match",
            "flatness",
            "diversity",
            "prior",
            "augment",
            "batch",
            "synthesise",
            "save",
            "observers.rotation",
            "condense.ipc",
            "condense.seed",
        )
        images, batch = project.condense.ipc * self.classes, project.batch
        if batch.order == "one_per_class":
            settings["batch.size"] = min(batch.size or self.classes, self.classes)  # what it comes to
            batches = project.condense.ipc * batch_count(self.classes, size=batch.size, statistics=batch.statistics)
        else:
            batches = batch_count(images, size=batch.size, statistics=batch.statistics)
        return self.add(
            "synthesise",
            "condensed",
            settings | {"observers": project.observers.synthesis},
            inputs,
            images=images,
            iterations=batches * project.synthesise.iterations,
            bytes=images * 3 * self.side**2,
        )

    def relabel(self, name: str, images: str, seed: int) -> str:
        """Add the stored logits of every epoch's views of a set."""
        count, epochs = self.project.condense.ipc * self.classes, self.project.evaluate.epochs
        size = 2 if self.project.labels.dtype == "float16" else 4
        settings = self.values(*VIEWS, *LABELS, "labels.dtype") | {"observers": self.project.observers.labels, "seed": seed}
        return self.add(
            "relabel",
            name,
            settings,
            {"images": [images], "observers": self.label_observers()},
            images=count * epochs,
            bytes=count * epochs * self.classes * size,
        )

    def label_observers(self) -> list[str]:
        """Return the squeezes of the observers that label."""
        return [self.squeeze(name) for name in self.project.observers.labels]

    def learning_rate(self, student: str) -> float:
        """Return a student's peak learning rate, its own or the usual one."""
        return student_learning_rate(self.project, student) or self.project.evaluate.learning_rate

    def evaluate(self, set_name: str, images: str, student: str, seed: int) -> None:
        """Add the training and measuring of one student on a set of images."""
        project = self.project
        count, epochs = project.condense.ipc * self.classes, project.evaluate.epochs
        settings = self.values(*VIEWS, *TRAINING) | {
            "evaluate.learning_rate": self.learning_rate(student),
            "set": set_name,
            "student": student,
            "seed": seed,
            "condense.ipc": project.condense.ipc,
        }
        inputs = {"images": [images]}
        if project.evaluate.loss == "ce":
            settings["observers"] = []
        elif project.labels.mode == "stored":
            stored = set_name if set_name == "condensed" else f"{set_name}-seed{seed}"
            inputs["labels"] = [self.relabel(stored, images, project.condense.seed if set_name == "condensed" else seed)]
        else:
            inputs["observers"] = self.label_observers()
            settings |= self.values(*LABELS) | {"observers": project.observers.labels}
        self.add(
            "evaluate",
            f"{set_name}-{student}-seed{seed}",
            settings,
            inputs,
            images=count * epochs,
            iterations=epochs * steps_an_epoch(count, project.evaluate.batch_size),
        )

    def evaluate_full(self, student: str, seed: int) -> None:
        """Add the training of one student on the whole dataset with hard labels."""
        evaluate, images = self.project.evaluate, sum(self.source.train_counts)
        keys = (
            "evaluate.full_epochs",
            "evaluate.full_batch_size",
            "evaluate.optimizer",
            "evaluate.learning_rate",
            "evaluate.weight_decay",
            "evaluate.momentum",
            "squeeze.padding",
            "squeeze.flip",
        )
        settings = self.values(*keys) | {"set": "full", "student": student, "seed": seed}
        settings["evaluate.learning_rate"] = self.learning_rate(student)
        iterations = evaluate.full_epochs * steps_an_epoch(images, evaluate.full_batch_size)
        self.add("evaluate", f"full-{student}-seed{seed}", settings, {}, images=evaluate.full_epochs * images, iterations=iterations)


def steps_an_epoch(images: int, size: int) -> int:
    """Return how many batches of `size` an epoch has; a last image alone is no batch of its own, since batch norm cannot train on it."""
    return images // size if 1 < size < images and images % size == 1 else -(-images // size)


def batch_count(images: int, *, size: int, statistics: int) -> int:
    """Return how many batches are optimised one after the other: images that fill no whole statistics batch make one of their own."""
    whole, rest = divmod(images, size or images)
    lengths = [(size or images, whole), (rest, 1 if rest else 0)]
    return sum(times * (2 if length % min(statistics or length, length) else 1) for length, times in lengths if times)


def make_plan(project: Project, source: "Source", *, device: str, precision: str, until: str = STAGES[-1]) -> Plan:
    """Return the ordered steps of a project up to and including the stage `until`.

    `device` and `precision` are resolved (never `auto`). Raises UserError when the dataset has too few images of a class.
    """
    _check_ipc(project, source)
    planner = _Planner(project, source, device, precision)
    images = planner.condensed()
    for student in project.evaluate.students:
        for seed in project.evaluate.seeds:
            planner.evaluate("condensed", images, student, seed)
            if "random" in project.evaluate.controls:
                drawn = planner.initialise(
                    f"random-seed{seed}", source="real", seed=seed, final=False, replacement="never", flip=False, shuffle_patches=0
                )
                planner.evaluate("random", drawn, student, seed)
            if "full" in project.evaluate.controls:
                planner.evaluate_full(student, seed)
    steps = sorted(_until(planner.steps.values(), until), key=lambda step: STAGES.index(step.stage))
    return Plan(project, source, device, precision, tuple(steps))


def _until(steps: Collection[Step], until: str) -> list[Step]:
    """Return the steps up to and including the stage `until`; after squeeze without observers that would only label in later stages."""
    last = STAGES.index(until)
    asking = max(last, STAGES.index("synthesise"))
    asked = {step_id for step in steps if STAGES.index(step.stage) <= asking for ids in step.inputs.values() for step_id in ids}
    return [
        step for step in steps if STAGES.index(step.stage) <= last and (step.stage != "squeeze" or until == "squeeze" or step.id in asked)
    ]


def _check_ipc(project: Project, source: "Source") -> None:
    """Refuse more images per class than the smallest class has, or than RDED can tile from its crops (one of an image)."""
    smallest = min(range(len(source.classes)), key=lambda index: source.train_counts[index])
    count, ipc = source.train_counts[smallest], project.condense.ipc
    crops = project.rded.factor**2 if project.initialise.source == "rded" else 1
    if ipc * crops > count:
        name = source.classes.names[smallest]
        tiled = f" of {crops} crops" if crops > 1 else ""
        right = f"use at most {count // crops}" if count >= crops else "lower rded.factor"
        raise UserError(
            f"condense.ipc: {ipc} images{tiled} per class, but class {name!r} of {source.name} has {count} training images; {right}"
        )
