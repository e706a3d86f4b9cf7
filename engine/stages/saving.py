"""How finished images are kept: the tensor file always, PNG or JPEG files beside it on request."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.data.class_folders import safe_name
from engine.data.condensed import contact_sheet, write_condensed
from engine.data.sources import ClassIndex
from engine.data.store import ImageStore
from engine.files import write_bytes

IMAGES_ON_SHEET = 10
PREVIEW = "preview.safetensors"


def encode(image: Tensor, kind: str, quality: int) -> bytes:
    """Return a uint8 image (3, H, W) as the bytes of a PNG or JPEG file."""
    buffer = io.BytesIO()
    options = {"quality": quality} if kind == "jpeg" else {}
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format=kind.upper(), **options)
    return buffer.getvalue()


def as_saved(images: Tensor, save: dict[str, Any]) -> Tensor:
    """Return uint8 images (N, 3, H, W) as they come back from the format asked for: JPEG loses, the others do not (defect D21)."""
    if save["save.format"] != "jpeg":
        return images
    decoded = [np.asarray(Image.open(io.BytesIO(encode(image, "jpeg", save["save.quality"])))) for image in images]
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()


def save_images(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    store: ImageStore,
    save: dict[str, Any] | None,
    facts: dict[str, Any],
    soft_labels: Tensor | None = None,
) -> None:
    """Write uint8 images (N, 3, H, W) with their labels to `images.safetensors`, and where they are final also for people.

    `soft_labels` are logits (N, classes) that came with the images. `save` holds the `save.*` settings of final images (contact sheet,
    files on request), or is None for images on their way.
    """
    kept = as_saved(images, save) if save else images
    about = {"classes": store.classes, "mean": store.mean, "std": store.std, "metadata": facts}
    write_condensed(folder, kept, labels, **about, soft_labels=soft_labels)
    if save:
        contact_sheet(kept, labels, store.classes, folder / "contact-sheet.png", columns_limit=IMAGES_ON_SHEET)
        if save["save.format"] != "tensor":
            write_image_files(folder / save["save.format"], images, labels, store.classes, save)


def save_preview(folder: Path, images: Tensor, labels: Tensor, store: ImageStore, *, iteration: int, iterations: int) -> None:
    """Write uint8 images (N, 3, H, W) that are still being made to `preview.safetensors`, until they are finished."""
    facts = {"iteration": iteration, "iterations": iterations}
    write_condensed(folder, images, labels, classes=store.classes, mean=store.mean, std=store.std, metadata=facts, name=PREVIEW)


def write_image_files(folder: Path, images: Tensor, labels: Tensor, classes: ClassIndex, save: dict[str, Any]) -> None:
    """Write one file an image as `<label>_<class>/<number>.<ending>`."""
    kind = save["save.format"]
    numbers = [0] * len(classes)
    for image, label in zip(images, labels.tolist(), strict=True):
        target = folder / f"{label:0{len(str(len(classes) - 1))}d}_{safe_name(classes.names[label])}"
        target.mkdir(parents=True, exist_ok=True)
        write_bytes(target / f"{numbers[label]:04d}.{'png' if kind == 'png' else 'jpg'}", encode(image, kind, save["save.quality"]))
        numbers[label] += 1
