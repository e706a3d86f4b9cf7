"""The run screen: stages, curves as they grow, facts and the end of the log; what it shows is read in a thread, tick by tick."""

from textual import events, on, work
from textual.app import ComposeResult
from textual.containers import Container, Horizontal
from textual.geometry import Size
from textual.message import Message
from textual.widgets import Input

from edc_tui.charts import X_NAMES, ChartPlan, charts_of
from edc_tui.feed import CURVED, Look, RunFeed, View, stage_shown
from edc_tui.keys import bindings
from edc_tui.screens.looking import LookingScreen
from edc_tui.widgets.chart import SMOOTHING, Chart
from edc_tui.widgets.facts import Facts, Notice, ResultTable, RunHeader, notice_lines, results_of
from edc_tui.widgets.keybar import KeyBar
from edc_tui.widgets.log import LogTail
from edc_tui.widgets.stages import StageStrip
from engine.commands.tables import seconds
from engine.runs.events import number
from engine.runs.layout import Run

MOST_CHARTS = 4
TWO_ROWS = 18  # rows from which two charts stand one above the other
TWO_COLUMNS = 130  # cells from which two charts stand side by side
OF_CHARTS = ("chart", "smoothing", "log_scale", "time")


class Looked(Message):
    """One look at the run is done."""

    def __init__(self, look: Look) -> None:
        self.look = look
        super().__init__()


class RunScreen(LookingScreen):
    """One run, live or ended."""

    BINDINGS = bindings("run")
    AUTO_FOCUS = "#chart-0"
    DEFAULT_CSS = """
    RunScreen { padding: 0; }
    RunScreen > RunHeader, RunScreen > StageStrip, RunScreen > Notice, RunScreen > ResultTable { padding: 0 1; }
    RunScreen > ResultTable { margin-top: 1; }
    RunScreen #body { height: 1fr; margin-top: 1; }
    RunScreen #charts { layout: grid; width: 1fr; height: 1fr; padding: 0 1; grid-gutter: 0 2; }
    RunScreen #facts { width: 36; padding: 0 1; border-left: solid $foreground 20%; display: none; }
    RunScreen #facts:ansi { border-left: solid ansi_bright_black; }
    RunScreen #log { height: 8; padding: 0 1; margin-top: 1; }
    RunScreen #search { height: 1; border: none; padding: 0 1; display: none; }
    RunScreen #search.-open { display: block; }
    RunScreen.-short #log { height: 4; margin-top: 0; }
    RunScreen.-short #body { margin-top: 0; }
    RunScreen.-short > ResultTable { margin-top: 0; }
    RunScreen.-xtall #log { height: 12; }
    RunScreen.-xwide #facts { width: 48; }
    RunScreen.-wide #facts, RunScreen.-xwide #facts { display: block; }
    RunScreen.-wide.-other-facts #facts, RunScreen.-xwide.-other-facts #facts { display: none; }
    RunScreen.-narrow.-other-facts #facts { display: block; width: 1fr; border-left: none; }
    RunScreen.-narrow.-other-facts #charts { display: none; }
    RunScreen.-chart-alone #log, RunScreen.-chart-alone #facts, RunScreen.-log-alone #body { display: none; }
    RunScreen.-log-alone #log { height: 1fr; }
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.feed = RunFeed(run)
        self.view: View | None = None
        self.stage: str | None = None  # the stage whose curves are shown; None follows the run
        self.plans: list[ChartPlan] = []
        self._first_chart = 0
        self._log_scale: set[tuple[str, str]] = set()  # (stage, title) of the charts drawn so
        self._smoothing, self._by_time = "light", False
        self._alone = ""  # `chart` or `log` while that has the room of all
        self._looking = False
        self._trouble = ""  # why the last look found nothing

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield RunHeader(self.run, id="header")
        yield StageStrip(id="stages")
        yield Notice(id="notice")
        yield ResultTable(id="results")
        with Horizontal(id="body"):
            with Container(id="charts"):
                for number_ in range(MOST_CHARTS):
                    yield Chart(id=f"chart-{number_}", guard=self.feed.guard)
            yield Facts(self.run, id="facts")
        yield Input(placeholder="search the log", id="search", compact=True)
        yield LogTail(id="log")
        yield KeyBar()

    def on_mount(self) -> None:
        """Begin to look."""
        self._timer = self.set_interval(self.app.interval, self.look)
        self.look()

    def look(self) -> None:
        """Read what is new, unless a look is still going on."""
        if not self._looking:
            self._looking = True
            self._look()

    @work(thread=True, exit_on_error=False, group="look")
    def _look(self) -> None:
        trouble = ""
        try:
            self.post_message(Looked(self.feed.look(self.stage)))
        except Exception as error:  # whatever is wrong with a run's files, the screen stays and says so, once
            trouble = f"run {self.run.id} cannot be read: {type(error).__name__}: {error}"
            if trouble != self._trouble:
                self.app.tell(trouble, "error")
        finally:
            self._trouble = trouble
            self._looking = False

    @on(Looked)
    def _show(self, event: Looked) -> None:
        """Show what a look has found."""
        if not self.is_attached:
            return
        look = event.look
        before, self.view = self.view, look.view
        if before is None or before.status.word != look.view.status.word:
            self._status_changed(look.view)
        if before is None or self._possible(before) != self._possible(look.view):
            self.refresh_bindings()
        self._show_frame()
        self.show_charts()
        self.query_one(LogTail).add(look.lines, look.view.log_size)
        if look.more:
            self.look()

    def _status_changed(self, view: View) -> None:
        """Bring to the front what a failed run's worker said last."""
        log = self.query_one(LogTail)
        if view.status.word in ("failed", "killed", "out-of-memory") and view.log_size:
            log.show("output")

    @staticmethod
    def _possible(view: View) -> tuple[bool, ...]:
        """Return what `check_action` judges by."""
        return view.status.alive, view.status.resumable, view.gone

    def _show_frame(self) -> None:
        view = self.view
        if view is None:
            return
        rows = self.size.height
        ended = not view.status.alive
        results = results_of(view.summary)
        self.query_one(RunHeader).show(view)
        self.query_one(StageStrip).show(view, self.shown_stage)
        self.query_one(Notice).show(notice_lines(view, resumable=self._can_resume), most=max(rows // 4, 3))
        self.query_one(ResultTable).show(results if ended and not self._alone else [], most=max(rows // 3, 4))
        self.query_one(Facts).show(view, with_results=not ended)

    @property
    def shown_stage(self) -> str:
        """Return the stage whose curves are shown."""
        return self.stage or (stage_shown(self.view) if self.view else CURVED[0])

    def show_charts(self) -> None:
        """Give every chart its lines, as many charts as there is room for."""
        view = self.view
        if view is None:
            return
        stage = self.shown_stage
        curves = self.feed.curves(stage)
        self.plans = charts_of(stage, curves)
        columns, rows = self._grid()
        room = columns * rows
        self._first_chart %= max(len(self.plans), 1)
        shown = [self.plans[(self._first_chart + place) % len(self.plans)] for place in range(min(room, len(self.plans)))]
        reading = min((curve.part for curve in curves.values()), default=1.0)
        note = f"reading {reading:.0%}" if reading < 1 else ""
        at_work = view.status.alive and view.status.stage == stage
        for place in range(MOST_CHARTS):
            chart = self.query_one(f"#chart-{place}", Chart)
            plan = shown[place] if place < len(shown) else None
            if chart.display != (plan is not None or place == 0):
                chart.display = plan is not None or place == 0
            span = 2 if columns == 2 and len(shown) % 2 and place == 0 else 1  # an odd one takes its whole row
            if chart.styles.column_span != span:
                chart.styles.column_span = span
            if plan is None:
                chart.show(stage if place == 0 else "", (), empty=self._empty_text(stage))
                continue
            chart.configure(smoothing=self._smoothing, by_time=self._by_time, log=(stage, plan.title) in self._log_scale)
            chart.show(
                plan.title,
                plan.lines,
                unit=plan.unit,
                top=plan.top,
                x_name=X_NAMES.get(stage, "steps"),
                limit=view.status.total if at_work else None,
                ended=not at_work,
                note=note,
                empty=self._empty_text(stage),
            )

    def _grid(self) -> tuple[int, int]:
        """Return how many columns and rows of charts there are, and set them."""
        charts = self.query_one("#charts")
        size = charts.content_size
        if self._alone:
            size = Size(0, 0)
        columns = 2 if size.width >= TWO_COLUMNS and len(self.plans) > 2 else 1
        rows = min(2 if size.height >= TWO_ROWS else 1, max(-(-len(self.plans) // columns), 1))
        if (charts.styles.grid_size_columns, charts.styles.grid_size_rows) != (columns, rows):
            charts.styles.grid_size_columns, charts.styles.grid_size_rows = columns, rows
        return columns, rows

    def _empty_text(self, stage: str) -> str:
        facts = self.view.stages.get(stage, {}) if self.view else {}
        if stage in CURVED:
            return {"done": "no curve was kept", "running": "no points yet"}.get(str(facts.get("status")), f"{stage} has not begun")
        if facts.get("status") != "done":
            return f"{stage} draws no curve"
        return f"{stage} draws no curve; it took {seconds(number(facts.get('seconds')) or 0.0)}"

    def on_resize(self, event: events.Resize) -> None:
        """Lay out anew once the new size is in force."""
        self.call_after_refresh(self._lay_out)

    def _lay_out(self) -> None:
        self._show_frame()
        self.call_after_refresh(self.show_charts)

    # What may be done now.

    @property
    def _can_resume(self) -> bool:
        return self.view is not None and not self.view.gone and self.view.status.resumable

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done."""
        view = self.view
        applies = {
            "stop": view is not None and view.status.alive,
            "resume": self._can_resume,
            "images": view is not None and not view.gone,
            "leave_alone": bool(self._alone),
            "facts": not self._alone,
            **dict.fromkeys(OF_CHARTS, self._alone != "log"),
        }
        return applies.get(action, True)

    def action_stop(self) -> None:
        """Have the run stopped, after asking."""
        self.app.stop_run(self.run)

    def action_resume(self) -> None:
        """Go on with the run, after asking."""
        self.app.resume_run(self.run)

    def action_stage(self, direction: int) -> None:
        """Show the charts of the stage before or after."""
        stages = list(self.view.stages) if self.view else []
        if stages:
            place = stages.index(self.shown_stage) if self.shown_stage in stages else 0
            self.show_stage(stages[min(max(place + direction, 0), len(stages) - 1)])

    def action_follow(self) -> None:
        """Show the charts of the stage at work, whichever it is."""
        self.show_stage(None)

    def show_stage(self, stage: str | None) -> None:
        """Show the charts of a stage; None follows the run."""
        self.stage, self._first_chart = stage, 0
        self._show_frame()
        self.show_charts()
        self.look()

    @on(StageStrip.Chosen)
    def _choose_stage(self, event: StageStrip.Chosen) -> None:
        """Show the charts of a stage that is clicked in the strip."""
        self.show_stage(event.stage)

    def action_chart(self, direction: int) -> None:
        """Show the next chart, or the one before."""
        shown = [chart for chart in self.query(Chart) if chart.display]
        if len(shown) < len(self.plans):
            self._first_chart += direction
            self.show_charts()
        elif self.focused in shown:
            shown[(shown.index(self.focused) + direction) % len(shown)].focus()
        elif shown:
            shown[0].focus()

    def action_smoothing(self) -> None:
        """Smooth the lines by the next degree."""
        degrees = list(SMOOTHING)
        self._smoothing = degrees[(degrees.index(self._smoothing) + 1) % len(degrees)]
        self.show_charts()

    def action_log_scale(self) -> None:
        """Draw the chart that has the focus, else all in sight, logarithmic or linear; never accuracies."""
        charts = [chart for chart in self.query(Chart) if chart.display and chart.lines and not chart.unit]
        if self.focused in charts:
            charts = [self.focused]
        keys = {(self.shown_stage, chart.title) for chart in charts}
        self._log_scale = self._log_scale - keys if keys <= self._log_scale else self._log_scale | keys
        self.show_charts()

    def action_time(self) -> None:
        """Draw the lines over time or over steps."""
        self._by_time = not self._by_time
        self.show_charts()

    def action_alone(self) -> None:
        """Show the chart or the log that has the focus alone, or everything again."""
        self._show_alone("" if self._alone else "log" if isinstance(self.focused, LogTail) else "chart")

    def action_leave_alone(self) -> None:
        """Show everything again."""
        self._show_alone("")

    def _show_alone(self, what: str) -> None:
        """Give `chart` or `log` the room of all; nothing gives it back."""
        charts = list(self.query(Chart))
        self._first_chart += charts.index(self.focused) if what == "chart" and self.focused in charts else 0
        self._first_chart = self._first_chart if what else 0
        self._alone = what
        self.set_class(what == "chart", "-chart-alone")
        self.set_class(what == "log", "-log-alone")
        if what == "chart":
            charts[0].focus()
        self.refresh_bindings()
        self.call_after_refresh(self._lay_out)

    def action_facts(self) -> None:
        """Show or hide the facts."""
        self.toggle_class("-other-facts")
        self.call_after_refresh(self._lay_out)

    def action_images(self) -> None:
        """Look at the condensed images."""
        self.app.open_gallery([self.run])

    def action_output(self) -> None:
        """Show the other log."""
        log = self.query_one(LogTail)
        log.show("output" if log.source == "events" else "events")

    def action_search(self) -> None:
        """Ask what to search the log for."""
        field = self.query_one("#search", Input)
        field.add_class("-open")
        field.value = self.query_one(LogTail).query_text
        field.focus()

    @on(Input.Submitted, "#search")
    def _search(self, event: Input.Submitted) -> None:
        log = self.query_one(LogTail)
        self._close_search()
        if not event.value.strip() or log.search(event.value):
            return
        self.action_output()
        if not log.search(event.value):
            self.action_output()
            log.search("")
            self.app.tell(f"neither log holds {event.value.strip()!r}", "warning")

    def on_key(self, event: events.Key) -> None:
        """Leave the search field by escape."""
        if event.key == "escape" and self.focused is self.query_one("#search"):
            event.stop()
            event.prevent_default()
            self._close_search()

    def _close_search(self) -> None:
        self.query_one("#search").remove_class("-open")
        self.query_one(LogTail).focus()

    def action_error(self, direction: int) -> None:
        """Go to the next warning or error in the log; in the other log where this one has none."""
        log = self.query_one(LogTail)
        if log.next_trouble(direction):
            return
        self.action_output()
        if not log.next_trouble(direction):
            self.action_output()
            self.app.tell("there is no warning and no error in the log")

    def action_copy_id(self) -> None:
        """Copy the run's id."""
        self.app.copy(self.run.id, "the run's id")

    def action_copy_path(self) -> None:
        """Copy the path of the run's folder."""
        self.app.copy(str(self.run.folder.absolute()), "the path of the run's folder")
