"""Who is alive: locks that die with their holder, and process identities that a reused pid cannot fake."""

import errno
import fcntl
import functools
import math
import os
import signal
import struct
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.errors import RunError

# struct flock as the C compiler lays it out: (format, index of l_type, index of l_pid)
if sys.platform.startswith("linux"):
    _FLOCK, _FLOCK_TYPE, _FLOCK_PID = struct.Struct("hhqqi4x"), 0, 4
else:
    _FLOCK, _FLOCK_TYPE, _FLOCK_PID = struct.Struct("qqihh"), 3, 2

LOCK_TRY_SECONDS = 0.02  # between two tries at a lock that somebody else has

_held: dict[tuple[int, int], int] = {}  # (device, inode) of every file this process has locked -> pid of this process
_held_guard = threading.Lock()


class FileLock:
    """An exclusive POSIX lock on a file, held until `release` or the process's death (forked children never hold it)."""

    def __init__(self, descriptor: int, key: tuple[int, int]) -> None:
        self._descriptor: int | None = descriptor
        self._key = key

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        with _held_guard:
            if self._descriptor is None:
                return
            _held.pop(self._key, None)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def take_lock(path: Path) -> FileLock | None:
    """Lock a file (created when missing) without waiting, or return None when anyone, this process included, holds it.

    Raises RunError when the file cannot be opened or its file system has no locks.
    """
    with _held_guard:
        # Asked before the file is opened: closing any descriptor of a file drops every lock this process has on it.
        if _holds(path):
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise RunError(f"cannot open the lock {path}: {error.strerror or error}") from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return None
            raise RunError(f"cannot lock {path}: {error.strerror or error}; run folders need a file system with POSIX locks") from error
        status = os.fstat(descriptor)
        key = (status.st_dev, status.st_ino)
        _held[key] = os.getpid()
        return FileLock(descriptor, key)


def wait_for_lock(path: Path, seconds: float) -> FileLock | None:
    """Lock a file as `take_lock` does, waiting up to so many seconds for it, or return None when others keep it."""
    until = time.monotonic() + seconds
    while (lock := take_lock(path)) is None and time.monotonic() <= until:
        time.sleep(LOCK_TRY_SECONDS)
    return lock


def lock_holder(path: Path) -> int | None:
    """Return the pid that holds a file's lock (0 when held by a process this one cannot see), or None when it is free.

    Takes no lock and writes nothing. A missing or unreadable file, or a file system without locks, counts as free.
    """
    with _held_guard:
        if _holds(path):
            return os.getpid()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            question = [0] * 5
            question[_FLOCK_TYPE] = fcntl.F_WRLCK
            answer = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(*question)))
        except OSError:
            return None
        finally:
            os.close(descriptor)
    return None if answer[_FLOCK_TYPE] == fcntl.F_UNLCK else max(answer[_FLOCK_PID], 0)


def _holds(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return _held.get((status.st_dev, status.st_ino)) == os.getpid()


@dataclass(frozen=True)
class Identity:
    """What makes a process itself: a pid alone is reused, a pid with its start time on one boot of one host is not."""

    host: str
    boot_id: str
    pid: int
    start_ticks: int
    pgid: int
    argv: tuple[str, ...]
    started_at: float
    role: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {**asdict(self), "argv": list(self.argv)}


def identify(pid: int, role: str, argv: list[str]) -> Identity:
    """Describe a living process by its role (`supervisor` or `worker`); raises RunError when there is no such process."""
    found = _process_state(pid)
    if found is None:
        raise RunError(f"the {role}, pid {pid}, was gone before it could be identified")
    return Identity(host_name(), boot_id(), pid, found[1], os.getpgid(pid), tuple(argv), time.time(), role)


def read_identity(value: object) -> Identity | None:
    """Read an identity from a JSON object of process.json; None when it is missing or not an identity."""
    if not isinstance(value, dict):
        return None
    try:
        identity = Identity(
            host=str(value["host"]),
            boot_id=str(value["boot_id"]),
            pid=int(value["pid"]),
            start_ticks=int(value["start_ticks"]),
            pgid=int(value["pgid"]),
            argv=tuple(str(word) for word in value["argv"]),
            started_at=float(value["started_at"]),
            role=str(value["role"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return identity if math.isfinite(identity.started_at) else None


def presence(identity: Identity) -> str:
    """Say what is known of a process: `alive`, `dead` (a zombie too), `rebooted` (its host has restarted) or `elsewhere`.

    The boot id decides whether a process ran here: a host's name may change, and two containers may bear one name.
    """
    if identity.boot_id != boot_id():
        return "rebooted" if identity.host == host_name() else "elsewhere"
    found = _process_state(identity.pid)
    return "alive" if found is not None and found[0] not in "ZX" and found[1] == identity.start_ticks else "dead"


def send_signal(identity: Identity, number: int, group: bool = False) -> bool:
    """Signal a process, or its group, once it is sure to be the one meant; returns whether the signal was sent."""
    try:
        # The descriptor pins the process, so it cannot be replaced between the check and the signal.
        descriptor = os.pidfd_open(identity.pid) if hasattr(os, "pidfd_open") else None
    except OSError:
        return False
    try:
        if presence(identity) != "alive":
            return False
        if group:
            os.killpg(identity.pgid, number)
        elif descriptor is not None:
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(identity.pid, number)
    except OSError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def host_name() -> str:
    """Return this machine's name."""
    return os.uname().nodename


@functools.cache
def boot_id() -> str:
    """Return what tells this boot of this machine from every other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil

        return f"{host_name()}-{psutil.boot_time():.0f}"


def _process_state(pid: int) -> tuple[str, int] | None:
    """Return a process's state letter and start time (clock ticks since boot), or None when there is none."""
    if not Path("/proc/self/stat").exists():
        return _process_state_without_proc(pid)
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = data[data.rindex(b")") + 1 :].split()  # the program's name may itself hold brackets and spaces
    return fields[0].decode(), int(fields[19])


def _process_state_without_proc(pid: int) -> tuple[str, int] | None:
    import psutil

    try:
        process = psutil.Process(pid)
        state = "Z" if process.status() == psutil.STATUS_ZOMBIE else "S"
        return state, int(process.create_time() * 100)
    except psutil.Error:
        return None
