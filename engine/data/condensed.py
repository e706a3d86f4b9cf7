"""A condensed dataset: one safetensors file that needs nothing but torch and safetensors to train on."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.utils.data import Dataset

from engine.data.class_folders import safe_name
from engine.data.header import METADATA_KEY
from engine.data.sources import ClassIndex
from engine.data.trees import shown
from engine.errors import RunError, UserError
from engine.files import read_json, replacing

FILE_NAME = "images.safetensors"
NORMALISATION = "x = (images.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)"

BACKGROUND, NAME_COLOUR, COUNT_COLOUR = "#20242c", "#e6e8ec", "#8b949e"
SMALL_SIDE, LARGE_SIDE = 64, 112  # pixels on a contact sheet: images are enlarged by whole factors up to the one, shrunk to the other
MARGIN, GAP, NAME_SIZE, COUNT_SIZE, NAME_WIDTH = 20, 4, 17, 12, 220


class CondensedDataset(Dataset):
    """Condensed images, `.images` uint8 (N, 3, H, W) and `.labels` int64 (N,), read like any torch dataset.

    `.soft_labels` are one label an image, float32 logits (N, classes), where the set came with such labels from elsewhere, else None:
    labels that this program asks of observers belong to augmented views, not to images. `.classes` names the labels; `.mean` and
    `.std` are 3 floats in [0, 1]; `.metadata` tells how the images were made. An item is a normalised image and its label.
    """

    def __init__(
        self, images: torch.Tensor, labels: torch.Tensor, *, classes: ClassIndex, mean: Sequence[float], std: Sequence[float],
        metadata: Mapping[str, Any], soft_labels: torch.Tensor | None = None,
    ) -> None:
        self.images, self.labels, self.classes, self.metadata = images, labels, classes, dict(metadata)
        self.soft_labels = soft_labels
        self.mean, self.std = tuple(mean), tuple(std)

    @classmethod
    def open(cls, path: Path | str) -> "CondensedDataset":
        """Read the condensed set of a run, given by the run's folder, or of a folder or file that holds one; else UserError."""
        path = Path(path)
        summary = path / "summary.json"
        if summary.is_file():
            path /= read_json(summary).get("condensed", {}).get("folder", "")
        return read_condensed(path)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return an image, float32 (3, H, W) in normalised units, and its label."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (self.images[index].float() / 255 - mean) / std, int(self.labels[index])

    def as_png(self, folder: Path) -> None:
        """Write `<folder>/<label>_<class>/<nnn>.png`, which sorts in label order; UserError when the folder has something in it."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{shown(folder)} exists and is not an empty folder: name another")
        numbers = [0] * len(self.classes)
        label_width = len(str(len(self.classes) - 1))
        number_width = max(3, len(str(len(self))))
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            path = folder / f"{label:0{label_width}d}_{safe_name(self.classes.names[label])}" / f"{numbers[label]:0{number_width}d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, format="PNG")
            numbers[label] += 1


def write_condensed(
    folder: Path, images: torch.Tensor | np.ndarray, labels: torch.Tensor | np.ndarray, *, classes: ClassIndex, mean: Sequence[float],
    std: Sequence[float], metadata: Mapping[str, Any], soft_labels: torch.Tensor | np.ndarray | None = None, name: str = FILE_NAME,
) -> Path:
    """Write `<folder>/<name>` and return its path; the same set gives the same bytes.

    `images` uint8 (N, 3, H, W), `labels` integers (N,) in the order of `classes`, `mean` and `std` 3 floats in [0, 1] for normalising;
    `soft_labels` finite logits (N, classes), one row an image; `metadata` any JSON values that tell how the images were made. Raises
    ValueError when shapes or labels do not fit together, and RunError when the file cannot be written.
    """
    images, labels = torch.as_tensor(images).cpu().contiguous(), torch.as_tensor(labels).cpu().to(torch.int64).contiguous()
    tensors = {"images": images, "labels": labels}
    if soft_labels is not None:
        tensors["soft_labels"] = torch.as_tensor(soft_labels).cpu().to(torch.float32).contiguous()
    _check(images, labels, tensors.get("soft_labels"), len(classes))
    facts = {
        "schema": 1, "classes": list(classes.names), "class_digest": classes.digest, "mean": [float(value) for value in mean],
        "std": [float(value) for value in std], "ipc": int(labels.bincount().max()), "normalisation": NORMALISATION,
        "provenance": dict(metadata),
    } | ({"titles": list(classes.titles)} if classes.titles else {})
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            text = json.dumps(facts, sort_keys=True)
            safetensors.torch.save_file(tensors, temporary, metadata={METADATA_KEY: text})
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"cannot write {shown(path)}: {error}") from error
    return path


def read_condensed(path: Path) -> CondensedDataset:
    """Read a condensed dataset from its file or its folder; raises UserError naming the file when it is missing or is not one."""
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"no condensed images at {shown(file)}: expected the file {FILE_NAME} of a finished run")
    try:
        with safetensors.safe_open(file, "pt") as tensors:
            facts = json.loads((tensors.metadata() or {})[METADATA_KEY])
            images, labels = tensors.get_tensor("images"), tensors.get_tensor("labels")
            soft_labels = tensors.get_tensor("soft_labels") if "soft_labels" in tensors.keys() else None  # noqa: SIM118 - no mapping
        classes = ClassIndex(*(tuple(str(name) for name in facts.get(part, ())) for part in ("classes", "titles")))
        _check(images, labels, soft_labels, len(classes))
        mean, std = ([float(value) for value in facts[name]] for name in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError("mean and std must be 3 numbers, std above 0")
        metadata = facts["provenance"]
        return CondensedDataset(images, labels, classes=classes, mean=mean, std=std, metadata=metadata, soft_labels=soft_labels)
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shown(file)} is not a condensed dataset or is damaged: {type(error).__name__}: {shown(str(error))}") from error


def _check(images: torch.Tensor, labels: torch.Tensor, soft_labels: torch.Tensor | None, class_count: int) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise ValueError(f"expected images uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise ValueError(f"expected {len(images)} integer labels, got {labels.dtype} {tuple(labels.shape)}")
    if labels.min() < 0 or labels.max() >= class_count:
        raise ValueError(f"a label lies outside 0..{class_count - 1}")
    if soft_labels is None:
        return
    if soft_labels.shape != (len(images), class_count) or not soft_labels.is_floating_point():
        raise ValueError(f"expected soft labels ({len(images)}, {class_count}), got {soft_labels.dtype} {tuple(soft_labels.shape)}")
    if not soft_labels.isfinite().all():
        raise ValueError("a soft label is not a finite number")


def contact_sheet(
    images: torch.Tensor | np.ndarray, labels: torch.Tensor | np.ndarray, classes: ClassIndex, path: Path, columns_limit: int = 10,
    rows_limit: int = 100,
) -> None:
    """Draw a PNG with one row a class, its name at the left: `images` uint8 (N, 3, H, W), `labels` integers (N,).

    Small images are enlarged by a whole factor, so that their pixels stay pixels; at most `columns_limit` images of each of the first
    `rows_limit` classes that have any. Raises RunError when the file cannot be written.
    """
    pixels, labels = torch.as_tensor(images).cpu().numpy(), torch.as_tensor(labels).cpu().numpy()
    rows = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    drawn = dict(list(rows.items())[:rows_limit])
    height, width = _sheet_size(*pixels.shape[2:])
    columns = min(columns_limit, max(len(members) for members in drawn.values()))
    name_font, count_font = (ImageFont.load_default(size) for size in (NAME_SIZE, COUNT_SIZE))
    names = {label: _shortened(classes.shown[label], name_font) for label in drawn}
    left = MARGIN + math.ceil(max(name_font.getlength(name) for name in names.values())) + MARGIN
    footer = _footer(rows, len(drawn), columns)

    right = left + columns * (width + GAP) - GAP + MARGIN
    bottom = MARGIN + len(drawn) * (height + GAP) - GAP + MARGIN + (COUNT_SIZE + MARGIN // 2 if footer else 0)
    sheet = Image.new("RGB", (max(right, MARGIN * 2 + math.ceil(count_font.getlength(footer))), bottom), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for row, (label, members) in enumerate(drawn.items()):
        top = MARGIN + row * (height + GAP)
        draw.text((left - MARGIN, top + height / 2), names[label], NAME_COLOUR, name_font, anchor="rm")
        for column, member in enumerate(members[:columns]):
            image = Image.fromarray(np.ascontiguousarray(pixels[member].transpose(1, 2, 0)))
            enlarged = width >= image.width
            image = image.resize((width, height), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
            sheet.paste(image, (left + column * (width + GAP), top))
    if footer:
        draw.text((MARGIN, bottom - MARGIN), footer, COUNT_COLOUR, count_font, anchor="ls")
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def _sheet_size(height: int, width: int) -> tuple[int, int]:
    """Return an image's height and width on the sheet, pixels."""
    longer = max(height, width)
    if longer > LARGE_SIDE:
        return max(1, height * LARGE_SIDE // longer), max(1, width * LARGE_SIDE // longer)
    factor = max(1, SMALL_SIDE // longer)
    return height * factor, width * factor


def _shortened(name: str, font: ImageFont.FreeTypeFont) -> str:
    while font.getlength(name) > NAME_WIDTH:
        name = name.rstrip("…")[:-1] + "…"
    return name


def _footer(rows: Mapping[int, np.ndarray], rows_drawn: int, columns: int) -> str:
    parts = []
    if rows_drawn < len(rows):
        parts.append(f"{rows_drawn} of {len(rows)} classes")
    most = max(len(members) for members in rows.values())
    if columns < most:
        parts.append(f"{columns} of {most} images a class")
    return "showing " + ", ".join(parts) if parts else ""
