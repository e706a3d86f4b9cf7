"""Settings of a plan that are allowed and yet known to fail or to mislead: each in one sentence of what, why, and what would be right.

Sources are named as in the schema; what is said of the digits was measured with small networks on scikit-learn's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import UserError
from engine.models.registry import activation_count, normalisation, parameter_count
from engine.project.checks import has_effect
from engine.project.evaluations import label_regime
from engine.project.inactive import inactive_terms
from engine.project.plan import Plan, Step
from engine.project.planner import estimated_bytes
from engine.project.protocols import HARD

SHORT_UPDATES = 200  # fewer leave a student of this field far from what its images can teach
LONG_SECONDS = 3600.0
EMA_SHARE = 10  # an average may look back over a tenth of the training
COLLAPSING_EMA = 0.999
ERASING_RATE = 0.25
TILED_SIDE = 32  # px up to which tiles of half a side lose what an image shows
NEARLY_EQUAL = 1.1  # classes whose counts differ by less are balanced
SEEDS, SEEDS_AT_IPC_1 = 3, 5
RESIDENT_BYTES = 2 << 30  # real images up to this size are held in memory
TRAINED_COPIES = 4  # of a network's weights while it is trained: gradients and two momenta beside them
COPIES = 5  # of a batch at work: pixels, their gradient, two momenta of Adam, their average
FLOAT = 4  # bytes
UNITS = ("KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Warning:
    """What is said against a `section.key` as the project has it, in one sentence."""

    key: str
    text: str


@dataclass(frozen=True)
class Machine:
    """What is known of where a plan will run, None where nothing is: bytes of memory, free bytes on the disk, seconds of what is to do."""

    memory: int | None = None
    free_disk: int | None = None
    seconds: float | None = None


def warnings(plan: Plan, machine: Machine | None = None) -> list[Warning]:
    """Return every warning about a plan, those of the machine first, each once."""
    found = [*_of_machine(plan, machine or Machine()), *_of_bytes(plan), *_of_controls(plan)]
    if plan.project.synthesise.enabled and any(step.stage == "synthesise" for step in plan.steps):
        found += _of_synthesis(plan)
    found += [*_of_start(plan), *_of_evaluation(plan), *(Warning(*each) for each in inactive_terms(plan.project))]
    return list(dict.fromkeys(found))


def highest_ema(updates: int) -> float:
    """Return the highest momentum of a student's average that forgets the random initial weights within so many updates."""
    return max(0.0, 1 - EMA_SHARE / updates)


def memory_needed(plan: Plan) -> dict[str, int]:
    """Return for each stage of a plan about how many bytes it holds at once: images, weights, and a batch's activations, roughly.

    Networks whose activations are not counted add none.
    """
    project, source = plan.project, plan.source
    pixels = 3 * source.resolution**2
    real = sum(source.train_counts) * pixels
    images = project.condense.ipc * len(source.classes)
    batch = min(project.batch.size or images, images)
    value = FLOAT if plan.precision == "float32" else FLOAT // 2
    observers, students = project.observers.synthesis, project.evaluate.students

    def activations(names: Sequence[str], size: int) -> int:
        return value * size * max((activation_count(name, source.resolution) for name in names), default=0)

    trained = FLOAT * TRAINED_COPIES
    needed = {
        "squeeze": trained * max(map(_weights(plan), observers), default=0)
        + (real if real <= RESIDENT_BYTES else 0)
        + activations(observers, min(project.squeeze.batch_size, sum(source.train_counts))),
        "synthesise": FLOAT * (sum(map(_weights(plan), observers)) + (images + COPIES * batch) * pixels) + activations(observers, batch),
        "evaluate": trained * max(map(_weights(plan), students), default=0)
        + images * pixels
        + activations(students, min(project.evaluate.batch_size, images)),
    }
    stages = {step.stage for step in plan.steps}
    return {stage: count for stage, count in needed.items() if stage in stages}


def _weights(plan: Plan) -> Any:
    """Return a function from a network's name to its number of weights, 0 where that is not known."""

    def count(name: str) -> int:
        try:
            return parameter_count(name, len(plan.source.classes), plan.source.resolution)
        except UserError:
            return 0

    return count


def _of_machine(plan: Plan, machine: Machine) -> Iterator[Warning]:
    memory = memory_needed(plan)
    stage = max(memory, key=lambda name: memory[name], default=None)
    if machine.memory is not None and stage is not None and memory[stage] > machine.memory:
        key, size = {
            "squeeze": ("observers.synthesis", "squeeze.batch_size"),
            "synthesise": ("condense.ipc", "batch.size"),
            "evaluate": ("evaluate.students", "evaluate.batch_size"),
        }[stage]
        yield Warning(
            key,
            f"{stage} holds about {_size(memory[stage])} at once and {plan.device} has {_size(machine.memory)}; "
            f"use a smaller {size}, smaller networks, or fewer images per class",
        )
    needed = sum(step.cost.get("bytes", 0) for step in plan.steps)
    if machine.free_disk is not None and needed > machine.free_disk:
        labels = sum(step.cost["bytes"] for step in plan.steps if step.stage == "relabel") > needed / 2
        right = 'use labels.mode = "online" or "fixed", which store none or one label an image' if labels else "use fewer images per class"
        yield Warning(
            "labels.mode" if labels else "condense.ipc",
            f"images and labels take {_size(needed)} and the disk has {_size(machine.free_disk)} left; {right}",
        )
    if machine.seconds is not None and machine.seconds >= LONG_SECONDS:
        yield Warning(
            "compute.device",
            f"it takes about {machine.seconds / 3600:.1f} hours by what like steps took on this machine; "
            "start it with `edc run --detach`, or try it first with fewer iterations and epochs",
        )


def _of_bytes(plan: Plan) -> Iterator[Warning]:
    source = plan.source
    kept = estimated_bytes(plan.project, len(source.classes), source.resolution)
    dataset = 3 * source.resolution**2 * sum(source.train_counts)
    labels = kept["labels"] or 0
    if labels > dataset and any(step.stage == "relabel" for step in plan.steps):
        yield Warning(
            "labels.mode",
            f"the stored labels take {_size(labels)}, {labels / dataset:.1f} times the {_size(dataset)} of the images they condense "
            '(LPLD, 2410.15919): use fewer epochs, "fixed" or labels.storage = "top-k", or judge the result by '
            'evaluate.controls = ["equal-bytes", …]',
        )


def _of_controls(plan: Plan) -> Iterator[Warning]:
    project = plan.project
    if not any(step.stage == "evaluate" for step in plan.steps):
        return
    controls = project.evaluate.controls
    if "random" not in controls and project.condense.method != "random":
        yield Warning(
            "evaluate.controls",
            "without random real images nothing tells what the method adds: under the same soft labels they beat SRe2L (2406.10485); "
            'add "random"',
        )
    if project.labels.mode == "given" and controls:
        yield Warning(
            "labels.mode",
            "the labels that came along are trained on as they are, but nobody knows here who gave them, so controls are labelled by "
            "observers.labels and a difference to them is one of labels, too; judge the images by the rows with hard labels",
        )
    if project.labels.teacher_batchnorm == "train" and has_effect(project, "labels.teacher_batchnorm") and "noise" not in controls:
        yield Warning(
            "labels.teacher_batchnorm",
            "observers that label by the batch's statistics teach from pure noise, too (42 % on the digits, where chance is 10 %), "
            'so that the images get credit for it; add "noise" to evaluate.controls',
        )


def _of_start(plan: Plan) -> Iterator[Warning]:
    project, side = plan.project, plan.source.resolution
    if project.initialise.source == "rded" and project.rded.factor > 1 and side <= TILED_SIDE:
        yield Warning(
            "rded.factor",
            f"tiles of {side // project.rded.factor} px lose what an image of {side} px shows (82 % became 32 % on the digits, and "
            "RDED itself uses 1 there); use rded.factor = 1",
        )


def _of_synthesis(plan: Plan) -> Iterator[Warning]:
    project = plan.project
    match, rate = project.match, project.synthesise.learning_rate
    if rate >= ERASING_RATE and project.initialise.source != "noise":
        yield Warning(
            "synthesise.learning_rate",
            f"{rate:g} is a rate for noise and erases the real images one starts from (94 % became 52 % with hard labels on the digits); "
            "use 0.05 as EDC does",
        )
    if match.weight == 0 and (match.layers == "bn+conv" or match.w_class > 0):
        yield Warning(
            "match.weight",
            "nothing is matched at weight 0, though statistics of all real images are collected for it; "
            'use the method\'s weight or "auto", or match.layers = "bn", match.w_class = 0',
        )
    elif match.weight != 0 and _class_matching_idles(plan):
        right = "a batch.size that holds some classes only" if project.batch.order == "class_major" else 'batch.order = "class_major"'
        yield Warning(
            "match.w_class",
            "every statistics batch holds all classes in equal number, so that the mean of their moments is that of the whole dataset and "
            f'matching by class does next to nothing (EDC Eq. 5); use {right}, or match.class_form = "per_class_sum"',
        )


def _class_matching_idles(plan: Plan) -> bool:
    """Say whether the classes' moments, as the batches have them, add up to those of the whole dataset."""
    project, counts = plan.project, plan.source.train_counts
    match, batch = project.match, project.batch
    if match.w_class == 0 or match.class_form != "batch_mean" or match.class_source != "table" or match.class_variance != "pooled":
        return False
    if match.swap_class_patch or max(counts) > NEARLY_EQUAL * min(counts):
        return False
    together = project.condense.ipc * len(counts) if batch.order == "class_major" else len(counts)
    size = min(batch.size or together, together)
    return min(batch.statistics or size, size) == together


def _of_evaluation(plan: Plan) -> Iterator[Warning]:
    project, ipc = plan.project, plan.project.condense.ipc
    trainings = [step for step in plan.steps if step.facts.get("set") == "condensed" and "search" not in step.facts]
    if not trainings:
        return
    fewest, seeds = SEEDS_AT_IPC_1 if ipc == 1 else SEEDS, len(project.evaluate.seeds)
    if seeds < fewest:
        yield Warning(
            "evaluate.seeds",
            f"{seeds} seed{'s cannot' if seeds > 1 else ' cannot'} tell a difference of a point or two from chance, where EDC's Table 1 "
            f"prints deviations up to 3.3; use at least {fewest}{' at one image per class' if ipc == 1 else ''}",
        )
    if project.evaluate.select == "best_on_test":
        yield Warning(
            "evaluate.select",
            'choosing by the test images flatters every method, the noisiest most (DD-Ranking, 2505.13300); use "last", '
            "which shows the best on test beside it",
        )
    yield from _of_length(trainings)
    for step in trainings:
        yield from _of_training(step)
    if label_regime(project) != HARD and not project.evaluate.hard_labels:
        yield Warning(
            "evaluate.hard_labels",
            "with soft labels alone all sets come out alike (2604.18811) and nothing tells what the images themselves teach; set it true",
        )


def _of_length(trainings: Sequence[Step]) -> Iterator[Warning]:
    """Yield one warning for all trainings that are too short, whatever their protocols."""
    short: dict[str, tuple[int, int]] = {}  # key of the epochs -> updates that they come to, epochs that would be enough
    for step in trainings:
        updates = step.cost["iterations"]
        if updates < SHORT_UPDATES:
            short.setdefault(_epochs_key(step), (updates, -(-SHORT_UPDATES * step.settings["evaluate.epochs"] // updates)))
    if short:
        told = [f"{updates:,} updates{' under the common protocol' if 'common' in key else ''}" for key, (updates, _) in short.items()]
        right = [f"{key.removeprefix('evaluate.')} = {enough}" for key, (_, enough) in short.items()]
        yield Warning(
            next(iter(short)),
            f"{' and '.join(told)} are too few to learn what the images teach, and rank methods by how fast they teach (RD3, 2509.19743, "
            f"where a smaller batch alone is worth ten points); use {' and '.join(right)} or more",
        )


def _epochs_key(step: Step) -> str:
    """Return the key that says how long a training is."""
    return "evaluate.common_epochs" if step.facts["protocol"] == "common" else "evaluate.epochs"


def _of_training(step: Step) -> Iterator[Warning]:
    """Yield what is said against one training of a student on the condensed set."""
    updates, ema = step.cost["iterations"], step.settings["evaluate.ema"]
    epochs, highest = _epochs_key(step), highest_ema(updates)
    if ema > highest:
        yield Warning(
            "evaluate.ema",
            f"an average at {ema:g} still carries the random initial weights after {updates:,} updates (EDC Tables 17 and 20), so it is "
            f"capped at 1 - 10/updates = {highest:g}; set a lower one, or more {epochs}",
        )
    elif ema >= COLLAPSING_EMA:
        yield Warning(
            "evaluate.ema",
            f"an average at {ema:g} comes to chance over short trainings (13.1 % on CIFAR-10 in EDC Table 20), and {updates:,} updates are "
            f"only {updates * (1 - ema):.0f} times what it looks back over; use 0.99",
        )
    if step.settings["evaluate.batch_size"] == 1 and normalisation(step.facts["student"]) == "batch":
        yield Warning(
            "evaluate.batch_size",
            f"the batch norm of {step.facts['student']} has no statistics to take from a batch of one image; use 10 or more, "
            "or a student without batch norm",
        )


def _size(count: float) -> str:
    """Say a number of bytes in its largest fitting unit."""
    unit = "B"
    for larger in UNITS:
        if count < 1024:
            break
        count, unit = count / 1024, larger
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
