"""Means and biased variances of the tensors that enter a layer: per channel, and per tile of the image plane.

Everything has a leading axis G: the batch is G statistics batches of n images each, the images of one contiguous, and each has its
own moments, as if it ran alone. Moments are `(G, 2, M)`: index 0 of the second axis holds means, index 1 variances. The M columns of
a layer are its C channels and then, for a convolution, its U*V tile positions (row-major); those of a model follow layer by layer,
as its `Segment`s say, so that all of a model's moments are one tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import RunError
from engine.matching.layers import LayerKind

# Up to this many statistics batches a fused reduction for each is faster than one over the per-image moments of them all.
FUSED_GROUPS = 16
# On the CPU a tensor is swept in blocks whose float32 values fit the second-level cache, so that the steps of a sweep reuse them there.
CACHED_VALUES = 2**17


@dataclass(frozen=True)
class Segment:
    """One stretch of columns of the moments: `size` channels, or tile positions, of the input of `layer`."""

    layer: str
    kind: LayerKind
    part: Literal["channel", "tile"]
    size: int


def layer_moments(h: Tensor, patch: int | None, groups: int = 1) -> Tensor:
    """Moments of a layer input: channel moments and, with a `patch` of P pixels, tile moments (methods 0.1, after G-VBSM).

    h: (G*n, C, H, W), any float type, fastest in channels_last. Returns (G, 2, C) or, with a patch, (G, 2, C + U*V) in float32
    (float64 for float64), U = ceil(H/P), V = ceil(W/P). Where a side is no multiple of P the tiles, not the channels, are those of `h`
    upsampled bilinearly to the next multiples. A tile moment is over the group's images, all channels and P x P pixels.
    """
    if patch is None or (h.shape[2] % patch == 0 and h.shape[3] % patch == 0):
        return _LayerMoments.apply(h, patch, groups)
    size = [-(-side // patch) * patch for side in h.shape[2:]]
    upsampled = F.interpolate(h.to(_precision(h)), size=size, mode="bilinear", align_corners=False)
    tiles = _LayerMoments.apply(upsampled, patch, groups)[..., h.shape[1] :]
    return torch.cat([_LayerMoments.apply(h, None, groups), tiles], dim=-1)


def channel_moments(h: Tensor, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel over a group's images and pixels, each (G, C); h as in `layer_moments`."""
    mean, variance = layer_moments(h, None, groups).unbind(1)
    return mean, variance


def tile_moments(h: Tensor, patch: int, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per tile over a group's images, channels and P x P pixels, each (G, U*V); h as in `layer_moments`."""
    mean, variance = layer_moments(h, patch, groups)[..., h.shape[1] :].unbind(1)
    return mean, variance


def pooled_moments(moments: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
    """Moments of unions of equally large parts, by the law of total variance.

    moments: (B, 2, M) of the parts (for instance of single images); rows: (B,) which of the R unions a part belongs to;
    counts: (R,) how many parts each union has. Returns (R, 2, M).
    """
    share = (1 / counts.to(moments.dtype))[rows, None]
    mean, variance = moments.unbind(1)
    empty = moments.new_zeros(len(counts), moments.shape[2])
    pooled_mean = empty.index_add(0, rows, mean * share)
    pooled_variance = empty.index_add(0, rows, (variance + (mean - pooled_mean[rows]).square()) * share)
    return torch.stack([pooled_mean, pooled_variance], dim=1)


def joined_moments(seen: dict[str, Tensor], segments: Sequence[Segment]) -> Tensor:
    """Put the moments of a model's layers, by name, in the order of its segments: (G, 2, M).

    Raises RunError naming the layer that the forward pass did not reach or whose input has another size than the segments say.
    """
    widths: dict[str, int] = {}
    for segment in segments:
        widths[segment.layer] = widths.get(segment.layer, 0) + segment.size
    for layer, width in widths.items():
        if layer not in seen:
            raise RunError(f"layer {layer} of the observer was not reached by its forward pass, so its input cannot be matched")
        if seen[layer].shape[2] != width:
            raise RunError(
                f"the input of layer {layer} has {seen[layer].shape[2]} moments where {width} are expected: "
                "images, patch size and statistics table must be of one resolution"
            )
    return torch.cat([seen[layer] for layer in widths], dim=2)


def _precision(h: Tensor) -> torch.dtype:
    return torch.float64 if h.dtype == torch.float64 else torch.float32


def _in_rows_of_tiles(h: Tensor, rows: int, groups: int) -> Tensor:
    """View (B, C, H, W) as (G, n, C, rows, H / rows, W) without a copy."""
    return h.unflatten(2, (rows, -1)).unflatten(0, (groups, -1))


class _LayerMoments(torch.autograd.Function):
    """(B, C, H, W) -> (G, 2, C [+ U*V]); the sides are multiples of `patch`.

    Forward: means and variances within tiles first, 1/P^2 of the data, from which channel and tile moments both follow by the law of
    total variance. Deviations are taken from a mean that is already known, never E[h^2] - E[h]^2, which loses everything to
    cancellation in float32 once the mean is some hundred times the deviation.
    Backward: d loss / d h is affine in h with one slope and one offset per channel and tile, so it is one sweep over h.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, patch: int | None, groups: int) -> Tensor:
        if patch is None and groups <= FUSED_GROUPS:
            moments = _fused_channel_moments(h, groups)
        else:
            moments = _two_stage_moments(h, patch, groups)
        ctx.save_for_backward(h, moments)
        ctx.patch, ctx.groups = patch, groups
        return moments

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        h, moments = ctx.saved_tensors
        groups, channels = ctx.groups, h.shape[1]
        values = h.numel() // groups
        slope, offset = _affine(gradient[..., :channels], moments[..., :channels], values // channels)
        rows, columns, patch = 1, 1, h.shape[3]
        if ctx.patch is not None:
            rows, columns, patch = h.shape[2] // ctx.patch, h.shape[3] // ctx.patch, ctx.patch
            tile_slope, tile_offset = _affine(gradient[..., channels:], moments[..., channels:], values // (rows * columns))
        else:
            tile_slope = tile_offset = slope.new_zeros(groups, 1)
        # Written out along a row of pixels, channels last, so that the sweep over h runs along whole contiguous rows.
        slope, offset = (
            (tile.view(groups, rows, columns, 1, 1) + channel.view(groups, 1, 1, 1, channels))
            .expand(-1, -1, -1, patch, -1)
            .reshape(groups, 1, rows, 1, columns * patch, channels)
            .movedim(-1, 2)
            for tile, channel in ((tile_slope, slope), (tile_offset, offset))
        )
        return _swept(h, slope, offset), None, None


def _affine(gradient: Tensor, moments: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Slope and offset, each (G, columns), of the gradient with respect to h, from that of moments (G, 2, columns) over `count` values.

    d mean / d h = 1 / count and d variance / d h = 2 (h - mean) / count.
    """
    slope = gradient[:, 1] * (2 / count)
    return slope, torch.addcmul(gradient[:, 0] / count, slope, moments[:, 0], value=-1)


def _swept(h: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """slope * h + offset like h, computed in the precision of the latter two, (G, 1, C, U, 1, W)."""
    swept = torch.empty_like(h)
    groups, rows = slope.shape[0], slope.shape[3]
    block = _images_at_once(h)
    # A block is some whole groups or, where a group is larger than a block, a part of one.
    block_groups = max(1, block * groups // len(h))
    parts = [_in_rows_of_tiles(tensor, rows, groups).split(block_groups) for tensor in (h, swept)]
    affine = [tensor.split(block_groups) for tensor in (slope, offset)]
    for values, out, block_slope, block_offset in zip(*parts, *affine, strict=True):
        for some_values, some_out in zip(values.split(block, 1), out.split(block, 1), strict=True):
            if h.dtype == slope.dtype or h.device.type != "cpu":
                torch.addcmul(block_offset, block_slope, some_values, out=some_out)
            else:
                # The CPU kernel mixes precisions value by value; block by block is several times as fast.
                some_out.copy_(torch.addcmul(block_offset, block_slope, some_values.to(slope.dtype)))
    return swept


def _images_at_once(h: Tensor) -> int:
    return max(1, CACHED_VALUES // h[0].numel()) if h.device.type == "cpu" else len(h)


def _fused_channel_moments(h: Tensor, groups: int) -> Tensor:
    """Channel moments (G, 2, C) by the reduction kernel of batch normalisation, which neither normalises nor writes h here."""
    running: tuple[Tensor | None, Tensor | None] = (None, None)
    if h.dtype in (torch.bfloat16, torch.float16):
        # On the CPU the kernel answers in the type of its running statistics; without any it would round the moments to half precision.
        scratch = h.new_zeros(2, h.shape[1], dtype=torch.float32)
        running = (scratch[0], scratch[1])
    return torch.stack([torch.stack(torch.batch_norm_update_stats(part, *running, 0.0)) for part in h.chunk(groups)])


def _two_stage_moments(h: Tensor, patch: int | None, groups: int) -> Tensor:
    """Moments (G, 2, C [+ U*V]) from the means and variances within each image's tiles, or within its whole plane without a patch."""
    blocks = [_within(block.to(_precision(h)), patch) for block in h.split(_images_at_once(h))]
    means, within = (torch.cat(part).unflatten(0, (groups, -1)) for part in zip(*blocks, strict=True))
    moments = [_over(means, within, dims=(1, 3, 4))]
    if patch is not None:
        moments.append(_over(means, within, dims=(1, 2)))
    return torch.cat(moments, dim=2)


def _within(values: Tensor, patch: int | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance within each tile of each image and channel, (B, C, U, V) each; U = V = 1 without a patch."""
    if patch is None:
        means = values.mean((2, 3), keepdim=True)
        return means, (values - means).square_().mean((2, 3), keepdim=True)
    means = F.avg_pool2d(values, patch)
    # Written out along a row of pixels, which makes the subtraction run along whole contiguous rows.
    row_means = F.interpolate(means, size=(means.shape[2], values.shape[3]), mode="nearest")
    deviations = values.unflatten(2, (means.shape[2], patch)) - row_means[:, :, :, None]
    return means, F.avg_pool2d(deviations.square_().flatten(2, 3), patch)


def _over(means: Tensor, within: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Pool equally large parts' means and variances (G, n, C, U, V) over `dims`: total variance = mean within + variance of means."""
    mean = means.mean(dims, keepdim=True)
    variance = (within + (means - mean).square_()).mean(dims)
    return torch.stack([mean.flatten(1), variance.flatten(1)], dim=1)
