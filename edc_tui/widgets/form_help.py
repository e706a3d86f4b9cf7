"""Below the form: two lines on what the cursor is at."""

from textual.widget import Widget

from edc_tui.widgets.cells import Canvas, Cells
from edc_tui.widgets.form_fields import bounds, field_of, may_be_absent, plain_help, spoken
from edc_tui.widgets.form_lines import GroupLine
from edc_tui.widgets.form_preview import FilePreview
from engine.project.draft import Draft

LONG = 20  # cells; a longer value may be cut in its line, and is said here in full


class HelpLine(Cells):
    """What the value at the cursor is for, and below that its name, what it takes, and where the papers speak of it."""

    DEFAULT_CSS = "HelpLine { height: 2; padding: 0 1; background: $panel; }"

    def __init__(self) -> None:
        super().__init__()
        self._lines: tuple[str, str] = ("", "")

    def explain_at(self, name: str | None, focused: Widget | None, draft: Draft) -> None:
        """Explain what has the cursor: the key `name`, the head of a group, or the file."""
        if name is not None:
            self.explain(name, draft)
        elif isinstance(focused, GroupLine):
            self.say(f"{focused.group.title}.", ", ".join(key.partition(".")[2] for key in focused.group.names))
        elif isinstance(focused, FilePreview):
            self.say("The file as it will be saved: + new, - gone.", "the arrows scroll; p goes back to the form")
        else:
            self.say("", "")

    def explain(self, name: str, draft: Draft) -> None:
        """Explain a key."""
        extra = field_of(name).json_schema_extra or {}
        said = spoken(draft.value(name))
        takes = bounds(name) + (", or nothing" if may_be_absent(name) else "")
        facts = [name, takes, extra.get("paper", ""), said if len(said) > LONG else ""]
        self.say(plain_help(name), " · ".join(filter(None, facts)))

    def explain_choice(self, name: str | None, choice: str, note: str) -> None:
        """Explain a choice for a key, whose note may be too long for its line."""
        self.say(f"{choice}: {note}", f"{name} · {plain_help(name)}" if name else "")

    def say(self, first: str, second: str) -> None:
        """Show two lines."""
        self._lines = first, second
        self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw the lines."""
        canvas.put(0, 0, self._lines[0])
        canvas.put(0, 1, self._lines[1], "muted")
