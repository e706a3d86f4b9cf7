"""The columns of the home screen's list, and what a project or a run says in them."""

from edc_tui.overview import Entry, top1
from edc_tui.widgets.rows import Column, Row
from edc_tui.words import bar, fraction, seconds_left, short_duration, short_reason, status_glyph, status_style
from engine.commands.report import age
from engine.commands.tables import count
from engine.runs.store import Listing

BAR_CELLS = 8
COLUMNS = (
    Column("", 1),
    Column("project / run", 22, grow=True, sort="name"),
    Column("status", 15, sort="status"),
    Column("stage", 10, drop=1),
    Column("", BAR_CELLS, drop=5),
    Column("", 4, right=True, drop=1),
    Column("left", 6, right=True, drop=2),
    Column("top-1 %", 7, right=True, sort="accuracy"),
    Column("age", 6, right=True, sort="newest"),
    Column("method", 8, drop=3),
    Column("dataset", 13, drop=4),
    Column("ipc", 4, right=True, drop=4),
    Column("", 16, drop=6, grow=True),
)


def make_row(entry: Entry, now: float, *, marked: bool) -> Row:
    """Return the line of a project or a run at `now` (unix seconds)."""
    cells = _project_cells(entry) if entry.listing is None else _run_cells(entry, entry.listing, now, marked)
    return Row(entry.key, tuple(cells))


def sweep_words(name: str) -> str:
    """Say what becomes of a file that describes a sweep."""
    return f"makes several projects: `edc sweep {name}` runs them, with --dry-run it shows them"


def _project_cells(entry: Entry) -> list[tuple[str, str]]:
    file, runs = entry.file, entry.listings
    alive = sum(listing.status.alive for listing in runs)
    best = max((value for value in map(top1, runs) if value is not None), default=None)
    status = f"{alive} of {len(runs)} at work" if alive else count(len(runs), "run")
    note, note_style = ("the project file is gone", "warn") if file is None else (file.problem or "", "bad")
    if file is not None and file.sweep:
        note, note_style = sweep_words(file.name), "muted"
    bare = ("✗ broken file", "bad") if file and file.problem else ("a sweep" if file and file.sweep else "no runs yet", "muted")
    return [
        (("▸" if entry.folded else "▾") if runs else " ", "muted"),
        (entry.project, "strong"),
        (status, "muted") if runs else bare,
        ("", ""),
        ("", ""),
        ("", ""),
        ("", ""),
        ("" if best is None else f"{best:.2f}", "strong"),
        ("", ""),
        *((text, "muted") for text in ((file.method, file.dataset, file.ipc) if file else ("", "", ""))),
        (note, note_style),
    ]


def _run_cells(entry: Entry, listing: Listing, now: float, marked: bool) -> list[tuple[str, str]]:
    status, summary = listing.status, listing.summary
    name = f"  {listing.run.id}" if entry.nested else f"{listing.run.project}  {listing.run.id}"
    busy = status.alive and status.stage
    part = fraction(status.done, status.total) if busy else None
    left = short_duration(seconds_left(status.done, status.total, status.rate)) if part is not None else ""
    best = top1(listing)
    quiet = status.alive and status.word in ("running", "starting") or status.word in ("done", "stopped")
    note = listing.problem or ("" if quiet else short_reason(status.reason))
    asked = ("", "", "") if entry.nested else tuple(str(summary.get(key, "")) for key in ("method", "dataset", "ipc"))
    return [
        ("◆", "warn") if marked else (" ", ""),
        (name, ""),
        (f"{status_glyph(status.word)} {status.word}", status_style(status.word)),
        ((status.stage or "") if status.word != "done" else "", ""),
        ("" if part is None else bar(part, BAR_CELLS), "accent"),
        ("" if part is None else f"{part:.0%}", ""),
        (left, ""),
        ("" if best is None else f"{best:.2f}", ""),
        (short_duration(age(listing.run, now)), "muted"),
        *((text, "muted") for text in asked),
        (note, "warn" if listing.problem else "muted"),
    ]
