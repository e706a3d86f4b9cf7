"""Project files: read with errors that name file, line and key; edited in place so that comments stay."""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import tomlkit
from tomlkit.exceptions import TOMLKitError

from engine.errors import UserError
from engine.files import write_text
from engine.project.checks import combination_problems
from engine.project.observers import absolute_weights
from engine.project.resolve import Problem, Resolved, flatten, resolve
from engine.project.schema import keys

SCHEMA_VERSION = 1
PATHS = ("dataset.root", "initialise.path")
WEIGHTS = "observers.weights"  # the path, too, where it is none of the sources by name


def read_values(path: Path) -> tuple[dict[str, Any], str]:
    """Return the flat values of a project file and its text.

    Raises UserError when there is no such file, when it is not TOML (with the line), or of another schema version.
    """
    text = read_text(path)
    return values_of(text, path), text


def values_of(text: str, path: Path) -> dict[str, Any]:
    """Return the flat values of a project's text; raises UserError as `read_values` does, naming `path`."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        place = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = place[1] if place else text.rstrip().count("\n") + 1  # the parser names no line where the text ends too early
        raise UserError(f"{path}:{line}: not valid TOML: {error}") from None
    version = data.pop("schema", SCHEMA_VERSION)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise UserError(f"{path}:{line_of(text, 'schema')}: schema is {version!r}; this version of edc reads schema = {SCHEMA_VERSION}")
    return flatten(data)


def read_text(path: Path) -> str:
    """Return a project file's text with its line endings as they are; raises UserError when it is missing or no text."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        beside = sorted(other.stem for other in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.stem, beside, n=1)
        hint = f"did you mean {path.parent / near[0]}.toml?" if near else f"`edc new {path.stem}` writes one"
        raise UserError(f"{path}: no such project file; {hint}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in UTF-8 (byte {error.start})") from None


def load_project(
    path: Path | str,
    overrides: list[str] | None = None,
    *,
    resolution: int | None = None,
    swept: Mapping[str, Any] | None = None,
    swept_by: Mapping[str, str] | None = None,
) -> Resolved:
    """Read, complete and check a project; `overrides` are `section.key=value` texts that win over the file.

    `resolution` (px) is the dataset's working resolution where the project does not say; absent, the catalogue's is taken.
    A relative path is meant from the project file's folder, in an override from the working folder; it comes back absolute.
    `swept` are the flat values of one point of a sweep, which count as the file's own, and `swept_by` says where each was given; without
    them a file that describes a sweep is refused.
    Raises UserError with one line for each problem, naming file, line and key (or the override).
    """
    path = Path(path)  # of the public API, where one types a text
    values, text = read_values(path)
    of_sweep = [name for name in values if name.partition(".")[0] == "sweep"]
    if of_sweep and swept is None:
        said = f"`edc sweep {path.stem}` runs them, with --dry-run it shows them"
        raise UserError(f"{path}:{line_of(text, 'sweep')}: [sweep] makes several projects of this file; {said}")
    values = {name: value for name, value in values.items() if name not in of_sweep} | dict(swept or {})
    forced = dict(parse_override(item) for item in overrides or [])
    given = with_absolute_paths(values, path.parent) | with_absolute_paths(forced, Path())
    resolved, problems = resolve(given, resolution=resolution or working_resolution(given))
    if resolved is not None:
        resolved.origins |= {name: "--set" for name in forced if name in resolved.origins}
        problems = combination_problems(resolved)
    if resolved is None or problems:
        elsewhere = given_elsewhere(overrides or [], swept_by or {})
        raise UserError("\n".join(describe(problem, path, text, elsewhere) for problem in problems))
    return resolved


def given_elsewhere(overrides: Iterable[str], swept_by: Mapping[str, str]) -> dict[str, str]:
    """Return for each key that is not taken from the project's file where it was given: by a sweep, or by `--set`."""
    return dict(swept_by) | {parse_override(item)[0]: "--set" for item in overrides}


def with_absolute_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return flat values with the paths among them made absolute from `folder`: a run resumes from any working folder."""
    paths = {name: values[name] for name in PATHS if isinstance(values.get(name), str) and values[name]}
    found = values | {
        name: str((folder / os.path.expanduser(path)).absolute())  # noqa: PTH111 - pathlib's raises for ~nobody
        for name, path in paths.items()
    }
    weights = values.get(WEIGHTS)
    return found | {WEIGHTS: absolute_weights(weights, folder)} if isinstance(weights, dict) else found


def working_resolution(given: dict[str, Any]) -> int:
    """Return the side in px that the project asks for or its dataset has; 32 for a dataset that says nothing."""
    from engine.data.catalogue import dataset_resolutions

    if isinstance(given.get("dataset.resolution"), int):
        return given["dataset.resolution"]
    return dataset_resolutions().get(str(given.get("dataset.name", "digits")), 32)


def describe(problem: Problem, path: Path, text: str, elsewhere: Mapping[str, str]) -> str:
    """Return a problem as one line that says where it is: `file:line: key: what`, or for a key given `elsewhere`, `--set key: what`."""
    if problem.key in elsewhere:
        return f"{elsewhere[problem.key]} {problem.key}: {problem.message}"
    line = line_of(text, problem.key)
    return f"{path}{f':{line}' if line else ''}: {problem.key}: {problem.message}"


def line_of(text: str, name: str) -> int | None:
    """Return the 1-based line of the file that sets `section.key`, else the one that begins its section, else None."""
    section = name.rpartition(".")[0]
    current, begins = "", None
    for number, line in statements(text):
        if table := HEADER.match(line):
            current = _bare(table[1])
            if current in (section, name):
                begins = number
        elif assignment := ASSIGNMENT.match(line):
            key = ".".join(filter(None, [current, _bare(assignment[1])]))
            if key == name:
                return number
            if section and key == section:  # an inline table
                begins = number
    return begins


HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]")
ASSIGNMENT = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
TOKEN = re.compile(r"""\"{3}(?:\\.|[^\\])*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|[\[\]{}]|\n""", re.DOTALL)


def _bare(name: str) -> str:
    """Return a key as written in TOML without its quotes and blanks."""
    return re.sub(r"[\s\"']", "", name)


def statements(text: str) -> list[tuple[int, str]]:
    """Return the lines of a TOML text with their 1-based numbers, without those that go on a list or text begun above."""
    begins, depth = [True], 0
    for token in TOKEN.findall(text):
        if token in ("[", "{"):
            depth += 1
        elif token in ("]", "}"):
            depth -= 1
        elif token == "\n":
            begins.append(depth == 0)
        else:
            begins += [False] * token.count("\n")
    return [(number, line) for number, (line, first) in enumerate(zip(text.split("\n"), begins, strict=True), start=1) if first]


def parse_override(item: str) -> tuple[str, Any]:
    """Split `section.key=value`; the value is TOML, and what is not TOML counts as text.

    Raises UserError when the key, the `=` or the value is missing.
    """
    name, equals, text = item.partition("=")
    name, text = name.strip(), text.strip()
    if not equals or not name or not text:
        raise UserError(f"--set {item}: must be section.key=value, for instance --set evaluate.zeta=1.5")
    return name, parse_as(name, text)


def parse_as(name: str, text: str) -> Any:
    """Read a value typed on a command line as the key `section.key` takes it."""
    field = keys().get(name)
    kinds = {field.annotation, *get_args(field.annotation)} if field else {str} if name == "title" else set()
    kinds = set() if field and isinstance(field.default, dict) else kinds
    return parse_value(text, listed=field is not None and isinstance(field.default, list), worded=str in kinds)


def parse_value(text: str, *, listed: bool = False, worded: bool = False) -> Any:
    """Read a TOML value as typed on a command line, where quotes are often lost: `edc` is the text "edc".

    `listed` takes `a,b` for `["a", "b"]`; `worded` takes what has no quotes for a text, whatever it looks like.
    """
    if listed:
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        try:
            return tomllib.loads(f"value = [{inner}]")["value"]
        except ValueError:
            return [parse_value(part.strip()) for part in inner.split(",") if part.strip()]
    if worded and text[0] not in "\"'":
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text


def edit_project(path: Path, changes: dict[str, Any]) -> None:
    """Set single keys of a project file (None removes one), keeping its comments, order and layout.

    Raises UserError when the file is missing or not TOML, and then leaves it as it is; the file is replaced in one step.
    """
    try:
        text = edited(read_text(path), changes)
    except TOMLKitError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    write_text(path, text)


def edited(text: str, changes: dict[str, Any]) -> str:
    """Return the TOML text with `changes` (flat keys; None removes one) applied; no other line changes.

    Raises tomlkit's TOMLKitError when the text is not TOML, UserError when a section to be changed is no table.
    """
    for name, value in changes.items():
        section, _, leaf = name.rpartition(".")
        document = tomlkit.parse(text)
        table = document.get(section) if section else document
        if table is not None and not isinstance(table, Mapping):
            raise UserError(f"{section}: must be a table: [{section}] on a line of its own, its keys below")
        if table is not None and leaf in table:
            if value is None:
                table.pop(leaf)
            else:
                table[leaf] = value
            text = tomlkit.dumps(document)
        elif value is not None:
            text = _with_new_key(text, section, leaf, value)
    return text


def _with_new_key(text: str, section: str, leaf: str, value: Any) -> str:
    """Return the text with a key after the last one of its section, which is begun at the end where there is none yet."""
    document, newline = tomlkit.parse(text), "\r\n" if "\r\n" in text else "\n"
    lines, line = text.split("\n"), f"{leaf} = {tomlkit.item(value).as_string()}"
    current, last, indent = "", None, ""
    for number, content in statements(text):
        if table := HEADER.match(content):
            current = _bare(table[1])
            if current == section:
                last, indent = number, ""
        elif current == section and ASSIGNMENT.match(content):
            last, indent = number, content[: len(content) - len(content.lstrip())]
    if last is None and section in document:  # an inline table, or dotted keys
        document[section].add(leaf, value)
        return tomlkit.dumps(document)
    if last is None and section:
        before = text + (newline if text and not text.endswith("\n") else "") + (newline if text.strip() else "")
        return f"{before}[{section}]{newline}{line}{newline}"
    if last is None:
        return line + newline + (newline + text if text else "")
    starts = [number for number, _ in statements(text) if number > last]
    end = starts[0] - 1 if starts else len(lines)  # a value may go on over several lines
    if end == len(lines):
        return text + newline + indent + line + newline
    return "\n".join([*lines[:end], indent + line + newline[:-1], *lines[end:]])


def usual_title(*, dataset: str, method: str, ipc: int) -> str:
    """Return the title of a project that nobody has given another one."""
    return f"{method} on {dataset}, {ipc} image{'s' if ipc != 1 else ''} per class"


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
        f'title = "{usual_title(dataset=dataset, method=method, ipc=ipc)}"',
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
