"""What a run is, what came out of it and what is wrong with it: its first line, its facts, its results and its notices."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

from edc_tui.feed import View, text_line
from edc_tui.widgets.cells import Canvas, Cells, broken, cut
from edc_tui.words import short_duration, status_glyph, status_style, without_command
from engine.commands.tables import count, over_random, percent, seconds, size
from engine.runs.events import number
from engine.runs.layout import Run, tables
from engine.runs.results import base_set, result_name, set_place
from engine.runs.text import clock, printable

Part = tuple[str, str]  # text and style
LABEL = 12  # cells of a fact's name
SHOWN_LINES = 6  # of what a failed worker said last


def results_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a summary's results, student by student: the method's own evaluation first, in it condensed, random, the others."""
    found = summary.get("results")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return sorted(rows, key=lambda row: (str(row.get("student")), set_place(result_name(row))))


def fact_rows(view: View, run: Run) -> list[tuple[str, str]]:
    """Return what a run is made of and what it costs, as names and texts."""
    summary, frozen = view.summary, view.frozen
    table = tables(frozen)
    condense, dataset = table.get("condense", {}), table.get("dataset", {})
    facts = table.get("frozen", {})

    def of(name: str, section: dict[str, Any], key: str | None = None) -> Any:
        return summary.get(name, section.get(key or name))

    rows: list[tuple[str, Any]] = [("title", summary.get("title") or frozen.get("title"))]
    classes, resolution = facts.get("classes"), number(facts.get("resolution"))
    name = of("dataset", dataset, "name")
    if name is not None:
        details = [f"{len(classes)} classes"] if isinstance(classes, list) else []
        rows.append(("dataset", ", ".join([str(name), *details, *([f"{resolution:.0f}\u00a0px"] if resolution else [])])))
    rows.append(("method", of("method", condense)))
    ipc = number(of("ipc", condense))
    rows.append(("per class", None if ipc is None else f"{count(ipc, 'image')}, seed {of('seed', condense)}"))
    rows.append(("observers", _observers(summary, table.get("observers", {}))))
    device, precision = of("device", facts), of("precision", facts)
    rows.append(("device", None if device is None else f"{device} in {precision}"))
    if view.status.host:
        rows.append(("host", view.status.host))
    rows += costs(view)
    rows.append(("run", run.id))
    rows.append(("folder", str(run.folder)))
    return [(name, printable(value)) for name, value in rows if value not in (None, "")]


def _observers(summary: dict[str, Any], frozen: dict[str, Any]) -> str:
    """Name the observers, with what they reach on the test set as far as they are trained."""
    trained = summary.get("observers")
    trained = trained if isinstance(trained, dict) else {}
    names = frozen.get("synthesis")
    names = [str(name) for name in names] if isinstance(names, list) else []
    named = list(dict.fromkeys([*names, *trained]))
    values = {name: number(trained.get(name)) for name in named}
    return ", ".join(name if values[name] is None else f"{name} {values[name]:.1f}\u00a0%" for name in named)


def costs(view: View) -> list[tuple[str, str]]:
    """Return the bytes of the condensed set, the highest peak memory and the time at work."""
    rows = []
    condensed = view.summary.get("condensed")
    if isinstance(condensed, dict) and condensed:
        images = f"{count(number(condensed.get('images')) or 0, 'image')}, {size(number(condensed.get('image_bytes')) or 0)}"
        labels = number(condensed.get("label_bytes")) or 0
        text = images + (f", labels {size(labels)}" if labels else "")
        rows.append(("condensed", re.sub(r" (?=\w*B\b|images?\b)", "\u00a0", text)))  # a number stays beside its unit
    stages = view.stages.values()
    memory = max((number(facts.get("peak_memory_bytes")) or 0 for facts in stages), default=0)
    if memory:
        rows.append(("peak memory", size(memory)))
    took = sum(number(facts.get("seconds")) or 0.0 for facts in stages if facts.get("reused") is not True)
    if took:
        rows.append(("computed", seconds(took)))
    return rows


def notice_lines(view: View, *, resumable: bool) -> list[Part]:
    """Return what has to be known about a run that is not simply at work or done: why, its last words, and what to do."""
    status, reason = view.status, without_command(view.status.reason)
    lines: list[Part] = []
    if view.gone:
        return [(reason, "bad"), ("What is shown here was read before; escape goes back.", "muted")]
    if status.word in ("failed", "killed", "out-of-memory", "lost"):
        lines.append((f"{status.word}: {reason}", "bad"))
        last = view.ending.get("last_lines")
        said = [str(line) for line in last if str(line).strip()] if isinstance(last, list) else []
        words = [text_line(line.encode("utf-8", "replace")).text for line in said]
        lines += [(f"  {line}", "muted") for line in words[-SHOWN_LINES:] if line.strip().removeprefix("error: ") not in reason]
    elif status.word in ("stopped", "stalled", "queued") or status.orphaned:
        lines.append((reason, "warn"))
    elif status.word == "stopping":
        left = None if view.stop_deadline is None else max(view.stop_deadline - view.at, 0.0)
        until = "" if left is None else f"; it is killed in {left:.0f} s if it has not by then"
        lines.append((f"it writes a checkpoint and stops{until} (x: at once)", "warn"))
    if resumable:
        offer = "r starts it" if status.word == "queued" else "r goes on from the last checkpoint"
        lines.append(("r has it go on once that is written; x ends it at once" if status.orphaned else offer, "accent"))
    lines += [(f"broken file: {problem}", "warn") for problem in view.problems]
    if view.summary.get("select") == "best_on_test" and results_of(view.summary):
        lines.append(("These accuracies are the best of all measurements on the test set, which flatters.", "warn"))
    return lines


class RunHeader(Cells):
    """The run's project, id and status in one line."""

    DEFAULT_CSS = "RunHeader { height: 1; }"

    def __init__(self, run: Run, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._run = run
        self._view: View | None = None

    def show(self, view: View) -> None:
        """Show a view."""
        self._view = view
        self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw the line."""
        view = self._view
        status, gone = ("reading", False) if view is None else (view.status.word, view.gone)
        words = "its folder is gone" if gone else f"{status_glyph(status)} {status}" if view else "reading …"
        style = "bad" if gone else status_style(status) if view else "muted"
        when = "" if view is None or gone else self._when(view)
        right = cell_len(words) + (cell_len(when) + 2 if when else 0)
        x = canvas.put(0, 0, self._run.project, "strong", max(canvas.width - right - 2, 8))
        room = canvas.width - right - x - 4
        if room >= 12:
            canvas.put(x + 2, 0, cut(self._run.id, room), "muted")
        x = canvas.put(max(canvas.width - right, 0), 0, words, style + " strong")
        canvas.put(x + 2, 0, when, "muted")

    @staticmethod
    def _when(view: View) -> str:
        since = view.status.since
        if since is None:
            return ""
        if view.status.alive:
            left = view.left.run
            return f"for {short_duration(view.at - since)}{'' if left is None else f', done in about {short_duration(left)}'}"
        return f"at {clock(since, view.at)}"


class Notice(Cells):
    """What is wrong, and what to do about it; as high as its text, and not there without any."""

    DEFAULT_CSS = "Notice { height: 0; display: none; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: list[Part] = []

    def show(self, lines: Sequence[Part], most: int) -> None:
        """Show these lines, wrapped, in at most so many rows."""
        width = max(self.screen.size.width - 2, 10)
        wrapped = [
            (part, style)
            for text, style in lines
            for part in textwrap.wrap(text, width, subsequent_indent="  ", replace_whitespace=False, drop_whitespace=False)[:4]
        ]
        self._lines = wrapped if len(wrapped) <= most else [*wrapped[: most - 1], wrapped[-1]]
        if self.display != bool(self._lines):
            self.display = bool(self._lines)
        height = self.styles.height
        if height is None or height.value != len(self._lines):
            self.styles.height = len(self._lines)
        self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw the lines."""
        for y, (text, style) in enumerate(self._lines):
            canvas.put(0, y, text, style)


class ResultTable(Cells):
    """Accuracies by student and by what it was trained on."""

    DEFAULT_CSS = "ResultTable { height: 0; display: none; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._rows: list[dict[str, Any]] = []
        self._more = 0  # rows there is no room for

    def show(self, rows: list[dict[str, Any]], most: int) -> None:
        """Show results in at most so many rows; none hides the table."""
        room = max(most - 1, 2)
        self._rows, self._more = (rows, 0) if len(rows) <= room else (rows[: room - 1], len(rows) - room + 1)
        height = len(self._rows) + 1 + bool(self._more) if self._rows else 0
        if self.display != bool(height):
            self.display = bool(height)
        if self.styles.height is None or self.styles.height.value != height:
            self.styles.height = height
        self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw the table."""
        student = min(max((cell_len(printable(row.get("student"))) for row in self._rows), default=7), max(canvas.width - 54, 12))
        longest = max((cell_len(printable(result_name(row))) for row in self._rows), default=10)
        trained_on = min(longest, max(canvas.width - 43 - student, 10))
        columns = [("student", student, "<"), ("trained on", max(trained_on, 10), "<"), ("top-1 %", 13, ">"), ("over random", 13, ">")]
        columns += [("top-5 %", 13, ">"), ("seeds", 5, ">")]
        while sum(width + 2 for _, width, _ in columns) - 2 > canvas.width and len(columns) > 3:
            columns.pop()
        last = None
        for y, row in enumerate([None, *self._rows]):
            cells: list[Part] = [(title, "muted") for title, _, _ in columns]
            if row is not None:
                cells, last = result_cells(row, named=row.get("student") != last), row.get("student")
            x = 0
            for (text, style), (_, width, side) in zip(cells, columns, strict=False):
                text = cut(text, width)
                canvas.put(x + (width - cell_len(text) if side == ">" else 0), y, text, style)
                x += width + 2
        if self._more:
            canvas.put(0, len(self._rows) + 1, f"… and {self._more} more, which `edc show` prints", "muted")


def result_cells(row: dict[str, Any], *, named: bool) -> list[Part]:
    """Return a result as the cells of the table: student, set, top-1, difference to random images, top-5, seeds."""
    style = "strong" if row.get("set") == "condensed" else ""
    gain = over_random(row)
    seeds = row.get("seeds")
    return [
        (printable(row.get("student")) if named else "", ""),
        (printable(result_name(row)), style),
        (percent(row.get("top1")), style),
        (gain, "good" if gain.startswith("+") else "bad"),
        (percent(row.get("top5")), ""),
        (str(len(seeds)) if isinstance(seeds, list) else "", "muted"),
    ]


class Facts(Cells):
    """What a run is made of, its results so far, its costs and its folder; in two columns where there is room."""

    def __init__(self, run: Run, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._run = run
        self._facts: list[tuple[str, str]] = []
        self._results: list[dict[str, Any]] = []

    def show(self, view: View, *, with_results: bool) -> None:
        """Show a view's facts, and its results if nothing else does."""
        self._facts = fact_rows(view, self._run)
        # What there is room for while the run goes on: the method's own evaluation.
        results = results_of(view.summary) if with_results else []
        self._results = [row for row in results if (name := result_name(row)) == base_set(name)]
        self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw results and facts."""
        two = canvas.width >= 76
        width = (canvas.width - 3) // 2 if two else canvas.width
        results = self._draw_results(canvas, width)
        y, x = (0, width + 3) if two and results else (results + bool(results), 0)
        for name, value in self._facts:
            lines = broken(value, max(width - LABEL, 8)) if name == "folder" else wrapped(value, width - LABEL)
            canvas.put(x, y, name, "muted")
            for line in lines:
                canvas.put(x + LABEL, y, line, "", width - LABEL)
                y += 1
            if two and not results and y >= canvas.height - 1 and x == 0:
                x, y = width + 3, 0

    def _draw_results(self, canvas: Canvas, width: int) -> int:
        """Draw the results so far at the left or the top, and return the rows they take."""
        if not self._results:
            return 0
        canvas.put(0, 0, "top-1 % so far", "muted")
        y, last = 1, None
        for row in self._results:
            if row.get("student") != last:
                last = row.get("student")
                canvas.put(0, y, printable(last), "strong", width)
                y += 1
            _, (name, _), (top1, style), (gain, gain_style), _, (seeds, _) = result_cells(row, named=False)
            x = canvas.put(LABEL, y, f"{top1:<13}", style, max(width - LABEL, 0))
            canvas.put(1, y, name)
            canvas.put(x, y, count(int(seeds), "seed") if seeds else "", "muted", max(width - x, 0))
            y += 1
            if gain:
                canvas.put(1, y, "difference")
                canvas.put(LABEL, y, gain, gain_style, max(width - LABEL, 0))
                y += 1
        return y


def wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines of at most so many cells, broken after commas and blanks."""
    return textwrap.wrap(text, max(width, 8), break_on_hyphens=False) or [""]
