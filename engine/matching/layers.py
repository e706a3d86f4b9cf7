"""Which layers of an observer are matched, and how the tensors that enter them are seen."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from engine.errors import UserError

LayerKind = Literal["bn", "conv"]
MatchedKinds = Literal["bn", "bn+conv"]
Seen = dict[str, Tensor]


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


Compute = Callable[[MatchedLayer, Tensor], tuple[Tensor, Tensor]]


@contextlib.contextmanager
def watching(
    layers: list[MatchedLayer], compute: Compute, stand_in: Callable[[MatchedLayer], Compute | None] | None = None
) -> Iterator[Seen]:
    """Collect what `compute(layer, h)` finds by layer name for every forward pass inside the block; `h` is the tensor entering the layer.

    `compute` returns the tensor that enters the layer in place of `h`, equal to it, and what it has found. Where `stand_in(layer)` gives
    something, that is called instead and computes the layer's output itself. Both run inside the forward pass with autocast off. Layers
    of one kind that are entered by the very same tensor share what was found for the first. A layer that runs several times in one
    forward pass is seen at its last call. Outside the block the model is as it was.
    """
    watch = _Watch({layer.name: layer.kind for layer in layers})
    with contextlib.ExitStack() as undo:
        undo.callback(watch.forget)
        for layer in layers:
            replacement = stand_in(layer) if stand_in else None
            if replacement is None:
                undo.callback(layer.module.register_forward_pre_hook(watch.hook(layer, compute)).remove)
            else:
                layer.module.forward = watch.forward(layer, replacement)
                undo.callback(delattr, layer.module, "forward")
        yield watch.seen


class _Watch:
    """What has been found in the forward passes so far."""

    def __init__(self, kinds: dict[str, LayerKind]) -> None:
        self.kinds = kinds
        self.seen: Seen = {}
        # What entered a layer, its version, and what went on in its place, by the layers for which something was computed.
        self._entered: dict[str, tuple[weakref.ref, int, Tensor | None]] = {}

    def hook(self, layer: MatchedLayer, compute: Compute) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        """A forward pre-hook of the layer's module."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            h = inputs[0]
            twin = self._twin(layer, h)
            if twin is None:
                entering = self._computed(layer, compute, h)
            else:
                entering = h if twin[2] is None else twin[2]
            return (entering, *inputs[1:])

        return hook

    def forward(self, layer: MatchedLayer, compute: Compute) -> Callable[[Tensor], Tensor]:
        """What the layer's module runs in place of its own forward pass."""
        own = layer.module.forward
        return lambda h: own(h) if self._twin(layer, h) else self._computed(layer, compute, h)

    def forget(self) -> None:
        """Let go of the tensors that went on."""
        self._entered.clear()

    def _twin(self, layer: MatchedLayer, h: Tensor) -> tuple[weakref.ref, int, Tensor | None] | None:
        """The entry of another layer of the kind that the very same tensor has entered; the layer then shares what was found there."""
        for name, entry in self._entered.items():
            if entry[0]() is h and entry[1] == h._version and name != layer.name and self.kinds[name] == layer.kind:
                self.seen[layer.name] = self.seen[name]
                return entry
        return None

    def _computed(self, layer: MatchedLayer, compute: Compute, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            result, self.seen[layer.name] = compute(layer, h)
        # Without a graph nothing else holds on to the tensor, so neither does this.
        self._entered[layer.name] = (weakref.ref(h), h._version, result if result.requires_grad else None)
        return result
