"""A list of lines under column titles; what changes in it costs the terminal only the cells that differ."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from textual import events
from textual.message import Message

from edc_tui.keys import bindings
from edc_tui.widgets.cells import Canvas, Cells, cut, draw_scroll


@dataclass(frozen=True)
class Column:
    """A column: its title, its width in cells, and which columns go first where there is no room (the highest `drop`; 0 never goes).

    A column with a `drop` is also left out while it holds no text. One with `grow` takes what is left over, up to its longest text.
    `sort` is what a click on the title asks for.
    """

    title: str
    width: int
    right: bool = False
    drop: int = 0
    grow: bool = False
    sort: str = ""


@dataclass(frozen=True)
class Row:
    """A line: a key that stays the same while the line moves, and its cells as (text, style)."""

    key: str
    cells: tuple[tuple[str, str], ...] = field(default=())


class Rows(Cells, can_focus=True):
    """Shows rows, one of them under the cursor; the cursor keeps to its row's key, wherever that row goes."""

    BINDINGS = bindings("rows")
    COMPONENT_CLASSES = {"cells--pale"}
    DEFAULT_CSS = """
    Rows > .cells--cursor { background: $primary 40%; text-style: bold; }
    Rows > .cells--pale { background: $foreground 10%; }
    Rows:ansi > .cells--cursor { background: ansi_default; text-style: reverse; }
    Rows:ansi > .cells--pale { background: ansi_default; text-style: bold; }
    """

    class Moved(Message):
        """The cursor is on another row, or there is none."""

    class Opened(Message):
        """The row under the cursor was double-clicked."""

    class Clicked(Message):
        """A row was clicked, in this column."""

        def __init__(self, key: str, column: int) -> None:
            self.key, self.column = key, column
            super().__init__()

    class TitleClicked(Message):
        """The title of a column was clicked that says how to sort by it."""

        def __init__(self, sort: str) -> None:
            self.sort = sort
            super().__init__()

    def __init__(self, columns: Sequence[Column], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.rows: list[Row] = []
        self.cursor = 0
        self.top = 0
        self._key: str | None = None
        self._longest = [0] * len(self.columns)

    @property
    def cursor_key(self) -> str | None:
        """The key of the row under the cursor."""
        return self._key

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows; the cursor stays on its row, or near where that was."""
        self.rows = list(rows)
        self._longest = [max((cell_len(row.cells[index][0]) for row in self.rows), default=0) for index in range(len(self.columns))]
        place = next((index for index, row in enumerate(self.rows) if row.key == self._key), None)
        self._place(self.cursor if place is None else place, force=place is None)
        self.redraw()

    def select(self, key: str) -> None:
        """Put the cursor on a row, if it is there."""
        for index, row in enumerate(self.rows):
            if row.key == key:
                self._place(index)
                self.redraw()

    def layout_columns(self, width: int) -> list[tuple[int, int, int]]:
        """Return (column, x, width) of the columns that fit into a width in cells, with one blank between them."""
        shown = [index for index, column in enumerate(self.columns) if self._longest[index] or not column.drop]
        while sum(self.columns[index].width + 1 for index in shown) - 1 > width:
            index = max(shown, key=lambda index: self.columns[index].drop)
            if not self.columns[index].drop:
                break
            shown.remove(index)
        spare = max(width - sum(self.columns[index].width + 1 for index in shown) + 1, 0)
        placed, x = [], 0
        for index in shown:
            column = self.columns[index]
            room = column.width
            if column.grow and spare:
                more = min(max(self._longest[index] - room, 0), spare)
                room, spare = room + more, spare - more
            placed.append((index, x, min(room, max(width - x, 0))))
            x += room + 1
        return placed

    def draw(self, canvas: Canvas) -> None:
        """Draw the titles, the rows in sight, and at the right edge how far down they are."""
        page = max(canvas.height - 1, 1)
        self.top = min(max(self.top, self.cursor - page + 1), self.cursor, max(len(self.rows) - page, 0))
        scrolls = len(self.rows) > page
        columns = self.layout_columns(canvas.width - (2 if scrolls else 0))
        for index, x, width in columns:
            column = self.columns[index]
            title = cut(column.title, width)
            canvas.put(x + (width - cell_len(title) if column.right else 0), 0, title, "muted")
        for y, row in enumerate(self.rows[self.top : self.top + page], start=1):
            on_cursor = self.top + y - 1 == self.cursor
            mark = ("cursor" if self.has_focus else "pale") if on_cursor else ""
            if mark:
                canvas.put(0, y, " " * (canvas.width - (2 if scrolls else 0)), mark)
            for index, x, width in columns:
                text, style = row.cells[index]
                text = cut(text, width)
                offset = width - cell_len(text) if self.columns[index].right else 0
                style = style.replace("muted", "") if mark else style  # faint on the cursor's colour is hard to read
                canvas.put(x + max(offset, 0), y, text, f"{style} {mark}".strip(), width)
        if scrolls:
            draw_scroll(canvas, below=1, page=page, top=self.top, lines=len(self.rows))

    def _place(self, index: int, force: bool = False) -> None:
        """Move the cursor, as far as there are rows, and say so when it is on another row."""
        self.cursor = min(max(index, 0), max(len(self.rows) - 1, 0))
        key = self.rows[self.cursor].key if self.rows else None
        if key != self._key or force:
            self._key = key
            self.post_message(self.Moved())

    def action_move(self, by: int) -> None:
        """Move the cursor by so many rows."""
        self._place(self.cursor + by)
        self.redraw()

    def action_page(self, by: int) -> None:
        """Move the cursor by pages."""
        self.action_move(by * max(self.content_size.height - 2, 1))

    def action_edge(self, last: bool) -> None:
        """Move the cursor to the first or the last row."""
        self._place(len(self.rows) if last else 0)
        self.redraw()

    def on_focus(self) -> None:
        """Show the cursor as in use."""
        self.redraw()

    def on_blur(self) -> None:
        """Show the cursor as at rest."""
        self.redraw()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Go three rows down."""
        event.stop()
        self.action_move(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Go three rows up."""
        event.stop()
        self.action_move(-3)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where one clicks, open on a double click, sort on a title."""
        place = next((index for index, x, width in self.layout_columns(self._canvas.width) if x <= event.x <= x + width), None)
        if event.y == 0:
            if place is not None and self.columns[place].sort:
                self.post_message(self.TitleClicked(self.columns[place].sort))
            return
        index = self.top + event.y - 1
        if not 0 <= index < len(self.rows):
            return
        self.action_move(index - self.cursor)
        if event.chain == 2:
            self.post_message(self.Opened())
        elif place is not None:
            self.post_message(self.Clicked(self.rows[index].key, place))
