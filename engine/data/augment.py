"""Crops, flips, rolls and mixtures of whole batches, each image with its own parameters.

A `draw_*` function takes a CPU generator and returns small tensors; the function that applies them is a pure function of images
and parameters, so that whoever keeps the parameters (relabelling, for instance) can make the same images again. Parameters may
live on the CPU: they are moved to the images without waiting for the device. Where parameters come with a leading axis of N, a
leading axis of 1 shares them among all images, which is how synthesis augments (methods 0.5).
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from engine.compute.transfer import sent


def draw_crops(
    count: int,
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: torch.Generator,
) -> Tensor:
    """Draw boxes by the rule of torchvision's RandomResizedCrop.

    Area uniform in `scale` (fractions of the image), width:height log-uniform in `ratio`, position uniform among those inside
    the image; the first of ten tries that fits, else the largest central box whose ratio is allowed.
    Returns (count, 4) int64: top, left, height, width in pixels.
    """
    shape = (count, 10)
    area = height * width * _uniform(shape, *scale, generator=generator)
    aspect = _uniform(shape, math.log(ratio[0]), math.log(ratio[1]), generator=generator).exp()
    widths = (area * aspect).sqrt().round().long()
    heights = (area / aspect).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    fallback_height, fallback_width = _fallback_size(height, width, ratio)
    found = fits.any(dim=1)
    crop_height = torch.where(found, heights.gather(1, first).squeeze(1), fallback_height)
    crop_width = torch.where(found, widths.gather(1, first).squeeze(1), fallback_width)
    position = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    top = torch.where(found, (position[:, 0] * (height - crop_height + 1)).long(), (height - fallback_height) // 2)
    left = torch.where(found, (position[:, 1] * (width - crop_width + 1)).long(), (width - fallback_width) // 2)
    return torch.stack((top, left, crop_height, crop_width), dim=1)


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Cut a box of its own out of each image and resize it bilinearly to the size of the image; differentiable.

    `images` (N, C, H, W) float; `boxes` (N, 4) or (1, 4) integers as `draw_crops` returns them. Returns (N, C, H, W).
    Equal to torchvision's `resized_crop`, with or without antialiasing, since a box is never larger than its image.
    """
    count, channels, height, width = images.shape
    top, left, box_height, box_width = boxes.unbind(dim=1)
    rows = _source_positions(top, box_height, height)
    columns = _source_positions(left, box_width, width)
    compute = torch.promote_types(images.dtype, torch.float32)
    with _without_autocast(images.device):
        if not images.requires_grad:
            grid_x = sent(((columns * 2 + 1) / width - 1).to(compute), images.device)
            grid_y = sent(((rows * 2 + 1) / height - 1).to(compute), images.device)
            grid = torch.stack((grid_x[:, None, :].expand(-1, height, -1), grid_y[:, :, None].expand(-1, -1, width)), dim=-1)
            grid = grid.expand(count, -1, -1, -1)
            return functional.grid_sample(images.to(compute), grid, align_corners=False).to(images.dtype)
        # As products of matrices, the gradient costs a third of grid_sample's and, on a GPU, always sums in the same order.
        row_weights = sent(_bilinear_weights(rows, height).to(compute), images.device)
        column_weights = sent(_bilinear_weights(columns, width).to(compute), images.device)
        flat = images.to(compute).reshape(count, channels * height, width)
        narrowed = torch.bmm(flat, column_weights.mT.expand(count, -1, -1)).view(images.shape)
        return torch.matmul(row_weights[:, None], narrowed).to(images.dtype)


def shared_resized_crop(images: Tensor, box: Tensor) -> Tensor:
    """Cut the same box out of every image and resize it bilinearly to the size of the images; differentiable (methods 0.5).

    `images` (N, C, H, W) float; `box` (4,) integers on the CPU: top, left, height, width. Returns (N, C, H, W).
    """
    height, width = images.shape[-2:]
    top, left, box_height, box_width = box.tolist()
    origin = torch.zeros(1, dtype=torch.int64)
    compute = torch.promote_types(images.dtype, torch.float32)
    row_weights = _bilinear_weights(_source_positions(origin, box[2:3], height), box_height)[0]
    column_weights = _bilinear_weights(_source_positions(origin, box[3:4], width), box_width)[0]
    row_weights = sent(row_weights.to(compute), images.device)
    column_weights = sent(column_weights.to(compute), images.device)
    with _without_autocast(images.device):
        region = images[:, :, top : top + box_height, left : left + box_width].to(compute)
        return torch.matmul(row_weights, torch.matmul(region, column_weights.T)).to(images.dtype)


def draw_offsets(count: int, *, padding: int, generator: torch.Generator) -> Tensor:
    """Draw where in the padded image a crop of the original size begins: (count, 2) int64, row and column, each U{0..2 padding}."""
    return torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)


def padded_crop(images: Tensor, offsets: Tensor, *, padding: int, fill: Sequence[float]) -> Tensor:
    """Pad each image by `padding` pixels of colour `fill` and cut the original size out of it at its offset; differentiable.

    `images` (N, C, H, W) float; `offsets` (N, 2) or (1, 2) integers; `fill` C values in the units of `images`: for normalised
    images, black is `-mean / std`. Returns (N, C, H, W).
    """
    height, width = images.shape[-2:]
    offsets = sent(offsets, images.device)
    rows = torch.arange(height, device=images.device) + offsets[:, :1] - padding
    columns = torch.arange(width, device=images.device) + offsets[:, 1:] - padding
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    colour = sent(torch.tensor(fill, dtype=images.dtype).view(1, -1, 1, 1), images.device)
    return torch.where(inside, _take_pixels(images, rows.clamp(0, height - 1), columns.clamp(0, width - 1)), colour)


def draw_flips(count: int, *, generator: torch.Generator) -> Tensor:
    """Draw which images are mirrored: (count,) bool, true with probability one half."""
    return torch.rand(count, generator=generator) < 0.5


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror left and right those of the `images` (N, C, H, W) whose `mask` (N,) or (1,) is true; differentiable."""
    mask = sent(mask, images.device)
    return torch.where(mask[:, None, None, None], images.flip(-1), images)


def draw_shifts(count: int, *, lowest: int, highest: int, generator: torch.Generator) -> Tensor:
    """Draw circular shifts: (count, 2) int64, downwards and to the right in pixels, each U{lowest..highest} (methods 1.1)."""
    return torch.randint(lowest, highest + 1, (count, 2), generator=generator)


def roll(images: Tensor, shift_y: Tensor, shift_x: Tensor) -> Tensor:
    """Shift each image circularly by `shift_y` pixels downwards and `shift_x` to the right; differentiable.

    `images` (N, C, H, W); `shift_y` and `shift_x` both (N,) or both (1,) integers of either sign.
    """
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - sent(shift_y, images.device)[:, None]
    columns = torch.arange(width, device=images.device) - sent(shift_x, images.device)[:, None]
    return _take_pixels(images, rows % height, columns % width)


def draw_patch_orders(count: int, *, factor: int, generator: torch.Generator) -> Tensor:
    """Draw permutations of `factor` strips: (count, 2, factor) int64, for each image one of its columns and one of its rows."""
    return torch.rand(count, 2, factor, generator=generator, dtype=torch.float64).argsort(dim=-1)


def shuffle_patches(images: Tensor, orders: Tensor) -> Tensor:
    """Permute the columns and then the rows of a grid of tiles laid over each image (RDED; methods 1.3, D1).

    `images` (N, C, H, W); `orders` (N, 2, factor) or (1, 2, factor) as `draw_patch_orders` returns them. The last strip takes the
    pixels that remain when a side is not divisible by `factor`, so none is lost.
    """
    height, width = images.shape[-2:]
    orders = sent(orders, images.device)
    return _take_pixels(images, _strip_pixels(orders[:, 1], height), _strip_pixels(orders[:, 0], width))


def draw_beta(count: int, alpha: float, *, generator: torch.Generator) -> Tensor:
    """Draw `count` values of Beta(alpha, alpha), float32, as the share of one of two gamma variables in their sum."""
    shape = torch.full((count, 2), alpha, dtype=torch.float64)
    # torch.distributions takes no generator; this is the function it draws its gamma variables with.
    gamma = torch._standard_gamma(shape, generator=generator)
    return (gamma[:, 0] / gamma.sum(dim=1)).float()


def draw_cutmix(
    batch_size: int, height: int, width: int, *, alpha: float = 1.0, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the box and the permutation that CutMix uses for one training batch (methods 0.6).

    Returns `lam` () float, Beta(alpha, alpha), not corrected for clipping; `box` (4,) int64: top, left, height, width in pixels,
    sides `sqrt(1 - lam)` of the image's around a uniform centre, clipped to the image; `permutation` (batch_size,) int64.
    """
    lam = draw_beta(1, alpha, generator=generator)[0]
    side = math.sqrt(1 - lam.item())
    centre_y = torch.randint(height, (), generator=generator)
    centre_x = torch.randint(width, (), generator=generator)
    box = cutmix_box(centre_y, centre_x, int(height * side), int(width * side), height, width)
    return lam, box, torch.randperm(batch_size, generator=generator)


def cutmix_box(centre_y: Tensor, centre_x: Tensor, box_height: int, box_width: int, height: int, width: int) -> Tensor:
    """Return the box (4,) int64 that reaches half its size, rounded down, to each side of its centre, clipped to the image."""
    top, bottom = (centre_y - box_height // 2).clamp(min=0), (centre_y + box_height // 2).clamp(max=height)
    left, right = (centre_x - box_width // 2).clamp(min=0), (centre_x + box_width // 2).clamp(max=width)
    return torch.stack((top, left, bottom - top, right - left))


def cutmix(images: Tensor, boxes: Tensor, partner: Tensor) -> Tensor:
    """Paste into each image the pixels that its partner has inside its box; differentiable (methods 0.6).

    `images` (N, C, H, W), of one batch or of many; `boxes` (N, 4) integers: top, left, height, width, maybe empty; `partner` (N,)
    the index in `images` of the image pasted from. Returns (N, C, H, W).
    """
    top, left, box_height, box_width = sent(boxes, images.device)[:, :, None].unbind(dim=1)
    rows = torch.arange(images.shape[-2], device=images.device)
    columns = torch.arange(images.shape[-1], device=images.device)
    inside_rows = (rows >= top) & (rows < top + box_height)
    inside_columns = (columns >= left) & (columns < left + box_width)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(inside, images.index_select(0, sent(partner, images.device)), images)


def mixup(images: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
    """Return `lam * image + (1 - lam) * partner` for each image; differentiable (methods 0.6: Beta(0.8, 0.8), one draw a batch).

    `images` (N, C, H, W) float; `lam` (N,) in [0, 1]; `partner` (N,) the index in `images` of the image mixed in.
    """
    share = sent(lam.to(images.dtype), images.device)[:, None, None, None]
    return torch.lerp(images.index_select(0, sent(partner, images.device)), images, share)


def _without_autocast(device: torch.device) -> AbstractContextManager:
    """Keep autocast from computing products of pixels in half precision; a device that has none refuses to have it disabled."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _uniform(shape: tuple[int, ...], low: float, high: float, *, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def _fallback_size(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    if width / height < min(ratio):
        return round(width / min(ratio)), width
    if width / height > max(ratio):
        return height, round(height * max(ratio))
    return height, width


def _source_positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where in the image each of `size` output pixels is read, (N, size) float64, kept between the outermost pixels of the box."""
    length = length[:, None]
    within = (torch.arange(size, device=start.device, dtype=torch.float64) + 0.5) * (length / size) - 0.5
    return torch.minimum(within.clamp(min=0), length - 1.0) + start[:, None]


def _bilinear_weights(positions: Tensor, extent: int) -> Tensor:
    """Matrices (N, size, extent) float64 whose product with `extent` pixels reads them at the `positions` (N, size)."""
    lower = positions.floor()
    fraction = (positions - lower)[:, :, None]
    lower = lower.long()[:, :, None]
    upper = (lower + 1).clamp(max=extent - 1)
    weights = torch.zeros(*positions.shape, extent, dtype=positions.dtype, device=positions.device)
    return weights.scatter_add_(2, lower, 1 - fraction).scatter_add_(2, upper, fraction)


def _take_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the images (N, C, H, W) whose pixel (i, j) is `images[n, :, rows[n, i], columns[n, j]]`; rows (N or 1, H)."""
    count, channels, height, width = images.shape
    index = (rows[:, :, None] * width + columns[:, None, :]).view(-1, 1, height * width)
    return images.flatten(2).gather(2, index.expand(count, channels, -1)).view(images.shape)


def _strip_pixels(order: Tensor, size: int) -> Tensor:
    """Return for each of `size` positions the pixel that lies there once the strips of a side are in `order`; (N, size)."""
    factor = order.shape[1]
    strip = size // factor
    strips = torch.arange(factor, device=order.device)
    widths = torch.where(strips == factor - 1, size - strip * (factor - 1), strip)[order]
    ends = widths.cumsum(dim=1)
    position = torch.arange(size, device=order.device).expand(order.shape[0], -1).contiguous()
    slot = torch.searchsorted(ends, position, right=True)
    return position - (ends - widths).gather(1, slot) + order.gather(1, slot) * strip
