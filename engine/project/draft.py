"""A project while it is being edited: what its text says, what is wrong with it, and where each value comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tomlkit.exceptions import TOMLKitError

from engine.errors import UserError
from engine.project.checks import combination_problems
from engine.project.files import edited, new_project_text, usual_title, values_of, with_absolute_paths, working_resolution
from engine.project.resolve import Problem, Resolved, layer_values, load_method, resolve
from engine.project.schema import has_method_value, keys

Origin = Literal["default", "method", "dataset", "compat", "you"]
TEXT = ""  # the key of a problem of the text as a whole
HEAD = ("dataset.name", "condense.method", "condense.ipc")  # what a title is made of


@dataclass(frozen=True)
class Draft:
    """A text that may be wrong, completed as far as it goes."""

    text: str
    given: dict[str, Any]  # flat values as the text has them, wrong ones included; empty where it is not TOML
    problems: dict[str, str]  # by key, TEXT for the whole
    resolved: Resolved  # with the wrong values left out
    origins: dict[str, Origin]  # of every `section.key`: the schema, the method, its settings for the dataset, the compat profile, the text

    def value(self, name: str) -> Any:
        """Return the value of a `section.key` or `title`: the text's, even a wrong one, else the one that stands without it."""
        if name in self.given:
            return self.given[name]
        section, _, leaf = name.rpartition(".")
        return getattr(getattr(self.resolved.project, section) if section else self.resolved.project, leaf)

    @property
    def deviations(self) -> list[str]:
        """Return the keys whose values are the text's and others than the method would have given, right or wrong."""
        usual = self.resolved.method_values
        return [name for name in keys() if name in self.given and has_method_value(name) and self.given[name] != usual.get(name)]


def read_draft(text: str, path: Path) -> Draft:
    """Complete and check the text of a project whose file is, or will be, `path`: a relative dataset.root is meant from its folder."""
    try:
        given = values_of(text, path)
    except UserError as error:
        message = str(error).removeprefix(f"{path}:")
        return _draft(text, {}, [Problem(TEXT, f"line {message}")], _completed({}, [])[0])
    placed = with_absolute_paths(given, path.parent)
    resolved, problems = resolve(placed, resolution=working_resolution(placed))
    if resolved is not None:
        return _draft(text, given, combination_problems(resolved), resolved)
    resolved, more = _completed(placed, problems)
    return _draft(text, given, problems + more, resolved)


def _completed(given: dict[str, Any], problems: list[Problem]) -> tuple[Resolved, list[Problem]]:
    """Resolve what is left when the values that problems name are taken away, and return the problems met on the way."""
    wrong, met = {problem.key for problem in problems}, []
    while True:
        right = {name: value for name, value in given.items() if name not in wrong and name.partition(".")[0] not in wrong}
        resolved, more = resolve(right, resolution=working_resolution(right))
        if resolved is not None:
            return resolved, met
        fresh = [problem for problem in more if problem.key not in wrong]
        wrong |= {problem.key for problem in more} if fresh else set(right)
        met += fresh


def _draft(text: str, given: dict[str, Any], problems: list[Problem], resolved: Resolved) -> Draft:
    messages: dict[str, list[str]] = {}
    for problem in problems:
        messages.setdefault(problem.key, []).append(problem.message)
    return Draft(text, given, {name: "; ".join(found) for name, found in messages.items()}, resolved, _origins(given, resolved))


def _origins(given: Mapping[str, Any], resolved: Resolved) -> dict[str, Origin]:
    """Return where each value comes from, told apart by whether the method has it always or only for such data."""
    project = resolved.project
    head = project.condense
    where = {"dataset": project.dataset.name, "ipc": head.ipc, "resolution": resolved.resolution}
    layers = load_method(head.method).layers
    always = layer_values(tuple(layer for layer in layers if set(layer) <= {"set"}), **where)
    origins: dict[str, Origin] = {}
    for name, origin in resolved.origins.items():
        if name in given:
            origins[name] = "you"
        elif origin.startswith("compat"):
            origins[name] = "compat"
        elif origin == "default":
            origins[name] = "default"
        else:
            origins[name] = "method" if name in always and always[name] == resolved.method_values[name] else "dataset"
    return origins


def changed(draft: Draft, changes: Mapping[str, Any], path: Path, *, fresh: bool = False) -> Draft:
    """Return the draft with single values set (None takes one out), comments and order of its text kept.

    A title that nobody chose goes with dataset, method and images per class. With `fresh`, for a project that was never saved, the
    commented values of `new_project_text` go with them, too. Raises UserError when the text is not TOML or a section is no table.
    """
    changes = {name: value for name, value in changes.items() if not _same(draft.given.get(name), value)}
    if any(name in changes for name in HEAD) and "title" not in changes:
        changes |= _title_change(draft, changes)
    try:
        text = edited(draft.text, changes)
    except TOMLKitError as error:
        raise UserError(f"not valid TOML: {error}") from None
    result = read_draft(text, path)
    if fresh and any(name in changes for name in (*HEAD, "dataset.root")):
        return _rewritten(result, path) or result
    return result


def _same(one: Any, other: Any) -> bool:
    """Say whether two values are written alike: 1 is not true, nor 1.0."""
    return type(one) is type(other) and one == other


def _title_change(draft: Draft, changes: Mapping[str, Any]) -> dict[str, str]:
    before = _head(draft.value)
    after = _head(lambda name: changes.get(name, draft.value(name)))
    usual = before is not None and draft.given.get("title") == usual_title(**before)
    return {"title": usual_title(**after)} if usual and after is not None else {}


def _head(value: Any) -> dict[str, Any] | None:
    """Return what a title says of a project, or None while one of its values is wrong."""
    dataset, method, ipc = (value(name) for name in HEAD)
    good = isinstance(dataset, str) and isinstance(method, str) and type(ipc) is int and f"{dataset}{method}".isprintable()
    return {"dataset": dataset, "method": method, "ipc": ipc} if good and not {'"', "\\"} & {*dataset, *method} else None


def _rewritten(draft: Draft, path: Path) -> Draft | None:
    """Return the draft on the text of a new project of its dataset and method; None where one of these is wrong."""
    head = _head(draft.value)
    root = draft.value("dataset.root")
    if head is None or not (root is None or isinstance(root, str)):
        return None
    try:
        template = new_project_text(path.stem, root=root, **head)
        values = values_of(template, path)
        return read_draft(edited(template, _changes(values, draft.given)), path)
    except (UserError, TOMLKitError):
        return None


def merged(mine: Draft, base: str, theirs: str, path: Path) -> Draft:
    """Return `theirs`, a file that somebody changed meanwhile, with the values in which `mine` differs from the common `base`.

    Raises UserError when one of the texts is not TOML.
    """
    before = values_of(base, path)
    values_of(theirs, path)
    return read_draft(edited(theirs, _changes(before, mine.given)), path)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes flat values `after` of those `before`; None takes one out."""
    return {name: after.get(name) for name in {**before, **after} if after.get(name) != before.get(name)}
