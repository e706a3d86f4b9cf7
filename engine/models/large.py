"""Networks for images of 128 px and more: torchvision's classifiers and timm's, untrained; timm's for smaller images, too."""

from typing import Any

import torch
from torch import nn

from engine.errors import UserError
from engine.models.small import unfused

SURE = 128  # px from which on every network of timm has pixels enough


def torchvision_model(builder: str, *, classes: int, resolution: int) -> nn.Module:
    """torchvision's classifier `builder` without weights or auxiliary heads: (B, 3, resolution, resolution) -> (B, classes) logits.

    Raises UserError when its constructor refuses the resolution.
    """
    from torchvision.models import get_model

    options: dict[str, Any] = {}
    if builder.startswith("vit_"):
        options = {"image_size": resolution}
    elif builder.startswith("maxvit_"):
        options = {"input_size": (resolution, resolution)}
    elif builder in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    try:
        return get_model(builder, weights=None, num_classes=classes, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise _refusal(f"torchvision's {builder}", resolution, error) from error


def timm_model(builder: str, *, classes: int, resolution: int) -> nn.Module:
    """timm's `builder` without weights: (B, 3, resolution, resolution) -> (B, classes) logits.

    Networks whose weights depend on the image size (DeiT, Swin, …) are built for `resolution`.
    Raises UserError when the constructor refuses the resolution.
    """
    import timm

    configuration = timm.get_pretrained_cfg(builder)
    options = {"img_size": resolution} if configuration is not None and configuration.fixed_input_size else {}
    try:
        if resolution < SURE:
            _try(builder, classes, resolution, options)
        return unfused(timm.create_model(builder, pretrained=False, num_classes=classes, **options))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _refusal(f"timm's {builder}", resolution, error) from error


def _try(builder: str, classes: int, resolution: int, options: dict[str, Any]) -> None:
    """Pass images through the network's shapes: many halve a small image until nothing is left, and say so only then."""
    import timm

    with torch.device("meta"), torch.no_grad():
        timm.create_model(builder, pretrained=False, num_classes=classes, **options)(torch.empty(2, 3, resolution, resolution))


def _refusal(model: str, resolution: int, error: Exception) -> UserError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return UserError(f"{model} cannot be built for {resolution} px images ({reason}): choose another resolution or model")
