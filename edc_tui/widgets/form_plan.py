"""Beside the form: what the project would do, planned in a thread that never keeps the screen or the way out waiting."""

import textwrap
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.message import Message

from edc_tui.widgets.cells import Canvas, Cells
from edc_tui.words import short_duration
from engine.commands.outline import Outline, StageOutline, outline
from engine.commands.request import Misfit
from engine.commands.tables import count, size
from engine.errors import RunError, UserError
from engine.project.draft import Draft
from engine.project.resolve import Problem, Resolved

if TYPE_CHECKING:
    from textual.timer import Timer
    from textual.widget import Widget

PLAN_SECONDS = 0.4  # after the last change before the plan is made anew
SLOW_SECONDS = 1.0  # after which it is told that a plan is being made
NO_PAST = "no past run to go by"
Part = tuple[str, str]  # text and style


@dataclass
class Planned(Message):
    """A project was planned: `plan`, or else what is wrong with it on this machine; `number` is that of the request."""

    number: int
    plan: Outline | None
    problem: Problem | None


class Planner:
    """Plans in a daemon thread, because a dataset that is new here is read through, which may take minutes and cannot be cut short."""

    def __init__(self, widget: "Widget") -> None:
        self._widget = widget
        self._wake, self._lock = threading.Event(), threading.Lock()
        self._next: tuple[int, Resolved, Path, str] | None = None
        self._thread: threading.Thread | None = None
        self._ended = False
        self.number = 0

    def ask(self, resolved: Resolved, *, projects: Path, name: str) -> None:
        """Plan this project next, rather than any asked for before; a `Planned` with its number will come."""
        with self._lock:
            self.number += 1
            self._next = self.number, resolved, projects, name
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="plan", daemon=True)
            self._thread.start()
        self._wake.set()

    def forget(self) -> None:
        """Plan nothing until asked again."""
        with self._lock:
            self.number += 1
            self._next = None

    def end(self) -> None:
        """Plan no more."""
        self._ended = True
        self._wake.set()

    def _work(self) -> None:
        while not self._ended:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                asked, self._next = self._next, None
            if asked is not None and not self._ended:
                number, resolved, projects, name = asked
                self._widget.post_message(_planned(number, resolved, projects, name))


def _planned(number: int, resolved: Resolved, projects: Path, name: str) -> Planned:
    try:
        return Planned(number, outline(resolved, projects=projects, name=name), None)
    except Misfit as error:
        return Planned(number, None, error.problem)
    except (UserError, RunError, OSError) as error:
        return Planned(number, None, Problem("", str(error)))


STAGE = 10  # cells of the first column
COLUMNS = (("stage", STAGE), ("to do", 9), ("images", 9), ("iter.", 9), ("disk", 10), ("time", 9))


class PlanView(Cells):
    """What the project would do: a line a stage, and the sums; its screen hears of each plan by `Planned`."""

    DEFAULT_CSS = "PlanView { height: 1; padding: 0 1; }"

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[list[Part]] = []
        self._table: Outline | None = None
        self._planner = Planner(self)
        self._timer: Timer | None = None  # until the next plan is asked for, then until it is told that it takes long

    def on_unmount(self) -> None:
        """Plan no more."""
        self._planner.end()

    def plan_soon(self, draft: Draft, *, projects: Path, name: str) -> None:
        """Plan a draft once nothing has changed for a moment; while values of it are wrong, say so instead."""
        self._stop_timer()
        if draft.problems:
            self._planner.forget()
            self._refuse([f"{key}: {message}" if key else message for key, message in draft.problems.items()])
        else:
            self._timer = self.set_timer(PLAN_SECONDS, partial(self._plan, draft.resolved, projects=projects, name=name))

    def _plan(self, resolved: Resolved, *, projects: Path, name: str) -> None:
        self._planner.ask(resolved, projects=projects, name=name)
        self._timer = self.set_timer(SLOW_SECONDS, self._wait)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()

    def on_planned(self, event: Planned) -> None:
        """Show the plan, or what is wrong with the project on this machine; one that is no longer asked for goes no further."""
        if event.number != self._planner.number:
            event.stop()
            return
        self._stop_timer()
        if event.plan is not None:
            self._show_plan(event.plan)
        elif event.problem is not None:
            self._refuse([": ".join(filter(None, (event.problem.key, event.problem.message)))])

    def _wait(self) -> None:
        self._show([[("planning … a dataset that is new here is read through once", "muted")]], None)

    def _show_plan(self, plan: Outline) -> None:
        head = f"{count(plan.classes, 'class')} of {plan.resolution} px, {plan.train_images:,} images; {plan.device} in {plan.precision}"
        self._show([[(head, "muted")]], plan)

    def _refuse(self, problems: Sequence[str]) -> None:
        number = len(problems)
        head = f"no plan while {'a value is' if number == 1 else f'{number} values are'} wrong:"
        self._show([[(head, "bad")], *([(f"✗ {problem}", "")] for problem in problems)], None)

    def _show(self, rows: list[list[Part]], plan: Outline | None) -> None:
        self._rows, self._table = rows, plan
        self._fit()

    def on_resize(self) -> None:
        """Break the warnings anew."""
        self._fit()

    def _fit(self) -> None:
        """Take as many lines as there is to say at this width."""
        plan, lines = self._table, len(self._rows)
        if plan is not None:
            lines += len(plan.stages) + 1 + len(summary_lines(plan)) + len(warning_lines(plan, self.content_size.width))
        if self.styles.height is None or self.styles.height.value != lines:
            self.styles.height = lines
        self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw the head, the table and the sums."""
        y = 0
        for row in self._rows:
            canvas.parts(0, y, row)
            y += 1
        if self._table is None:
            return
        self._line(canvas, y, [(title, "strong") for title, _ in COLUMNS])
        for stage in self._table.stages:
            y += 1
            self._line(canvas, y, stage_cells(stage))
        for parts in [*summary_lines(self._table), *warning_lines(self._table, canvas.width)]:
            y += 1
            canvas.parts(0, y, parts)

    def _line(self, canvas: Canvas, y: int, cells: Sequence[Part]) -> None:
        x = STAGE
        canvas.put(0, y, *cells[0], limit=STAGE)
        for (text, style), (_, width) in zip(cells[1:], COLUMNS[1:], strict=True):
            x += width
            canvas.put(x - cell_len(text), y, text, style)


def stage_cells(stage: StageOutline) -> list[Part]:
    """Return the cells of a stage: steps to do of all, their images and iterations, bytes, and the time they take by past runs."""
    to_do = stage.steps - stage.reused
    style = "" if to_do else "muted"
    if not to_do:
        time: Part = ("reused", "good")
    elif stage.unknown == to_do:
        time = ("?", "warn")
    else:
        time = (f"{short_duration(stage.seconds)}{' +?' if stage.unknown else ''}", "")
    return [
        (stage.stage, style),
        (f"{to_do} of {stage.steps}", style),
        (compact(stage.images), style),
        (compact(stage.iterations), style),
        (size(stage.bytes) if stage.bytes else "", style),
        time,
    ]


def warning_lines(plan: Outline, width: int) -> list[list[Part]]:
    """Return what is to be said against the project, each warning under its key, broken between words at `width` cells."""
    lines: list[list[Part]] = []
    for warning in plan.warnings:
        first, *rest = textwrap.wrap(f"{warning.key}: {warning.text}", max(width - 2, 20), break_on_hyphens=False)
        lines += [[("! ", "warn"), (first, "")], *([("  ", ""), (line, "muted")] for line in rest)]
    return lines


def compact(number: int) -> str:
    """Say a number in at most seven characters: `275,640`, `12.3 M`; nothing for 0."""
    if number < 1_000_000:
        return f"{number:,}" if number else ""
    for unit in ("M", "G", "T"):
        number /= 1000 if unit != "M" else 1_000_000
        if number < 999.5 or unit == "T":
            return f"{number:.0f} {unit}" if number >= 99.5 else f"{number:.1f} {unit}"
    raise AssertionError("unreachable")


def summary_lines(plan: Outline) -> list[list[Part]]:
    """Say how much is reused and how long the rest takes, as far as past runs on this machine tell."""
    to_do = plan.steps - plan.reused
    lines: list[list[Part]] = []
    if not to_do:
        lines.append([("nothing to do: every step is reused", "good")])
    else:
        reused = f"{plan.reused} of {count(plan.steps, 'step')} reused" if plan.reused else f"{count(plan.steps, 'step')}, none reused"
        disk = f"; {size(plan.bytes)} of images and labels" if plan.bytes else ""
        lines.append([(reused + disk, "")])
        if plan.unknown == to_do:
            lines.append([("time: ", ""), (NO_PAST, "warn")])
        else:
            known = f"about {short_duration(plan.seconds)} by past runs on this machine"
            lines.append([("time: ", ""), (known, "strong")])
            if plan.unknown:
                lines.append([(f"and {count(plan.unknown, 'step')} with {NO_PAST}", "warn")])
    if plan.resumes:
        lines.append([("starting goes on with run ", ""), (plan.resumes, "accent")])
    return lines
