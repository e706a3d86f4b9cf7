"""MobileNetV2 of half width for small images (Sandler et al. 2018, Table 2, with the strides of methods section 4).

It is the 'mobile half' of the distillation literature (0.81 M parameters at 100 classes), which differs from the paper in three ways:
the first block, though its expansion is 1, keeps its 1x1 expansion layer; activations are ReLU, not ReLU6; there is no dropout.
The reference ends in a 2x2 average pool, which at 32 px covers all that is left; the global average used here equals it there and
takes any resolution.
"""

from torch import Tensor, nn

from engine.models.layers import convolution, initialise_fan_out

# Expansion, channels at full width, blocks, stride of the first block.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
HEAD_CHANNELS = 1280


def _unit(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        convolution(in_channels, out_channels, kernel, stride=stride, groups=groups), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection: (B, in, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_identity = stride == 1 and in_channels == out_channels
        self.expand = _unit(in_channels, hidden, 1)
        self.depthwise = _unit(hidden, hidden, 3, stride=stride, groups=hidden)
        self.project = nn.Sequential(convolution(hidden, out_channels, 1), nn.BatchNorm2d(out_channels))

    def forward(self, images: Tensor) -> Tensor:
        residual = self.project(self.depthwise(self.expand(images)))
        return images + residual if self.has_identity else residual


class MobileNetV2(nn.Module):
    """Inverted residuals between a stride-2 stem and a 1280-wide head: (B, 3, H, W) normalised images -> (B, classes) logits."""

    def __init__(self, *, classes: int, width: float) -> None:
        super().__init__()
        channels = int(32 * width)
        self.stem = _unit(3, channels, 3, stride=2)
        blocks = []
        for expansion, full_width, count, stride in STAGES:
            for index in range(count):
                out_channels = int(full_width * width)
                blocks.append(InvertedResidual(channels, out_channels, stride=stride if index == 0 else 1, expansion=expansion))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.head = _unit(channels, HEAD_CHANNELS, 1)
        self.fc = nn.Linear(HEAD_CHANNELS, classes)
        initialise_fan_out(self)

    def forward(self, images: Tensor) -> Tensor:
        features = self.head(self.blocks(self.stem(images)))
        return self.fc(features.mean(dim=(2, 3)))


def mobilenet_v2(*, classes: int, width: float = 0.5) -> MobileNetV2:
    """MobileNetV2 with `width` times the paper's channels (the head stays 1280 wide): (B, 3, H, W) -> (B, classes) logits."""
    return MobileNetV2(classes=classes, width=width)
