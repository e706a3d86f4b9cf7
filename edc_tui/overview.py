"""What the home screen lists, and in which order: projects with their runs below them, or runs alone."""

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from edc_tui.filtering import Filter
from edc_tui.watch import ProjectFile
from engine.commands.runs import best_condensed
from engine.runs.events import number
from engine.runs.store import Listing

ORDERS = ("newest", "accuracy", "name", "status")
_STATUS_ORDER = ("running", "starting", "stalled", "stopping", "failed", "killed", "out-of-memory", "lost", "stopped", "queued", "done")


@dataclass(frozen=True)
class Entry:
    """A line of the list: a project (with `listings`, its runs that are shown), or one run (`listing`)."""

    key: str
    project: str
    file: ProjectFile | None = None
    listing: Listing | None = None
    listings: tuple[Listing, ...] = ()
    folded: bool = False
    nested: bool = False


def top1(listing: Listing) -> float | None:
    """Return the best mean top-1 (percent) that a student of a run's condensed set reached; None without one."""
    best = best_condensed(listing.summary)
    mean = None if best is None else number(best["mean"])
    return mean if mean is not None and math.isfinite(mean) else None


def run_key(listing: Listing) -> str:
    """Return what a run is told from every other by; copies of a run may share its id."""
    return f"{listing.run.project}/{listing.run.id}"


def entries(
    listings: Sequence[Listing],
    files: Sequence[ProjectFile],
    *,
    order: str = "newest",
    grouped: bool = True,
    folded: Collection[str] = (),
    chosen: Filter | None = None,
) -> list[Entry]:
    """Return the lines of the list; `folded` names projects whose runs are not shown, `chosen` keeps what fits it."""
    kept = [listing for listing in listings if chosen is None or chosen.keeps(listing)]
    by_name = {file.name: file for file in files}
    with_runs = {listing.run.project for listing in listings}
    bare = [file for file in files if file.name not in with_runs and (chosen is None or chosen.keeps_project(file.name))]
    if not grouped:
        runs = [
            Entry(run_key(listing), listing.run.project, by_name.get(listing.run.project), listing)
            for listing in sorted(kept, key=lambda listing: _run_rank(listing, order))
        ]
        return runs + [Entry(file.name, file.name, file) for file in sorted(bare, key=lambda file: file.name)]
    groups: dict[str, list[Listing]] = {file.name: [] for file in bare}
    for listing in kept:
        groups.setdefault(listing.run.project, []).append(listing)
    for runs in groups.values():
        runs.sort(key=lambda listing: _run_rank(listing, order))
    lines = []
    for name in sorted(groups, key=lambda name: _group_rank(name, groups[name], by_name.get(name), order)):
        file, runs = by_name.get(name), groups[name]
        lines.append(Entry(name, name, file, listings=tuple(runs), folded=name in folded))
        if name not in folded:
            lines += [Entry(run_key(listing), name, file, listing, nested=True) for listing in runs]
    return lines


def _run_rank(listing: Listing, order: str) -> Any:
    newest = _backwards(listing.run.id)
    if order == "accuracy":
        best = top1(listing)
        return (best is None, -(best or 0.0), newest)
    if order == "status":
        return (_status_rank(listing), newest)
    if order == "name":
        return (listing.run.project.lower(), newest)
    return (newest,)


def _group_rank(name: str, runs: Sequence[Listing], file: ProjectFile | None, order: str) -> Any:
    """Rank a project by its first run; one without runs comes last, or by name or by the time of its file where that is asked."""
    if order == "name":
        return (name.lower(),)
    if order == "newest":
        made = time.strftime("%Y%m%d-%H%M%S", time.gmtime(file.changed if file else 0.0))  # as a run made at that time would be called
        return (_backwards(runs[0].run.id if runs else made), name)
    return (not runs, _run_rank(runs[0], order) if runs else (), name)


def _status_rank(listing: Listing) -> int:
    word = listing.status.word
    return _STATUS_ORDER.index(word) if word in _STATUS_ORDER else len(_STATUS_ORDER)


def _backwards(text: str) -> tuple[int, ...]:
    """Return what sorts texts from last to first."""
    return (*(-ord(character) for character in text), 1)
