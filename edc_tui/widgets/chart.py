"""A line chart in braille dots that sends only the cells that change.

The mathematics is in the functions (`smooth`, `reduce`, `Raster`) and in `scales`; the widget lays out and listens.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from rich.cells import cell_len
from textual import events
from textual.binding import Binding

from edc_tui.curves import Series
from edc_tui.keys import bindings
from edc_tui.widgets.cells import BLANK, Canvas, Cells
from edc_tui.widgets.scales import (
    Scale,
    fit,
    fit_seconds,
    fit_steps,
    number_text,
    tick_text,
    ticks,
    time_text,
    time_ticks,
)

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bit of a braille cell by column and row of the dot
COLOURS = ("$text-primary", "$text-warning", "$text-success", "$text-error", "$text-secondary", "$foreground")
SLOTS = len(COLOURS)  # lines that differ in colour, dash and marker; more go on further pages
MARKERS = "●■▲◆○□"
DASHES = ((1,), (1, 1, 1, 1, 1, 0, 0), (1, 0), (1, 1, 1, 1, 0, 0, 1, 0, 0), (1, 1, 0, 0), (1, 1, 1, 0))  # by pixel column, on or off
MARKER_EVERY = 24  # cells between two markers on a line, where there is more than one line
SMOOTHING = {"off": 0, "light": 1, "strong": 4}  # how much more than lightly
SMOOTHED_FROM = 32  # points that a line has before it is smoothed
GUTTER = 7  # cells at the left for the ticks of the y axis
ENTRY_VALUE = 8  # cells of a value in the legend
BAD_MARK = "×"


@dataclass(frozen=True)
class Line:
    """A curve to draw: its name in the legend and its points."""

    name: str
    series: Series


@dataclass(slots=True)
class Column:
    """What a series does in one pixel column: the range of its raw values, the value of the drawn line, and whether any was not finite."""

    pixel: int
    low: float
    high: float
    value: float
    bad: bool


def ema_span(points: int, smoothing: str) -> int:
    """Return over how many points to average: a power of two, so that it changes seldom while points come in.

    Lightly is over the square root of their number, of very many over a 64th part of them.
    """
    span = max(math.sqrt(points), points / 64) * SMOOTHING[smoothing]
    return 1 if points < SMOOTHED_FROM or span < 2 else 1 << int(math.log2(span))


def smooth(series: Series, span: int) -> Iterator[float]:
    """Yield for each bucket the exponential moving average of its points, weight 2 / (span + 1) a point, without the bias of its start."""
    if span <= 1:
        yield from map(series.mean, range(len(series)))
        return
    keep = 1 - 2 / (span + 1)
    kept_by = {count: keep**count for count in set(series.finite)}
    average, weight = 0.0, 0.0
    for count, total in zip(series.finite, series.sum, strict=True):
        if count:
            kept = kept_by[count]
            average = kept * average + (1 - kept) * total / count
            weight = kept * weight + 1 - kept
            yield average / weight
        else:
            yield math.nan


def reduce(series: Series, scale: Scale, pixels: int, *, span: int = 1, by_time: bool = False) -> list[Column]:
    """Return the series by pixel column: the lowest and highest raw value in it, and the smoothed value at its end."""
    columns: list[Column] = []
    last: Column | None = None
    places = series.time if by_time else series.last
    start, factor = scale.low, (pixels - 1) / (scale.high - scale.low)
    for place, low, high, bad, value in zip(places, series.low, series.high, series.bad, smooth(series, span), strict=True):
        pixel = min(max(round((place - start) * factor), 0), pixels - 1)
        if last is None or pixel != last.pixel:
            last = Column(pixel, low, high, value, bad > 0)
            columns.append(last)
            continue
        if low < last.low:
            last.low = low
        if high > last.high:
            last.high = high
        if bad:
            last.bad = True
        if value == value:
            last.value = value
    return columns


class Raster:
    """Braille dots on a grid of cells, each cell of one owner (the first that sets a dot there)."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.bits: dict[tuple[int, int], int] = {}
        self.owner: dict[tuple[int, int], int] = {}

    def dot(self, x: int, y: int, owner: int) -> None:
        """Set the dot at pixel (x, y), counted from the top left; what lies outside is left out."""
        cell = x // 2, y // 4
        if 0 <= cell[0] < self.width and 0 <= cell[1] < self.height:
            self.bits[cell] = self.bits.get(cell, 0) | DOTS[x % 2][y % 4]
            self.owner.setdefault(cell, owner)

    def line(self, start: tuple[int, int], end: tuple[int, int], owner: int, on: Callable[[int], object] = lambda x: True) -> None:
        """Draw a straight line between two pixels, in the columns for which `on(x)` holds."""
        (x0, y0), (x1, y1) = start, end
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(steps + 1):
            x = x0 + round((x1 - x0) * step / steps)
            if on(x):
                self.dot(x, y0 + round((y1 - y0) * step / steps), owner)


def line_colours(widget: str) -> str:
    """Return the style sheet of a widget's `line-SLOT` styles, alike wherever a line is named."""
    return "\n".join(f"{widget} > .cells--line-{slot} {{ color: {colour}; }}" for slot, colour in enumerate(COLOURS))


class Chart(Cells, can_focus=True):
    """Up to six lines at a time over steps or time, raw range and smoothed line, with a legend and a point to inspect."""

    BINDINGS: list[Binding] = bindings("chart")
    COMPONENT_CLASSES = {f"cells--{kind}-{slot}" for kind in ("line", "raw") for slot in range(SLOTS)}
    DEFAULT_CSS = """
    Chart { min-height: 4; min-width: 20; }
    Chart:focus { background-tint: $foreground 4%; }
    Chart > .cells--raw-0 { color: $primary-muted; }
    Chart > .cells--raw-1 { color: $warning-muted; }
    Chart > .cells--raw-2 { color: $success-muted; }
    Chart > .cells--raw-3 { color: $error-muted; }
    Chart > .cells--raw-4 { color: $secondary-muted; }
    Chart > .cells--raw-5 { color: $foreground-muted; }
    Chart:ansi > .cells--raw-0 { color: $primary; text-style: dim; }
    Chart:ansi > .cells--raw-1 { color: $warning; text-style: dim; }
    Chart:ansi > .cells--raw-2 { color: $success; text-style: dim; }
    Chart:ansi > .cells--raw-3 { color: $error; text-style: dim; }
    Chart:ansi > .cells--raw-4 { color: $secondary; text-style: dim; }
    Chart:ansi > .cells--raw-5 { color: ansi_default; text-style: dim; }
    """ + line_colours("Chart")

    def __init__(self, *, id: str | None = None, guard: AbstractContextManager | None = None) -> None:
        """`guard` is held while series are read, for those that another thread appends to."""
        super().__init__(id=id)
        self.title, self.unit, self.top = "", "", None
        self.lines: tuple[Line, ...] = ()
        self.limit: float | None = None
        self.ended = False
        self.note = ""
        self.empty = ""
        self.x_name = "steps"
        self.log_scale, self.by_time, self.smoothing = False, False, "light"
        self.cursor: float | None = None
        self._guard = guard or contextlib.nullcontext()
        self._page: int | None = None
        self._told: tuple[object, ...] = ()
        self._x = Scale(0.0, 1.0)
        self._y: Scale | None = None
        self._plot = (0, 0)  # left edge and width of the plot in cells

    def show(
        self,
        title: str,
        lines: Sequence[Line],
        *,
        unit: str = "",
        top: float | None = None,
        x_name: str = "steps",
        limit: float | None = None,
        ended: bool = False,
        note: str = "",
        empty: str = "",
    ) -> None:
        """Draw these lines from now on.

        `top` is what no value exceeds, `limit` how many steps there will be, `ended` that no more points come, `note` stands at the
        right of the title, `empty` in place of a chart without points.
        """
        told = title, tuple(lines), unit, top, x_name, limit, ended, note, empty, tuple(line.series.version for line in lines)
        if told == self._told:
            return
        self._told = told
        if title != self.title:
            self._y, self._page, self.cursor = None, None, None
        self.title, self.lines, self.unit, self.top, self.x_name = title, tuple(lines), unit, top, x_name
        self.limit, self.ended, self.note, self.empty = limit, ended, note, empty
        self.redraw()

    def configure(self, *, smoothing: str | None = None, log: bool | None = None, by_time: bool | None = None) -> None:
        """Change how the lines are drawn."""
        before = self.smoothing, self.log_scale, self.by_time
        if by_time is not None and by_time != self.by_time:
            self.cursor = None
        self.smoothing = self.smoothing if smoothing is None else smoothing
        self.log_scale = self.log_scale if log is None else log
        self.by_time = self.by_time if by_time is None else by_time
        if before != (self.smoothing, self.log_scale, self.by_time):
            self.redraw()

    @property
    def pages(self) -> int:
        """Return over how many pages the lines go."""
        return max(-(-len(self.lines) // SLOTS), 1)

    @property
    def page(self) -> int:
        """Return the page shown: the one chosen, else while points come in the last that has any, else the first."""
        if self._page is not None or self.ended:
            return min(self._page or 0, self.pages - 1)
        return max((index // SLOTS for index, line in enumerate(self.lines) if len(line.series)), default=0)

    def draw(self, canvas: Canvas) -> None:
        """Draw legend, axes and lines."""
        with self._guard:
            shown = list(enumerate(self.lines))[self.page * SLOTS : (self.page + 1) * SLOTS]
            width = canvas.width - GUTTER
            self._plot = GUTTER, max(width, 0)
            series = [line.series for _, line in shown if len(line.series)]
            if series:
                self._set_scales(series)
            drawn = {index % SLOTS: self._columns(line, width * 2) for index, line in shown if width >= 4}
            top = self._draw_legend(canvas, [(index % SLOTS, line) for index, line in shown], drawn)
            rows = canvas.height - top - 1
            if rows < 1 or width < 4:
                return
            if not series:
                canvas.put(GUTTER, top + rows // 2, self.empty, "muted")
                return
            self._draw_axes(canvas, top, rows)
            if self._y is not None:
                self._draw_lines(canvas, top, rows, {index % SLOTS: self._span(line) for index, line in shown}, drawn)

    def _set_scales(self, series: list[Series]) -> None:
        last = max(one.time[-1] if self.by_time else one.last[-1] for one in series)
        self._x = fit_seconds(last, ended=self.ended) if self.by_time else fit_steps(last, last if self.ended else self.limit)
        low, high = min(min(one.low) for one in series), max(max(one.high) for one in series)
        if self.log_scale and low <= 0:
            low = min((value for one in series for value in one.low if value > 0), default=math.inf)
        drawable = math.isfinite(low) and math.isfinite(high) and low <= high
        self._y = fit(low, high, log=self.log_scale, before=self._y, top=self.top) if drawable else None

    def _draw_axes(self, canvas: Canvas, top: int, rows: int) -> None:
        left, width = self._plot
        for y in range(rows):
            canvas.put(left - 1, top + y, "│", "muted")
        free = [True] * rows
        for tick in reversed(ticks(self._y, max((rows - 1) // 2, 1)) if self._y else []):
            y = rows - 1 - (self._y.pixel(tick, rows) or 0)
            if free[y]:
                free[max(y - 1, 0) : y + 2] = [False] * len(free[max(y - 1, 0) : y + 2])
                text = tick_text(tick) + self.unit
                canvas.put(left - 1 - len(text), top + y, text, "muted")
                canvas.put(left - 1, top + y, "┤", "muted")
        y, taken = top + rows, left - 2
        name = "at work" if self.by_time else self.x_name
        room = canvas.width - len(name) - 1
        values = (time_ticks if self.by_time else ticks)(self._x, max(width // 12, 1))
        for tick in values:
            text = time_text(tick) if self.by_time else tick_text(tick)
            x = left + (self._x.pixel(tick, width * 2) or 0) // 2
            x = max(min(x - len(text) // 2, canvas.width - len(text)), left)
            if x > taken + 1 and x + len(text) <= room:
                taken = canvas.put(x, y, text, "muted")
        canvas.put(canvas.width - len(name), y, name, "muted")

    def _columns(self, line: Line, pixels: int) -> list[Column]:
        return reduce(line.series, self._x, pixels, span=self._span(line), by_time=self.by_time) if len(line.series) else []

    def _draw_lines(self, canvas: Canvas, top: int, rows: int, spans: dict[int, int], drawn: dict[int, list[Column]]) -> None:
        left, width = self._plot
        raw, lines = Raster(width, rows), Raster(width, rows)
        marks: list[tuple[int, int, str, str]] = []
        for slot, columns in drawn.items():
            if spans[slot] > 1:
                self._draw_range(raw, columns, slot)
            path = self._draw_line(lines, columns, slot, with_range=spans[slot] == 1)
            marks += self._markers(path, slot, several=len(drawn) > 1)
            marks += [(column.pixel // 2, 0, BAD_MARK, "bad") for column in columns if column.bad]
        for raster, kind in ((raw, "raw"), (lines, "line")):
            for (x, y), bits in raster.bits.items():
                canvas.rows[top + y][left + x] = chr(0x2800 + bits), f"{kind}-{raster.owner[x, y]}"
        for x, y, mark, style in marks:
            canvas.rows[top + y][left + x] = mark, style
        x = self._cursor_cell()
        if x is not None:
            for y in range(rows):
                if canvas.rows[top + y][left + x] == BLANK:
                    canvas.put(left + x, top + y, "│", "accent")

    def _span(self, line: Line) -> int:
        """Return over how many points a line is averaged; accuracies, few and measured with care, never are."""
        return 1 if self.unit else ema_span(line.series.points, self.smoothing)

    def _draw_range(self, raster: Raster, columns: list[Column], slot: int) -> None:
        """Stipple the range of the raw values, every other dot, so that it is told from a line without colours too."""
        for column in columns:
            low, high = self._pixel(column.low, raster), self._pixel(column.high, raster)
            if low is not None and high is not None:
                for y in range(high + (column.pixel + high) % 2, low + 1, 2):
                    raster.dot(column.pixel, y, slot)

    def _draw_line(self, raster: Raster, columns: list[Column], slot: int, *, with_range: bool) -> dict[int, int]:
        """Draw a line, with gaps where values are not finite, and return the cell rows that it passes by cell column."""
        dash = DASHES[slot]
        before: tuple[int, int] | None = None
        path: dict[int, int] = {}
        for column in columns:
            y = self._pixel(column.value, raster)
            if y is None:
                before = None
                continue
            here = column.pixel, y
            raster.line(before or here, here, slot, lambda x: dash[x % len(dash)])
            if with_range and column.low < column.high:
                ends = self._pixel(column.low, raster), self._pixel(column.high, raster)
                raster.line((column.pixel, ends[0] or y), (column.pixel, ends[1] or y), slot, lambda x: dash[x % len(dash)])
            for x in range((before or here)[0] // 2, column.pixel // 2 + 1):
                path[x] = self._between(before or here, here, x) // 4
            before = None if column.bad else here
        return path

    @staticmethod
    def _between(start: tuple[int, int], end: tuple[int, int], cell: int) -> int:
        if start[0] == end[0]:
            return end[1]
        part = min(max((cell * 2 - start[0]) / (end[0] - start[0]), 0.0), 1.0)
        return round(start[1] + part * (end[1] - start[1]))

    def _pixel(self, value: float, raster: Raster) -> int | None:
        pixels = raster.height * 4
        place = self._y.pixel(value, pixels) if self._y is not None and math.isfinite(value) else None
        return None if place is None else pixels - 1 - place

    @staticmethod
    def _markers(path: dict[int, int], slot: int, *, several: bool) -> list[tuple[int, int, str, str]]:
        """Return the cells of a line's markers: its end, and at fixed places along it where there are other lines."""
        if not path:
            return []
        places = {max(path)}
        if several:
            places |= {x for x in path if x % MARKER_EVERY == (slot + 2) % SLOTS * MARKER_EVERY // SLOTS}
        return [(x, path[x], MARKERS[slot], f"line-{slot}") for x in places]

    def _draw_legend(self, canvas: Canvas, shown: list[tuple[int, Line]], drawn: dict[int, list[Column]]) -> int:
        """Draw the title and what each line is and has come to; return the first row below."""
        notes = self._notes()
        right = canvas.width - cell_len(notes)
        x, y, rows = canvas.put(0, 0, self.title, "strong"), 0, 1 if canvas.height < 9 else max(canvas.height // 4, 2)
        if right > x:
            canvas.put(right, 0, notes, "muted")
        shown = [(slot, line) for slot, line in shown if len(line.series)]
        for place, (slot, line) in enumerate(shown):
            parts = self._entry(slot, line, drawn.get(slot, []))
            width = sum(cell_len(text) for text, _ in parts) + 2
            more = 4 if y + 1 >= rows and place < len(shown) - 1 else 0  # cells to say how many are left out
            if x + width + more > (right if y == 0 else canvas.width) and x > 2:
                if y + 1 >= rows:
                    canvas.put(x + 2, y, f"+{len(shown) - place}", "muted")
                    break
                x, y = -2, y + 1
            x = canvas.parts(x + 2, y, parts)
        return y + 1

    def _notes(self) -> str:
        parts = [self.note] if self.note else []
        if self.pages > 1:
            parts.append(f"lines {self.page * SLOTS + 1}-{min((self.page + 1) * SLOTS, len(self.lines))} of {len(self.lines)}")
        if self.cursor is not None:
            parts.append("at " + (time_text(self.cursor) if self.by_time else f"{self.cursor:,.0f}"))
        elif self.lines and (span := max(map(self._span, self.lines))) > 1:
            parts.append(f"mean of {span:,}")
        if self.log_scale:
            parts.append("log")
        return "  " + " · ".join(parts) if parts else ""

    def _entry(self, slot: int, line: Line, columns: list[Column]) -> list[tuple[str, str]]:
        """Return a line's part of the legend: marker, name, and its raw value at the cursor, else where the drawn line has come to."""
        series, style = line.series, f"line-{slot}"
        name = [] if line.name == self.title else [(f" {line.name}", "")]
        value = ""
        if self.cursor is not None:
            value = self.value_at(line)
        elif series.latest is not None and columns:
            finite = math.isfinite(series.latest) and math.isfinite(columns[-1].value)
            value = self._value_text(columns[-1].value if finite else series.latest)
        diverged = series.diverged
        if diverged is not None and self.cursor is None and not math.isfinite(series.latest or 0.0):
            return [(MARKERS[slot], style), *name, (f" diverged at {diverged:,}", "bad")]
        entry = [(MARKERS[slot], style), *name, (f" {value:<{6 if self.unit else ENTRY_VALUE}}", style)]
        return entry if diverged is None else [*entry, (f" diverged at {diverged:,}", "bad")]

    def value_at(self, line: Line) -> str:
        """Say what a line's raw value is at the cursor: a number, a range where a place stands for several points, or nothing."""
        index = line.series.nearest(self.cursor or 0.0, self.by_time)
        if index is None:
            return ""
        series = line.series
        if not series.finite[index]:
            return "nan"
        if series.low[index] == series.high[index]:
            return self._value_text(series.low[index])
        return f"{self._value_text(series.low[index])}-{self._value_text(series.high[index])}"

    def _value_text(self, value: float) -> str:
        return f"{value:.2f}{self.unit}" if self.unit and math.isfinite(value) else number_text(value)

    def _cursor_cell(self) -> int | None:
        if self.cursor is None:
            return None
        return (self._x.pixel(self.cursor, self._plot[1] * 2) or 0) // 2

    def _put_cursor(self, cell: int) -> None:
        """Bring the cursor to a cell column of the plot."""
        width = self._plot[1]
        if not width or not any(len(line.series) for line in self.lines):
            return
        cell = min(max(cell, 0), width - 1)
        last = max(line.series.time[-1] if self.by_time else line.series.last[-1] for line in self.lines if len(line.series))
        self.cursor = min(self._x.value((cell * 2 + 0.5) / (width * 2 - 1)), last)
        if not self.by_time:
            self.cursor = float(round(self.cursor))
        self.refresh_bindings()
        self.redraw()

    def action_inspect(self, cells: int) -> None:
        """Move the point that is inspected; the first time it stands at the end of the lines."""
        cell = self._cursor_cell()
        self._put_cursor(self._plot[1] - 1 if cell is None else cell + cells)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave the key to the screen where no point is inspected."""
        return self.cursor is not None if action == "leave_point" else True

    def action_leave_point(self) -> None:
        """Inspect no point any more."""
        self.cursor = None
        self.refresh_bindings()
        self.redraw()

    def action_page(self, step: int) -> None:
        """Show the next or previous six lines."""
        if self.pages > 1:
            self._page = (self.page + step) % self.pages
            self._y = None
            self.redraw()

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Inspect the point that was clicked."""
        self._follow_mouse(event)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Follow the mouse while its button is held."""
        if event.button:
            self._follow_mouse(event)

    def _follow_mouse(self, event: events.MouseEvent) -> None:
        offset = event.get_content_offset(self)
        if offset is not None and offset.x >= self._plot[0]:
            self._put_cursor(offset.x - self._plot[0])
