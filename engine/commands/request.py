"""From what was typed to a plan: everything that can be wrong with a project is found here, before anything is written."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.commands.tables import shortest
from engine.errors import UserError
from engine.project.files import describe, load_project, parse_override, read_values
from engine.project.plan import STAGES, Plan, Step, make_plan
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
        return finished(self.cache / step.stage / step.fingerprint, step, thorough=False) is not None


def project_path(projects: Path, text: str) -> Path:
    """Return the file that a PROJECT means: a path to a TOML file, or a bare name in the projects folder."""
    given = Path(text).expanduser()
    if given.suffix == ".toml" and (given.is_file() or len(given.parts) > 1):
        return given.absolute()
    if len(given.parts) > 1:
        return given.with_name(f"{given.name}.toml").absolute()
    return projects / (text if given.suffix == ".toml" else f"{text}.toml")


def make_request(path: Path, overrides: Sequence[str] = (), *, until: str = STAGES[-1]) -> Request:
    """Read a project, find its data, and plan it for this machine's device.

    Raises UserError with one line for each problem, each naming file, line and key, or the option that is wrong.
    """
    from engine.compute.device import resolve_device, resolve_precision
    from engine.data.catalogue import locate_dataset

    if until not in STAGES:
        raise UserError(f"--until: {until!r} is not a stage; {nearest(until, list(STAGES))}")
    path = shortest(path)  # as messages name it
    resolved = load_project(path, list(overrides))
    project = resolved.project
    forced = {parse_override(item)[0] for item in overrides}
    with _placed(path, forced, "compute.device"):
        device = resolve_device(project.compute.device)
        precision = resolve_precision(project.compute.precision, device)
    with _placed(path, forced, "dataset.root" if project.dataset.root else "dataset.name"):
        source = locate_dataset(project, cache=cache_folder(path.parent))
    with _placed(path, forced, "condense.ipc"):
        plan = make_plan(project, source, device=device, precision=precision, until=until)
    return Request(path.absolute(), resolved, plan, until)


@contextmanager
def _placed(path: Path, forced: set[str], key: str) -> Iterator[None]:
    """Give a UserError raised within the place it speaks of: the key it begins with, else `key`."""
    try:
        yield
    except UserError as error:
        named = re.match(r"([a-z]+\.[a-z_]+): (.*)", str(error), re.DOTALL)
        problem = Problem(named[1], named[2]) if named and named[1] in keys() else Problem(key, str(error))
        _, text = read_values(path)
        raise UserError(describe(problem, path, text, forced)) from None
