"""A decoded dataset, mapped into memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.data.sources import ClassIndex
from engine.data.trees import shown
from engine.errors import RunError
from engine.files import read_json

if TYPE_CHECKING:
    import torch

SLAB_BYTES = 1 << 26


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 3, R, R), mapped from the file and read-only; labels int64 (N,), rising, so a class is one slice."""

    images: np.memmap
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def rows_of_class(self, label: int) -> slice:
        """Return the slice of rows that hold the images of one class."""
        start, stop = np.searchsorted(self.labels, [label, label + 1])
        return slice(int(start), int(stop))


@dataclass(frozen=True)
class ImageStore:
    """Both splits of a dataset at its working resolution (pixels), with what is needed to normalise and to name classes."""

    train: Split
    test: Split
    classes: ClassIndex
    mean: tuple[float, float, float]  # of the training images, in [0, 1]
    std: tuple[float, float, float]
    resolution: int
    fingerprint: str
    mirror: bool


def open_store(folder: Path) -> ImageStore:
    """Open what `decode.prepare` wrote, without reading the images; raises RunError when the folder is damaged or not one of those."""
    try:
        meta = read_json(folder / "meta.json")
        splits = {name: _open_split(folder, name, meta) for name in ("train", "test")}
        return ImageStore(
            **splits, classes=ClassIndex(tuple(meta["classes"])), mean=tuple(meta["mean"]), std=tuple(meta["std"]),
            resolution=meta["resolution"], fingerprint=meta["fingerprint"], mirror=meta["mirror"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"decoded dataset {shown(folder)} is damaged: remove the folder, it is made again ({error})") from error


def _open_split(folder: Path, name: str, meta: dict) -> Split:
    images = np.load(folder / f"{name}.images.npy", mmap_mode="r", allow_pickle=False)
    labels = np.load(folder / f"{name}.labels.npy", allow_pickle=False)
    side, count = meta["resolution"], sum(meta[f"{name}_counts"])
    if images.dtype != np.uint8 or images.shape != (count, 3, side, side) or labels.shape != (count,):
        raise ValueError(f"{name} holds {images.dtype} {images.shape}")
    return Split(images, labels)


def to_device(images: np.ndarray, device: "str | torch.device") -> "torch.Tensor":
    """Copy images, uint8 (N, 3, H, W), to a device as one uint8 tensor of the same shape, never holding a second copy in memory."""
    import torch  # heavy, and whoever only looks at a store does not need it

    result = torch.empty(images.shape, dtype=torch.uint8, device=device)
    rows = max(1, SLAB_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        result[start : start + rows].copy_(torch.from_numpy(np.array(images[start : start + rows])))
    return result
