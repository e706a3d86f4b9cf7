"""ConvNet-depth of the condensation literature: blocks of convolution, normalisation, ReLU and 2x2 average pool (methods section 4)."""

from torch import nn

from engine.models.layers import InstanceNorm


def convnet(*, classes: int, resolution: int, depth: int = 3, width: int = 128, batch_norm: bool = False) -> nn.Sequential:
    """ConvNet of `depth` blocks of `width` channels: (B, 3, resolution, resolution) normalised images -> (B, classes) logits.

    Each block halves the side, rounding down, so at least 2**depth px are needed. The normalisation then sees 2x2 pixels or more,
    which instance normalisation (one group a channel, affine) needs to be defined. Its default has no running statistics: only
    convolutions can be matched. PyTorch's default initialisation.
    """
    blocks: list[nn.Module] = []
    channels = 3
    for _ in range(depth):
        normalisation = nn.BatchNorm2d(width) if batch_norm else InstanceNorm(width)
        blocks += [nn.Conv2d(channels, width, 3, padding=1), normalisation, nn.ReLU(), nn.AvgPool2d(2)]
        channels = width
    side = resolution // 2**depth
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(width * side**2, classes))
