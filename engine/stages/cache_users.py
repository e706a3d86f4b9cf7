"""What the stage cache holds and for whom: its entries with their bytes and the runs that refer to them, and the removal of the others."""

import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import RunError, Stopped, UserError
from engine.project.plan import STAGES, Step
from engine.runs.layout import Run, read_object
from engine.runs.liveness import lock_holder
from engine.runs.status import run_status
from engine.runs.store import all_runs, read_run_toml
from engine.stages import cache as stage_cache

DATA = "data"  # the folder of the decoded datasets, beside those of the stages
_LEFTOVER = re.compile(r"\.(?P<name>[0-9a-f]{32})\.[0-9a-f]{8}\.(tmp|old)|(?P<claim>[0-9a-f]{32})\.lock")


@dataclass(frozen=True)
class Entry:
    """A finished step or a decoded dataset in the cache.

    `finished` is in unix seconds; `users` are the runs of the projects folder that refer to it; `claimed` tells that a process is at work
    on it, `damaged` that it is not what it should be and will be made anew by the next run that wants it.
    """

    stage: str
    name: str
    fingerprint: str
    folder: Path
    bytes: int
    finished: float | None
    users: tuple[Run, ...]
    claimed: bool = False
    damaged: bool = False

    @property
    def removable(self) -> bool:
        """Whether nobody would miss it."""
        return not self.users and not self.claimed


def list_entries(projects: Path) -> list[Entry]:
    """List everything that the cache of a projects folder holds, stage by stage and oldest first; reads only."""
    cache, users = stage_cache.cache_folder(projects), _users(projects)
    entries = [_step_entry(stage, folder, users) for stage in STAGES for folder in _folders(cache / stage)]
    entries += [_data_entry(folder, users) for folder in _folders(cache / DATA) if (folder / "meta.json").is_file()]
    order = (*STAGES, DATA)
    return sorted(entries, key=lambda entry: (order.index(entry.stage), entry.finished or 0.0, entry.fingerprint))


def total_bytes(entries: Iterable[Entry]) -> int:
    """Return the bytes of entries together; entries share no files."""
    return sum(entry.bytes for entry in entries)


def freed_bytes(entries: Iterable[Entry]) -> int:
    """Return the bytes that the disk gains when these entries go: not those of files that have links elsewhere."""
    files = [file for entry in entries for file in _files(entry.folder)]
    names = Counter(map(_inode, files))
    return sum({_inode(file): file.st_size for file in files if names[_inode(file)] >= file.st_nlink}.values())


def clean(projects: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Remove entries that no run refers to and nobody is at work on, and what killed processes have left; return those removed.

    Looked at anew, for runs may have been started since they were listed. A run that starts meanwhile computes again what it would have
    found; one at work keeps its own links. Decoded datasets stay while any run is alive. Raises RunError when the cache cannot be written.
    """
    cache, wanted, removed = stage_cache.cache_folder(projects), {entry.folder for entry in entries}, []
    busy = any(run_status(run.folder).alive for run in all_runs(projects))
    for entry in list_entries(projects):
        if entry.folder not in wanted or not entry.removable or (entry.stage == DATA and busy):
            continue
        if entry.stage == DATA:
            _remove(entry.folder)
            removed.append(entry)
            continue
        with suppress(Stopped), _claim(cache, entry.stage, entry.fingerprint):
            _remove(entry.folder)
            removed.append(entry)
    _remove_leftovers(cache)
    return removed


def _users(projects: Path) -> dict[str, list[Run]]:
    """Return for each fingerprint, of a step or of decoded images, the runs that refer to it, newest first."""
    users: dict[str, list[Run]] = {}
    for run in all_runs(projects):
        for fingerprint in sorted(_fingerprints(run)):
            users.setdefault(fingerprint, []).append(run)
    return users


def _fingerprints(run: Run) -> set[str]:
    """Return the fingerprints that a run refers to: those it was frozen with, and those of the steps in its folder."""
    try:
        frozen = read_run_toml(run).get("frozen")
    except UserError:
        frozen = None
    frozen = frozen if isinstance(frozen, dict) else {}
    steps = frozen.get("steps")
    found = {str(value) for value in steps.values()} if isinstance(steps, dict) else set()
    if isinstance(frozen.get("data_fingerprint"), str):
        found.add(_data_key(frozen["data_fingerprint"], frozen.get("resolution")))
    for path in run.stages.glob("*/*/done.json"):
        fingerprint = (read_object(path)[0] or {}).get("fingerprint")
        if isinstance(fingerprint, str):
            found.add(fingerprint)
    return found


def _data_key(fingerprint: str, resolution: object) -> str:
    return f"{fingerprint} at {resolution} px"


def _step_entry(stage: str, folder: Path, users: Mapping[str, list[Run]]) -> Entry:
    done = read_object(folder / "done.json")[0] or {}
    finished = done.get("finished")
    return Entry(
        stage=stage,
        name=str(done.get("step") or "?"),
        fingerprint=folder.name,
        folder=folder,
        bytes=_bytes(folder),
        finished=float(finished) if isinstance(finished, int | float) else _changed(folder),
        users=tuple(users.get(folder.name, ())),
        claimed=lock_holder(folder.with_name(f"{folder.name}.lock")) is not None,
        damaged=stage_cache.finished(folder, _step(stage, folder.name), thorough=False) is None,
    )


def _data_entry(folder: Path, users: Mapping[str, list[Run]]) -> Entry:
    meta = read_object(folder / "meta.json")[0] or {}
    return Entry(
        stage=DATA,
        name=f"{meta.get('name', '?')} {meta.get('resolution', '?')} px",
        fingerprint=folder.name,
        folder=folder,
        bytes=_bytes(folder),
        finished=_changed(folder),
        users=tuple(users.get(_data_key(str(meta.get("fingerprint")), meta.get("resolution")), ())),
        damaged="fingerprint" not in meta,
    )


def _step(stage: str, fingerprint: str) -> Step:
    return Step(stage, fingerprint, {}, {}, fingerprint, {})


def _claim(cache: Path, stage: str, fingerprint: str) -> AbstractContextManager[None]:
    return stage_cache.claimed_at_once(_step(stage, fingerprint), cache)


def _remove(folder: Path) -> None:
    """Take a folder out of the cache in one step, then delete it."""
    hidden = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    try:
        folder.rename(hidden)
        shutil.rmtree(hidden)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"cannot remove {folder}: {error.strerror or error}") from error


def _remove_leftovers(cache: Path) -> None:
    """Remove what killed processes have left: half linked or half removed folders, claims, half decoded datasets."""
    for stage in STAGES:
        names = [found["name"] or found["claim"] for name in _names(cache / stage) if (found := _LEFTOVER.fullmatch(name))]
        for fingerprint in dict.fromkeys(names):
            with suppress(Stopped), _claim(cache, stage, fingerprint):
                stage_cache.remove_abandoned(cache / stage / fingerprint)
    data = [name.partition(".")[0] for name in _names(cache / DATA) if name.endswith(".tmp")]
    if data:
        from engine.data.decode import remove_abandoned

        for key in dict.fromkeys(data):
            remove_abandoned(cache / DATA / key)
    for name in _names(cache / DATA):
        if _LEFTOVER.fullmatch(name):  # an earlier removal that was killed
            shutil.rmtree(cache / DATA / name, ignore_errors=True)


def _folders(folder: Path) -> list[Path]:
    """Return the entries of a folder of the cache; what is hidden or unfinished is none."""
    return [folder / name for name in _names(folder) if re.fullmatch(r"[0-9a-f]{32}", name) and (folder / name).is_dir()]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def _bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder; one with several names in it counts once."""
    return sum({_inode(file): file.st_size for file in _files(folder)}.values())


def _files(folder: Path) -> list[os.stat_result]:
    """Return the status of every file in a folder, name by name."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found.append((Path(place) / name).lstat())
    return found


def _inode(file: os.stat_result) -> tuple[int, int]:
    return file.st_dev, file.st_ino


def _changed(folder: Path) -> float | None:
    try:
        return folder.stat().st_mtime
    except OSError:
        return None


def age_of(entry: Entry, now: float | None = None) -> float | None:
    """Return the seconds since an entry was made; None when that cannot be told."""
    return None if entry.finished is None else max((time.time() if now is None else now) - entry.finished, 0.0)
