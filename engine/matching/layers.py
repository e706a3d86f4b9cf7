"""Which layers of an observer are matched, and how the tensors that enter them are seen."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from engine.errors import UserError

LayerKind = Literal["bn", "conv"]
MatchedKinds = Literal["bn", "bn+conv"]


@dataclass(frozen=True)
class MatchedLayer:
    """A layer whose input is matched: `name` as in `model.named_modules()`, `kind` "bn" or "conv"."""

    name: str
    module: nn.Module
    kind: LayerKind


def matched_layers(model: nn.Module, kind: MatchedKinds = "bn+conv") -> list[MatchedLayer]:
    """List the BatchNorm2d layers, and with "bn+conv" the Conv2d layers too, in the order of `model.modules()`.

    The first one is the layer that `first_multiplier` stresses: the stem convolution with "bn+conv" (its input is the image), the first
    BatchNorm with "bn" (methods 0.3). Raises UserError where the model has no such layer.
    """
    kinds: dict[type[nn.Module], LayerKind] = {nn.BatchNorm2d: "bn", nn.SyncBatchNorm: "bn"}
    if kind == "bn+conv":
        kinds[nn.Conv2d] = "conv"
    layers = [
        MatchedLayer(name, module, layer_kind)
        for name, module in model.named_modules()
        for layer_type, layer_kind in kinds.items()
        if isinstance(module, layer_type)
    ]
    if not layers:
        wanted = "BatchNorm2d" if kind == "bn" else "BatchNorm2d or Conv2d"
        raise UserError(f"the observer {type(model).__name__} has no {wanted} layer to match: choose another observer or match.layers")
    return layers


@contextlib.contextmanager
def watching(layers: list[MatchedLayer], compute: Callable[[MatchedLayer, Tensor], Tensor]) -> Iterator[dict[str, Tensor]]:
    """Collect `compute(layer, h)` by layer name for every forward pass inside the block, where `h` is the tensor entering the layer.

    `compute` runs inside the forward pass with autocast off, so only what it returns is kept, never `h` itself.
    A layer that runs several times in one forward pass is seen at its last call. Outside the block the model carries no hook.
    """
    seen: dict[str, Tensor] = {}

    def hook_for(layer: MatchedLayer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            with torch.autocast(inputs[0].device.type, enabled=False):
                seen[layer.name] = compute(layer, inputs[0])

        return hook

    handles = [layer.module.register_forward_pre_hook(hook_for(layer)) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
