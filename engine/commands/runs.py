"""`edc list`, `show`, `tail`, `stop` and `remove`: runs that exist already."""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.progress import LOOK_SECONDS, follow
from engine.commands.report import age, facts_of, print_report
from engine.commands.tables import Column, make_console, percent, print_json, print_table, styled_status
from engine.errors import UserError
from engine.runs.events import Tail
from engine.runs.layout import Run
from engine.runs.process import GRACE_SECONDS, request_stop
from engine.runs.results import headlines
from engine.runs.status import exit_status, run_status
from engine.runs.store import Listing, delete_run, find_run, list_runs, refuse_removal
from engine.runs.text import duration, printable

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130  # what a shell says of a program that Ctrl-C has ended
KILL_SECONDS = 2.0  # what a supervisor may take to kill its worker when the grace is over


def named_run(projects: Path, text: str) -> Run:
    """Find the run that RUN means; a path to a project file means that project's latest run, wherever the file lies."""
    path = Path(text).expanduser()
    if path.suffix == ".toml" and len(path.parts) > 1:
        return find_run(path.absolute().parent, path.name)
    return find_run(projects, text)


def list_command(projects: Path, *, as_json: bool) -> None:
    """Print all runs of the projects folder, newest first."""
    listings = list_runs(projects)
    if as_json:
        print_json([_listing_facts(listing) for listing in listings])
        return
    console = make_console()
    if not listings:
        console.print(f"no runs in {printable(projects)}; `edc new NAME` writes a project, `edc run NAME` runs it", soft_wrap=True)
        return
    now = time.time()
    columns = [
        Column("project"),
        Column("run", drop=3),
        Column("status"),
        Column("method", drop=5),
        Column("dataset", drop=6),
        Column("ipc", "right", drop=4),
        Column("top-1 %", "right"),
        Column("age", "right", drop=2),
    ]
    print_table(console, columns, [_list_row(listing, now) for listing in listings])
    for listing in listings:
        if listing.problem:
            remedy = f"; `edc resume {printable(listing.run.id)}` writes it anew" if listing.mendable else ""
            console.print(f"{printable(listing.run.id)}: {printable(listing.problem)}{remedy}", style="yellow", soft_wrap=True)
        if listing.status.word == "queued":
            console.print(f"{printable(listing.run.id)} {listing.status.reason}", style="dim", soft_wrap=True)


def _list_row(listing: Listing, now: float) -> list[Any]:
    summary, passed = listing.summary, age(listing.run, now)
    return [
        listing.run.project,
        listing.run.id,
        styled_status(listing.status.word),
        str(summary.get("method", "")),
        str(summary.get("dataset", "")),
        str(summary.get("ipc", "")),
        percent(best_condensed(summary)),
        "" if passed is None else duration(passed),
    ]


def best_condensed(summary: dict[str, Any]) -> dict[str, Any] | None:
    """Return the top-1 of the student that does best on the condensed set, as mean and deviation over seeds; None without one."""
    rows = [row.get("top1") for row in headlines(summary.get("results"), "condensed")]
    spreads = [row for row in rows if isinstance(row, dict) and isinstance(row.get("mean"), int | float)]
    return max(spreads, key=lambda spread: spread["mean"], default=None)


def _listing_facts(listing: Listing) -> dict[str, Any]:
    run, summary = listing.run, listing.summary
    return {
        "run": run.id,
        "project": run.project,
        "status": listing.status.word,
        "reason": listing.status.reason,
        "method": summary.get("method"),
        "dataset": summary.get("dataset"),
        "ipc": summary.get("ipc"),
        "top1": best_condensed(summary),
        "age_seconds": age(run),
        "folder": str(run.folder),
        "problem": listing.problem,
    }


def show_command(run: Run, *, as_json: bool) -> None:
    """Print one run in full."""
    if as_json:
        print_json(facts_of(run))
    else:
        print_report(make_console(), run)


def tail_command(run: Run, *, as_json: bool) -> int:
    """Print what a run has done and does until it ends, and return the run's exit status; Ctrl-C ends the watching, not the run.

    With `as_json`, every event and every line of metrics is one JSON object on a line, the last one the run's status.
    """
    console = make_console()
    try:
        follow_as_json(run) if as_json else follow(run, console)
    except KeyboardInterrupt:
        ends = run_status(run.folder)
        words = f"goes on; `edc stop {printable(run.id)}` stops it" if ends.alive else f"is {ends.word}"
        print(f"\nedc: run {printable(run.id)} {words}", file=sys.stderr)
        return INTERRUPTED
    if not as_json:
        status = run_status(run.folder)
        console.print(f"run {printable(run.id)} is {status.word}: {status.reason}", soft_wrap=True)
    return exit_status(run.folder)


def follow_as_json(run: Run) -> None:
    """Print events and metrics of a run, those there are and those that come, until it ends; then its status."""
    events, metrics, home = Tail(run.events), {}, run.folder.resolve()
    while True:
        ended = not run_status(run.folder).alive  # asked first: what it wrote last is read after its end
        for event in events.read():
            _print_line(event)
            folder = event.get("folder") if event.get("event") == "stage_started" else None
            if isinstance(folder, str) and (home / folder).resolve().is_relative_to(home):
                metrics.setdefault(folder, (event, Tail(run.folder / folder / "metrics.jsonl")))
        for event, tail in metrics.values():
            for row in tail.read():
                _print_line({"event": "metrics", "stage": event.get("stage"), "step": event.get("step"), **row})
        if ended:
            break
        time.sleep(LOOK_SECONDS)
    status = run_status(run.folder)
    _print_line({"event": "status", "status": status.word, "reason": status.reason})


def _print_line(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def stop_command(runs: Sequence[Run], *, kill: bool, grace: float = GRACE_SECONDS) -> None:
    """Ask runs to write a checkpoint and stop, all at once, and wait until they have, counting down on a terminal.

    Those that have not after `grace` seconds are killed; with `kill` all are, at once. Ctrl-C ends the waiting, not the stopping.
    """
    runs = list(dict.fromkeys(runs))
    console = make_console()
    asked = [run for run in runs if request_stop(run.folder, grace=0.0 if kill else grace)]
    try:
        _wait_for_ends(console, asked, grace=0.0 if kill else grace)
    except KeyboardInterrupt:
        names = ", ".join(printable(run.id) for run in asked if run_status(run.folder).alive)
        print(f"\nedc: the request stands; `edc list` tells what becomes of {names}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    for run in runs:
        status, words = run_status(run.folder), "is" if run in asked else "was not at work, it is"
        console.print(f"run {printable(run.id)} {words} {status.word}: {status.reason}", soft_wrap=True)


def _wait_for_ends(console: "Console", runs: Sequence[Run], *, grace: float) -> None:
    """Wait until no process of the runs is alive, saying meanwhile how long they still have."""
    from rich.live import Live
    from rich.text import Text

    deadline = time.monotonic() + grace + KILL_SECONDS
    redraws, told = console.is_terminal and not console.is_dumb_terminal, set()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while alive := [(run, status) for run in runs if (status := run_status(run.folder)).alive]:
            lines = [f"run {printable(run.id)} {status.reason}" for run, status in alive]
            if redraws:
                live.update(Text("\n".join(lines), style="dim"), refresh=True)
            for (run, status), line in zip(alive, lines, strict=True):
                if not redraws and status.word == "stopping" and run not in told:
                    told.add(run)
                    console.print(line, soft_wrap=True)
            if time.monotonic() > deadline:
                deadline = math.inf
                for run, _ in alive:  # nobody else kills a worker that has lost its supervisor
                    request_stop(run.folder, grace=0.0)
            time.sleep(LOOK_SECONDS)


def remove_command(runs: Sequence[Run], *, yes: bool) -> None:
    """Delete runs with everything in them, after asking; the stage cache keeps its own links to finished stages.

    Raises UserError when a run is at work, or when nobody can be asked and `yes` is not given.
    """
    import typer

    runs = list(dict.fromkeys(runs))
    for run in runs:
        refuse_removal(run)
    names = ", ".join(printable(run.id) for run in runs)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"removing {names} needs a yes: give --yes")
        typer.confirm(f"remove {names} for good?", abort=True)
    console = make_console()
    for run in runs:
        delete_run(run)
        console.print(f"removed {printable(os.path.relpath(run.folder))}", soft_wrap=True)
