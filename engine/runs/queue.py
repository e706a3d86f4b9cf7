"""Waiting for a device: runs that want the same one stand in line and get it in the order in which they asked.

There is no server. `<state>/queue/<host>/<device>/` holds for every place in the line `<number>.json` (who asks), `<number>.lock` (locked
by the run's supervisor while that lives) and, once the place has the device, `<number>.running`. Whoever makes, grants or removes a place
holds `mutex` meanwhile; readers take no lock and write nothing. A place counts while its supervisor or its run's worker is alive.
"""

import contextlib
import itertools
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import RunError, UserError
from engine.files import write_json
from engine.runs.layout import Run, read_object
from engine.runs.liveness import FileLock, host_name, lock_holder, presence, read_identity, take_lock, wait_for_lock
from engine.runs.text import printable

WAITING_SECONDS = 20.0  # between two signs of life of a run that waits, for readers on other hosts
MUTEX_SECONDS = 60.0  # it is held for milliseconds; whoever keeps it for so long has been suspended


@dataclass(frozen=True)
class Asker:
    """A living run in a line: its place's number (they rise in the order of asking), who it is, and whether it has the device."""

    number: int
    run: str
    project: str
    running: bool


class Place:
    """A run's place in the line for a device, kept until `release` or the death of this process and of the run's worker."""

    def __init__(self, folder: Path, number: int, lock: FileLock, *, device: str, slots: int) -> None:
        self._folder, self._number, self._lock, self._device, self._slots = folder, number, lock, device, slots
        self.granted = False

    @property
    def facts(self) -> dict[str, str]:
        """Return what readers need in order to say where this place stands, for `words_of`."""
        return {"device": self._device, "file": str(_file(self._folder, self._number, "json"))}

    def grant(self) -> bool:
        """Take the device if it is this place's turn; returns whether the place has it."""
        if not self.granted and self.has_turn():  # looked at without the mutex first: most looks find nothing new
            try:
                mutex = take_lock(self._folder / "mutex")
            except RunError:  # the folder was removed: nobody is left in this line to wait for
                self.granted = True
                return True
            if mutex is not None:
                with mutex:
                    if self.has_turn():
                        self.take()
        return self.granted

    def take(self) -> None:
        """Take the device, whoever else has it."""
        with contextlib.suppress(OSError):  # on a full disk the order of the numbers alone must do
            _file(self._folder, self._number, "running").touch()
        self.granted = True

    def release(self) -> None:
        """Leave the line, or give the device back."""
        _remove(self._folder, self._number)
        self._lock.release()

    def has_turn(self) -> bool:
        """Say whether fewer runs than the device takes at once are before this place."""
        return len(list(itertools.islice(_ahead(askers(self._folder), self._number), self._slots))) < self._slots


@contextlib.contextmanager
def place_of(run: Run, *, now: bool) -> Iterator[Place | None]:
    """Stand in line for the device that a run is frozen for, and leave it at the end of the block.

    Gives None where there is nothing to wait for: run.toml names no device, or no line can be kept. Raises what `stand_in_line` does.
    """
    from engine.runs.store import read_run_toml

    try:
        device = read_run_toml(run).get("frozen", {}).get("device")
    except (UserError, AttributeError):
        device = None  # the worker says what is wrong with run.toml
    place = stand_in_line(run, device, now=now) if isinstance(device, str) else None
    try:
        yield place
    finally:
        if place is not None:
            place.release()


def stand_in_line(run: Run, device: str, *, now: bool = False) -> Place | None:
    """Take a place for a run in the line for a device, the device too if it is free; with `now` in any case.

    `device` is `cpu`, `cuda` or `cuda:N`. Every run's earlier places are given up: the caller is its one supervisor. Returns None where
    no state folder can be written; then nothing can be waited for. Raises UserError when $EDC_CPU_RUNS is no number, RunError when
    somebody keeps the line locked.
    """
    slots = slots_of(device)
    for folder in _folders(device):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mutex = wait_for_lock(folder / "mutex", MUTEX_SECONDS)
        except (OSError, RunError):
            continue
        if mutex is None:
            raise RunError(f"{printable(folder)} has been locked for {MUTEX_SECONDS:.0f} s; is a process that holds it suspended?")
        with mutex, contextlib.suppress(OSError, RunError):
            return _join(folder, run, device, slots, now=now)
    return None


def slots_of(device: str) -> int:
    """Return how many runs a device takes at once: a GPU one, the CPU $EDC_CPU_RUNS, by default one.

    Raises UserError when $EDC_CPU_RUNS is not a whole number of at least 1.
    """
    text = os.environ.get("EDC_CPU_RUNS", "").strip()
    if device != "cpu" or not text:
        return 1
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise UserError(f"$EDC_CPU_RUNS: {printable(text, 40)!r} must be a whole number of at least 1: how many runs the CPU takes at once")
    return int(text)


def words_of(place: Mapping[str, object]) -> str | None:
    """Say where a run stands that waits: `is 2nd in line for cpu, behind foo/20261122-…`; None once it waits no longer.

    `place` is what its supervisor tells in process.json: `file` and `device`. Reads only.
    """
    device, file = printable(place.get("device"), 40), Path(str(place.get("file")))
    if not file.stem.isdigit() or not _seen(file):
        return f"waits until {device} is free"  # somebody else's line, which this user cannot read
    number = int(file.stem)
    line = list(askers(file.parent))
    if any(asker.number == number and asker.running for asker in line):
        return None
    ahead = list(_ahead(line, number))
    waiting = [asker for asker in ahead if not asker.running]
    before = (waiting or ahead)[-1:]
    if not before:
        return f"is next for {device}"
    return f"is {_ordinal(len(waiting) + 1)} in line for {device}, behind {printable(before[0].project)}/{printable(before[0].run)}"


def askers(folder: Path) -> Iterator[Asker]:
    """Yield the living runs of a line in the order of their asking."""
    for number in _numbers(folder):
        facts, _ = read_object(_file(folder, number, "json"))
        if facts is None:
            continue
        works = _worker_alive(Path(str(facts.get("folder"))))
        if works or lock_holder(_file(folder, number, "lock")) is not None:
            running = works or _file(folder, number, "running").exists()
            yield Asker(number, str(facts.get("run")), str(facts.get("project")), running)


def _join(folder: Path, run: Run, device: str, slots: int, *, now: bool) -> Place:
    """Add a place at the end of a line; the caller holds the mutex."""
    living = {asker.number for asker in askers(folder)}
    numbers = _numbers(folder)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    for number in numbers:
        facts, _ = read_object(_file(folder, number, "json"))
        if number not in living or (facts or {}).get("folder") == str(run.folder):
            _remove(folder, number)
    number = max([time.time_ns(), *(last + 1 for last in numbers)])
    lock = take_lock(_file(folder, number, "lock"))
    if lock is None:
        raise RunError(f"cannot lock a new file in {folder}")
    place = Place(folder, number, lock, device=device, slots=slots)
    try:
        write_json(_file(folder, number, "json"), {"run": run.id, "project": run.project, "folder": str(run.folder), "pid": os.getpid()})
        if now or place.has_turn():
            place.take()
    except RunError:
        place.release()
        raise
    return place


def _ahead(line: Iterable[Asker], number: int) -> Iterator[Asker]:
    """Yield those that a place waits for: whoever has the device, and whoever asked before."""
    return (asker for asker in line if asker.number != number and (asker.running or asker.number < number))


def _worker_alive(folder: Path) -> bool:
    """Say whether a run's worker lives: one whose supervisor was killed goes on until it has written its checkpoint."""
    if lock_holder(folder / "worker.lock") is not None:
        return True
    process, _ = read_object(folder / "process.json")
    worker = read_identity((process or {}).get("worker"))
    return worker is not None and presence(worker) == "alive"


def _folders(device: str) -> Iterator[Path]:
    """Yield where the line for a device may lie: in the user's state folder, and where that cannot be written, below the temporary one."""
    from engine.compute.device import device_key

    key, host = (re.sub(r"[^\w.-]", "_", name) for name in (device_key(device), host_name()))
    for state in _states():
        yield state / "queue" / host / key


def _states() -> Iterator[Path]:
    chosen = os.environ.get("EDC_STATE")
    folder = Path(os.path.expanduser(chosen or os.environ.get("XDG_STATE_HOME") or "~/.local/state"))  # noqa: PTH111 - pathlib's raises
    if chosen:
        yield folder.absolute()
    elif folder.is_absolute():  # it is not for a user without a home
        yield folder / "edc"
    yield from _temporary_state()


def _temporary_state() -> list[Path]:
    """Return this user's folder below the temporary one, made when missing; nothing when it is another user's or cannot be made."""
    folder = Path(tempfile.gettempdir()) / f"edc-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return []
    return [folder] if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() else []


def _numbers(folder: Path) -> list[int]:
    try:
        return sorted({int(path.stem) for path in folder.iterdir() if path.stem.isdigit()})
    except OSError:
        return []


def _file(folder: Path, number: int, kind: str) -> Path:
    return folder / f"{number:020d}.{kind}"


def _seen(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:
        return False


def _remove(folder: Path, number: int) -> None:
    for kind in ("running", "json", "lock"):
        with contextlib.suppress(OSError):
            _file(folder, number, kind).unlink(missing_ok=True)


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
