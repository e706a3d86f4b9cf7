"""`edc check` and `edc new`: what a project would do, and a fresh one to start from."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.cautions import byte_facts, byte_line, cautions, print_warnings
from engine.commands.request import Request, make_request
from engine.commands.tables import Column, count, make_console, print_json, print_table, shortest, size
from engine.errors import RunError, UserError
from engine.files import write_text
from engine.project.checks import in_use
from engine.project.files import new_project_text
from engine.project.plan import Step
from engine.project.published import of_the_recipe
from engine.project.resolve import nearest
from engine.project.schema import has_method_value, keys
from engine.project.warnings import Warning
from engine.runs.results import evaluation_words
from engine.runs.store import latest_unfinished
from engine.runs.text import printable, typed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

SEED = re.compile(r"-seed\d+")
SHOWN_SETS = 3  # in a line of the plan


def check_project(path: Path, overrides: Sequence[str], *, until: str, as_json: bool) -> None:
    """Print the plan of a project: its steps, their work and bytes, what the cache holds, and what deviates from the method."""
    request = make_request(path, overrides, until=until)
    if as_json:
        print_json(plan_facts(request))
    else:
        _print_plan(make_console(), request)


def plan_facts(request: Request) -> dict[str, Any]:
    """Return everything `edc check` tells, as a JSON value."""
    plan, project = request.plan, request.resolved.project
    source = plan.source
    unfinished = latest_unfinished(request.projects, request.name, plan.fingerprint)
    return {
        "schema": 1,
        "project": request.name,
        "file": str(request.path),
        "title": project.title,
        "method": project.condense.method,
        "ipc": project.condense.ipc,
        "seed": project.condense.seed,
        "dataset": {
            "name": source.name,
            "classes": len(source.classes),
            "resolution": source.resolution,
            "train_images": sum(source.train_counts),
            "test_images": sum(source.test_counts),
            "fingerprint": source.fingerprint,
        },
        "device": plan.device,
        "precision": plan.precision,
        "until": request.until,
        "fingerprint": plan.fingerprint,
        "resumes": unfinished.id if unfinished else None,
        "steps": [
            {"stage": step.stage, "step": step.name, "fingerprint": step.fingerprint, "reused": request.in_cache(step), **step.cost}
            for step in plan.steps
        ],
        "bytes": byte_facts(request),
        "warnings": [asdict(warning) for warning in cautions(request)],
        "deviations": deviations(request),
        "values": {name: value for name, value in _values(request).items() if value is not None},
    }


def _values(request: Request) -> dict[str, Any]:
    """Return every `section.key` with its resolved value."""
    sections = request.resolved.project.model_dump()
    return {name: sections[name.partition(".")[0]][name.partition(".")[2]] for name in keys()}


def deviations(request: Request) -> list[dict[str, Any]]:
    """Return the user's values that differ from what the method alone would have given (data, seed, machine and files apart).

    `recipe` says whether a value makes another recipe of it, as `edc verify` counts them, or chooses students, seeds and controls.
    """
    resolved, found = request.resolved, []
    for name, value in _values(request).items():
        if not has_method_value(name) or resolved.origins[name] not in ("project", "--set"):
            continue
        usual = resolved.method_values.get(name)
        if value != usual:
            recipe = of_the_recipe(name) and in_use(resolved.project, name)
            found.append({"key": name, "value": value, "method": usual, "origin": resolved.origins[name], "recipe": recipe})
    return found


def _print_plan(console: "Console", request: Request) -> None:
    from rich.text import Text

    facts = plan_facts(request)
    dataset, steps = facts["dataset"], request.plan.steps
    console.print(Text(printable(facts["title"] or facts["project"]), "bold"))
    console.print(
        f"{printable(dataset['name'])}: {count(dataset['classes'], 'class')} of {dataset['resolution']} px, "
        f"{dataset['train_images']:,} training and {dataset['test_images']:,} test images",
        style="dim",
    )
    console.print(f"{facts['method']}, {count(facts['ipc'], 'image')} per class, {facts['device']} in {facts['precision']}", style="dim")
    evaluate = request.resolved.project.evaluate
    if any(step.stage == "evaluate" for step in steps):
        seeds = f"{count(len(evaluate.seeds), 'seed')} ({', '.join(map(str, evaluate.seeds))})"
        console.print(f"students {', '.join(map(printable, evaluate.students))}; {seeds}", style="dim", soft_wrap=True)
    console.print()
    groups = grouped(steps)
    columns = [
        Column("stage"),
        Column("step"),
        Column("images", "right", drop=3),
        Column("iterations", "right", drop=1),
        Column("bytes", "right", drop=2),
        Column(""),
    ]
    reusable = {step.id for step, fact in zip(steps, facts["steps"], strict=True) if fact["reused"]}
    rows, last = [], None
    for group in groups:
        stage = group.steps[0].stage
        rows.append([stage if stage != last else "", group.label, *_cost(group), _state(group, reusable)])
        last = stage
    print_table(console, columns, rows)
    reused = sum(fact["reused"] for fact in facts["steps"])
    console.print()
    goes_on = f"; `edc run` goes on with run {facts['resumes']}" if facts["resumes"] else ""
    console.print(f"{reused} of {count(len(steps), 'step')} would be reused{goes_on}")
    console.print(f"what is kept: {byte_line(request)}")
    for recipe, header, usual in ((True, "differs from the method", "method"), (False, "chosen beside the method", "usual")):
        items = [item for item in facts["deviations"] if item["recipe"] == recipe]
        if items:
            console.print()
            rows = [[item["key"], _said(item["value"]), _said(item["method"]), item["origin"]] for item in items]
            print_table(console, [Column(header), Column("here"), Column(usual), Column("set by", drop=1)], rows)
    if facts["warnings"]:
        console.print()
        print_warnings(console, [Warning(**warning) for warning in facts["warnings"]])


@dataclass(frozen=True)
class Group:
    """Steps that are told in one line: of one cost, and alike but for their seed, student or set."""

    label: str
    steps: tuple[Step, ...]


def grouped(steps: Sequence[Step]) -> list[Group]:
    """Group the steps of a plan in its order: trainings by how they label, show and measure images, others that differ in the seed."""
    found: dict[tuple[Any, ...], list[Step]] = {}
    for step in steps:
        what = _training(step.facts) if step.stage == "evaluate" else SEED.sub("", step.name)
        found.setdefault((step.stage, what, tuple(sorted(step.cost.items()))), []).append(step)
    groups = []
    for (stage, what, _), members in found.items():
        if stage == "evaluate":
            what = f"{what}: {_sets(members)}"
        groups.append(Group(what, tuple(members)))
    return groups


def _training(facts: Mapping[str, Any]) -> str:
    """Say how students are trained and measured by a step with these facts."""
    return evaluation_words(facts) + (", search of the learning rate" if "search" in facts else "")


def _sets(steps: Sequence[Step]) -> str:
    """Name the sets that steps train on, the first few of many."""
    names = list(dict.fromkeys(str(step.facts["set"]) for step in steps))
    return ", ".join(names) if len(names) <= SHOWN_SETS else f"{', '.join(names[: SHOWN_SETS - 1])} and {len(names) - SHOWN_SETS + 1} more"


def _state(group: Group, reusable: Collection[str]) -> "Text":
    """Say how many of a group's steps the cache holds."""
    from rich.text import Text

    there = sum(step.id in reusable for step in group.steps)
    if there == len(group.steps):
        return Text("reused", "green")
    return Text(f"{there} of {len(group.steps)} reused" if there else "to do", "dim")


def _said(value: object) -> str:
    """Say a value as one would write it in the project, in at most 30 characters."""
    text = {True: "true", False: "false", None: "none"}.get(value) if isinstance(value, bool | None) else None
    if text is None:
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return printable(text, 30)


def _cost(group: Group) -> list[str]:
    """Say what a group's steps cost: `600` for a single one, `12 × 600` for several."""
    cost, times = group.steps[0].cost, f"{len(group.steps)} × " if len(group.steps) > 1 else ""
    return [
        *(f"{times}{cost[name]:,}" if name in cost else "" for name in ("images", "iterations")),
        f"{times}{size(cost['bytes'])}" if "bytes" in cost else "",
    ]


def project_name(text: str, option: str) -> str:
    """Return a project's name as typed after `option`, with or without `.toml`; raises UserError when no file can be called so."""
    name = text.removesuffix(".toml")
    if not name or name.startswith((".", "-")) or "/" in name or printable(name) != name:
        raise UserError(f"{option} {printable(name)!r}: use a file name without slashes, control characters or a leading dot")
    return name


def new_project(projects: Path, name: str, *, dataset: str, method: str, ipc: int, root: Path | None) -> None:
    """Write `<projects>/<name>.toml`, commented; raises UserError when it is there already or a choice does not exist."""
    from engine.data.sources import list_datasets

    name = project_name(name, "NAME")
    path = projects / f"{name}.toml"
    known = [info.name for info in list_datasets()]
    if dataset not in known:
        raise UserError(f"--dataset: no dataset is called {dataset!r}; {nearest(dataset, known)}")
    if dataset == "folder" and root is None:
        raise UserError("--root: missing; --dataset folder needs the folder that holds train/<class>/… and test/<class>/…")
    if path.exists():
        raise UserError(f"{shortest(path)} exists already; choose another name or edit it")
    try:
        text = new_project_text(name, dataset=dataset, method=method, ipc=ipc, root=str(root.expanduser().absolute()) if root else None)
    except UserError as error:
        raise UserError(re.sub(r"^condense\.(method|ipc)", r"--\1", str(error), flags=re.MULTILINE)) from None
    try:
        projects.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create {projects}: {error.strerror or error}") from error
    write_text(path, text)
    console = make_console()
    console.print(f"wrote {printable(shortest(path))}", soft_wrap=True)
    console.print(f"next: `edc check {typed(name)}` shows what it would do, `edc run {typed(name)}` does it", style="dim", soft_wrap=True)
