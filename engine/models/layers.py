"""The convolution and the initialisation that the families of this room share."""

import torch
from torch import Tensor, nn

KERNEL_PIXELS = 1024


def convolution(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A bias-free convolution padded so that stride 1 keeps the size: (B, in, H, W) -> (B, out, ceil(H/stride), ceil(W/stride))."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation with an affine map: one group a channel, and no running statistics, so it needs more than one pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise each channel of each image: (B, C, H, W) to the same."""
        if images.device.type != "cpu" or not images.is_contiguous(memory_format=torch.channels_last) or self._is_fast(images):
            return super().forward(images)
        # PyTorch's CPU kernel for channels_last takes up to twenty times as long as two copies and the kernel for the plain layout.
        return super().forward(images.contiguous()).contiguous(memory_format=torch.channels_last)

    def _is_fast(self, images: Tensor) -> bool:
        """Say whether the kernel for channels_last is the faster one: from 1024 pixels on it works another way, but not backward."""
        learning = torch.is_grad_enabled() and (images.requires_grad or self.weight.requires_grad)
        return images.shape[-2] * images.shape[-1] >= KERNEL_PIXELS and (images.dtype == torch.float32 or not learning)


def initialise_fan_out(model: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / (out_channels * kernel area)), in module order, with the global generator (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
