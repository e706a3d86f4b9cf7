"""How the command line lays facts out: consoles, tables that fit the terminal, and numbers as people read them."""

import contextlib
import json
import os
import re
import select
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.runs.events import number
from engine.runs.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

GAP = 2  # blanks between columns
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~#])")
UNLIMITED = 1000  # characters a line: what is not a terminal, a file or another program, has no width that tables must fit

STATUS_STYLES = {
    "done": "green",
    "starting": "cyan",
    "running": "cyan",
    "stalled": "yellow",
    "stopping": "yellow",
    "stopped": "yellow",
    "queued": "dim",
    "failed": "red",
    "killed": "red",
    "out-of-memory": "red",
    "lost": "red",
}


@dataclass(frozen=True)
class Column:
    """A column of a table; where the terminal is too narrow, the columns with the highest `drop` go first, those with 0 never."""

    header: str
    justify: Literal["left", "right"] = "left"
    drop: int = 0


def make_console(*, stderr: bool = False) -> "Console":
    """Return a console that takes every text literally; colours and control codes only on a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else UNLIMITED
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def mute_lost_streams() -> bool:
    """Let go of standard output and error where the terminal or the reader at their other end has gone; returns whether one has."""
    lost = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a stream that is closed, or no file at all, cannot be lost
            end = select.poll()
            end.register(stream.fileno(), 0)
            if end.poll(0):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
                lost = True
    return lost


def print_table(console: "Console", columns: Sequence[Column], rows: Sequence[Sequence["str | Text"]]) -> None:
    """Print rows below their headers, each on one line; columns without a text are left out.

    A row of a single cell stands above what follows, as wide as it is; an empty one leaves a line free.
    Where there is no room, columns with a `drop` go, then the widest is cut. Plain cells are made printable; styled ones must be already.
    """
    from rich.text import Text

    cells = [[cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row] for row in rows]
    whole = [row for row in cells if len(row) == len(columns)]
    filled = [index for index in range(len(columns)) if any(row[index] for row in whole)]
    cells.insert(0, header := [Text(column.header, "bold") for column in columns])
    widths = {index: max(row[index].cell_len for row in [header, *whole]) for index in filled}
    while (excess := sum(widths.values()) + GAP * (len(widths) - 1) - console.width) > 0:
        droppable = [index for index in widths if columns[index].drop]
        widest = max(widths, key=lambda index: widths[index])
        if droppable:
            del widths[max(droppable, key=lambda index: columns[index].drop)]
        elif widths[widest] > 1:
            widths[widest] = max(widths[widest] - excess, widths[widest] // 2)
        else:
            break
    for row in cells:
        line = row[0] if len(row) < len(columns) else Text()
        for index, width in widths.items() if len(row) == len(columns) else ():
            cell = row[index]
            cell.truncate(width, overflow="ellipsis")
            padding = " " * (width - cell.cell_len)
            line.append(padding if columns[index].justify == "right" else "").append_text(cell)
            line.append((padding if columns[index].justify == "left" else "") + " " * GAP)
        line.rstrip()
        console.print(line, no_wrap=True, overflow="ellipsis")


def print_blocks(console: "Console", columns: Sequence[Column], rows: Sequence[Sequence["str | Text"]]) -> None:
    """Print a table whose columns go on in a further block below where there is no room; each block begins with the first column."""
    first, *widths = (max(len(column.header), *(len(row[index]) for row in rows)) for index, column in enumerate(columns))
    blocks = column_blocks(first, widths, console.width)
    for block in blocks:
        if block is not blocks[0]:
            console.print()
        part = [[row[0], *(row[index + 1] for index in block)] for row in rows]
        print_table(console, [columns[0], *(columns[index + 1] for index in block)], [row for row in part if any(row)])


def column_blocks(first: int, widths: Sequence[int], room: int, *, repeated: Sequence[int] = ()) -> list[list[int]]:
    """Share columns of these widths out to blocks that fit into `room` beside a column of the width `first`, at least one to a block.

    Every block after the first one begins with the columns `repeated`.
    """
    blocks: list[list[int]] = [[]]
    for index, _ in enumerate(widths):
        taken = first + sum(GAP + widths[other] for other in {*blocks[-1], *repeated, index})
        if set(blocks[-1]) - set(repeated) and taken > room:
            blocks.append([*repeated])
        if index not in blocks[-1]:
            blocks[-1].append(index)
    return blocks


def print_fields(console: "Console", fields: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns; a long value goes on below itself, broken between words."""
    import textwrap

    from rich.text import Text

    indent = max((len(name) for name, _ in fields), default=0) + GAP
    for name, value in fields:
        for line in textwrap.wrap(value, width=max(console.width - indent, 20), break_on_hyphens=False) or [""]:
            console.print(Text.assemble((f"{name:<{indent}}", "dim"), line), soft_wrap=True)
            name = ""


def print_json(value: Any) -> None:
    """Print a JSON value; characters beyond ASCII are escaped, so that nothing in it can steer a terminal."""
    print(json.dumps(value, indent=1))


def escape_markdown(text: str) -> str:
    """Return text so that Markdown shows it as it is, also in a table."""
    return _MARKDOWN.sub(r"\\\1", text)


def styled_status(word: str) -> "Text":
    """Return a run's status word in its colour."""
    from rich.text import Text

    return Text(word, style=STATUS_STYLES.get(word, ""))


def percent(spread: object, *, signed: bool = False) -> str:
    """Say a mean and its deviation over seeds in percent: `81.23 ± 0.45`, `81.23` for a single seed, nothing for what is no spread."""
    mean, deviation = (number(spread.get(name)) for name in ("mean", "std")) if isinstance(spread, dict) else (None, None)
    if mean is None:
        return ""
    text = f"{mean:+.2f}" if signed else f"{mean:.2f}"
    return text if deviation is None else f"{text} ± {deviation:.2f}"


def over_random(row: Mapping[str, Any]) -> str:
    """Say a result's difference to random images, with its number of paired seeds where those are not all: `+2.39 ± 0.84 (n 2)`."""
    over, seeds = row.get("over_random"), row.get("seeds")
    text, pairs = percent(over, signed=True), number(over.get("n")) if isinstance(over, dict) else None
    return f"{text} (n {pairs:.0f})" if text and pairs and isinstance(seeds, list) and pairs != len(seeds) else text


def size(count: float) -> str:
    """Say a number of bytes in its largest fitting unit: `640 B`, `7.5 KiB`, `1.2 GiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def seconds(value: float) -> str:
    """Say a measured time: `0.4 s`, `12.3 s`, `3 min 05 s`, `2 h 04 min`."""
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(quantity: float, singular: str) -> str:
    """Say a number of things: `1 image`, `11,980 images`, `5 classes`, `2 entries`."""
    plural = f"{singular[:-1]}ies" if singular.endswith("ry") else f"{singular}es" if singular.endswith("ss") else f"{singular}s"
    return f"{quantity:,.0f} {singular if quantity == 1 else plural}"


def shortest(path: Path) -> Path:
    """Return a path relative to the working folder where it lies below that, else absolute."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
