"""Which encoded images a dataset has, class by class, wherever they lie: in folders, in a zip file, in ImageNet's tar archives.

Images of a class are always sorted by file name, so that a tree and the archive it was unpacked from give the same images in the same
order. Classes are asked for one at a time: the names of a million files never have to be held together.
"""

import io
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.data import archives, trees
from engine.data.archives import reading, reference
from engine.data.trees import shown
from engine.errors import UserError

IMAGES = "images"  # the folder in which Tiny-ImageNet keeps the images of a class
ANNOTATIONS = "val_annotations.txt"
VALIDATION_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
SPLITS_21K = {"imagenet21k_train": "train", "imagenet21k_val": "test"}


@dataclass(frozen=True)
class Listing:
    """The encoded images of both splits.

    classes: in label order. files: references of the images of (split, class), sorted by file name. places: what to name in messages.
    words: the file of readable titles, None where there is none. folders: of a tree, the folders whose times change with their content.
    """

    classes: tuple[str, ...]
    files: Callable[[str, str], list[str]]
    places: Mapping[str, Path]
    words: Path | None = None
    folders: tuple[Path, ...] = ()


def listing(layout: str, paths: Mapping[str, Path], expected: Sequence[str] | None, *, part: bool = False) -> Listing:
    """Look at the images of a layout; `expected` are the classes in label order, None to take them as they are, sorted.

    With `part` further classes are left aside. Raises UserError naming what is missing, damaged or differs between the splits.
    """
    return LISTINGS[layout](paths, expected, part)


def _tree(paths: Mapping[str, Path], expected: Sequence[str] | None, part: bool) -> Listing:
    names = trees.check_classes(*(trees.class_folders(paths[split]) for split in ("train", "test")), paths, expected, part=part)
    folders = tuple(paths[split] / name for split in ("train", "test") for name in names)
    return Listing(tuple(names), lambda split, name: trees.image_files(paths[split] / name), paths, folders=folders)


def _tiny_tree(paths: Mapping[str, Path], expected: Sequence[str] | None, part: bool) -> Listing:
    annotated = paths["test"] / ANNOTATIONS
    known = _known_classes(paths["train"].parent / "wnids.txt") if expected is None else expected
    by_class: dict[str, list[str]] | None = None
    if (paths["test"] / IMAGES).is_dir() and annotated.is_file():
        by_class = {}
        for file, name in _annotations(annotated.read_text(encoding="utf-8", errors="replace"), annotated):
            by_class.setdefault(name, []).append(os.path.join(paths["test"], IMAGES, file))  # noqa: PTH118 - as all references
        test = list(by_class)
    else:
        test = trees.class_folders(paths["test"])
    names = trees.check_classes(trees.class_folders(paths["train"]), test, paths, known, part=part)

    def folder(split: str, name: str) -> Path:
        inner = paths[split] / name / IMAGES
        return inner if inner.is_dir() else paths[split] / name

    def files(split: str, name: str) -> list[str]:
        if split == "test" and by_class is not None:
            return sorted(by_class[name])
        return trees.image_files(folder(split, name))

    words = paths["train"].parent / "words.txt"
    splits = ["train"] if by_class is not None else ["train", "test"]
    folders = [folder(split, name) for split in splits for name in names] + ([paths["test"] / IMAGES] if by_class is not None else [])
    return Listing(tuple(names), files, paths, words if words.is_file() else None, tuple(folders))


def _known_classes(path: Path) -> list[str] | None:
    """Return the classes that Tiny-ImageNet's `wnids.txt` lists, sorted, as image folders are; None without the file."""
    return sorted(path.read_text(encoding="utf-8").split()) if path.is_file() else None


def _annotations(text: str, path: Path) -> list[tuple[str, str]]:
    """Return file and class of each line of `val_annotations.txt`: name, class, and a box that does not matter, with tabs between."""
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    if any(len(row) < 2 or "/" in row[0] or not trees.is_image_name(row[0]) for row in rows) or not rows:
        raise UserError(f"{shown(path)} is damaged: expected lines of a file name, a class and a box, with tabs between")
    return [(row[0], row[1].strip()) for row in rows]


def _tiny_zip(paths: Mapping[str, Path], expected: Sequence[str] | None, part: bool) -> Listing:
    path = paths["archive"]
    images: dict[tuple[str, str], list[str]] = {}
    validation: dict[str, str] = {}
    texts: dict[str, str] = {}
    with reading(path), zipfile.ZipFile(path) as archive:
        for name, member in archives.zip_members(path):
            parts = name.split("/")
            parts = parts[1:] if parts[0] not in ("train", "val") and len(parts) > 1 else parts
            if parts[-1] in (ANNOTATIONS, "wnids.txt"):
                texts[parts[-1]] = archive.read(member).decode("utf-8", "replace")
            elif trees.is_image_name(parts[-1]) and parts[0] in ("train", "val"):
                image = archives.zip_reference(path, name, member)
                inner = [word for word in parts[1:-1] if word != IMAGES]
                if len(inner) == 1:
                    images.setdefault(("train" if parts[0] == "train" else "test", inner[0]), []).append(image)
                elif parts[:2] == ["val", IMAGES]:
                    validation[parts[-1]] = image
    where = {"train": path, "test": path}
    if validation:
        for file, name in _annotations(texts.get(ANNOTATIONS, ""), Path(ANNOTATIONS)):
            if file not in validation:
                raise UserError(f"{shown(path)} is incomplete: {shown(file)} of {ANNOTATIONS} is not in it")
            images.setdefault(("test", name), []).append(validation[file])
    known = sorted(texts["wnids.txt"].split()) if "wnids.txt" in texts and expected is None else expected
    train, test = ([name for split, name in images if split == wanted] for wanted in ("train", "test"))
    if not train or not test:
        raise UserError(f"{shown(path)} is not the archive of Tiny-ImageNet: expected train/<class>/images/… and val/images/… in it")
    names = trees.check_classes(train, test, where, known, part=part)
    return Listing(tuple(names), lambda split, name: sorted(images[split, name], key=archives.file_name), where)


def _imagenet_tars(paths: Mapping[str, Path], expected: Sequence[str] | None, part: bool) -> Listing:
    """The training archive holds an archive for each class, the validation archive files whose classes the development kit tells."""
    with reading(paths["train"]):
        outer = tarfile.open(paths["train"], "r:")  # noqa: SIM115 - stays open for as long as its parts may be asked for
        classes = {
            Path(name).stem: member for name, member in archives.tar_members(outer, paths["train"]) if name.endswith(".tar")
        }
    truth = _ground_truth(paths["devkit"])
    validation: dict[str, list[str]] = {}
    with reading(paths["test"]), tarfile.open(paths["test"], "r:") as archive:
        for name, member in archives.tar_members(archive, paths["test"]):
            number = VALIDATION_NUMBER.fullmatch(name.rpartition("/")[2])
            if number is None or not 1 <= int(number[1]) <= len(truth):
                raise UserError(f"{shown(paths['test'])}: {shown(name)} is none of the {len(truth)} images that the development kit knows")
            image = reference(paths["test"], name, member.offset_data, member.size)
            validation.setdefault(truth[int(number[1]) - 1], []).append(image)
    names = trees.check_classes(list(classes), list(validation), paths, expected, part=part)

    def files(split: str, name: str) -> list[str]:
        if split == "test":
            return sorted(validation[name], key=archives.file_name)
        with reading(paths["train"]), tarfile.open(fileobj=outer.extractfile(classes[name]), mode="r:") as inner:
            start = classes[name].offset_data
            images = [
                reference(paths["train"], own, start + member.offset_data, member.size)
                for own, member in archives.tar_members(inner, paths["train"])
                if trees.is_image_name(own)
            ]
        return sorted(images, key=archives.file_name)

    return Listing(tuple(names), files, paths)


def _ground_truth(path: Path) -> list[str]:
    """Return the WordNet number of each validation image, from the development kit: its table of classes and its list of their numbers."""
    from scipy.io import loadmat  # heavy, and only needed for the original archives
    from scipy.io.matlab import MatReadError

    found: dict[str, bytes] = {}
    with reading(path), tarfile.open(path, "r:*") as archive:
        for name, member in archives.tar_members(archive, path):
            if (last := name.rpartition("/")[2]) in (META, TRUTH):
                found[last] = archive.extractfile(member).read()
    try:
        table = loadmat(io.BytesIO(found[META]), squeeze_me=True)["synsets"]
        leaves = {
            int(number): str(name)
            for number, name, children in zip(table["ILSVRC2012_ID"], table["WNID"], table["num_children"], strict=True)
            if int(children) == 0
        }
        return [leaves[int(line)] for line in found[TRUTH].split()]
    except (KeyError, ValueError, TypeError, IndexError, MatReadError, OSError) as error:
        problem = f"{type(error).__name__}: {shown(str(error))}"
        raise UserError(f"{shown(path)} is not the development kit of ILSVRC 2012 or is damaged ({problem})") from error


def _imagenet_21k_tar(paths: Mapping[str, Path], expected: Sequence[str] | None, part: bool) -> Listing:
    path = paths["archive"]
    lines: dict[tuple[str, str], bytearray] = {}  # of millions of members: name, place and size, and no object for each
    with reading(path), tarfile.open(path, "r:") as archive:
        for name, member in archives.tar_members(archive, path):
            parts = name.split("/")
            if len(parts) >= 3 and parts[-3] in SPLITS_21K and trees.is_image_name(parts[-1]):
                line = f"{name}\0{member.offset_data}\0{member.size}\n"
                lines.setdefault((SPLITS_21K[parts[-3]], parts[-2]), bytearray()).extend(line.encode("utf-8", "surrogateescape"))
    train, test = ([name for split, name in lines if split == wanted] for wanted in ("train", "test"))
    if not train or not test:
        wanted = "imagenet21k_train/<number>/… and imagenet21k_val/<number>/…"
        raise UserError(f"{shown(path)} is not the processed ImageNet-21K-P: expected {wanted} in it")
    where = {"train": path, "test": path}
    names = trees.check_classes(train, test, where, expected, part=part)

    def files(split: str, name: str) -> list[str]:
        rows = (line.split("\0") for line in lines[split, name].decode("utf-8", "surrogateescape").split("\n")[:-1])
        return sorted((reference(path, own, int(offset), int(size)) for own, offset, size in rows), key=archives.file_name)

    return Listing(tuple(names), files, where)


LISTINGS: dict[str, Callable[[Mapping[str, Path], Sequence[str] | None, bool], Listing]] = {
    "tree": _tree,
    "imagenet-tree": _tree,
    "tiny-tree": _tiny_tree,
    "tiny-zip": _tiny_zip,
    "imagenet-tars": _imagenet_tars,
    "imagenet-21k-tar": _imagenet_21k_tar,
}
