"""Copies from the host to a device that let both work on meanwhile."""

from collections.abc import Iterable

import torch
from torch import Tensor


def sent(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Return a tensor on `device`; from the host to a GPU it goes through pinned memory, and nobody waits for the copy."""
    if tensor.device.type != "cpu" or torch.device(device).type != "cuda":
        return tensor.to(device, non_blocking=True)
    return tensor.pin_memory().to(device, non_blocking=True)


def sent_all(tensors: Iterable[Tensor], device: str | torch.device) -> list[Tensor]:
    """Return several tensors on `device`, as `sent` does."""
    return [sent(tensor, device) for tensor in tensors]
