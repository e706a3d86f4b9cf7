"""Moments with gradient: what enters a layer goes on, its moments come out beside it, and their gradients travel back in one sweep.

d loss / d h is affine in h with one slope and one offset per channel and tile, so the moments' gradient can be added to the gradient
that comes from the layer itself while that is passed on: no second gradient of the size of h is ever made, kept or added up.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from engine.matching.moments import divides, moments_of, upsampled
from engine.matching.reductions import Affine, add_affine, dense, precision


def watched(h: Tensor, patch: int | None, groups: int = 1) -> tuple[Tensor, Tensor]:
    """`h`, to be used in its place, and its moments: of channels and, with a `patch` of P pixels, of tiles (methods 0.1, after G-VBSM).

    h: (G*n, C, H, W), any float type, fastest in channels_last. The moments are (G, 2, C) or, with a patch, (G, 2, C + U*V) in float32
    (float64 for float64), U = ceil(H/P), V = ceil(W/P). Where a side is no multiple of P the tiles, not the channels, are those of `h`
    upsampled bilinearly to the next multiples. A tile moment is over the group's images, all channels and P x P pixels.
    The moments' gradient is added in place to that of the returned `h`, which must therefore go into convolutions and normalisations
    alone: their backward passes hand out gradients that nothing else holds.
    """
    if patch is None or divides(patch, h):
        return _Watched.apply(dense(h), patch, groups)
    _, of_tiles = _Watched.apply(upsampled(h, patch), patch, groups)
    channels = h.shape[1]
    h, of_channels = _Watched.apply(dense(h), None, groups)
    return h, torch.cat([of_channels, of_tiles[..., channels:]], dim=-1)


def layer_moments(h: Tensor, patch: int | None, groups: int = 1) -> Tensor:
    """The moments of `watched` alone."""
    return watched(h, patch, groups)[1]


def watched_norm(norm: nn.BatchNorm2d, h: Tensor, groups: int = 1, name: str = "") -> tuple[Tensor, Tensor]:
    """What a frozen `norm` makes of `h` (G*n, C, H, W), and the channel moments (G, 2, C) of `h`. `name` is for `watched_relu`."""
    spread = (norm.running_var.to(precision(h)) + norm.eps).rsqrt()
    scale = spread if norm.weight is None else spread * norm.weight
    return _WatchedNorm.apply(dense(h), norm, scale.detach(), groups, name)


def is_frozen_norm(module: nn.Module) -> bool:
    """Whether `watched_norm` does what this module does: plain batch normalisation by running statistics, nothing of it to be learnt."""
    return (
        type(module) is nn.BatchNorm2d
        and not module.training
        and module.running_var is not None
        and not (module.affine and (module.weight.requires_grad or module.bias.requires_grad))
    )


def watched_relu(h: Tensor, patch: int | None, groups: int = 1) -> tuple[Tensor, Tensor, Tensor, str] | None:
    """As `watched`, for an `h` that is the ReLU of what `watched_norm` returned; None if it is none, or its tiles are not whole.

    Gradients then travel to what entered the normalisation in one sweep. Returns `h`, its moments, those of what entered
    the normalisation, to be used in place of the ones that `watched_norm` returned, and the `name` that was given to it.
    """
    relu = h.grad_fn
    if relu is None or relu.name() != "ReluBackward0" or not (patch is None or divides(patch, h)) or dense(h) is not h:
        return None
    norm, output = relu.next_functions[0]
    if output != 0 or not isinstance(norm, _WatchedNorm._backward_cls) or norm.groups != groups:
        return None
    entered, moments, scale = norm.saved_tensors
    if entered.stride() != h.stride():
        return None
    return *_WatchedRelu.apply(entered, h.detach(), moments.detach(), scale, patch, groups), norm.layer


class _Watched(torch.autograd.Function):
    """(B, C, H, W) -> the same tensor and (G, 2, C [+ U*V]); the sides are multiples of `patch`."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, patch: int | None, groups: int) -> tuple[Tensor, Tensor]:
        moments = moments_of(h, patch, groups)
        ctx.save_for_backward(h, moments)
        ctx.patch = patch
        ctx.set_materialize_grads(False)
        return h, moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direct: Tensor | None, gradient: Tensor | None) -> tuple[Tensor | None, None, None]:
        if gradient is None:
            return direct, None, None
        h, moments = ctx.saved_tensors
        direct = _alike(direct, h)
        add_affine(direct, h, _affine(gradient, h, moments, ctx.patch), out=direct)
        return direct, None, None


class _WatchedNorm(torch.autograd.Function):
    """(B, C, H, W) -> normalised (B, C, H, W) and the moments of what came in, (G, 2, C)."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, norm: nn.BatchNorm2d, scale: Tensor, groups: int, layer: str) -> tuple[Tensor, Tensor]:
        moments = moments_of(h, None, groups)
        ctx.save_for_backward(h, moments, scale)
        ctx.groups, ctx.layer = groups, layer
        ctx.set_materialize_grads(False)
        return functional.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps), moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direct: Tensor | None, gradient: Tensor | None) -> tuple[Tensor, None, None, None, None]:
        h, moments, scale = ctx.saved_tensors
        result = torch.empty_like(h)
        add_affine(_alike(direct, h), h, _affine(gradient, h, moments), out=result, scale=_rows(scale, h))
        return result, None, None, None, None


class _WatchedRelu(torch.autograd.Function):
    """What entered a normalisation, and what a ReLU made of its output -> the latter, its moments, and those of the former."""

    @staticmethod
    def forward(
        ctx: Any, entered: Tensor, h: Tensor, entered_moments: Tensor, scale: Tensor, patch: int | None, groups: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        moments = moments_of(h, patch, groups)
        ctx.save_for_backward(entered, h, entered_moments, moments, scale)
        ctx.patch = patch
        ctx.set_materialize_grads(False)
        return h, moments, entered_moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direct: Tensor | None, gradient: Tensor | None, entered_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        entered, h, entered_moments, moments, scale = ctx.saved_tensors
        direct = _alike(direct, h)
        add_affine(
            direct,
            h,
            _affine(gradient, h, moments, ctx.patch),
            out=direct,
            scale=_rows(scale, h),
            entered=entered,
            entered_affine=_affine(entered_gradient, entered, entered_moments),
        )
        return direct, None, None, None, None, None


def _alike(gradient: Tensor | None, h: Tensor) -> Tensor:
    """A gradient in the layout and type of `h`, zeros where there is none; the gradient itself where it has them."""
    if gradient is None:
        return torch.zeros_like(h)
    if gradient.dtype != h.dtype or gradient.stride() != h.stride():
        return torch.empty_like(h).copy_(gradient)
    return gradient


def _rows(channels: Tensor, h: Tensor) -> Tensor:
    """Values (…, C) of channels, for `add_affine`: (…, 1, W, C)."""
    return channels.reshape(-1, 1, 1, channels.shape[-1]).expand(-1, -1, h.shape[3], -1)


def _affine(gradient: Tensor | None, h: Tensor, moments: Tensor, patch: int | None = None) -> Affine | None:
    """Slope and offset of d loss / d h from the gradient of the moments (G, 2, C [+ U*V]): (G, U, W, C) each, U rows of tiles."""
    if gradient is None:
        return None
    groups, channels = len(moments), h.shape[1]
    values = h.numel() // groups
    of_channels = _slope_and_offset(gradient[..., :channels], moments[..., :channels], values // channels)
    if patch is None:
        return tuple(_rows(part, h) for part in of_channels)
    rows, columns = h.shape[2] // patch, h.shape[3] // patch
    of_tiles = _slope_and_offset(gradient[..., channels:], moments[..., channels:], values // (rows * columns))
    return tuple(
        (tile.view(groups, rows, columns, 1, 1) + channel.view(groups, 1, 1, 1, channels)).expand(-1, -1, -1, patch, -1).flatten(2, 3)
        for tile, channel in zip(of_tiles, of_channels, strict=True)
    )


def _slope_and_offset(gradient: Tensor, moments: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Slope and offset, each (G, columns), from the gradient of moments (G, 2, columns) over `count` values.

    d mean / d h = 1 / count and d variance / d h = 2 (h - mean) / count.
    """
    slope = gradient[:, 1] * (2 / count)
    return slope, torch.addcmul(gradient[:, 0] / count, slope, moments[:, 0], value=-1)
