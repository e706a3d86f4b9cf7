"""The project screen: a form made from the schema, beside it the file as it will be saved and what it would do."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.reactive import Reactive
from textual.screen import Screen
from textual.widgets import Button, Input, Static

from edc_tui.history import History
from edc_tui.keys import bindings
from edc_tui.open_file import OpenFile, name_problem, stem, suggested_name
from edc_tui.screens.dialogs import Ask
from edc_tui.screens.project_dialogs import ChangedOnDisk, FieldHelp, Unsaved
from edc_tui.settings import editor
from edc_tui.watch import RunsChanged
from edc_tui.widgets.form import Form
from edc_tui.widgets.form_fields import search_words
from edc_tui.widgets.form_help import HelpLine
from edc_tui.widgets.form_lines import FieldLine, FormLine, Heading
from edc_tui.widgets.form_picker import Picker
from edc_tui.widgets.form_plan import Planned, PlanView
from edc_tui.widgets.form_preview import FilePreview
from edc_tui.widgets.keybar import KeyBar
from edc_tui.widgets.titleline import TitleLine
from engine.commands.tables import count, shortest
from engine.errors import RunError, UserError
from engine.project.draft import Draft, merged, read_draft
from engine.project.resolve import Problem
from engine.runs.text import printable

if TYPE_CHECKING:
    from edc_tui.app import EdcApp

LOOK_SECONDS = 2.0  # between two looks whether somebody else has changed the file
OF_THIS_MACHINE = ("dataset.", "condense.", "compute.")  # what a plan may find wrong here
# While a line is open these are typed, not done.
LETTERS = ("find", "mine", "preview", "problem", "section", "follow", "field_help", "editor", "run", "quit_app")


class ProjectScreen(Screen[None]):
    """One project being changed; `path` is None for a new one, which is named when it is saved."""

    app: "EdcApp"
    BINDINGS = bindings("project")
    AUTO_FOCUS = ""
    focused = Reactive(None, repaint=False)  # the cursor's two lines are drawn anew when it moves, not the screen
    HORIZONTAL_BREAKPOINTS: ClassVar = [(0, "-narrow"), (112, "-wide"), (160, "-xwide")]  # beside each other from 112 on
    DEFAULT_CSS = """
    ProjectScreen #top { height: 1; background: $panel; dock: top; }
    ProjectScreen #top TitleLine { dock: none; width: 1fr; }
    ProjectScreen #top Button { min-width: 9; margin-left: 1; }
    ProjectScreen #find { height: 1; border: none; padding: 0 1; display: none; }
    ProjectScreen #find.-open { display: block; }
    ProjectScreen #loose { height: auto; max-height: 5; padding: 0 1; }
    ProjectScreen #main { height: 1fr; }
    ProjectScreen Form { width: 1fr; padding-left: 1; }
    ProjectScreen #side { width: 59; border-left: solid $panel; }
    ProjectScreen #side Heading { margin: 0 1; }
    ProjectScreen FilePreview { height: 1fr; }
    ProjectScreen PlanView { margin-top: 0; }
    ProjectScreen.-xwide Form { width: 92; }
    ProjectScreen.-xwide #side { width: 1fr; }
    ProjectScreen.-narrow #side { display: none; width: 1fr; border-left: none; }
    ProjectScreen.-narrow.-preview #side { display: block; }
    ProjectScreen.-narrow.-preview Form { display: none; }
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._path = path
        self.file: OpenFile
        self.history: History
        self._elsewhere: str | None = None  # what somebody else has made of the file meanwhile
        self._misfit: Problem | None = None  # what the plan found wrong
        self._runs_seen: object = None
        self._said_of_machine: dict[str, Any] = {}
        self._mine = False
        self._left_at: str | None = None  # the key from which one has gone to the preview

    # Beginning and end.

    def compose(self) -> ComposeResult:
        """Lay out form, preview and plan."""
        with Horizontal(id="top"):
            yield TitleLine()
            yield Button("Save", id="save", compact=True)
            yield Button("Start", id="start", compact=True)
        yield Input(placeholder="words of a name or its help", id="find", compact=True, select_on_focus=False)
        yield Static("", markup=False, id="loose")
        with Horizontal(id="main"):
            yield Form(id="form")
            with Vertical(id="side"):
                yield Heading("The file as it will be saved")
                yield FilePreview()
                yield Heading("What it would do")
                yield PlanView()
        yield HelpLine()
        yield KeyBar()

    def on_mount(self) -> None:
        """Read the file, or begin a new one."""
        self.file = OpenFile(self._path, self.app.projects)
        if not self._load():
            self.call_after_refresh(self.app.action_back)
            return
        self.call_after_refresh(self.query_one(Form).go_to, "dataset.name")
        self.set_interval(max(LOOK_SECONDS, self.app.interval), self._look)

    def _load(self) -> bool:
        """Take the file as it is now; returns whether it could be read."""
        try:
            text = self.file.read()
        except UserError as error:
            self.app.tell(str(error), "error")
            return False
        self._elsewhere, self._misfit = None, None
        self.history = History(read_draft(text, self.file.place))
        self._show()
        return True

    @property
    def draft(self) -> Draft:
        """Return the project as the form shows it."""
        return self.history.draft

    @property
    def unsaved(self) -> bool:
        """Say whether something would be lost without saving."""
        return self.draft.text != self.file.text

    @property
    def problems(self) -> dict[str, str]:
        """Return everything that is wrong, by key."""
        found = dict(self.draft.problems)
        if self._misfit is not None:
            found.setdefault(self._misfit.key, self._misfit.message)
        return found

    # What is shown.

    def _show(self) -> None:
        """Show the draft in form and preview, and have it planned."""
        self._show_problems()
        self.query_one(FilePreview).show(self.file.text, self.draft.text, self.query_one(Form).at())
        self._plan_soon()
        self.refresh_bindings()

    def _show_problems(self) -> None:
        """Show the form with what is wrong beside the fields, and above it what belongs to no field."""
        problems, form = self.problems, self.query_one(Form)
        form.show(self.draft, problems)
        loose = [f"✗ {key}: {message}" if key else f"✗ {message}" for key, message in problems.items() if key not in form.fields]
        self.query_one("#loose", Static).update(
            Content("\n").join(Content.styled(printable(line), "$text-error") for line in loose) if loose else ""
        )
        self.query_one("#loose").display = bool(loose)
        self._show_title()
        self._show_help()

    def _show_title(self) -> None:
        left = [(self.file.name, "strong"), (".toml" if self.file.path else "", "muted")]
        right: list[tuple[str, str]] = []  # where there is no room the last goes first
        if self.unsaved or self.file.path is None:
            right.append(("not saved", "warn"))
        if self._elsewhere is not None:
            right.append(("changed on the disk", "bad"))
        if self.problems:
            right.append((f"✗ {count(len(self.problems), 'problem')}", "bad"))
        if self.draft.deviations:
            right.append((f"◆ {len(self.draft.deviations)} unlike {self.draft.resolved.project.condense.method}", "warn"))
        self.query_one(TitleLine).show(left, [], right)

    def _show_help(self) -> None:
        """Explain the line at the cursor."""
        self.query_one(HelpLine).explain_at(self.query_one(Form).at(), self.focused, self.draft)

    def on_descendant_focus(self) -> None:
        """Explain another line."""
        if self._form_ready:
            self._show_help()

    @property
    def _form_ready(self) -> bool:
        return hasattr(self, "history")

    def on_picker_at(self, event: Picker.At) -> None:
        """Explain the choice at the cursor."""
        if event.note:
            self.query_one(HelpLine).explain_choice(self.query_one(Form).at(), event.name, event.note)
        else:
            self._show_help()

    # The plan.

    def _plan_soon(self) -> None:
        self.query_one(PlanView).plan_soon(self.draft, projects=self.file.place.parent, name=self.file.name)

    def on_planned(self, event: Planned) -> None:
        """Show beside its field what the plan has found wrong on this machine."""
        if event.problem != self._misfit:
            self._misfit = event.problem
            self._show_problems()

    def on_runs_changed(self, event: RunsChanged) -> None:
        """Plan anew when a run has got further: more may be reused, and more be known of the time."""
        seen = [(one.run.id, one.status.word, repr(one.summary.get("stages")) if one.status.alive else "") for one in event.listings]
        if seen != self._runs_seen and self._form_ready and self.is_current:
            self._runs_seen = seen
            self._plan_soon()

    def on_screen_resume(self) -> None:
        """Plan anew, because what was above this screen may have taken time."""
        if self._form_ready:
            self._plan_soon()

    # Changing.

    def on_field_line_opened(self, event: FieldLine.Opened) -> None:
        """Keep what to go back to."""
        self.history.begin()

    def on_field_line_edited(self, event: FieldLine.Edited) -> None:
        """Show a change at once; when it is done, it can be undone as one."""
        self._change({event.name: event.value}, done=event.done)

    def on_field_line_cancelled(self, event: FieldLine.Cancelled) -> None:
        """Show what was before the line opened."""
        self.history.cancel()
        self._changed()

    def _change(self, changes: dict[str, Any], *, done: bool = True) -> None:
        try:
            self.history.change(changes, self.file.place, fresh=self.file.path is None, done=done)
        except UserError as error:
            self.app.tell(f"{error}; e opens the file in an editor", "error")
        self._changed()

    def _changed(self) -> None:
        """Show another draft; what the plan found wrong with data or machine may be right now."""
        said = {name: value for name, value in self.draft.given.items() if name.startswith(OF_THIS_MACHINE)}
        if said != self._said_of_machine:
            self._said_of_machine, self._misfit = said, None
        self._show()

    def _settle(self) -> None:
        """Keep what is being typed and close its line."""
        line = next((line for line in self.query(FieldLine) if line.open), None)
        edited = line.finish() if line is not None else None
        if edited is not None:
            self.on_field_line_edited(edited)

    def action_undo(self) -> None:
        """Take the last change back."""
        self.history.undo(self.file.place)
        self._changed()

    def action_redo(self) -> None:
        """Do again what was taken back."""
        self.history.redo(self.file.place)
        self._changed()

    def action_follow(self) -> None:
        """Take the method's value wherever there is another one."""
        self._settle()
        names = self.draft.deviations
        self._change(dict.fromkeys(names))
        self.app.tell(f"{count(len(names), 'value')} taken from {self.draft.resolved.project.condense.method}; u takes that back")

    # Going about.

    def action_find(self) -> None:
        """Begin to search."""
        self.query_one("#find", Input).add_class("-open").focus()

    @on(Input.Changed, "#find")
    def find(self) -> None:
        """Keep what has the words."""
        self._keep()

    @on(Input.Submitted, "#find")
    def found(self) -> None:
        """Go to the first line that has them."""
        lines = self.query_one(Form).lines()
        if lines:
            lines[0].focus()

    def action_mine(self) -> None:
        """Show only what is set or wrong, or everything."""
        self._mine = not self._mine
        self._keep()

    def _keep(self) -> None:
        words = self.query_one("#find", Input).value.lower().split()
        form = self.query_one(Form)
        names = [name for name in form.fields if all(word in search_words(name) for word in words)]
        if self._mine:
            names = [name for name in names if name in self.draft.given or name in self.problems]
        form.keep(names if words or self._mine else None)
        if isinstance(self.focused, FormLine) and self.focused not in form.lines() and form.lines():
            form.lines()[0].focus()

    def _everything(self) -> bool:
        """Take back what was searched for; returns whether there was anything."""
        find = self.query_one("#find", Input)
        searched = self._mine or find.has_class("-open")
        if searched:
            name = self.query_one(Form).at()
            self._mine = False
            find.value = ""
            find.remove_class("-open")
            self._keep()
            form = self.query_one(Form)
            form.go_to(name or "dataset.name")
        return searched

    def action_section(self, step: int) -> None:
        """Go to another section."""
        self.query_one(Form).go_section(step)

    def action_problem(self) -> None:
        """Go to the next value that is wrong."""
        form = self.query_one(Form)
        names = [name for name in form.fields if name in self.problems]
        if not names:
            return
        here = form.at()
        self.remove_class("-preview")
        order = list(form.fields)
        ahead = [name for name in names if here is not None and order.index(name) > order.index(here)]
        self._everything()
        form.go_to((ahead or names)[0])

    def action_preview(self) -> None:
        """Go from the form to the file and the plan, or back."""
        preview, form = self.query_one(FilePreview), self.query_one(Form)
        to_form = self.has_class("-preview") or preview.has_focus
        self.set_class(not to_form, "-preview")
        if to_form:
            form.go_to(self._left_at or "dataset.name")
        else:
            self._left_at = form.at()
            preview.focus()
            self.call_after_refresh(preview.reveal, self._left_at)

    @work
    async def action_field_help(self) -> None:
        """Explain the value at the cursor."""
        name = self.query_one(Form).at()
        answer = "keys" if name is None else await self.app.push_screen_wait(FieldHelp(name, self.draft))
        if answer == "keys":
            self.app.action_help()

    # The file.

    def _look(self) -> None:
        """Notice that somebody else has written the file."""
        if not self.is_current:
            return
        theirs = self.file.text_elsewhere()
        if theirs is not None and not self.unsaved and not self.history.open:
            if self._load():
                self.app.tell(f"{self.file.place.name} was changed by another program and has been read again")
        elif theirs != self._elsewhere:
            self._elsewhere = theirs
            self._show_title()

    @on(Button.Pressed, "#save")
    def save_pressed(self) -> None:
        """Save."""
        self.action_save()

    @on(Button.Pressed, "#start")
    def start_pressed(self) -> None:
        """Save and start."""
        self.action_run()

    @work(exclusive=True, group="file")
    async def action_save(self) -> None:
        """Write the file."""
        await self._save()

    @work(exclusive=True, group="file")
    async def action_run(self) -> None:
        """Save, and start the run unless something is wrong."""
        self._settle()
        if self.problems:
            key, message = next(iter(self.problems.items()))
            self.app.tell(f"not started: {key}{': ' if key else ''}{message}", "error")
            if any(name in self.query_one(Form).fields for name in self.problems):
                self.action_problem()
        elif await self._save(quiet=True) and self.file.path is not None:
            self.app.start_run(self.file.path)

    @work(exclusive=True, group="file")
    async def action_editor(self) -> None:
        """Open the file in the user's editor and show what came of it."""
        self._settle()
        if (self.unsaved or self.file.path is None) and not await self._save(quiet=True):
            return
        self.app.edit_outside(self.file.place, editor() or "vi")
        if self.file.text_elsewhere() is not None:
            self._load()

    async def _save(self, *, quiet: bool = False) -> bool:
        """Write the file, asking for a name or whose changes count where need be; returns whether it is written."""
        self._settle()
        path, folder = self.file.path, self.app.projects
        if path is None:
            suggested = suggested_name(folder, self.draft)
            question = Ask("Name of the project", suggested, yes="Save", check=lambda text: name_problem(folder, text))
            name = await self.app.push_screen_wait(question)
            if name is None:
                return False
            path = folder / f"{stem(name)}.toml"
        elif self.file.text_elsewhere() is not None:
            if not await self._agree(path):
                return False
        elif not self.unsaved and self.file.is_there():
            if not quiet:
                self.app.tell(f"{path.name} is saved already")
            return True
        return self._write(path, quiet=quiet)

    async def _agree(self, path: Path) -> bool:
        """Ask whose file counts where somebody else has changed it; returns whether what the form then shows is to be written."""
        theirs = self.file.text_elsewhere()
        answer = await self.app.push_screen_wait(ChangedOnDisk(path.name, self.draft.text, theirs or ""))
        if answer == "theirs":
            self._load()
        elif answer == "both" and theirs is not None:
            try:
                both = merged(self.draft, self.file.text, theirs, path)
            except UserError as error:
                self.app.tell(f"cannot put both together: {error}", "error")
                return False
            self.history.take(both)
        return answer in ("mine", "both")

    def _write(self, path: Path, *, quiet: bool) -> bool:
        try:
            self.file.write(path, self.draft.text)
        except RunError as error:
            self.app.tell(f"not saved: {error}", "error")
            return False
        self._elsewhere = None
        self.history.draft = read_draft(self.draft.text, path)
        self._show()
        self.app.watch_folder.look_now()
        if not quiet:
            wrong = f", with {count(len(self.problems), 'problem')}" if self.problems else ""
            self.app.tell(f"saved {printable(shortest(path))}{wrong}")
        return True

    # Leaving.

    @work(exclusive=True, group="file")
    async def action_leave(self) -> None:
        """Take back what was searched for, or go back."""
        if self._everything():
            return
        if self.has_class("-preview") or self.query_one(FilePreview).has_focus:
            self.action_preview()
        elif await self._may_leave():
            self.app.action_back()

    @work(exclusive=True, group="file")
    async def action_quit_app(self) -> None:
        """Leave the app."""
        if await self._may_leave():
            await self.app.run_action("quit")

    async def _may_leave(self) -> bool:
        """Ask what becomes of unsaved changes; returns whether one may go."""
        self._settle()
        if not self.unsaved:
            return True
        answer = await self.app.push_screen_wait(Unsaved(self.file.name))
        return answer == "discard" or (answer == "save" and await self._save())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Show only the keys that do something now."""
        if not self._form_ready:
            return True
        focused = self.focused
        if action in LETTERS and isinstance(focused, Input):
            return False
        if isinstance(focused, FieldLine) and focused.open:
            return False  # it is about to give the cursor to what one types into
        useful = {"undo": self.history.can_undo, "redo": self.history.can_redo, "problem": self.problems, "follow": self.draft.deviations}
        return bool(useful.get(action, True))
