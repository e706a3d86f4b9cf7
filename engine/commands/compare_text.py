"""Comparisons as text for other programs: CSV with a row for each column, Markdown and LaTeX tables."""

import csv
import io
import json
import re
from typing import Any

from engine.commands.compare import Line, Shown, column_labels, matrix_sections, sections
from engine.commands.tables import escape_markdown
from engine.runs.compare import IDLE, MISSING, Comparison
from engine.runs.matrix import accuracies, cross_architecture
from engine.runs.spread import Spread
from engine.runs.text import printable

LONGEST_CELL = 100  # characters of a value in Markdown and LaTeX, which are for people; CSV and JSON have it whole
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "…": r"\ldots{}",
}


def csv_text(comparison: Comparison, every: bool, matrix: bool = False) -> str:
    """Return CSV: one row for each run or group of runs, with settings, results, seconds, bytes and published figures as columns.

    As a matrix it is the table of students by runs.

    A key that a run lacks is an empty field, one without effect is `-`; texts stand as they are, other values as JSON.
    """
    if matrix:
        return _matrix_csv(comparison)
    settings = [setting for setting in comparison.settings if every or setting.differs]
    records: list[dict[str, Any]] = []
    for index, group in enumerate(comparison.groups):
        record: dict[str, Any] = {
            "column": printable(group.label),
            "project": printable(group.runs[0].project),
            "runs": " ".join(printable(facts.run) for facts in group.runs),
            "status": " ".join(dict.fromkeys(facts.status for facts in group.runs)),
        }
        record |= {printable(setting.key): _csv_value(setting.cells[index]) for setting in settings}
        for row in comparison.rows:
            name = ".".join(map(printable, row.name if row.kind == "results" else (row.kind, *row.name)))
            cell = row.cells[index]
            record |= _csv_numbers(name, cell.value if cell else None)
            if comparison.baseline:
                record |= _csv_numbers(f"{name}.delta", cell.delta if cell else None)
        for gap in comparison.gaps:
            if gap.group == index:
                name = ".".join((gap.figure.set, gap.figure.student, "published", gap.figure.name))
                record |= {name: gap.figure.top1, f"{name}.std": gap.figure.std, f"{name}.gap": round(gap.gap, 6)}
        records.append(record)
    return _csv(records)


def _matrix_csv(comparison: Comparison) -> str:
    """Return students by runs as CSV: a row for each measure and student, mean, deviation and number of seeds for each run."""
    records = []
    for measure in accuracies(comparison):
        table = cross_architecture(comparison, measure)
        for student, entries in zip(table.students, table.entries, strict=True):
            record: dict[str, Any] = {"trained on": printable(measure[0]), "student": printable(student)}
            for group, entry in zip(comparison.groups, entries, strict=True):
                record |= _csv_numbers(printable(group.label), entry.value if entry else None)
            records.append(record)
    return _csv(records)


def _csv(records: list[dict[str, Any]]) -> str:
    """Return records as CSV; columns that are empty in all of them are left out."""
    names = dict.fromkeys(name for record in records for name in record)
    used = [name for name in names if any(record.get(name) not in (None, "") for record in records)]
    text = io.StringIO()
    writer = csv.DictWriter(text, used, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _csv_value(cell: Any) -> str:
    if cell is MISSING or cell is IDLE:
        return "" if cell is MISSING else "-"
    return "; ".join(printable(value) if isinstance(value, str) and value else json.dumps(value, default=str) for value in cell)


def _csv_numbers(name: str, value: Spread | None) -> dict[str, Any]:
    if value is None:
        return {name: None, f"{name}.std": None, f"{name}.n": None}
    facts = value.as_json()
    return {name: facts["mean"], f"{name}.std": facts["std"], f"{name}.n": facts["n"] or None}


def markdown(comparison: Comparison, every: bool, matrix: bool = False) -> str:
    """Return a Markdown table, the best of each row in bold."""

    def cell(shown: Shown) -> str:
        text = escape_markdown(printable(shown.text, LONGEST_CELL))
        return f"**{text}**" if shown.best else text

    def label(line: Line) -> str:
        if line.key:
            return f"`{line.label}`".replace("|", "\\|")
        text = escape_markdown(line.label)
        return f"**{text}**" if line.head else f"&nbsp;&nbsp;{text}" if line.part else text

    labels = column_labels(comparison.groups)
    lines = [line for block in (matrix_sections(comparison) if matrix else sections(comparison, every)) for line in block]
    rows = [["", *map(escape_markdown, labels)], ["---", *["---:"] * len(labels)]]
    rows += [[label(line), *map(cell, line.cells or [Shown("")] * len(labels))] for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def latex(comparison: Comparison, every: bool, matrix: bool = False) -> str:
    """Return a LaTeX tabular with the rules of the package booktabs, the best of each row in bold."""

    def cell(shown: Shown) -> str:
        text = escape_latex(printable(shown.text, LONGEST_CELL))
        return rf"\textbf{{{text}}}" if shown.best else text

    def label(line: Line) -> str:
        text = escape_latex(line.label)
        return rf"\texttt{{{text}}}" if line.key else rf"\quad {text}" if line.part else text

    labels = column_labels(comparison.groups)
    blocks = []
    for block in matrix_sections(comparison) if matrix else sections(comparison, every):
        rows = []
        for line in block:
            if line.head:
                rows.append(rf"\multicolumn{{{len(labels) + 1}}}{{l}}{{\textit{{{escape_latex(line.label)}}}}} \\")
            else:
                rows.append(" & ".join([label(line), *map(cell, line.cells)]) + r" \\")
        blocks.append("\n".join(rows))
    body = "\n\\midrule\n".join(blocks)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{l{'r' * len(labels)}}}",
            r"\toprule",
            " & ".join(["", *map(escape_latex, labels)]).strip() + r" \\",
            r"\midrule",
            body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """Return text so that LaTeX prints it as it is, two hyphens not as a dash; a leading minus becomes a mathematical one."""
    escaped = re.sub("-(?=-)", "-{}", "".join(_LATEX.get(character, character) for character in text))
    return re.sub(r"^([+-])(?=\d)", r"$\1$", escaped)


WRITERS = {"csv": csv_text, "markdown": markdown, "latex": latex}
