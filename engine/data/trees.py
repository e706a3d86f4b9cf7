"""Image trees `train/<class>/*` and `test/<class>/*`: which classes and files they hold, always in the same order."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from engine.errors import UserError

# What Pillow reads. A file with another extension is not an image (a list, a readme) and is left alone.
IMAGE_EXTENSIONS = frozenset(
    (
        *("apng", "avif", "avifs", "blp", "bmp", "bw", "dds", "dib", "gif", "icns", "ico", "im", "j2c", "j2k", "jfif", "jp2", "jpc"),
        *("jpe", "jpeg", "jpf", "jpg", "jpx", "pbm", "pcx", "pfm", "pgm", "png", "pnm", "ppm", "psd", "qoi", "ras", "rgb", "rgba"),
        *("sgi", "tga", "tif", "tiff", "webp", "xbm", "xpm"),
    )
)


def shown(name: str | Path) -> str:
    """Return a name or path as it can stand in a one-line message: as it is, or quoted and escaped where it is not printable."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def scan_split(folder: Path) -> dict[str, list[str]]:
    """List one split: `{class name: [file path, ...]}`, classes and files sorted by name, hidden and non-image files left out.

    Raises UserError when there is no class folder or a class folder's name is not UTF-8.
    """
    return {name: image_files(folder / name) for name in class_folders(folder)}


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders of a split, sorted; raises UserError when there is none or a name is not UTF-8."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    if not names:
        raise UserError(f"{shown(folder)} has no class folders: expected one folder of images for each class")
    for name in names:
        if not name.isprintable() and any("\ud800" <= character <= "\udfff" for character in name):
            raise UserError(f"{shown(folder)}: class folder {name!r} has a name that is not UTF-8: rename it")
    return names


def image_files(folder: Path) -> list[str]:
    """Return the paths of a folder's images, sorted by name."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if is_image_name(entry.name) and entry.is_file())
    return [os.path.join(folder, name) for name in names]  # noqa: PTH118 - a million Path objects would cost gigabytes


def is_image_name(name: str) -> bool:
    """Say whether a file's name is that of an image."""
    return not name.startswith(".") and name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def check_classes(
    train: Collection[str], test: Collection[str], places: Mapping[str, Path], expected: Sequence[str] | None, *, part: bool = False
) -> list[str]:
    """Return the class names in label order: `expected` where the dataset fixes an order, else sorted by name.

    `train` and `test` are the classes that the two splits have, `places` where, for messages. With `part` further ones are left aside.
    Raises UserError naming the classes when train and test differ, or differ from `expected`.
    """
    names = sorted(train) if expected is None else list(expected)
    if part:
        train, test = set(train) & set(names), set(test) & set(names)
    if set(train) != set(names):
        raise UserError(f"{shown(places['train'])} has other classes than expected: {_difference(set(train), set(names))}")
    if set(train) != set(test):
        difference = _difference(set(test), set(train))
        raise UserError(f"{shown(places['test'])} must have the same class folders as {shown(places['train'])}: {difference}")
    return names


def check_not_empty(counts: Mapping[str, Sequence[int]], names: Sequence[str], places: Mapping[str, Path]) -> None:
    """Raise UserError naming the classes that have no image in a split; `counts` are images by split and class."""
    for split, numbers in counts.items():
        empty = [name for name, number in zip(names, numbers, strict=True) if not number]
        if empty:
            raise UserError(f"no image in class {_names(empty)} of {shown(places[split])}: every class needs at least one")


def _difference(found: set[str], wanted: set[str]) -> str:
    parts = [("missing", wanted - found), ("not expected", found - wanted)]
    return "; ".join(f"{word}: {_names(sorted(names))}" for word, names in parts if names)


def _names(names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more
