"""Small questions on top of a screen, which stays in sight: yes or no, one line of text, one of several."""

from collections.abc import Callable, Sequence
from typing import Any

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from edc_tui.keys import bindings
from engine.runs.text import printable


class Dialog(ModalScreen[Any]):
    """A box over the screen that it is about, which stays in sight; a click beside it gives nothing."""

    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > Vertical {
        width: 76; max-width: 96%; height: auto; max-height: 96%; padding: 1 2; background: $surface; border: round $primary;
    }
    Dialog .title { text-style: bold; }
    Dialog .line { margin-top: 1; }
    Dialog #buttons { height: auto; width: auto; margin-top: 1; }
    Dialog Button { margin-right: 2; min-width: 12; }
    Dialog Input, Dialog Input:focus { margin-top: 1; height: 1; border: none; padding: 0 1; background: $panel; }
    Dialog Input:ansi { text-style: underline; }
    Dialog VerticalScroll { height: auto; max-height: 40vh; margin-top: 1; scrollbar-size-vertical: 1; }
    Dialog OptionList { height: auto; max-height: 16; margin-top: 1; border: none; padding: 0; }
    Dialog #problem { color: $text-error; height: auto; display: none; }
    """

    def on_click(self, event: events.Click) -> None:
        """Take a click beside the box for no answer."""
        if self.get_widget_at(event.screen_x, event.screen_y)[0] is self:
            self.dismiss(None)

    def on_key(self, event: events.Key) -> None:
        """Go from one button to the next with the arrows."""
        if event.key in ("left", "right") and isinstance(self.focused, Button):
            (self.focus_next if event.key == "right" else self.focus_previous)(Button)


class Confirm(Dialog):
    """Says what will happen and asks whether it shall."""

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
                yield Button(keyed("y", self._yes), id="yes", variant="error" if self._danger else "primary", compact=True)
                yield Button(keyed("n", "No"), id="no", compact=True)

    @on(Button.Pressed, "#yes")
    def action_yes(self) -> None:
        """Answer yes."""
        self.dismiss(True)

    @on(Button.Pressed, "#no")
    def action_no(self) -> None:
        """Answer no."""
        self.dismiss(False)


class Ask(Dialog):
    """Asks for a line of text; `check` returns what is wrong with it, or None."""

    BINDINGS = [("escape", "cancel", "Cancel")]

    def __init__(self, title: str, value: str = "", *, yes: str, check: Callable[[str], str | None] | None = None) -> None:
        """`yes` is the word for what is done with the text."""
        super().__init__()
        self._title, self._value, self._yes, self._check = printable(title), value, yes, check

    def compose(self) -> ComposeResult:
        """Lay out the question."""
        with Vertical():
            yield Static(self._title, markup=False, classes="title")
            yield Input(self._value)
            yield Static("", markup=False, id="problem")
            with Horizontal(id="buttons"):
                yield Button(keyed("enter", self._yes), id="yes", variant="primary", compact=True)
                yield Button(keyed("esc", "Cancel"), id="no", compact=True)

    @on(Input.Submitted)
    @on(Button.Pressed, "#yes")
    def take(self) -> None:
        """Take the text, unless something is wrong with it."""
        text = self.query_one(Input).value
        problem = self._check(text) if self._check else None
        if problem:
            said = self.query_one("#problem", Static)
            said.update(printable(problem))
            said.display = True
        else:
            self.dismiss(text)

    @on(Button.Pressed, "#no")
    def action_cancel(self) -> None:
        """Give nothing."""
        self.dismiss(None)


class Choose(Dialog):
    """Asks for one of several; gives its text, or None."""

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


def keyed(key: str, text: str) -> Content:
    """Return a button's text with the key that presses it."""
    return Content.assemble((key, "underline"), f" {printable(text)}")
