"""Small questions on top of a screen: yes or no, one line of text, one of several."""

from collections.abc import Callable, Sequence

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from edc_tui.keys import bindings
from engine.runs.text import printable

WIDTH = 76
BOX = """
{name} {{ align: center middle; }}
{name}:ansi {{ background: ansi_default; }}
{name} > Vertical {{
    width: {width}; max-width: 96%; height: auto; max-height: 96%; padding: 1 2; background: $surface; border: round $primary;
}}
{name} .title {{ text-style: bold; }}
{name} .line {{ margin-top: 1; }}
{name} #buttons {{ height: auto; width: auto; margin-top: 1; }}
{name} Button {{ margin-right: 2; min-width: 12; }}
{name} Input {{ margin-top: 1; }}
{name} VerticalScroll {{ height: auto; max-height: 40vh; margin-top: 1; scrollbar-size-vertical: 1; }}
{name} OptionList {{ height: auto; max-height: 16; margin-top: 1; }}
{name} #problem {{ color: $text-error; height: auto; }}
"""


class Confirm(ModalScreen[bool]):
    """Says what will happen and asks whether it shall; a click beside it means no."""

    DEFAULT_CSS = BOX.format(name="Confirm", width=WIDTH)
    BINDINGS = bindings("dialog")
    AUTO_FOCUS = "#yes"

    def __init__(self, title: str, lines: Sequence[str] = (), *, yes: str = "Yes", danger: bool = False) -> None:
        """`danger`: the answer that Enter gives is no."""
        super().__init__()
        self._title, self._lines, self._yes, self._danger = printable(title), [printable(line) for line in lines], yes, danger
        if danger:
            self.AUTO_FOCUS = "#no"  # type: ignore[misc]

    def compose(self) -> ComposeResult:
        """Lay out the question."""
        with Vertical():
            yield Static(self._title, markup=False, classes="title")
            for line in self._lines:
                yield Static(line, markup=False, classes="line")
            with Horizontal(id="buttons"):
                yield Button(underlined("y", self._yes), id="yes", variant="error" if self._danger else "primary", compact=True)
                yield Button(underlined("n", "No"), id="no", compact=True)

    @on(Button.Pressed, "#yes")
    def action_yes(self) -> None:
        """Answer yes."""
        self.dismiss(True)

    @on(Button.Pressed, "#no")
    def action_no(self) -> None:
        """Answer no."""
        self.dismiss(False)

    def on_key(self, event: events.Key) -> None:
        """Go from one button to the other with the arrows."""
        if event.key in ("left", "right"):
            self.focus_next()

    def on_click(self, event: events.Click) -> None:
        """Take a click beside the box for a no."""
        if self.get_widget_at(event.screen_x, event.screen_y)[0] is self:
            self.dismiss(False)


class Ask(ModalScreen[str | None]):
    """Asks for a line of text; `check` returns what is wrong with it, or None."""

    DEFAULT_CSS = BOX.format(name="Ask", width=WIDTH)
    BINDINGS = [("escape", "cancel", "Cancel")]

    def __init__(self, title: str, value: str = "", *, check: Callable[[str], str | None] | None = None) -> None:
        super().__init__()
        self._title, self._value, self._check = printable(title), value, check

    def compose(self) -> ComposeResult:
        """Lay out the question."""
        with Vertical():
            yield Static(self._title, markup=False, classes="title")
            yield Input(self._value)
            yield Static("", markup=False, id="problem")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take the text, unless something is wrong with it."""
        problem = self._check(event.value) if self._check else None
        if problem:
            self.query_one("#problem", Static).update(printable(problem))
        else:
            self.dismiss(event.value)

    def action_cancel(self) -> None:
        """Give nothing."""
        self.dismiss(None)


class Choose(ModalScreen[str | None]):
    """Asks for one of several; gives its text, or None."""

    DEFAULT_CSS = BOX.format(name="Choose", width=WIDTH)
    BINDINGS = [("escape", "cancel", "Cancel")]

    def __init__(self, title: str, options: Sequence[str], current: str | None = None) -> None:
        super().__init__()
        self._title, self._options, self._current = printable(title), list(options), current

    def compose(self) -> ComposeResult:
        """Lay out the question."""
        with Vertical():
            yield Static(self._title, markup=False, classes="title")
            yield OptionList(*(Option(Content(printable(option))) for option in self._options))

    def on_mount(self) -> None:
        """Begin at the present choice."""
        if self._current in self._options:
            self.query_one(OptionList).highlighted = self._options.index(self._current)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take the option."""
        self.dismiss(self._options[event.option_index])

    def action_cancel(self) -> None:
        """Give nothing."""
        self.dismiss(None)


def underlined(key: str, text: str) -> Content:
    """Return a button's text with the key that presses it."""
    return Content.assemble((key, "underline"), f" {printable(text)}")
