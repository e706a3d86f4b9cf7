"""The compare screen: in what runs differ, what they measured and cost, their curves laid over one another, and students by runs."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textual import events, on, work
from textual.app import ComposeResult
from textual.containers import Container
from textual.message import Message

from edc_tui.comparing import (
    ChartOf,
    CurveStore,
    Reading,
    check_target,
    heads,
    matrix_lines,
    measure_words,
    read_comparison,
    table_lines,
    write_out,
)
from edc_tui.keys import bindings
from edc_tui.screens.dialogs import Ask, Confirm
from edc_tui.screens.looking import LookingScreen
from edc_tui.widgets.cells import Canvas, Cells
from edc_tui.widgets.chart import SMOOTHING, Chart
from edc_tui.widgets.compare_table import CompareTable, TableLine
from edc_tui.widgets.keybar import KeyBar
from edc_tui.widgets.titleline import TitleLine
from engine.commands.tables import count
from engine.errors import RunError, UserError
from engine.runs.compare import Comparison
from engine.runs.layout import Run
from engine.runs.matrix import measures
from engine.runs.text import printable

if TYPE_CHECKING:
    from edc_tui.app import EdcApp
    from edc_tui.watch import RunsChanged

VIEWS = {"table": "Table", "curves": "Curves", "students": "Students"}
MOST_CHARTS = 4
TWO_ROWS, TWO_COLUMNS = 26, 110  # rows and cells from which two charts stand one above, or beside, the other
LOOK_EVERY = 2  # ticks of the app between two looks at curves


class Looked(Message):
    """A look at the runs is done."""

    def __init__(self, reading: Reading, baseline: Run | None, charts: list[ChartOf] | None, more: bool) -> None:
        self.reading, self.baseline, self.charts, self.more = reading, baseline, charts, more
        super().__init__()


class ViewStrip(Cells):
    """Names the views, the one that is open marked, and at the right what is shown in it."""

    DEFAULT_CSS = "ViewStrip { height: 1; padding: 0 1; }"

    class Chosen(Message):
        """A view was clicked."""

        def __init__(self, view: str) -> None:
            self.view = view
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self._view, self._note, self._note_style = "", "", ""
        self._places: list[tuple[int, int, str]] = []

    def show(self, view: str, note: str, style: str = "muted") -> None:
        """Mark a view as open."""
        self._view, self._note, self._note_style = view, note, style
        self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw the names."""
        self._places, x = [], 0
        for number, (view, name) in enumerate(VIEWS.items(), start=1):
            end = canvas.put(x, 0, f" {number} {name} ", "cursor" if view == self._view else "")
            self._places.append((x, end, view))
            x = end + 1
        canvas.put(max(canvas.width - len(self._note), x + 1), 0, self._note, self._note_style)

    def on_click(self, event: events.Click) -> None:
        """Open the view that was clicked."""
        offset = event.get_content_offset(self)
        for start, end, view in self._places if offset is not None else ():
            if start <= offset.x < end:
                self.post_message(self.Chosen(view))


class CompareScreen(LookingScreen):
    """Two to six runs side by side."""

    app: "EdcApp"
    BINDINGS = bindings("compare")
    AUTO_FOCUS = "#table"
    DEFAULT_CSS = """
    CompareScreen #curves { layout: grid; grid-gutter: 0 2; padding: 0 1; height: 1fr; }
    CompareScreen CompareTable, CompareScreen #curves { display: none; }
    CompareScreen.-table #table, CompareScreen.-curves #curves, CompareScreen.-students #students { display: block; }
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__()
        self.runs = list(dict.fromkeys(runs))
        self.baseline: Run | None = self.runs[0] if self.runs else None
        self.view, self.every = "table", False
        self.measure: tuple[str, str] | None = None
        self.reading: Reading | None = None
        self.charts: list[ChartOf] = []
        self._curves_read = False
        self._store = CurveStore()
        self._first_chart, self._alone = 0, False
        self._smoothing, self._log, self._by_time = "light", False, False
        self._looking, self._again = threading.Lock(), False
        self._listed: object = None

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield TitleLine()
        yield ViewStrip()
        yield CompareTable(id="table")
        with Container(id="curves"):
            for number in range(MOST_CHARTS):
                yield Chart(id=f"chart-{number}", guard=self._store.guard)
        yield CompareTable(id="students")
        yield KeyBar()

    def on_mount(self) -> None:
        """Begin to look."""
        self.add_class("-table")
        self._show_frame()
        self._timer = self.set_interval(self.app.interval * LOOK_EVERY, self._look_at_curves)
        self.look()

    def on_resize(self) -> None:
        """Draw as many charts as there is room for."""
        self.call_after_refresh(self._show_charts)

    def on_runs_changed(self, event: "RunsChanged") -> None:
        """Look again when one of the runs is no longer what it was."""
        listed = [listing for listing in event.listings if listing.run in self.runs]
        if listed != self._listed:
            self._listed = listed
            self.look()

    # Looking, in a thread.

    def look(self) -> None:
        """Read the runs, and their curves where those are in sight."""
        self._again = True
        self._look()

    def _look_at_curves(self) -> None:
        if self.view == "curves":
            self.look()

    @work(thread=True, exit_on_error=False, group="look")
    def _look(self) -> None:
        """Read, once more if something was wanted meanwhile, unless a look is still going on that will see to it."""
        while self._again and self._looking.acquire(blocking=False):
            try:
                self._again = False
                runs, baseline = list(self.runs), self.baseline
                reading = read_comparison(runs, baseline)
                charts, more = None, False
                if self.view == "curves" and reading.comparison is not None:
                    charts, more = self._store.read(reading.comparison, runs)
                self.post_message(Looked(reading, baseline, charts, more))
            finally:
                self._looking.release()

    @on(Looked)
    def _show_look(self, event: Looked) -> None:
        """Show what a look has found."""
        if event.baseline != self.baseline:
            return
        self.reading = event.reading
        if event.charts is not None:
            self.charts, self._curves_read = event.charts, True
        self._show()
        if event.more:
            self.look()

    @property
    def comparison(self) -> Comparison | None:
        """The comparison as it was read last."""
        return self.reading.comparison if self.reading else None

    # Showing.

    def _show(self) -> None:
        comparison = self.comparison
        if comparison is not None:
            above = heads(comparison, self.runs)
            found = measures(comparison)
            if self.measure not in found:
                self.measure = found[0] if found else None
            self.query_one("#table", CompareTable).show(above, table_lines(comparison, every=self.every), pinned=comparison.baseline)
            lines = matrix_lines(comparison, self.measure) if self.measure else [TableLine("no student has been trained yet", "muted")]
            self.query_one("#students", CompareTable).show(above, lines, pinned=comparison.baseline)
        self._show_charts()
        self._show_frame()
        self.refresh_bindings()

    def _show_frame(self) -> None:
        comparison, problems = self.comparison, self.reading.problems if self.reading else ()
        names = ", ".join(dict.fromkeys(printable(run.project) for run in self.runs))
        right = [(count(len(self.runs), "run"), "")]
        if comparison is not None and len(comparison.groups) < len(self.runs) - len(problems):
            right.append((f"in {count(len(comparison.groups), 'column')}, seeds together", "muted"))
        self.query_one(TitleLine).show([("compare ", "strong"), (names, "")], [], right)
        strip = self.query_one(ViewStrip)
        if problems:
            strip.show(self.view, " · ".join(problems), "bad")
        elif self.reading is None:
            strip.show(self.view, "reading …")
        elif self.view == "table":
            strip.show(self.view, "everything" if self.every else "differences only")
        elif self.view == "students":
            strip.show(self.view, measure_words(self.measure) if self.measure else "")
        else:
            words = [f"chart {self._first_chart + 1} of {len(self.charts)}" if self.charts else "", f"smoothing {self._smoothing}"]
            strip.show(self.view, " · ".join(word for word in words if word))

    def _chart_room(self) -> tuple[int, int]:
        """Return how many charts stand beside and above one another."""
        if self._alone:
            return 1, 1
        size = self.query_one("#curves").size
        return 2 if size.width >= TWO_COLUMNS else 1, 2 if size.height >= TWO_ROWS else 1

    def _show_charts(self) -> None:
        if self.view != "curves":
            return
        across, down = self._chart_room()
        self._first_chart = min(self._first_chart, max(len(self.charts) - 1, 0))
        shown = self.charts[self._first_chart : self._first_chart + across * down]
        across = min(across, max(len(shown), 1))
        panel = self.query_one("#curves")
        panel.styles.grid_size_columns = across
        panel.styles.grid_size_rows = max(-(-len(shown) // across), 1)
        for number in range(MOST_CHARTS):
            chart = self.query_one(f"#chart-{number}", Chart)
            chart.display = number < max(len(shown), 1)
            if number < len(shown):
                plan = shown[number]
                chart.configure(smoothing=self._smoothing, log=self._log, by_time=self._by_time)
                chart.show(plan.title, plan.lines, unit=plan.unit, top=plan.top, x_name=plan.x_name, ended=plan.ended, note=plan.note)
            elif number == 0:
                chart.show("", (), empty="none of these runs has curves yet" if self._curves_read else "reading …")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the keys that would do nothing now."""
        if not self.is_mounted:
            return True
        there, columns = self.comparison is not None, len(self.comparison.groups) if self.comparison else 0
        table, curves = self.view != "curves", self.view == "curves" and bool(self.charts)
        applies = {
            "everything": there and self.view == "table",
            "baseline": columns > 1 and table,
            "measure": there and self.view == "students" and len(measures(self.comparison)) > 1 if self.comparison else False,
            "chart": curves and len(self.charts) > 1,
            "smoothing": curves,
            "log_scale": curves,
            "time": curves,
            "alone": curves and len(self.charts) > 1,
            "open": there and table,
            "images": there and table,
            "drop": columns > 2 and table,
            "write": there,
        }
        return applies.get(action, True)

    # What the keys do.

    def action_view(self, view: str) -> None:
        """Open a view."""
        if view == self.view:
            return
        self.remove_class(f"-{self.view}")
        self.add_class(f"-{view}")
        self.view = view
        self.query_one("#chart-0" if view == "curves" else f"#{view}").focus()
        if view == "curves":
            self.look()
        self.call_after_refresh(self._show)

    @on(ViewStrip.Chosen)
    def _view_clicked(self, event: ViewStrip.Chosen) -> None:
        self.action_view(event.view)

    @on(CompareTable.Moved)
    def _moved(self) -> None:
        self.refresh_bindings()

    def _column(self) -> int:
        """Return the column under the cursor."""
        table = self.query_one("#students" if self.view == "students" else "#table", CompareTable)
        return min(table.focus_column, len(self.comparison.groups) - 1 if self.comparison else 0)

    def _column_runs(self) -> list[Run]:
        """Return the runs of the column under the cursor."""
        if self.comparison is None:
            return []
        folders = {facts.folder for facts in self.comparison.groups[self._column()].runs}
        return [run for run in self.runs if str(run.folder) in folders]

    def action_everything(self) -> None:
        """Show every setting and measurement, or only what differs."""
        self.every = not self.every
        self._show()

    def action_baseline(self) -> None:
        """Hold the others against the run under the cursor; once more on the baseline: against none."""
        chosen = self._column_runs()
        if chosen and self.comparison is not None:
            is_baseline = self.comparison.baseline and self._column() == 0
            self.baseline = None if is_baseline else chosen[0]
            for table in self.query(CompareTable):
                table.focus_column = 0
            self.look()

    def action_measure(self) -> None:
        """Show the students' next measure."""
        if self.comparison is not None and self.measure is not None:
            found = measures(self.comparison)
            self.measure = found[(found.index(self.measure) + 1) % len(found)]
            self._show()

    def action_chart(self, step: int) -> None:
        """Go to the next chart."""
        if self.charts:
            self._first_chart = (self._first_chart + step) % len(self.charts)
            self._show()

    def action_smoothing(self) -> None:
        """Smooth the lines not at all, lightly or strongly."""
        kinds = list(SMOOTHING)
        self._smoothing = kinds[(kinds.index(self._smoothing) + 1) % len(kinds)]
        self._show()

    def action_log_scale(self) -> None:
        """Draw the y axis linear or logarithmic."""
        self._log = not self._log
        self._show()

    def action_time(self) -> None:
        """Draw the lines over steps or over the time at work."""
        self._by_time = not self._by_time
        self._show()

    def action_alone(self) -> None:
        """Show one chart alone, or as many as fit."""
        self._alone = not self._alone
        self._show()

    @on(CompareTable.Opened)
    def action_open(self) -> None:
        """Open the run under the cursor."""
        chosen = self._column_runs()
        if chosen:
            self.app.open_run(chosen[0])

    def action_images(self) -> None:
        """Look at the images of the run under the cursor, beside those of the baseline."""
        chosen = self._column_runs()[:1]
        beside = [self.baseline] if self.baseline and self.baseline not in chosen else []
        if chosen:
            self.app.open_gallery([*beside, *chosen])

    def action_drop(self) -> None:
        """Take the column under the cursor out of the comparison."""
        chosen = self._column_runs()
        left = [run for run in self.runs if run not in chosen]
        if len(left) >= 2:
            self.runs = left
            if self.baseline not in left:
                self.baseline = left[0]
            self.look()

    def action_write(self) -> None:
        """Ask for a file's name and write the comparison to it."""
        suggested = "curves.svg" if self.view == "curves" else "comparison.md"
        question = Ask("Write to (.csv .md .tex .json the table, .svg .png the curves)", suggested, yes="Write", check=check_target)
        self.app.push_screen(question, lambda text: self._write_to(text) if text else None)

    def _write_to(self, text: str) -> None:
        path, comparison = Path(text.strip()).expanduser(), self.comparison
        if comparison is None:
            return
        if path.exists():
            lines = ("It is there already; what it holds now is lost.",)
            dialog = Confirm(f"Replace {printable(path)}?", lines, yes="Replace", danger=True)
            self.app.push_screen(dialog, lambda yes: self._write(comparison, path) if yes else None)
        else:
            self._write(comparison, path)

    @work(thread=True, exit_on_error=False, group="write")
    def _write(self, comparison: Comparison, path: Path) -> None:
        try:
            write_out(comparison, path, every=self.every)
        except (UserError, RunError, OSError) as error:
            self.app.tell(str(error), "error")
        else:
            self.app.tell(f"wrote {printable(path.absolute())}")
