"""The stages' own code and the bare network on random images, as pairs of calls to be timed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.bench.cases import CLASSES, SIDE, Case
from engine.bench.timing import Call, seconds
from engine.compute.precision import autocast, frozen, place
from engine.data.condensed import write_condensed
from engine.data.label_rows import packed, row_type
from engine.data.sources import ClassIndex
from engine.data.store import ImageStore, Split
from engine.data.views import ViewSettings, chunk_limit, chunks, render
from engine.models.registry import create_model
from engine.project.checks import value_of
from engine.project.schema import Project, keys
from engine.stages import training
from engine.stages.evaluate import Student
from engine.stages.inputs import Inputs
from engine.stages.labelling import label_chunk
from engine.stages.relabel import label_views
from engine.stages.report import Report
from engine.stages.statistics import statistics
from engine.stages.synthesise import synthesise

REAL_IMAGES, COLLECTED_IMAGES = 1000, 10_000  # of each split; of the second many statistics are collected, batch after batch
MEAN, STD = (0.5,) * 3, (0.25,) * 3
EPOCHS = 1000  # of a student; no more than a few steps are taken
BATCHES_TRIED = (8, 16, 32, 64, 128, 256, 512, 1024)  # for a forward pass
VIEWS_ON_CPU = 256  # labelled in a round; a GPU labels as many as a stage does


@dataclass(frozen=True)
class Workload:
    """The bare call of a case, the images that it works on, and what is held against it.

    That is a call of the stage's code, or the whole `stage`, which tells its report of the end of each of its iterations.
    """

    bare: Call
    images: int
    real: Call | None = None
    stage: Callable[[Report], object] | None = None


def workload(case: Case, device: str, folder: Path) -> Workload:
    """Build a case's networks, images and calls; `folder` takes the few files that the stages read."""
    torch.manual_seed(0)
    return {"synthesise": _synthesis, "statistics": _statistics, "relabel": _relabelling, "evaluate": _evaluation}[case.stage](
        case, inputs_for(case.precision, device, folder, COLLECTED_IMAGES if case.stage == "statistics" else REAL_IMAGES)
    )


def inputs_for(precision: str, device: str, folder: Path, count: int) -> Inputs:
    """Return `count` random real images a split (10 classes, 32 px), as a stage is given them, and a condensed set of 100 of them."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)
    labels = np.repeat(np.arange(CLASSES), count // CLASSES)
    names = ClassIndex(tuple(f"class {number}" for number in range(CLASSES)))
    store = ImageStore(Split(pixels, labels), Split(pixels, labels), names, MEAN, STD, SIDE, "random", mirror=True)
    write_condensed(folder, pixels[:: count // 100], labels[:: count // 100], classes=names, mean=MEAN, std=STD, metadata={})
    return Inputs(store, device, precision, {"images": (folder,)})


def settings_for(**values: Any) -> dict[str, Any]:
    """Return every `section.key` at its default as a step sees it; `values` are written `section__key`."""
    project = Project()
    flat = {name: value_of(project, name) for name in keys()} | {"mirror": True, "seed": 0}
    return flat | {name.replace("__", "."): value for name, value in values.items()}


def observer_for(name: str, device: str) -> nn.Module:
    """Return a network of random weights, ready to be asked."""
    return frozen(place(create_model(name, CLASSES, SIDE), device))


def bare_backward(model: nn.Module, images: Tensor, labels: Tensor, device: str, precision: str) -> Call:
    """Return forward and backward of cross-entropy to the pixels of `images` (B, 3, H, W)."""
    images = images.clone(memory_format=torch.preserve_format).requires_grad_(True)

    def call() -> Tensor:
        with autocast(device, precision):
            logits = model(images)
        return torch.autograd.grad(functional.cross_entropy(logits.float(), labels), images)[0]

    return call


def bare_forward(model: nn.Module, parts: list[Tensor], device: str, precision: str) -> Call:
    """Return the forward pass over batches of images, each (B, 3, H, W)."""

    @torch.no_grad()
    def call() -> None:
        with autocast(device, precision):
            for part in parts:
                model(part)

    return call


def _images(inputs: Inputs, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` normalised images (count, 3, H, W) and their labels (count,), in place on the device."""
    rows = torch.arange(count)
    pixels, labels = torch.from_numpy(inputs.store.train.images)[rows], torch.from_numpy(inputs.store.train.labels)[rows]
    return inputs.normalise(pixels.to(inputs.device)), labels.to(inputs.device)


def _observed(case: Case, inputs: Inputs) -> Inputs:
    """Return the inputs with an observer of random weights in a folder of its own, as squeeze leaves one."""
    folder = inputs.folder("images") / "observer"
    folder.mkdir()
    inputs.save_observer(folder, create_model(case.models[0], CLASSES, SIDE), case.models[0])
    return replace(inputs, folders=inputs.folders | {"observer": (folder,), "observers": (folder,)})


def _synthesis(case: Case, inputs: Inputs) -> Workload:
    """One iteration after the other of one batch: crop, statistics, gradient and Adam."""
    ipc = case.batch // CLASSES
    settings = settings_for(
        observer=case.models[0],
        flatness__kind=case.variant or "off",
        condense__ipc=ipc,
        batch__size=case.batch,
        synthesise__iterations=10**6,
    )
    inputs = _observed(case, inputs)
    tables, images = inputs.folder("images") / "tables", inputs.folder("images") / "start"
    tables.mkdir()
    statistics(settings, inputs, tables, Report())
    train = inputs.store.train
    rows = np.concatenate([np.flatnonzero(train.labels == label)[:ipc] for label in range(CLASSES)])
    facts = {"classes": inputs.store.classes, "mean": MEAN, "std": STD, "metadata": {}}
    write_condensed(images, train.images[rows], train.labels[rows], **facts)
    inputs = replace(inputs, folders=inputs.folders | {"tables": (tables,), "images": (images,)})
    pixels, labels = _images(inputs, case.batch)
    bare = bare_backward(observer_for(case.models[0], inputs.device), pixels, labels, inputs.device, inputs.precision)
    return Workload(bare, case.batch, stage=lambda report: synthesise(settings, inputs, images, report))


def _statistics(case: Case, inputs: Inputs) -> Workload:
    """One batch of real images after the other, cropped and mirrored, into the tables of all layers and classes."""
    settings = settings_for(observer=case.models[0], statistics__batch_size=case.batch)
    inputs = _observed(case, inputs)
    pixels, _ = _images(inputs, case.batch)
    bare = bare_forward(observer_for(case.models[0], inputs.device), [pixels], inputs.device, inputs.precision)
    return Workload(bare, case.batch, stage=lambda report: statistics(settings, inputs, inputs.folder("images"), report))


def _relabelling(case: Case, inputs: Inputs) -> Workload:
    """The views of some training steps: drawn, rendered, labelled and packed, or labelled where they are at hand for the student."""
    settings = settings_for(evaluate__batch_size=case.batch, evaluate__epochs=EPOCHS, labels__mode="stored")
    observers = [observer_for(name, inputs.device) for name in case.models]
    pixels = torch.from_numpy(inputs.store.train.images[:100].copy()).to(inputs.device)
    views, kind = ViewSettings.of(settings, 0), row_type("full", "float16", CLASSES, None)
    limit = VIEWS_ON_CPU if torch.device(inputs.device).type == "cpu" else chunk_limit(SIDE)
    upcoming = chunks(len(pixels), SIDE, EPOCHS * 100, views, limit=limit)
    chunk = next(upcoming)
    rendered = render(pixels, chunk.views, views, inputs.mean, inputs.std)

    def stored() -> np.ndarray:
        return packed(label_views(pixels, observers, next(upcoming), views, settings, inputs).cpu().numpy(), kind)

    def online() -> Tensor:
        return label_chunk(observers, rendered, chunk, settings, inputs)

    passes = [_best_forward(observer, rendered, inputs) for observer in observers]

    def bare() -> None:
        for one in passes:
            one()

    return Workload(bare, len(rendered), real=stored if case.variant == "stored" else online)


def _best_forward(observer: nn.Module, images: Tensor, inputs: Inputs) -> Call:
    """Return an observer's forward pass over the images in the batches in which it is fastest."""
    sizes = [size for size in BATCHES_TRIED if size < 2 * len(images)]
    calls = [bare_forward(observer, list(images.split(size)), inputs.device, inputs.precision) for size in sizes]
    for call in calls:
        call()
    return min(calls, key=lambda call: min(seconds(call, inputs.device) for _ in range(2)))


def _evaluation(case: Case, inputs: Inputs) -> Workload:
    """A student's step on views and labels that lie ready, its average included."""
    settings = settings_for(
        set="condensed", student=case.models[0], evaluate__batch_size=case.batch, evaluate__epochs=EPOCHS, labels__mode="online"
    )
    student = Student(settings, inputs, inputs.folder("images"), Report())
    student.model.train()
    images, labels = _images(inputs, case.batch)
    teacher, share = torch.randn(case.batch, CLASSES, device=inputs.device), torch.rand(case.batch, device=inputs.device)
    bare = _bare_training(settings, images, labels, inputs)
    return Workload(bare, case.batch, real=lambda: student.update(0, images, teacher, labels, labels.flip(0), share))


def _bare_training(settings: dict[str, Any], images: Tensor, labels: Tensor, inputs: Inputs) -> Callable[[], None]:
    """Return a training step with cross-entropy and the student's optimiser."""
    model = training.fresh_model(settings["student"], inputs, 1).train()
    optimizer = training.make_optimizer(
        settings["evaluate.optimizer"], model, learning_rate=1e-3, weight_decay=settings["evaluate.weight_decay"], momentum=0.9
    )

    def call() -> None:
        with autocast(inputs.device, inputs.precision):
            logits = model(images)
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return call
