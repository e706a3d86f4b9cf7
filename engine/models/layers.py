"""The convolution and the initialisation that the families of this room share."""

from torch import nn


def convolution(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A bias-free convolution padded so that stride 1 keeps the size: (B, in, H, W) -> (B, out, ceil(H/stride), ceil(W/stride))."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)


def initialise_fan_out(model: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / (out_channels * kernel area)), in module order, with the global generator (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
