"""Run folders: create, list, find and delete them."""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import RunError, UserError
from engine.files import write_text
from engine.runs.layout import MARKS, Run, open_run, read_object, tables
from engine.runs.liveness import FileLock, lock_holder, wait_for_lock
from engine.runs.status import RunStatus, run_status
from engine.runs.text import printable, typed

__all__ = [
    "Listing",
    "Run",
    "all_runs",
    "asked_for",
    "begin_lock",
    "create_run",
    "delete_run",
    "find_projects_folder",
    "find_run",
    "frozen_from",
    "latest_unfinished",
    "list_run",
    "list_runs",
    "open_run",
    "read_run_toml",
    "refuse_removal",
]

_BASE32 = "23456789abcdefghijkmnpqrstuvwxyz"  # in the order of their codes; without l, o, 0 and 1, which are read for one another
_NEW, _REMOVING = ".new-", ".removing-"  # beginnings of the names of folders that are no runs yet, or no longer
ABANDONED_SECONDS = 3600.0  # after which what a process killed while it created a run has left is removed
REMOVE_SECONDS = 1.0  # in which another process that removes the same run has hidden it
BEGIN_SECONDS = 60.0  # it takes one to begin, two on a busy machine


@dataclass(frozen=True)
class Listing:
    """A run in a list: its computed status, its summary, and what is wrong with its files, if anything.

    Where there is no summary yet, `summary` has what was asked for. `mendable` tells that a resume writes the broken file anew.
    """

    run: Run
    status: RunStatus
    summary: dict[str, Any]
    problem: str | None
    mendable: bool = False


def find_projects_folder(option: Path | None = None, must_exist: bool = False) -> Path:
    """Return the projects folder: the option, else $EDC_PROJECTS, else `projects` in the working folder.

    Raises UserError when it is no folder, or, with `must_exist`, when it is missing.
    """
    from_environment = os.environ.get("EDC_PROJECTS")
    folder = Path(option or from_environment or "projects").expanduser().absolute()
    origin = "--projects" if option else "$EDC_PROJECTS" if from_environment else "the working folder's projects"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{origin}: {printable(folder)} is not a folder")
    if must_exist and not folder.exists():
        raise UserError(f"{origin}: there is no folder {printable(folder)}; go where your projects are or give --projects FOLDER")
    return folder


def create_run(projects: Path, name: str, run_toml: str) -> Run:
    """Create the folder `<projects>/<name>/runs/<UTC second>-<4 characters>/` with run.toml in it, in one step, which is the claim.

    Ids sort by the time of their making, to the millisecond.
    Raises UserError for a name that cannot be a folder's, RunError when the folder cannot be written.
    """
    runs = _runs_folder(projects, name)
    hidden = runs / f"{_NEW}{secrets.token_hex(8)}"
    try:
        hidden.mkdir()
        write_text(hidden / "run.toml", run_toml)
        while True:
            run_id = _new_id(time.time())
            try:
                hidden.rename(runs / run_id)  # which fails where a folder of this name is that holds something, as every run does
                return Run(runs / run_id, run_id, name)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
    except OSError as error:
        raise RunError(f"cannot create a run folder in {printable(runs)}: {error.strerror or error}") from error
    finally:
        for folder in [hidden, *(left for left in runs.glob(f"{_NEW}*") if _seconds_since_change(left) > ABANDONED_SECONDS)]:
            shutil.rmtree(folder, ignore_errors=True)


def _seconds_since_change(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def begin_lock(projects: Path, name: str) -> FileLock:
    """Lock a project while its next run is chosen or created and begun, so that no two processes begin with one; waits for others.

    Whoever has it releases it as soon as a supervisor holds the run. Raises as `create_run` does, and RunError when somebody keeps it.
    """
    path = _runs_folder(projects, name) / ".begin.lock"
    lock = wait_for_lock(path, BEGIN_SECONDS)
    if lock is None:
        who = f"pid {pid}" if (pid := lock_holder(path)) else "another process"
        raise RunError(f"project {printable(name)}: {who} has been starting a run of it for {BEGIN_SECONDS:.0f} s; end that first")
    return lock


def _runs_folder(projects: Path, name: str) -> Path:
    """Return the folder of a project's runs, made when missing."""
    if not name or name.startswith(".") or "/" in name or printable(name) != name:
        raise UserError(f"project name {printable(name)!r}: use a file name without slashes, control characters or a leading dot")
    runs = projects / name / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create a run folder in {printable(runs)}: {error.strerror or error}") from error
    return runs


def all_runs(projects: Path, project: str | None = None) -> list[Run]:
    """Return the runs by their folders' names alone, newest first."""
    names = [project] if project is not None else _folders(projects)
    runs = [Run(projects / name / "runs" / run_id, run_id, name) for name in names for run_id in _folders(projects / name / "runs")]
    return sorted(runs, key=lambda run: (run.id, run.project), reverse=True)


def list_runs(projects: Path, project: str | None = None, now: float | None = None) -> list[Listing]:
    """List every run, or those of one project, newest first, with computed status; broken files are told in `problem`."""
    return [list_run(run, now) for run in all_runs(projects, project)]


def list_run(run: Run, now: float | None = None) -> Listing:
    """Read of one run what a list shows, at `now` (unix seconds, default the present)."""
    summary, broken = read_object(run.summary)
    if summary is None:  # TOML is slow to read, so it is only read where no summary stands in for it
        summary, problem = asked_for(run)
    else:
        problem = _absence(run.run_toml)
    return Listing(run, run_status(run.folder, now), summary, broken or problem, mendable=broken is not None)


def asked_for(run: Run) -> tuple[dict[str, Any], str | None]:
    """Return what a run's run.toml says that its summary will say too (dataset, method, ipc, …), and what is wrong with run.toml."""
    try:
        sections = tables(read_run_toml(run))
    except UserError as error:
        return {}, str(error).partition(": ")[2]
    places = {"dataset": ("dataset", "name"), **{name: ("condense", name) for name in ("method", "ipc", "seed")}}
    places |= {name: ("frozen", name) for name in ("device", "precision")}
    found = {name: sections.get(section, {}).get(key) for name, (section, key) in places.items()}
    return {name: value for name, value in found.items() if value is not None}, None


def find_run(projects: Path, text: str) -> Run:
    """Find a run by its folder, its id, a unique prefix of its id, or its project's name, file or folder (the project's latest run).

    Raises UserError naming what comes near when nothing, or more than one run, fits.
    """
    if not text:
        raise UserError("which run? Give its folder, its id, the beginning of its id, or its project's name")
    folder = Path(text).expanduser()
    if _is_run_folder(folder):
        return open_run(folder)
    if os.sep in text and (folder / "runs").is_dir():
        return find_run(folder.absolute().parent, folder.name)
    runs = all_runs(projects)
    exact = [run for run in runs if run.id == text]
    name = Path(text).stem if text.endswith(".toml") else text
    of_project = [run for run in runs if run.project == name]
    if exact or of_project:
        return (exact or of_project)[0]
    begun = [run for run in runs if run.id.startswith(text)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise UserError(f"{printable(text)} is the beginning of {len(begun)} runs: {_some([run.id for run in begun])}; give more of it")
    if (projects / f"{name}.toml").is_file():
        raise UserError(f"project {printable(name)} has no runs yet; start one with `edc run {typed(name)}`")
    if folder.is_dir() and os.sep in text:
        raise UserError(f"{printable(folder)} is not a run folder: it holds no run.toml")
    raise UserError(f"no run or project {printable(text)} in {printable(projects)}{_near(text, runs)}")


def latest_unfinished(projects: Path, name: str, fingerprint: str) -> Run | None:
    """Return a project's newest run frozen from the same resolved project that is neither done nor alive, or None.

    The fingerprint is compared with `project_fingerprint` of the table [frozen] in run.toml.
    """
    return next((run for run in all_runs(projects, name) if frozen_from(run, fingerprint) and run_status(run.folder).resumable), None)


def frozen_from(run: Run, fingerprint: str) -> bool:
    """Say whether a run was frozen from the resolved project of a fingerprint."""
    try:
        frozen = read_run_toml(run).get("frozen")
    except UserError:
        return False
    return isinstance(frozen, dict) and frozen.get("project_fingerprint") == fingerprint


def read_run_toml(run: Run) -> dict[str, Any]:
    """Read the frozen project of a run; raises UserError in one line when run.toml is missing, empty or not valid TOML."""
    import tomllib

    problem = None
    try:
        value = tomllib.loads(run.run_toml.read_text(encoding="utf-8"))
        if not value:
            problem = "is empty"
    except FileNotFoundError:
        problem = "is missing"
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
    except (ValueError, RecursionError) as error:
        problem = f"is not valid TOML ({printable(error, 120)})"
    if problem:
        raise UserError(f"run {printable(run.id)}: run.toml {problem}")
    return value


def refuse_removal(run: Run) -> None:
    """Raise UserError when a run must not be removed: it is alive, or the folder is no run."""
    if not _is_run_folder(run.folder) and run.folder.parent.name != "runs":
        raise UserError(f"{printable(run.folder)} is not a run folder and stays")
    status = run_status(run.folder)
    if status.alive:
        name = printable(run.id)
        raise UserError(f"run {name} is {status.word} ({status.reason}) and stays; stop it first with `edc stop {name}`")


def delete_run(run: Run) -> None:
    """Remove a run's folder; it leaves every list at once, by a hidden name, before its files go.

    Nothing is wrong where another process removes it at the same time. Raises UserError when the run is alive or the folder is no run,
    RunError when the folder cannot be removed.
    """
    refuse_removal(run)
    try:
        lock = wait_for_lock(run.run_lock, REMOVE_SECONDS)  # held until the end, so that nobody starts what is being removed
    except RunError:
        if run.folder.exists():
            raise
        return
    if lock is None:
        raise UserError(f"run {printable(run.id)} is being started, and stays; stop it first with `edc stop {printable(run.id)}`")
    with lock:
        hidden = run.folder.with_name(f"{_REMOVING}{run.folder.name}-{secrets.token_hex(3)}")
        try:
            run.folder.rename(hidden)
            if hidden.is_symlink():
                hidden.unlink()
            while hidden.exists():
                with contextlib.suppress(FileNotFoundError):  # whoever removes another run takes what is hidden for a leftover
                    shutil.rmtree(hidden)
            for left in run.folder.parent.glob(f"{_REMOVING}*"):  # by removals that were killed
                shutil.rmtree(left, ignore_errors=True)
        except OSError as error:
            if run.folder.exists() or hidden.exists():
                raise RunError(f"cannot remove {printable(run.folder)}: {error.strerror or error}") from error


def _new_id(now: float) -> str:
    """Return an id: the second in UTC, two characters for 1/1024 of it, so that runs sort as they were made, and two by chance."""
    whole = int(now)
    part = int((now - whole) * 1024)
    last = _BASE32[part // 32] + _BASE32[part % 32] + secrets.choice(_BASE32) + secrets.choice(_BASE32)
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime(whole)) + last


def _folders(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return


def _is_run_folder(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in MARKS)


def _absence(path: Path) -> str | None:
    """Say that a file is missing or empty; None where it is there."""
    try:
        return None if path.stat().st_size else f"{path.name} is empty"
    except OSError:
        return f"{path.name} is missing"


def _some(names: list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _near(text: str, runs: list[Run]) -> str:
    import difflib

    names = list(dict.fromkeys([run.project for run in runs] + [run.id for run in runs]))
    close = difflib.get_close_matches(text, names, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {_some(close)}?"
    return "; there are no runs yet" if not runs else f"; the latest runs are {_some([run.id for run in runs[:5]])}"
