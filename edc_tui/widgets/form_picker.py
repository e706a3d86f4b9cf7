"""Choosing one or some of several below a field: type to search, arrows to move, space or Enter to take, a click does the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from edc_tui.keys import bindings
from edc_tui.widgets.form_fields import Choice, Offer, spoken
from engine.runs.text import printable

FEW = 7  # so many choices need no search
MOST_LINES = 9
ONE, SEVERAL = "type to search; Enter takes", "type to search; Space takes or leaves, Enter is done"
NAME_CELLS = 20  # least width of the names' column, so that the notes stand below each other


class SearchLine(Input):
    """The line one searches by; a blank takes the choice instead of being typed, since no name has one."""

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "space":
            event.stop()
            event.prevent_default()
            self.post_message(Picker.Take())
            return
        await super()._on_key(event)


class Picker(Vertical):
    """A list of choices; `several` are kept in the order in which they were taken."""

    BINDINGS = bindings("picker")
    DEFAULT_CSS = """
    Picker { height: auto; background: $surface; border-left: outer $primary; padding: 0 1; }
    Picker SearchLine { height: 1; background: $surface; padding: 0; }
    Picker OptionList {
        height: auto; background: $surface; padding: 0; border: none; scrollbar-size-vertical: 1;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    """

    @dataclass
    class Picked(Message):
        """Other values are chosen now; `done` when the list is to be closed."""

        values: list[Any]
        done: bool

    @dataclass
    class Cancelled(Message):
        """The list is to be closed with everything as it was."""

    @dataclass
    class Resized(Message):
        """The list has so many lines now."""

        lines: int

    @dataclass
    class At(Message):
        """The cursor is at this choice."""

        name: str
        note: str

    @dataclass
    class Take(Message):
        """The choice under the cursor is taken, by a blank in the search line."""

    def __init__(self, offer: Offer, chosen: Sequence[Any], *, several: bool) -> None:
        super().__init__()
        self._offer, self._chosen, self._several = offer, list(chosen), several
        self._searched = offer.free or several or len(offer.choices) > FEW
        known = [choice.value for choice in offer.choices]
        own = [Choice(value, "yours") for value in self._chosen if value not in known] if several or offer.free else []
        self._choices = [*own, *offer.choices]
        self._shown: list[Choice] = []
        self._settled = self._pressed = False

    @property
    def lines(self) -> int:
        """Return how many lines the list takes."""
        return min(max(len(self._shown or self._choices), 1), MOST_LINES) + self._searched

    def compose(self) -> ComposeResult:
        """Lay out the search line and the list."""
        if self._searched:
            yield SearchLine(placeholder=SEVERAL if self._several else ONE, compact=True)
        choices = OptionList(compact=True, markup=False)
        choices.can_focus = not self._searched
        choices.styles.max_height = MOST_LINES
        yield choices

    def on_mount(self) -> None:
        """Begin at what is chosen."""
        self._fill("")
        choices = self.query_one(OptionList)
        present = [index for index, choice in enumerate(self._shown) if choice.value in self._chosen]
        choices.highlighted = present[0] if present else 0
        (self.query_one(SearchLine) if self._searched else choices).focus()

    def _fill(self, text: str) -> None:
        """Show the choices that have every typed word, and the typed text itself where it may be one."""
        words = text.lower().split()
        self._shown = [choice for choice in self._choices if all(word in f"{spoken(choice.value)} {choice.note}".lower() for word in words)]
        typed = printable(text)
        begun = [index for index, choice in enumerate(self._shown) if spoken(choice.value).startswith(typed)] if typed else []
        if self._offer.free and typed and not any(choice.value == typed for choice in self._shown):
            self._shown.append(Choice(typed, self._offer.judge(typed) or "as typed"))
        choices = self.query_one(OptionList)
        choices.clear_options()
        choices.add_options([Option(self._line(choice)) for choice in self._shown] or [Option("nothing fits", disabled=True)])
        if self._shown:
            choices.highlighted = begun[0] if begun else 0
        self.post_message(self.Resized(self.lines))

    def _line(self, choice: Choice) -> Content:
        here = choice.value in self._chosen
        if self._several:
            number = f"{self._chosen.index(choice.value) + 1}" if here else " "
            mark = f"[{number}] "
        else:
            mark = "● " if here else "○ "
        name = spoken(choice.value)
        gap = " " * max(NAME_CELLS - cell_len(name), 2)
        return Content.assemble(
            (mark, "$text-accent" if here else ""),
            (name, "bold" if here else ""),
            (gap + printable(choice.note), "dim") if choice.note else "",
        )

    # What one does with it.

    @on(Input.Changed)
    def search(self, event: Input.Changed) -> None:
        """Show what fits."""
        event.stop()
        self._fill(event.value)

    def action_move(self, step: int) -> None:
        """Move the cursor, round the ends."""
        choices = self.query_one(OptionList)
        if self._shown:
            choices.highlighted = ((choices.highlighted or 0) + step) % len(self._shown)

    def on_picker_take(self, event: Take) -> None:
        """Take what the cursor is at."""
        event.stop()
        self.action_take()

    def action_take(self) -> None:
        """Take or leave what the cursor is at; of one choice, that is all there is to do."""
        index = self.query_one(OptionList).highlighted
        if index is not None and index < len(self._shown):
            self._take(index)

    @on(OptionList.OptionSelected)
    def clicked(self, event: OptionList.OptionSelected) -> None:
        """Take what was clicked, or chosen by Enter where there is no search line."""
        event.stop()
        self._take(event.option_index)

    @on(OptionList.OptionHighlighted)
    def told(self, event: OptionList.OptionHighlighted) -> None:
        """Say all that there is to say of the choice under the cursor, for which its line may be too short."""
        event.stop()
        if event.option_index < len(self._shown):
            choice = self._shown[event.option_index]
            self.post_message(self.At(spoken(choice.value), choice.note))

    @on(Input.Submitted)
    def submitted(self, event: Input.Submitted) -> None:
        """Take what was searched for; with nothing searched for, of several, be done."""
        event.stop()
        self.action_enter()

    def action_enter(self) -> None:
        """Take what the cursor is at, or be done where some of several are chosen by space."""
        search = self.query_one(SearchLine) if self._searched else None
        if self._several and not (search and search.value):
            self.close()
        else:
            self.action_take()
            if search:
                search.value = ""

    def _take(self, index: int) -> None:
        choice = self._shown[index]
        if not self._several:
            self._chosen = [choice.value]
            self._settled = True
            self.post_message(self.Picked([choice.value], done=True))
            return
        if choice.value in self._chosen:
            self._chosen.remove(choice.value)
        else:
            self._chosen.append(choice.value)
            if choice not in self._choices:
                self._choices.insert(0, Choice(choice.value, "yours"))
        choices = self.query_one(OptionList)
        for place, shown in enumerate(self._shown):
            choices.replace_option_prompt_at_index(place, self._line(shown))
        self.post_message(self.Picked(list(self._chosen), done=False))

    def close(self) -> None:
        """Be done with what is chosen."""
        if not self._settled:
            self._settled = True
            self.post_message(self.Picked(list(self._chosen), done=True))

    def action_cancel(self) -> None:
        """Close with everything as it was, or first take back what was searched for."""
        search = self.query_one(SearchLine) if self._searched else None
        if search and search.value:
            search.value = ""
        elif not self._settled:
            self._settled = True
            self.post_message(self.Cancelled())

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Remember that a click took the focus away from the search line."""
        self._pressed = self._searched and isinstance(event.widget, OptionList)

    def on_descendant_blur(self) -> None:
        """Be done when the focus goes elsewhere."""
        self.call_after_refresh(self._look_at_focus)

    def _look_at_focus(self) -> None:
        if self._pressed and self.is_attached:
            self._pressed = False
            self.query_one(SearchLine).focus()
            return
        focused = self.screen.focused if self.is_attached else None
        if self.is_attached and self.app.app_focus and (focused is None or self not in focused.ancestors_with_self):
            self.close()
