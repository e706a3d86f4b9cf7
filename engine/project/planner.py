"""From a project to the ordered steps of its run, added one by one, each with the settings that its fingerprint covers."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.data.header import read_header
from engine.errors import UserError
from engine.files import digest
from engine.project.checks import has_effect, student_learning_rate, value_of
from engine.project.evaluations import Evaluation, evaluations, label_regime
from engine.project.label_storage import check_top_k, row_bytes
from engine.project.observers import SQUEEZE, weights_of, weights_settings
from engine.project.plan import STAGES, VERSIONS, Plan, Step
from engine.project.protocols import HARD, PUBLISHED
from engine.project.schema import SECTIONS, Project

if TYPE_CHECKING:
    from engine.data.sources import Source

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
CROPS = ("squeeze.padding", "squeeze.crop_scale", "squeeze.flip")  # how real images are varied
LABELS = ("labels.ensemble", "labels.teacher_batchnorm")
STORAGE = ("labels.dtype", "labels.storage", "labels.top_k")  # how labels are stored
# What says which students there are or which result is shown; a student's own learning rate takes the place of the usual one.
NOT_TRAINING = {
    *("students", "seeds", "controls", "full_epochs", "full_batch_size", "select", "student_learning_rates", "search_learning_rates"),
    *("protocol", "common_epochs", "common_teacher", "hard_labels", "without_augmentation"),
}
TRAINING = tuple(f"evaluate.{leaf}" for leaf in SECTIONS["evaluate"].model_fields if leaf not in NOT_TRAINING)

CORESETS = ("easy", "medium", "herding", "k-center")
UNTOLD = ("path",)  # settings that say where something lies; a fingerprint has its content

# Keys that came later, with the value that means what was done before them: at it a fingerprint leaves them out, so that what was
# computed without them still counts.
NEUTRAL = {
    "diversity.normalise": False,
    "labels.crop_mode": "fixed",
    "labels.padding": None,
    "labels.storage": "full",
    "labels.top_k": None,
    "evaluate.warmup_epochs": 0,
    "squeeze.crop_scale": None,
}


class Planner:
    """Collects steps; the pieces of a plan refer to each other by step id."""

    def __init__(self, project: Project, source: "Source", device: str, precision: str) -> None:
        self.project, self.source, self.device, self.precision = project, source, device, precision
        self.steps: dict[str, Step] = {}
        self.classes, self.side = len(source.classes), source.resolution
        self.mirror = source.mirror if project.dataset.mirror is None else project.dataset.mirror
        self.imported = read_header(Path(project.initialise.path or "")) if project.initialise.source == "files" else None
        self.everywhere = {
            "data": source.fingerprint,
            "classes": source.classes.digest,
            "resolution": source.resolution,
            "mirror": self.mirror,
            "device": device.partition(":")[0],
            "precision": precision,
        }

    def add(
        self,
        stage: str,
        name: str,
        settings: dict[str, Any],
        inputs: dict[str, Iterable[str]],
        facts: dict[str, Any] | None = None,
        **cost: int,
    ) -> str:
        """Add a step (once) and return its id."""
        step_id = f"{stage}/{name}"
        if step_id not in self.steps:
            settings = self.everywhere | settings
            roles = {role: tuple(ids) for role, ids in inputs.items()}
            prints = {role: [self.steps[other].fingerprint for other in ids] for role, ids in roles.items()}
            telling = {key: value for key, value in settings.items() if key not in UNTOLD and (key not in NEUTRAL or value != NEUTRAL[key])}
            fingerprint = digest({"stage": stage, "version": VERSIONS[stage], "settings": telling, "inputs": prints})
            self.steps[step_id] = Step(stage, name, settings, roles, fingerprint, cost, facts or {})
        return step_id

    def values(self, *names: str, project: Project | None = None) -> dict[str, Any]:
        """Return the flat values of keys in `project`, else the planner's; a bare section name stands for all of its keys.

        A key of labels or evaluate that has no effect is None, so that methods which differ in it alone share their controls.
        """
        expanded = (
            f"{name}.{leaf}" if name in SECTIONS else name
            for name in names
            for leaf in (SECTIONS[name].model_fields if name in SECTIONS else [""])
        )
        project = project or self.project
        return {
            name: value_of(project, name) if not name.startswith(("labels.", "evaluate.")) or has_effect(project, name) else None
            for name in expanded
        }

    def squeeze(self, observer: str) -> str:
        """Add the training of one observer, or the taking over of weights that it has from elsewhere."""
        if weights_of(self.project, observer) != SQUEEZE:
            return self.add("squeeze", observer, weights_settings(self.project, observer), {}, images=sum(self.source.test_counts))
        squeeze, images = self.project.squeeze, sum(self.source.train_counts)
        epochs = squeeze.epochs if squeeze.checkpoint == "last" else (squeeze.epochs - 1) // 10 * 10 + 1
        steps = epochs * steps_an_epoch(images, squeeze.batch_size)
        return self.add("squeeze", observer, self.values("squeeze") | {"observer": observer}, {}, images=epochs * images, iterations=steps)

    def statistics(self, observer: str) -> str:
        """Add the class tables of one observer."""
        settings = self.values("statistics", "match.layers", "match.patch_size", *CROPS, "squeeze.seed") | {"observer": observer}
        return self.add("statistics", observer, settings, {"observer": [self.squeeze(observer)]}, images=sum(self.source.train_counts))

    def needs_tables(self) -> bool:
        """Say whether matching needs more than the running statistics that batch-norm layers carry."""
        match = self.project.match
        return match.layers == "bn+conv" or match.w_class > 0

    def initialise(
        self, name: str, *, source: str, seed: int, final: bool, ipc: int | None = None, observer: str | None = None, **settings: Any
    ) -> str:
        """Add the choice of `ipc` starting images of each class; `observer` ranks them where the source asks one."""
        inputs: dict[str, list[str]] = {}
        ipc = ipc or self.project.condense.ipc
        values = {"source": source, "seed": seed, "ipc": ipc, "rded": None, "save": self.values("save") if final else None} | settings
        if source == "rded" or source in CORESETS:
            values["rded"] = self.values("rded") if source == "rded" else None
            values["observer"] = observer or self.project.observers.synthesis[0]
            inputs["scorer"] = [self.squeeze(values["observer"])]
        images = ipc * self.classes
        return self.add("initialise", name, values, inputs, images=images, bytes=images * 3 * self.side**2)

    def condensed(self) -> str:
        """Add the condensed set: the starting images and, where enabled, their optimisation."""
        project = self.project
        own = {"path": self.imported.path, "content": self.imported.fingerprint} if self.imported else {}
        start = self.initialise(
            "condensed",
            source=project.initialise.source,
            seed=project.condense.seed,
            final=not project.synthesise.enabled,
            replacement=project.initialise.replacement,
            flip=project.initialise.flip and self.mirror,
            shuffle_patches=project.initialise.shuffle_patches,
            **own,
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

    def images_of(self, set_name: str, seed: int) -> str | None:
        """Add the images of a set that a student is trained on; None where the set is none of its own."""
        real = {"source": "real", "replacement": "never", "flip": False, "shuffle_patches": 0, "final": False}
        if set_name == "condensed":
            return self.condensed()
        if set_name == "initial":
            self.condensed()
            return "initialise/condensed" if self.project.synthesise.enabled else None
        if set_name in CORESETS:
            return self.initialise(set_name, **real | {"source": set_name}, seed=0, observer=self.project.observers.labels[0])
        if set_name == "equal-bytes":
            return self.initialise(f"{set_name}-seed{seed}", **real, seed=seed, ipc=self.ipc_of_equal_bytes())
        return self.initialise(f"{set_name}-seed{seed}", **real | {"source": "noise" if set_name == "noise" else "real"}, seed=seed)

    def ipc_of_equal_bytes(self) -> int:
        """Return how many real images of each class fit in the bytes of the condensed images and of what their labels need."""
        needed = condensed_bytes(self.project, self.classes, self.side)
        room = sum(needed.values()) // (3 * self.side**2 * self.classes)
        return max(1, min(room, *self.source.train_counts))

    def relabel(self, name: str, images: str, seed: int, project: Project) -> str:
        """Add the stored logits of a set: of every epoch's views, or once of each image."""
        count = project.condense.ipc * self.classes
        inputs = {"images": [images], "observers": self.label_observers(project)}
        if project.labels.mode != "stored":
            settings = self.values(*LABELS, *STORAGE, project=project) | {"labels.mode": "fixed"}
            views = count
        else:
            settings = self.values(*VIEWS, *LABELS, *STORAGE, project=project) | {"seed": seed}
            views = count * project.evaluate.epochs
        settings |= {"observers": project.observers.labels}
        return self.add("relabel", name, settings, inputs, images=views, bytes=views * row_bytes(project.labels, self.classes))

    def label_observers(self, project: Project) -> list[str]:
        """Return the squeezes of the observers that label."""
        return [self.squeeze(name) for name in project.observers.labels]

    def evaluate(self, set_name: str, student: str, seed: int, evaluation: Evaluation) -> None:
        """Add the training and measuring of one student on a set of images, with a search of its learning rate where one is asked for."""
        images = self.images_of(set_name, seed)
        if images is None:
            return
        project, rates = evaluation.project, evaluation.project.evaluate.search_learning_rates
        settings = self.values(*VIEWS, *TRAINING, project=project) | {
            "evaluate.learning_rate": learning_rate(project, student),
            "set": set_name,
            "student": student,
            "seed": seed,
            "condense.ipc": self.steps[images].settings["ipc"] if set_name == "equal-bytes" else project.condense.ipc,
        }
        inputs = {"images": [images]}
        if evaluation.regime == HARD:
            settings["observers"] = []
        elif project.labels.mode == "online":
            inputs["observers"] = self.label_observers(project)
            settings |= self.values(*LABELS, project=project) | {"observers": project.observers.labels}
        else:
            if project.labels.mode != "stored":
                settings["labels.mode"] = "given" if project.labels.mode == "given" and set_name == "condensed" else "fixed"
            if settings.get("labels.mode") != "given":
                views = {"condensed": project.condense.seed, "initial": project.condense.seed, **dict.fromkeys(CORESETS, 0)}
                name = f"{set_name if set_name in views else f'{set_name}-seed{seed}'}{evaluation.suffix}"
                inputs["labels"] = [self.relabel(name, images, views.get(set_name, seed), project)]
        facts = {"set": set_name, "student": student, "seed": seed, "protocol": evaluation.protocol}
        facts |= {"labels": evaluation.regime, "augmentation": evaluation.augmented}
        name = f"{set_name}-{student}-seed{{seed}}{evaluation.suffix}"
        count, epochs = self.steps[images].cost["images"], project.evaluate.epochs
        cost = {"images": count * epochs, "iterations": epochs * steps_an_epoch(count, project.evaluate.batch_size)}
        if rates:
            inputs["search"] = self.search(name, settings, inputs, rates, facts, cost)
            settings |= {"evaluate.learning_rate": None, "evaluate.search_learning_rates": rates}
        self.add("evaluate", name.format(seed=seed), settings, inputs, facts, **cost)

    def search(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: dict[str, list[str]],
        rates: list[float],
        facts: dict[str, Any],
        cost: dict[str, int],
    ) -> list[str]:
        """Add a training for each learning rate, with the first seed, measured on training images that are kept out of the test."""
        seed = self.project.evaluate.seeds[0]
        found = []
        for rate in rates:
            own = {"evaluate.learning_rate": rate, "seed": seed, "measured_on": "validation"}
            told = facts | {"seed": seed, "search": rate}
            if settings["seed"] == seed:
                self.add("evaluate", f"{name.format(seed=seed)}-lr{rate:g}", settings | own, inputs, told, **cost)
            found.append(f"evaluate/{name.format(seed=seed)}-lr{rate:g}")
        return found

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
            *CROPS,
        )
        settings = self.values(*keys) | {"set": "full", "student": student, "seed": seed}
        settings["evaluate.learning_rate"] = learning_rate(self.project, student)
        facts = {"set": "full", "student": student, "seed": seed, "protocol": PUBLISHED, "labels": HARD, "augmentation": True}
        iterations = evaluate.full_epochs * steps_an_epoch(images, evaluate.full_batch_size)
        self.add("evaluate", f"full-{student}-seed{seed}", settings, {}, facts, images=evaluate.full_epochs * images, iterations=iterations)

    def evaluate_full_soft(self, student: str, seed: int) -> None:
        """Add the training of one student on the whole dataset with the observers' labels, asked online."""
        project, images = self.project, sum(self.source.train_counts)
        evaluate = project.evaluate
        settings = self.values(*VIEWS, *TRAINING, *LABELS) | {
            "evaluate.learning_rate": learning_rate(project, student),
            "evaluate.epochs": evaluate.full_epochs,
            "evaluate.batch_size": evaluate.full_batch_size,
            "observers": project.observers.labels,
            "set": "full",
            "student": student,
            "seed": seed,
            "labels.mode": "online",
        }
        facts = {"set": "full", "student": student, "seed": seed, "protocol": PUBLISHED, "labels": "online", "augmentation": True}
        cost = {"images": evaluate.full_epochs * images}
        cost["iterations"] = evaluate.full_epochs * steps_an_epoch(images, evaluate.full_batch_size)
        inputs = {"observers": self.label_observers(project)}
        self.add("evaluate", f"full-{student}-seed{seed}-soft", settings, inputs, facts, **cost)


def learning_rate(project: Project, student: str) -> float:
    """Return a student's peak learning rate, its own or the usual one."""
    return student_learning_rate(project, student) or project.evaluate.learning_rate


def condensed_bytes(project: Project, classes: int, side: int) -> dict[str, int]:
    """Return the bytes of the condensed images, of their stored labels, and of the teachers that online labels need (4 a weight).

    Raises UserError when a teacher is asked online whose number of weights is not known without building it.
    """
    from engine.models.registry import parameter_count

    teachers = project.observers.labels if label_regime(project) == "online" else []
    return _kept_bytes(project, classes, side) | {"teachers": 4 * sum(parameter_count(name, classes, side) for name in teachers)}


def estimated_bytes(project: Project, classes: int, side: int) -> dict[str, int | None]:
    """Return what `condensed_bytes` does, with None for the teachers where one is asked online whose number of weights is not known."""
    try:
        return condensed_bytes(project, classes, side)
    except UserError:
        return _kept_bytes(project, classes, side) | {"teachers": None}


def _kept_bytes(project: Project, classes: int, side: int) -> dict[str, int]:
    """Return the bytes of the condensed images and of the labels that are kept with them; those that came along are float32."""
    images = project.condense.ipc * classes
    views = {"epoch-soft": images * project.evaluate.epochs, "fixed-soft": images}.get(label_regime(project), 0)
    size = 4 * classes if project.labels.mode == "given" else row_bytes(project.labels, classes)
    return {"images": images * 3 * side**2, "labels": views * size}


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
    _check_images(project, source)
    _check_ipc(project, source)
    check_top_k(project.labels, len(source.classes))
    planner = Planner(project, source, device, precision)
    planner.condensed()
    evaluate = project.evaluate
    sets = ["condensed", *(name for name in evaluate.controls if not name.startswith("full"))]
    for student in evaluate.students:
        for evaluation in evaluations(project, student):
            for seed in evaluate.seeds:
                for set_name in filter(evaluation.takes, sets):
                    planner.evaluate(set_name, student, seed, evaluation)
        for seed in evaluate.seeds:
            if "full" in evaluate.controls:
                planner.evaluate_full(student, seed)
            if "full-soft" in evaluate.controls:
                planner.evaluate_full_soft(student, seed)
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


def _check_images(project: Project, source: "Source") -> None:
    """Refuse images of one's own that do not fit the dataset or the project."""
    if project.initialise.source != "files":
        return
    header = read_header(Path(project.initialise.path or ""))
    facts = [
        (header.classes == source.classes.names, f"its classes are not those of {source.name}, in that order"),
        (header.resolution == source.resolution, f"its images have {header.resolution} px, {source.name} has {source.resolution} px"),
        (header.ipc == project.condense.ipc, f"it has {header.ipc} images per class; set condense.ipc = {header.ipc}"),
        (header.soft_labels or project.labels.mode != "given", 'it has no soft labels of its own; use another labels.mode than "given"'),
    ]
    if wrong := [what for fits, what in facts if not fits]:
        raise UserError(f"initialise.path: {project.initialise.path}: {wrong[0]}")


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
