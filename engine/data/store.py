"""A prepared dataset: its images mapped into memory, or decoded when they are asked for."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.data.file_list import FileList
from engine.data.sources import ClassIndex
from engine.data.stream import StreamedImages
from engine.data.trees import shown
from engine.errors import RunError
from engine.files import read_json

if TYPE_CHECKING:
    import torch

SLAB_BYTES = 1 << 26


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 3, R, R), read-only and indexed by rows or slices; labels int64 (N,), rising, so a class is one slice."""

    images: np.memmap | StreamedImages
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
            **splits, classes=ClassIndex(tuple(meta["classes"]), tuple(meta.get("titles", ()))), mean=tuple(meta["mean"]),
            std=tuple(meta["std"]), resolution=meta["resolution"], fingerprint=meta["fingerprint"], mirror=meta["mirror"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"decoded dataset {shown(folder)} is damaged: remove the folder, it is made again ({error})") from error


def _open_split(folder: Path, name: str, meta: dict) -> Split:
    labels = np.load(folder / f"{name}.labels.npy", allow_pickle=False)
    side, count = meta["resolution"], sum(meta[f"{name}_counts"])
    if "stream" in meta:
        files = FileList.load(folder, name, meta["stream"])
        images = StreamedImages(files, side, meta["margin"] if name == "test" else 1.0)
    else:
        images = np.load(folder / f"{name}.images.npy", mmap_mode="r", allow_pickle=False)
    if images.dtype != np.uint8 or images.shape != (count, 3, side, side) or labels.shape != (count,):
        raise ValueError(f"{name} holds {images.dtype} {images.shape}")
    return Split(images, labels)


def to_device(images: np.ndarray | StreamedImages, device: "str | torch.device", rows: np.ndarray | None = None) -> "torch.Tensor":
    """Copy images, uint8 (N, 3, H, W), or some rows (M,) of them, to a device as one uint8 tensor, never holding them in memory twice."""
    import torch  # heavy, and whoever only looks at a store does not need it

    count = len(images) if rows is None else len(rows)
    result = torch.empty((count, *images.shape[1:]), dtype=torch.uint8, device=device)
    step = max(1, SLAB_BYTES // max(1, math.prod(images.shape[1:])))
    for start in range(0, count, step):
        part = slice(start, start + step)
        result[part].copy_(torch.from_numpy(np.array(images[part if rows is None else rows[part]])))
    return result
