"""ShuffleNetV2 0.5x for small images: a 1x1 stride-1 stem and no max-pool (Ma et al. 2018, Table 5; methods section 4).

Parameters carry torchvision's names; apart from the stem and the missing pool the network is torchvision's `shufflenet_v2_x0_5`.
"""

import torch
from torch import Tensor, nn

from engine.models.layers import convolution

STEM_CHANNELS = 24
STAGES = ((48, 4), (96, 8), (192, 4))
HEAD_CHANNELS = 1024


def _pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [convolution(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels), nn.ReLU()]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    return [convolution(channels, channels, 3, stride=stride, groups=channels), nn.BatchNorm2d(channels)]


def shuffle_channels(images: Tensor) -> Tensor:
    """Interleave the two halves of the channels, (B, C, H, W) -> (B, C, H, W): output channels are 0, C/2, 1, C/2 + 1, … (section 3)."""
    # Written with the channels last because the copy then leaves a channels_last tensor, which the usual view/transpose would undo.
    return images.movedim(1, -1).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2).movedim(-1, 1)


class ShuffleUnit(nn.Module):
    """The unit of Figure 3: stride 1 (c) transforms half of the channels, stride 2 (d) transforms all of them on both sides."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.keeps_half = stride == 1
        entering = half if self.keeps_half else in_channels
        self.branch1 = nn.Sequential(*([] if self.keeps_half else [*_depthwise(entering, stride), *_pointwise(entering, half)]))
        self.branch2 = nn.Sequential(*_pointwise(entering, half), *_depthwise(half, stride), *_pointwise(half, half))

    def forward(self, images: Tensor) -> Tensor:
        left, right = images.chunk(2, dim=1) if self.keeps_half else (images, images)
        return shuffle_channels(torch.cat([self.branch1(left), self.branch2(right)], dim=1))


class ShuffleNetV2(nn.Module):
    """Three stages, each of which halves the side: (B, 3, H, W) normalised images -> (B, classes) logits."""

    def __init__(self, *, classes: int) -> None:
        super().__init__()
        channels = STEM_CHANNELS
        self.conv1 = nn.Sequential(*_pointwise(3, channels))
        for stage, (width, count) in enumerate(STAGES, start=2):
            units = [ShuffleUnit(channels, width, 2)] + [ShuffleUnit(width, width, 1) for _ in range(count - 1)]
            self.add_module(f"stage{stage}", nn.Sequential(*units))
            channels = width
        self.conv5 = nn.Sequential(*_pointwise(channels, HEAD_CHANNELS))
        self.fc = nn.Linear(HEAD_CHANNELS, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv5(self.stage4(self.stage3(self.stage2(self.conv1(images)))))
        return self.fc(features.mean(dim=(2, 3)))


def shufflenet_v2(*, classes: int) -> ShuffleNetV2:
    """ShuffleNetV2 of width 0.5 with PyTorch's default initialisation: (B, 3, H, W) -> (B, classes) logits."""
    return ShuffleNetV2(classes=classes)
