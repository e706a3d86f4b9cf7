"""`edc bench`: how close the stages come to the bare network on this machine."""

import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.bench.cases import choice
from engine.commands.bench_text import COLUMNS, heading, markdown, precision_lines, replaced, rows_of
from engine.commands.tables import make_console, print_json, print_table
from engine.compute.device import resolve_device
from engine.errors import UserError
from engine.files import write_text
from engine.runs.text import printable

STOPPED = 130  # as shells have it for Ctrl-C


def bench_command(
    *,
    only: Sequence[str],
    models: Sequence[str],
    precisions: Sequence[str],
    device: str,
    threads: int,
    repeats: int,
    quick: bool,
    as_json: bool,
    as_markdown: bool,
    write: Path | None,
) -> int:
    """Measure and print what was asked for; return 0 when every limit is met, 1 when one is not, 130 when it was interrupted."""
    asked = choice(only, models, precisions, quick=quick)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"--device: {printable(device)} is no device; use auto, cpu, cuda or cuda:N")
    try:
        resolved = resolve_device(device)
    except UserError as error:
        raise UserError(f"--device: {str(error).removeprefix('compute.device: ')}") from None
    if "float16" in asked.precisions and resolved == "cpu":
        raise UserError("--precisions: float16 needs cuda; use float32 or bfloat16 on the cpu")
    document = None if write is None else _document(write)
    found: dict[str, Any] = {}
    interrupted = False
    try:
        with _interruptible() as check, _progress() as say:
            from engine.bench.run import measure

            def tell(what: str, part: float) -> None:
                check()
                say(what, part)

            measure(asked, device=resolved, threads=threads, rounds=repeats, say=tell, found=found)
    except KeyboardInterrupt:
        interrupted = True
    if "cases" in found:
        found["interrupted"] = interrupted
        _print(found, as_json=as_json, as_markdown=as_markdown)
    if interrupted:
        print("edc: stopped; what was not measured is missing", file=sys.stderr)
        return STOPPED
    if write is not None and document is not None:
        write_text(write, replaced(document, markdown(found)))
    return 0 if all(one["met"] for one in _judged(found)) else 1


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Take Ctrl-C, and yield a function that raises it again: while libraries are loaded an interruption can be lost in them."""
    pressed = []

    def handle(number: int, frame: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def _document(path: Path) -> str:
    """Return the text of a document whose table is to be replaced; found wrong before anything is measured."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--write: {printable(path)}: cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    replaced(text, "")
    return text


def _judged(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return everything that has a limit."""
    return [*found["cases"], *found.get("memory", []), *([found["warm_start"]] if "warm_start" in found else [])]


def _print(found: dict[str, Any], *, as_json: bool, as_markdown: bool) -> None:
    if as_json:
        print_json(found)
        return
    if as_markdown:
        print(markdown(found))
        return
    from rich.text import Text

    console = make_console()
    console.print(heading(found), style="dim")
    if found["quick"]:
        console.print("quick: a small network and batch, to see that all works; judge speed without --quick", style="yellow")
    place = next(index for index, column in enumerate(COLUMNS) if column.header == "met")
    colours = {"yes": "green", "no": "red"}
    rows: list[list[Any]] = [
        [Text(cell, colours[cell]) if index == place else cell for index, cell in enumerate(row)] for row in rows_of(found)
    ]
    if rows:
        print_table(console, COLUMNS, rows)
    for line in precision_lines(found):
        console.print(line)
    if found["device"] != "cpu" and found["cases"] and not any("share_of_peak" in case for case in found["cases"]):
        console.print(f"the peak of {printable(found['device_name'])} is not known, so its share is not told", style="dim")


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """Yield `say(what, part)`: a bar on a terminal, else a line on standard error when something begins."""
    console = make_console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        last = [""]

        def line(what: str, part: float) -> None:
            if what != last[0]:
                last[0] = what
                print(f"measuring {printable(what)}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True) as bar:
        handle = bar.add_task("loading torch", total=1)
        yield lambda what, part: bar.update(handle, description=printable(what), completed=part)
