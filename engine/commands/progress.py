"""What a run does while one watches: a live block on a terminal, plain lines elsewhere; both read only what the run writes."""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from engine.commands.tables import make_console, seconds
from engine.files import FileMark, file_mark
from engine.runs.events import Tail, number, read_metrics
from engine.runs.layout import Run, read_object, tables
from engine.runs.status import run_status
from engine.runs.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

LOOK_SECONDS = 0.25
PLAIN_SECONDS = 30.0
FOLLOW_SECONDS = 5.0  # of `edc tail`, which one starts in order to see more
RECENT_BYTES = 1 << 16  # of a metrics log that is read when one begins to watch a step
METRICS_SHOWN = 5
MOST_REUSED = 4  # steps of a stage that are told one by one
FIRST_METRICS = ("loss", "top1", "top5")
PER_CENT = ("top1", "top5")


@dataclass
class Watched:
    """Where a run stands, as its files told at the last look."""

    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    stage: str = ""
    step: str = ""
    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    rate: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    stop_asked: bool = False
    waits: str = ""  # where it stands in the line for its device

    @property
    def seconds_left(self) -> float | None:
        """Return how long the current step still takes at its rate."""
        return (self.total - self.done) / self.rate if self.rate > 0 and self.total else None


class Follower:
    """Reads a run's summary, heartbeat, events and the current step's metrics, each only as far as it is new."""

    def __init__(self, run: Run, *, from_start: bool = False) -> None:
        """`from_start` also hears the events there are already; otherwise only those to come."""
        self.run, self.now = run, Watched()
        self._events = Tail(run.events)
        if not from_start:
            self._events.read()
        self._since = 0.0 if from_start else time.time()  # an older heartbeat belongs to an earlier attempt
        self._summary_mark: FileMark | None = None
        self._process_mark: FileMark | None = None
        self._waits = False
        self._metrics: Tail | None = None
        self.said: set[str] = set()  # what logs have told

    def look(self) -> list[dict[str, Any]]:
        """Bring `now` up to date and return the events that came since."""
        events = self._events.read()
        self._read_summary()
        self._read_heartbeat()
        if self._metrics is not None:
            for row in read_metrics(self._metrics.read()):
                self.now.metrics |= row.values
        self.now.stop_asked = self.run.stop_request.exists()
        self._read_place()
        return events

    def result(self, stage: str, step: str) -> dict[str, Any]:
        """Return what a finished step found, as its `done.json` says."""
        folder = self.now.steps.get(f"{stage}/{step}", {}).get("folder")
        done, _ = read_object(self.run.stages / str(folder) / "done.json") if folder else (None, None)
        result = (done or {}).get("result")
        return result if isinstance(result, dict) else {}

    def _read_summary(self) -> None:
        mark = file_mark(self.run.summary)
        if mark not in (None, self._summary_mark):
            self._summary_mark = mark
            summary = read_object(self.run.summary)[0] or {}
            self.now.stages = tables(summary.get("stages"))
            self.now.steps = tables(summary.get("steps"))

    def _read_place(self) -> None:
        mark = file_mark(self.run.process)
        if mark not in (None, self._process_mark):
            self._process_mark = mark
            self._waits = bool((read_object(self.run.process)[0] or {}).get("waits"))
        status = run_status(self.run.folder) if self._waits else None  # the line moves on while process.json stays
        self.now.waits = status.reason if status is not None and status.word == "queued" else ""

    def _read_heartbeat(self) -> None:
        beat = read_object(self.run.heartbeat)[0]
        if beat is None or (number(beat.get("t")) or 0.0) < self._since:
            return
        now, place = self.now, (str(beat.get("stage", "")), str(beat.get("step", "")))
        if (now.stage, now.step) != place:
            now.stage, now.step = place
            now.metrics = {}
            folder = now.steps.get("/".join(place), {}).get("folder")
            self._metrics = Tail(self.run.stages / str(folder) / "metrics.jsonl", last_bytes=RECENT_BYTES) if folder else None
        now.done, now.total, now.rate = (number(beat.get(name)) or 0.0 for name in ("done", "total", "rate"))
        now.unit = str(beat.get("unit", ""))


def event_lines(follower: Follower, events: Iterable[dict[str, Any]]) -> list[tuple[str, bool]]:
    """Return lines for people about events, each with whether it warns.

    What a log has told before is not told again, and many reused steps of a stage that come together are one line.
    """
    lines = []
    for stage, group in groupby(events, key=lambda event: event.get("stage") if event.get("event") == "stage_reused" else None):
        together = list(group)
        if stage is not None and len(together) > MOST_REUSED:
            lines.append((f"{printable(stage)}: {len(together)} steps reused", False))
            continue
        for event in together:
            line, logged = event_line(follower, event), event.get("event") == "log"
            if line and not (logged and line in follower.said):
                lines.append((line, logged and event.get("level") != "info"))
            if line and logged:
                follower.said.add(line)
    return lines


def event_line(follower: Follower, event: dict[str, Any]) -> str | None:
    """Return a line for people about an event; None for those that say nothing new to them."""
    stage, step, kind = printable(event.get("stage", "")), printable(event.get("step", "")), event.get("event")
    if kind == "log":
        level = "" if event.get("level") == "info" else f"{printable(event.get('level'))}: "
        return level + printable(event.get("text", ""))
    if kind == "stage_reused":
        return f"{stage} {step}: reused"
    if kind == "stage_finished":
        took = seconds(number(event.get("seconds")) or 0.0)
        return ", ".join([f"{stage} {step}: {took}", *_found(follower.result(stage, step))])
    return None


def _found(result: dict[str, Any]) -> list[str]:
    """Return a step's accuracies in words."""
    final = result.get("final", result)
    values = {name: number(final.get(name)) for name in PER_CENT} if isinstance(final, dict) else {}
    return [f"{name.replace('top', 'top-')} {value:.2f} %" for name, value in values.items() if value is not None]


class PlainProgress:
    """Progress for what is not a terminal: a line for each finished step or place in line, and a sign of life with metrics now and then."""

    def __init__(self, console: "Console", run: Run, *, from_start: bool = False, every: float = PLAIN_SECONDS) -> None:
        self._console, self._follower, self._every = console, Follower(run, from_start=from_start), every
        self._next, self._last_sign, self._waits = 0.0, time.monotonic(), ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._look()

    def tick(self) -> None:
        """Print what is new, looking at most four times a second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK_SECONDS
        said = self._look()
        if said:
            self._last_sign = now
        elif now - self._last_sign >= self._every and self._follower.now.total and not self._waits:
            self._last_sign = now
            self._print(progress_line(self._follower.now))

    def _look(self) -> bool:
        events, waits = self._follower.look(), self._follower.now.waits
        lines = [f"run {printable(self._follower.run.id)} {waits}"] if waits and waits != self._waits else []
        self._waits = waits
        lines += [line for line, _ in event_lines(self._follower, events)]
        for line in lines:
            self._print(line)
        return bool(lines)

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
        self._console.file.flush()


def progress_line(now: Watched) -> str:
    """Return the current step's progress in one plain line."""
    parts = [f"{printable(now.stage)} {printable(now.step)}: {now.done:,.0f}/{now.total:,.0f} {printable(now.unit)}".rstrip()]
    if now.rate > 0:
        parts.append(f"{rate(now.rate)}")
    if now.seconds_left is not None:
        parts.append(f"{seconds(now.seconds_left)} left")
    return ", ".join([*parts, *(f"{name} {value}" for name, value in shown_metrics(now.metrics))])


def rate(value: float) -> str:
    """Say units per second with about three digits."""
    return f"{value:,.0f}/s" if value >= 100 else f"{value:.1f}/s" if value >= 10 else f"{value:.2f}/s"


def shown_metrics(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Return the latest values worth a look, losses first, as names and texts."""
    first = [name for name in FIRST_METRICS if name in metrics]
    names = [*first, *(name for name in metrics if name not in first)][:METRICS_SHOWN]
    return [
        (printable(name).replace("top", "top-") if name in PER_CENT else printable(name, 20), _value(name, metrics[name])) for name in names
    ]


def _value(name: str, value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:.2f} %" if name in PER_CENT else f"{value:.4g}"


class LiveProgress:
    """Progress on a terminal: the stages, the current step with bar, rate and time left, its latest metrics; log lines above."""

    def __init__(self, console: "Console", run: Run, *, from_start: bool = False) -> None:
        from rich.live import Live

        self._console, self._follower = console, Follower(run, from_start=from_start)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._begun, self._next = time.monotonic(), 0.0

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._look()
        finally:
            self._live.__exit__(kind, error, trace)

    def tick(self) -> None:
        """Draw anew, at most four times a second."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LOOK_SECONDS
            self._look()
            self._live.update(self._block(), refresh=True)

    def _look(self) -> None:
        from rich.text import Text

        for line, warns in event_lines(self._follower, self._follower.look()):
            self._live.console.print(Text(line, style="yellow" if warns else "dim"), no_wrap=True, overflow="ellipsis")

    def _block(self) -> "RenderableType":
        """Return the whole block."""
        from rich.console import Group
        from rich.text import Text

        now, width = self._follower.now, self._console.width
        lines: list[RenderableType] = [Text(), stage_strip(now.stages)]
        if now.waits:
            lines.append(Text(f"this run {now.waits}  {seconds(time.monotonic() - self._begun)}", style="yellow"))
        elif not now.stage:
            lines.append(Text(f"starting … {seconds(time.monotonic() - self._begun)}", style="dim"))
        else:
            lines += [self._step_line(now, width), self._bar_line(now, width), self._metrics_line(now)]
        if now.stop_asked:
            lines.append(Text("stopping with a checkpoint … (Ctrl-C once more ends it at once)", style="yellow"))
        for line in lines:
            if isinstance(line, Text):
                line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines)

    def _step_line(self, now: Watched, width: int) -> "Text":
        from rich.text import Text

        name = f"{printable(now.stage)}  {printable(now.step)}"
        elapsed = seconds(time.monotonic() - self._begun)
        room = max(width - len(elapsed) - 2, 0)
        line = Text(name)
        line.truncate(room, overflow="ellipsis")
        line.pad_right(room + 2 - line.cell_len)
        return line.append(elapsed, style="dim")

    def _bar_line(self, now: Watched, width: int) -> "RenderableType":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if not now.total:
            return Text("at work …", style="dim")
        done = f"{now.done:,.0f}/{now.total:,.0f} {printable(now.unit)}".rstrip()
        left = "" if now.seconds_left is None else f"{seconds(now.seconds_left)} left"
        grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False, expand=True)
        grid.add_column(ratio=1)
        texts = [done, *([rate(now.rate)] if now.rate > 0 else []), *([left] if left else [])]
        for _ in texts:
            grid.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(total=now.total, completed=now.done, complete_style="cyan", finished_style="green")
        grid.add_row(bar, *(Text(text) for text in texts))
        return grid

    def _metrics_line(self, now: Watched) -> "Text":
        from rich.text import Text

        line = Text()
        for name, value in shown_metrics(now.metrics):
            line.append(f"{name} ", style="dim").append(f"{value}   ")
        return line


def stage_strip(stages: dict[str, dict[str, Any]]) -> "Text":
    """Return all stages in one line: `✓` finished, `▸` at work with its steps, dim when still to come."""
    from rich.text import Text

    strip = Text()
    for stage, facts in stages.items():
        if len(strip):
            strip.append("  ")
        state, steps, done = facts.get("status"), facts.get("steps", 1), facts.get("steps_done", 0)
        name = printable(stage, 20)
        if state == "done":
            strip.append("✓ ", style="green").append(name)
        elif state == "running":
            strip.append("▸ ", style="cyan").append(name, style="bold")
            if steps != 1:
                strip.append(f" {done}/{steps}")
        else:
            strip.append(f"· {name}", style="dim")
    return strip


def make_progress(
    console: "Console", run: Run, *, from_start: bool = False, every: float = PLAIN_SECONDS
) -> LiveProgress | PlainProgress:
    """Return the live block where the console is a terminal that can redraw, else plain lines, of the metrics one in `every` seconds."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveProgress(console, run, from_start=from_start)
    return PlainProgress(console, run, from_start=from_start, every=every)


def follow(run: Run, console: "Console") -> None:
    """Show what a run of any process does until it ends."""
    with make_progress(console, run, from_start=True, every=FOLLOW_SECONDS) as progress:
        while run_status(run.folder).alive:
            progress.tick()
            time.sleep(LOOK_SECONDS)


@contextmanager
def task(description: str, *, unit: str, stderr: bool = False) -> Iterator[Any]:
    """Yield a `progress(done, total)` callback that draws one bar on a terminal, and nothing elsewhere.

    `unit` is `bytes` or what is counted.
    """
    console = make_console(stderr=stderr)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    number_column = DownloadColumn() if unit == "bytes" else TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit)
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), number_column, TimeRemainingColumn(compact=True)]
    with Progress(*columns, console=console, transient=True) as bar:
        handle = bar.add_task(printable(description), total=1, visible=False)
        yield lambda done, total: bar.update(handle, completed=done, total=total, visible=True)
