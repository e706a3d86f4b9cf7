"""The stage cache: finished steps under their fingerprints, hard-linked into every run that needs them.

`<projects>/.cache/<stage>/<fingerprint>/` holds what the step wrote and its `done.json`; a folder is there whole or not at all.
"""

import errno
import glob
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from engine.errors import RunError, Stopped
from engine.files import digest_file, read_json, write_json
from engine.project.plan import Step
from engine.runs.layout import Run

CACHE = ".cache"
REUSED = ".reused"  # marks a run's folder of a step that came from the cache
NEVER_SHARED = ("checkpoint", "progress.json", ".")  # beginnings of names that belong to unfinished work


def cache_folder(projects: Path) -> Path:
    """Return the cache of a projects folder."""
    return projects / CACHE


def cache_of_run(run: Run) -> Path:
    """Return the cache that a run shares with others; a run copied away from its projects folder has one of its own, inside."""
    return cache_folder(run.folder.parents[2] if run.folder.parent.name == "runs" else run.folder)


def finished(folder: Path, step: Step, *, thorough: bool = True) -> dict[str, Any] | None:
    """Return `done.json` of a folder that holds the finished step, or None when it does not, or not undamaged.

    Every file must have the size that was recorded, and with `thorough` the content.
    """
    try:
        done = read_json(folder / "done.json")
        if done["fingerprint"] != step.fingerprint:
            return None
        for name, facts in done["files"].items():
            path = folder / name
            if path.stat().st_size != facts["bytes"] or (thorough and digest_file(path) != facts["sha256"]):
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return done


def write_done(folder: Path, step: Step, result: dict[str, Any], *, seconds: float, peak_memory_bytes: int) -> dict[str, Any]:
    """Record a step as finished: its settings, result and cost, and size and digest of every file it wrote."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "done.json" and not path.name.startswith(NEVER_SHARED)
    }
    done = {
        "fingerprint": step.fingerprint,
        "stage": step.stage,
        "step": step.name,
        "settings": step.settings,
        "result": result,
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_memory_bytes,
        "finished": time.time(),
        "files": files,
    }
    write_json(folder / "done.json", done)
    return done


def link_folder(source: Path, target: Path, names: list[str], mark: str | None = None) -> None:
    """Make `target` hold the files `names` of `source` as hard links (copies where links are impossible), in one step.

    With `mark`, also an empty file of that name. A `target` that is there already is replaced, and what processes killed on the way to
    this target have left is removed: whoever calls this is the only one at work on it. Raises RunError naming the folder when it
    cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        remove_abandoned(target)
        temporary.mkdir(parents=True)
        if mark:
            (temporary / mark).touch()
        for name in names:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            _link(source / name, temporary / name)
        if target.exists():
            old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"cannot write {target}: {error.strerror or error}") from error


def remove_abandoned(target: Path) -> None:
    """Remove what processes killed within `link_folder` have left beside its target; the caller is the only one at work on it."""
    for ending in ("tmp", "old"):
        for folder in target.parent.glob(f".{glob.escape(target.name)}.????????.{ending}"):
            shutil.rmtree(folder, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system or its limits forbid that."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
            raise
        shutil.copy2(source, target)


def publish(folder: Path, step: Step, done: dict[str, Any], cache: Path) -> None:
    """Put a finished step of a run into the cache, unless it is there undamaged."""
    target = cache / step.stage / step.fingerprint
    if finished(target, step) is None:
        target.parent.mkdir(parents=True, exist_ok=True)
        link_folder(folder, target, [*done["files"], "done.json"])


def reuse(folder: Path, step: Step, cache: Path) -> dict[str, Any] | None:
    """Link a finished step from the cache into a run's folder and return its `done.json`; None when the cache has no undamaged one."""
    source = cache / step.stage / step.fingerprint
    done = finished(source, step)
    if done is not None:
        try:
            link_folder(source, folder, [*done["files"], "done.json"], mark=REUSED)
        except RunError:
            if finished(source, step, thorough=False) is not None:
                raise
            return None  # cleaned out of the cache meanwhile
    return done


def was_reused(folder: Path) -> bool:
    """Say whether a finished step in a run's folder came from the cache."""
    return (folder / REUSED).exists()


@contextmanager
def claimed(step: Step, cache: Path, *, stop_wanted: Callable[[], bool], on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a step's claim while it is computed, so that two runs never compute the same step at once.

    Waits while another process holds it (calling `on_wait` once). Raises Stopped when a stop is wanted meanwhile, RunError when the
    cache cannot be written.
    """
    path = cache / step.stage / f"{step.fingerprint}.lock"
    waited = False
    while (handle := _locked(path)) is None:
        if not waited:
            on_wait()
            waited = True
        if stop_wanted():
            raise Stopped(f"{step.id}: stopped while another run computes it")
        time.sleep(0.2)
    with handle:
        yield
        with suppress(OSError):  # the name is for the living only; the claim itself ends with the handle
            path.unlink()


def claimed_at_once(step: Step, cache: Path) -> AbstractContextManager[None]:
    """Hold a step's claim; raises Stopped instead of waiting while another process holds it, RunError when the cache cannot be written."""
    return claimed(step, cache, stop_wanted=lambda: True, on_wait=lambda: None)


def _locked(path: Path) -> TextIO | None:
    """Return the open and locked file of a claim, or None while another process holds it; raises RunError when it cannot be written."""
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held the claim before may have removed the name meanwhile; a lock on a file without a name excludes nobody.
        if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
            return handle
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.ENOENT):
            handle.close()
            raise RunError(f"cannot lock {path}: {error.strerror or error}") from error
    handle.close()
    return None
