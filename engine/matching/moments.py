"""Means and biased variances of the tensors that enter a layer: per channel, and per tile of the image plane.

Everything has a leading axis G: the batch is G statistics batches of n images each, the images of one contiguous, and each has its
own moments, as if it ran alone. Moments are `(G, 2, M)`: index 0 of the second axis holds means, index 1 variances. The M columns of
a layer are its C channels and then, for a convolution, its U*V tile positions (row-major); those of a model follow layer by layer,
as its `Segment`s say, so that all of a model's moments are one tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import RunError
from engine.matching.layers import LayerKind
from engine.matching.reductions import dense, image_means, over_images, precision, within_tiles

# From this many images on those of a statistics batch are reduced together, pixel by pixel; fewer are reduced one by one first.
TOGETHER = 6


@dataclass(frozen=True)
class Segment:
    """One stretch of columns of the moments: `size` channels, or tile positions, of the input of `layer`."""

    layer: str
    kind: LayerKind
    part: Literal["channel", "tile"]
    size: int


def moments_of(h: Tensor, patch: int | None, groups: int = 1) -> Tensor:
    """Moments of a layer input, without gradient: of channels and, with a `patch` of P pixels, of tiles (methods 0.1, after G-VBSM).

    h: (G*n, C, H, W), any float type, dense, fastest in channels_last; with a patch the sides are multiples of it. Returns (G, 2, C) or,
    with a patch, (G, 2, C + H/P * W/P) in `precision(h)`. A tile moment is over the group's images, all channels and P x P pixels.
    They are pooled from those over a group's images at each pixel or, in small groups, from those within each image's tiles.
    """
    if len(h) >= TOGETHER * groups:
        parts, side = over_images(h, groups, pixels=patch is not None), patch
    else:
        parts, side = within_tiles(h, patch), 1
    means, within = (part.unflatten(0, (groups, -1)) for part in parts)
    moments = [_over(means, within, dims=(1, 3, 4))]
    if patch is not None:
        means, within = (part.unflatten(4, (-1, side)).unflatten(3, (-1, side)) for part in (means, within))
        moments.append(_over(means, within, dims=(1, 2, 4, 6)))
    return torch.cat(moments, dim=2)


def run_moments(h: Tensor, patch: int | None, runs: Sequence[int]) -> Tensor:
    """Moments of consecutive runs of images with the variance in two parts: mean, variance within and between images, (R, 3, M).

    h: (B, C, H, W), without gradient; tiles as in `watched.watched`; runs: how many images each has, B in all. "Within" is the mean over
    a run's images of the variance within one, "between" the variance of their means; for short runs each image may be a run of its own:
    R = B.
    In half precision the division into two, not the sum, depends on means over tiles that are rounded to it.
    """
    if patch is not None and not divides(patch, h):
        tiles = run_moments(upsampled(h, patch), patch, runs)[..., h.shape[1] :]
        return torch.cat([run_moments(h, None, runs), tiles], dim=-1)
    h = dense(h)
    if len(h) < TOGETHER * len(runs):
        mean, within = moments_of(h, patch, len(h)).unbind(1)
        return torch.stack([mean, within, torch.zeros_like(mean)], dim=1)
    whole = torch.cat([moments_of(part, patch, 1) for part in h.split(list(runs))])
    pools = image_means(h, patch)
    own = pools.mean((2, 3)) if patch is None else torch.cat([pools.mean((2, 3)), pools.mean(1).flatten(1)], dim=1)
    between = torch.stack([part.var(0, correction=0) for part in own.split(list(runs))])
    mean, variance = whole.unbind(1)
    return torch.stack([mean, (variance - between).clamp_min_(0), torch.minimum(between, variance)], dim=1)


def pooled_moments(moments: Tensor, rows: Tensor, counts: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Moments of unions of parts, by the law of total variance.

    moments: (B, 2, M) of the parts (for instance of single images); rows: (B,) which of the R unions a part belongs to;
    counts: (R,) how large each union is, sizes: (B,) how large each part, 1 where not given. Returns (R, 2, M).
    """
    share = (1 / counts.to(moments.dtype))[rows, None]
    if sizes is not None:
        share = share * sizes[:, None]
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


def upsampled(h: Tensor, patch: int) -> Tensor:
    """`h` (B, C, H, W) upsampled bilinearly to the next sides that are multiples of `patch`, in `precision(h)`."""
    size = [-(-side // patch) * patch for side in h.shape[2:]]
    return dense(F.interpolate(h.to(precision(h)), size=size, mode="bilinear", align_corners=False))


def divides(patch: int, h: Tensor) -> bool:
    """Whether the plane of `h` (B, C, H, W) is made up of whole tiles."""
    return h.shape[2] % patch == 0 and h.shape[3] % patch == 0


def _over(means: Tensor, within: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Pool equally large parts' means and variances (G, n, C, …) over `dims`: total variance = mean within + variance of means."""
    mean = means.mean(dims, keepdim=True)
    variance = (within + (means - mean).square_()).mean(dims)
    return torch.stack([mean.flatten(1), variance.flatten(1)], dim=1)
