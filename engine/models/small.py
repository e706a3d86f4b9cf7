"""torchvision's and timm's networks in a form for small images: a finer stem, and less pooling, over the same body.

Each is the network of that name from 128 px on but for what its function says; where the literature on CIFAR and Tiny-ImageNet has a form,
it is that one.
"""

from torch import Tensor, nn

from engine.models.counts import SMALL_WINDOW, coarse_patch, stem_patch

VGG_CHANNELS = 512


def efficientnet_b0(*, classes: int) -> nn.Module:
    """torchvision's EfficientNet-B0 whose stem does not stride: (B, 3, H, W) normalised images -> (B, classes) logits.

    The body halves the side four times more; the number of weights is torchvision's.
    """
    from torchvision.models import efficientnet_b0 as build

    model = build(weights=None, num_classes=classes)
    model.features[0][0].stride = (1, 1)
    return _out_of_place(model)


def densenet121(*, classes: int) -> nn.Module:
    """torchvision's DenseNet-121 with a 3x3 stride-1 stem and no max-pool: (B, 3, H, W) -> (B, classes) logits (Huang et al. 2017, 3)."""
    from torchvision.models import densenet121 as build

    model = build(weights=None, num_classes=classes)
    model.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.features.conv0.weight)
    model.features.pool0 = nn.Identity()
    return _out_of_place(model)


def vgg11_bn(*, classes: int) -> nn.Module:
    """The convolutions of torchvision's VGG-11 with BatchNorm under one linear layer: (B, 3, H, W) -> (B, classes) logits.

    The usual form for CIFAR: no hidden layers of 4,096. Pools round up, so that fewer than 32 px leave a pixel.
    """
    from torchvision.models.vgg import cfgs, make_layers

    features, head = make_layers(cfgs["A"], batch_norm=True), nn.Linear(VGG_CHANNELS, classes)
    for module in features:
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = True
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return _out_of_place(_Classifier(features, head))


def convnext_tiny(*, classes: int, resolution: int) -> nn.Module:
    """torchvision's ConvNeXt-Tiny with patches of 2 px, 4 px from 48 px on and 1 px below 16: (B, 3, H, W) -> (B, classes) logits."""
    from torchvision.models import convnext_tiny as build

    model = build(weights=None, num_classes=classes)
    patch = stem_patch(resolution)
    stem = nn.Conv2d(3, model.features[0][0].out_channels, patch, stride=patch)
    nn.init.trunc_normal_(stem.weight, std=0.02)
    nn.init.zeros_(stem.bias)
    model.features[0][0] = stem
    return model


def deit_tiny(*, classes: int, resolution: int) -> nn.Module:
    """timm's DeiT-Tiny with patches of 4 px, 8 px from 48 px on and 2 px below 24: (B, 3, H, W) -> (B, classes) logits.

    64 patches at 32 and at 64 px, as transformers have them on CIFAR and Tiny-ImageNet (Lee et al. 2021, 2112.13492).
    """
    from timm import create_model

    patch = coarse_patch(resolution)
    return unfused(create_model("deit_tiny_patch16_224", num_classes=classes, img_size=resolution, patch_size=patch))


def swin_tiny(*, classes: int, resolution: int) -> nn.Module:
    """timm's Swin-Tiny with patches of 2 px, 4 px from 48 px on, in windows of 4 patches, not 7: (B, 3, H, W) -> (B, classes) logits."""
    from timm import create_model

    patch = stem_patch(resolution)
    name = "swin_tiny_patch4_window7_224"
    return unfused(create_model(name, num_classes=classes, img_size=resolution, patch_size=patch, window_size=SMALL_WINDOW))


class _Classifier(nn.Module):
    """Convolutions, a global average, and one linear layer: (B, 3, H, W) -> (B, classes) logits."""

    def __init__(self, features: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.features, self.classifier = features, head

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean(dim=(2, 3)))


def unfused(model: nn.Module) -> nn.Module:
    """Return the network with attention that is computed step by step: fused kernels' gradients on CUDA differ from call to call."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


def _out_of_place(model: nn.Module) -> nn.Module:
    """Let no activation work in place: the matching hooks read layer inputs, which must not change after they are read."""
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    return model
