"""Statistics tables on disk: small ones in one file, large ones in shards of some classes each, written and read class by class.

A table has a row of moments for every class, and what a row takes depends on the observer alone: 0.6 MB for EfficientNet-B0 at 224 px, so
6.4 GB for the 10,450 classes of ImageNet-21K-P. Whoever writes a table holds one shard of it, whoever matches a batch of images the rows
of the classes in the batch.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from engine.errors import RunError, UserError
from engine.files import replacing
from engine.matching.moments import Segment
from engine.matching.tables import ClassVariance, StatisticsTable, mixture

FILE_NAME = "table.safetensors"
SHARD_BYTES = 64 << 20  # of a table that is larger; smaller ones are one file
MOMENTS = ("mean", "variance", "within")


def row_bytes(columns: int) -> int:
    """Return what a class takes in a table of that many columns."""
    return len(MOMENTS) * 4 * columns


@dataclass(frozen=True)
class ShardedTable:
    """A table whose rows stay on disk; gives targets as `StatisticsTable` does, for which it reads the rows of their classes.

    shards: file and first class of each, in order. whole: moments (2, M) of the whole dataset. device: where targets are wanted.
    """

    segments: tuple[Segment, ...]
    patch: int | None
    counts: Tensor
    whole: Tensor
    folder: Path
    shards: tuple[tuple[str, int], ...]
    device: torch.device | str = "cpu"

    def to(self, device: torch.device | str) -> Self:
        """The same table with its targets on `device`."""
        return replace(self, device=device)

    def global_moments(self) -> Tensor:
        """Moments (2, M) of the whole dataset, which were pooled from the class rows when the table was written."""
        return self.whole.to(self.device)

    def class_moments(self, labels: Tensor, variance: ClassVariance = "pooled") -> Tensor:
        """The rows of `labels` (...,) as moments (..., 2, M); each class among them is read once."""
        present, places = labels.cpu().unique(return_inverse=True)
        rows = torch.empty(len(present), 2, self.whole.shape[1])
        spread = "variance" if variance == "pooled" else "within"
        for number, (file, first) in enumerate(self.shards):
            end = self.shards[number + 1][1] if number + 1 < len(self.shards) else len(self.counts)
            inside = (present >= first) & (present < end)
            if inside.any():
                with _opened(self.folder / file) as tensors:
                    mean, spreads = tensors.get_slice("mean"), tensors.get_slice(spread)
                    for place in inside.nonzero().flatten().tolist():
                        row = int(present[place]) - first
                        rows[place, 0], rows[place, 1] = mean[row], spreads[row]
        return rows.to(self.device)[places.to(self.device)]

    def class_target(self, labels: Tensor, variance: ClassVariance = "pooled") -> Tensor:
        """Moments (G, 2, M) of batches with `labels` (G, n), as `StatisticsTable.class_target`, one batch after the other."""
        return torch.cat([mixture(self.class_moments(group[None], variance), variance) for group in labels])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as tensors:
            yield tensors
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not a readable part of a statistics table ({error}): run the statistics stage again") from error


def open_table(folder: Path) -> StatisticsTable | ShardedTable:
    """Open the table of a folder: a small one is read, a large one stays on disk.

    Raises UserError naming the file if it is none.
    """
    path = folder / FILE_NAME
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})["statistics"])
            if "shards" not in description:
                return StatisticsTable.load(path)
            segments = tuple(Segment(**segment) for segment in description["segments"])
            shards = tuple((str(name), int(first)) for name, first in description["shards"])
            counts, whole = file.get_tensor("counts"), file.get_tensor("global")
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a readable statistics table ({error}): run the statistics stage again") from error
    return ShardedTable(segments, description["patch"], counts, whole, folder, shards)


class TableWriter:
    """Takes the rows of a table class after class and writes them to a folder, shard by shard where they are many."""

    def __init__(self, folder: Path, classes: int) -> None:
        self.folder, self.classes = folder, classes
        self.shards: list[tuple[str, int]] = []
        # Of one shard (3, n, M), allocated once: kept piece by piece between large short-lived tensors, rows would tear the heap.
        self._rows: Tensor | None = None
        self._first, self._filled = 0, 0  # the class of the first of these rows, and how many have come

    def append(self, rows: Tensor) -> None:
        """Take mean, variance and within-image variance, float32 (3, n, M), of the next n classes."""
        if self._rows is None:
            self._rows = self._empty(rows.shape[2])
        while rows.shape[1]:
            taken = min(rows.shape[1], self._rows.shape[1] - self._filled)
            self._rows[:, self._filled : self._filled + taken] = rows[:, :taken]
            self._filled += taken
            rows = rows[:, taken:]
            if self._filled == self._rows.shape[1] < self.classes:
                self._write_shard()

    def _empty(self, columns: int) -> Tensor:
        """Return room for the rows of a shard, or of a whole table that is no larger than one."""
        size = row_bytes(columns)
        whole = size * self.classes <= SHARD_BYTES
        return torch.empty(len(MOMENTS), self.classes if whole else -(-SHARD_BYTES // size), columns)

    def _write_shard(self) -> None:
        name = f"table-{len(self.shards):05d}.safetensors"
        with replacing(self.folder / name) as temporary:
            safetensors.torch.save_file(dict(zip(MOMENTS, self._rows[:, : self._filled], strict=True)), temporary)
        self.shards.append((name, self._first))
        self._first, self._filled = self._first + self._filled, 0

    def finish(self, segments: Sequence[Segment], patch: int | None, counts: Tensor) -> None:
        """Write `table.safetensors`: the whole table or, where shards have the rows, what else there is to know.

        counts: (K,) int64 images of each class. Raises RunError when a file cannot be written or rows are missing.
        """
        if self._first + self._filled != self.classes:
            raise RunError(f"{self.folder}: the rows of {self._first + self._filled} classes came, {self.classes} were expected")
        if not self.shards:
            mean, variance, within = self._rows
            StatisticsTable(tuple(segments), patch, mean, variance, within, counts).save(self.folder / FILE_NAME)
            return
        if self._filled:
            self._write_shard()
        description = {"patch": patch, "segments": [asdict(segment) for segment in segments], "shards": self.shards}
        tensors = {"counts": counts.cpu(), "global": self._pooled(counts.cpu())}
        with replacing(self.folder / FILE_NAME) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata={"statistics": json.dumps(description)})

    def _pooled(self, counts: Tensor) -> Tensor:
        """Return the moments (2, M) of the whole dataset from the rows of the shards, by the law of total variance."""
        shares = (counts.double() / counts.sum())[:, None]
        mean = sum((moments["mean"].double() * share).sum(0) for moments, share in self._shards_with(shares, "mean"))
        variance = sum(
            ((moments["variance"].double() + (moments["mean"].double() - mean).square()) * share).sum(0)
            for moments, share in self._shards_with(shares, "mean", "variance")
        )
        return torch.stack([mean, variance]).float()

    def _shards_with(self, shares: Tensor, *names: str) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for file, first in self.shards:
            with _opened(self.folder / file) as tensors:
                moments = {name: tensors.get_tensor(name) for name in names}
            yield moments, shares[first : first + len(moments["mean"])]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values from which `restore` goes on; shards that are written are not among them."""
        rows = {"rows": self._rows[:, : self._filled]} if self._filled else {}
        return rows, {"shards": self.shards, "first": self._first}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from what `state` returned of a writer into the same folder."""
        self.shards, self._first = [(str(name), int(first)) for name, first in values["shards"]], values["first"]
        if "rows" in tensors:
            self.append(tensors["rows"])
