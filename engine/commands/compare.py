"""`edc compare`: runs side by side, as a table for people and as text for other programs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.tables import Column, column_blocks, make_console, print_fields, print_json, print_table, seconds, size, styled_status
from engine.errors import UserError
from engine.project.published import paper, table_label
from engine.runs.compare import IDLE, MISSING, OVER_RANDOM, Cell, Comparison, Gap, Group, Row, Setting, as_json, compare, read_facts
from engine.runs.layout import Run
from engine.runs.matrix import accuracies, cross_architecture
from engine.runs.results import own_regimes
from engine.runs.spread import Spread
from engine.runs.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FORMATS = ("table", "csv", "markdown", "latex", "json")
LABEL_WIDTH = 22
VALUE_WIDTH = 24
LONGEST_LIST = 12  # entries of a list that a table shows
METRIC_WORDS = {"top1": "top-1 %", "top5": "top-5 %", "best_on_test": "best on test %", OVER_RANDOM: "over random"}
UNPAIRED = "unpaired"
COST_WORDS = {"peak_memory": "peak memory"}


@dataclass(frozen=True)
class Shown:
    """A cell as text; `best` of its row, `good` where a difference goes in the direction that is known to be better."""

    text: str
    best: bool = False
    good: bool | None = None


@dataclass(frozen=True)
class Line:
    """A line of a table; `key` marks the name of a setting, `part` a line that belongs to the one above, `head` one without cells."""

    label: str
    cells: tuple[Shown, ...] = ()
    key: bool = False
    part: bool = False
    head: bool = False


def compare_command(runs: Sequence[Run], *, baseline: Run | None, every: bool, form: str, plot: Path | None, matrix: bool = False) -> None:
    """Print runs side by side in one of FORMATS, `matrix` as students by runs, and draw their curves where `plot` names a file.

    Raises UserError when the format or the plot's suffix does not exist, or a run cannot be read.
    """
    from engine.commands.plot import check_plot, draw_plot

    check_format(form)
    if plot is not None:
        check_plot(plot)
    comparison = compare([read_facts(run) for run in runs], baseline=read_facts(baseline) if baseline else None)
    if plot is not None:
        draw_plot(comparison, plot)
    if form == "json":
        print_json(as_json(comparison, every=every))
    elif form == "table":
        print_comparison(make_console(), comparison, every=every, matrix=matrix)
    else:
        from engine.commands.compare_text import WRITERS

        print(WRITERS[form](comparison, every, matrix), end="")
    if plot is not None:
        make_console(stderr=True).print(f"wrote {printable(plot)}", soft_wrap=True)


def check_format(form: str) -> None:
    """Raise UserError when there is no such format."""
    if form not in FORMATS:
        raise UserError(f"--format: {printable(form)!r} is not a format; choose one of: {', '.join(FORMATS)}")


def sections(comparison: Comparison, every: bool, *, spread_lists: bool = False) -> list[list[Line]]:
    """Return the lines of a comparison: settings that differ (all with `every`), results student by student, seconds, bytes.

    `spread_lists` gives every name in a list of names a line of its own.
    """
    settings = [setting for setting in comparison.settings if every or setting.differs]
    found = [[line for setting in settings for line in (_setting_lines(setting) if spread_lists else [_setting_line(setting)])]]
    results = [row for row in comparison.rows if row.kind == "results"]
    students = list(dict.fromkeys(row.name[1] for row in results))
    for student in students:
        rows = [row for row in results if row.name[1] == student]
        found.append([Line(printable(student), head=True), *_student_lines(comparison, rows, every)])
    found.append([Line("time", head=True), *_cost_lines(comparison, "seconds", seconds)])
    found.append([Line("size", head=True), *_cost_lines(comparison, "bytes", size)])
    return [lines for lines in found if any(line.cells for line in lines)]


def matrix_sections(comparison: Comparison) -> list[list[Line]]:
    """Return the lines of students by runs: a block for each set and evaluation, with the mean over the students that all have."""
    blocks = []
    for measure in accuracies(comparison):
        table = cross_architecture(comparison, measure)
        lines = [Line(f"{printable(measure[0])}, {METRIC_WORDS[measure[1]]}", head=True)]
        for student, entries in zip(table.students, table.entries, strict=True):
            cells = tuple(Shown(said_spread(entry.value), entry.best) if entry else Shown("") for entry in entries)
            lines.append(Line(printable(student), cells))
        if table.shared > 1:
            means = tuple(Shown("" if mean is None else f"{mean:.2f}") for mean in table.means)
            lines.append(Line(f"mean of {table.shared} students", means, part=True))
        blocks.append(lines)
    return blocks


def said(cell: Any) -> str:
    """Say what a column has of a setting: its value, or several where its runs differ; `-` is without effect, `absent` not there."""
    if cell is IDLE:
        return "-"
    return "absent" if cell is MISSING else ", ".join(said_value(value) for value in cell)


def said_value(value: Any) -> str:
    """Say a value as in a project, but for the quotes and brackets of what is not empty."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(said_value, value)) if value else "[]"
    if isinstance(value, dict):
        return " ".join(_entries(value)) if value else "{}"
    if isinstance(value, float):
        return f"{value:.12g}"
    return printable(value) if value != "" else '""'


def _entries(value: dict[str, Any]) -> list[str]:
    """Return what a table holds as `name=value`."""
    return [f"{printable(name)}={said_value(held)}" for name, held in value.items()]


def _setting_line(setting: Setting) -> Line:
    return Line(printable(setting.key), tuple(Shown(said(cell)) for cell in setting.cells), key=True)


def _setting_lines(setting: Setting) -> list[Line]:
    """Return a line for a setting, or one for each name in any of its lists of names; what is too long for a column is cut."""
    key, lists = printable(setting.key), [_only_list(cell) for cell in setting.cells]
    held = [entries for entries in lists if entries is not None]
    names = list(dict.fromkeys(name for entries in held for name in entries if isinstance(name, str)))
    columns = list(zip(setting.cells, lists, strict=True))
    if names and len(names) <= LONGEST_LIST and len(held) == sum(isinstance(cell, tuple) for cell in setting.cells):
        lines = []
        for name in names:
            first = not lines
            texts = [printable(name) if name in (own or ()) else said(cell) if first and not own else "" for cell, own in columns]
            lines.append(Line(key if first else "", tuple(map(Shown, texts)), key=True))
        return lines
    texts = [f"{len(own)} entries" if own and len(own) > LONGEST_LIST else printable(said(cell), VALUE_WIDTH) for cell, own in columns]
    return [Line(key, tuple(map(Shown, texts)), key=True)]


def _only_list(cell: Any) -> list[Any] | None:
    """Return the one list that a column has of a setting, or the entries of its one table; None where it has anything else."""
    value = cell[0] if isinstance(cell, tuple) and len(cell) == 1 else None
    return _entries(value) if isinstance(value, dict) else value if isinstance(value, list) else None


def _student_lines(comparison: Comparison, rows: Sequence[Row], every: bool) -> list[Line]:
    """Return a student's accuracies, each with its differences to the baseline and the printed figures it is held against."""
    usual = ("top1", OVER_RANDOM)
    first = [row for row in rows if row.name[2] in usual]
    rest = [row for row in rows if row.name[2] not in usual and (every or (row.name[0], row.name[2]) == ("condensed", "top5"))]
    counts = [next((cell.value.n for row in rows if (cell := row.cells[index])), 0) for index in range(len(comparison.groups))]
    lines = []
    for row in first + rest:
        set_name, _, metric = row.name
        signed = metric == OVER_RANDOM
        label = METRIC_WORDS[metric] if signed else f"{printable(set_name)} {METRIC_WORDS[metric]}"
        shown = _shown(row, lambda value, signed=signed: said_spread(value, signed=signed))
        lines.append(Line(label, tuple(map(_with_count, shown, row.cells, counts))))
        lines += _delta_lines(row, _said_delta)
        if metric == "top1":
            lines += _published_lines(comparison, row)
    return [*lines, Line("trainings", tuple(Shown(str(count) if count else "") for count in counts))]


def _with_count(shown: Shown, cell: Cell | None, trainings: int) -> Shown:
    """Return a cell with its number of seeds where that is not the column's number of trainings."""
    return replace(shown, text=f"{shown.text} (n {cell.value.n})") if cell and cell.value.n != trainings else shown


def _shown(row: Row, words: Callable[[Spread], str]) -> tuple[Shown, ...]:
    """Return a row's cells; none is marked as the best where all read the same."""
    texts = [words(cell.value) if cell else "" for cell in row.cells]
    alike = len({text for text in texts if text}) < 2
    return tuple(Shown(text, bool(cell and cell.best and not alike)) for text, cell in zip(texts, row.cells, strict=True))


def said_spread(value: Spread, *, signed: bool = False) -> str:
    """Say a mean and its deviation in percent: `81.23 ± 0.45`."""
    mean = f"{value.mean:+.2f}" if signed else f"{value.mean:.2f}"
    return mean if value.std is None else f"{mean} ± {value.std:.2f}"


def _said_delta(cell: Cell) -> str:
    """Say a result's difference to the baseline, with its number of pairs where that is not the result's number of trainings."""
    delta = cell.delta or cell.value
    text = said_spread(delta, signed=True)
    if delta.n == cell.value.n:
        return text
    return f"{text} (n {delta.n})" if delta.n else f"{text} ({UNPAIRED})"


def _delta_lines(row: Row, words: Callable[[Cell], str]) -> list[Line]:
    """Return the line of a row's differences to the baseline, unless there are none."""
    if not any(cell and cell.delta and (cell.delta.mean or cell.delta.std) for cell in row.cells):
        return []
    cells = []
    for cell in row.cells:
        delta = cell.delta if cell else None
        good = None if delta is None or row.better is None or not delta.mean else (delta.mean > 0) == (row.better == "up")
        cells.append(Shown(words(cell) if cell and delta else "", good=good))
    return [Line("to baseline", tuple(cells), part=True)]


def _published_lines(comparison: Comparison, row: Row) -> list[Line]:
    """Return the printed figures that a row's columns are held against: the figure, the gap to it, and where it stands."""
    set_name, student, _ = row.name
    held: list[list[Gap]] = [[] for _ in comparison.groups]
    for gap in comparison.gaps:
        if (gap.figure.set, gap.figure.student) == (set_name, student):
            held[gap.group].append(gap)
    lines = []
    for index in range(max(map(len, held))):
        gaps = [gaps[index] if index < len(gaps) else None for gaps in held]
        lines += [
            Line("published", tuple(Shown(gap.figure.printed if gap else "") for gap in gaps), part=True),
            Line("gap", tuple(Shown(f"{gap.gap:+.2f}" if gap else "") for gap in gaps), part=True),
            Line("from", tuple(Shown(gap.figure.name if gap else "") for gap in gaps), part=True),
        ]
    return lines


def _cost_lines(comparison: Comparison, kind: str, words: Callable[[float], str]) -> list[Line]:
    """Return the times of stages, or the sizes, without those that are nothing everywhere."""
    lines = []
    for row in comparison.rows:
        if row.kind != kind or not any(cell and cell.value.mean for cell in row.cells):
            continue
        lines.append(Line(printable(COST_WORDS.get(row.name[0], row.name[0])), _shown(row, lambda value: words(value.mean))))
        lines += _delta_lines(row, lambda cell: _signed(cell, words))
    return lines


def _signed(cell: Cell, words: Callable[[float], str]) -> str:
    """Say a cost's difference to the baseline."""
    delta = (cell.delta or cell.value).mean
    return ("-" if delta < 0 else "+") + words(abs(delta))


def column_labels(groups: Sequence[Group], width: int = LABEL_WIDTH) -> list[str]:
    """Return short labels of columns; long ones lose their middle, unless two became one by it."""
    full = [printable(group.label) for group in groups]
    head = (width - 1) // 2
    short = [label if len(label) <= width else f"{label[:head]}…{label[head + 1 - width :]}" for label in full]
    return short if len(set(short)) == len(set(full)) else full


def print_comparison(console: "Console", comparison: Comparison, *, every: bool, matrix: bool = False) -> None:
    """Print which runs stand in which column, then the table in as many blocks as the width asks for, then what its signs mean."""
    labels = column_labels(comparison.groups)
    _print_columns(console, comparison, labels)
    blocks = matrix_sections(comparison) if matrix else sections(comparison, every, spread_lists=True)
    console.print()
    _print_lines(console, labels, blocks, baseline=comparison.baseline)
    notes = table_notes(comparison, labels, blocks, every)
    if notes:
        console.print()
        print_fields(console, notes)


def _print_columns(console: "Console", comparison: Comparison, labels: Sequence[str]) -> None:
    """Print a line for every run: its column, its id, what it is, and its state."""
    from rich.text import Text

    rows = []
    for index, (group, label) in enumerate(zip(comparison.groups, labels, strict=True)):
        for number, facts in enumerate(group.runs):
            column = Text(label if number == 0 else "", "bold")
            role = Text("baseline" if comparison.baseline and index == 0 and number == 0 else "", "dim")
            rows.append([column, facts.run, _what(facts.values), styled_status(facts.status), role])
    columns = [Column("column"), Column("run"), Column("what", drop=1), Column("status"), Column("")]
    print_table(console, columns, rows)


def _what(values: dict[str, Any]) -> str:
    method, dataset, ipc = (values.get(key) for key in ("condense.method", "dataset.name", "condense.ipc"))
    return f"{method} on {dataset}, ipc {ipc}" if method and dataset else ""


def _print_lines(console: "Console", labels: Sequence[str], blocks: Sequence[Sequence[Line]], *, baseline: bool) -> None:
    """Print lines below the columns' labels; where there is no room for all columns, the rest follows below, the baseline again first."""
    names = [[_name(line) for line in lines] for lines in blocks]
    first = max(name.cell_len for block in names for name in block)
    cells = [[[_styled(shown) for shown in line.cells] for line in lines] for lines in blocks]
    widths = [max(len(label) + 2, *(row[index].cell_len for block in cells for row in block if row)) for index, label in enumerate(labels)]
    parts = column_blocks(first, widths, console.width, repeated=[0] if baseline else [])
    for number, part in enumerate(parts):
        if number:
            console.print()
        rows: list[list[Any]] = []
        for block_names, block in zip(names, cells, strict=True):
            named = zip(block_names, block, strict=True)
            lines = [[name.copy(), *((row[index].copy() if row else "") for index in part)] for name, row in named]
            told = [line for line, row in zip(lines, block, strict=True) if not row or any(str(cell).strip() for cell in line[1:])]
            if len(told) > sum(not row for row in block):
                rows += [[""] * (len(part) + 1), *told] if rows else told
        print_table(console, [Column(""), *(Column(f"{labels[index]}  ", "right") for index in part)], rows)


def _name(line: Line) -> "Text":
    from rich.text import Text

    return Text(("  " if line.part else "") + line.label, "bold" if line.head else "dim" if line.part else "")


def _styled(shown: Shown) -> "Text":
    """Return a cell in its colour; the best of a row also ends in a star, under which the others keep a blank."""
    from rich.text import Text

    style = "bold" if shown.best else "dim" if shown.text in ("-", "absent") else {True: "green", False: "red", None: ""}[shown.good]
    return Text(shown.text + (" *" if shown.best else "  "), style)


def table_notes(comparison: Comparison, labels: Sequence[str], blocks: Sequence[Sequence[Line]], every: bool) -> list[tuple[str, str]]:
    """Return the signs and words of a table with what they mean, as far as they stand in it."""
    lines = [line for block in blocks for line in block]
    texts = {shown.text for line in lines for shown in line.cells}
    notes = []
    regimes = own_regimes(row for group in comparison.groups for facts in group.runs for row in _rows(facts.summary.get("results")))
    if len(regimes) == 1:
        notes.append(("labels", f"{printable(next(iter(regimes)))}, where no others are named"))
    if len(comparison.groups) > 1 and not every and not any(line.key for line in lines):
        notes.append(("settings", "they differ in none; --all shows every one, also versions, commit and machine"))
    if any(" ± " in text for text in texts):
        notes.append(("±", "deviation over seeds (ddof 1)"))
    if any(shown.best for line in lines for shown in line.cells):
        notes.append(("*", "best of its row"))
    if any(line.label == "to baseline" for line in lines):
        notes.append(("to baseline", f"mean difference to {labels[0]}, over the seeds that both have; n where those are not all"))
    if any(text.endswith(f"({UNPAIRED})") for text in texts):
        notes.append((UNPAIRED, "difference of the means, since no seed was trained in both"))
    if "-" in texts:
        notes.append(("-", "has no effect in that run"))
    return notes + published_notes(comparison.gaps, labels)


def _rows(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def published_notes(gaps: Sequence[Gap], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Say where printed figures come from, who chose them, and in which settings a run departs from the method they are of."""
    if not gaps:
        return []
    tables = ", ".join(dict.fromkeys(table_label(gap.figure.table) for gap in gaps))
    notes = [("published", f"{tables} of {paper()}")]
    for named, words in ((True, "named by the project"), (False, "found by dataset, images per class, method and student")):
        columns = list(dict.fromkeys(labels[gap.group] for gap in gaps if gap.named == named))
        if columns:
            notes.append(("", f"{words}{': ' + ', '.join(columns) if len(labels) > 1 else ''}"))
    for index, label in enumerate(labels):
        changed = list(dict.fromkeys(key for gap in gaps if gap.group == index for key in gap.changed))
        if changed:
            notes.append(("", f"{label if len(labels) > 1 else 'the run'} departs from its method in {_some(changed)}"))
    return notes


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
