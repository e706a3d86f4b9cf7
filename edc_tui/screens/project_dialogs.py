"""Questions of the project screen: what becomes of unsaved changes, whose file counts, and all there is to say of one value."""

import difflib

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Static

from edc_tui.keys import bindings
from edc_tui.screens.dialogs import Dialog, keyed
from edc_tui.widgets.form_fields import bounds, field_of, may_be_absent, origin_words, plain_help, spoken
from engine.project.draft import Draft, has_method_value
from engine.runs.text import printable


class Answers(Dialog):
    """A question with several answers: buttons with a letter each; Escape gives none."""

    def __init__(self, title: str, lines: tuple[str, ...], answers: tuple[tuple[str, str], ...]) -> None:
        """`answers` are (action, label) pairs; the key that gives one is in the table of keys."""
        super().__init__()
        self._title, self._lines, self._answers = printable(title), lines, answers

    def compose(self) -> ComposeResult:
        """Lay out the question."""
        with Vertical():
            yield Static(self._title, markup=False, classes="title")
            for line in self._lines:
                yield Static(printable(line), markup=False, classes="line")
            yield from self.compose_more()
            with Horizontal(id="buttons"):
                for action, label in self._answers:
                    yield Button(keyed(label[0].lower(), label), id=action, compact=True)

    def compose_more(self) -> ComposeResult:
        """Lay out what stands between the question and its answers."""
        yield from ()

    @on(Button.Pressed)
    def pressed(self, event: Button.Pressed) -> None:
        """Give the answer of a button."""
        self.action_answer(str(event.button.id))

    def action_answer(self, answer: str) -> None:
        """Give an answer."""
        self.dismiss(answer)


class Unsaved(Answers):
    """What becomes of unsaved changes; gives `save`, `discard`, or else neither."""

    DEFAULT_CSS = "Unsaved > Vertical { width: 56; }"
    BINDINGS = bindings("unsaved")
    AUTO_FOCUS = "#save"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has unsaved changes", (), (("save", "Save"), ("discard", "Discard"), ("back", "Back")))


class ChangedOnDisk(Answers):
    """Whose file counts when another program has written it; gives `mine`, `theirs`, `both`, or else none of them."""

    DEFAULT_CSS = "ChangedOnDisk > Vertical { width: 96; }"
    BINDINGS = bindings("changed")
    AUTO_FOCUS = "#both"

    def __init__(self, name: str, mine: str, theirs: str) -> None:
        """`mine` is the text that would be saved, `theirs` the one on the disk."""
        lines = (
            "Both: your values are put into the file as it is now. Mine: the file becomes what you see in the form. "
            "Theirs: your changes are dropped, and the form shows the file.",
        )
        answers = (("both", "Both"), ("mine", "Mine"), ("theirs", "Theirs"), ("difference", "Difference"))
        super().__init__(f"Another program has changed {name} meanwhile", lines, answers)
        self._mine, self._theirs = mine, theirs

    def compose_more(self) -> ComposeResult:
        """Have room for the difference."""
        with VerticalScroll(id="difference-text"):
            yield Static(difference(self._theirs, self._mine), markup=False)

    def on_mount(self) -> None:
        """Show the difference when asked."""
        self.query_one("#difference-text").display = False

    def action_answer(self, answer: str) -> None:
        """Give an answer, or show the difference."""
        if answer == "difference":
            shown = self.query_one("#difference-text")
            shown.display = not shown.display
            if shown.display:
                shown.focus()
        else:
            super().action_answer(answer)


def difference(theirs: str, mine: str) -> Content:
    """Return the lines in which two texts differ, with a line around each place."""
    parts: list[tuple[str, str] | str] = []
    lines = difflib.unified_diff(theirs.splitlines(), mine.splitlines(), "theirs", "mine", n=1, lineterm="")
    for line in lines:
        style = {"+": "$text-success", "-": "$text-error", "@": "$text-muted"}.get(line[:1], "")
        said = {"---": "- only theirs", "+++": "+ only mine"}.get(line[:3], line)
        parts.append((("" if not parts else "\n") + (said[0] + printable(said[1:]) if line[:1] in "+-" else printable(said)), style))
    return Content.assemble(*parts) if parts else Content("no difference")


class FieldHelp(Dialog):
    """All there is to say of one value; gives `keys` when the keys of the screen are asked for."""

    BINDINGS = bindings("explained")

    def __init__(self, name: str, draft: Draft) -> None:
        super().__init__()
        self._key, self._draft = name, draft

    def compose(self) -> ComposeResult:
        """Lay out what there is to say."""
        with Vertical():
            yield Static(self._key, markup=False, classes="title")
            yield Static(plain_help(self._key), markup=False, classes="line")
            yield Static(self._facts(), markup=False, classes="line")
            yield Static(Content.styled("Escape closes; ? shows the keys of this screen", "$text-muted"), classes="line")

    def _facts(self) -> Content:
        rows = explain(self._key, self._draft)
        width = max(len(title) for title, _ in rows) + 2
        return Content("\n").join(Content.assemble((title.ljust(width), "$text-muted"), printable(said)) for title, said in rows)

    def action_close(self) -> None:
        """Close it."""
        self.dismiss(None)

    def action_keys(self) -> None:
        """Close it for the keys of the screen."""
        self.dismiss("keys")


def explain(name: str, draft: Draft) -> list[tuple[str, str]]:
    """Return what is known of a value as (title, words)."""
    field, project = field_of(name), draft.resolved.project
    extra = field.json_schema_extra or {}
    method = project.condense.method
    rows = [("here", spoken(draft.value(name))), ("set by", origin_words(name, draft).partition(";")[0])]
    if has_method_value(name):
        rows.append((method, spoken(draft.resolved.method_values.get(name))))
    rows.append(("else", spoken(field.default)))
    rows.append(("takes", bounds(name) + (", or nothing" if may_be_absent(name) else "")))
    rows += [(title, extra[key]) for key, title in (("unit", "unit"), ("paper", "paper")) if extra.get(key)]
    if extra.get("paper", "").startswith("defect"):
        rows[-1] = ("paper", f"{extra['paper']} of docs/methods.md, where the release differs from the paper")
    if name in draft.problems:
        rows.append(("wrong", draft.problems[name]))
    return rows
