"""How long steps will take, from what like steps took on this machine before. Nothing is guessed where there is no like step."""

import math
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.files import FileMark, file_mark
from engine.project.evaluations import common_values
from engine.project.protocols import HARD
from engine.runs.events import number
from engine.runs.layout import Run, read_object, tables
from engine.runs.store import all_runs, read_run_toml

LATEST_RUNS = 60  # older ones tell nothing that these do not
LATEST_LIKE = 5  # steps whose median is taken


@dataclass(frozen=True)
class Likeness:
    """When a step is like another: values that must be the same, values that had better be, and values its time is in proportion to."""

    same: tuple[str, ...]
    close: tuple[str, ...] = ()
    scale: tuple[str, ...] = ()


EVERYWHERE = ("device", "precision", "resolution")
LIKENESS = {
    "squeeze": Likeness(("name", "data"), ("squeeze.batch_size", "squeeze.optimizer", "compute.threads"), ("squeeze.epochs",)),
    "statistics": Likeness(("name", "data", "match.layers"), ("match.patch_size", "compute.threads")),
    "initialise": Likeness(("data", "start"), ("rded.candidates", "rded.crops", "rded.factor"), ("images",)),
    "synthesise": Likeness(
        ("observers.synthesis", "observers.rotation", "match.layers", "flatness.kind"),
        ("batch.size", "match.w_class", "match.patch_size", "augment.crop_mode", "compute.threads"),
        ("synthesise.iterations", "images"),
    ),
    "relabel": Likeness(
        ("observers.labels",), ("evaluate.batch_size", "labels.dtype", "labels.storage", "compute.threads"), ("evaluate.epochs", "images")
    ),
    "evaluate": Likeness(
        ("student", "labelling"), ("evaluate.batch_size", "evaluate.randaugment", "data", "compute.threads"), ("views",)
    ),
    "full": Likeness(("student", "data"), ("evaluate.full_batch_size", "compute.threads"), ("evaluate.full_epochs",)),
}


@dataclass(frozen=True)
class Work:
    """A step as estimates see it: its kind and everything that its time may depend on."""

    kind: str  # a key of LIKENESS
    values: Mapping[str, Any]


@dataclass(frozen=True)
class PastWork:
    """A step that was finished on this machine, and the seconds it took."""

    work: Work
    seconds: float


def work_of(stage: str, name: str, project: Mapping[str, Any], facts: Mapping[str, Any], told: Mapping[str, Any]) -> Work:
    """Return the step `stage/name` as estimates see it.

    `project` holds the flat values of its whole project; `facts` has `data` (fingerprint), `classes` (their number), `resolution` (px),
    `device` and `precision`; `told` is what the plan or the summary says of the step: its set, student, protocol and labels.
    """
    own: dict[str, Any] = {"name": name}
    ipc, classes = number(project.get("condense.ipc")), number(facts.get("classes"))
    own["images"] = ipc * classes if ipc is not None and classes is not None else None
    if stage == "initialise":
        own["start"] = project.get("initialise.source") if name == "condensed" else name.partition("-seed")[0]
    kind = stage
    if stage == "evaluate":
        own |= _evaluation(project, told)
        kind = "full" if told.get("set") == "full" and told.get("labels") == HARD else stage
        epochs = number(own.get("evaluate.epochs", project.get("evaluate.epochs")))
        own["views"] = number(told.get("views")) or _product(own["images"], epochs)
    return Work(kind, {**project, **facts, **own})


def _evaluation(project: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Return in what a training of a student differs from what its project says: by its protocol and its labels."""
    own: dict[str, Any] = {"student": told.get("student")}
    labellers = project.get("observers.labels")
    if told.get("protocol") == "common":
        own |= {f"evaluate.{name}": value for name, value in common_values(str(told.get("student")))["evaluate"].items()}
        own["evaluate.epochs"] = project.get("evaluate.common_epochs")
        labellers = [project.get("evaluate.common_teacher")]
    regime = told.get("labels")
    own["labelling"] = labellers if regime == "online" else "none" if regime == HARD else "stored"
    return own


def _product(one: float | None, other: float | None) -> float | None:
    """Return the product of two numbers, None where one is missing."""
    return one * other if one is not None and other is not None else None


def estimate(work: Work, past: Sequence[PastWork]) -> float | None:
    """Return the seconds that a step will take: the median of the latest like ones, scaled to its amount of work.

    `past` is newest first. Returns None when there is no like step.
    """
    like = LIKENESS[work.kind]
    needed = (*EVERYWHERE, *like.same)
    amount = _amount(work, like)
    rates: list[tuple[int, float]] = []  # (how many close values are shared, seconds for one unit of work)
    for other in past:
        if other.work.kind == work.kind and _agree(work, other.work, needed) == len(needed):
            theirs = _amount(other.work, like)
            if theirs is not None:
                rates.append((_agree(work, other.work, like.close), other.seconds / theirs))
    if amount is None or not rates:
        return None
    closest = max(closeness for closeness, _ in rates)
    return amount * statistics.median([rate for closeness, rate in rates if closeness == closest][:LATEST_LIKE])


def _agree(one: Work, other: Work, names: Iterable[str]) -> int:
    """Count the values that two steps share."""
    return sum(one.values.get(name) == other.values.get(name) for name in names)


def _amount(work: Work, like: Likeness) -> float | None:
    """Return what a step's time is in proportion to; None where a value is missing or no positive number."""
    amount = 1.0
    for name in like.scale:
        amount *= number(work.values.get(name)) or 0.0
    return amount if math.isfinite(amount) and amount > 0 else None


def frozen_values(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a run.toml says of its steps: the flat values of its project, and the facts, as `work_of` takes both."""
    from engine.project.resolve import flatten

    found = tables(dict(content))
    frozen = found.pop("frozen", {})
    classes = frozen.get("classes")
    facts = {name: frozen.get(name) for name in EVERYWHERE} | {
        "data": frozen.get("data_fingerprint"),
        "classes": len(classes) if isinstance(classes, list) else None,
    }
    return flatten(found), facts


def past_work(projects: Path, *, host: str | None = None) -> list[PastWork]:
    """Return what the finished steps of the latest runs took, newest first, of runs made on `host` (default this machine)."""
    host = platform.node() if host is None else host
    found: list[PastWork] = []
    for run in all_runs(projects)[:LATEST_RUNS]:
        mark = file_mark(run.summary)
        made_on, steps = _steps_of(run, mark) if mark else ("", ())
        if made_on == host:
            found += steps
    return found


@lru_cache(maxsize=2 * LATEST_RUNS)
def _steps_of(run: Run, mark: FileMark) -> tuple[str, tuple[PastWork, ...]]:
    """Return the host of a run and its finished steps; `mark` is its summary's, so that it is read once."""
    summary, _ = read_object(run.summary)
    try:
        content = read_run_toml(run)
    except UserError:
        return "", ()
    frozen, steps = content.get("frozen"), (summary or {}).get("steps")
    if not isinstance(frozen, dict) or not isinstance(steps, dict):
        return "", ()
    (project, facts), works = frozen_values(content), []
    for step, outcome in steps.items():
        stage, _, name = str(step).partition("/")
        seconds = number(outcome.get("seconds")) if isinstance(outcome, dict) else None
        if stage in LIKENESS and seconds is not None and seconds >= 0:
            works.append(PastWork(work_of(stage, name, project, facts, outcome), seconds))
    return str(frozen.get("host")), tuple(works)
