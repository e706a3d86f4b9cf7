"""The matching loss: how far the moments of synthetic images, inside an observer, are from those of the real ones.

    with matcher.capture(generator):            matcher = Matcher(observer, settings, table), once an observer
        logits = observer(augmented)            matcher.start_batch(labels), once a batch of images
    matched = matcher.loss()

Per layer l and statistics batch:  R_l = w_global * D_l(global) + w_class * D_l(class),  D_l(target) = |mean - target mean| +
|variance - target variance|, over channels and, for convolutions, tiles too (EDC Eq. 5; G-VBSM Eq. 4). The loss is
sum_l w_l R_l, summed over the G statistics batches: each is a problem of its own, as if it ran on its own device.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from engine.errors import RunError
from engine.matching.layers import MatchedKinds, MatchedLayer, matched_layers, watching
from engine.matching.moments import Segment, joined_moments, pooled_moments
from engine.matching.tables import ClassVariance, StatisticsTable
from engine.matching.watched import is_frozen_norm, watched, watched_norm, watched_relu

Norm = Literal["l2", "l2_squared"]


@dataclass(frozen=True)
class MatchSettings:
    """What is matched and how; the defaults are EDC's for images of 32 and 64 pixels (methods 7.1)."""

    layers: MatchedKinds = "bn+conv"
    patch_size: int = 4  # side of a tile in pixels, 0 for no tile moments
    first_multiplier: float = 10.0  # weight of the first matched layer; all others have 1
    w_global: float = 0.5
    w_class: float = 0.5
    class_form: Literal["batch_mean", "per_class_sum"] = "batch_mean"
    class_variance: ClassVariance = "pooled"
    norm: Norm = "l2"
    ema_momentum: float = 0.8
    ema_start: Literal["first", "debias", "zero"] = "debias"  # "zero" is that of the EDC release (methods D6)
    ema_reset_per_batch: bool = True
    conv_drop: float = 0.0  # probability with which a convolution is left out of an iteration (G-VBSM's beta_dr)
    swap_class_patch: bool = False  # as in the EDC release: class tile means and variances exchanged (methods D2)
    double_global_conv: bool = False  # as in the EDC release after a fresh statistics pass (methods D8)

    @property
    def patch(self) -> int | None:
        """Side of a tile in pixels, None without tile moments."""
        return self.patch_size if self.layers == "bn+conv" and self.patch_size else None


@dataclass(frozen=True)
class MatchingLoss:
    """The loss of one forward pass, all tensors on the observer's device.

    total: scalar with gradient. parts: detached scalars; "global" + "class" and "mean" + "variance" each add up to the total.
    by_segment: (S,) detached contributions of the matcher's segments.
    """

    total: Tensor
    parts: dict[str, Tensor]
    by_segment: Tensor


class Matcher:
    """Matches the moments inside one frozen observer against the real data's; holds the running moments of the batch at work.

    `rows` below are the statistics batches whose moments are compared: the G groups and, with class_form "per_class_sum", also the
    images of each class within each group. A comparison is a row, a target and a weight. Every target, state and weight is one
    tensor for all layers.
    Raises RunError where a target is asked for that neither the table nor a BatchNorm's running statistics hold.
    """

    def __init__(self, model: nn.Module, settings: MatchSettings, table: StatisticsTable | None = None) -> None:
        self.settings = settings
        self.layers = matched_layers(model, settings.layers)
        self.segments = _checked_segments(self.layers, settings, table)
        self.table = table
        parameter = next(model.parameters())
        device, dtype = parameter.device, torch.float64 if parameter.dtype == torch.float64 else torch.float32
        self._global_target = _global_target(self.layers, self.segments, table, settings).to(device, dtype)
        self._segment_weights = segment_weights(self.segments, settings.first_multiplier).to(device)
        self._sizes = torch.tensor([segment.size for segment in self.segments], device=device)
        self._seen: dict[str, Tensor] = {}
        self._dropped: set[str] = set()
        self._ema: Tensor | None = None

    def start_batch(self, labels: Tensor, class_target: Tensor | None = None) -> None:
        """Fix the targets of a batch of images with `labels` (G, n), and forget the running moments unless they persist.

        The images are then (G*n, 3, H, W), those of a group contiguous. class_target replaces the table's targets (for instance by
        those of sampled real images, EDC's "local" mode): (G, 2, M) or, with "per_class_sum", a row for each class of each group,
        classes ascending.
        """
        settings, device = self.settings, self._global_target.device
        self._groups, self._group_size = labels.shape
        self._pooling: list[tuple[Tensor, Tensor]] = []
        rows, targets, weights = [], [], []
        groups = torch.arange(self._groups)
        if settings.w_global:
            rows.append(groups)
            targets.append(self._global_target.expand(self._groups, -1, -1))
            weights.append(torch.full((self._groups,), settings.w_global))
        self._global_count = sum(map(len, rows))
        row_count = self._groups
        if settings.w_class and settings.class_form == "batch_mean":
            rows.append(groups)
            targets.append(self._class_target(labels) if class_target is None else class_target)
            weights.append(torch.full((self._groups,), settings.w_class))
        elif settings.w_class:
            pairs = torch.stack([groups[:, None].expand(labels.shape), labels.cpu()], dim=-1).flatten(0, 1)
            present, row_of_image, counts = pairs.unique(dim=0, return_inverse=True, return_counts=True)
            rows.append(self._groups + torch.arange(len(present)))
            targets.append(self._class_target(present[:, 1:]) if class_target is None else class_target)
            weights.append(settings.w_class * counts / self._group_size)
            group_of_image = groups.repeat_interleave(self._group_size)
            self._pooling = [
                (group_of_image.to(device), torch.full((self._groups,), self._group_size, device=device)),
                (row_of_image.to(device), counts.to(device)),
            ]
            row_count += len(present)
        self._rows = torch.cat(rows).to(device)
        self._targets = torch.cat([target.to(self._global_target) for target in targets])
        self._weights = torch.cat(weights).to(self._global_target)
        shape = (row_count, *self._global_target.shape)
        if self._ema is None or settings.ema_reset_per_batch or self._ema.shape != shape:
            self._ema = self._global_target.new_zeros(shape)
            self._ema_weight = self._global_target.new_zeros(shape[-1])

    def _class_target(self, labels: Tensor) -> Tensor:
        """Class targets (rows, 2, M) of rows of labels (rows, n)."""
        if self.table is None:
            raise RunError("matching class moments needs a statistics table or explicit targets")
        target = self.table.class_target(labels, self.settings.class_variance)
        if self.settings.swap_class_patch:
            tiles = _columns(self.segments, part="tile").to(target.device)
            target = torch.where(tiles, target.flip(1), target)
        return target

    @contextlib.contextmanager
    def capture(self, generator: torch.Generator | None = None, images: range | None = None) -> Iterator[None]:
        """Take the moments of the forward pass made inside the block; a later pass replaces an earlier one.

        The CPU `generator` decides which convolutions are left out, and is asked only if `conv_drop` is above 0. The pass is of those
        `images` of the batch, all where none are given: some whole statistics batches, or a part of one.
        """
        self._dropped = set()
        if self.settings.conv_drop:
            convolutions = [layer.name for layer in self.layers if layer.kind == "conv"]
            draws = torch.rand(len(convolutions), generator=generator).tolist()
            self._dropped = {name for name, draw in zip(convolutions, draws, strict=True) if draw < self.settings.conv_drop}
        self._images = range(self._groups * self._group_size) if images is None else images
        with watching([layer for layer in self.layers if layer.name not in self._dropped], self._watched, self._stand_in) as self._seen:
            yield

    def _watched(self, layer: MatchedLayer, h: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's input and its moments: a row for each group or, where classes are to be told apart, for each image."""
        self._check_count(layer, h)
        patch = self.settings.patch if layer.kind == "conv" else None
        after_norm = watched_relu(h, patch, self._row_count())
        if after_norm is None:
            return watched(h, patch, self._row_count())
        h, moments, norm_moments, norm = after_norm
        self._seen[norm] = norm_moments
        return h, moments

    def _stand_in(self, layer: MatchedLayer) -> Callable[[MatchedLayer, Tensor], tuple[Tensor, Tensor]] | None:
        return self._watched_norm if is_frozen_norm(layer.module) else None

    def _watched_norm(self, layer: MatchedLayer, h: Tensor) -> tuple[Tensor, Tensor]:
        self._check_count(layer, h)
        return watched_norm(layer.module, h, self._row_count(), layer.name)

    def _check_count(self, layer: MatchedLayer, h: Tensor) -> None:
        if h.shape[0] != len(self._images):
            raise RunError(f"layer {layer.name} sees {h.shape[0]} images, but the batch has {self._groups} x {self._group_size} labels")

    def _row_count(self) -> int:
        """How many rows the moments of a captured pass have."""
        return len(self._images) if self._pooling else max(1, len(self._images) // self._group_size)

    def rows(self) -> Tensor:
        """Moments (R, 2, M) of the latest captured pass, with gradient: of each of its images with "per_class_sum", else of each
        statistics batch or its part; zeros where a layer is left out.

        Raises RunError if a layer was not reached.
        """
        seen = dict(self._seen)
        if self._dropped:
            widths = {name: sum(segment.size for segment in self.segments if segment.layer == name) for name in self._dropped}
            seen |= {name: self._global_target.new_zeros(self._row_count(), 2, width) for name, width in widths.items()}
        return joined_moments(seen, self.segments)

    def moments(self, rows: Tensor | None = None, parts: Sequence[range] | None = None) -> Tensor:
        """Moments (R, 2, M) of the batch, with gradient: of its statistics batches and then, with "per_class_sum", of their classes.

        They are those of the latest captured pass or, where the batch was passed in `parts`, follow from the `rows` of all of them.
        """
        rows = self.rows() if rows is None else rows
        if self._pooling:
            return torch.cat([pooled_moments(rows, *pooling) for pooling in self._pooling])
        if parts is None or len(rows) == self._groups:
            return rows
        # Parts of statistics batches, each of one, in order.
        sizes = torch.tensor([len(part) for part in parts])
        owners = torch.tensor([part.start // self._group_size for part in parts])
        counts = torch.full((self._groups,), self._group_size)
        return pooled_moments(rows, *(index.to(rows.device) for index in (owners, counts, sizes)))

    def loss(self, moments: Tensor | None = None) -> MatchingLoss:
        """The loss of the latest captured forward pass; moves the running moments on by one step and lets go of the pass.

        moments: those of the batch, from `moments()`, where they are known already.
        """
        active = None
        if self._dropped:
            active = torch.tensor([segment.layer not in self._dropped for segment in self.segments]).to(self._sizes.device)
        moments = self._averaged(self.moments() if moments is None else moments, active)
        self._seen = {}
        distances = segment_distances(moments[self._rows] - self._targets, self._sizes, self.settings.norm)
        weights = self._segment_weights if active is None else self._segment_weights * active
        weighted = distances * self._weights[:, None, None] * weights
        total = weighted.sum()
        contributions = weighted.detach()
        by_comparison = contributions.sum(-1)
        parts = {
            "global": by_comparison[: self._global_count].sum(),
            "class": by_comparison[self._global_count :].sum(),
            "mean": by_comparison[:, 0].sum(),
            "variance": by_comparison[:, 1].sum(),
        }
        return MatchingLoss(total, parts, contributions.sum((0, 1)))

    def _averaged(self, moments: Tensor, active: Tensor | None) -> Tensor:
        """Straight-through running moments: their value, the present moments' gradient with weight 1 (methods 0.2).

        active: (S,) mask of the segments that this step visits, None for all; the others' averages stand still.
        `_ema_weight` is the weight that all steps so far have in the average, 1 - m^k after k visits of a column's layer.
        """
        if not self.settings.ema_momentum:
            return moments
        present = moments.detach()
        keep = torch.full_like(self._ema_weight, self.settings.ema_momentum)
        if self.settings.ema_start == "first":
            keep = torch.where(self._ema_weight > 0, keep, 0)
        if active is not None:
            keep = torch.where(active.repeat_interleave(self._sizes, output_size=len(keep)), keep, 1)
        self._ema = torch.lerp(present, self._ema, keep)
        self._ema_weight = self._ema_weight * keep + (1 - keep)
        average = self._ema
        if self.settings.ema_start == "debias":
            average = average / self._ema_weight.clamp_min(torch.finfo(average.dtype).tiny)
        return moments + (average - present)

    def by_layer(self, loss: MatchingLoss) -> dict[str, Tensor]:
        """The loss's contributions by layer name, detached scalars in module order."""
        layers: dict[str, Tensor] = {}
        for segment, contribution in zip(self.segments, loss.by_segment, strict=True):
            layers[segment.layer] = layers.get(segment.layer, 0) + contribution
        return layers

    def state_dict(self) -> dict[str, Tensor]:
        """The running moments of the batch at work, for a checkpoint: "moments" (R, 2, M) and "weight" (M,)."""
        if self._ema is None:
            raise RunError("the matcher has no state before its first batch is started")
        return {"moments": self._ema, "weight": self._ema_weight}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint's running moments, after `start_batch` with the same labels; raises RunError if they do not fit."""
        if self._ema is None or state["moments"].shape != self._ema.shape:
            raise RunError("the checkpoint's running moments belong to another observer, batch or setting")
        self._ema = state["moments"].to(self._ema)
        self._ema_weight = state["weight"].to(self._ema_weight)


def segment_distances(difference: Tensor, sizes: Tensor, norm: Norm = "l2") -> Tensor:
    """Norm of each segment's part of `difference` (..., M): the L2 norm, not squared, or its square; (..., S).

    sizes: (S,) columns of each segment. The gradient at distance 0 is 0. An unsquared norm gives every term a gradient of unit
    length, however far its target is (methods 0.2).
    """
    by_column = difference.square().movedim(-1, 0).contiguous()
    squared = torch.segment_reduce(by_column, "sum", lengths=sizes, axis=0, unsafe=True).movedim(0, -1)
    return squared if norm == "l2_squared" else squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()


def segment_weights(segments: Sequence[Segment], first_multiplier: float) -> Tensor:
    """Weight of each segment, (S,): `first_multiplier` for those of the first layer, 1 for all others (methods 0.3)."""
    return torch.tensor([first_multiplier if segment.layer == segments[0].layer else 1.0 for segment in segments])


def _columns(segments: Sequence[Segment], *, part: str | None = None, kind: str | None = None) -> Tensor:
    """Mask (M,) of the columns that belong to segments of this part and kind."""
    chosen = [part in (None, segment.part) and kind in (None, segment.kind) for segment in segments]
    return torch.tensor(chosen).repeat_interleave(torch.tensor([segment.size for segment in segments]))


def _checked_segments(layers: Sequence[MatchedLayer], settings: MatchSettings, table: StatisticsTable | None) -> tuple[Segment, ...]:
    """The segments that the table says or, without one, those of BatchNorm layers, whose sizes the modules know."""
    if table is None:
        if settings.layers != "bn" or settings.w_class:
            raise RunError("matching convolutions or classes needs a statistics table: only BatchNorm keeps statistics of its own")
        return tuple(Segment(layer.name, layer.kind, "channel", layer.module.num_features) for layer in layers)
    in_table = list(dict.fromkeys((segment.layer, segment.kind) for segment in table.segments))
    if in_table != [(layer.name, layer.kind) for layer in layers] or table.patch != settings.patch:
        raise RunError("the statistics table was collected for other layers or another patch size than are to be matched")
    return table.segments


def _global_target(
    layers: Sequence[MatchedLayer], segments: Sequence[Segment], table: StatisticsTable | None, settings: MatchSettings
) -> Tensor:
    """Moments (2, M) of the whole dataset: a BatchNorm's running statistics, a convolution's from the table."""
    modules = {layer.name: layer.module for layer in layers}
    columns = table.global_moments().cpu().split([segment.size for segment in segments], dim=1) if table is not None else ()
    targets = []
    for index, segment in enumerate(segments):
        module = modules[segment.layer]
        if segment.kind == "bn" and module.running_mean is not None:
            targets.append(torch.stack([module.running_mean, module.running_var]).detach().cpu())
        elif table is not None:
            targets.append(columns[index] * 2 if settings.double_global_conv and segment.kind == "conv" else columns[index])
        else:
            raise RunError(f"layer {segment.layer} keeps no running statistics, so matching it needs a statistics table")
    return torch.cat(targets, dim=1)
