"""The stages of a run in a strip: what is done, reused, at work with its time left, waiting or failed."""

from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from textual import events
from textual.message import Message

from edc_tui.feed import View
from edc_tui.widgets.cells import Canvas, Cells, cut
from edc_tui.widgets.facts import costs
from edc_tui.words import bar, fraction
from engine.commands.progress import rate
from engine.commands.tables import seconds
from engine.runs.events import number
from engine.runs.text import duration

GLYPHS = {
    "done": ("✓", "good"),
    "reused": ("↺", "good"),
    "running": ("▸", "accent"),
    "waiting": ("·", "muted"),
    "stopped": ("■", "warn"),
    "failed": ("✗", "bad"),
}
ENDED_BADLY = ("failed", "killed", "out-of-memory", "lost")


@dataclass(frozen=True)
class StageState:
    """One stage in the strip: its state (a key of GLYPHS), finished and all steps, and the part done, from 0 to 1."""

    name: str
    state: str
    done: int
    steps: int
    part: float
    took: float = 0.0


def stage_states(view: View) -> list[StageState]:
    """Return how every stage of a run stands."""
    states = []
    for name, facts in view.stages.items():
        steps = max(int(number(facts.get("steps")) or 1), 1)
        finished = min(int(number(facts.get("steps_done")) or 0), steps)
        status, took = facts.get("status"), number(facts.get("seconds")) or 0.0
        current = view.status.stage == name
        state = "waiting"
        if status == "done":
            state, finished = ("reused" if facts.get("reused") is True else "done"), steps
        elif status == "running" or (current and view.status.alive):
            state = "running" if view.status.alive else "failed" if view.status.word in ENDED_BADLY else "stopped"
        begun = fraction(view.status.done, view.status.total) or 0.0 if current and state != "waiting" else 0.0
        part = 1.0 if status == "done" else (finished + begun) / steps
        states.append(StageState(name, state, finished, steps, min(part, 1.0), took))
    return states


class StageStrip(Cells):
    """Two lines: all stages, and where the current step stands."""

    COMPONENT_CLASSES = {"cells--shown"}
    DEFAULT_CSS = """
    StageStrip { height: 2; }
    StageStrip > .cells--shown { text-style: underline; }
    """

    class Chosen(Message):
        """A stage was clicked."""

        def __init__(self, stage: str) -> None:
            self.stage = stage
            super().__init__()

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._view: View | None = None
        self._places: list[tuple[str, int, int]] = []
        self._shown = ""

    def show(self, view: View, shown: str) -> None:
        """Show where a run stands; `shown` is the stage whose curves are on the screen."""
        self._view, self._shown = view, shown
        self.redraw()

    def on_click(self, event: events.Click) -> None:
        """Say which stage was clicked."""
        offset = event.get_content_offset(self)
        if offset is not None and offset.y == 0:
            for name, start, end in self._places:
                if start <= offset.x < end:
                    self.post_message(self.Chosen(name))

    def draw(self, canvas: Canvas) -> None:
        """Draw both lines."""
        self._places = []
        if self._view is None:
            return
        states = stage_states(self._view)
        details = [self._detail(state) for state in states]
        lengths = sum(2 + cell_len(state.name) for state in states) + len(states) - 1
        if lengths + sum(map(len, details)) > canvas.width:
            details = [self._detail(state) if state.state in ("running", "failed", "stopped") else "" for state in states]
        if lengths + sum(map(len, details)) > canvas.width:
            details = [f" {state.part:.0%}" if detail else "" for state, detail in zip(states, details, strict=True)]
        gap = 3 if lengths + sum(map(len, details)) + 2 * (len(states) - 1) <= canvas.width else 1
        x = 0
        for state, detail in zip(states, details, strict=True):
            glyph, style = GLYPHS[state.state]
            start, name_style = x, "muted" if state.state == "waiting" else "strong" if state.state == "running" else ""
            if state.name == self._shown:
                name_style += " shown"
            x = canvas.put(x, 0, f"{glyph} ", style)
            x = canvas.put(x, 0, state.name, name_style)
            x = canvas.put(x, 0, detail, "muted" if state.state != "failed" else style)
            self._places.append((state.name, start, x))
            x += gap
        self._draw_step(canvas, states)

    def _detail(self, state: StageState) -> str:
        if state.state == "reused":
            return " reused"
        if state.state == "done":
            return f" {seconds(state.took)}"
        if state.state in ("failed", "stopped"):
            return f" {state.state} at {state.part:.0%}"
        if state.state == "running":
            return f" {state.part:.0%}"
        return ""

    def _draw_step(self, canvas: Canvas, states: list[StageState]) -> None:
        """Draw the current step: its place among the stage's, its bar, count, rate and time left."""
        view = self._view
        assert view is not None
        status = view.status
        if status.word == "done":
            parts = [f"{name} {value}" for name, value in costs(view)]
            canvas.put(0, 1, "   ".join(parts), "muted")
            return
        if not status.stage:
            return
        state = next((state for state in states if state.name == status.stage), None)
        steps = self._step_glyphs(view, status.stage) if state is not None and state.steps > 1 else []
        count = "at work" if status.alive else ""
        if status.total:
            count = f"{status.done or 0:,.0f}/{status.total:,.0f} {status.unit or ''}".rstrip()
        left = view.left.stage
        speed = rate(status.rate) if status.rate and status.alive else ""
        facts = [count, speed, "" if left is None else f"{duration(left)} left"]
        right = "  ".join(f"{fact:>{width}}" for fact, width in zip(facts, (len(count), 8, 13), strict=True) if fact)
        name = status.step or status.stage
        if len(steps) + cell_len(name) + cell_len(right) + 8 > canvas.width and state is not None and steps:
            steps = [(f"{state.done}/{state.steps}", "muted")]
        x = canvas.parts(0, 1, [*steps, (" " if steps else "", "")])
        name = cut(name, max(min(canvas.width - x - cell_len(right) - 8, 48), 8))
        x = canvas.put(x, 1, name) + 1
        room = canvas.width - x - cell_len(right) - 2
        if status.total and room >= 4:
            filled = bar(fraction(status.done, status.total) or 0.0, room).rstrip()
            end = canvas.put(x, 1, filled, "accent" if status.alive else "muted")
            canvas.put(end, 1, "─" * (x + room - end), "muted")
        canvas.put(max(x, canvas.width - cell_len(right)), 1, right, "muted" if not status.alive else "")

    def _step_glyphs(self, view: View, stage: str) -> list[tuple[str, str]]:
        """Return a glyph for each of a stage's steps; of many steps only their number."""
        steps: dict[str, dict[str, Any]] = view.steps(stage)
        if len(steps) > 24:
            done = sum(facts.get("status") == "done" for facts in steps.values())
            return [(f"{done}/{len(steps)}", "muted")]
        glyphs = []
        for name, facts in steps.items():
            state = "reused" if facts.get("reused") is True else "done" if facts.get("status") == "done" else "waiting"
            if state == "waiting" and name == view.status.step:
                state = "running" if view.status.alive else "failed" if view.status.word in ENDED_BADLY else "stopped"
            glyphs.append(GLYPHS[state])
        return glyphs
