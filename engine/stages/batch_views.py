"""What an observer is shown of a batch of images under optimisation: crops, mirrors and shifts, drawn for each iteration."""

import math
from typing import Any

import torch
from torch import Tensor

from engine.compute.seeding import generator
from engine.data import augment
from engine.stages.inputs import Inputs


def crop_floor(mode: str, iteration: int, iterations: int, *, low: float, milestone: float) -> float:
    """Return the smallest crop area of an iteration (CDA 3.3): from the whole image down to `low` until the milestone, then `low`.

    `mode` is curriculum_step, curriculum_linear or curriculum_cosine; any other mode has `low` throughout.
    """
    end = milestone * iterations
    if not mode.startswith("curriculum_") or iteration >= end:
        return low
    part = iteration / end
    eased = {"step": 1.0, "linear": 1 - part, "cosine": 0.5 * (1 + math.cos(math.pi * part))}[mode.removeprefix("curriculum_")]
    return low + (1 - low) * eased


class BatchViews:
    """Draws and applies the augmentation of one batch of G statistics batches of n images.

    Each statistics batch has one crop, mirror and shift an iteration for all of its images, as on a device of its own (methods 0.5), or
    each image its own with `augment.per_image`.
    """

    def __init__(self, settings: dict[str, Any], inputs: Inputs, groups: int, group_size: int, seed: int, number: int) -> None:
        self.settings, self.inputs = settings, inputs
        self.groups, self.group_size, self.seed, self.number = groups, group_size, seed, number
        self.mode = settings["augment.crop_mode"]
        self.mirrors = settings["augment.flip"] and settings["mirror"]

    def of(self, images: Tensor, iteration: int, *, second: bool = False) -> Tensor:
        """Return the views (G*n, 3, H, W) of an iteration; `second` draws another set of crops for the two-crop loss."""
        draws = generator(self.seed, "second-view" if second else "view", self.number, iteration)
        per_image = self.settings["augment.per_image"]
        count = self.groups * self.group_size if per_image else self.groups
        images = self._cropped(images, iteration, count, draws)
        if self.mirrors:
            images = augment.flip(images, self._for_images(augment.draw_flips(count, generator=draws)).to(images.device))
        if reach := self.settings["augment.roll"]:
            shifts = self._for_images(augment.draw_shifts(count, lowest=0, highest=reach, generator=draws))
            images = augment.roll(images, shifts[:, 0], shifts[:, 1])
        return images

    def _cropped(self, images: Tensor, iteration: int, count: int, draws: torch.Generator) -> Tensor:
        """Crop and resize back, or pad and crop."""
        side = images.shape[-1]
        if self.mode == "none":
            return images
        if self.mode == "padded":
            padding = self.settings["augment.padding"]
            black = (-self.inputs.mean / self.inputs.std).flatten().tolist()
            offsets = self._for_images(augment.draw_offsets(count, padding=padding, generator=draws))
            return augment.padded_crop(images, offsets, padding=padding, fill=black)
        low, high = self.settings["augment.crop_scale"]
        floor = crop_floor(
            self.mode, iteration, self.settings["synthesise.iterations"], low=low, milestone=self.settings["augment.milestone"]
        )
        boxes = augment.draw_crops(count, side, side, scale=(min(floor, high), high), generator=draws)
        if self.settings["augment.per_image"]:
            return augment.resized_crop(images, boxes)
        parts = images.split(self.group_size)
        return torch.cat([augment.shared_resized_crop(part, box) for part, box in zip(parts, boxes, strict=True)])

    def _for_images(self, drawn: Tensor) -> Tensor:
        """Give every image of a statistics batch what was drawn for the batch."""
        return drawn if len(drawn) == self.groups * self.group_size else drawn.repeat_interleave(self.group_size, 0)
