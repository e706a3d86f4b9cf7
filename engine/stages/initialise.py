"""Initialise: choose the images a condensed set starts from: noise, random real images, RDED's best crops, a coreset, a file's."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from engine.compute.checkpoint import load_tensors, save_tensors
from engine.compute.precision import autocast
from engine.compute.seeding import generator
from engine.data import augment
from engine.data.condensed import read_condensed
from engine.data.trees import shown
from engine.errors import RunError, Stopped
from engine.files import digest_file
from engine.project.planner import CORESETS
from engine.stages import coresets
from engine.stages.inputs import ClassImages, Inputs
from engine.stages.report import Report
from engine.stages.saving import save_images

SCORING_BATCH = 500


def initialise(settings: dict[str, Any], inputs: Inputs, folder: Path, report: Report) -> dict[str, Any]:
    """Choose `ipc` images of every class and write them to `images.safetensors`, class after class.

    Draws are keyed by the class's name, so the order of classes changes nothing. Raises Stopped after a checkpoint when asked to stop.
    """
    if settings["source"] == "files":
        return _take_over(settings, inputs, folder)
    scorer = inputs.observer(inputs.folder("scorer")) if "scorer" in inputs.folders else None
    chosen, indices = _restore(folder, settings["ipc"], report)
    saved = len(chosen)
    for label, name in list(enumerate(inputs.store.classes.names))[saved:]:
        draws = generator(settings["seed"], "initialise", settings["source"], name)
        images, rows = _class_images(settings, inputs, label, scorer, draws)
        if settings["flip"]:
            images = augment.flip(images, augment.draw_flips(len(images), generator=draws))
        if settings["shuffle_patches"] > 1:
            images = augment.shuffle_patches(
                images, augment.draw_patch_orders(len(images), factor=settings["shuffle_patches"], generator=draws)
            )
        chosen.append(images)
        indices.append(rows)
        report.progress(label + 1, inputs.classes, "classes")
        if report.checkpoint_due():
            save_tensors(_checkpoint(folder, saved), {"images": torch.cat(chosen[saved:])}, {"rows": indices[saved:]})
            saved = len(chosen)
            report.checkpoint_written()
            if report.stop_wanted():
                raise Stopped(f"{folder.name}: stopped after {saved} of {inputs.classes} classes")
    images = torch.cat(chosen)
    labels = torch.arange(inputs.classes).repeat_interleave(settings["ipc"])
    facts = {"source": settings["source"], "seed": settings["seed"], "ipc": settings["ipc"], "training_rows": indices}
    save_images(folder, images, labels, inputs.store, settings["save"], facts)
    return {"images": len(images), "image_bytes": images.numel()}


def _take_over(settings: dict[str, Any], inputs: Inputs, folder: Path) -> dict[str, Any]:
    """Write the images of a condensed file as they are, and the soft labels that came with them.

    Raises RunError when the file is no longer the one that the plan was made for.
    """
    path = Path(settings["path"])
    if not path.is_file() or digest_file(path) != settings["content"]:
        raise RunError(f"{shown(path)} has changed or gone since this run was planned; start another run of the project")
    given = read_condensed(path)
    facts = {"source": "files", "ipc": settings["ipc"], "imported": given.metadata}
    save_images(folder, given.images, given.labels, inputs.store, settings["save"], facts, given.soft_labels)
    label_bytes = 0 if given.soft_labels is None else given.soft_labels.nbytes
    return {"images": len(given), "image_bytes": given.images.numel(), "label_bytes": label_bytes}


def _checkpoint(folder: Path, first: int) -> Path:
    """Return the file of the classes from the `first` on: each checkpoint holds what is new since the one before."""
    return folder / f"checkpoint-{first:06d}.safetensors"


def _restore(folder: Path, ipc: int, report: Report) -> tuple[list[Tensor], list[list[int]]]:
    """Return the images and training rows, class by class, of an earlier attempt's checkpoints up to the first that is damaged."""
    chosen: list[Tensor] = []
    indices: list[list[int]] = []
    while (path := _checkpoint(folder, len(chosen))).exists():
        try:
            tensors, values = load_tensors(path)
        except RunError as error:
            report.log(str(error), "warning")
            break
        chosen += tensors["images"].split(ipc)
        indices += values["rows"]
    if chosen:
        report.log(f"goes on after class {len(chosen)}")
    return chosen, indices


def _class_images(
    settings: dict[str, Any], inputs: Inputs, label: int, scorer: nn.Module | None, draws: torch.Generator
) -> tuple[Tensor, list[int]]:
    """Return `ipc` uint8 images of a class on the CPU, and which training rows they come from (empty for noise)."""
    ipc, side = settings["ipc"], inputs.store.resolution
    if settings["source"] == "noise":
        noise = torch.randn(ipc, 1 if inputs.grey else 3, side, side, generator=draws).expand(-1, 3, -1, -1).to(inputs.device)
        return inputs.to_uint8(noise).cpu(), []
    rows = inputs.store.train.rows_of_class(label)
    real = ClassImages(inputs.store.train, rows)
    if settings["source"] == "real":
        picked = draw_real(len(real), ipc, settings["replacement"], draws)
        images = real[picked]
    elif settings["source"] in CORESETS:
        picked = coresets.choose(settings["source"], real, label, ipc, scorer, inputs)
        images = real[picked]
    else:
        images, picked = rded_images(real, label, ipc, scorer, inputs, settings["rded"], draws)
    return images, [rows.start + index for index in picked.tolist()]


def draw_real(count: int, ipc: int, replacement: str, draws: torch.Generator) -> Tensor:
    """Return `ipc` indices below `count`: all different, independent, or with probability softmax(-times used) (methods D15, 1.5c)."""
    if replacement == "never":
        return torch.randperm(count, generator=draws)[:ipc]
    if replacement == "always":
        return torch.randint(count, (ipc,), generator=draws)
    used = torch.zeros(count)
    for _ in range(ipc):
        used[torch.multinomial(torch.softmax(-used, 0), 1, generator=draws)] += 1
    return torch.repeat_interleave(torch.arange(count), used.long())


def rded_images(
    real: Tensor | ClassImages,
    label: int,
    ipc: int,
    scorer: nn.Module,
    inputs: Inputs,
    settings: dict[str, Any],
    draws: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return a class's images (ipc, 3, S, S) uint8 tiled from its most realistic crops, and the rows the crops come from (RDED 3.2).

    Of `candidates` random images, the best of `crops` random square crops each is kept; the factor² * ipc best of those are tiled.
    """
    factor, side = settings["rded.factor"], real.shape[-1]
    rows = torch.randperm(len(real), generator=draws)[: settings["rded.candidates"]]
    candidates = real[rows]
    crops, losses = [], []
    for _ in range(settings["rded.crops"]):
        boxes = augment.draw_crops(len(rows), side, side, scale=tuple(settings["rded.crop_scale"]), ratio=(1.0, 1.0), generator=draws)
        crops.append(crop_to(candidates, boxes, side // factor))
        losses.append(score(crops[-1], label, scorer, inputs))
    all_losses = torch.stack(losses)
    best = all_losses.argmin(0)
    ranked = all_losses.min(0).values.argsort(stable=True)[: ipc * factor**2]
    kept = torch.stack(crops)[best[ranked], ranked]
    return tile(kept, ipc, factor, settings["rded.tile_order"], side), rows[ranked]


def crop_to(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut each uint8 image's own box and resize it to `size` px, bilinearly and antialiased; (N, 3, size, size) uint8."""
    if size == images.shape[-1]:
        return augment.resized_crop(images.float(), boxes).round().clamp(0, 255).to(torch.uint8)
    pairs = zip(images, boxes.tolist(), strict=True)
    return torch.stack([vision.resized_crop(image, *box, size=[size, size], antialias=True) for image, box in pairs])


@torch.no_grad()
def score(crops: Tensor, label: int, scorer: nn.Module, inputs: Inputs) -> Tensor:
    """Return -log p(label) of uint8 crops (N, 3, s, s), zero-padded in normalised units to the scorer's side; (N,) on the CPU."""
    missing = inputs.store.resolution - crops.shape[-1]
    before, after = missing // 2, missing - missing // 2
    losses = []
    for part in crops.split(SCORING_BATCH):
        padded = functional.pad(inputs.normalise(part.to(inputs.device)), (before, after, before, after))
        with autocast(inputs.device, inputs.precision):
            logits = scorer(padded)
        losses.append(-logits.float().log_softmax(1)[:, label])
    return torch.cat(losses).cpu()


def tile(crops: Tensor, ipc: int, factor: int, order: str, side: int) -> Tensor:
    """Put factor x factor crops (ranked best first) into each of `ipc` images of `side` px.

    `stratified`: tile k of image j is crop k * ipc + j, one of each quality band (RDED). `consecutive`: image j has the crops from
    j * factor² on (EDC's own builder).
    """
    size = crops.shape[-1]
    if order == "stratified":
        grid = crops.view(factor**2, ipc, 3, size, size).transpose(0, 1)
    else:
        grid = crops.view(ipc, factor**2, 3, size, size)
    rows = grid.reshape(ipc, factor, factor, 3, size, size).permute(0, 3, 1, 4, 2, 5)
    images = rows.reshape(ipc, 3, factor * size, factor * size)
    return images if factor * size == side else functional.interpolate(images, size=(side, side), mode="nearest")
