"""ResNet-18, -50 and -101 for small images: a 3x3 stride-1 stem and no max-pool (He et al. 2016; methods section 4).

Parameters carry torchvision's names, so a checkpoint of a torchvision ResNet whose stem was changed the same way loads as it is.
"""

from torch import Tensor, nn
from torch.nn import functional

from engine.models.layers import convolution, initialise_fan_out


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(convolution(in_channels, out_channels, 1, stride=stride), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity: (B, in, H, W) -> (B, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, width, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(in_channels, width, stride)

    def forward(self, images: Tensor) -> Tensor:
        # Nowhere in this room is a ReLU in place: the matching hooks keep layer inputs, which must not change after they are read.
        residual = functional.relu(self.bn1(self.conv1(images)))
        residual = self.bn2(self.conv2(residual))
        return functional.relu(residual + self.downsample(images))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which takes the stride), 1x1 beside the identity: (B, in, H, W) -> (B, 4*width, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _projection(in_channels, width * self.expansion, stride)

    def forward(self, images: Tensor) -> Tensor:
        residual = functional.relu(self.bn1(self.conv1(images)))
        residual = functional.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return functional.relu(residual + self.downsample(images))


BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """A residual network of four stages whose widths double: (B, 3, H, W) normalised images -> (B, classes) logits."""

    def __init__(self, *, classes: int, depth: int, base_width: int) -> None:
        super().__init__()
        block, counts = BLOCKS[depth]
        self.conv1 = convolution(3, base_width, 3)
        self.bn1 = nn.BatchNorm2d(base_width)
        channels = base_width
        for stage, count in enumerate(counts):
            width = base_width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            blocks = []
            for stride in strides:
                blocks.append(block(channels, width, stride))
                channels = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)
        initialise_fan_out(self)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(self.bn1(self.conv1(images)))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return self.fc(features.mean(dim=(2, 3)))


def resnet(*, classes: int, depth: int = 18, base_width: int = 64) -> ResNet:
    """ResNet of depth 18, 50 or 101 with `base_width` channels in its first stage: (B, 3, H, W) -> (B, classes) logits."""
    return ResNet(classes=classes, depth=depth, base_width=base_width)
