"""Wide residual networks WRN-depth-k, without dropout (Zagoruyko and Komodakis 2016, Table 1)."""

from torch import Tensor, nn
from torch.nn import functional

from engine.models.layers import convolution, initialise_fan_out


class PreActivationBlock(nn.Module):
    """Normalisation and ReLU before each 3x3 convolution: (B, in, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(in_channels, out_channels, 3, stride=stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = convolution(out_channels, out_channels, 3)
        self.shortcut = None if in_channels == out_channels else convolution(in_channels, out_channels, 1, stride=stride)

    def forward(self, images: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(images))
        residual = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        # A projecting shortcut starts after the activation it shares with the residual branch, a plain one before it.
        return residual + (images if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """Three groups of blocks, 16k, 32k and 64k channels wide: (B, 3, H, W) normalised images -> (B, classes) logits."""

    def __init__(self, *, classes: int, depth: int, widen_factor: int) -> None:
        super().__init__()
        channels = 16
        self.conv1 = convolution(3, channels, 3)
        blocks = []
        for group in range(3):
            width = 16 * 2**group * widen_factor
            for index in range((depth - 4) // 6):
                # At k = 1 the first group keeps its width, so its identity shortcut needs no projection.
                blocks.append(PreActivationBlock(channels, width, 2 if group > 0 and index == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)
        initialise_fan_out(self)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(self.bn(self.blocks(self.conv1(images))))
        return self.fc(features.mean(dim=(2, 3)))


def wide_resnet(*, classes: int, depth: int = 16, widen_factor: int = 2) -> WideResNet:
    """WRN-`depth`-`widen_factor` with (depth - 4) / 6 blocks a group: (B, 3, H, W) -> (B, classes) logits."""
    return WideResNet(classes=classes, depth=depth, widen_factor=widen_factor)
