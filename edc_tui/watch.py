"""Watching the projects folder: a thread looks once a tick, and screens hear of it only when something is different."""

import threading
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.message import Message

from engine.files import FileMark, file_mark
from engine.runs.layout import Run
from engine.runs.store import Listing, all_runs, list_run
from engine.runs.text import printable

if TYPE_CHECKING:
    from textual.app import App

SETTLED_SECONDS = 3.0  # a folder changed this short a while ago may change again within the same tick of its file system's clock


@dataclass(frozen=True)
class ProjectFile:
    """A project file: its path, when it was last changed (unix seconds), and what it asks for, or what is wrong with it.

    `sweep`: it has a table [sweep], of which `edc sweep` makes several projects, and is none itself.
    """

    path: Path
    changed: float
    dataset: str = ""
    method: str = ""
    ipc: str = ""
    problem: str | None = None
    sweep: bool = False

    @property
    def name(self) -> str:
        """Return the project's name: its file's, without `.toml`."""
        return self.path.stem


class RunsChanged(Message):
    """The runs (newest first) or the project files (by name) are no longer what they were."""

    def __init__(self, listings: tuple[Listing, ...], projects: tuple[ProjectFile, ...]) -> None:
        self.listings = listings
        self.projects = projects
        super().__init__()


class Lister:
    """Lists runs and project files, reading again only what may have changed since the last time.

    Every file of a run that a list shows is replaced, never written into, so that its folder's own time tells whether a run that has
    ended is still the same; a run that is alive is read each time.
    """

    def __init__(self, projects: Path) -> None:
        self._projects = projects
        self._runs: dict[Path, tuple[Any, Listing]] = {}
        self._files: dict[Path, tuple[Any, ProjectFile]] = {}

    def runs(self) -> tuple[Listing, ...]:
        """List all runs, newest first."""
        now = time.time()
        today = time.localtime(now)[:3]  # the time of day in a status becomes a date at midnight
        seen: dict[Path, tuple[Any, Listing]] = {}
        for run in all_runs(self._projects):
            mark = _settled_mark(run.folder, now)
            before = self._runs.get(run.folder)
            if mark is not None and before is not None and before[0] == (mark, today) and not before[1].status.alive:
                seen[run.folder] = before
            else:
                seen[run.folder] = (mark, today), _list(run, now)
        self._runs = seen
        return tuple(listing for _, listing in seen.values())

    def files(self) -> tuple[ProjectFile, ...]:
        """List the project files by name; none when there is no folder."""
        try:
            paths = sorted(path for path in self._projects.glob("*.toml") if not path.name.startswith("."))
        except OSError:
            paths = []
        seen: dict[Path, tuple[Any, ProjectFile]] = {}
        for path in paths:
            mark, before = file_mark(path), self._files.get(path)
            seen[path] = before if mark is not None and before is not None and before[0] == mark else (mark, read_project_file(path))
        self._files = seen
        return tuple(file for _, file in seen.values())


class Watch:
    """Looks at the projects folder in a daemon thread, so that neither the screen nor leaving the app ever waits for a disk."""

    def __init__(self, app: "App[None]", projects: Path, interval: float) -> None:
        self._app, self._lister, self.interval = app, Lister(projects), interval
        self._wake, self._ended = threading.Event(), False
        self._last: tuple[tuple[Listing, ...], tuple[ProjectFile, ...]] | None = None

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._look_on, name="watch", daemon=True).start()

    def look_now(self) -> None:
        """Look at once, because something was just done to a run."""
        self._wake.set()

    def end(self) -> None:
        """Look no more."""
        self._ended = True
        self._wake.set()

    def _look_on(self) -> None:
        while not self._ended:
            began = time.monotonic()
            found = self._lister.runs(), self._lister.files()
            if found != self._last and not self._ended:
                self._last = found
                self._app.post_message(RunsChanged(*found))
            self._wake.wait(max(self.interval, 4 * (time.monotonic() - began)))  # on a slow disk at most a fifth of the time
            self._wake.clear()


def read_project_file(path: Path) -> ProjectFile:
    """Read of a project file what a list shows; a file that cannot be read says so in `problem`."""
    try:
        changed = path.stat().st_mtime
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return ProjectFile(path, 0.0, problem=f"cannot be read: {error.strerror or error}")
    except (ValueError, RecursionError) as error:
        return ProjectFile(path, changed, problem=f"not valid TOML: {printable(error, 120)}")
    dataset, condense = (value if isinstance(value, dict) else {} for value in (values.get("dataset"), values.get("condense")))
    asked = (dataset, "name"), (condense, "method"), (condense, "ipc")
    words = (printable(table[key], 40) if key in table else "" for table, key in asked)
    return ProjectFile(path, changed, *words, sweep="sweep" in values)


def _list(run: Run, now: float) -> Listing:
    """List a run; while it is well, without how long ago it reported, which would be news every second."""
    listing = list_run(run, now)
    return replace(listing, status=replace(listing.status, reason="", seen=None)) if listing.status.word == "running" else listing


def _settled_mark(folder: Path, now: float) -> FileMark | None:
    """Return what changes when a folder does; None while it is missing or still too new to tell."""
    mark = file_mark(folder)
    return None if mark is None or now - mark[1] / 1e9 < SETTLED_SECONDS else mark
