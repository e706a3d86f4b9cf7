"""Statistics tables: the moments of every matched layer's input over each class of the real training set.

One pass over the images gives the rows of all classes; the moments of the whole dataset are derived from the rows, so they can never
disagree. Every image has the same number of pixels, so a class's moments follow exactly from those of its images by the law of total
variance: variance = mean of the variances within images + variance of the images' means.
"""

import contextlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.errors import RunError, UserError
from engine.files import replacing
from engine.matching.layers import MatchedKinds, MatchedLayer, matched_layers, watching
from engine.matching.moments import Segment, joined_moments, layer_moments

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
        mean, spread = self.class_moments(labels, variance).unbind(-2)
        batch_mean = mean.mean(1)
        batch_variance = spread.mean(1)
        if variance == "pooled":
            batch_variance = batch_variance + (mean - batch_mean[:, None]).square().mean(1)
        return torch.stack([batch_mean, batch_variance], dim=1)

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


class TableAccumulator:
    """Collects a StatisticsTable while the caller runs an observer over the training images, in eval mode and without gradients.

        with TableAccumulator(model, classes=10) as accumulator:
            for images, labels in batches:
                model(images)
                accumulator.add(labels)
        table = accumulator.finish()

    Sums are kept in float64 on `device`, (K, M) each; nothing is read back from the device before `finish`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: int,
        kind: MatchedKinds = "bn+conv",
        patch: int | None = 4,
        device: torch.device | str = "cpu",
    ) -> None:
        self.layers = matched_layers(model, kind)
        self.patch = patch if kind == "bn+conv" else None
        self.counts = torch.zeros(classes, dtype=torch.int64, device=device)
        self.segments: tuple[Segment, ...] = ()
        self._seen: dict[str, Tensor] = {}
        self._channels: dict[str, int] = {}
        self._sums: Tensor | None = None
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._seen = self._hooks.enter_context(watching(self.layers, self._image_moments))
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.close()

    def _image_moments(self, layer: MatchedLayer, h: Tensor) -> Tensor:
        self._channels[layer.name] = h.shape[1]
        return layer_moments(h.detach(), self.patch if layer.kind == "conv" else None, groups=h.shape[0])

    def add(self, labels: Tensor) -> None:
        """Count the images of the latest forward pass, whose labels (B,) are given, towards their classes.

        Raises RunError if there was no forward pass since the last call, or it did not reach a layer or had another resolution.
        """
        if not self.segments:
            self.segments = self._segments()
        mean, within = joined_moments(self._seen, self.segments).double().to(self.counts.device).unbind(1)
        self._seen.clear()
        labels = labels.to(self.counts.device)
        if self._sums is None:
            self._sums = mean.new_zeros(3, len(self.counts), mean.shape[1])
        for total, values in zip(self._sums, (mean, mean.square(), within), strict=True):
            total.index_add_(0, labels, values)
        self.counts.index_add_(0, labels, torch.ones_like(labels))

    def finish(self) -> StatisticsTable:
        """Turn the sums into a table; raises RunError if a class had no image."""
        missing = (self.counts == 0).nonzero().flatten().tolist()
        if self._sums is None or missing:
            raise RunError(f"no image of class {missing[0]} was seen while collecting statistics: each class needs at least one")
        mean, square, within = self._sums / self.counts[:, None]
        # In float64 the difference is exact to about 1e-16 mean^2, below the float32 rounding of the images' means themselves.
        variance = within + (square - mean.square()).clamp_min(0)
        return StatisticsTable(
            segments=self.segments,
            patch=self.patch,
            mean=mean.float(),
            variance=variance.float(),
            within=within.float(),
            counts=self.counts.clone(),
        )

    def state(self) -> tuple[dict[str, Tensor], list[dict[str, object]]]:
        """Return what has been collected, for `restore`: tensors, and the segments as JSON values; after the first `add` only."""
        return {"sums": self._sums, "counts": self.counts}, [asdict(segment) for segment in self.segments]

    def restore(self, tensors: dict[str, Tensor], segments: list[dict[str, object]]) -> None:
        """Go on from what `state` returned of an accumulator over the same model and classes."""
        self.segments = tuple(Segment(**segment) for segment in segments)
        self._sums, self.counts = tensors["sums"].to(self.counts.device), tensors["counts"].to(self.counts.device)

    def _segments(self) -> tuple[Segment, ...]:
        """Describe the columns of the first forward pass's moments."""
        segments = []
        for layer in self.layers:
            if layer.name not in self._seen:
                raise RunError(f"layer {layer.name} of the observer was not reached by its forward pass, so it has no statistics")
            channels = self._channels[layer.name]
            segments.append(Segment(layer.name, layer.kind, "channel", channels))
            tiles = self._seen[layer.name].shape[2] - channels
            if tiles:
                segments.append(Segment(layer.name, layer.kind, "tile", tiles))
        return tuple(segments)
