"""Statistics: collect the moments of every matched layer's input, class by class, from the real images."""

from pathlib import Path
from typing import Any

import torch

from engine.compute.checkpoint import load_checkpoint, save_checkpoint
from engine.compute.precision import autocast
from engine.compute.seeding import generator
from engine.errors import Stopped
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
    accumulator = TableAccumulator(
        observer, kind=settings["match.layers"], patch=settings["match.patch_size"] or None, classes=inputs.classes, device=inputs.device
    )
    batches = torch.arange(len(train)).split(settings["statistics.batch_size"])
    first = _restore(accumulator, folder, report)
    done = sum(map(len, batches[:first]))
    for number, indices in enumerate(batches[first:], first):
        batch = training.real_batch(
            train,
            indices,
            inputs,
            padding=settings["squeeze.padding"] if cropped else 0,
            flip=cropped and settings["squeeze.flip"] and settings["mirror"],
            draws=generator(settings["squeeze.seed"], "statistics", settings["observer"], number),
        )
        with accumulator, autocast(inputs.device, inputs.precision):
            observer(batch)
        accumulator.add(train.labels[indices.to(inputs.device)])
        done += len(indices)
        report.progress(done, len(train), "images")
        if report.checkpoint_due():
            tensors, segments = accumulator.state()
            save_checkpoint(folder, tensors, {"batches": number + 1, "segments": segments})
            report.checkpoint_written()
            if report.stop_wanted():
                raise Stopped(f"{folder.name}: stopped after {done} of {len(train)} images")
    accumulator.finish().save(folder / "table.safetensors")
    return {"images": done}


def _restore(accumulator: TableAccumulator, folder: Path, report: Report) -> int:
    """Take up the newest undamaged checkpoint of the folder, if there is one, and return how many batches it has seen."""
    tensors, values, damaged = load_checkpoint(folder)
    for problem in damaged:
        report.log(problem, "warning")
    if not values:
        return 0
    accumulator.restore(tensors, values["segments"])
    report.log(f"goes on after {values['batches']} batches")
    return values["batches"]
