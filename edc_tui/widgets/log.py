"""The end of a run's logs: its events, and what its worker printed; with search and a way from error to error."""

from collections import deque
from collections.abc import Callable, Iterable

from textual import events
from textual.binding import Binding

from edc_tui.feed import LogLine
from edc_tui.keys import bindings
from edc_tui.widgets.cells import Canvas, Cells
from engine.commands.tables import count, size

KEPT = 5000  # lines of each source
SOURCES = {"events": "events", "output": "output of the worker"}
STYLES = {"info": "", "warning": "warn", "error": "bad"}
MARKS = {"info": " ", "warning": "!", "error": "✗"}


class LogTail(Cells, can_focus=True):
    """The last lines of one of two logs under a line that names it; follows the end until one scrolls up."""

    BINDINGS: list[Binding] = bindings("log")
    COMPONENT_CLASSES = {"cells--title", "cells--match"}
    DEFAULT_CSS = """
    LogTail { height: 1fr; min-height: 3; }
    LogTail:focus { background-tint: $foreground 4%; }
    LogTail > .cells--title { text-style: bold; }
    LogTail > .cells--match { text-style: reverse; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.source = "events"
        self.query_text = ""
        self._lines: dict[str, deque[LogLine]] = {name: deque(maxlen=KEPT) for name in SOURCES}
        self._came: dict[str, int] = dict.fromkeys(SOURCES, 0)  # lines ever added, so that those kept have numbers that stay
        self._bytes = 0
        self._top: int | None = None  # number of the first line shown; None follows the end
        self._match: int | None = None  # number of the line that a search or a jump went to

    @property
    def lines(self) -> deque[LogLine]:
        """Return the kept lines of the log shown."""
        return self._lines[self.source]

    def add(self, lines: dict[str, Iterable[LogLine]], bytes_of_output: int = 0) -> None:
        """Add new lines by their source, and draw anew if there are any."""
        before = self._bytes, sum(self._came.values())
        self._bytes = bytes_of_output
        for source, new in lines.items():
            new = list(new)
            self._lines[source].extend(new)
            self._came[source] += len(new)
        if before != (self._bytes, sum(self._came.values())):
            self.redraw()

    def show(self, source: str) -> None:
        """Show one of the logs, at its end."""
        self.source, self._top, self._match = source, None, None
        self.redraw()

    def search(self, text: str) -> int:
        """Search for a text, case aside, and go to its last occurrence; return how many lines hold it."""
        self.query_text, self._match = text.strip(), None
        found = sum(map(self._matches, self.lines)) if self.query_text else 0
        if found:
            self._jump(self._matches, -1)
        self.redraw()
        return found

    def next_trouble(self, direction: int) -> bool:
        """Go to the nearest warning or error above the one before, or below with -1; return whether there was one."""
        return self._jump(lambda line: line.level != "info", -direction)

    def draw(self, canvas: Canvas) -> None:
        """Draw the title and the lines that fit."""
        lines, first, rows = self.lines, self._first, max(canvas.height - 1, 0)
        top = self._place(rows)
        x = canvas.put(0, 0, SOURCES[self.source], "title")
        other = next(name for name in SOURCES if name != self.source)
        parts = [f"{size(self._bytes)}, the last 256 KiB"] if self.source == "output" and self._bytes > 256 * 1024 else []
        if self._top is not None and lines:
            parts.append(f"line {top - first + 1}-{min(top - first + rows, len(lines))} of {len(lines)}")
        if self.query_text:
            parts.append(f"{sum(map(self._matches, lines))} × {self.query_text}")
        bad = {level: sum(line.level == level for line in lines) for level in ("warning", "error")}
        parts += [count(number, level) for level, number in bad.items() if number]
        x = canvas.put(x + 2, 0, " · ".join(parts), "muted")
        if self._lines[other] and x < canvas.width - 20:
            hint = f"o {SOURCES[other]}"
            canvas.put(canvas.width - len(hint), 0, hint, "muted")
        if not lines:
            canvas.put(2, 1, "nothing yet", "muted")
        for row in range(min(rows, len(lines) - (top - first))):
            line = lines[top - first + row]
            canvas.put(0, row + 1, MARKS[line.level], STYLES[line.level])
            self._draw_text(canvas, row + 1, line, at_match=top + row == self._match)

    def _draw_text(self, canvas: Canvas, y: int, line: LogLine, *, at_match: bool) -> None:
        style = STYLES[line.level]
        canvas.put(2, y, line.text, f"{style} strong".strip() if at_match else style)
        if at_match:
            canvas.put(0, y, "▸", "accent")
        wanted = self.query_text.casefold()
        if not wanted:
            return
        shown = "".join(text or "\0" for text, _ in canvas.rows[y][2:]).casefold()
        start = shown.find(wanted)
        while start >= 0:
            for x in range(start + 2, min(start + 2 + len(wanted), canvas.width)):
                canvas.rows[y][x] = canvas.rows[y][x][0], f"{style} match".strip()
            start = shown.find(wanted, start + len(wanted))

    @property
    def _first(self) -> int:
        """Return the number of the first line kept."""
        return self._came[self.source] - len(self.lines)

    def _place(self, rows: int) -> int:
        """Return the number of the first line to show on so many rows."""
        last = max(self._came[self.source] - rows, self._first)
        return last if self._top is None else min(max(self._top, self._first), last)

    def _rows(self) -> int:
        return max(self.content_size.height - 1, 1)

    def _go(self, top: int) -> None:
        last = max(self._came[self.source] - self._rows(), self._first)
        self._top = None if top >= last else max(top, self._first)
        self.redraw()

    def _matches(self, line: LogLine) -> bool:
        return self.query_text.casefold() in line.text.casefold()

    def _jump(self, wanted: Callable[[LogLine], bool], direction: int) -> bool:
        """Go to the next line wanted in a direction, round the end where there is none further on; return whether there is any."""
        first, lines = self._first, list(self.lines)
        found = [first + index for index, line in enumerate(lines) if wanted(line)]
        if not found:
            return False
        here = self._match if self._match is not None else (self._came[self.source] if direction < 0 else -1)
        further = [place for place in found if (place - here) * direction > 0]
        self._match = min(further or found, key=lambda place: place * direction)
        self._go(self._match - self._rows() // 2)
        return True

    def action_move(self, lines: int) -> None:
        """Scroll by lines."""
        self._go(self._place(self._rows()) + lines)

    def action_move_page(self, pages: int) -> None:
        """Scroll by pages."""
        self._go(self._place(self._rows()) + pages * max(self._rows() - 1, 1))

    def action_ends(self, direction: int) -> None:
        """Go to the first or the last line."""
        self._go(self._first if direction < 0 else self._came[self.source])

    def action_match(self, direction: int) -> None:
        """Go to the next line that the search is for."""
        if self.query_text:
            self._jump(self._matches, direction)

    def action_leave_search(self) -> None:
        """End the search and follow the end again."""
        self.query_text, self._match, self._top = "", None, None
        self.redraw()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave escape to others where nothing is searched."""
        return bool(self.query_text) or self._match is not None if action == "leave_search" else True

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Scroll up."""
        event.stop()
        self.action_move(-3)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Scroll down."""
        event.stop()
        self.action_move(3)
