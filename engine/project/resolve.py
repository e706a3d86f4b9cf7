"""From the few values a user wrote to a project with every key set, and where each value came from."""

import difflib
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.errors import UserError
from engine.project.schema import SECTIONS, Project, keys

METHODS = Path(__file__).parent / "methods"
COMPAT = Path(__file__).parent / "compat"


@dataclass(frozen=True)
class Method:
    """A method file: its title, one-sentence summary, source, and the values it sets, generally and under conditions."""

    name: str
    title: str
    summary: str
    paper: str
    layers: tuple[dict[str, Any], ...]  # each {"set": {...}, optionally "dataset", "ipc", "resolution"}, later ones win


@dataclass
class Problem:
    """One thing wrong with a project: the key, what is wrong, and what would be right."""

    key: str
    message: str


@dataclass
class Resolved:
    """A project with every key set, the origin of each value, and the values the method alone would have given."""

    project: Project
    resolution: int  # working resolution in px, on which methods may depend
    origins: dict[str, str] = field(default_factory=dict)
    method_values: dict[str, Any] = field(default_factory=dict)


def method_names() -> list[str]:
    """Return the names of all method files, sorted."""
    return sorted(path.stem for path in METHODS.glob("*.toml"))


def nearest(word: str, choices: list[str]) -> str:
    """Return ` (nearest: x)` for the choice most like `word`, or the choices themselves when none is like it."""
    match = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean {match[0]}?" if match else f"choose one of: {', '.join(choices)}"


@cache
def load_method(name: str) -> Method:
    """Read a method file, with the layers of the methods it extends before its own.

    Raises UserError naming the nearest method when there is none of this name, or when the file itself is wrong.
    """
    path = METHODS / f"{name}.toml"
    if name not in method_names():
        raise UserError(f"condense.method: no method is called {name!r}; {nearest(name, method_names())}")
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    inherited = load_method(data["extends"]).layers if "extends" in data else ()
    own = ({"set": data.get("set", {})}, *data.get("when", []))
    _check_layers(path, own)
    return Method(name, data["title"], data["summary"], data["paper"], inherited + own)


def _check_layers(path: Path, layers: tuple[dict[str, Any], ...]) -> None:
    """Refuse a method file that sets a key the schema does not know: it would otherwise be dropped in silence."""
    for layer in layers:
        unknown = set(layer) - {"set", "dataset", "ipc", "resolution"}
        if unknown:
            raise UserError(f"{path.name}: unknown condition {', '.join(sorted(unknown))}; conditions are dataset, ipc and resolution")
        for name in flatten(layer["set"]):
            if name not in keys():
                raise UserError(f"{path.name}: no such key {name}; {nearest(name, list(keys()))}")


@cache
def load_compat(profile: str) -> dict[str, Any]:
    """Return the flat values that a `compat` profile sets; `fixed` sets none."""
    if profile == "fixed":
        return {}
    path = COMPAT / f"{profile}.toml"
    layer = {"set": tomllib.loads(path.read_text(encoding="utf-8"))["set"]}
    _check_layers(path, (layer,))
    return flatten(layer["set"])


def flatten(values: dict[str, Any]) -> dict[str, Any]:
    """Turn `{"match": {"weight": 1}}` into `{"match.weight": 1}`; top-level plain values keep their name."""
    flat: dict[str, Any] = {}
    for section, content in values.items():
        if isinstance(content, dict):
            flat |= {f"{section}.{name}": value for name, value in content.items()}
        else:
            flat[section] = content
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """Turn `{"match.weight": 1}` into `{"match": {"weight": 1}}`."""
    values: dict[str, Any] = {}
    for name, value in flat.items():
        section, _, leaf = name.rpartition(".")
        (values.setdefault(section, {}) if section else values)[leaf] = value
    return values


def method_values(method: Method, *, dataset: str, ipc: int, resolution: int) -> dict[str, Any]:
    """Return the flat values that a method sets for a dataset, images per class and working resolution (px)."""
    flat: dict[str, Any] = {}
    for layer in method.layers:
        low, high = layer.get("ipc", (1, ipc))
        smallest, largest = layer.get("resolution", (0, resolution))
        if dataset in layer.get("dataset", [dataset]) and low <= ipc <= high and smallest <= resolution <= largest:
            flat |= flatten(layer["set"])
    return flat


def resolve(given: dict[str, Any], *, resolution: int) -> tuple[Resolved | None, list[Problem]]:
    """Set every key: schema defaults, then the method, then its compat profile, then the values `given` (flat).

    `resolution` is the working resolution in px, on which methods may depend. Returns the resolved project, or None and
    every problem found. Keys of `given` that do not exist are problems that name the nearest key.
    """
    problems = [Problem(name, _unknown_key(name)) for name in given if name not in keys() and name != "title"]
    known = {name: value for name, value in given.items() if name in keys() or name == "title"}
    head, head_problems = validate({name: value for name, value in known.items() if name.split(".")[0] in ("dataset", "condense")})
    if head is None:
        _, all_problems = validate(known)
        return None, problems + (all_problems or head_problems)
    try:
        method = load_method(head.condense.method)
    except UserError as error:
        return None, [*problems, Problem("condense.method", str(error).removeprefix("condense.method: "))]
    from_method = method_values(method, dataset=head.dataset.name, ipc=head.condense.ipc, resolution=resolution)
    from_compat = load_compat(head.condense.compat)
    project, found = validate(from_method | from_compat | known)
    if project is None or problems:
        return None, problems + found
    origins = dict.fromkeys(keys(), "default")
    origins |= dict.fromkeys(from_method, f"method {method.name}") | dict.fromkeys(from_compat, f"compat {head.condense.compat}")
    origins |= dict.fromkeys((name for name in known if name != "title"), "project")
    base, _ = validate(from_method | from_compat)
    return Resolved(project, resolution, origins, flatten(base.model_dump()) if base else {}), []


def validate(flat: dict[str, Any]) -> tuple[Project | None, list[Problem]]:
    """Check flat values against the schema; return the project, or None and every problem in words."""
    try:
        return Project.model_validate(unflatten(flat)), []
    except ValidationError as error:
        return None, [_problem(details) for details in error.errors()]


def _unknown_key(name: str) -> str:
    """Say which key or section was probably meant."""
    section, _, leaf = name.partition(".")
    if section in SECTIONS and leaf:
        siblings = [other.partition(".")[2] for other in keys() if other.startswith(section + ".")]
        match = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.5)
        if match:
            return f"no such key; did you mean {section}.{match[0]}?"
        same_leaf = [other for other in keys() if other.partition(".")[2] == leaf]
        return f"no such key; did you mean {same_leaf[0]}?" if same_leaf else f"no such key; [{section}] has: {', '.join(siblings)}"
    if section not in SECTIONS and leaf:
        return f"no such section; {nearest(section, list(SECTIONS))}"
    return f"no such key; {nearest(name, [*SECTIONS, 'title', 'schema'])}"


def _problem(details: dict[str, Any]) -> Problem:
    """Put one of pydantic's findings into the user's words: what is there and what would be right."""
    location = [str(part) for part in details["loc"]]
    name = ".".join(location[:2])
    value, context, kind = details["input"], details.get("ctx", {}), details["type"]
    if kind == "literal_error":
        choices = [choice.strip("' ") for choice in context["expected"].replace(" or ", ",").split(",")]
        return Problem(name, f"{value!r} is not a choice; {nearest(str(value), choices)}")
    expected = {
        "int_type": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "a text in quotes",
        "list_type": "a list in [ ]",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than_equal": f"at most {context.get('le')}",
        "greater_than": f"greater than {context.get('gt')}",
        "less_than": f"less than {context.get('lt')}",
        "too_short": f"at least {context.get('min_length')} entries",
        "too_long": f"at most {context.get('max_length')} entries",
        "model_type": f"a table [{name}]",
        "finite_number": "a finite number",
    }.get(kind, details["msg"])
    return Problem(name, f"{value!r} must be {expected}")
