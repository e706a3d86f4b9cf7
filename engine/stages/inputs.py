"""What a stage is given beside its settings: the folders of earlier steps, the real images, the device."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.compute.checkpoint import load_tensors, save_tensors
from engine.compute.precision import frozen, place
from engine.data.store import ImageStore, Split, to_device
from engine.errors import RunError
from engine.models.registry import create_model

# Up to this size the real images are held on the device as one uint8 tensor; larger sets are read batch by batch.
RESIDENT_BYTES = 2 << 30


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
        return all(
            bool((part[:, 0] == part[:, 1]).all() and (part[:, 0] == part[:, 2]).all())
            for part in np.array_split(images, -(-len(images) // 1000))
        )

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


class RealImages:
    """One split of the real images, or some of its rows, on the device where it fits, read by index."""

    def __init__(self, split: Split, device: str, rows: np.ndarray | None = None) -> None:
        """`rows` (M,) are the rows of the split that count, in rising order; without them all do."""
        self.device, self._images, self._rows = device, split.images, rows
        self.labels = torch.from_numpy(split.labels if rows is None else split.labels[rows]).to(device)
        size = len(self.labels) * split.images[:1].nbytes
        self._resident = to_device(split.images if rows is None else split.images[rows], device) if size <= RESIDENT_BYTES else None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Tensor:
        """Return the uint8 images (B, 3, H, W) at CPU indices (B,)."""
        if self._resident is not None:
            return self._resident[indices.to(self.device)]
        ordered, back = torch.sort(indices)
        rows = ordered.numpy() if self._rows is None else self._rows[ordered.numpy()]
        part = torch.from_numpy(self._images[rows])[torch.argsort(back)]
        return part.pin_memory().to(self.device, non_blocking=True) if self.device != "cpu" else part


@dataclass(frozen=True)
class HeldImages:
    """Images uint8 (N, 3, H, W) with labels (N,) that lie on the device already, read as `RealImages` are."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) at CPU indices (B,)."""
        return self.images[indices.to(self.images.device)]
