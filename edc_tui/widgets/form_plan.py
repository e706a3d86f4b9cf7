"""Planning beside the form: a thread that always works on the latest project and never keeps the screen or the way out waiting."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from engine.commands.outline import Outline, outline
from engine.commands.request import Misfit
from engine.errors import RunError, UserError
from engine.project.resolve import Problem, Resolved

if TYPE_CHECKING:
    from textual.widget import Widget


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
