"""`edc list`, `show`, `tail`, `stop` and `remove`: runs that exist already."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.commands.progress import follow
from engine.commands.report import age, facts_of, print_report
from engine.commands.tables import Column, make_console, percent, print_json, print_table, styled_status
from engine.errors import UserError
from engine.runs.layout import Run
from engine.runs.process import request_stop, wait_for_end
from engine.runs.status import run_status
from engine.runs.store import Listing, delete_run, find_run, list_runs
from engine.runs.text import duration, printable


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
            console.print(f"{printable(listing.run.id)}: {printable(listing.problem)}", style="yellow", soft_wrap=True)


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
    results = summary.get("results")
    rows = (
        [row.get("top1") for row in results if isinstance(row, dict) and row.get("set") == "condensed"] if isinstance(results, list) else []
    )
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


def tail_command(run: Run) -> None:
    """Print what a run has done and does until it ends; Ctrl-C ends the watching, not the run."""
    console = make_console()
    try:
        follow(run, console)
    except KeyboardInterrupt:
        console.print(f"\nrun {printable(run.id)} goes on; `edc stop {printable(run.id)}` stops it", soft_wrap=True)
        return
    status = run_status(run.folder)
    console.print(f"run {printable(run.id)} is {status.word}: {status.reason}", soft_wrap=True)


def stop_command(runs: Sequence[Run], *, kill: bool) -> None:
    """Ask runs to write a checkpoint and stop, all at once, and wait until they have; `kill` ends them without a checkpoint."""
    console = make_console()
    asked = [run for run in runs if (request_stop(run.folder, grace=0.0) if kill else request_stop(run.folder))]
    for run in runs:
        status = wait_for_end(run.folder) if run in asked else run_status(run.folder)
        words = "is" if run in asked else "was not at work, it is"
        console.print(f"run {printable(run.id)} {words} {status.word}: {status.reason}", soft_wrap=True)


def remove_command(runs: Sequence[Run], *, yes: bool) -> None:
    """Delete runs with everything in them, after asking; the stage cache keeps its own links to finished stages.

    Raises UserError when a run is at work, or when nobody can be asked and `yes` is not given.
    """
    import sys

    import typer

    names = ", ".join(printable(run.id) for run in runs)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"removing {names} needs a yes: give --yes")
        typer.confirm(f"remove {names} for good?", abort=True)
    console = make_console()
    for run in runs:
        delete_run(run)
        console.print(f"removed {printable(os.path.relpath(run.folder))}", soft_wrap=True)
