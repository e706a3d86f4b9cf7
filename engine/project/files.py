"""Project files: read with errors that name file, line and key; edited in place so that comments stay."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from engine.errors import UserError
from engine.files import write_text
from engine.project.checks import combination_problems
from engine.project.resolve import Problem, Resolved, flatten, resolve
from engine.project.schema import keys

SCHEMA_VERSION = 1


def read_values(path: Path) -> tuple[dict[str, Any], str]:
    """Return the flat values of a project file and its text.

    Raises UserError when there is no such file, when it is not TOML (with line and column), or of another schema version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = sorted(other.stem for other in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.stem, beside, n=1)
        hint = f"did you mean {path.parent / near[0]}.toml?" if near else f"`edc new {path.stem}` writes one"
        raise UserError(f"{path}: no such project file; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = f":{place[1]}" if place else ""
        raise UserError(f"{path}{where}: not valid TOML: {error}") from None
    version = data.pop("schema", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}:{line_of(text, 'schema')}: schema is {version!r}; this version of edc reads schema = {SCHEMA_VERSION}")
    return flatten(data), text


def load_project(path: Path, overrides: list[str] | None = None, *, resolution: int | None = None) -> Resolved:
    """Read, complete and check a project; `overrides` are `section.key=value` texts that win over the file.

    `resolution` (px) is the dataset's working resolution where the project does not say; absent, the catalogue's is taken.
    Raises UserError with one line for each problem, naming file, line and key (or the override).
    """
    values, text = read_values(path)
    forced = dict(parse_override(item) for item in overrides or [])
    given = values | forced
    resolved, problems = resolve(given, resolution=resolution or working_resolution(given))
    if resolved is not None:
        resolved.origins |= {name: "--set" for name in forced if name in resolved.origins}
        problems = combination_problems(resolved)
    if resolved is None or problems:
        raise UserError("\n".join(describe(problem, path, text, set(forced)) for problem in problems))
    return resolved


def working_resolution(given: dict[str, Any]) -> int:
    """Return the side in px that the project asks for or its dataset has; 32 for a dataset that says nothing."""
    from engine.data.sources import list_datasets

    if isinstance(given.get("dataset.resolution"), int):
        return given["dataset.resolution"]
    sides = {info.name: info.resolution for info in list_datasets()}
    return sides.get(given.get("dataset.name", "digits"), 32)


def describe(problem: Problem, path: Path, text: str, forced: set[str]) -> str:
    """Return a problem as one line that says where it is: `file:line: key: what`, or `--set key: what`."""
    if problem.key in forced:
        return f"--set {problem.key}: {problem.message}"
    line = line_of(text, problem.key)
    return f"{path}{f':{line}' if line else ''}: {problem.key}: {problem.message}"


def line_of(text: str, name: str) -> int | None:
    """Return the 1-based line of the file that sets `section.key`, else that of its section's header, else None."""
    section, _, leaf = name.rpartition(".")
    current, header = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        table = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
        if table:
            current = table[1].strip("\"'")
            header = number if current in (section, name) else header
        assignment = re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line)
        if assignment and ".".join(filter(None, [current, assignment[1]])) == (f"{section}.{leaf}" if section else leaf):
            return number
    return header


def parse_override(item: str) -> tuple[str, Any]:
    """Split `section.key=value`; the value is TOML, and a bare word counts as text.

    Raises UserError when there is no `=` or no section.
    """
    name, equals, text = item.partition("=")
    name, text = name.strip(), text.strip()
    if not equals or not name or not text:
        raise UserError(f"--set {item}: must be section.key=value, for instance --set evaluate.zeta=1.5")
    return name, parse_value(text, listed=is_list(name))


def is_list(name: str) -> bool:
    """Say whether a key holds a list, so that `a,b` can stand for `["a", "b"]` on the command line."""
    field = keys().get(name)
    return field is not None and isinstance(field.default, list)


def parse_value(text: str, *, listed: bool = False) -> Any:
    """Read a TOML value as typed on a command line, where quotes are often lost: `edc` is the text "edc"."""
    if listed and not text.startswith("["):
        return [parse_value(part.strip()) for part in text.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if listed and text.endswith("]"):
            return [parse_value(part.strip()) for part in text[1:-1].split(",") if part.strip()]
        return text


def edit_project(path: Path, changes: dict[str, Any]) -> None:
    """Set single keys of a project file (None removes one), keeping its comments, order and layout.

    Raises UserError when the file is not TOML; the file is replaced in one step.
    """
    text = path.read_text(encoding="utf-8")
    write_text(path, edited(text, changes))


def edited(text: str, changes: dict[str, Any]) -> str:
    """Return the TOML text with `changes` (flat keys; None removes one) applied leaf by leaf."""
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise UserError(f"not valid TOML: {error}") from None
    for name, value in changes.items():
        section, _, leaf = name.rpartition(".")
        if section and section not in document:
            if value is None:
                continue
            document.add(tomlkit.nl())
            document[section] = tomlkit.table()
        table = document[section] if section else document
        if value is None:
            table.pop(leaf, None)
        elif leaf in table:
            comment, trail = table[leaf].trivia.comment, table[leaf].trivia.comment_ws
            table[leaf] = value
            table[leaf].trivia.comment, table[leaf].trivia.comment_ws = comment, trail
        else:
            table.add(leaf, value)
    return tomlkit.dumps(document)


def new_project_text(name: str, *, dataset: str, method: str, ipc: int, root: str | None = None) -> str:
    """Return the text of a fresh, commented project with the keys most users change."""
    resolved, problems = resolve(
        {"dataset.name": dataset, "condense.method": method, "condense.ipc": ipc}, resolution=working_resolution({"dataset.name": dataset})
    )
    if resolved is None:
        raise UserError("\n".join(f"{problem.key}: {problem.message}" for problem in problems))
    project = resolved.project

    def line(section: str, leaf: str, *, commented: bool = False) -> str:
        value = tomlkit.item(getattr(getattr(project, section), leaf)).as_string()
        help_text = keys()[f"{section}.{leaf}"].description
        return f"{'# ' if commented else ''}{leaf} = {value}".ljust(32) + f"  # {help_text}"

    where = (
        f"root = {tomlkit.item(root).as_string()}"
        if root
        else '# root = "/data"                   # Where the data lie; otherwise below $EDC_DATA.'
    )
    lines = [
        "schema = 1",
        f'title = "{method} on {dataset}, {ipc} image{"s" if ipc != 1 else ""} per class"',
        "",
        "[dataset]",
        line("dataset", "name"),
        where,
        "",
        "[condense]",
        *(line("condense", leaf) for leaf in ("method", "ipc", "seed")),
        "",
        "[observers]                       # commented keys are the method's own values; uncomment to change them",
        *(line("observers", leaf, commented=True) for leaf in ("synthesis", "labels")),
        "",
        "[synthesise]",
        line("synthesise", "iterations", commented=True),
        "",
        "[evaluate]",
        *(line("evaluate", leaf, commented=True) for leaf in ("students", "epochs", "batch_size", "zeta")),
        *(line("evaluate", leaf) for leaf in ("seeds", "controls")),
        "",
        "[compute]",
        *(line("compute", leaf) for leaf in ("device", "precision")),
        "",
    ]
    return "\n".join(lines)
