"""`edc run` and `edc resume`: from a request to a finished run, in the foreground or detached."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.commands.cautions import cautions, print_warnings
from engine.commands.progress import make_progress, task
from engine.commands.report import facts_of, print_report
from engine.commands.request import Request, make_request
from engine.commands.tables import count, make_console, mute_lost_streams, print_json, shortest
from engine.errors import RunError, Stopped, UserError
from engine.runs.layout import Run, read_object
from engine.runs.process import start_detached, supervise, wait_for_end
from engine.runs.queue import slots_of
from engine.runs.status import EXIT_STOPPED, exit_status, run_status
from engine.runs.store import begin_lock, create_run, find_projects_folder, latest_unfinished
from engine.runs.text import printable, typed

if TYPE_CHECKING:
    from rich.console import Console

FAILED, WRONG = 1, 2


def run_projects(
    paths: Sequence[Path], overrides: Sequence[str], *, until: str, fresh: bool, detach: bool, now: bool, as_json: bool
) -> int:
    """Run projects one after the other, or start them detached; return the exit status, the first that is not 0.

    Every project is checked before the first begins. A project that fails does not keep the next ones from running; one that is
    stopped does. Runs wait for their device unless `now`.
    """
    requests = [make_request(path, overrides, until=until) for path in paths]
    for request in requests:
        slots_of(request.plan.device)
        decode(request, stderr=as_json)
    console = make_console(stderr=as_json)
    status, shown = 0, []
    for request in requests:
        with begin_lock(request.projects, request.name) as lock:
            run, resumed = claim(request, fresh=fresh)
            announce(console, request, run, resumed=resumed, fresh=fresh)
            ended = start(console, run, now=now) if detach else watch(console, run, now=now, on_held=lock.release)
        shown.append(facts_of(run))
        status = status or ended
        if not detach and not as_json and ended == 0:
            console.print()
            print_report(console, run)
        if ended == EXIT_STOPPED:
            break
    if as_json:
        print_json(shown[0] if len(paths) == 1 else shown)
    return status


def run_project(project_path: Path | str, overrides: Sequence[str] = ()) -> Path:
    """Run or resume a project quietly in this process's foreground and return the run's folder; `overrides` are `section.key=value`.

    Raises UserError when the project or its data are wrong, RunError when the run fails, Stopped when it is stopped and can be resumed.
    """
    request = make_request(Path(project_path).expanduser(), overrides)
    decode(request)
    with begin_lock(request.projects, request.name) as lock:
        run, _ = claim(request, fresh=False)
        status = supervise(run.folder, on_held=lock.release)
    if status:
        raise {WRONG: UserError, EXIT_STOPPED: Stopped}.get(status, RunError)(f"run {run.id}: {run_status(run.folder).reason}")
    return run.folder


def decode(request: Request, *, stderr: bool = False) -> None:
    """Decode the project's images unless they are already: a damaged one is found before the run has a folder."""
    from engine.data.decode import prepare

    with task(f"decoding {request.plan.source.name}", unit="images", stderr=stderr) as progress:
        prepare(request.plan.source, request.cache, progress, request.plan.project.dataset.store)


def claim(request: Request, *, fresh: bool) -> tuple[Run, bool]:
    """Return the run to work on, and whether it is an earlier one that goes on; to be called under the project's `begin_lock`."""
    from engine.project.frozen import freeze

    if not fresh:
        unfinished = latest_unfinished(request.projects, request.name, request.plan.fingerprint)
        if unfinished is not None:
            return unfinished, True
    text = freeze(request.resolved, request.plan, until=request.until, fresh=fresh)
    return create_run(request.projects, request.name, text), False


def resume_run(run: Run, *, detach: bool, now: bool, as_json: bool) -> int:
    """Go on with a run from its last checkpoint and return the exit status; raises UserError when it is done or at work.

    One that is stopping is waited for. One that is done is taken up all the same when its summary is missing or damaged: that is
    written anew from its stages.
    """
    console = make_console(stderr=as_json)
    status = run_status(run.folder)
    if status.alive and not status.orphaned and status.word in ("stopping", "stopped", "failed"):
        console.print(f"run {printable(run.id)} is {status.word}: waiting until its processes have ended", soft_wrap=True)
        status = wait_for_end(run.folder)
    whole = read_object(run.summary)[0] is not None
    if not status.resumable and not (status.word == "done" and not status.alive and not whole):
        raise UserError(f"run {printable(run.id)} is {status.word} ({status.reason}): there is nothing to resume")
    console.print(f"going on with run {printable(run.id)} of {printable(run.project)}", soft_wrap=True)
    ended = start(console, run, now=now) if detach else watch(console, run, now=now)
    if as_json:
        print_json(facts_of(run))
    elif ended == 0 and not detach:
        console.print()
        print_report(console, run)
    return ended


def watch(console: "Console", run: Run, *, now: bool, on_held: Callable[[], None] | None = None) -> int:
    """Supervise a run in the foreground with progress; say why it ended unless it is done; return the exit status.

    `on_held` is called as soon as this process holds the run. When the terminal, or whoever reads our output, goes away, the run stops
    with a checkpoint.
    """
    try:
        with make_progress(console, run) as progress:
            ended = supervise(run.folder, on_tick=progress.tick, now=now, on_held=on_held)
    except OSError:
        if not mute_lost_streams():
            raise
        ended = exit_status(run.folder)
    mute_lost_streams()
    if ended == EXIT_STOPPED:
        begun = (read_object(run.exit)[0] or {}).get("pid") is not None
        print(f"edc: run {printable(run.id)} {'stopped with a checkpoint' if begun else 'was stopped before it began'}", file=sys.stderr)
        print(f"edc: `edc resume {handle(run)}` goes on with it", file=sys.stderr)
    elif ended:
        print(f"edc: run {printable(run.id)}: {run_status(run.folder).reason}", file=sys.stderr)
        print(f"edc: its log is {printable(shortest(run.worker_log))}", file=sys.stderr)
    return ended


def handle(run: Run) -> str:
    """Return what to call a run on a command line typed in this folder: its id, or its folder where the id would not be found."""
    found = run.folder.parent == find_projects_folder().resolve() / run.project / "runs"
    return typed(run.id if found else shortest(run.folder))


def announce(console: "Console", request: Request, run: Run, *, resumed: bool, fresh: bool) -> None:
    """Say which run begins or goes on; of a new one how much the cache holds and, once, what is to be said against its settings."""
    plan = request.plan
    cached = 0 if fresh or resumed else sum(request.in_cache(step) for step in plan.steps)
    words = [count(len(plan.steps), "step"), *([f"{cached} cached"] if cached else []), f"{plan.device} {plan.precision}"]
    begins = "going on with run" if resumed else "run"
    console.print(f"{begins} {printable(run.id)} of {printable(request.name)}: {', '.join(words)}", soft_wrap=True)
    if not resumed:
        print_warnings(console, cautions(request))


def start(console: "Console", run: Run, *, now: bool) -> int:
    """Start a run in the background and say how to look at it, and what it waits for."""
    pid = start_detached(run.folder, now=now)
    status = run_status(run.folder)
    if status.word == "queued":
        console.print(f"run {printable(run.id)} {status.reason}", soft_wrap=True)
    console.print(f"detached, pid {pid}: `edc tail {handle(run)}` shows how it goes, `edc stop {handle(run)}` stops it", soft_wrap=True)
    return 0
