"""Fewer bytes for the same picture: what the terminal shows already is not sent again, nor a colour that it is set to already.

Textual sends a line from its beginning up to a change, and sets every style anew. Over a slow connection that is ten times what is
needed: here each update is compared cell by cell with the picture that was sent last.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import COLOR_SYSTEMS, Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate

Cell = tuple[str, Style]  # text of the cell ("" behind a wide character) and its style
Row = list[Cell]
Codes = tuple[str, str, str]  # attributes, foreground and background as numbers of a control sequence

STEP = 4  # unchanged cells that cost less to send again than to step over
PLAIN = Style.null()
RESET: Codes = ("", "39", "49")
_ATTRIBUTES = {
    "bold": "1",
    "dim": "2",
    "italic": "3",
    "underline": "4",
    "blink": "5",
    "blink2": "6",
    "reverse": "7",
    "conceal": "8",
    "strike": "9",
    "underline2": "21",
    "overline": "53",
}


class Painter:
    """Knows the picture on the terminal and turns updates into what changes it."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._codes: dict[tuple[Style, ColorSystem], Codes] = {}

    def forget(self) -> None:
        """Take nothing for granted any more: something else has written to the terminal, or its size has changed."""
        self._rows = []

    def paint(self, update: CompositorUpdate, colours: ColorSystem) -> str | None:
        """Return the control sequences that bring an update to the terminal; None for a kind of update that Textual sends itself."""
        if isinstance(update, LayoutUpdate):
            rows = [_cells(segment for strip in line for segment in strip) for line in update.strips]
            if (update.region.x, update.region.y) != (0, 0):
                return None
            if [len(row) for row in rows] != [len(row) for row in self._rows]:
                self._rows = [[] for _ in rows]  # another size: all of it
            return self._send([(y, 0, row) for y, row in enumerate(rows)], colours)
        if isinstance(update, ChopsUpdate):
            return self._send(_spans(update), colours)
        return None

    def _send(self, pieces: Sequence[tuple[int, int, Row]], colours: ColorSystem) -> str:
        """Return what changes these pieces of lines (row, first column, cells), and keep them as what is shown."""
        out: list[str] = []
        now: Codes | None = None
        for y, x, cells in pieces:
            while len(self._rows) <= y:
                self._rows.append([])
            row = self._rows[y]
            if len(row) < x:
                row.extend([("\0", PLAIN)] * (x - len(row)))  # not known, so never equal
            for start, end in _changes(row, x, cells):
                out.append(f"\x1b[{y + 1};{x + start + 1}H")
                for text, style in cells[start:end]:
                    if not text:
                        continue
                    codes = self._codes_of(style, colours)
                    if codes != now:
                        out.append(_switch(now, codes))
                        now = codes
                    out.append(text)
            row[x : x + len(cells)] = cells
        if now is not None and now != RESET:
            out.append("\x1b[0m")
        return "".join(out)

    def _codes_of(self, style: Style, colours: ColorSystem) -> Codes:
        found = self._codes.get((style, colours))
        if found is None:
            attributes = ";".join(number for name, number in _ATTRIBUTES.items() if getattr(style, name))
            front = ";".join(style.color.downgrade(colours).get_ansi_codes(True)) if style.color else RESET[1]
            back = ";".join(style.bgcolor.downgrade(colours).get_ansi_codes(False)) if style.bgcolor else RESET[2]
            found = self._codes[style, colours] = attributes, front, back
            if len(self._codes) > 20_000:  # pictures bring colours without end
                self._codes.clear()
        return found


class Terse(CompositorUpdate):
    """An update as the painter sends it."""

    def __init__(self, update: CompositorUpdate, painter: Painter) -> None:
        self._update, self._painter = update, painter

    def render_segments(self, console: Console) -> str:
        """Return the control sequences."""
        colours = COLOR_SYSTEMS.get(console.color_system or "truecolor", ColorSystem.TRUECOLOR)
        text = self._painter.paint(self._update, colours)
        if text is None:
            self._painter.forget()
            return self._update.render_segments(console)
        return text

    def __rich_console__(self, console: Console, options: Any) -> Any:
        return self._update.__rich_console__(console, options)  # type: ignore[attr-defined]


def _switch(now: Codes | None, codes: Codes) -> str:
    """Return what takes the terminal from one style (None: not known) to another."""
    if now is None or now[0] != codes[0]:
        numbers = ["0", codes[0], *(code for code, plain in zip(codes[1:], RESET[1:], strict=True) if code != plain)]
    else:
        numbers = [code for code, before in zip(codes[1:], now[1:], strict=True) if code != before]
    return f"\x1b[{';'.join(filter(None, numbers))}m"


def _cells(segments: Iterable[Segment]) -> Row:
    """Return segments cell by cell."""
    row: Row = []
    for text, style, control in segments:
        if control:
            continue
        style = style or PLAIN
        if text.isascii():
            row += [(character, style) for character in text]
            continue
        for character in text:
            width = cell_len(character)
            if width == 0 and row:
                place = -1 if row[-1][0] else -2
                row[place] = row[place][0] + character, row[place][1]
            elif width:
                row.append((character, style))
                row += [("", style)] * (width - 1)
    return row


def _spans(update: ChopsUpdate) -> list[tuple[int, int, Row]]:
    """Return the pieces of lines that an update of parts of the screen is about."""
    pieces = []
    for y, first, last in update.spans:
        for end, (x, strip) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
            if strip is None or x >= last or end <= first:
                continue
            cells = _cells(strip)
            start, stop = max(first - x, 0), min(last, end) - x
            if 0 < start < len(cells) and not cells[start][0]:
                start -= 1  # a wide character is taken whole
            if stop < len(cells) and not cells[stop][0]:
                stop += 1
            pieces.append((y, x + start, cells[start:stop]))
    return pieces


def _changes(row: Row, x: int, cells: Row) -> list[tuple[int, int]]:
    """Return the spans [start, end) of `cells` that differ from a row's cells from x on, near ones joined, wide characters whole."""
    spans: list[tuple[int, int]] = []
    known = len(row) - x
    for place, cell in enumerate(cells):
        if place < known and row[x + place] == cell:
            continue
        start = place - 1 if place and not cell[0] else place
        if spans and start - spans[-1][1] < STEP:
            spans[-1] = spans[-1][0], place + 1
        else:
            spans.append((start, place + 1))
    return [(start, end + 1 if end < len(cells) and not cells[end][0] else end) for start, end in spans]
