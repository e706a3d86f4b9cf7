"""How busy the machine is: CPU, memory, disk and NVIDIA GPUs, asked in a thread and without torch."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

FIELDS = "index,name,utilization.gpu,memory.used,memory.total,temperature.gpu"


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU: load in percent, memory in bytes, temperature in degrees Celsius; None where it does not say."""

    index: int
    name: str
    load: float | None
    used: float | None
    total: float | None
    temperature: float | None


@dataclass(frozen=True)
class Resources:
    """One look at the machine: CPU load in percent of all cores, memory and free disk in bytes, GPUs."""

    cpu: float
    cores: int
    used: float
    total: float
    free_disk: float | None
    gpus: tuple[Gpu, ...]


def look(folder: Path) -> Resources:
    """Look at the machine; the CPU load is that since the last look, the disk the one that `folder` is on."""
    memory = psutil.virtual_memory()
    return Resources(
        cpu=psutil.cpu_percent(),
        cores=psutil.cpu_count() or 1,
        used=memory.total - memory.available,
        total=memory.total,
        free_disk=_free_disk(folder),
        gpus=read_gpus(_ask_driver()),
    )


def read_gpus(text: str) -> tuple[Gpu, ...]:
    """Read what nvidia-smi printed for FIELDS, with sizes in MiB; lines of another shape are left out."""
    gpus = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 6 and parts[0].isdigit():
            load, used, total, temperature = map(_number, parts[2:])
            gpus.append(Gpu(int(parts[0]), parts[1], load, _bytes(used), _bytes(total), temperature))
    return tuple(gpus)


def _ask_driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""


def _free_disk(folder: Path) -> float | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _bytes(mebibytes: float | None) -> float | None:
    return None if mebibytes is None else mebibytes * 1024 * 1024
