"""Plain, slow definitions of what engine.matching computes, in float64 and loop by loop, and a small observer to try them on."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_moments(h: Tensor, patch: int | None, groups: int = 1) -> Tensor:
    """Channel moments and, with a patch, tile moments, group by group and tile by tile: (G, 2, C [+ U*V])."""
    rows = []
    for part in h.double().chunk(groups):
        means = [part[:, c].mean() for c in range(part.shape[1])]
        variances = [part[:, c].var(correction=0) for c in range(part.shape[1])]
        if patch is not None:
            size = [-(-side // patch) * patch for side in part.shape[2:]]
            plane = part if size == list(part.shape[2:]) else F.interpolate(part, size=size, mode="bilinear", align_corners=False)
            for top in range(0, size[0], patch):
                for left in range(0, size[1], patch):
                    tile = plane[:, :, top : top + patch, left : left + patch]
                    means.append(tile.mean())
                    variances.append(tile.var(correction=0))
        rows.append(torch.stack([torch.stack(means), torch.stack(variances)]))
    return torch.stack(rows)


class SmallObserver(nn.Module):
    """Three convolutions of 8 x 8 pixels, whose inputs are 8, 4 and 2 pixels wide, and two BatchNorms; smooth, for gradient checks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.stem_norm = nn.BatchNorm2d(4)
        self.middle = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.middle_norm = nn.BatchNorm2d(5)
        self.last = nn.Conv2d(5, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        h = F.softplus(self.stem_norm(self.stem(images)))
        h = F.softplus(self.middle_norm(self.middle(h)))
        return self.head(self.last(h).mean((2, 3)))


def small_observer(dtype: torch.dtype = torch.float64) -> SmallObserver:
    """A frozen observer with random weights and running statistics, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        observer = SmallObserver()
        for norm in (observer.stem_norm, observer.middle_norm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return observer.to(dtype).eval().requires_grad_(False)


def random_images(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normalised 8 x 8 images of different brightness and contrast."""
    generator = torch.Generator().manual_seed(seed)
    scale = 0.5 + torch.rand(count, 1, 1, 1, generator=generator, dtype=torch.float64)
    shift = torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64)
    return (scale * torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64) + shift).to(dtype)


def layer_inputs(observer: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What enters each convolution and BatchNorm, by name, in the order of the modules."""
    inputs: dict[str, Tensor] = {}
    layers = [(name, module) for name, module in observer.named_modules() if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))]
    handles = [
        module.register_forward_pre_hook(lambda _, arguments, name=name: inputs.__setitem__(name, arguments[0])) for name, module in layers
    ]
    observer(images)
    for handle in handles:
        handle.remove()
    return {name: inputs[name] for name, _ in layers}


def patch_of(layer: str, patch: int = 4) -> int | None:
    """Tile side for a layer of the small observer: convolutions have tiles, BatchNorms none."""
    return None if layer.endswith("norm") else patch
