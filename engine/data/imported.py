"""Condensed sets that come from elsewhere: folders of images, tensor files of other tools, runs and files of this program.

What is not said by a file is found out from it (which classes its folders mean, how its pixels were scaled) and told in a note, or
refused in one line where two readings are possible: a guess would show only in an accuracy that cannot be explained.
"""

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from PIL import Image
from torch import Tensor

from engine.data.class_folders import folder_labels
from engine.data.condensed import FILE_NAME, CondensedDataset, read_condensed
from engine.data.decode import decode_image, fit_array, fit_image
from engine.data.header import METADATA_KEY
from engine.data.sources import ClassIndex
from engine.data.trees import scan_split, shown
from engine.errors import UserError

IMAGE_NAMES = ("images", "image", "image_syn", "images_syn", "syn_images", "imgs", "data", "x")
LABEL_NAMES = ("labels", "label", "label_syn", "labels_syn", "syn_labels", "targets", "target", "y")
SOFT_LABEL_NAMES = ("soft_labels", "soft_label", "softlabels", "logits", "probabilities")
SMALLEST_PROBABILITY = 1e-8  # its logarithm stands for that of zero
CUT_TOLD = 0.001  # part of the pixel values that may lie outside of what pixels can be before a note says so

# What a damaged or foreign file raises in torch and numpy.
MALFORMED = (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError, struct.error)

Statistics = Callable[[], tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class Target:
    """The dataset whose condensed set an import is to be."""

    name: str
    classes: ClassIndex
    resolution: int  # px
    bordered: bool  # whether its own 28 px images get a border of 2 px rather than being enlarged
    statistics: Statistics  # mean and deviation by channel in [0, 1], asked only where pixels are normalised


@dataclass(frozen=True)
class Imported:
    """Images uint8 (N, 3, R, R) with labels int64 (N,), class after class, as many of each; soft labels float32 logits (N, classes)."""

    images: np.ndarray
    labels: np.ndarray
    soft_labels: np.ndarray | None
    notes: tuple[str, ...]  # what was found out or changed, each a clause

    @property
    def ipc(self) -> int:
        """Return the number of images of each class."""
        return int((self.labels == self.labels[0]).sum())


@dataclass
class _Found:
    """What a file or folder holds, as far as it has been understood."""

    images: np.ndarray  # uint8 (N, 3, H, W)
    labels: np.ndarray
    soft_labels: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


def read_imported(path: Path, target: Target, soft_labels: Path | None = None) -> Imported:
    """Read the condensed set at `path`, a folder or a file, for the dataset `target`.

    `soft_labels` is a file of logits or probabilities (N, classes) in the order of the images: that of the file, or for a folder class
    after class and by file name within. Raises UserError in one line when something does not fit or can be read in two ways.
    """
    try:
        found = _read(path, target)
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror or error}") from error
    given = found.soft_labels if soft_labels is None else _array(soft_labels, SOFT_LABEL_NAMES)
    if given is not None:
        found.soft_labels = _as_logits(given, found, soft_labels or path, target)
    _check_balance(found.labels, path, target)
    order = np.argsort(found.labels, kind="stable")
    soft = None if found.soft_labels is None else found.soft_labels[order]
    return Imported(np.ascontiguousarray(found.images[order]), found.labels[order], soft, tuple(found.notes))


def _read(path: Path, target: Target) -> _Found:
    if path.is_dir():
        ours = (path / "summary.json").is_file() or (path / FILE_NAME).is_file()
        return _of_condensed(CondensedDataset.open(path), path, target) if ours else _read_folder(path, target)
    if not path.is_file():
        raise UserError(f"there is no {shown(path)}: give a folder of images, a run, or a .safetensors, .pt or .npz file")
    if path.suffix == ".safetensors" and _is_condensed(path):
        return _of_condensed(read_condensed(path), path, target)
    return _of_values(_load(path), path, target)


def _is_condensed(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, "pt") as tensors:
            return METADATA_KEY in (tensors.metadata() or {})
    except safetensors.SafetensorError as error:
        raise UserError(f"{shown(path)} is damaged or no safetensors file: {shown(str(error))}") from error


def _of_condensed(given: CondensedDataset, path: Path, target: Target) -> _Found:
    """Take over a set of our own, whose classes have names and may be in another order."""
    names, wanted = given.classes.names, target.classes.names
    if set(names) != set(wanted):
        raise UserError(f"{shown(path)} is condensed from other classes ({_listed(names)}) than {target.name} has ({_listed(wanted)})")
    place = np.array([wanted.index(name) for name in names])
    notes = [] if names == wanted else [f"its classes were brought into the order of {target.name}"]
    soft = None
    if given.soft_labels is not None:
        soft = np.empty_like(given.soft_labels.numpy())
        soft[:, place] = given.soft_labels.numpy()
    images = _fitted(given.images.numpy(), target, notes)
    return _Found(images, place[given.labels.numpy()], soft, notes)


def _read_folder(path: Path, target: Target) -> _Found:
    """Read a tree `<class>/<images>`, also one that lies below `train`."""
    tree, notes = scan_split(path), []
    if "train" in tree and set(tree) <= {"train", "test", "val"} and "train" not in target.classes.names:
        path, notes = path / "train", ["its images are those of train"]
        tree = scan_split(path)
    tree = {name: files for name, files in tree.items() if files}
    if not tree:
        raise UserError(f"{shown(path)} has no images in its folders: expected one folder of images for each class")
    labels, scheme = folder_labels(list(tree), target.classes.names, path, target.name)
    if scheme:
        notes.append(scheme)
    ordered = sorted(tree, key=labels.__getitem__)
    files = [file for name in ordered for file in tree[name]]
    sizes = {size for file in files if (size := _size(file)) is not None}
    images = np.stack([_decoded(file, target) for file in files])
    if sizes != {(target.resolution, target.resolution)}:
        notes.append(_resized(sizes, target))
    return _Found(images, np.repeat([labels[name] for name in ordered], [len(tree[name]) for name in ordered]), None, notes)


def _size(file: str) -> tuple[int, int] | None:
    """Return an image file's width and height; None where it cannot be read, which decoding it tells better."""
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _decoded(file: str, target: Target) -> np.ndarray:
    """Decode a file to uint8 (3, R, R) as the dataset's own images are."""
    bordered = target.bordered and _size(file) == (28, 28)
    image = decode_image(file, 28 if bordered else target.resolution)
    return fit_array(image[None], target.resolution)[0] if bordered else image


def _fitted(images: np.ndarray, target: Target, notes: list[str]) -> np.ndarray:
    """Bring uint8 images (N, 3, H, W) to the side of the dataset's, as its own are brought there."""
    height, width = images.shape[2:]
    side = target.resolution
    if (height, width) == (side, side):
        return images
    notes.append(_resized({(width, height)}, target))
    if height == width == 28 and target.bordered:
        return fit_array(images, side)
    pictures = (Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in images)
    return np.stack([np.asarray(fit_image(picture, side)).transpose(2, 0, 1) for picture in pictures])


def _resized(sizes: set[tuple[int, int]], target: Target) -> str:
    """Say from which sizes (width, height) images were brought to the dataset's."""
    if sizes == {(28, 28)} and target.bordered:
        return f"its images of 28 px got a border, as those of {target.name} do, to {target.resolution} px"
    some = sorted(f"{width} x {height}" for width, height in sizes)
    return f"its images of {', '.join(some[:3])}{' and other sizes' if len(some) > 3 else ''} px were resized to {target.resolution} px"


def _load(path: Path) -> Any:
    """Load a tensor file as it is, without executing anything in it."""
    kind = path.suffix.lower()
    try:
        if kind in (".pt", ".pth"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of the format of a file that is refused in one line below
                return torch.load(path, map_location="cpu", weights_only=True)
        if kind == ".safetensors":
            with safetensors.safe_open(path, "pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        if kind in (".npz", ".npy"):
            loaded = np.load(path, allow_pickle=False)
            return dict(loaded) if kind == ".npz" else loaded
    except pickle.UnpicklingError as error:
        right = "save them as torch.save({'images': …, 'labels': …})"
        raise UserError(f"{shown(path)} holds more than tensors, or is damaged, and is not opened: {right}") from error
    except (safetensors.SafetensorError, zipfile.BadZipFile, *MALFORMED) as error:
        first = re.split(r"[.:\n]", str(error), maxsplit=1)[0][:100]
        reason = "" if isinstance(error, LookupError) or not first else f": {shown(first)}"
        raise UserError(f"{shown(path)} is damaged or of another format{reason}") from error
    raise UserError(f"{shown(path)}: expected a folder of images, a run, or a .safetensors, .pt, .pth or .npz file")


def _of_values(values: Any, path: Path, target: Target) -> _Found:
    """Find images and labels in what a tensor file holds: by common names, or as a pair or triple."""
    notes: list[str] = []
    images, labels, soft = _parts(values, path)
    if labels is None:
        raise UserError(f"{shown(path)} has images but no labels; expected one of {', '.join(LABEL_NAMES)} beside them")
    pixels = _fitted(_pixels(images, path, target, notes), target, notes)
    classes = len(target.classes)
    if labels.ndim == 2 and labels.shape[1] == classes and classes > 1:
        if not _one_hot(labels):
            soft = labels if soft is None else soft
        labels = labels.argmax(1)
    return _Found(pixels, _whole_labels(labels, len(pixels), path, target), soft, notes)


def _parts(values: Any, path: Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return images, labels and soft labels, the last two None where there are none."""
    if isinstance(values, Mapping):
        named = {str(name).lower(): value for name, value in values.items()}
        inner = named.get("data")
        if isinstance(inner, list | tuple) and not any(name in named for name in IMAGE_NAMES if name != "data"):
            if len(inner) != 1:
                raise UserError(f"{shown(path)} holds {len(inner)} condensed sets; save one of them as a pair of images and labels")
            return _parts(inner[0], path)  # the list of experiments of Dataset Condensation
        found = [_named(named, names) for names in (IMAGE_NAMES, LABEL_NAMES, SOFT_LABEL_NAMES)]
        if found[0] is None:
            there = _listed(list(named)) or "nothing"
            raise UserError(f"{shown(path)} has no images: expected one of {', '.join(IMAGE_NAMES)}, found {there}")
        return found[0], found[1], found[2]
    if isinstance(values, list | tuple) and 2 <= len(values) <= 3:
        images, labels, *soft = (_as_array(value) for value in values)
        if images is not None and labels is not None:
            return images, labels, soft[0] if soft else None
    beside = path.with_name(path.name.replace("images", "labels"))
    if (alone := _as_array(values)) is not None and beside != path and beside.is_file():
        labels = _as_array(_load(beside))  # images_best.pt and labels_best.pt of trajectory matching
        return alone, labels, None
    raise UserError(f"{shown(path)}: expected images and labels under names, or as a pair")


def _named(named: Mapping[str, Any], names: Iterable[str]) -> np.ndarray | None:
    arrays = (_as_array(named[name]) for name in names if name in named)
    return next((array for array in arrays if array is not None), None)


def _as_array(value: Any) -> np.ndarray | None:
    """Return a tensor, array or list of numbers as an array; None where it is something else."""
    if isinstance(value, Tensor):
        value = value.detach()
        return (value.float() if value.is_floating_point() else value).numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value
    if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
        return np.array(value)
    return None


def _pixels(images: np.ndarray, path: Path, target: Target, notes: list[str]) -> np.ndarray:
    """Return images of another tool as uint8 (N, 3, H, W), whatever their layout and range."""
    shape = images.shape
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise UserError(f"{shown(path)}: its images have the shape {shape}; expected (N, 3, H, W) or (N, 1, H, W)")
    images = np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images
    if images.dtype == bool:
        raise UserError(f"{shown(path)}: its images are true or false; expected whole numbers from 0 to 255 or fractions")
    if images.dtype == np.uint8:
        return images
    if not np.isfinite(images).all():
        raise UserError(f"{shown(path)}: a pixel is not a finite number")
    low, high = float(images.min()), float(images.max())
    if low >= 0 and (high > 1 or images.dtype.kind != "f") and high <= 255:
        notes.append("its pixels were taken for values from 0 to 255")
        return np.rint(images).astype(np.uint8)
    if low >= 0 and high <= 1:
        notes.append("its pixels were taken for values from 0 to 1")
        return np.rint(images.astype(np.float64) * 255).astype(np.uint8)
    if low >= -1 and high <= 1:
        raise UserError(f"{shown(path)}: pixels from {low:.2f} to {high:.2f} may be scaled to -1..1 or normalised; save them in 0..1")
    if images.dtype.kind != "f" or high > 255:
        raise UserError(f"{shown(path)}: pixels from {low:g} to {high:g} are neither 0..255 nor 0..1 nor normalised")
    mean, deviation = (np.asarray(values, dtype=np.float64).reshape(1, 3, 1, 1) for values in target.statistics())
    scaled = images * deviation + mean
    outside = float(((scaled < -0.5 / 255) | (scaled > 1 + 0.5 / 255)).mean())
    cut = f", {outside:.1%} of which lay beyond black or white and were cut" if outside > CUT_TOLD else ""
    notes.append(f"its pixels were taken for normalised by the mean and deviation of {target.name}{cut}")
    return np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)


def _one_hot(labels: np.ndarray) -> bool:
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all())


def _whole_labels(labels: np.ndarray, count: int, path: Path, target: Target) -> np.ndarray:
    """Return labels int64 (N,), checked."""
    flat = labels.reshape(-1) if labels.shape in ((count,), (count, 1)) else None
    if flat is None:
        raise UserError(f"{shown(path)}: its labels have the shape {labels.shape}; expected ({count},) for its {count} images")
    if (flat != np.rint(flat)).any() or flat.min() < 0 or flat.max() >= len(target.classes):
        right = f"expected whole numbers from 0 to {len(target.classes) - 1}, the classes of {target.name}"
        raise UserError(f"{shown(path)}: its labels go from {flat.min():g} to {flat.max():g}; {right}")
    return flat.astype(np.int64)


def _array(path: Path, names: Sequence[str]) -> np.ndarray:
    """Return the one array of a file, or the one under one of the names."""
    if not path.is_file():
        raise UserError(f"there is no file {shown(path)}")
    values = _load(path)
    if isinstance(values, Mapping):
        named = {str(name).lower(): value for name, value in values.items()}
        found = _named(named, names)
        values = found if found is not None else next(iter(named.values())) if len(named) == 1 else None
    array = _as_array(values)
    if array is None:
        raise UserError(f"{shown(path)} has no soft labels: expected one of {', '.join(names)}")
    return array


def _as_logits(soft: np.ndarray, found: _Found, path: Path, target: Target) -> np.ndarray:
    """Return soft labels as float32 logits (N, classes), checked; probabilities become their logarithms."""
    expected = (len(found.images), len(target.classes))
    if soft.shape != expected:
        raise UserError(f"{shown(path)}: its soft labels have the shape {soft.shape}; expected {expected}, one row an image")
    soft = soft.astype(np.float64)
    if not np.isfinite(soft).all():
        raise UserError(f"{shown(path)}: a soft label is not a finite number")
    if soft.min() >= 0 and np.allclose(soft.sum(1), 1, atol=2e-3):
        found.notes.append("its soft labels are probabilities, whose logarithms are used")
        soft = np.log(soft.clip(SMALLEST_PROBABILITY))
    agreeing = int((soft.argmax(1) == found.labels).sum())
    if agreeing * 2 < len(soft):
        few = f"only {agreeing} of its {len(soft)} soft labels name the class of their image"
        found.notes.append(f"{few}: is their order of classes another?")
    return soft.astype(np.float32)


def _check_balance(labels: np.ndarray, path: Path, target: Target) -> None:
    """Refuse a set with more images of one class than of another, naming the counts."""
    counts = np.bincount(labels, minlength=len(target.classes)).tolist()
    if len(set(counts)) == 1:
        return
    usual = max(set(counts), key=counts.count)
    alone = counts.count(usual) == 1
    odd = [f"{name} {count}" for name, count in zip(target.classes.names, counts, strict=True) if alone or count != usual]
    rest = f", the others {usual}" if len(odd) < len(counts) else ""
    raise UserError(f"{shown(path)}: every class needs as many images as the others: {_listed(odd, 12)}{rest}")


def _listed(names: Sequence[str], limit: int = 4) -> str:
    shown_names = [shown(re.sub(r"\s+", " ", str(name))) for name in names[:limit]]
    return ", ".join(shown_names) + (f" and {len(names) - limit} more" if len(names) > limit else "")
