"""What is measured, and what each may take at most. No torch, so that wrong options are found at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import UserError
from engine.models.registry import check_model
from engine.project.resolve import nearest
from engine.runs.text import printable

PARTS = ("synthesise", "statistics", "relabel", "evaluate", "memory", "precision", "warm-start")
SIDE, CLASSES = 32, 10
SYNTHESIS_BATCH, STATISTICS_BATCH, RELABEL_BATCH = 100, 256, 25
TRAINING_BATCHES = (25, 100)
PRECISIONS = ("float32", "bfloat16")
OBSERVERS = ("resnet18", "wrn-16-2", "convnet-w128")
STUDENTS = ("resnet18", "convnet-w128")
# Those that label the paper's CIFAR-10 (EDC A.2).
LABELLERS = ("resnet18", "convnet-w128", "mobilenet-v2", "wrn-16-2", "shufflenet-v2-0.5", "convnet-d1", "convnet-d2", "convnet-w32")
QUICK = "convnet-w32"  # a small network that shows only that everything works
QUICK_BATCH = 20

SYNTHESIS_LIMIT = {"float32": 1.35, "bfloat16": 1.5, "float16": 1.5}
FLATNESS_LIMIT = 0.4  # more with the forward pass of the averaged images, which is 0.33
STATISTICS_LIMIT, STEP_LIMIT, RELABEL_LIMIT, MEMORY_LIMIT = 1.20, 1.10, 1.10, 1.5
WARM_START_SECONDS = 6.0


@dataclass(frozen=True)
class Case:
    """One comparison with the bare network: a stage, its variant, the networks, precision and batch, and the greatest ratio allowed."""

    stage: str
    variant: str
    models: tuple[str, ...]
    precision: str
    batch: int
    limit: float

    @property
    def network(self) -> str:
        """Return the network's name, or how many there are."""
        return self.models[0] if len(self.models) == 1 else f"{len(self.models)} observers"

    @property
    def name(self) -> str:
        """Say in one line what is measured."""
        words = [self.stage, self.variant, self.network, self.precision, f"batch {self.batch}"]
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Choice:
    """What `edc bench` was asked to measure."""

    parts: tuple[str, ...] = PARTS
    models: tuple[str, ...] = ()
    precisions: tuple[str, ...] = PRECISIONS
    quick: bool = False


def choice(only: Sequence[str], models: Sequence[str], precisions: Sequence[str], *, quick: bool) -> Choice:
    """Check what was asked for; raises UserError in one line that names the option and the nearest value that exists."""
    for option, given, known in (("--only", only, PARTS), ("--precisions", precisions, (*PRECISIONS, "float16"))):
        for word in given:
            if word not in known:
                raise UserError(f"{option}: {printable(word)!r} is unknown; {nearest(word, list(known))}")
    for model in models:
        try:
            check_model(model, SIDE)
        except UserError as error:
            raise UserError(f"--models: {error}") from None
    fewer = ("synthesise", "statistics", "relabel", "evaluate", "precision")
    parts = tuple(part for part in PARTS if part in only) if only else fewer if quick else PARTS
    return Choice(parts, tuple(models), tuple(precisions) or PRECISIONS, quick)


def cases(asked: Choice) -> list[Case]:
    """Return the comparisons asked for, in the order of the stages."""
    observers = asked.models or ((QUICK,) if asked.quick else OBSERVERS)
    students = asked.models or ((QUICK,) if asked.quick else STUDENTS)
    labellers = asked.models or ((QUICK, "convnet-d1") if asked.quick else LABELLERS)
    synthesis, statistics = (QUICK_BATCH, QUICK_BATCH) if asked.quick else (SYNTHESIS_BATCH, STATISTICS_BATCH)
    found: list[Case] = []
    for precision in asked.precisions:
        limit = SYNTHESIS_LIMIT[precision]
        for model in observers:
            found.append(Case("synthesise", "", (model,), precision, synthesis, limit))
            found.append(Case("synthesise", "logit_ema", (model,), precision, synthesis, round(limit + FLATNESS_LIMIT, 2)))
        found += [Case("statistics", "", (model,), precision, statistics, STATISTICS_LIMIT) for model in observers]
        found += [Case("relabel", variant, labellers, precision, RELABEL_BATCH, RELABEL_LIMIT) for variant in ("stored", "online")]
        for model in students:
            found += [Case("evaluate", "", (model,), precision, batch, STEP_LIMIT) for batch in TRAINING_BATCHES]
    return sorted((case for case in found if case.stage in asked.parts), key=lambda case: PARTS.index(case.stage))


def memory_cases(asked: Choice) -> list[Case]:
    """Return the syntheses whose memory is held against that of the bare pass."""
    everything = cases(Choice(("synthesise",), asked.models, asked.precisions, asked.quick))
    return [Case(case.stage, case.variant, case.models, case.precision, case.batch, MEMORY_LIMIT) for case in everything]
