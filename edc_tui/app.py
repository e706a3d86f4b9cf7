"""The app: which screen is open, what is done to runs, and what was told about it. Screens show; this room acts."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual import work
from textual._compositor import CompositorUpdate
from textual.app import App, SystemCommand
from textual.events import DescendantFocus
from textual.screen import Screen
from textual.widgets import Input

from edc_tui import themes
from edc_tui.keys import bindings
from edc_tui.settings import configuration_folder, keep_copied, read_keymap, read_state, remember
from edc_tui.terse import Painter, Terse
from edc_tui.watch import ProjectFile, RunsChanged, Watch
from engine.errors import RunError, UserError
from engine.runs.layout import Run
from engine.runs.status import run_status
from engine.runs.store import Listing
from engine.runs.text import printable

TICK_SECONDS, SLOW_TICK_SECONDS = 1.0, 2.0
MOST_TOLD = 200


def _commands() -> type:
    from edc_tui.commands import Commands

    return Commands


class EdcApp(App[None]):
    """Projects and runs of one folder on the screen; it starts, signals and reads runs, and computes nothing itself."""

    TITLE = "edc"
    CSS_PATH = Path(__file__).with_name("edc.tcss")
    BINDINGS = bindings("app")
    COMMANDS = {_commands}
    HORIZONTAL_BREAKPOINTS: ClassVar = [(0, "-narrow"), (100, "-wide"), (160, "-xwide")]
    VERTICAL_BREAKPOINTS: ClassVar = [(0, "-short"), (34, "-tall"), (50, "-xtall")]

    def __init__(self, projects: Path, *, slow_link: bool = False, theme: str | None = None) -> None:
        super().__init__()
        self.projects = projects
        self.slow_link = slow_link
        self.listings: tuple[Listing, ...] = ()
        self.project_files: tuple[ProjectFile, ...] = ()
        self.told: list[tuple[float, str, str]] = []  # (unix seconds, text, severity), oldest first
        self._painter = Painter()
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self.watch_folder = Watch(self, projects, self.interval)
        for own in themes.OWN:
            self.register_theme(own)
        remembered = read_state().get("theme")
        wanted = theme or (themes.SLOW_LINK if slow_link else remembered if remembered in self.available_themes else themes.DEFAULT)
        self.theme = wanted
        # Nothing moves by itself: a frame of an animation costs as much as a second of two charts.
        self.animation_level = "none"

    @property
    def interval(self) -> float:
        """Seconds between two looks at the files, and so between two changes on the screen."""
        return SLOW_TICK_SECONDS if self.slow_link else TICK_SECONDS

    def get_default_screen(self) -> Screen[None]:
        """Return the screen the app begins with."""
        from edc_tui.screens.home import HomeScreen

        return HomeScreen()

    def on_mount(self) -> None:
        """Begin to watch, and take up what the user has set."""
        self._event_loop = asyncio.get_running_loop()
        self.watch_folder.start()
        keymap, problems = read_keymap(configuration_folder() / "keys.toml")
        self.set_keymap(keymap)
        for problem in problems:
            self.tell(problem, "warning")
        self.app_resume_signal.subscribe(self, lambda app: self.action_repaint())
        self.theme_changed_signal.subscribe(self, lambda theme: remember(theme=theme.name))

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        """Send an update in few bytes."""
        super()._display(screen, Terse(renderable, self._painter) if isinstance(renderable, CompositorUpdate) else renderable)

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Let no cursor blink: it would send bytes for ever."""
        if isinstance(event.widget, Input):
            event.widget.cursor_blink = False

    def forget_picture(self) -> None:
        """Send every cell of the next updates: something has been written to the terminal past the app."""
        self._painter.forget()

    def on_resize(self) -> None:
        """Draw the whole screen anew: what a terminal keeps of its picture in another size is its own affair."""
        self.forget_picture()
        if self.screen_stack:
            self.screen.refresh(layout=True)

    def action_repaint(self) -> None:
        """Draw the whole screen anew, after something else has written over it."""
        self.forget_picture()
        self.screen.refresh(layout=True)

    def leave_soon(self) -> None:
        """End the app; callable from a signal handler."""
        if self._event_loop is not None:
            self._event_loop.call_soon_threadsafe(self.exit)

    def on_unmount(self) -> None:
        """Look no more."""
        self.watch_folder.end()

    def on_runs_changed(self, event: RunsChanged) -> None:
        """Keep what was seen and hand it to every screen that wants it, by their `on_runs_changed`."""
        self.listings, self.project_files = event.listings, event.projects
        for screen in self.screen_stack:
            if hasattr(screen, "on_runs_changed"):
                screen.on_runs_changed(event)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide Back where there is nothing to go back to, and Help where it is shown."""
        if action == "help":
            return not getattr(self.screen, "is_help", False) if self.screen_stack else True
        return sum(not screen.is_modal for screen in self.screen_stack) > 1 if action == "back" else True

    def get_system_commands(self, screen: Screen[Any]) -> list[SystemCommand]:
        """Return the commands that are no key's."""
        return [
            SystemCommand("Theme", "Choose the colours; it is remembered", self.search_themes),
            SystemCommand("Picture", "Save the screen as an SVG picture in the working folder", self.save_picture),
        ]

    # Where one goes. Screens are imported when they are first opened.

    def open_project(self, path: Path | None) -> None:
        """Open a project file in the form; None begins a new one."""
        from edc_tui.screens.project import ProjectScreen

        self.push_screen(ProjectScreen(path))

    def open_run(self, run: Run) -> None:
        """Open a run."""
        from edc_tui.screens.run import RunScreen

        self.push_screen(RunScreen(run))

    def open_gallery(self, runs: list[Run]) -> None:
        """Open the condensed images of one run, or of two side by side."""
        from edc_tui.screens.gallery import GalleryScreen

        self.push_screen(GalleryScreen(runs))

    def open_compare(self, runs: list[Run]) -> None:
        """Open two to six runs side by side."""
        from edc_tui.screens.compare import CompareScreen

        self.push_screen(CompareScreen(runs))

    def action_back(self) -> None:
        """Go back to the screen before."""
        if len(self.screen_stack) > 1:
            self.pop_screen()

    def action_help(self) -> None:
        """Show the keys of this screen and what it is for."""
        from edc_tui.screens.help import HelpScreen, rooms_of

        self.push_screen(HelpScreen(rooms_of(self.screen)))

    def edit_outside(self, path: Path, editor: str) -> None:
        """Give the terminal to the user's editor for a file; afterwards the list is as the file says."""
        import shlex

        try:
            with self.suspend():
                subprocess.run([*shlex.split(editor), str(path)])
        except (OSError, ValueError) as error:
            self.tell(f"cannot run {editor}: {error}", "error")
        self.watch_folder.look_now()

    def copy(self, text: str, what: str) -> None:
        """Copy a text through the terminal, and keep it in a file too, for terminals that do not let an app copy."""
        self.copy_to_clipboard(text)
        path = keep_copied(text)
        self.tell(f"copied {what}: {text}{f' (also in {path})' if path else ''}")

    def save_picture(self) -> None:
        """Save the screen as an SVG in the working folder."""
        path = Path(time.strftime("edc-%Y%m%d-%H%M%S.svg"))
        try:
            path.write_text(self.export_screenshot(), encoding="utf-8")
        except OSError as error:
            self.tell(f"cannot write {path}: {error.strerror or error}", "error")
        else:
            self.tell(f"wrote {path}")

    # What is done to runs. All of it happens in threads; what goes wrong is told in one line.

    def start_run(self, project_path: Path) -> None:
        """Start a project's run in the background, or go on with its unfinished one, and open it."""
        self._start(project_path, ask=False)

    def start_after_asking(self, project_path: Path) -> None:
        """Say what starting a project will do, and start it when that is wanted."""
        self._start(project_path, ask=True)

    @work(thread=True, group="start")
    def _start(self, project_path: Path, *, ask: bool) -> None:
        from edc_tui.questions import ask_start
        from engine.commands.request import make_request

        request = self._attempt(lambda: make_request(project_path))
        if request is None:
            return
        if ask:
            question = self._attempt(lambda: ask_start(request))
            if question is not None:
                self.call_from_thread(self._confirm, question, lambda: self._begin(request))
        else:
            self.call_from_thread(self._begin, request)

    @work(thread=True, group="start")
    def _begin(self, request: Any) -> None:
        from engine.commands.run import claim
        from engine.runs.process import start_detached
        from engine.runs.store import begin_lock

        def begin() -> Run:
            with begin_lock(request.projects, request.name):
                run, _ = claim(request, fresh=False)
                start_detached(run.folder)
            return run

        run = self._attempt(begin)
        self.watch_folder.look_now()
        if run is not None:
            self.tell(f"{run.project}: run {run.id} was started")
            self.call_from_thread(self.open_run, run)

    def offer_quickstart(self) -> None:
        """Say what the quickstart takes; write and start it when that is wanted."""
        from edc_tui.questions import Question
        from edc_tui.quickstart import TAKES, write_quickstart

        def begin() -> None:
            path = self._attempt(lambda: write_quickstart(self.projects))
            if path is not None:
                self.start_run(path)

        where = f"quickstart.toml is written into {self.projects} and started in the background."
        self._confirm(Question("Try the quickstart?", (*TAKES, where), "Start"), begin)

    def stop_run(self, run: Run) -> None:
        """Ask, then have a run write a checkpoint and stop; one that is stopping already is killed."""
        self.stop_runs([run])

    def stop_runs(self, runs: Sequence[Run]) -> None:
        """Ask, then stop those of the runs that are alive."""
        from edc_tui.questions import ask_stop

        alive = [run for run in runs if run_status(run.folder).alive]
        if not alive:
            self.tell(f"{_which(runs)} not at work", "warning")
            return
        question = ask_stop(alive)
        self._confirm(question, lambda: self._stop(alive, kill=question.danger))

    @work(thread=True, group="stop")
    def _stop(self, runs: Sequence[Run], *, kill: bool) -> None:
        from engine.runs.process import GRACE_SECONDS, request_stop

        for run in runs:
            asked = self._attempt(lambda run=run: request_stop(run.folder, grace=0.0 if kill else GRACE_SECONDS))
            if asked is not None:
                now = f"is {run_status(run.folder).word} already"
                self.tell(f"{run.project}: run {run.id} {'is being killed' if asked and kill else 'was asked to stop' if asked else now}")
        self.watch_folder.look_now()

    def resume_run(self, run: Run) -> None:
        """Ask, then go on with a run from its last checkpoint, in the background."""
        self.resume_runs([run])

    def resume_runs(self, runs: Sequence[Run]) -> None:
        """Ask, then go on with those of the runs that are neither alive nor done."""
        from edc_tui.questions import ask_resume

        resumable = [run for run in runs if run_status(run.folder).resumable]
        if not resumable:
            self.tell(f"{_which(runs)} at work or done", "warning")
            return
        self._confirm(ask_resume(resumable), lambda: self._resume(resumable))

    @work(thread=True, group="start")
    def _resume(self, runs: Sequence[Run]) -> None:
        from engine.runs.process import start_detached

        for run in runs:
            if self._attempt(lambda run=run: start_detached(run.folder)) is not None:
                self.tell(f"{run.project}: run {run.id} goes on")
        self.watch_folder.look_now()

    @work(thread=True, group="stop")
    def remove_runs(self, runs: Sequence[Run]) -> None:
        """Ask, then delete runs that are not alive, with everything in their folders."""
        from edc_tui.questions import ask_remove

        question = self._attempt(lambda: ask_remove(runs))
        if question is not None:
            self.call_from_thread(self._confirm, question, lambda: self._remove(runs))

    @work(thread=True, group="stop")
    def _remove(self, runs: Sequence[Run]) -> None:
        from engine.runs.store import delete_run

        gone = 0
        for run in runs:
            gone += self._attempt(lambda run=run: delete_run(run) or True) is True
        if gone:
            self.tell(f"removed {runs[0].id if len(runs) == 1 else f'{gone} runs'}")
        self.watch_folder.look_now()

    def _confirm(self, question: Any, act: Callable[[], object]) -> None:
        """Ask, and act on a yes."""
        from edc_tui.screens.dialogs import Confirm

        dialog = Confirm(question.title, question.lines, yes=question.yes, danger=question.danger)
        self.push_screen(dialog, lambda yes: act() if yes else None)

    def _attempt(self, act: Callable[[], Any]) -> Any:
        """Do something that may fail as a run or a user's input may; what it says is told line by line, and None returned."""
        try:
            return act()
        except (UserError, RunError, OSError) as error:
            for line in str(error).splitlines()[:5]:
                self.tell(line, "error")
            return None

    def tell(self, text: str, severity: str = "information") -> None:
        """Show a message for a moment and keep it in the list of what has happened; from any thread."""
        line = printable(text, 500)
        self.told = [*self.told[-MOST_TOLD:], (time.time(), line, severity)]
        self.notify(line, severity=severity, markup=False, timeout=8 if severity == "error" else 4)  # type: ignore[arg-type]
        self.call_later(self._show_told)

    def _show_told(self) -> None:
        for screen in self.screen_stack:
            if hasattr(screen, "on_told"):
                screen.on_told()


def _which(runs: Sequence[Run]) -> str:
    return f"run {runs[0].id} is" if len(runs) == 1 else f"the {len(runs)} runs are"
