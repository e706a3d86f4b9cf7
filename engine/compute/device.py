"""Which device and precision a run uses; decided without torch, so that a plan can be made before torch is loaded."""

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from engine.errors import UserError

NATIVE_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 and, as `bf16`, 64-bit Arm
AMPERE = 8.0


def cuda_capabilities() -> tuple[float, ...]:
    """Return the compute capability of each NVIDIA GPU that torch will see; empty without a driver or a torch built for CUDA."""
    return visible_capabilities(_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))


@cache
def _gpus() -> list[tuple[str, float]]:
    """Return UUID and compute capability of each NVIDIA GPU of this machine; empty without a driver or a torch built for CUDA."""
    if not shutil.which("nvidia-smi") or "+cpu" in importlib.metadata.version("torch"):
        return []
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        command = ["nvidia-smi", "--query-gpu=uuid,compute_cap", "--format=csv,noheader"]
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
        return [(uuid.strip(), float(capability)) for uuid, capability in (line.split(",") for line in lines)]
    return []


def visible_capabilities(devices: list[tuple[str, float]], visible: str | None) -> tuple[float, ...]:
    """Return the capabilities of the (uuid, capability) pairs that CUDA_VISIBLE_DEVICES leaves, in its order; all when it is not set.

    Entries are numbers or beginnings of UUIDs; as CUDA does, all from the first entry on that names no device are ignored.
    """
    return tuple(capability for _, capability in _visible(devices, visible))


def _visible(devices: list[tuple[str, float]], visible: str | None) -> list[tuple[str, float]]:
    """Return the (uuid, capability) pairs that CUDA_VISIBLE_DEVICES leaves, in its order."""
    if visible is None:
        return devices
    chosen: list[tuple[str, float]] = []
    for entry in map(str.strip, visible.split(",")):
        found = [
            (uuid, capability)
            for number, (uuid, capability) in enumerate(devices)
            if entry == str(number) or (entry.startswith("GPU-") and uuid.startswith(entry))
        ]
        if entry.startswith("MIG-"):
            found = [(entry, AMPERE)]  # slices exist from Ampere on
        if len(found) != 1:
            break
        chosen += found
    return chosen


def device_key(device: str) -> str:
    """Return what tells a device from all others of this machine: `cpu`, a GPU's UUID, or `cuda-N` where the driver tells none.

    `device` is `cpu`, `cuda` or `cuda:N`, N counting those that CUDA_VISIBLE_DEVICES leaves.
    """
    if not device.startswith("cuda"):
        return device
    index = int(device.partition(":")[2] or 0)
    gpus = _visible(_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return gpus[index][0] if index < len(gpus) else f"cuda-{index}"


@cache
def cpu_flags() -> frozenset[str]:
    """Return the instruction-set flags of this machine's CPU; empty where the system does not list them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def resolve_device(device: str) -> str:
    """Return the device that `compute.device` means here: `auto` is the first CUDA device, else the CPU.

    Raises UserError when a CUDA device is asked for that is not here.
    """
    count = len(cuda_capabilities())
    if device == "auto":
        return "cuda" if count else "cpu"
    index = int(device.partition(":")[2] or 0)
    if device.startswith("cuda") and index >= count:
        raise UserError(
            f"compute.device: {device} is not here; this machine has {count} CUDA device{'' if count == 1 else 's'}; use auto or cpu"
        )
    return device


def resolve_precision(precision: str, device: str) -> str:
    """Return the precision that `compute.precision` means on a device: `auto` is bfloat16 where it is native, else float32.

    Native means CUDA capability 8.0 (Ampere) or more, or a CPU with avx512_bf16, AMX or Arm's bf16. It is never a timing, so it
    cannot differ between two runs on one machine. Raises UserError for float16 on a CPU.
    """
    if precision == "float16" and device == "cpu":
        raise UserError("compute.precision: float16 needs cuda; use bfloat16 or float32 on the cpu")
    if precision != "auto":
        return precision
    if device == "cpu":
        return "bfloat16" if cpu_flags() & NATIVE_BFLOAT16_FLAGS else "float32"
    index = int(device.partition(":")[2] or 0)
    return "bfloat16" if cuda_capabilities()[index] >= AMPERE else "float32"
