"""What is to be said against a project before it runs here, and the bytes that its result will need."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.request import Request
from engine.commands.tables import count, size
from engine.project.evaluations import label_regime
from engine.project.plan import Plan, Step, told
from engine.project.planner import estimated_bytes
from engine.project.resolve import flatten
from engine.project.warnings import Machine, Warning, warnings
from engine.runs.estimates import estimate, past_work, work_of
from engine.runs.memory import memory_bytes

if TYPE_CHECKING:
    from rich.console import Console


def cautions(request: Request) -> list[Warning]:
    """Return the warnings about a project on this machine: its memory, its disk, and the time that past runs let expect."""
    to_do = [step for step in request.plan.steps if not request.in_cache(step)]
    return warnings(request.plan, machine_of(request.plan, request.projects, step_times(request.plan, to_do, request.projects)))


def machine_of(plan: Plan, projects: Path, times: Mapping[str, float | None]) -> Machine:
    """Return what is known of this machine: its memory, the disk of the folder `projects`, and the sum of the known `times` (seconds)."""
    known = [time for time in times.values() if time is not None]
    return Machine(memory_bytes(plan.device), free_disk(projects), sum(known) if known else None)


def step_times(plan: Plan, steps: Iterable[Step], projects: Path) -> dict[str, float | None]:
    """Return about how long steps of a plan take by their ids, in seconds; None where no past run of the folder had a like one."""
    values, past = flatten(plan.project.model_dump()), past_work(projects)
    facts = {
        "data": plan.source.fingerprint,
        "classes": len(plan.source.classes),
        "resolution": plan.source.resolution,
        "device": plan.device,
        "precision": plan.precision,
    }
    return {step.id: estimate(work_of(step.stage, step.name, values, facts, told(step)), past) for step in steps}


def free_disk(folder: Path) -> int | None:
    """Return the free bytes where a folder lies, None where there is no such place."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def print_warnings(console: "Console", found: Sequence[Warning]) -> None:
    """Print each warning with its key, broken between words where the console has a width."""
    from rich.text import Text

    for warning in found:
        console.print(Text.assemble(("warning: ", "yellow"), (f"{warning.key} ", "bold"), warning.text))


def byte_facts(request: Request) -> dict[str, Any]:
    """Return the bytes of images, stored labels and online teachers that the result will need, None where that is not known.

    With the control `equal-bytes` also how many real images those are: `real_images` in all, `real_images_per_class`.
    """
    plan = request.plan
    source = plan.source
    kept: dict[str, Any] = dict(estimated_bytes(plan.project, len(source.classes), source.resolution))
    chosen = next((step for step in plan.steps if step.stage == "initialise" and step.name.startswith("equal-bytes-")), None)
    if chosen is not None:
        ipc = chosen.settings["ipc"]
        kept |= {"real_images": ipc * len(source.classes), "real_images_per_class": ipc}
    return kept


def byte_line(request: Request) -> str:
    """Say in one line what `byte_facts` returns."""
    facts, regime = byte_facts(request), label_regime(request.plan.project)
    teachers = request.plan.project.observers.labels if regime == "online" else []
    said = [f"images {size(facts['images'])}"]
    said.append(f"labels {size(facts['labels'])}" if facts["labels"] else "labels none stored")
    if teachers:
        known = facts["teachers"] is not None
        said.append(f"{count(len(teachers), 'teacher')} {size(facts['teachers']) if known else 'of unknown size'} (4 bytes a weight)")
    if "real_images" not in facts:
        return ", ".join(said)
    whole = facts["real_images_per_class"] >= min(request.plan.source.train_counts)
    limit = ", as many as there are" if whole else ""
    return f"{', '.join(said)}; as large as {facts['real_images']:,} real images, {facts['real_images_per_class']:,} per class{limit}"
