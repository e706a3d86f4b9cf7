"""How often the kernel has killed for want of memory, which tells such a death from any other kill."""

from pathlib import Path


def memory_kill_count(root: Path = Path("/")) -> int:
    """Return how often the kernel has killed for want of memory in this process's control group, else on this machine.

    `root` is where /proc and /sys are looked for. Returns 0 where the kernel does not say.
    """
    groups = _read(root / "proc/self/cgroup").splitlines()
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            text = _read(root / "sys/fs/cgroup" / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            text = _read(root / "sys/fs/cgroup/memory" / path.lstrip("/") / "memory.oom_control")
        else:
            continue
        count = _oom_kills(text)
        if count is not None:
            return count
    return _oom_kills(_read(root / "proc/vmstat")) or 0


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
