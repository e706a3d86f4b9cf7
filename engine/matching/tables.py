"""Statistics tables: the moments of every matched layer's input over each class of the real training set.

One pass over the images gives the rows of all classes; the moments of the whole dataset are derived from the rows, so they can never
disagree. Every image has the same number of pixels, so a class's moments follow exactly from those of its images by the law of total
variance: variance = mean of the variances within images + variance of the images' means.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.errors import RunError, UserError
from engine.files import replacing
from engine.matching.layers import MatchedKinds, MatchedLayer, matched_layers, watching
from engine.matching.moments import Segment, joined_moments, run_moments

ClassVariance = Literal["pooled", "within_image"]
TENSORS = ("mean", "variance", "within", "counts")


@dataclass(frozen=True)
class StatisticsTable:
    """Moments of the inputs of an observer's layers, one row a class (EDC section 3.2).

    mean, variance, within: (K, M) float32. `variance` is that of all pixels of a class, `within` the mean over its images of the
    variance within one image, which the EDC release uses in its place (methods D3). counts: (K,) int64 images of each class.
    segments: what the M columns are. patch: side P of a tile in pixels, None without tiles.
    """

    segments: tuple[Segment, ...]
    patch: int | None
    mean: Tensor
    variance: Tensor
    within: Tensor
    counts: Tensor

    def global_moments(self) -> Tensor:
        """Moments (2, M) of the whole dataset, pooled from the class rows by the law of total variance."""
        share = (self.counts.double() / self.counts.sum())[:, None]
        mean = (self.mean.double() * share).sum(0)
        variance = ((self.variance.double() + (self.mean.double() - mean).square()) * share).sum(0)
        return torch.stack([mean, variance]).to(self.mean.dtype)

    def class_moments(self, labels: Tensor, variance: ClassVariance = "pooled") -> Tensor:
        """The rows of `labels` (...,) as moments (..., 2, M)."""
        labels = labels.to(self.mean.device)
        rows = self.variance if variance == "pooled" else self.within
        return torch.stack([self.mean[labels], rows[labels]], dim=-2)

    def class_target(self, labels: Tensor, variance: ClassVariance = "pooled") -> Tensor:
        """Moments (G, 2, M) that a batch with `labels` (G, n) would have if each image had those of its class (methods 1.5 d).

        The mean is the average of the rows. The variance is with "pooled" that of the mixture, `mean(var + mu^2) - mean(mu)^2`;
        with "within_image" the plain average of the rows, as in the EDC release (methods D3).
        """
        return mixture(self.class_moments(labels, variance), variance)

    def to(self, device: torch.device | str) -> Self:
        """The same table with its tensors on `device`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})

    def save(self, path: Path) -> None:
        """Write the table as one safetensors file, whole or not at all; raises RunError naming the file."""
        tensors = {name: getattr(self, name).cpu().contiguous() for name in TENSORS}
        description = {"patch": self.patch, "segments": [asdict(segment) for segment in self.segments]}
        with replacing(path) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata={"statistics": json.dumps(description)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a table written by `save`, to the CPU; raises UserError naming the file if it is none."""
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                description = json.loads((file.metadata() or {})["statistics"])
                segments = tuple(Segment(**segment) for segment in description["segments"])
                tensors = {name: file.get_tensor(name) for name in TENSORS}
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not a readable statistics table ({error}): run the statistics stage again") from error
        return cls(segments=segments, patch=description["patch"], **tensors)


def mixture(moments: Tensor, variance: ClassVariance) -> Tensor:
    """Moments (G, 2, M) of batches of images whose classes have the moments (G, n, 2, M); see `StatisticsTable.class_target`."""
    mean, spread = moments.unbind(-2)
    batch_mean = mean.mean(1)
    batch_variance = spread.mean(1)
    if variance == "pooled":
        batch_variance = batch_variance + (mean - batch_mean[:, None]).square().mean(1)
    return torch.stack([batch_mean, batch_variance], dim=1)


class Rows(Protocol):
    """What takes the finished rows of a table."""

    def append(self, rows: Tensor) -> None:
        """Take mean, variance and within-image variance, float32 (3, n, M), of the next n classes."""


class TableAccumulator:
    """Collects a StatisticsTable while the caller runs an observer over the training images, in eval mode and without gradients.

        accumulator = TableAccumulator(model, classes=10)
        for images, labels in batches:
            with accumulator.batch(labels):
                model(images)
        table = accumulator.finish()

    Sums are kept in float64 on `device`, (K, M) each; nothing is read back from the device before `finish`. With `rows` the images must
    come class after class: sums are then kept for the classes of the latest batch only, and finished classes handed over (`flush`).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: int,
        kind: MatchedKinds = "bn+conv",
        patch: int | None = 4,
        device: torch.device | str = "cpu",
        rows: Rows | None = None,
    ) -> None:
        self.layers = matched_layers(model, kind)
        self.patch = patch if kind == "bn+conv" else None
        self.counts = torch.zeros(classes, dtype=torch.int64, device=device)
        self.segments: tuple[Segment, ...] = ()
        self._runs: list[int] = []
        self._sums: Tensor | None = None
        self._rows, self._first = rows, 0  # the class of the first row of the sums

    @contextlib.contextmanager
    def batch(self, labels: Tensor) -> Iterator[None]:
        """Count the images of the forward pass made inside the block, whose `labels` (B,) are on the CPU, towards their classes.

        It is fastest where the images of a class follow each other. Raises RunError if there was no forward pass, if it did not reach a
        layer or had another resolution, or if an image comes after its class has been handed over.
        """
        classes, runs = labels.unique_consecutive(return_counts=True)
        self._runs = runs.tolist()
        with watching(self.layers, self._run_moments) as seen:
            yield
        if not self.segments:
            self.segments = self._segments(seen)
        found = joined_moments(seen, self.segments).double().to(self.counts.device)
        if len(found) == len(labels):  # runs so short that each image was taken alone
            classes, runs = labels, torch.ones_like(labels)
        self._add(classes, runs, found)

    def _run_moments(self, layer: MatchedLayer, h: Tensor) -> tuple[Tensor, Tensor]:
        return h, run_moments(h, self.patch if layer.kind == "conv" else None, self._runs)

    def _add(self, classes: Tensor, runs: Tensor, found: Tensor) -> None:
        """Add what was `found` (R, 3, M) of runs of images to the sums of their `classes` (R,); runs: (R,) images of each."""
        if self._rows is not None:
            self._make_room(int(classes.min()), int(classes.max()), found[:, 0])
        elif self._sums is None:
            self._sums = found.new_zeros(3, len(self.counts), found.shape[2])
        classes, runs = classes.to(self.counts.device), runs.to(self.counts.device)
        mean, within, between = found.unbind(1)
        for total, values in zip(self._sums, (mean, mean.square() + between, within), strict=True):
            total.index_add_(0, classes - self._first, values * runs[:, None])
        self.counts.index_add_(0, classes, runs)

    def _make_room(self, lowest: int, highest: int, like: Tensor) -> None:
        """Hand over the classes below `lowest` and make the sums reach from there to `highest`."""
        if lowest < self._first:
            raise RunError(f"an image of class {lowest} came after class {self._first}: statistics are collected class after class")
        if self._sums is not None and lowest == self._first and highest < lowest + self._sums.shape[1]:
            return
        if self._sums is None:
            self._sums = like.new_zeros(3, 0, like.shape[1])
        self._hand_over(lowest)
        missing = like.new_zeros(3, max(0, highest + 1 - lowest - self._sums.shape[1]), like.shape[1])
        self._sums = torch.cat([self._sums, missing], dim=1)

    def _hand_over(self, end: int) -> None:
        """Hand over the rows of the classes before `end` and forget their sums."""
        count = min(end - self._first, self._sums.shape[1])
        if count:
            self._rows.append(self._moments(self._sums[:, :count], self._first))
        if end > self._first + count:
            raise RunError(f"no image of class {self._first + count} was seen while collecting statistics: each class needs at least one")
        self._first, self._sums = end, self._sums[:, count:]

    def _moments(self, sums: Tensor, first: int) -> Tensor:
        """Turn sums (3, n, M) of the classes from `first` on into rows (3, n, M); raises RunError if a class had no image."""
        counts = self.counts[first : first + sums.shape[1]]
        missing = (counts == 0).nonzero().flatten().tolist()
        if missing:
            raise RunError(f"no image of class {first + missing[0]} was seen while collecting statistics: each class needs at least one")
        mean, square, within = sums / counts[:, None]
        # In float64 the difference is exact to about 1e-16 mean^2, below the float32 rounding of the images' means themselves.
        variance = within + (square - mean.square()).clamp_min(0)
        return torch.stack([mean.float(), variance.float(), within.float()])

    def finish(self) -> StatisticsTable:
        """Turn the sums into a table; raises RunError if a class had no image."""
        if self._sums is None:
            raise RunError("no image of class 0 was seen while collecting statistics: each class needs at least one")
        mean, variance, within = self._moments(self._sums, 0)
        return StatisticsTable(self.segments, self.patch, mean, variance, within, self.counts.clone())

    def flush(self) -> None:
        """Hand over the classes that are still collected; raises RunError if a class had no image."""
        if self._sums is None:
            raise RunError("no image of class 0 was seen while collecting statistics: each class needs at least one")
        self._hand_over(len(self.counts))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what has been collected, for `restore`: tensors and JSON values; after the first batch only."""
        values = {"segments": [asdict(segment) for segment in self.segments], "first": self._first}
        return {"sums": self._sums, "counts": self.counts}, values

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from what `state` returned of an accumulator over the same model and classes."""
        self.segments, self._first = tuple(Segment(**segment) for segment in values["segments"]), values["first"]
        self._sums, self.counts = tensors["sums"].to(self.counts.device), tensors["counts"].to(self.counts.device)

    def _segments(self, seen: dict[str, Tensor]) -> tuple[Segment, ...]:
        """Describe the columns of the first forward pass's moments."""
        segments = []
        for layer in self.layers:
            if layer.name not in seen:
                raise RunError(f"layer {layer.name} of the observer was not reached by its forward pass, so it has no statistics")
            channels = layer.module.in_channels if layer.kind == "conv" else layer.module.num_features
            segments.append(Segment(layer.name, layer.kind, "channel", channels))
            tiles = seen[layer.name].shape[2] - channels
            if tiles:
                segments.append(Segment(layer.name, layer.kind, "tile", tiles))
        return tuple(segments)
