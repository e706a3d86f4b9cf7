"""What is asked before something is done to runs: a title, what will happen in a few lines, and the word for yes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edc_tui.words import fraction, short_duration
from engine.commands.tables import count, size
from engine.runs.layout import Run
from engine.runs.process import GRACE_SECONDS
from engine.runs.status import RunStatus, run_status

if TYPE_CHECKING:
    from engine.commands.outline import Outline
    from engine.commands.request import Request

SHOWN = 6


@dataclass(frozen=True)
class Question:
    """A question for a Confirm dialog."""

    title: str
    lines: tuple[str, ...]
    yes: str
    danger: bool = False


def ask_start(request: "Request") -> Question:
    """Say what starting a project will do, and how long it takes as far as past runs tell."""
    from engine.commands.outline import outline

    plan, project = outline(request.resolved, projects=request.projects, name=request.name), request.resolved.project
    what = f"{project.condense.method} on {project.dataset.name}, {count(project.condense.ipc, 'image')} for each of "
    what += f"{count(plan.classes, 'class')}; on {plan.device} in {plan.precision}."
    goes_on = f"It goes on with run {plan.resumes}." if plan.resumes else "It begins a new run."
    stays = "It runs in the background: leaving or hanging up does not end it."
    return Question(f"Start {request.name}?", (what, f"{goes_on} {_work(plan)}", stays), "Start")


def _work(plan: "Outline") -> str:
    """Say how many steps a plan has, how many of them are reused, and how long the others take."""
    to_do = plan.steps - plan.reused
    if not to_do:
        return f"All of its {count(plan.steps, 'step')} are finished already and reused, so it is done at once."
    steps = f"{count(plan.steps, 'step')}, {plan.reused or 'none'} of them finished already"
    if plan.unknown == to_do:
        return f"{steps}; no past run on this machine tells how long it takes."
    more = f" and {count(plan.unknown, 'step')} that no past run tells of" if plan.unknown else ""
    return f"{steps}; about {short_duration(plan.seconds)}{more}, by past runs on this machine."


def ask_stop(runs: Sequence[Run]) -> Question:
    """Say what stopping does; what is stopping already can only be killed."""
    statuses = [run_status(run.folder) for run in runs]
    if all(status.word == "stopping" for status in statuses):
        lines = (*_names(runs, statuses), "What was done since the last checkpoint is lost; it can be resumed from there.")
        return Question(f"Kill {_what(runs)} at once?", lines, "Kill", danger=True)
    lines = (
        *_names(runs, statuses),
        f"A checkpoint is written and the run ends; r goes on from there. After {GRACE_SECONDS:.0f} s without an end it is killed.",
    )
    return Question(f"Stop {_what(runs)}?", lines, "Stop")


def ask_resume(runs: Sequence[Run]) -> Question:
    """Say where runs go on."""
    statuses = [run_status(run.folder) for run in runs]
    how = "It goes on from the last checkpoint, in the background; finished stages are not computed again."
    if any(status.orphaned for status in statuses):
        how += " A worker that has lost its supervisor is waited for while it writes its checkpoint, and then goes on under a new one."
    lines = (*_names(runs, statuses), how)
    return Question(f"Resume {_what(runs)}?", lines, "Resume")


def ask_remove(runs: Sequence[Run]) -> Question:
    """Say what is deleted and what stays."""
    statuses = [run_status(run.folder) for run in runs]
    own = sum(own_bytes(run.folder) for run in runs)
    lines = (
        *_names(runs, statuses),
        f"{size(own)} are freed. Finished stages stay in the cache for other runs; the project file stays.",
        "This cannot be undone.",
    )
    return Question(f"Remove {_what(runs)}?", lines, "Remove", danger=True)


def own_bytes(folder: Path) -> int:
    """Return how many bytes of a folder nothing else links to, and removing it would free."""
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except OSError:
            continue
        total += status.st_size if status.st_nlink == 1 and path.is_file() else 0
    return total


def _what(runs: Sequence[Run]) -> str:
    return f"run {runs[0].id}" if len(runs) == 1 else count(len(runs), "run")


def _names(runs: Sequence[Run], statuses: Sequence[RunStatus]) -> list[str]:
    """Return which runs are meant and what they are at, a few by name."""
    lines = []
    for run, status in list(zip(runs, statuses, strict=True))[:SHOWN]:
        known = status.stage and fraction(status.done, status.total) is not None
        place = f", {status.stage} at {status.done:.0f} of {status.total:.0f} {status.unit or ''}".rstrip() if known else ""
        name = run.project if len(runs) == 1 else f"{run.project} {run.id}"
        lines.append(f"{name}: {status.word}{place}")
    if len(runs) > SHOWN:
        lines.append(f"and {len(runs) - SHOWN} more")
    return lines
