"""The home screen: every project and its runs in one list, what has happened lately, and how busy the machine is."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Input

from edc_tui.filtering import Filter, parse_filter
from edc_tui.keys import bindings
from edc_tui.overview import ORDERS, Entry, entries, run_key
from edc_tui.screens.home_rows import COLUMNS, make_row, sweep_words
from edc_tui.settings import editor, read_state, remember
from edc_tui.watch import RunsChanged
from edc_tui.widgets.happenings import Happenings
from edc_tui.widgets.keybar import KeyBar
from edc_tui.widgets.resources import ResourceStrip
from edc_tui.widgets.rows import Rows
from edc_tui.widgets.titleline import TitleLine
from edc_tui.widgets.welcome import Welcome
from engine.commands.tables import count
from engine.errors import UserError
from engine.runs.layout import Run
from engine.runs.store import Listing

if TYPE_CHECKING:
    from edc_tui.app import EdcApp

MOST_COMPARED = 6
AGE_SECONDS = 60.0  # how often ages are told anew when nothing else happens


class HomeScreen(Screen[None]):
    """Projects and their runs."""

    app: "EdcApp"
    BINDINGS = bindings("home")
    AUTO_FOCUS = "#runs"
    DEFAULT_CSS = """
    HomeScreen #runs { padding: 0 1; }
    HomeScreen #filter { height: 1; border: none; padding: 0 1; display: none; }
    HomeScreen #filter.-open { display: block; }
    HomeScreen Happenings { height: 4; }
    HomeScreen.-tall Happenings { height: 8; }
    HomeScreen.-xtall Happenings { height: 14; }
    HomeScreen Welcome { display: none; }
    HomeScreen.-empty Welcome { display: block; }
    HomeScreen.-empty #runs { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        state = read_state()
        self._order = state["order"] if state.get("order") in ORDERS else ORDERS[0]
        self._grouped = state.get("grouped") is not False
        self._folded: set[str] = set()
        self._listings: dict[str, Listing] = {}  # by their keys
        self._marked: dict[str, Run] = {}
        self._filter: Filter | None = None
        self._problem = ""
        self._entries: dict[str, Entry] = {}
        self._looked = False

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield TitleLine()
        with Vertical():
            yield Rows(COLUMNS, id="runs")
            yield Welcome()
        yield Input(placeholder="words, acc>60 method=edc ipc=10 status=done age<2d -broken", id="filter", select_on_focus=False)
        yield Happenings()
        yield ResourceStrip(self.app.projects, self.app.interval)
        yield KeyBar()

    def on_mount(self) -> None:
        """Tell ages anew from time to time."""
        self.set_interval(AGE_SECONDS, self._show)
        self._show_title()
        self.call_after_refresh(self._show)  # what was seen before there was anything to show it on

    def on_runs_changed(self, event: RunsChanged) -> None:
        """Show what there is now."""
        self._looked = True
        self._listings = {run_key(listing): listing for listing in event.listings}
        self._marked = {key: run for key, run in self._marked.items() if key in self._listings}
        self._show()

    def on_told(self) -> None:
        """Show a message among what has happened."""
        if self.is_mounted:
            self.query_one(Happenings).show(self.app.listings, self.app.told, time.time())

    def _show(self) -> None:
        if not self._looked or not self.query("#runs"):  # which is gone already while the app ends
            return
        app, now = self.app, time.time()
        lines = entries(
            app.listings,
            app.project_files,
            order=self._order,
            grouped=self._grouped,
            folded=self._folded if self._filter is None else (),
            chosen=self._filter,
        )
        self._entries = {entry.key: entry for entry in lines}
        self.set_class(not app.listings and not app.project_files, "-empty")
        self.query_one("#runs", Rows).show([make_row(entry, now, marked=entry.key in self._marked) for entry in lines])
        self.query_one(Happenings).show(app.listings, app.told, now)
        self._show_title()
        self.refresh_bindings()

    def _show_title(self) -> None:
        app = self.app
        alive = sum(listing.status.alive for listing in app.listings)
        names = {file.name for file in app.project_files if not file.sweep} | {listing.run.project for listing in app.listings}
        left = [("edc ", "strong"), (_short(app.projects), "")]
        at_work = (f"{alive} at work", "accent" if alive else "muted")
        right = [(count(len(names), "project"), ""), (count(len(app.listings), "run"), ""), at_work]
        right = right if self._looked else [("looking …", "muted")]
        middle: list[tuple[str, str]] = []
        if self._marked:
            middle.append((f"{len(self._marked)} marked", "warn"))
        if self._problem:
            middle.append((self._problem, "bad"))
        elif self._filter is not None and self._looked:
            shown = sum(entry.listing is not None for entry in self._entries.values())
            middle.append((f"filter {self._filter.text!r}: {shown} of {len(app.listings)}", "warn"))
        if self._order != ORDERS[0]:
            middle.append((f"by {self._order}", "muted"))
        self.query_one(TitleLine).show(left, middle, right)

    # Which lines actions mean.

    def _here(self) -> Entry | None:
        key = self.query_one("#runs", Rows).cursor_key
        return None if key is None else self._entries.get(key)

    def _targets(self) -> list[Run]:
        """Return the marked runs, or the one under the cursor."""
        if self._marked:
            return list(self._marked.values())
        here = self._here()
        return [here.listing.run] if here and here.listing else []

    def _project_path(self) -> Path | None:
        here = self._here()
        return here.file.path if here and here.file else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the keys that would do nothing now."""
        if not self.is_mounted:
            return True
        here, targets, path = self._here(), self._targets(), self._project_path()
        keys = self._marked or ([here.key] if here and here.listing else [])
        statuses = [self._listings[key].status for key in keys if key in self._listings]
        project = path is not None and not (here and here.file and here.file.sweep)
        applies = {
            "open": here is not None,
            "mark": here is not None and here.listing is not None,
            "compare": 2 <= len(self._marked) <= MOST_COMPARED,
            "start": project and not self._marked,
            "stop": any(status.alive for status in statuses),
            "resume": any(status.resumable for status in statuses),
            "remove": bool(statuses) and not any(status.alive for status in statuses),
            "images": 1 <= len(targets) <= 2,
            "edit": project,
            "editor": path is not None and bool(editor()),
            "copy_id": here is not None and here.listing is not None,
            "copy_path": here is not None and (here.listing is not None or here.file is not None),
            "fold": self._grouped and here is not None,
            "filter": bool(self.app.listings or self.app.project_files),
            "order": bool(self.app.listings),
            "flat": bool(self.app.listings),
            "quickstart": self.has_class("-empty"),
            "clear": self._filter is not None or bool(self._marked) or bool(self._problem),
        }
        return applies.get(action, True)

    # What the keys do.

    @on(Rows.Moved)
    def _moved(self) -> None:
        self.refresh_bindings()

    @on(Rows.Opened)
    def action_open(self) -> None:
        """Open the run, or the project's form."""
        here = self._here()
        if here is None:
            return
        if here.listing is not None:
            self.app.open_run(here.listing.run)
        elif here.file is not None and here.file.sweep:
            self.app.tell(f"{here.file.name}.toml {sweep_words(here.file.name)}")
        elif here.file is not None:
            self.app.open_project(here.file.path)
        else:
            self.app.tell(f"{here.project}.toml is no longer there; its runs are", "warning")

    @on(Rows.Clicked)
    def _clicked(self, event: Rows.Clicked) -> None:
        if event.column == 0:
            entry = self._entries.get(event.key)
            if entry is not None and entry.listing is None:
                self.action_fold(not entry.folded)
            else:
                self.action_mark()

    @on(Rows.TitleClicked)
    def _sort_by(self, event: Rows.TitleClicked) -> None:
        self._set_order(event.sort)

    def action_mark(self) -> None:
        """Mark the run, or take its mark away, and go on to the next line."""
        here = self._here()
        if here is None or here.listing is None:
            return
        if self._marked.pop(here.key, None) is None:
            self._marked[here.key] = here.listing.run
        self._show()
        self.query_one("#runs", Rows).action_move(1)

    def action_compare(self) -> None:
        """Compare the marked runs, in the order they were marked in."""
        self.app.open_compare(list(self._marked.values()))

    def action_images(self) -> None:
        """Look at condensed images."""
        self.app.open_gallery(self._targets())

    def action_start(self) -> None:
        """Start the project, after saying what that means."""
        path = self._project_path()
        if path is not None:
            self.app.start_after_asking(path)

    def action_stop(self) -> None:
        """Stop runs, after asking."""
        self.app.stop_runs(self._targets())

    def action_resume(self) -> None:
        """Resume runs, after asking."""
        self.app.resume_runs(self._targets())

    def action_remove(self) -> None:
        """Remove runs, after asking."""
        self.app.remove_runs(self._targets())

    def action_new(self) -> None:
        """Make a new project."""
        self.app.open_project(None)

    def action_edit(self) -> None:
        """Change the project in its form."""
        self.app.open_project(self._project_path())

    def action_editor(self) -> None:
        """Change the project in the user's editor."""
        path = self._project_path()
        if path is not None:
            self.app.edit_outside(path, editor())

    def action_quickstart(self) -> None:
        """Offer the quickstart."""
        self.app.offer_quickstart()

    def action_copy_id(self) -> None:
        """Copy the run's id."""
        here = self._here()
        if here is not None and here.listing is not None:
            self.app.copy(here.listing.run.id, "the run's id")

    def action_copy_path(self) -> None:
        """Copy the path of the run's folder, or of the project's file."""
        here = self._here()
        if here is not None and here.listing is not None:
            self.app.copy(str(here.listing.run.folder.absolute()), "the path of the run's folder")
        elif here is not None and here.file is not None:
            self.app.copy(str(here.file.path.absolute()), "the path of the project's file")

    def action_order(self) -> None:
        """Choose the order."""
        from edc_tui.screens.dialogs import Choose

        self.app.push_screen(Choose("Sort by", ORDERS, self._order), lambda order: self._set_order(order) if order else None)

    def _set_order(self, order: str) -> None:
        self._order = order
        remember(order=order)
        self._show()

    def action_flat(self) -> None:
        """List runs alone, or below their projects."""
        self._grouped = not self._grouped
        remember(grouped=self._grouped)
        self._show()

    def action_fold(self, fold: bool) -> None:
        """Hide or show the runs of the project under the cursor."""
        here = self._here()
        if here is not None and (here.project in self._folded) != fold:
            self._folded ^= {here.project}
            self._show()
            self.query_one("#runs", Rows).select(here.project)

    def action_filter(self) -> None:
        """Open the filter."""
        field = self.query_one("#filter", Input)
        field.add_class("-open")
        field.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        """Keep what fits while one types; a term that makes no sense yet is told, and the list stays as it is."""
        try:
            self._filter = parse_filter(event.value) if event.value.strip() else None
            self._problem = ""
        except UserError as error:
            self._problem = str(error)
        self._show()

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.query_one("#runs", Rows).focus()
        if self._filter is None:
            self.query_one("#filter", Input).remove_class("-open")

    def action_clear(self) -> None:
        """Take back the filter, or else the marks."""
        field = self.query_one("#filter", Input)
        if self._filter is not None or self._problem or field.has_focus:
            field.value = ""
            field.remove_class("-open")
            self.query_one("#runs", Rows).focus()
        else:
            self._marked = {}
            self._show()


def _short(path: Path) -> str:
    """Return a path as the user would write it."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) and path != home else str(path)
