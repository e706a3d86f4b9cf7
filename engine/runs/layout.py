"""The layout of a run folder: which file lies where, and how a reader opens files that may be missing or broken."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.runs.text import printable

MARKS = ("run.toml", "events.jsonl", "summary.json", "process.json")


@dataclass(frozen=True)
class Run:
    """A run: its folder, its id (the folder's name) and the name of its project."""

    folder: Path
    id: str
    project: str

    @property
    def run_toml(self) -> Path:
        """The resolved project, frozen."""
        return self.folder / "run.toml"

    @property
    def summary(self) -> Path:
        """What a list shows; replaced at every stage end."""
        return self.folder / "summary.json"

    @property
    def events(self) -> Path:
        """The lifecycle, written by the worker."""
        return self.folder / "events.jsonl"

    @property
    def heartbeat(self) -> Path:
        """The worker's sign of life and progress."""
        return self.folder / "heartbeat.json"

    @property
    def process(self) -> Path:
        """Who supervises and who works."""
        return self.folder / "process.json"

    @property
    def exit(self) -> Path:
        """How the worker ended, written by the supervisor."""
        return self.folder / "exit.json"

    @property
    def run_lock(self) -> Path:
        """Held by the supervisor while it lives."""
        return self.folder / "run.lock"

    @property
    def worker_lock(self) -> Path:
        """Held by the worker while it lives."""
        return self.folder / "worker.lock"

    @property
    def stop_request(self) -> Path:
        """Present when someone asked the run to stop."""
        return self.folder / "control" / "stop.json"

    @property
    def worker_log(self) -> Path:
        """The worker's standard output and error."""
        return self.folder / "worker.log"

    @property
    def supervisor_log(self) -> Path:
        """The detached supervisor's standard output and error."""
        return self.folder / "supervisor.log"

    @property
    def reserve(self) -> Path:
        """Room kept on the disk while the run is at work, so that its end can be recorded when the disk is full."""
        return self.folder / ".reserve"

    @property
    def stages(self) -> Path:
        """The folder of the stages' folders."""
        return self.folder / "stages"

    def stage_folder(self, number: int, stage: str, step: str | None = None) -> Path:
        """Return `stages/<number>-<stage>[/<step>]`, whether or not it exists yet."""
        folder = self.stages / f"{number}-{stage}"
        return folder if step is None else folder / step


def open_run(folder: Path) -> Run:
    """Open a run folder wherever it lies; raises UserError when the folder is not a run."""
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise UserError(f"{printable(folder)} is not a folder; a run is given as its folder, its id or its project's name")
    if not any((folder / mark).exists() for mark in MARKS):
        raise UserError(f"{printable(folder)} is not a run folder: it holds no run.toml")
    if folder.parent.name == "runs":
        return Run(folder, folder.name, folder.parent.parent.name)
    summary, _ = read_object(folder / "summary.json")
    project = summary.get("project") if summary else None
    return Run(folder, folder.name, project if isinstance(project, str) and project else folder.parent.name)


def read_object(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Read a JSON object that may be missing or broken.

    Returns (object, None), (None, None) when there is no such file, or (None, why) with one line saying what is wrong with it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"{path.name} cannot be read ({error.strerror or error})"
    if not data.strip(b"\0 \t\r\n"):
        return None, f"{path.name} is empty"
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None, f"{path.name} is not valid JSON"
    if not isinstance(value, dict):
        return None, f"{path.name} holds no JSON object"
    return value, None


def tables(value: object) -> dict[str, dict[str, Any]]:
    """Return the entries of a JSON object that are objects themselves; none where a broken file holds something else."""
    return {str(name): entry for name, entry in value.items() if isinstance(entry, dict)} if isinstance(value, dict) else {}
