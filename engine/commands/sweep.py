"""`edc sweep`: the projects of a grid, run one after the other or queued, and their results in one table."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.commands.progress import follow
from engine.commands.request import Request, make_request
from engine.commands.run import announce, claim, decode, start, watch
from engine.commands.sweep_table import FORMATS, Cell, print_plan, print_rows, result_rows
from engine.commands.tables import count, make_console, shortest
from engine.errors import UserError
from engine.files import write_text
from engine.project.resolve import nearest
from engine.project.sweep import Point, Sweep, chosen_points, missing_projects, read_sweep, said_value
from engine.runs.layout import Run, read_object
from engine.runs.queue import slots_of
from engine.runs.status import EXIT_STOPPED, exit_status, run_status
from engine.runs.store import all_runs, begin_lock, frozen_from
from engine.runs.text import printable

if TYPE_CHECKING:
    from rich.console import Console


def sweep_command(
    path: Path,
    over: Sequence[str],
    overrides: Sequence[str],
    *,
    only: Sequence[str] = (),
    dry_run: bool,
    detach: bool,
    now: bool,
    form: str,
) -> int:
    """Make the projects of a sweep, run those that are not done, and print one row for each; return the exit status.

    `only` are patterns of the points to take, all without one.
    Every project is checked before the first file is written. Points that are done are taken as they are, those interrupted go on,
    those at work elsewhere are waited for. A point that fails does not keep the next ones from running; a stop does.
    """
    if form not in FORMATS:
        raise UserError(f"--format: {form!r} is not a format; {nearest(form, list(FORMATS))}")
    path = shortest(path)
    sweep = read_sweep(path, over)
    sweep = chosen_points(sweep, only) if only else sweep
    requests = _requests(sweep, overrides)
    missing = missing_projects(sweep)
    cells = [Cell(point, request, _standing(request)) for point, request in zip(sweep.points, requests, strict=True)]
    if dry_run:
        print_plan(sweep, cells, form)
        return 0
    for request in requests:
        slots_of(request.plan.device)
        decode(request, stderr=form != "table")
    for file, text in missing.items():
        write_text(file, text)
    console = make_console(stderr=form != "table")
    console.print(_said_of_files(sweep, len(missing)), soft_wrap=True)
    status = _run_all(console, sweep, cells, detach=detach, now=now)
    if form == "table":
        console.print()
    print_rows(sweep, result_rows([replace(cell, run=_standing(cell.request)) for cell in cells]), form)
    if status == EXIT_STOPPED:
        print("edc: the same `edc sweep` goes on with what is left", file=sys.stderr)
    elif detach:
        console.print("the same `edc sweep` without --detach waits for them and prints what came out", style="dim", soft_wrap=True)
    return status


def _requests(sweep: Sweep, overrides: Sequence[str]) -> list[Request]:
    """Check and plan every point; raises UserError with each problem once, and where it is not everywhere, with the point it is at."""
    requests: list[Request] = []
    problems: dict[str, list[Point]] = {}
    for point in sweep.points:
        origins = {name: sweep.origins[name] for name in point.values}
        try:
            request = make_request(sweep.path, overrides, swept=point.values, swept_by=origins)
            requests.append(replace(request, path=point.path.absolute()))
        except UserError as error:
            for line in str(error).splitlines():
                problems.setdefault(line, []).append(point)
    if problems:
        lines = []
        for line, points in problems.items():
            others = f" and {len(points) - 1} more" if len(points) > 1 else ""
            lines.append(line if len(points) == len(sweep.points) else f"{line} (in {points[0].path.stem}{others})")
        if requests and any(point.name for point in sweep.points):
            lines.append(f"the other {count(len(requests), 'point')} can be run: `--only PATTERN` takes those whose names match")
        raise UserError("\n".join(lines))
    return requests


def _standing(request: Request) -> Run | None:
    """Return the run that stands for a point: one that is done or at work, else the newest, of exactly this project."""
    runs = [run for run in all_runs(request.projects, request.name) if frozen_from(run, request.plan.fingerprint) and _same(run, request)]
    statuses = {run: run_status(run.folder) for run in runs}
    done = [run for run, status in statuses.items() if status.word == "done" and read_object(run.summary)[0] is not None]
    alive = [run for run, status in statuses.items() if status.alive]
    return next(iter([*done, *alive, *runs]), None)


def _same(run: Run, request: Request) -> bool:
    """Say whether a run's summary selects its headline as the project does, which no fingerprint covers."""
    select = (read_object(run.summary)[0] or {}).get("select")
    return select in (None, request.resolved.project.evaluate.select)


def _run_all(console: "Console", sweep: Sweep, cells: Sequence[Cell], *, detach: bool, now: bool) -> int:
    """Bring every point to its end, or start it; return the first exit status that is not 0."""
    status = 0
    for index, cell in enumerate(cells, start=1):
        console.print(f"[{index}/{len(cells)}] {_said_point(sweep, cell.point)}", style="bold", soft_wrap=True)
        ended = _run_one(console, cell.request, detach=detach, now=now)
        status = status or ended
        if ended == EXIT_STOPPED:
            break
    return status


def _run_one(console: "Console", request: Request, *, detach: bool, now: bool) -> int:
    """Bring one point to its end, or start it; return its exit status."""
    with begin_lock(request.projects, request.name) as lock:
        standing = _standing(request)
        status = run_status(standing.folder) if standing else None
        if standing is None or status is None or not (status.alive or status.word == "done"):
            run, resumed = claim(request, fresh=False)
            announce(console, request, run, resumed=resumed, fresh=False)
            return start(console, run, now=now) if detach else watch(console, run, now=now, on_held=lock.release)
    name = printable(standing.id)
    if not status.alive:
        console.print(f"run {name} has done this", style="dim", soft_wrap=True)
        return 0
    console.print(f"run {name} is {status.word}: {status.reason}", style="dim", soft_wrap=True)
    if detach:
        return 0
    try:
        follow(standing, console)
    except KeyboardInterrupt:
        console.print(f"\nrun {name} goes on; `edc stop {name}` stops it", soft_wrap=True)
        return EXIT_STOPPED
    return exit_status(standing.folder)


def _said_point(sweep: Sweep, point: Point) -> str:
    values = ", ".join(f"{name} = {said_value(point.values[name])}" for name in sweep.shown_keys if name in point.values)
    return printable(": ".join(filter(None, [point.name, values])) or point.path.stem)


def _said_of_files(sweep: Sweep, written: int) -> str:
    folder = printable(shortest(sweep.path.absolute().parent))
    made = f"{written} new" if written else "none new"
    return f"{count(len(sweep.points), 'project')} in {folder}, {made}"
