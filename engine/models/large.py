"""Networks for images of 128 px and more: torchvision's classifiers and timm's, untrained."""

from typing import Any

from torch import nn

from engine.errors import UserError


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
        return timm.create_model(builder, pretrained=False, num_classes=classes, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise _refusal(f"timm's {builder}", resolution, error) from error


def _refusal(model: str, resolution: int, error: Exception) -> UserError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return UserError(f"{model} cannot be built for {resolution} px images ({reason}): choose another resolution or model")
