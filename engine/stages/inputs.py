"""What a stage is given beside its settings: the folders of earlier steps, the real images, the device."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.compute.checkpoint import load_tensors, save_tensors
from engine.compute.precision import frozen, place
from engine.compute.transfer import sent
from engine.data.store import ImageStore, Split, to_device
from engine.errors import RunError
from engine.models.registry import create_model
from engine.stages.read_ahead import ReadAhead

# Up to this size the real images are held in memory as one uint8 tensor; larger sets are read batch by batch.
RESIDENT_BYTES = 2 << 30
GREY_ROWS = 100  # images looked at together; colour shows in the first of them


@dataclass
class Inputs:
    """The real images, the folders of earlier steps by role, and where to compute."""

    store: ImageStore
    device: str
    precision: str
    folders: dict[str, tuple[Path, ...]] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return len(self.store.classes)

    @cached_property
    def mean(self) -> Tensor:
        """Return the channel means as (1, 3, 1, 1) on the device, in units of [0, 1]."""
        return torch.tensor(self.store.mean, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)

    @cached_property
    def std(self) -> Tensor:
        """Return the channel deviations as (1, 3, 1, 1) on the device, in units of [0, 1]."""
        return torch.tensor(self.store.std, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)

    @cached_property
    def grey(self) -> bool:
        """Say whether every training image is grey, that is, has three equal channels; condensed images then stay grey too."""
        images = self.store.train.images
        parts = (images[start : start + GREY_ROWS] for start in range(0, len(images), GREY_ROWS))
        return all(bool((part[:, 0] == part[:, 1]).all() and (part[:, 0] == part[:, 2]).all()) for part in parts)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 (B, 3, H, W) into float32 in normalised units, channels_last."""
        scaled = (images.float() / 255 - self.mean) / self.std
        return scaled.contiguous(memory_format=torch.channels_last)

    def to_uint8(self, images: Tensor, *, truncate: bool = False) -> Tensor:
        """Turn normalised float (B, 3, H, W) back into uint8, rounded, or cut off as the reference release does."""
        scaled = ((images * self.std + self.mean).clamp(0, 1)) * 255
        return (scaled if truncate else scaled.round()).to(torch.uint8)

    def folder(self, role: str) -> Path:
        """Return the one folder of a role."""
        return self.folders[role][0]

    def observers(self, role: str = "observers") -> list[nn.Module]:
        """Load the squeezed networks of a role, frozen, in channels_last on the device, in the role's order."""
        return [self.observer(folder) for folder in self.folders[role]]

    def observer(self, folder: Path) -> nn.Module:
        """Load one squeezed network; raises RunError when it was trained for other classes, naming both."""
        tensors, values = load_tensors(folder / "observer.safetensors")
        if values["classes"] != list(self.store.classes.names):
            raise RunError(f"{folder}: this observer was trained for other classes, or in another order, than the dataset has")
        model = create_model(values["model"], self.classes, self.store.resolution)
        model.load_state_dict(tensors)
        renormalise(model, (self.store.mean, self.store.std), (values["mean"], values["std"]))
        return frozen(place(model, self.device))

    def save_observer(self, folder: Path, model: nn.Module, name: str, **facts: Any) -> None:
        """Write a squeezed network with what one must know to use it: model, classes, resolution, normalisation."""
        values = {
            "model": name,
            "classes": list(self.store.classes.names),
            "resolution": self.store.resolution,
            "mean": list(self.store.mean),
            "std": list(self.store.std),
        }
        save_tensors(folder / "observer.safetensors", model.state_dict(), values | facts)


Normalisation = tuple[Sequence[float], Sequence[float]]  # three means and three deviations, in units of [0, 1]


def renormalise(model: nn.Module, given: Normalisation, wanted: Normalisation) -> None:
    """Let a network that was trained under other constants take images as they are normalised here, in place.

    A hook before the network maps what comes in, so that its layers, their names and what enters each of them, zero padding included,
    are what they were in its training: statistics are matched in its own units. Nothing happens where the constants agree.
    """
    if all(math.isclose(one, other, rel_tol=1e-6) for pair in zip(given, wanted, strict=True) for one, other in zip(*pair, strict=True)):
        return
    (mean, std), (own_mean, own_std) = ([torch.tensor(values, dtype=torch.float64) for values in pair] for pair in (given, wanted))
    model.register_buffer("input_scale", (std / own_std).float().view(1, 3, 1, 1), persistent=False)
    model.register_buffer("input_shift", ((mean - own_mean) / own_std).float().view(1, 3, 1, 1), persistent=False)
    model.register_forward_pre_hook(_to_own_units)


def _to_own_units(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0] * model.input_scale + model.input_shift, *inputs[1:])


def resident_bytes(device: str) -> int:
    """Return up to how many bytes of real images are held on a device: of a GPU a quarter of its memory."""
    if torch.device(device).type != "cuda":
        return RESIDENT_BYTES
    return torch.cuda.get_device_properties(device).total_memory // 4


class RealImages:
    """One split of the real images, or some of its rows, read by index: held on the device where they fit, else fetched batch by batch."""

    def __init__(self, split: Split, device: str, rows: np.ndarray | None = None) -> None:
        """`rows` (M,) are the rows of the split that count, in rising order; without them all do."""
        self.device, self._images, self._rows = device, split.images, rows
        self.labels = torch.from_numpy(split.labels if rows is None else split.labels[rows]).to(device)
        self._image_bytes = math.prod(split.images.shape[1:])
        held = len(self.labels) * self._image_bytes <= resident_bytes(device)
        self._resident = to_device(split.images, device, rows) if held else None
        self._ahead: ReadAhead | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def upcoming(self, batches: Iterable[Tensor]) -> None:
        """Say which batches of CPU indices `take` is asked for next, in this order, so that they are fetched ahead."""
        if self._ahead is not None:
            self._ahead.end()
        self._ahead = ReadAhead(self._fetch, batches, self._image_bytes) if self._resident is None else None

    def take(self, indices: Tensor) -> Tensor:
        """Return the uint8 images (B, 3, H, W) at CPU indices (B,) on the device; raises UserError for an image that cannot be decoded."""
        if self._resident is not None:
            return self._resident[sent(indices, self.device)]
        part = self._ahead.take(indices) if self._ahead is not None else None
        part = self._fetch(indices) if part is None else part
        return part.to(self.device, non_blocking=True)

    def _fetch(self, indices: Tensor) -> Tensor:
        """Return the images at CPU indices in host memory, from which a GPU can copy them while it computes."""
        ordered, back = torch.sort(indices)
        rows = ordered.numpy() if self._rows is None else self._rows[ordered.numpy()]
        part = torch.from_numpy(self._images[rows])[torch.argsort(back)]
        if torch.device(self.device).type != "cuda":
            return part
        with torch.cuda.device(self.device):  # this may be a thread that has never seen it
            return part.pin_memory()


@dataclass(frozen=True)
class ClassImages:
    """The images of one class, uint8 (N, 3, S, S) on the CPU, indexed as a tensor is and read when they are."""

    split: Split
    rows: slice

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 3, S, S)."""
        return (len(self), *self.split.images.shape[1:])

    def __getitem__(self, part: slice | Tensor) -> Tensor:
        """Return the images of a slice or of indices (n,), all within the class."""
        numbers = np.arange(len(self))[part] if isinstance(part, slice) else part.numpy()
        return torch.from_numpy(np.array(self.split.images[self.rows.start + numbers]))


@dataclass(frozen=True)
class HeldImages:
    """Images uint8 (N, 3, H, W) with labels (N,) that lie on the device already, read as `RealImages` are."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) at CPU indices (B,)."""
        return self.images[sent(indices, self.images.device)]
