"""From what was typed to a plan: everything that can be wrong with a project is found here, before anything is written."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.commands.tables import shortest
from engine.errors import UserError
from engine.project.files import describe, given_elsewhere, load_project, read_values
from engine.project.plan import STAGES, Plan, Step
from engine.project.planner import make_plan
from engine.project.resolve import Problem, Resolved, nearest
from engine.project.schema import keys
from engine.stages.cache import cache_folder, finished


@dataclass(frozen=True)
class Request:
    """A project that can be run: its file, its values, and its plan on this machine."""

    path: Path
    resolved: Resolved
    plan: Plan
    until: str

    @property
    def name(self) -> str:
        """Return the project's name: its file's, without `.toml`."""
        return self.path.stem

    @property
    def projects(self) -> Path:
        """Return the folder of the project file, below which its runs and the cache lie."""
        return self.path.parent

    @property
    def cache(self) -> Path:
        """Return the stage cache that all projects of the folder share."""
        return cache_folder(self.projects)

    def in_cache(self, step: Step) -> bool:
        """Say whether a step would be reused: the cache holds it, by the sizes of its files."""
        return in_cache(step, self.cache)


def in_cache(step: Step, cache: Path) -> bool:
    """Say whether a cache holds a step, by the sizes of its files."""
    return finished(cache / step.stage / step.fingerprint, step, thorough=False) is not None


def project_path(projects: Path, text: str) -> Path:
    """Return the file that a PROJECT means: a path to a TOML file, or a bare name in the projects folder."""
    given = Path(text).expanduser()
    if given.suffix == ".toml" and (given.is_file() or len(given.parts) > 1):
        return given.absolute()
    if len(given.parts) > 1:
        return given.with_name(f"{given.name}.toml").absolute()
    return projects / (text if given.suffix == ".toml" else f"{text}.toml")


class Misfit(UserError):
    """A value that is right by itself and wrong here: it knows its key."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.key}: {problem.message}")
        self.problem = problem


def make_request(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    until: str = STAGES[-1],
    swept: Mapping[str, Any] | None = None,
    swept_by: Mapping[str, str] | None = None,
) -> Request:
    """Read a project, find its data, and plan it for this machine's device; `swept` and `swept_by` are those of `load_project`.

    Raises UserError with one line for each problem, each naming file, line and key, or the option that is wrong.
    """
    if until not in STAGES:
        raise UserError(f"--until: {until!r} is not a stage; {nearest(until, list(STAGES))}")
    path = shortest(path)  # as messages name it
    resolved = load_project(path, list(overrides), swept=swept, swept_by=swept_by)
    try:
        plan = plan_here(resolved, cache=cache_folder(path.parent), until=until)
    except Misfit as error:
        _, text = read_values(path)
        raise UserError(describe(error.problem, path, text, given_elsewhere(overrides, swept_by or {}))) from None
    return Request(path.absolute(), resolved, plan, until)


def plan_here(resolved: Resolved, *, cache: Path, until: str = STAGES[-1]) -> Plan:
    """Find a project's data and plan it for this machine's device; raises Misfit where one of its values does not fit here."""
    from engine.compute.device import resolve_device, resolve_precision
    from engine.data.catalogue import locate_dataset

    project = resolved.project
    with _placed("compute.device"):
        device = resolve_device(project.compute.device)
        precision = resolve_precision(project.compute.precision, device)
    with _placed("dataset.root" if project.dataset.root else "dataset.name"):
        source = locate_dataset(project, cache=cache)
    with _placed("condense.ipc"):
        return make_plan(project, source, device=device, precision=precision, until=until)


@contextmanager
def _placed(key: str) -> Iterator[None]:
    """Give a UserError raised within the key that it speaks of: the one it begins with, else `key`."""
    try:
        yield
    except UserError as error:
        named = re.match(r"([a-z]+\.[a-z_]+): (.*)", str(error), re.DOTALL)
        raise Misfit(Problem(named[1], named[2]) if named and named[1] in keys() else Problem(key, str(error))) from None
