"""The averaged student that EDC measures: moving averages of weights, and batch-norm statistics that fit them."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# An average over more steps than a tenth of the training still carries the random initial weights (EDC Tables 17 and 20 collapse at 0.999).
HORIZON_SHARE = 10


def capped_momentum(momentum: float, updates: int) -> float:
    """Return the momentum, at most `1 - 10 / updates`, so that the average forgets the initial weights within the training."""
    return max(0.0, min(momentum, 1 - HORIZON_SHARE / updates))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, momentum: float) -> None:
    """Move the averaged weights by `1 - momentum` towards the model's; buffers are averaged likewise, counters copied."""
    pairs = [*zip(average.parameters(), model.parameters(), strict=True), *zip(average.buffers(), model.buffers(), strict=True)]
    moved = [pair for pair in pairs if pair[0].is_floating_point()]
    copied = [pair for pair in pairs if not pair[0].is_floating_point()]
    torch._foreach_lerp_([kept for kept, _ in moved], [fresh for _, fresh in moved], 1 - momentum)
    if copied:
        torch._foreach_copy_([kept for kept, _ in copied], [fresh for _, fresh in copied])


@torch.no_grad()
def copy_batchnorm(target: nn.Module, source: nn.Module) -> None:
    """Give a network the buffers of another: the release measures averaged weights with the student's own (defect D9)."""
    for kept, fresh in zip(target.buffers(), source.buffers(), strict=True):
        kept.copy_(fresh)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Take the running statistics of all batch-norm layers anew, as the plain average over `batches` of (B, 3, H, W) views."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not layers:
        return
    momenta, training = [layer.momentum for layer in layers], model.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # PyTorch's name for the cumulative average
    model.eval()
    for layer in layers:
        layer.train()  # the layers alone, so that dropout stays off
    for batch in batches:
        model(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(training)
