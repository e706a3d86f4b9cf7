"""The lines of the form: headings, groups, and one line for each key, which opens where it stands to be changed."""

from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.style import Style
from textual import events, on
from textual.binding import Binding
from textual.message import Message
from textual.widgets import Input

from edc_tui.keys import bindings
from edc_tui.widgets.cells import Canvas, Cells, cut
from edc_tui.widgets.form_fields import (
    NOT_SET,
    FieldState,
    Group,
    Offer,
    field_state,
    kind_of,
    offer_of,
    typed,
    typed_text,
)
from edc_tui.widgets.form_picker import Picker
from engine.project.draft import Draft

LABEL = 28  # cells of the names' column, with the marks before it
PICKER_LEFT = 3  # cells before a list of choices, which wants to be wide
MOST_ERROR_LINES = 3
LEAST_VALUE = 16  # cells that a value has beside a long note

# A digit on the line of a number begins to type it. These are bindings because those are looked up in the order in which keys came and
# for the line that has the cursor by then, while a key that is waited for by a line may overtake the arrow that leaves it.
TYPED = {**{digit: digit for digit in "0123456789"}, "full_stop": ".", "minus": "-"}


class Heading(Cells):
    """The title of a section of the form."""

    DEFAULT_CSS = """
    Heading { height: 1; margin: 1 0 0 1; }
    Heading.-first { margin: 0 0 0 1; }
    """

    def __init__(self, title: str, *, classes: str | None = None) -> None:
        super().__init__(classes=classes)
        self._title = title

    def draw(self, canvas: Canvas) -> None:
        """Draw the title."""
        canvas.put(0, 0, self._title, "accent strong")


class FormLine(Cells, can_focus=True):
    """A line one can go to; it takes its colours from the form, since as many lines as these each with its own would be slow to open."""

    BINDINGS = bindings("form")
    DEFAULT_CSS = """
    FormLine { height: 1; }
    FormLine:focus { background: $primary 25%; }
    FormLine:focus:ansi { background: ansi_default; }
    """

    def action_move(self, step: int) -> None:
        """Go to another line, at once: the next key may be here already."""
        self.go(step)

    def action_edge(self, last: bool) -> None:
        """Go to the first or last line."""
        self.go(10_000 if last else -10_000)

    def go(self, step: int) -> None:
        """Have the form go so many lines further."""
        self._form.go(self, step)

    @property
    def _form(self) -> Any:
        """Return the form, which is made of lines and cannot be imported here."""
        return self.query_ancestor("Form")

    @classmethod
    def _get_component_classes(cls) -> frozenset[str]:
        return frozenset()

    def _component(self, name: str) -> Style:
        return self._form.heading._component(name)

    def watch_has_focus(self, _has_focus: bool) -> None:
        """Draw the cursor, or take it away."""
        super().watch_has_focus(_has_focus)
        self.redraw()


class ValueLine(Input):
    """The line in which a value is typed; keys that come behind one that leaves it are for whatever has the cursor then."""

    left = False

    async def _on_key(self, event: events.Key) -> None:
        if self.left:
            event.stop()
            event.prevent_default()
            self.app.post_message(events.Key(event.key, event.character))
            return
        self.left = event.key in ("up", "down", "enter", "escape", "tab", "shift+tab", "pageup", "pagedown")
        await super()._on_key(event)


class FieldLine(FormLine):
    """One key: marks, name, value, where it comes from, below it what is wrong, and while it is open what it is changed with."""

    BINDINGS = [Binding(key, f"type({character!r})", show=False) for key, character in TYPED.items()]
    DEFAULT_CSS = """
    FieldLine > ValueLine { height: 1; border: none; padding: 0; background: $surface; }
    """

    @dataclass
    class Edited(Message):
        """A value was changed (None: is not to be set). While `done` is false the line is still open and may be cancelled."""

        name: str
        value: Any
        done: bool

    @dataclass
    class Cancelled(Message):
        """The line was closed and everything is to be as it was when it opened."""

        name: str

    @dataclass
    class Opened(Message):
        """The line is open now."""

        name: str

    def __init__(self, name: str, label: str) -> None:
        super().__init__(id=line_id(name))
        self.key, self._short = name, label
        self._in_full = False
        self.state = FieldState()
        self._draft: Draft | None = None
        self._picker_lines = 0
        self.open = False  # while the value is being changed

    @property
    def label(self) -> str:
        """Return what the line calls its key."""
        return self.key if self._in_full else self._short

    def name_in_full(self, full: bool) -> None:
        """Name the key with its section, where the heads of groups are not shown."""
        if full != self._in_full:
            self._in_full = full
            self.redraw()

    def show(self, draft: Draft, problems: dict[str, str]) -> None:
        """Show the key as a draft has it."""
        self._draft = draft
        state = field_state(self.key, draft, problems)
        if state != self.state:
            self.state = state
            self._fit()
            self.redraw()

    # Drawing.

    def _errors(self, width: int) -> list[str]:
        """Return the lines that say what is wrong."""
        from textwrap import wrap

        space = max(width - LABEL - 2, 20)
        return wrap(self.state.error, space, max_lines=MOST_ERROR_LINES, placeholder=" …") if self.state.error else []

    def _fit(self) -> None:
        """Be as high as what is shown."""
        errors = len(self._errors(self.size.width or 80))
        self.styles.height = 1 + errors + self._picker_lines
        for child in self.children:
            child.styles.margin = (1 + errors, 0, 0, PICKER_LEFT) if isinstance(child, Picker) else (0, 0, 0, LABEL)

    def on_resize(self) -> None:
        """Break the error anew."""
        self._fit()

    def draw(self, canvas: Canvas) -> None:
        """Draw the line and what is wrong with it."""
        state, width = self.state, canvas.width
        wrong, deviates = bool(state.error), state.mark == "deviates"
        glyph, style = ("✗", "bad") if wrong else ("◆", "warn") if deviates else ("·", "muted") if state.mark else (" ", "")
        faint = "muted" if state.idle else ""
        canvas.put(0, 0, "›" if self.has_focus or self.open else " ", "accent")
        canvas.put(1, 0, glyph, style)
        canvas.put(3, 0, self.label, "strong" if self.has_focus or self.open else faint, LABEL - 4)
        space = width - LABEL
        note = "no effect" if state.idle and not deviates else state.note
        said = f"{state.value} {state.unit}".rstrip()
        beside_value = max(space - cell_len(state.value) - 2, space - LEAST_VALUE - 2 if deviates else 12)
        note = cut(note, min(cell_len(note), beside_value, max(space - LEAST_VALUE // 2, 0)))
        value_cells = space - cell_len(note) - 2
        own = "muted" if state.value == NOT_SET else "strong" if state.mark else ""
        value_style = "bad" if wrong else "warn" if deviates else faint or own
        x = canvas.put(LABEL, 0, state.value, value_style, value_cells)
        if cell_len(said) <= value_cells:
            canvas.put(x + 1, 0, state.unit, "muted")
        canvas.put(width - cell_len(note), 0, note, "warn" if deviates else "muted")
        for number, line in enumerate(self._errors(width), start=1):
            canvas.put(LABEL, number, ("✗ " if number == 1 else "  ") + line, "bad")

    # Changing.

    def action_edit(self) -> None:
        """Open the line; Enter that comes before the opened line has the cursor closes it."""
        if self.open:
            self.settle(focus=True)
        if self.open or self._draft is None:
            return
        if kind_of(self.key) == "text":
            self._open_input()
        else:
            self._open_picker(offer_of(self.key, self._draft))

    def _open_input(self, begun: str | None = None) -> None:
        text = typed_text(self._draft.value(self.key)) if self._draft else ""
        line = ValueLine(text if begun is None else begun, compact=True, select_on_focus=begun is None)
        line.cursor_blink = False  # a blinking cursor would send bytes for ever
        self._mount(line)

    def _open_picker(self, offer: Offer) -> None:
        value = self._draft.value(self.key) if self._draft else None
        several = kind_of(self.key) == "choices"
        picker = Picker(offer, value if isinstance(value, list) else [] if several else [value], several=several)
        self._picker_lines = picker.lines
        self._mount(picker)

    def _mount(self, widget: ValueLine | Picker) -> None:
        self.open = True
        self.post_message(self.Opened(self.key))
        self.mount(widget)
        self._fit()
        if isinstance(widget, ValueLine):
            widget.focus()
        self.call_after_refresh(self.scroll_visible, animate=False)

    def close(self, *, focus: bool) -> None:
        """Close the line; `focus`: the cursor comes back to it."""
        self.open = False
        self.remove_children()
        self._picker_lines = 0
        self._fit()
        if focus:
            self.focus()

    @on(Input.Changed)
    def typing(self, event: Input.Changed) -> None:
        """Check as one types."""
        event.stop()
        if self.open and self._draft is not None and event.value != typed_text(self._draft.value(self.key)):
            self.post_message(self.Edited(self.key, typed(self.key, event.value), done=False))

    @on(Input.Submitted)
    def submitted(self, event: Input.Submitted) -> None:
        """Keep what was typed."""
        event.stop()
        self.settle(focus=True)

    @on(Input.Blurred)
    def left(self, event: Input.Blurred) -> None:
        """Keep what was typed when one goes elsewhere."""
        event.stop()
        if self.app.app_focus:
            self.settle(focus=False)

    def settle(self, *, focus: bool) -> None:
        """Close the line of a typed value and keep it."""
        if self.open and not self.query(Picker):
            edited = self.finish(focus=focus)
            if edited is not None:
                self.post_message(edited)

    def finish(self, *, focus: bool = True) -> Edited | None:
        """Close an open line at once and return what it was changed to."""
        if not self.open or self._draft is None:
            return None
        value = self._draft.given.get(self.key)
        if not self.query(Picker):
            text = self.query_one(ValueLine).value
            value = value if text == typed_text(self._draft.value(self.key)) else typed(self.key, text)
        self.close(focus=focus)
        return self.Edited(self.key, value, done=True)

    @on(Picker.Picked)
    def picked(self, event: Picker.Picked) -> None:
        """Take what was chosen."""
        event.stop()
        if not self.open or self._draft is None:
            return
        several = kind_of(self.key) == "choices"
        value = event.values if several else event.values[0]
        if event.done:
            inside = self.screen.focused is None or self in self.screen.focused.ancestors_with_self
            same = value == self._draft.value(self.key)  # looked at without a change: what was not set stays so
            self.close(focus=inside)
            self.post_message(self.Edited(self.key, self._draft.given.get(self.key) if same else value, done=True))
        else:
            self.post_message(self.Edited(self.key, value, done=False))

    @on(Picker.Cancelled)
    def cancelled(self, event: Picker.Cancelled) -> None:
        """Leave everything as it was."""
        event.stop()
        self.action_cancel()

    @on(Picker.Resized)
    def resized(self, event: Picker.Resized) -> None:
        """Make room for the list."""
        event.stop()
        if self.open:
            self._picker_lines = event.lines
            self._fit()

    def action_cancel(self) -> None:
        """Close the line with everything as it was."""
        self.close(focus=True)
        self.post_message(self.Cancelled(self.key))

    def action_cycle(self, step: int) -> None:
        """Take the next of few choices."""
        if kind_of(self.key) != "choice" or self._draft is None:
            return
        offer = offer_of(self.key, self._draft)
        values = [choice.value for choice in offer.choices]
        value = self._draft.value(self.key)
        place = values.index(value) + step if value in values else 0
        self.post_message(self.Edited(self.key, values[place % len(values)], done=True))

    def action_toggle(self) -> None:
        """Take the other of two values; open the line of any other."""
        if kind_of(self.key) == "choice" and self._draft is not None and len(offer_of(self.key, self._draft).choices) == 2:
            self.action_cycle(1)
        else:
            self.action_edit()

    def action_reset(self) -> None:
        """Take the method's value again, or what stands when nothing is set."""
        if self._draft is not None and self.key in self._draft.given:
            self.post_message(self.Edited(self.key, None, done=True))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Show only the keys that do something here."""
        if self.open:
            return action in ("move", "cancel", "type") or (action == "edit" and self.has_focus)
        if action == "type":
            return self._numeric
        if action == "cancel":
            return False
        if action == "reset":
            return self._draft is not None and self.key in self._draft.given
        return True

    def action_move(self, step: int) -> None:
        """Go to another line, keeping what was typed."""
        self.settle(focus=False)
        super().action_move(step)

    def action_type(self, character: str) -> None:
        """Begin to type a value, or go on before the opened line has the cursor."""
        if not self.open:
            self._open_input(character)
            self.post_message(self.Edited(self.key, typed(self.key, character), done=False))
        elif not self.query(Picker):
            self.query_one(ValueLine).insert_text_at_cursor(character)

    @property
    def _numeric(self) -> bool:
        value = self._draft.value(self.key) if self._draft else None
        return kind_of(self.key) == "text" and isinstance(value, int | float | list)

    def on_click(self, event: events.Click) -> None:
        """Go to the line; open it by a click on the value."""
        if not self.open:
            self.focus()
            if event.y == 0 and event.x >= LABEL:
                self.action_edit()


class GroupLine(FormLine):
    """The head of a group: open or closed, what it is about, how much of it is yours and how much wrong."""

    @dataclass
    class Folded(Message):
        """The group was opened or closed."""

        section: str
        open: bool

    def __init__(self, group: Group) -> None:
        super().__init__(id=f"group-{group.section}")
        self.group = group
        self.open = False
        self._counts = (0, 0)

    def show(self, draft: Draft, problems: dict[str, str]) -> None:
        """Count what is set and what is wrong."""
        counts = sum(name in draft.given for name in self.group.names), sum(name in problems for name in self.group.names)
        if counts != self._counts:
            self._counts = counts
            self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw the head."""
        mine, wrong = self._counts
        parts = [(f"{wrong} wrong", "bad")] if wrong else []
        parts += [(f"{mine} yours", "warn")] if mine else []
        parts += [(f"{len(self.group.names)} more", "muted")] if not parts and not self.open else []
        canvas.put(0, 0, "›" if self.has_focus else " ", "accent")
        x = canvas.put(1, 0, f"{'▾' if self.open else '▸'} {self.group.section}", "", LABEL - 2)
        end = canvas.width - sum(cell_len(text) + 2 for text, _ in parts)
        canvas.put(max(x + 2, LABEL), 0, self.group.title, "muted", max(end - max(x + 2, LABEL), 0))
        for text, style in parts:
            end = canvas.put(end + 2, 0, text, style)

    def fold(self, open: bool) -> None:
        """Open or close the group."""
        if open != self.open:
            self.open = open
            self.redraw()
            self.post_message(self.Folded(self.group.section, open))

    def action_edit(self) -> None:
        """Open or close the group."""
        self.fold(not self.open)

    def action_toggle(self) -> None:
        """Open or close the group."""
        self.fold(not self.open)

    def action_cycle(self, step: int) -> None:
        """Open or close the group."""
        self.fold(step > 0)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Show only the keys that do something here."""
        return action not in ("reset", "cancel")

    def on_click(self) -> None:
        """Open or close the group."""
        self.focus()
        self.fold(not self.open)


def line_id(name: str) -> str:
    """Return the id of a key's line: `field-condense-ipc`."""
    return f"field-{name.replace('.', '-')}"
