"""Beside the form: the file as it will be saved, with what is new in it."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import VerticalScroll

from edc_tui.widgets.cells import Canvas, Cells
from engine.project.files import HEADER, TOKEN, line_of

Part = tuple[str, str]  # text and style


@dataclass(frozen=True)
class PreviewLine:
    """A line of the file: its text, and whether it is new (`+`), gone (`-`) or as it was (blank)."""

    text: str
    sign: str
    number: int | None  # its line in the file as it will be saved, from 1


def preview_lines(before: str, after: str) -> list[PreviewLine]:
    """Return the lines of `after`, and between them those of `before` that are gone."""
    old, new = _lines(before), _lines(after)
    found: list[PreviewLine] = []
    for _, start, end, first, last in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        same = old[start:end] == new[first:last]
        found += [] if same else [PreviewLine(text, "-", None) for text in old[start:end]]
        found += [PreviewLine(text, " " if same else "+", number) for number, text in enumerate(new[first:last], start=first + 1)]
    return found


def _lines(text: str) -> list[str]:
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


class FileText(Cells):
    """The lines of the file."""

    DEFAULT_CSS = "FileText { height: 1; }"

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[PreviewLine] = []

    def show(self, lines: list[PreviewLine]) -> None:
        """Show these lines."""
        if lines != self.lines:
            self.lines = lines
            self.styles.height = max(len(lines), 1)
            self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw every line with its sign; comments are faint, headers stand out."""
        for y, line in enumerate(self.lines):
            style = {"+": "good", "-": "bad"}.get(line.sign, "muted")
            canvas.put(0, y, line.sign, style)
            if line.sign == "-":
                canvas.put(2, y, line.text, "muted")
            else:
                canvas.parts(2, y, list(_coloured(line.text, new=line.sign == "+")))


def _coloured(line: str, *, new: bool) -> Iterator[Part]:
    """Split a line of TOML into what is said and what is a comment."""
    comment = next((found.start() for found in TOKEN.finditer(line) if found[0].startswith("#")), len(line))
    said = line[:comment]
    yield said, "accent" if HEADER.match(said) else "good" if new else ""
    yield line[comment:], "muted"


class FilePreview(VerticalScroll):
    """The file as it will be saved, which scrolls."""

    DEFAULT_CSS = """
    FilePreview { scrollbar-size-vertical: 1; padding: 0 0 0 1; }
    FilePreview:focus { background-tint: $foreground 5%; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._after = ""
        self._name: str | None = None  # the key whose line is kept in sight

    def compose(self) -> ComposeResult:
        """Hold the lines."""
        yield FileText()

    def show(self, before: str, after: str, name: str | None) -> None:
        """Show a text beside the one on the disk, and bring the line of the key `name` into sight."""
        self._after = after
        self.query_one(FileText).show(preview_lines(before, after))
        self.reveal(name)

    def reveal(self, name: str | None) -> None:
        """Bring the line of a key into sight, if the file has it."""
        self._name = name
        number = line_of(self._after, name) if name else None
        if number is not None:
            place = next((index for index, line in enumerate(self.query_one(FileText).lines) if line.number == number), 0)
            top, height = self.scroll_offset.y, self.size.height
            if not top <= place < top + height - 1:
                self.call_after_refresh(self.scroll_to, y=max(place - height // 3, 0), animate=False)

    def on_resize(self) -> None:
        """Keep the line in sight when the plan below takes more room."""
        self.reveal(self._name)
