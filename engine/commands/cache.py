"""`edc cache` and `edc cache clean`: what the stage cache of a projects folder holds, for whom, and the removal of the rest."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.tables import Column, count, make_console, print_json, print_table, shortest, size
from engine.errors import UserError
from engine.project.plan import STAGES
from engine.runs.layout import Run
from engine.runs.text import duration, printable
from engine.stages.cache import cache_folder
from engine.stages.cache_users import DATA, Entry, age_of, clean, freed_bytes, list_entries, total_bytes

if TYPE_CHECKING:
    from rich.console import Console

USERS_SHOWN = 2


def cache_command(projects: Path, *, every: bool, as_json: bool) -> None:
    """Print what the cache holds stage by stage, or with `every` entry by entry."""
    entries = list_entries(projects)
    if as_json:
        print_json(_facts(projects, entries))
        return
    console, folder = make_console(), printable(shortest(cache_folder(projects)))
    if not entries:
        console.print(f"{folder} holds nothing yet; a run keeps there what it has finished", soft_wrap=True)
        return
    (_print_entries if every else _print_stages)(console, entries)
    console.print()
    console.print(f"{folder}: {_said(entries)}", soft_wrap=True)
    unused = [entry for entry in entries if entry.removable]
    if unused:
        console.print(f"no run refers to {_said(unused)}: `edc cache clean` removes them", soft_wrap=True)


def clean_command(projects: Path, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Remove what no run refers to, after asking; `dry_run` only says what that is.

    Raises UserError when nobody can be asked and `yes` is not given.
    """
    import sys

    import typer

    console = make_console(stderr=as_json)
    unused = [entry for entry in list_entries(projects) if entry.removable]
    if dry_run:
        if as_json:
            print_json(_facts(projects, unused))
        elif unused:
            _print_entries(console, unused)
            console.print()
        console.print(f"would remove {_said(unused)}" if unused else _nothing(projects), soft_wrap=True)
        return
    if unused and not yes:
        if not sys.stdin.isatty():
            raise UserError(f"removing {_said(unused)} needs a yes: give --yes, or --dry-run to see what it is")
        typer.confirm(f"remove {_said(unused)} that no run refers to?", abort=True, err=as_json)
    freed = freed_bytes(unused)
    removed = clean(projects, unused)
    if as_json:
        print_json(_facts(projects, removed))
        return
    kept = len(unused) - len(removed)
    stays = f"; {count(kept, 'entry')} stayed, for runs are at work" if kept else ""
    console.print(f"removed {count(len(removed), 'entry')}, {size(freed)} freed{stays}" if removed else _nothing(projects), soft_wrap=True)


def _nothing(projects: Path) -> str:
    return f"nothing in {printable(shortest(cache_folder(projects)))} is without a run that refers to it"


def _said(entries: list[Entry]) -> str:
    return f"{count(len(entries), 'entry')} of {size(total_bytes(entries))}"


def _print_stages(console: "Console", entries: list[Entry]) -> None:
    columns = [
        Column("stage"),
        Column("entries", "right"),
        Column("size", "right"),
        Column("for runs", "right"),
        Column("unused", "right"),
        Column("newest", "right", drop=2),
        Column("oldest", "right", drop=1),
    ]
    rows = []
    for stage in (*STAGES, DATA):
        own = [entry for entry in entries if entry.stage == stage]
        unused = [entry for entry in own if entry.removable]
        if own:
            ages = [age for entry in own if (age := age_of(entry)) is not None]
            users = {user.folder for entry in own for user in entry.users}
            said = f"{len(unused)} of {size(total_bytes(unused))}" if unused else ""
            said_ages = [duration(age) for age in (min(ages), max(ages))] if ages else ["", ""]
            rows.append([_stage_name(stage), str(len(own)), size(total_bytes(own)), str(len(users)), said, *said_ages])
    print_table(console, columns, rows)


def _print_entries(console: "Console", entries: list[Entry]) -> None:
    columns = [
        Column("stage"),
        Column("entry"),
        Column("fingerprint", drop=3),
        Column("size", "right"),
        Column("age", "right", drop=1),
        Column("for runs"),
        Column("", drop=2),
    ]
    rows, last = [], None
    for entry in entries:
        age = age_of(entry)
        state = "at work" if entry.claimed else "damaged" if entry.damaged else ""
        name = _stage_name(entry.stage) if entry.stage != last else ""
        last = entry.stage
        said_age = "" if age is None else duration(age)
        rows.append([name, entry.name, entry.fingerprint[:12], size(entry.bytes), said_age, _users(entry), state])
    print_table(console, columns, rows)


def _users(entry: Entry) -> str:
    shown = [_run_name(run) for run in entry.users[:USERS_SHOWN]]
    more = len(entry.users) - len(shown)
    return ", ".join([*shown, *([f"{more} more"] if more else [])]) or "none"


def _run_name(run: Run) -> str:
    return f"{run.project}/{run.id}"


def _stage_name(stage: str) -> str:
    return "decoded data" if stage == DATA else stage


def _facts(projects: Path, entries: list[Entry]) -> dict[str, Any]:
    stages: dict[str, dict[str, int]] = {}
    for stage in (*STAGES, DATA):
        own = [entry for entry in entries if entry.stage == stage]
        unused = [entry for entry in own if entry.removable]
        facts = {"entries": len(own), "bytes": total_bytes(own), "unused": len(unused), "unused_bytes": total_bytes(unused)}
        stages |= {stage: facts} if own else {}
    return {
        "schema": 1,
        "folder": str(cache_folder(projects)),
        "bytes": total_bytes(entries),
        "unused_bytes": total_bytes([entry for entry in entries if entry.removable]),
        "stages": stages,
        "entries": [
            {
                "stage": entry.stage,
                "entry": entry.name,
                "fingerprint": entry.fingerprint,
                "bytes": entry.bytes,
                "age_seconds": age_of(entry),
                "runs": [_run_name(run) for run in entry.users],
                "claimed": entry.claimed,
                "damaged": entry.damaged,
                "unused": entry.removable,
            }
            for entry in entries
        ],
    }
