"""Soft labels: what the observers say about the views of condensed images."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.compute.precision import autocast, forward_batch
from engine.data.views import Chunk, chunk_limit
from engine.stages.inputs import Inputs

# Values of a layer's output for a whole batch that a CPU's caches hold well enough: 32 images where a layer has 128 channels of 32 px.
LARGEST_OUTPUT = 1 << 22
_LARGEST: WeakKeyDictionary[nn.Module, dict[torch.Size, int]] = WeakKeyDictionary()  # of observers, by the shape of an image
PASSES_AHEAD = 4  # of a CPU, so that the first step of a training need not wait for the labels of thousands


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch-norm layers normalise by the batch they see, without touching their running statistics (defect S1)."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(layer.training, layer.track_running_stats) for layer in layers]
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer, (training, tracks) in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = training, tracks


def labelled_ahead(device: str, side: int) -> int:
    """Return how many views of coming steps, square images of `side` px, are rendered and labelled together while a student trains."""
    return chunk_limit(side) if torch.device(device).type != "cpu" else PASSES_AHEAD * forward_batch(device, side)


def label_chunk(observers: list[nn.Module], images: Tensor, chunk: Chunk, settings: dict[str, Any], inputs: Inputs) -> Tensor:
    """Return the ensemble's logits (M, classes) in float32 for a chunk's rendered views (M, 3, H, W)."""
    return ensemble_logits(observers, images, [slice(first, last) for _, first, last in chunk.batches], settings, inputs)


@torch.no_grad()
def ensemble_logits(observers: list[nn.Module], images: Tensor, batches: list[slice], settings: dict[str, Any], inputs: Inputs) -> Tensor:
    """Return the ensemble's logits (M, classes) in float32 for images (M, 3, H, W) in normalised units, which the `batches` divide.

    `labels.ensemble` is the mean of raw logits (EDC Eq. 4), or the mean after each observer's logits of a batch are scaled to the mean
    Frobenius norm over observers (G-VBSM). With `labels.teacher_batchnorm = "train"` each batch is labelled by itself.
    """
    all_logits = []
    for observer in observers:
        if settings["labels.teacher_batchnorm"] == "train":
            with batch_statistics(observer):
                all_logits.append(_forward(observer, images, batches, inputs))
        else:
            size = _batch_size(observer, images, inputs)
            whole = [slice(first, first + size) for first in range(0, len(images), size)]
            all_logits.append(_forward(observer, images, whole, inputs))
    logits = torch.stack(all_logits)
    if settings["labels.ensemble"] == "norm_mean":
        logits = torch.cat([balanced(logits[:, batch]) for batch in batches], dim=1)
    return logits.mean(0)


def _batch_size(observer: nn.Module, images: Tensor, inputs: Inputs) -> int:
    """Return in how large batches an observer passes the images fastest: on a CPU fewer where its widest layer's output is large."""
    limit = forward_batch(inputs.device, images.shape[-1])
    if torch.device(inputs.device).type != "cpu":
        return limit
    known = _LARGEST.setdefault(observer, {})
    if images.shape[1:] not in known:
        known[images.shape[1:]] = _largest_output(observer, images[:1], inputs)
    return max(1, min(limit, LARGEST_OUTPUT // known[images.shape[1:]]))


def _largest_output(observer: nn.Module, image: Tensor, inputs: Inputs) -> int:
    """Return the number of values of the largest output of an observer's layers for one image (1, 3, H, W)."""
    largest = 1

    def look(module: nn.Module, given: Any, output: Any) -> None:
        nonlocal largest
        largest = max(largest, output.numel()) if isinstance(output, Tensor) else largest

    hooks = [module.register_forward_hook(look) for module in observer.modules()]
    try:
        with autocast(inputs.device, inputs.precision):
            observer(image)
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _forward(observer: nn.Module, images: Tensor, parts: list[slice], inputs: Inputs) -> Tensor:
    """Return one observer's logits of the images, taken part by part, in float32."""
    with autocast(inputs.device, inputs.precision):
        return torch.cat([observer(images[part]).float() for part in parts])


def balanced(logits: Tensor) -> Tensor:
    """Scale each observer's logits (K, B, C) so that all have the mean of their Frobenius norms (G-VBSM)."""
    norms = logits.flatten(1).norm(dim=1)
    return logits * (norms.mean() / norms.clamp_min(1e-12)).view(-1, 1, 1)
