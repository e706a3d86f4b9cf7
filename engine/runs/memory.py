"""How much memory there is, and how often the kernel has killed for want of it, which tells such a death from any other kill."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


def memory_bytes(device: str, root: Path = Path("/")) -> int | None:
    """Return the bytes of memory of a device (`cpu`, `cuda` or `cuda:N`); None where the system does not say.

    A control group's limit counts where it is lower than the machine's memory. `root` is where /proc and /sys are looked for.
    """
    if device != "cpu":
        return _gpu_bytes(device)
    lines = _read(root / "proc/meminfo").splitlines()
    machine = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")), None)
    limits = [int(text) for path in _group_files(root, "memory.max", "memory.limit_in_bytes") if (text := _read(path).strip()).isdigit()]
    return min([*limits, *([machine] if machine else [])], default=None)


def _gpu_bytes(device: str) -> int | None:
    from engine.compute.device import device_key

    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", f"--id={device_key(device)}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        return int(subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout) << 20
    return None


def memory_kill_count(root: Path = Path("/")) -> int:
    """Return how often the kernel has killed for want of memory in this process's control group, else on this machine.

    `root` is where /proc and /sys are looked for. Returns 0 where the kernel does not say.
    """
    for path in _group_files(root, "memory.events", "memory.oom_control"):
        count = _oom_kills(_read(path))
        if count is not None:
            return count
    return _oom_kills(_read(root / "proc/vmstat")) or 0


def _group_files(root: Path, unified: str, legacy: str) -> Iterator[Path]:
    """Yield the files of this process's control groups that tell of memory, by their names in version 2 and in version 1."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            yield root / "sys/fs/cgroup" / path.lstrip("/") / unified
        elif "memory" in controllers.split(","):
            yield root / "sys/fs/cgroup/memory" / path.lstrip("/") / legacy


def _oom_kills(text: str) -> int | None:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
