"""A table of runs: a column for each, the first kept in sight if it is what the others are held against, one column under the cursor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from textual import events
from textual.message import Message

from edc_tui.keys import bindings
from edc_tui.widgets.cells import Canvas, Cells, cut, draw_scroll, wrapped
from edc_tui.widgets.chart import MARKERS, SLOTS, line_colours

GAP = 2
HEAD_ROWS = 2
BELOW = 1_000_000  # more lines than there are; drawing stops at the last


@dataclass(frozen=True)
class Head:
    """What stands above a column: its label, the number of its marker, and in the second line what it is at."""

    label: str
    slot: int
    role: str = ""


@dataclass(frozen=True)
class TableLine:
    """A line: its name, the style of the name, and a cell for each column as (text, style).

    Without cells the name has all the room, and what does not fit goes on below, `hang` cells from the left.
    """

    label: str = ""
    style: str = ""
    cells: tuple[tuple[str, str], ...] = ()
    hang: int = 0


class CompareTable(Cells, can_focus=True):
    """Scrolls down by lines, sideways by columns."""

    BINDINGS = bindings("table")
    COMPONENT_CLASSES = {"cells--better", "cells--worse"} | {f"cells--line-{slot}" for slot in range(SLOTS)}
    DEFAULT_CSS = """
    CompareTable { padding: 0 1; }
    CompareTable > .cells--better { color: $text-success; }
    CompareTable > .cells--worse { color: $text-error; }
    CompareTable > .cells--cursor { background: $primary 40%; text-style: bold; }
    CompareTable:ansi > .cells--cursor { background: ansi_default; text-style: reverse; }
    """ + line_colours("CompareTable")

    class Moved(Message):
        """The cursor is on another column."""

    class Opened(Message):
        """A column was double-clicked."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.heads: tuple[Head, ...] = ()
        self.lines: tuple[TableLine, ...] = ()
        self.pinned = False
        self.focus_column = 0
        self.top = 0
        self._placed: list[tuple[int, int, int]] = []  # column, x, width
        self._sections: list[int] = []  # lines at which a section begins
        self._last_top = 0

    def show(self, heads: Sequence[Head], lines: Sequence[TableLine], *, pinned: bool) -> None:
        """Show these columns and lines; `pinned`: the first column stays where there is no room for all."""
        self.heads, self.lines, self.pinned = tuple(heads), tuple(lines), pinned
        self.focus_column = min(self.focus_column, max(len(self.heads) - 1, 0))
        self.redraw()

    def place_columns(self, width: int) -> tuple[int, list[tuple[int, int, int]]]:
        """Return the width of the names, and (column, x, width) of the columns that fit, the one under the cursor among them."""
        widths = [
            max([cell_len(head.label) + 4, cell_len(head.role) + 2, *(cell_len(line.cells[index][0]) for line in self.lines if line.cells)])
            for index, head in enumerate(self.heads)
        ]
        names = max((cell_len(line.label) for line in self.lines if line.cells), default=0)
        widest = max(widths, default=0) * (2 if self.pinned and len(widths) > 1 else 1)
        names = max(min(names, width - widest - 2 * GAP), min(names, 16))
        shown: list[int] = []
        room = width - names

        def taken(columns: Sequence[int]) -> int:
            return sum(GAP + widths[column] for column in columns)

        wanted = list(range(len(self.heads)))
        if taken(wanted) <= room:
            shown = wanted
        else:
            first = [0] if self.pinned else []
            rest = [column for column in wanted if column not in first]
            page: list[int] = []
            for column in rest:
                if page and taken([*first, *page, column]) > room:
                    if self.focus_column in page or self.focus_column in first:
                        break
                    page = []
                page.append(column)
            while page[0] != rest[0] and taken([*first, *page, page[0] - 1]) <= room:
                page.insert(0, page[0] - 1)
            shown = first + page
        placed, x = [], names
        for column in shown:
            x += GAP
            placed.append((column, x, min(widths[column], max(width - x, 0))))
            x += widths[column]
        return names, placed

    def draw(self, canvas: Canvas) -> None:
        """Draw the heads and the lines in sight, and at the right edge how far down they are."""
        page = max(canvas.height - HEAD_ROWS, 1)
        width = canvas.width - 2  # the scroll bar's room
        lines = [part for line in self.lines for part in ([line] if line.cells else _broken(line, width))]
        self._sections = [0, *(number + 1 for number, line in enumerate(lines[:-1]) if line == TableLine())]
        self._last_top = max(len(lines) - page, 0)
        self.top = min(max(self.top, 0), self._last_top)
        names, self._placed = self.place_columns(width)
        self._draw_heads(canvas, names)
        for y, line in enumerate(lines[self.top : self.top + page], start=HEAD_ROWS):
            canvas.put(0, y, line.label, line.style, names if line.cells else width)
            for column, x, room in self._placed if line.cells else ():
                text, style = line.cells[column]
                text = cut(text, room)
                canvas.put(x + room - cell_len(text), y, text, style, room)
        if len(lines) > page:
            draw_scroll(canvas, below=HEAD_ROWS, page=page, top=self.top, lines=len(lines))

    def _draw_heads(self, canvas: Canvas, names: int) -> None:
        shown = [column for column, _, _ in self._placed if column or not self.pinned]
        before, after = (shown[0] - self.pinned, len(self.heads) - 1 - shown[-1]) if shown else (0, 0)
        hidden = [text for text, count in ((f"← {before} more", before), (f"{after} more →", after)) if count]
        canvas.put(0, 0, "  ".join(hidden), "warn", names)
        for column, x, room in self._placed:
            head = self.heads[column]
            mark = "cursor" if column == self.focus_column and self.has_focus and len(self.heads) > 1 else ""
            label = cut(head.label, max(room - 4, 0))
            start = x + room - cell_len(label) - 4
            canvas.put(start, 0, MARKERS[head.slot % SLOTS], f"line-{head.slot % SLOTS}")
            canvas.put(start + 2, 0, label, f"strong {mark}".strip())
            role = cut(head.role, max(room - 2, 0))
            canvas.put(x + room - cell_len(role) - 2, 1, role, "muted")

    # What one does with it.

    def action_scroll(self, lines: int) -> None:
        """Scroll by so many lines."""
        self.top += lines
        self.redraw()

    def action_page(self, pages: int) -> None:
        """Scroll by pages."""
        self.action_scroll(pages * max(self.content_size.height - HEAD_ROWS - 1, 1))

    def action_edge(self, last: bool) -> None:
        """Go to the first or the last line."""
        self.top = BELOW if last else 0
        self.redraw()

    def action_section(self) -> None:
        """Go to where the next section begins, after the last to the first."""
        after = [start for start in self._sections if start > self.top]
        self.top = after[0] if after and self.top < self._last_top else 0
        self.redraw()

    def action_column(self, by: int) -> None:
        """Move the cursor by columns."""
        self._focus_on(self.focus_column + by)

    def _focus_on(self, column: int) -> None:
        column = min(max(column, 0), max(len(self.heads) - 1, 0))
        if column != self.focus_column:
            self.focus_column = column
            self.redraw()
            self.post_message(self.Moved())

    def on_focus(self) -> None:
        """Show the cursor."""
        self.redraw()

    def on_blur(self) -> None:
        """Hide the cursor."""
        self.redraw()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the column that was clicked; a second click opens it."""
        offset = event.get_content_offset(self)
        for column, x, room in self._placed if offset is not None else ():
            if x <= offset.x < x + room:
                self._focus_on(column)
                if event.chain == 2:
                    self.post_message(self.Opened())

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Go three lines down."""
        event.stop()
        self.action_scroll(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Go three lines up."""
        event.stop()
        self.action_scroll(-3)


def _broken(line: TableLine, width: int) -> list[TableLine]:
    """Return a line without cells in as many lines as the width asks for."""
    if cell_len(line.label) <= width:
        return [line]
    first, *rest = wrapped(line.label[line.hang :], width - line.hang)
    return [replace(line, label=line.label[: line.hang] + first), *(replace(line, label=" " * line.hang + part) for part in rest)]
