"""The passes over layer inputs that moments and their gradients are made of; what a pass costs is memory traffic.

On the CPU a pass is a kernel that reads half precision and sums in float32, or goes block by block, each turned into float32 within the
second-level cache, so that there is never a float copy of a layer input. On other devices it is some kernels over the whole.
"""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# Float32 values of a block on the CPU: two blocks and the rows that go with them stay in a cache of 2 MiB.
CACHED_VALUES = 2**17
# Pools are at most this wide where no tile says how wide, so that none sums so many values that rounding adds up.
POOL = 8


def over_images(h: Tensor, groups: int, *, pixels: bool) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over each group's images at every channel and pixel, (G, C, H, W) each in `precision(h)`.

    h: (G*n, C, H, W), dense. Without `pixels`, where the place within a column does not matter, they may be (G, C, 1, W), over columns too.
    Deviations are taken from a mean that is known already, never E[h^2] - E[h]^2, which loses everything to cancellation in float32
    once the mean is some hundred times the deviation.
    """
    channels_last = is_channels_last(h)
    values = h.permute(0, 2, 3, 1) if channels_last else h
    if channels_last and not pixels:
        values = values.flatten(0, 1)[:, None]
    rows = values.flatten(1)
    if h.device.type == "cpu":
        parts = [_column_moments(part) for part in rows.chunk(groups)]
        mean, variance = (torch.stack(part) for part in zip(*parts, strict=True))
    else:
        variance, mean = torch.var_mean(rows.to(precision(h)).unflatten(0, (groups, -1)), dim=1, correction=0)
    mean, variance = (moment.view(groups, *values.shape[1:]) for moment in (mean, variance))
    return (mean.permute(0, 3, 1, 2), variance.permute(0, 3, 1, 2)) if channels_last else (mean, variance)


def within_tiles(h: Tensor, patch: int | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance within tiles of each image and channel, (B, C, U, V) each in `precision(h)`.

    h: (B, C, H, W), dense. The tiles are P x P pixels for a `patch` P, else any that make up the plane.
    """
    tile = _tile(h, patch)
    blocks = [_within(block, tile) for block in h.split(_images_at_once(h))]
    means, within = (torch.cat(part) for part in zip(*blocks, strict=True))
    return means, within


def image_means(h: Tensor, patch: int | None) -> Tensor:
    """Means within the tiles of `within_tiles`, (B, C, U, V) in `precision(h)`, each rounded to the type of `h`, dense."""
    return F.avg_pool2d(h, _tile(h, patch)).to(precision(h))


Affine = tuple[Tensor, Tensor]  # a slope and an offset


def add_affine(
    gradient: Tensor,
    h: Tensor,
    affine: Affine | None,
    *,
    out: Tensor,
    scale: Tensor | None = None,
    entered: Tensor | None = None,
    entered_affine: Affine | None = None,
) -> None:
    """Write the gradient of what entered to `out`, which may be the `gradient` itself, given that which comes back from a layer.

    That is `gradient + slope * h + offset` with an `affine` alone, `scale * gradient + slope * h + offset` with a `scale` too and, where
    `h` is the ReLU of a normalisation of `entered`, `scale * [h > 0] * (gradient + slope * h + offset)` plus that of `entered_affine`.
    It is computed in `precision(h)` and rounded once to half precision. gradient, h, out, entered: (G*n, C, H, W), dense, of one layout
    and type. scale, slopes, offsets: (G or 1, U or 1, W, C), for U rows of tiles.
    """
    rows = 1 if affine is None else affine[0].shape[1]
    groups = max([len(pair[0]) for pair in (affine, entered_affine) if pair is not None], default=1)
    coefficients = [_row_by_row(row, h, groups) for row in (scale, *(affine or (None, None)), *(entered_affine or (None, None)))]
    wholes = [
        None if tensor is None else tensor.unflatten(2, (rows, -1)).unflatten(0, (groups, -1)) for tensor in (out, gradient, h, entered)
    ]
    block = _images_at_once(h)
    # A block is some whole groups or, where a group is larger than a block, a part of one.
    groups_at_once = max(1, block * groups // len(h))
    for *tensors, scale, slope, offset, entered_slope, entered_offset in _split(groups_at_once, 0, *wholes, *coefficients):
        for some in _split(block, 1, *tensors):
            _write_block(*some, scale, slope, offset, entered_slope, entered_offset)


def _split(size: int, dim: int, *tensors: Tensor | None) -> Iterator[tuple[Tensor | None, ...]]:
    """Go through tensors together, `size` at a time; None stays None."""
    return zip(*(itertools.repeat(None) if tensor is None else tensor.split(size, dim) for tensor in tensors), strict=False)


def _row_by_row(row: Tensor | None, h: Tensor, groups: int) -> Tensor | None:
    """(G or 1, U, W, C) as (G, 1, C, U, 1, W), written out in the layout of `h`, so that a sweep runs along whole contiguous rows."""
    if row is None:
        return None
    row = row.expand(groups, -1, -1, -1)
    if is_channels_last(h):
        return row.contiguous()[:, None, :, None].permute(0, 1, 5, 2, 3, 4)
    return row.permute(0, 3, 1, 2).contiguous()[:, None, :, :, None]


def _write_block(
    out: Tensor,
    gradient: Tensor,
    h: Tensor,
    entered: Tensor | None,
    scale: Tensor | None,
    slope: Tensor | None,
    offset: Tensor | None,
    entered_slope: Tensor | None,
    entered_offset: Tensor | None,
) -> None:
    """`add_affine` of one block, all tensors six-dimensional."""
    compute = precision(h)
    target = out
    if out.dtype != compute:
        # The CPU kernels mix precisions value by value; converted block by block they are several times as fast.
        gradient = target = gradient.to(compute)
        h = h.to(compute)
    if scale is not None and entered is None:
        if slope is None:
            torch.mul(gradient, scale, out=target)
        else:
            torch.addcmul(offset, gradient, scale, out=target).addcmul_(h, slope)
    else:
        if slope is not None:
            gradient = torch.addcmul(gradient, h, slope, out=target).add_(offset)
        if entered is not None:
            torch.ops.aten.threshold_backward.grad_input(gradient, h, 0, grad_input=target)
            if entered_slope is None:
                target.mul_(scale)
            else:
                entered = h.copy_(entered) if entered.dtype != compute else entered
                torch.addcmul(entered_offset, target, scale, out=target).addcmul_(entered, entered_slope)
    if target is not out:
        out.copy_(target)


def precision(h: Tensor) -> torch.dtype:
    """The type in which the moments of `h` are computed: float64 for float64, else float32."""
    return torch.float64 if h.dtype == torch.float64 else torch.float32


def dense(h: Tensor) -> Tensor:
    """`h` (B, C, H, W) where it is contiguous with channels last or first, else a contiguous copy."""
    return h if is_channels_last(h) else h.contiguous()


def is_channels_last(h: Tensor) -> bool:
    """Whether the channels of a pixel of `h` (B, C, H, W) lie side by side and nothing lies between pixels."""
    return h.is_contiguous(memory_format=torch.channels_last)


def _images_at_once(h: Tensor) -> int:
    """How many images make a block."""
    return max(1, CACHED_VALUES // h[0].numel()) if h.device.type == "cpu" else len(h)


def _tile(h: Tensor, patch: int | None) -> tuple[int, int]:
    """Sides of a tile: the patch or, without one, the largest numbers up to POOL that divide the plane's; a large prime stays whole."""
    if patch is not None:
        return patch, patch
    height, width = (
        next((tile for tile in range(min(POOL, side), 1, -1) if side % tile == 0), side) for side in h.shape[2:]
    )
    return height, width


def _column_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each column of `rows` (N, M), by the reduction of batch normalisation, which writes nothing else."""
    running: tuple[Tensor | None, Tensor | None] = (None, None)
    if rows.dtype in (torch.bfloat16, torch.float16):
        # On the CPU the kernel answers in the type of its running statistics; without any it would round the moments to half precision.
        scratch = rows.new_zeros(2, rows.shape[1], dtype=torch.float32)
        running = (scratch[0], scratch[1])
    return torch.batch_norm_update_stats(rows[:, :, None, None], *running, 0.0)


def _within(block: Tensor, tile: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`within_tiles` of one block."""
    values = block.to(precision(block))
    # Near the mean of the channel, so that sums of squares lose nothing to a large one.
    centre = values[:, :, values.shape[2] // 2].mean((0, 2))[None, :, None, None]
    row = centre
    if is_channels_last(values):
        # Written out along a row of pixels, so that the subtraction runs along whole contiguous rows.
        row = centre.expand(-1, -1, -1, values.shape[3]).contiguous(memory_format=torch.channels_last)
    values = values.sub(row) if values is block else values.sub_(row)
    means = F.avg_pool2d(values, tile)
    within = F.avg_pool2d(values.square_(), tile).sub_(means.square()).clamp_min_(0)
    return means.add_(centre), within
