"""Readers of the forms in which datasets lie on disk; each gives the training and the test split, decoded or as file names."""

import csv
import gzip
import hashlib
import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from engine.data.archives import reading, tar_members
from engine.data.file_list import FileList
from engine.data.listing import LISTINGS, listing
from engine.data.trees import shown
from engine.errors import UserError

DIGITS_SPLIT_SEED = 0


@dataclass(frozen=True)
class RawSplit:
    """One split as it lies on disk: `images` uint8 (N, H, W) or (N, 3, H, W), or N references; `labels` int64 (N,), rising with those."""

    images: np.ndarray | FileList
    labels: np.ndarray


def read_layout(layout: str, paths: Mapping[str, Path], classes: Sequence[str]) -> tuple[RawSplit, RawSplit]:
    """Read the training and the test split of a layout.

    Raises UserError naming the file that is damaged, is of another kind, or has a label that is not one of the classes.
    """
    train, test = _references(layout, paths, classes) if layout in LISTINGS else READERS[layout](paths, classes)
    for name, split in (("training", train), ("test", test)):
        if len(split.labels) != len(split.images):
            raise UserError(f"{_where(paths)}: {len(split.images)} {name} images but {len(split.labels)} labels")
        if not len(split.labels):
            raise UserError(f"{_where(paths)}: no {name} images")
        if split.labels.min() < 0 or split.labels.max() >= len(classes):
            raise UserError(f"{_where(paths)}: a {name} label lies outside 0..{len(classes) - 1}")
    return train, test


def _where(paths: Mapping[str, Path]) -> str:
    return shown(next(iter(paths.values())).parent)


def _references(layout: str, paths: Mapping[str, Path], classes: Sequence[str]) -> tuple[RawSplit, RawSplit]:
    listed = listing(layout, paths, classes, part=True)
    prefix = os.path.commonprefix([str(path) for path in paths.values()])

    def read(split: str) -> RawSplit:
        counts: list[int] = []

        def images() -> Iterator[str]:
            for name in classes:
                files = listed.files(split, name)
                counts.append(len(files))
                yield from files

        references = FileList.of(images(), prefix)
        return RawSplit(references, np.repeat(np.arange(len(classes)), counts))

    return read("train"), read("test")


def _read_idx(paths: Mapping[str, Path], classes: Sequence[str]) -> tuple[RawSplit, RawSplit]:
    def read(split: str) -> RawSplit:
        return RawSplit(read_idx(paths[f"{split}-images"], 3), read_idx(paths[f"{split}-labels"], 1).astype(np.int64))

    return read("train"), read("test")


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzip, as uint8 with that many dimensions; UserError names a damaged file."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{shown(path)} is damaged or cannot be read: {error}") from error
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes((0, 0, 8, dimensions)):
        raise UserError(f"{shown(path)} is not an IDX file of unsigned bytes with {dimensions} dimension{'s' * (dimensions > 1)}")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, 4))
    expected = int(np.prod(shape, dtype=object))
    if len(data) - header != expected:
        raise UserError(f"{shown(path)} is damaged: its header tells of {expected} bytes, {len(data) - header} follow")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read_digits(paths: Mapping[str, Path], classes: Sequence[str]) -> tuple[RawSplit, RawSplit]:
    """Rows of 64 grey values 0..16 and the digit; a third of each class, chosen by a hash of the row number, is the test split."""
    path = paths["table"]
    try:
        with gzip.open(path, "rt", newline="") as file:
            rows = np.array([[int(value) for value in row] for row in csv.reader(file)], dtype=np.int64)
        values, labels = rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise UserError(f"{shown(path)} is not scikit-learn's table of digits: {error}") from error
    # Grey 0..16 becomes 0..255, half up: integers only, so the bytes are the same everywhere.
    images = ((values.clip(0, 16) * 255 + 8) // 16).astype(np.uint8)
    test = np.zeros(len(labels), dtype=bool)
    for label in range(len(classes)):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=_split_rank)
        test[members[: round(len(members) / 3)]] = True
    return RawSplit(images[~test], labels[~test]), RawSplit(images[test], labels[test])


def _split_rank(row: int) -> bytes:
    return hashlib.sha256(f"digits split {DIGITS_SPLIT_SEED} row {row}".encode()).digest()


@dataclass(frozen=True)
class Pickles:
    """A dataset in CIFAR's pickles: its title, the folder in its archive, the files of both splits, and the key of the labels in them."""

    title: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: str


CIFAR10 = Pickles("CIFAR-10", "cifar-10-batches-py", tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "labels")
CIFAR100 = Pickles("CIFAR-100", "cifar-100-python", ("train",), "test", "fine_labels")


def _read_cifar_folder(kind: Pickles, paths: Mapping[str, Path], classes: Sequence[str]) -> tuple[RawSplit, RawSplit]:
    def read(name: str) -> RawSplit:
        try:
            with paths[name].open("rb") as file:
                return read_cifar_batch(file, shown(paths[name]), kind)
        except OSError as error:
            raise UserError(f"{shown(paths[name])} cannot be read: {error.strerror or error}") from error

    return _join([read(name) for name in kind.train]), read(kind.test)


def _read_cifar_archive(kind: Pickles, paths: Mapping[str, Path], classes: Sequence[str]) -> tuple[RawSplit, RawSplit]:
    """Read the batches straight out of the archive: nothing is unpacked, so no member can land anywhere."""
    path = paths["archive"]
    batches = {}
    with reading(path), tarfile.open(path) as archive:
        for member_name, member in tar_members(archive, path):
            folder, _, name = member_name.rpartition("/")
            if folder == kind.folder and name in (*kind.train, kind.test):
                file = archive.extractfile(member)
                batches[name] = read_cifar_batch(io.BytesIO(file.read()), f"{name} in {shown(path)}", kind)
    missing = [name for name in (*kind.train, kind.test) if name not in batches]
    if missing:
        raise UserError(f"{shown(path)} is not the {kind.title} archive for Python: no {kind.folder}/{missing[0]} in it")
    return _join([batches[name] for name in kind.train]), batches[kind.test]


def _join(parts: Sequence[RawSplit]) -> RawSplit:
    return RawSplit(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def read_cifar_batch(file: IO[bytes], name: str, kind: Pickles = CIFAR10) -> RawSplit:
    """Read one CIFAR batch, a pickle, without executing anything: images uint8 (N, 3, 32, 32), labels int64 (N,).

    Raises UserError with `name` when the pickle asks for anything but a uint8 array, or is not a batch.
    """
    try:
        batch = _BatchUnpickler(file, encoding="latin1").load()
        images, labels = batch["data"].values, np.array(batch[kind.labels], dtype=np.int64)
        return RawSplit(images.reshape(len(labels), 3, 32, 32), labels)
    except _Refused as error:
        raise UserError(f"{name} is refused: a {kind.title} batch holds only arrays, this one asks for {error}") from error
    except Exception as error:  # a foreign pickle can fail in any way there is, and all of them mean the same
        raise UserError(f"{name} is not a {kind.title} batch or is damaged ({type(error).__name__}: {shown(str(error))})") from error


class _Refused(pickle.UnpicklingError):
    """The pickle names a function or class other than the few that an array needs."""


class _StoredType:
    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Byte order and the like, which say nothing about single bytes."""


class _StoredArray:
    """What stands in for numpy's array while a pickle loads, so that the pickle calls nothing of numpy's."""

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran_order, data = state
        if kind.code != "u1" or fortran_order:
            raise ValueError("the images are not unsigned bytes in C order")
        self.values = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, np.uint8).reshape(shape)


def _stored_array(*arguments: object) -> _StoredArray:
    return _StoredArray()


def _stored_type(code: str, *arguments: object) -> _StoredType:
    return _StoredType(code)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


# An array's pickle names these: Python 2 and old numpy the first, numpy 2 the second; Python 3 writes old-protocol bytes with the last.
_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _stored_array,
    ("numpy._core.multiarray", "_reconstruct"): _stored_array,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _stored_type,
    ("_codecs", "encode"): _latin1,
}


class _BatchUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise _Refused(shown(f"{module}.{name}"))
        return _STAND_INS[module, name]


READERS: dict[str, Callable[[Mapping[str, Path], Sequence[str]], tuple[RawSplit, RawSplit]]] = {
    "idx": _read_idx,
    "digits-table": _read_digits,
    "cifar-batches": partial(_read_cifar_folder, CIFAR10),
    "cifar-archive": partial(_read_cifar_archive, CIFAR10),
    "cifar100-batches": partial(_read_cifar_folder, CIFAR100),
    "cifar100-archive": partial(_read_cifar_archive, CIFAR100),
}
