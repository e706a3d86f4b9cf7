"""How networks run on a device: precision, memory format, determinism, loss scaling and peak memory."""

import contextlib
import os
import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from engine.compute.memory import give_freed_memory_back, keep_freed_memory
from engine.data.decode import processor_count

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# How many images pass a network at once where nothing is learnt. On a CPU the maps of a batch should stay in its caches, and large ones
# cost a page fault for every 4 KiB: 64 images of 32 px pass one to three times as fast as 512 together, whatever the precision.
FORWARD_IMAGES = 512
FORWARD_PIXELS_ON_CPU = 1 << 16


def autocast(device: str, precision: str) -> AbstractContextManager:
    """Return the context in which a network's forward pass runs in `precision`."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=DTYPES[precision])


def forward_batch(device: str, side: int) -> int:
    """Return how many square images of `side` px pass a network together where nothing is learnt from them."""
    return FORWARD_IMAGES if torch.device(device).type != "cpu" else max(1, min(FORWARD_IMAGES, FORWARD_PIXELS_ON_CPU // side**2))


def place(model: nn.Module, device: str) -> nn.Module:
    """Move a network to the device in channels_last, the faster layout for convolutions there."""
    return model.to(device=device, memory_format=torch.channels_last)


def prepare_torch(device: str, threads: int = 0) -> None:
    """Fix the thread count and ask for deterministic kernels, so that the same seed gives the same bytes."""
    keep_freed_memory()
    torch.set_num_threads(threads or processor_count())  # more than this process may use would wait for each other
    if device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)


def frozen(model: nn.Module) -> nn.Module:
    """Put a network into evaluation mode and let no gradient reach its weights."""
    return model.eval().requires_grad_(False)


def reset_peak_memory(device: str) -> None:
    """Start measuring the largest memory anew; on a CPU where the system allows it (Linux), else the process's whole life counts."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        return
    give_freed_memory_back()  # what an earlier stage has freed is none of this one's
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: str) -> int:
    """Return the largest memory held since the reset: of the device's allocator on CUDA, of the process on a CPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
