"""Statistics: collect the moments of every matched layer's input, class by class, from the real images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.compute.checkpoint import load_checkpoint, save_checkpoint
from engine.compute.precision import autocast
from engine.compute.seeding import generator
from engine.errors import Stopped
from engine.matching.table_files import TableWriter
from engine.matching.tables import TableAccumulator
from engine.stages import training
from engine.stages.inputs import Inputs, RealImages
from engine.stages.report import Report


@torch.no_grad()
def statistics(settings: dict[str, Any], inputs: Inputs, folder: Path, report: Report) -> dict[str, Any]:
    """Pass the training split once through the observer and write `table.safetensors` (EDC 3.2; G-VBSM 3.2).

    Raises Stopped after a checkpoint when asked to stop.
    """
    observer = inputs.observer(inputs.folder("observer"))
    train = RealImages(inputs.store.train, inputs.device)
    cropped = settings["statistics.augmentation"] == "crop"
    writer = TableWriter(folder, inputs.classes)
    accumulator = TableAccumulator(
        observer,
        kind=settings["match.layers"],
        patch=settings["match.patch_size"] or None,
        classes=inputs.classes,
        device=inputs.device,
        rows=writer,
    )
    batches = torch.arange(len(train)).split(settings["statistics.batch_size"])
    first = _restore(accumulator, writer, folder, report)
    done = sum(map(len, batches[:first]))
    labels = torch.from_numpy(inputs.store.train.labels)  # on the CPU, and rising: a class is finished when the next one comes
    train.upcoming(batches[first:])
    for number, indices in enumerate(batches[first:], first):
        batch = training.real_batch(
            train,
            indices,
            inputs,
            padding=settings["squeeze.padding"] if cropped else 0,
            crop_scale=settings["squeeze.crop_scale"] if cropped else None,
            flip=cropped and settings["squeeze.flip"] and settings["mirror"],
            draws=generator(settings["squeeze.seed"], "statistics", settings["observer"], number),
        )
        collect(observer, accumulator, batch, labels[indices], inputs)
        done += len(indices)
        report.progress(done, len(train), "images")
        if report.checkpoint_due():
            save_checkpoint(folder, *_state(accumulator, writer, number + 1))
            report.checkpoint_written()
            if report.stop_wanted():
                raise Stopped(f"{folder.name}: stopped after {done} of {len(train)} images")
    accumulator.flush()
    writer.finish(accumulator.segments, accumulator.patch, accumulator.counts)
    return {"images": done}


@torch.no_grad()
def collect(observer: nn.Module, accumulator: TableAccumulator, images: Tensor, labels: Tensor, inputs: Inputs) -> None:
    """Pass one batch through the observer: images (B, 3, H, W) in normalised units on the device, labels (B,) on the CPU."""
    with accumulator.batch(labels), autocast(inputs.device, inputs.precision):
        observer(images)


def _state(accumulator: TableAccumulator, writer: TableWriter, batches: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a checkpoint after so many batches holds: the classes at work, and those that no shard has yet."""
    tensors, values = accumulator.state()
    written, shards = writer.state()
    return tensors | written, {"batches": batches, "collected": values, "written": shards}


def _restore(accumulator: TableAccumulator, writer: TableWriter, folder: Path, report: Report) -> int:
    """Take up the newest undamaged checkpoint of the folder, if there is one, and return how many batches it has seen."""
    tensors, values, damaged = load_checkpoint(folder)
    for problem in damaged:
        report.log(problem, "warning")
    if "collected" not in values:  # none, or of an earlier version
        return 0
    accumulator.restore(tensors, values["collected"])
    writer.restore(tensors, values["written"])
    report.log(f"goes on after {values['batches']} batches")
    return values["batches"]
