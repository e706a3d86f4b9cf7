"""Widgets drawn cell by cell that send the terminal only the cells that have changed."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from engine.runs.text import printable

GAP = 6  # unchanged cells between two changes that cost less to send than to step over
Cell = tuple[str, str]  # text of the cell ("" behind a wide character) and the name of its style
BLANK: Cell = (" ", "")


class Canvas:
    """A grid of cells to draw on; what lies outside is cut off, wide characters take two cells."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = max(width, 0), max(height, 0)
        self.rows: list[list[Cell]] = [[BLANK] * self.width for _ in range(self.height)]

    def put(self, x: int, y: int, text: str, style: str = "", limit: int | None = None) -> int:
        """Write text, made printable, from (x, y) over at most `limit` cells, ending in an ellipsis if cut; return the next x."""
        end = self.width if limit is None else min(x + limit, self.width)
        text = printable_cells(text)
        if x + cell_len(text) > end:
            text = cut(text, end - x)
        if not 0 <= y < self.height or x < 0:
            return x
        row = self.rows[y]
        for character in text:
            width = cell_len(character)
            if width == 0:
                if x > 0 and row[x - 1][0]:
                    row[x - 1] = row[x - 1][0] + character, row[x - 1][1]
                continue
            row[x] = character, style
            if width == 2:
                row[x + 1] = "", style
            x += width
        return x

    def parts(self, x: int, y: int, parts: Sequence[tuple[str, str]]) -> int:
        """Write (text, style) pairs one behind the other; return the next x."""
        for text, style in parts:
            x = self.put(x, y, text, style)
        return x


def printable_cells(text: str) -> str:
    """Return text made printable with its blanks kept, which `printable` strips at both ends."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if character == " " else printable(character) or " " for character in text)


def cut(text: str, cells: int) -> str:
    """Return text that takes at most so many cells, ending in an ellipsis where something is missing."""
    if cell_len(text) <= cells:
        return text
    if cells <= 0:
        return ""
    line = Text(text)
    line.truncate(cells, overflow="ellipsis")
    return line.plain


def draw_scroll(canvas: Canvas, *, below: int, page: int, top: int, lines: int) -> None:
    """Draw at the right edge, `below` so many rows, which `page` of all lines is in sight from line `top` on."""
    long = max(round(page * page / lines), 1)
    start = round((page - long) * top / max(lines - page, 1))
    for y in range(page):
        inside = start <= y < start + long
        canvas.put(canvas.width - 1, y + below, "┃" if inside else "│", "accent" if inside else "muted")


def wrapped(text: str, cells: int) -> list[str]:
    """Return text in lines of at most so many cells, broken at blanks; a longer word keeps a line for itself."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and cell_len(line) + 1 + cell_len(word) > cells:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def broken(text: str, cells: int) -> list[str]:
    """Return text in lines of at most so many cells (two at least), broken anywhere, as a path may be."""
    lines, width = [""], 0
    for character in text:
        width += cell_len(character)
        if width > cells:
            lines.append("")
            width = cell_len(character)
        lines[-1] += character
    return lines


def changes(old: Sequence[Cell], new: Sequence[Cell]) -> list[tuple[int, int]]:
    """Return the spans [start, end) of a row's cells that differ, near ones joined, wide characters whole."""
    spans: list[tuple[int, int]] = []
    for x, (before, after) in enumerate(zip(old, new, strict=True)):
        if before != after:
            if spans and x - spans[-1][1] < GAP:
                spans[-1] = spans[-1][0], x + 1
            else:
                spans.append((x, x + 1))
    return [(start - 1 if start and "" in (old[start][0], new[start][0]) else start, end) for start, end in spans]


class Cells(Widget):
    """A widget whose picture `draw` makes; `redraw` compares it with the last one and refreshes what differs.

    Style names are those of component classes `cells--NAME`; more than one may be given, separated by blanks.
    """

    COMPONENT_CLASSES = {
        "cells--muted",
        "cells--strong",
        "cells--good",
        "cells--warn",
        "cells--bad",
        "cells--accent",
        "cells--cursor",
    }
    DEFAULT_CSS = """
    Cells { height: 1fr; }
    Cells > .cells--muted { color: $text-muted; }
    Cells > .cells--strong { text-style: bold; }
    Cells > .cells--good { color: $text-success; }
    Cells > .cells--warn { color: $text-warning; }
    Cells > .cells--bad { color: $text-error; text-style: bold; }
    Cells > .cells--accent { color: $text-accent; }
    Cells > .cells--cursor { text-style: reverse; }
    Cells:ansi > .cells--muted { color: ansi_default; text-style: dim; }
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._canvas = Canvas(0, 0)
        self._styles: dict[str, Style] = {}

    def draw(self, canvas: Canvas) -> None:
        """Draw the whole content; subclasses know how."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Draw anew and refresh the cells that have changed."""
        size = self.content_size
        if not self.is_mounted or not size:
            return
        before, now = self._canvas, Canvas(size.width, size.height)
        self.draw(now)
        self._canvas = now
        if (before.width, before.height) != (now.width, now.height):
            self.refresh()
            return
        regions = [
            Region(start, y, end - start, 1)
            for y, (old, new) in enumerate(zip(before.rows, now.rows, strict=True))
            if old != new
            for start, end in changes(old, new)
        ]
        if regions:
            self.refresh(*regions)

    def notify_style_update(self) -> None:
        """Forget the colours of the theme before."""
        self._styles = {}
        super().notify_style_update()

    def on_resize(self) -> None:
        """Draw for the new size."""
        self.redraw()

    def render_line(self, y: int) -> Strip:
        """Return one line of the picture."""
        width = self.content_size.width
        if self._canvas.width != width or self._canvas.height != self.content_size.height:
            self._canvas = Canvas(width, self.content_size.height)
            self.draw(self._canvas)
        if not 0 <= y < self._canvas.height:
            return Strip.blank(width)
        segments: list[Segment] = []
        text, style = "", None
        for character, name in self._canvas.rows[y]:
            if name != style:
                if text:
                    segments.append(Segment(text, self._style(style or "")))
                text, style = "", name
            text += character
        if text:
            segments.append(Segment(text, self._style(style or "")))
        return Strip(segments, width)

    def _style(self, names: str) -> Style:
        style = self._styles.get(names)
        if style is None:
            style = self.rich_style
            for name in names.split():
                style += self._component(f"cells--{name}")
            self._styles[names] = style
        return style

    def _component(self, name: str) -> Style:
        """Return what a component class itself sets, its colours as they are on this widget's background."""
        own, resolved = self.get_component_rich_style(name, partial=True), self.get_component_rich_style(name)
        color = resolved.color if own.color is not None else None
        background = resolved.bgcolor if own.bgcolor is not None else None
        return own.without_color + Style(color=color, bgcolor=background)
