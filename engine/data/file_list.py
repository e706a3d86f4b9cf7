"""References of millions of images in little memory, or in none: one block of text and where each reference ends in it."""

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np


class FileList(Sequence[str]):
    """Strings that share their beginning; the rest lies in one array of bytes, which may be mapped from a file."""

    def __init__(self, prefix: str, text: np.ndarray, ends: np.ndarray) -> None:
        """`text` uint8 holds what follows `prefix` of all strings, in UTF-8; `ends` int64 (N,) where each one ends."""
        self.prefix, self.text, self.ends = prefix, text, ends

    @classmethod
    def of(cls, strings: Iterable[str], prefix: str) -> "FileList":
        """Take up strings that all begin with `prefix`; raises ValueError where one does not."""
        text, ends = bytearray(), array("q")
        for string in strings:
            if not string.startswith(prefix):
                raise ValueError(f"{string!r} does not begin with {prefix!r}")
            text += string[len(prefix) :].encode("utf-8", "surrogateescape")
            ends.append(len(text))
        return cls(prefix, np.frombuffer(text, dtype=np.uint8), np.frombuffer(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = int(self.ends[index - 1]) if index else 0
        return self.prefix + self.text[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def save(self, folder: Path, name: str) -> None:
        """Write `<name>.files.npy` and `<name>.ends.npy`; the prefix is for the caller to keep."""
        np.save(folder / f"{name}.files.npy", self.text)
        np.save(folder / f"{name}.ends.npy", self.ends)

    @classmethod
    def load(cls, folder: Path, name: str, prefix: str) -> "FileList":
        """Map what `save` wrote; raises OSError or ValueError where the files are damaged."""
        text, ends = (np.load(folder / f"{name}.{part}.npy", mmap_mode="r", allow_pickle=False) for part in ("files", "ends"))
        if text.dtype != np.uint8 or ends.dtype != np.int64 or (len(ends) and int(ends[-1]) != len(text)):
            raise ValueError(f"{name} has {len(text)} bytes of file names")
        return cls(prefix, text, ends)
