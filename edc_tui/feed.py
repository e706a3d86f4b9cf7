"""What a run's folder tells, read piece by piece in a thread: status, summary, curves of the stage that is shown, and log lines."""

import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edc_tui.curves import CurveFile
from edc_tui.time_left import Left, PastTimes, time_left
from engine.commands.tables import seconds
from engine.errors import UserError
from engine.files import FileMark, file_mark
from engine.project.plan import STAGES
from engine.runs.events import Tail, number
from engine.runs.layout import Run, read_object, tables
from engine.runs.status import RunStatus, run_status
from engine.runs.store import read_run_toml
from engine.runs.text import printable

TAIL_BYTES = 256 * 1024
EVENT_BYTES = 1 << 20
LOOK_SECONDS = 0.3  # how long one look may read on before it shows what it has
LONGEST_LINE = 2000  # characters of a log line that are kept
_TROUBLE = re.compile(
    r"\b(\w*Error|error(?=:)|\w*Exception|Traceback|[Ff]atal|FATAL|ERROR|CRITICAL|[Kk]illed|\w*Warning|warning|WARNING|WARN)\b"
)
_ONLY_WARNING = re.compile(r"\b(\w*Warning|warning|WARNING|WARN)\b")


class LogLine(NamedTuple):
    """A line of a log: its text, safe to show, and how bad it is (`info`, `warning` or `error`)."""

    text: str
    level: str = "info"


@dataclass(frozen=True)
class View:
    """A run as its files told at one look."""

    status: RunStatus
    summary: dict[str, Any] = field(default_factory=dict)
    frozen: dict[str, Any] = field(default_factory=dict)  # run.toml
    ending: dict[str, Any] = field(default_factory=dict)  # exit.json
    problems: tuple[str, ...] = ()  # what is wrong with its files
    gone: bool = False  # its folder is not there
    stop_deadline: float | None = None  # unix seconds when a run that was asked to stop is killed
    log_size: int = 0  # bytes of worker.log
    at: float = 0.0  # unix seconds
    left: Left = Left()

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Return the stages' facts in order; while there is no summary those to come, all of them waiting."""
        found = tables(self.summary.get("stages"))
        asked = tables(self.frozen)
        never = {
            "synthesise": asked.get("synthesise", {}).get("enabled") is False,
            "relabel": asked.get("labels", {}).get("mode") not in ("stored", None),
        }
        return found or {stage: {"status": "waiting", "steps": 1} for stage in STAGES if not never.get(stage)}

    def steps(self, stage: str) -> dict[str, dict[str, Any]]:
        """Return the facts of a stage's steps by their names."""
        found = tables(self.summary.get("steps"))
        return {name.partition("/")[2]: facts for name, facts in found.items() if name.partition("/")[0] == stage}


@dataclass(frozen=True)
class Look:
    """What one look found: the view, the new log lines by source, and whether there is more to read at once."""

    view: View
    lines: dict[str, list[LogLine]]
    more: bool


class RunFeed:
    """Reads one run; `look` belongs in a thread, one at a time. Series may be read by others while they hold `guard`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.guard = threading.Lock()
        self._curves: dict[tuple[str, str], CurveFile] = {}
        self._events = Tail(run.events, last_bytes=EVENT_BYTES)
        self._output = TextTail(run.worker_log)
        self._attempts: list[float] = []
        self._summary: dict[str, Any] = {}
        self._summary_mark: FileMark | None = None
        self._summary_problem: str | None = None
        self._frozen: dict[str, Any] | None = None
        self._frozen_problem: str | None = None
        self._past = PastTimes(run.folder.parents[2])

    def curves(self, stage: str) -> dict[str, CurveFile]:
        """Return the curves of a stage's steps by the steps' names, as far as they have been read."""
        return {step: curves for (of, step), curves in list(self._curves.items()) if of == stage}

    def look(self, stage: str | None = None) -> Look:
        """Read what is new: everything small, and the curves of one stage (None: of the one that `stage_shown` names)."""
        until = time.monotonic() + LOOK_SECONDS
        output = self._output.read()
        view = self._view()
        if view.status.word == "running":
            view = replace(view, left=time_left(view, partial(self._past.estimate, view.frozen)))
        lines = {"events": self._event_lines(), "output": output}
        stage = stage or stage_shown(view)
        if self._open_curves(view, stage):
            until = 0.0  # the last part of each first, to be seen at once
        waiting = list(self.curves(stage).values())
        waiting = [curves for curves in waiting if self._read(curves)]
        while waiting and time.monotonic() < until:
            waiting = [curves for curves in waiting if self._read(curves)]
        return Look(view, lines, bool(waiting))

    def _read(self, curves: CurveFile) -> bool:
        curves.attempts[:] = self._attempts
        return curves.read()

    def _open_curves(self, view: View, stage: str) -> bool:
        """Open what is not yet; return whether anything was opened."""
        before = len(self._curves)
        for step, facts in view.steps(stage).items():
            if (stage, step) not in self._curves:
                folder = inside(self.run.stages, facts.get("folder"))
                if folder is not None:
                    self._curves[stage, step] = CurveFile(folder / "metrics.jsonl", self._attempts, self.guard)
        return len(self._curves) > before

    def _view(self) -> View:
        now, run = time.time(), self.run
        if not run.folder.is_dir():
            reason = f"its folder is gone: {printable(run.folder)}"
            return View(RunStatus("lost", reason), self._summary, self._frozen or {}, gone=True, at=now)
        status = run_status(run.folder, now)
        self._read_summary()
        self._read_frozen()
        ending, ending_problem = read_object(run.exit)
        problems = (self._summary_problem, self._frozen_problem, ending_problem)
        return View(
            status,
            self._summary,
            self._frozen or {},
            (ending or {}) if not status.alive else {},
            tuple(problem for problem in problems if problem),
            stop_deadline=self._stop_deadline() if status.word == "stopping" else None,
            log_size=self._output.size,
            at=now,
        )

    def _stop_deadline(self) -> float | None:
        request = read_object(self.run.stop_request)[0] or {}
        asked = number(request.get("t"))
        return None if asked is None else asked + (number(request.get("grace")) or 0.0)

    def _read_summary(self) -> None:
        mark = file_mark(self.run.summary)
        if mark not in (None, self._summary_mark):
            self._summary_mark = mark
            summary, self._summary_problem = read_object(self.run.summary)
            self._summary = summary or self._summary

    def _read_frozen(self) -> None:
        if self._frozen is None:
            try:
                self._frozen, self._frozen_problem = read_run_toml(self.run), None
            except UserError as error:
                self._frozen_problem = str(error).partition(": ")[2]

    def _event_lines(self) -> list[LogLine]:
        found = []
        for event in self._events.read(EVENT_BYTES):
            if event.get("event") == "run_started" and (moment := number(event.get("t"))) is not None:
                self._attempts.append(moment)
            line = event_line(event, self._result(event))
            if line is not None:
                found.append(line)
        return found

    def _result(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a step that an event calls finished has found, where it says so in percent."""
        if event.get("event") != "stage_finished" or event.get("stage") != "evaluate":
            return {}
        facts = tables(self._summary.get("steps")).get(f"evaluate/{event.get('step')}", {})
        folder = inside(self.run.stages, facts.get("folder"))
        done = read_object(folder / "done.json")[0] if folder else None
        result = (done or {}).get("result")
        final = result.get("final") if isinstance(result, dict) else None
        return final if isinstance(final, dict) else {}


class TextTail:
    """The new lines of a text log that anything may have written, from its last 256 KB on; older ones are never read."""

    def __init__(self, path: Path, last_bytes: int = TAIL_BYTES) -> None:
        self.path, self.last_bytes = path, last_bytes
        self.size = 0
        self._offset = 0
        self._inode: int | None = None
        self._rest = b""

    def read(self) -> list[LogLine]:
        """Return the lines that were completed since, and a last line without its end once nothing follows it."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return []
        try:
            status = os.fstat(descriptor)
            if self._inode not in (None, status.st_ino) or status.st_size < self._offset:
                self._offset, self._rest = 0, b""
            self._inode, self.size = status.st_ino, status.st_size
            start = max(self._offset, status.st_size - self.last_bytes)
            skipped = start > self._offset
            data = os.pread(descriptor, status.st_size - start, start) if status.st_size > start else b""
        except OSError:
            return []
        finally:
            os.close(descriptor)
        self._offset = start + len(data)
        if skipped:
            data, self._rest = data.partition(b"\n")[2] or data, b""
        if not data and self._rest:
            whole, self._rest = self._rest + b"\n", b""
        else:
            whole, _, self._rest = (self._rest + data).rpartition(b"\n")
            if len(self._rest) > LONGEST_LINE * 4:
                whole, self._rest = self._rest, b""
        return [text_line(line) for line in whole.split(b"\n") if line.strip()]


def text_line(data: bytes) -> LogLine:
    """Return a raw log line as it may be shown: of what overwrote itself by carriage returns only the last, and no long line whole."""
    last = next((part for part in reversed(data.split(b"\r")) if part.strip()), b"")
    text = last[: LONGEST_LINE * 4].decode(errors="replace").expandtabs(4)
    indent = len(text) - len(text.lstrip(" "))
    text = " " * min(indent, 40) + printable(text, LONGEST_LINE)
    return LogLine(text, trouble(text))


def trouble(text: str) -> str:
    """Judge a line of free text: `error`, `warning` or `info`."""
    found = _TROUBLE.search(text)
    if found is None:
        return "info"
    return "warning" if _ONLY_WARNING.fullmatch(found[0]) else "error"


def event_line(event: Mapping[str, Any], result: Mapping[str, Any]) -> LogLine | None:
    """Return an event as a line for people; None for those that say nothing. `result` is what its step found, if anything."""
    kind, step = event.get("event"), f"{printable(event.get('stage', ''), 40)} {printable(event.get('step', ''), 120)}"
    moment = number(event.get("t"))
    try:
        clock = "        " if moment is None else time.strftime("%H:%M:%S", time.localtime(moment))
    except (OverflowError, ValueError, OSError):
        clock = "        "
    level = str(event.get("level", "info"))
    if kind == "log":
        words = printable(event.get("text", ""), LONGEST_LINE)
        return LogLine(f"{clock}  {words}", level if level in ("warning", "error") else "info")
    if kind == "run_failed":
        return LogLine(f"{clock}  failed: {printable(event.get('message') or 'no message', LONGEST_LINE)}", "error")
    if kind == "stage_finished":
        values = [(name, number(result.get(key))) for name, key in (("top-1", "top1"), ("top-5", "top5"))]
        found = "".join(f", {name} {value:.2f} %" for name, value in values if value is not None)
        return LogLine(f"{clock}  {step} finished after {seconds(number(event.get('seconds')) or 0.0)}{found}")
    words = {
        "run_started": "the run was started",
        "run_finished": "the run is done",
        "run_stopped": "the run stopped with a checkpoint",
        "stage_started": f"{step} begins",
        "stage_reused": f"{step} reused",
        "stage_stopped": f"{step} stopped",
    }.get(str(kind))
    return None if words is None else LogLine(f"{clock}  {words}")


CURVED = ("squeeze", "synthesise", "evaluate")  # the stages that write curves


def stage_shown(view: View) -> str:
    """Return the stage whose curves to show: the current one, else the last before it that has any, else the next."""
    stages = list(view.stages)
    current = view.status.stage if view.status.stage in stages else None
    if current is None or view.status.word == "done":
        begun = [stage for stage, facts in view.stages.items() if facts.get("status") in ("running", "done")]
        current = begun[-1] if begun else stages[0]
    place = stages.index(current)
    order = [*reversed(stages[: place + 1]), *stages[place + 1 :]]
    return next((stage for stage in order if stage in CURVED), current)


def inside(folder: Path, name: object) -> Path | None:
    """Return a folder below `folder` by a name from a file; None for a name that leads elsewhere."""
    if not isinstance(name, str) or not name or name.startswith("/") or ".." in name.split("/") or "\0" in name:
        return None
    return folder / name
