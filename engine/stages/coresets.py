"""Coresets: which real images of a class stand for it, by an observer's logits or by its features.

Each choice is a function of one class's images; none draws random numbers, and ties go to the earlier image.
"""

import torch
from torch import Tensor, nn

from engine.compute.precision import autocast
from engine.errors import RunError
from engine.stages.inputs import ClassImages, Inputs

BATCH_PIXELS = 500 * 32**2  # of one forward pass


def choose(source: str, images: Tensor | ClassImages, label: int, ipc: int, scorer: nn.Module, inputs: Inputs) -> Tensor:
    """Return the indices (ipc,) of a class's chosen images among its uint8 `images` (N, 3, S, S), in the order of the choice."""
    logits, features = read_out(images, scorer, inputs)
    if source in ("easy", "medium"):
        confidence = logits.log_softmax(1)[:, label]
        return easy(confidence, ipc) if source == "easy" else medium(confidence, ipc)
    unit = unit_length(features)
    return herding(unit, ipc) if source == "herding" else k_center(unit, ipc)


@torch.no_grad()
def read_out(images: Tensor | ClassImages, scorer: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return a network's logits (N, classes) on uint8 images and what enters its last layer (N, D), both float64 on the CPU.

    Positions of features that have any (tokens, pixels) are averaged. Raises RunError for a network without such a layer.
    """
    entered: list[Tensor] = []
    handle = head(scorer, inputs.classes).register_forward_pre_hook(lambda module, given: entered.append(_pooled(module, given[0])))
    logits = []
    try:
        size = max(1, BATCH_PIXELS // images.shape[-1] ** 2)
        for start in range(0, len(images), size):
            part = images[start : start + size].to(inputs.device)
            with autocast(inputs.device, inputs.precision):
                logits.append(scorer(inputs.normalise(part)).cpu().double())
    finally:
        handle.remove()
    return torch.cat(logits), torch.cat(entered).cpu().double()


def head(network: nn.Module, classes: int) -> nn.Module:
    """Return the last layer of a classifier: its last linear layer with an output for each class, or such a convolution."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear) and module.out_features == classes]
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.out_channels == classes]
    if found := linear or convolutions:
        return found[-1]
    raise RunError(f"{type(network).__name__} has no last layer whose inputs could be features; let another observer choose the images")


def _pooled(module: nn.Module, features: Tensor) -> Tensor:
    """Return features (N, D) of the inputs of a last layer: channels come second before a convolution, last before a linear layer."""
    if features.ndim == 2:
        return features
    return features.flatten(2).mean(2) if isinstance(module, nn.Conv2d) else features.flatten(1, -2).mean(1)


def unit_length(features: Tensor) -> Tensor:
    """Return features (N, D) scaled to length 1, zeros left as they are."""
    return features / features.norm(dim=1, keepdim=True).clamp_min(torch.finfo(features.dtype).tiny)


def easy(confidence: Tensor, ipc: int) -> Tensor:
    """Return the images (ipc,) with the highest probability of their own class; `confidence` (N,) rises with it."""
    return confidence.argsort(descending=True, stable=True)[:ipc]


def medium(confidence: Tensor, ipc: int) -> Tensor:
    """Return the middle images (ipc,) of those ranked by the probability of their own class, easier ones first (DELT 3.2, FADRM 3.1).

    As many are left out before the window as after it; where that is an odd number, one more after it.
    """
    first = (len(confidence) - ipc) // 2
    return confidence.argsort(descending=True, stable=True)[first : first + ipc]


def herding(features: Tensor, ipc: int) -> Tensor:
    """Return images (ipc,) whose mean of features (N, D) follows the class's, chosen one after the other (Welling 2009; iCaRL, Alg. 4).

    Image k is the one that brings the mean of the first k nearest to the mean of all; none is chosen twice.
    """
    mean, lengths = features.mean(0), features.square().sum(1)
    chosen, total = [], torch.zeros_like(mean)
    taken = torch.zeros(len(features), dtype=torch.bool)
    for count in range(1, ipc + 1):
        # |mean - (total + f) / k|^2 without what is the same for all f, times k^2
        distance = lengths - 2 * features @ (count * mean - total)
        chosen.append(_first_smallest(distance.masked_fill(taken, torch.inf)))
        total, taken[chosen[-1]] = total + features[chosen[-1]], True
    return torch.tensor(chosen)


def k_center(features: Tensor, ipc: int) -> Tensor:
    """Return images (ipc,) that cover the class's features (N, D) (Gonzalez 1985; Sener and Savarese 2018, Alg. 1).

    The first is the one nearest to their mean, each other the one farthest from all chosen before; none is chosen twice.
    """
    nearest = (features - features.mean(0)).square().sum(1)
    chosen = [_first_smallest(nearest)]
    distance = torch.full_like(nearest, torch.inf)
    for _ in range(1, ipc):
        distance = distance.minimum((features - features[chosen[-1]]).square().sum(1))
        distance[chosen[-1]] = -1.0  # so that a copy of a chosen image comes before the image itself again
        chosen.append(_first_smallest(-distance))
    return torch.tensor(chosen)


def _first_smallest(values: Tensor) -> int:
    """Return the first index whose value is the smallest up to rounding, which differs between equal rows of a matrix product."""
    return int((values <= values.min() + 1e-12).nonzero()[0])
