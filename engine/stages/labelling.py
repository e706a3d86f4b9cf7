"""Soft labels: what the observers say about the views of condensed images."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.compute.precision import autocast, forward_batch
from engine.data.views import Chunk
from engine.stages.inputs import Inputs


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


def label_chunk(observers: list[nn.Module], images: Tensor, chunk: Chunk, settings: dict[str, Any], inputs: Inputs) -> Tensor:
    """Return the ensemble's logits (M, classes) in float32 for a chunk's rendered views (M, 3, H, W)."""
    return ensemble_logits(observers, images, [slice(first, last) for _, first, last in chunk.batches], settings, inputs)


@torch.no_grad()
def ensemble_logits(observers: list[nn.Module], images: Tensor, batches: list[slice], settings: dict[str, Any], inputs: Inputs) -> Tensor:
    """Return the ensemble's logits (M, classes) in float32 for images (M, 3, H, W) in normalised units, which the `batches` divide.

    `labels.ensemble` is the mean of raw logits (EDC Eq. 4), or the mean after each observer's logits of a batch are scaled to the mean
    Frobenius norm over observers (G-VBSM). With `labels.teacher_batchnorm = "train"` each batch is labelled by itself.
    """
    size = forward_batch(inputs.device, images.shape[-1])
    whole = [slice(first, first + size) for first in range(0, len(images), size)]
    all_logits = []
    for observer in observers:
        if settings["labels.teacher_batchnorm"] == "train":
            with batch_statistics(observer):
                all_logits.append(_forward(observer, images, batches, inputs))
        else:
            all_logits.append(_forward(observer, images, whole, inputs))
    logits = torch.stack(all_logits)
    if settings["labels.ensemble"] == "norm_mean":
        logits = torch.cat([balanced(logits[:, batch]) for batch in batches], dim=1)
    return logits.mean(0)


def _forward(observer: nn.Module, images: Tensor, parts: list[slice], inputs: Inputs) -> Tensor:
    """Return one observer's logits of the images, taken part by part, in float32."""
    with autocast(inputs.device, inputs.precision):
        return torch.cat([observer(images[part]).float() for part in parts])


def balanced(logits: Tensor) -> Tensor:
    """Scale each observer's logits (K, B, C) so that all have the mean of their Frobenius norms (G-VBSM)."""
    norms = logits.flatten(1).norm(dim=1)
    return logits * (norms.mean() / norms.clamp_min(1e-12)).view(-1, 1, 1)
