"""Beside the form: the file as it will be saved, with what is new in it, and what the project would do."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import VerticalScroll

from edc_tui.widgets.cells import Canvas, Cells
from edc_tui.words import short_duration
from engine.commands.outline import Outline, StageOutline
from engine.commands.tables import count, size
from engine.project.files import HEADER, TOKEN, line_of

Part = tuple[str, str]  # text and style
NO_PAST = "no past run to go by"


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


STAGE = 10  # cells of the first column
COLUMNS = (("stage", STAGE), ("to do", 9), ("images", 9), ("iter.", 9), ("disk", 10), ("time", 9))


class PlanView(Cells):
    """What the project would do: a line a stage, and the sums."""

    DEFAULT_CSS = "PlanView { height: 1; padding: 0 1; }"

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[list[Part]] = []
        self._table: Outline | None = None

    def wait(self) -> None:
        """Say that a plan is being made, which takes a while."""
        self._show([[("planning … a dataset that is new here is read through once", "muted")]], None)

    def show(self, plan: Outline) -> None:
        """Show a plan."""
        head = f"{count(plan.classes, 'class')} of {plan.resolution} px, {plan.train_images:,} images; {plan.device} in {plan.precision}"
        self._show([[(head, "muted")]], plan)

    def refuse(self, problems: Sequence[str]) -> None:
        """Say why there is no plan."""
        number = len(problems)
        head = f"no plan while {'a value is' if number == 1 else f'{number} values are'} wrong:"
        self._show([[(head, "bad")], *([(f"✗ {problem}", "")] for problem in problems)], None)

    def _show(self, rows: list[list[Part]], plan: Outline | None) -> None:
        self._rows, self._table = rows, plan
        self.styles.height = len(rows) if plan is None else len(rows) + len(plan.stages) + 1 + len(summary_lines(plan))
        self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw the head, the table and the sums."""
        y = 0
        for row in self._rows:
            canvas.parts(0, y, row)
            y += 1
        if self._table is None:
            return
        self._line(canvas, y, [(title, "strong") for title, _ in COLUMNS])
        for stage in self._table.stages:
            y += 1
            self._line(canvas, y, stage_cells(stage))
        for parts in summary_lines(self._table):
            y += 1
            canvas.parts(0, y, parts)

    def _line(self, canvas: Canvas, y: int, cells: Sequence[Part]) -> None:
        x = STAGE
        canvas.put(0, y, *cells[0], limit=STAGE)
        for (text, style), (_, width) in zip(cells[1:], COLUMNS[1:], strict=True):
            x += width
            canvas.put(x - cell_len(text), y, text, style)


def stage_cells(stage: StageOutline) -> list[Part]:
    """Return the cells of a stage: steps to do of all, their images and iterations, bytes, and the time they take by past runs."""
    to_do = stage.steps - stage.reused
    style = "" if to_do else "muted"
    if not to_do:
        time: Part = ("reused", "good")
    elif stage.unknown == to_do:
        time = ("?", "warn")
    else:
        time = (f"{short_duration(stage.seconds)}{' +?' if stage.unknown else ''}", "")
    return [
        (stage.stage, style),
        (f"{to_do} of {stage.steps}", style),
        (compact(stage.images), style),
        (compact(stage.iterations), style),
        (size(stage.bytes) if stage.bytes else "", style),
        time,
    ]


def compact(number: int) -> str:
    """Say a number in at most seven characters: `275,640`, `12.3 M`; nothing for 0."""
    if number < 1_000_000:
        return f"{number:,}" if number else ""
    for unit in ("M", "G", "T"):
        number /= 1000 if unit != "M" else 1_000_000
        if number < 999.5 or unit == "T":
            return f"{number:.0f} {unit}" if number >= 99.5 else f"{number:.1f} {unit}"
    raise AssertionError("unreachable")


def summary_lines(plan: Outline) -> list[list[Part]]:
    """Say how much is reused and how long the rest takes, as far as past runs on this machine tell."""
    to_do = plan.steps - plan.reused
    lines: list[list[Part]] = []
    if not to_do:
        lines.append([("nothing to do: every step is reused", "good")])
    else:
        reused = f"{plan.reused} of {count(plan.steps, 'step')} reused" if plan.reused else f"{count(plan.steps, 'step')}, none reused"
        disk = f"; {size(plan.bytes)} of images and labels" if plan.bytes else ""
        lines.append([(reused + disk, "")])
        if plan.unknown == to_do:
            lines.append([("time: ", ""), (NO_PAST, "warn")])
        else:
            known = f"about {short_duration(plan.seconds)} by past runs on this machine"
            lines.append([("time: ", ""), (known, "strong")])
            if plan.unknown:
                lines.append([(f"and {count(plan.unknown, 'step')} with {NO_PAST}", "warn")])
    if plan.resumes:
        lines.append([("starting goes on with run ", ""), (plan.resumes, "accent")])
    return lines

