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
EXTERNAL = "external"  # the method of images that `edc evaluate` brings from elsewhere


Layer = dict[str, Any]  # {"set": {section: {key: value}}, optionally "dataset": [names], "ipc": [low, high], "resolution": [low, high]}
CONDITIONS = ("dataset", "ipc", "resolution")
RATES = "evaluate.student_learning_rates"
WEIGHTS = "observers.weights"


@dataclass(frozen=True)
class Method:
    """A method file: its title, one-sentence summary, source, and the values it sets, generally and under conditions."""

    name: str
    title: str
    summary: str
    paper: str
    layers: tuple[Layer, ...]  # later ones win


@dataclass(frozen=True)
class Profile:
    """A compat file: what it reproduces, the methods whose release that is, and the values it sets over the method's."""

    name: str
    summary: str
    methods: tuple[str, ...]
    layers: tuple[Layer, ...]


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
    """Return the names of the methods that make images, sorted; `external` has a file too and makes none."""
    return sorted(path.stem for path in METHODS.glob("*.toml") if path.stem != EXTERNAL)


def nearest(word: str, choices: list[str]) -> str:
    """Return `did you mean x?` for the choice most like `word`, or the choices themselves when none is like it."""
    match = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean {match[0]}?" if match else f"choose one of: {', '.join(choices)}"


@cache
def load_method(name: str) -> Method:
    """Read a method file, with the layers of the methods it extends before its own.

    Raises UserError naming the nearest method when there is none of this name, or when the file itself is wrong.
    """
    if name not in (*method_names(), EXTERNAL):
        raise UserError(f"condense.method: no method is called {name!r}; {nearest(name, method_names())}")
    data = _read_file(METHODS / f"{name}.toml", ("title", "summary", "paper"))
    base = data.get("extends")
    if base is not None and (base == name or base not in method_names()):
        raise UserError(f"{name}.toml: cannot extend {base!r}; {nearest(str(base), [other for other in method_names() if other != name])}")
    inherited = load_method(base).layers if base else ()
    return Method(name, data["title"], data["summary"], data["paper"], inherited + data["layers"])


@cache
def load_profile(name: str) -> Profile:
    """Read a compat file, with the layers of the profile it extends before its own; raises UserError when the file is wrong."""
    data = _read_file(COMPAT / f"{name}.toml", ("summary", "methods"))
    inherited = load_profile(data["extends"]).layers if "extends" in data else ()
    return Profile(name, data["summary"], tuple(data["methods"]), inherited + data["layers"])


def _read_file(path: Path, required: tuple[str, ...]) -> dict[str, Any]:
    """Parse a method or compat file and put its `layers` in order.

    Raises UserError for whatever would otherwise be dropped in silence: an unknown table, condition or key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name}: {error}") from None
    if missing := [name for name in required if name not in data]:
        raise UserError(f"{path.name}: {missing[0]} is missing")
    known = [*required, "extends", "set", "when"]
    if unknown := [name for name in data if name not in known]:
        raise UserError(f"{path.name}: {unknown[0]} is nothing that such a file may hold; {nearest(unknown[0], known)}")
    data["layers"] = ({"set": data.get("set", {})}, *data.get("when", []))
    for layer in data["layers"]:
        _check_layer(path, layer)
    return data


def _check_layer(path: Path, layer: Layer) -> None:
    """Refuse a condition or a key that does not exist, and a condition of another form than a list."""
    for name, value in layer.items():
        if name not in ("set", *CONDITIONS):
            raise UserError(f"{path.name}: unknown condition {name}; conditions are dataset, ipc and resolution")
        if name in CONDITIONS and not (isinstance(value, list) and (name == "dataset" or len(value) == 2)):
            raise UserError(f"{path.name}: {name} = {value!r} must be a list of {'names' if name == 'dataset' else 'two numbers'}")
    for name in flatten(layer.get("set", {})):
        if name not in keys():
            raise UserError(f"{path.name}: {name}: {_unknown_key(name)}")


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


def layer_values(layers: tuple[Layer, ...], *, dataset: str, ipc: int, resolution: int) -> dict[str, Any]:
    """Return the flat values that layers set for a dataset, images per class and working resolution (px)."""
    flat: dict[str, Any] = {}
    for layer in layers:
        fewest, most = layer.get("ipc", (1, ipc))
        smallest, largest = layer.get("resolution", (0, resolution))
        if dataset in layer.get("dataset", [dataset]) and fewest <= ipc <= most and smallest <= resolution <= largest:
            flat = over(flat, flatten(layer.get("set", {})))
    return flat


def over(values: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Return flat values with later ones over them.

    A learning rate for all students takes the earlier ones of single students away; the weights of single observers leave others as
    they were.
    """
    kept = {name: value for name, value in values.items() if name != RATES or "evaluate.learning_rate" not in later}
    both = [each[WEIGHTS] for each in (kept, later) if WEIGHTS in each]
    if len(both) == 2 and all(isinstance(each, dict) for each in both):
        return kept | later | {WEIGHTS: both[0] | both[1]}
    return kept | later


def resolve(given: dict[str, Any], *, resolution: int) -> tuple[Resolved | None, list[Problem]]:
    """Set every key: schema defaults, then the method, then its compat profile, then the values `given` (flat).

    `resolution` is the working resolution in px, on which methods may depend. Returns the resolved project, or None and
    every problem found. Keys of `given` that do not exist are problems that name the nearest key.
    """
    problems = [Problem(name, _not_a_key(name, value)) for name, value in given.items() if name not in keys() and name != "title"]
    known = {name: value for name, value in given.items() if name in keys() or name == "title"}
    head, _ = validate({name: value for name, value in known.items() if name.split(".")[0] in ("dataset", "condense")})
    if head is None:
        return None, problems + validate(known)[1]
    condense = head.condense
    try:
        method = load_method(condense.method)
        profile = load_profile(condense.compat) if condense.compat != "fixed" else Profile("fixed", "", (method.name,), ())
    except UserError as error:
        return None, [*problems, Problem("condense.method", str(error).removeprefix("condense.method: "))]
    if method.name not in profile.methods:
        right = f'{condense.compat} is a state of the release of {", ".join(profile.methods)}, not of {method.name}; use "fixed"'
        return None, [*problems, Problem("condense.compat", right)]
    where = {"dataset": head.dataset.name, "ipc": condense.ipc, "resolution": resolution}
    from_method, from_compat = layer_values(method.layers, **where), layer_values(profile.layers, **where)
    usual = over(from_method, from_compat)
    project, found = validate(over(usual, known))
    if project is None or problems:
        return None, problems + found
    origins = dict.fromkeys(keys(), "default")
    origins |= dict.fromkeys(from_method, f"method {method.name}") | dict.fromkeys(from_compat, f"compat {profile.name}")
    origins |= dict.fromkeys((name for name in known if name != "title"), "project")
    if RATES not in over(usual, known):
        origins[RATES] = "default"
    base, _ = validate(usual)
    return Resolved(project, resolution, origins, flatten(base.model_dump()) if base else {}), []


def validate(flat: dict[str, Any]) -> tuple[Project | None, list[Problem]]:
    """Check flat values against the schema; return the project, or None and every problem in words."""
    try:
        return Project.model_validate(unflatten(flat)), []
    except ValidationError as error:
        return None, _merged(error.errors())


def _merged(errors: list[dict[str, Any]]) -> list[Problem]:
    """Put pydantic's findings into words; what may be a number or a word is one problem, though it is neither."""
    problems: list[Problem] = []
    kinds: dict[str, str] = {}
    for details in errors:
        problem, kind = _problem(details), details["type"]
        if kind == "literal_error" and kinds.setdefault(problem.key, kind) != kind:
            problems[-1].message += " or " + details["ctx"]["expected"].replace("'", '"')
        elif kind == "list_type" and kinds.get(problem.key) == "literal_error":
            problems[-1].message += ", or a list in [ ]"
        else:
            kinds[problem.key] = kind
            problems.append(problem)
    return problems


def _not_a_key(name: str, value: Any) -> str:
    """Say what is wrong with a name that is no key: a section that is no table, or a slip."""
    return f"{_shown(value)} must be a table: [{name}] on a line of its own, its keys below" if name in SECTIONS else _unknown_key(name)


def _unknown_key(name: str) -> str:
    """Say which key or section was probably meant."""
    section, _, leaf = name.partition(".")
    if leaf and section not in SECTIONS:
        return f"no such section; {nearest(section, list(SECTIONS))}"
    siblings = [other.partition(".")[2] for other in keys() if other.startswith(section + ".")]
    match = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.5)
    if match:
        return f"no such key; did you mean {section}.{match[0]}?"
    same_leaf = [other for other in keys() if other.partition(".")[2] == (leaf or name)]
    if same_leaf:
        return f"no such key; did you mean {' or '.join(same_leaf)}?"
    if leaf:
        return f"no such key; [{section}] has: {', '.join(siblings)}"
    return f"no such key; {nearest(name, [*SECTIONS, *({'schema', 'title'} - {name})])}"


def _shown(value: Any) -> str:
    """Return a value as one short line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _problem(details: dict[str, Any]) -> Problem:
    """Put one of pydantic's findings into the user's words: what is there and what would be right."""
    location = [str(part) for part in details["loc"]]
    name = ".".join(location[:2])
    value, context, kind = details["input"], details.get("ctx", {}), details["type"]
    if kind == "extra_forbidden":
        return Problem(name, _not_a_key(name, value))
    if kind == "literal_error":
        choices = [choice.strip("' ") for choice in context["expected"].replace(" or ", ",").split(",")]
        return Problem(name, f"{_shown(value)} is not a choice; {nearest(str(value), choices)}")
    if kind in ("too_short", "too_long"):
        bound = context.get("min_length", context.get("max_length"))
        side = "least" if kind == "too_short" else "most"
        return Problem(name, f"{_shown(value)} must have at {side} {bound} {'entry' if bound == 1 else 'entries'}")
    expected = {
        "int_type": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "a text in quotes",
        "list_type": "a list in [ ]",
        "dict_type": "a table in { }, such as { resnet18 = 0.001 }",
        "greater_than_equal": f"at least {context.get('ge', 0):g}",
        "less_than_equal": f"at most {context.get('le', 0):g}",
        "greater_than": f"greater than {context.get('gt', 0):g}",
        "less_than": f"less than {context.get('lt', 0):g}",
        "model_type": f"a table [{name}]",
        "finite_number": "a finite number",
    }.get(kind, details["msg"])
    return Problem(name, f"{_shown(value)} must be {expected}")
