"""What the form knows of each key of the schema: where it stands, how it is chosen, said and typed. No screen here."""

import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from engine.errors import UserError
from engine.project.checks import in_use
from engine.project.draft import Draft, has_method_value
from engine.project.files import parse_override
from engine.project.resolve import load_method, load_profile, method_names
from engine.project.schema import SECTIONS, Project, keys
from engine.runs.text import printable

NOT_SET = "not set"
SHORT = 14  # cells that a note gives the method's value

# Where the sections of the schema stand in the form, and which keys come first there. A key that is not named here is in the group of its
# section, closed at first; one that stands elsewhere than its section is named in another section's list.
PLACES: dict[str, tuple[str, ...]] = {
    "Data": ("dataset",),
    "Backbones": ("observers", "squeeze", "statistics"),
    "Method and toggles": (
        *("condense", "initialise", "rded", "match", "flatness", "diversity", "prior", "augment", "batch", "synthesise", "save"),
    ),
    "Labels": ("labels",),
    "Evaluation": ("evaluate",),
    "Compute": ("compute",),
}
COMMON: dict[str, tuple[str, ...]] = {
    "Data": ("title", "dataset.name", "dataset.root", "condense.ipc"),
    "Backbones": ("observers.synthesis", "observers.labels", "squeeze.epochs"),
    "Method and toggles": (
        *("condense.method", "condense.seed", "initialise.source", "match.layers", "match.w_class", "flatness.kind", "augment.crop_mode"),
        *("batch.size", "synthesise.iterations", "synthesise.learning_rate"),
    ),
    "Labels": ("labels.mode", "labels.mix"),
    "Evaluation": (
        *("evaluate.students", "evaluate.seeds", "evaluate.epochs", "evaluate.batch_size", "evaluate.loss", "evaluate.schedule"),
        *("evaluate.zeta", "evaluate.ema", "evaluate.controls"),
    ),
    "Compute": ("compute.device", "compute.precision"),
}


@dataclass(frozen=True)
class Group:
    """Keys of one section of the schema that are seldom changed; `title` says what the section is about."""

    section: str
    title: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class FormSection:
    """A section of the form: its common keys, then its groups."""

    title: str
    names: tuple[str, ...]
    groups: tuple[Group, ...]


def form_sections() -> list[FormSection]:
    """Return the whole form; a section of the schema that has no place yet stands in the last one."""
    placed = {section for sections in PLACES.values() for section in sections}
    rest = tuple(section for section in SECTIONS if section not in placed)
    common = {name for names in COMMON.values() for name in names}
    found = []
    for title, sections in PLACES.items():
        here = sections + (rest if title == list(PLACES)[-1] else ())
        groups = []
        for section in here:
            names = tuple(name for name in keys() if name.partition(".")[0] == section and name not in common)
            if names:
                groups.append(Group(section, (SECTIONS[section].__doc__ or "").partition("\n")[0].rstrip("."), names))
        found.append(FormSection(title, COMMON[title], tuple(groups)))
    return found


@cache
def field_of(name: str) -> Any:
    """Return the pydantic field of a `section.key` or of `title`."""
    return keys()[name] if "." in name else Project.model_fields[name]


def plain_help(name: str) -> str:
    """Return a key's sentence of help without the marks of code."""
    return (field_of(name).description or "").replace("`", "")


def search_words(name: str) -> str:
    """Return the words by which a key is found."""
    extra = field_of(name).json_schema_extra or {}
    return f"{name} {name.replace('_', ' ')} {plain_help(name)} {extra.get('paper', '')}".lower()


Kind = Literal["choice", "choices", "text"]


@cache
def kind_of(name: str) -> Kind:
    """Say how a value is given: one of several, some of several, or typed."""
    if name in ONE_OF:
        return "choice"
    if name in SOME_OF:
        return "choices"
    inner = _without_none(field_of(name).annotation)
    if inner is bool or get_origin(inner) is Literal:
        return "choice"
    if get_origin(inner) is list and get_origin(get_args(inner)[0]) is Literal:
        return "choices"
    return "text"


def _without_none(annotation: Any) -> Any:
    """Return the type of a value that is there: `int` for `int | None`, without its bounds."""
    if get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return get_args(annotation)[0] if get_origin(annotation) is typing.Annotated else annotation


def may_be_absent(name: str) -> bool:
    """Say whether "not set" is one of a key's values."""
    return field_of(name).default is None


@dataclass(frozen=True)
class Choice:
    """A value that can be chosen, and a few words on it."""

    value: Any
    note: str = ""


@dataclass(frozen=True)
class Offer:
    """What a field offers; `free` where a value may be typed that is not among the choices, which `judge` may find wrong."""

    choices: tuple[Choice, ...]
    free: bool = False
    judge: Callable[[str], str | None] = lambda text: None


def offer_of(name: str, draft: Draft) -> Offer:
    """Return what can be chosen for a key as the rest of the project stands."""
    special = ONE_OF.get(name) or SOME_OF.get(name)
    if special is not None:
        return special(draft)
    inner = _without_none(field_of(name).annotation)
    if inner is bool:
        absent = (Choice(None, "the dataset's own"),) if may_be_absent(name) else ()
        return Offer((*absent, Choice(True), Choice(False)))
    literal = get_args(inner)[0] if get_origin(inner) is list else inner
    return Offer(tuple(Choice(value) for value in get_args(literal)))


def _methods(draft: Draft) -> Offer:
    return Offer(tuple(Choice(name, load_method(name).summary) for name in method_names()))


def _profiles(draft: Draft) -> Offer:
    method = draft.resolved.project.condense.method
    names = get_args(field_of("condense.compat").annotation)
    notes = {name: load_profile(name).summary for name in names if name != "fixed" and method in load_profile(name).methods}
    return Offer((Choice("fixed", "as the papers mean it"), *(Choice(name, note) for name, note in notes.items())))


def _datasets(draft: Draft) -> Offer:
    from engine.data.catalogue import data_root
    from engine.data.sources import found_in, list_datasets

    def note(info: Any) -> str:
        here = info.class_count is None or found_in(info.name, data_root()) is not None
        return info.title if here else f"{info.title}; not here"

    return Offer(tuple(Choice(info.name, note(info)) for info in list_datasets()))


def _models(draft: Draft) -> Offer:
    from engine.models.registry import check_model, list_models

    def judge(text: str) -> str | None:
        try:
            check_model(text, draft.resolved.resolution)
        except UserError as error:
            return str(error)
        return None

    named = [info for info in list_models() if "<" not in info.name and judge(info.name) is None]
    return Offer(tuple(Choice(info.name, info.help) for info in named), free=True, judge=judge)


def _figures(draft: Draft) -> Offer:
    from engine.project.published import figures

    head = draft.resolved.project
    rows: dict[str, str] = {}
    for figure in figures():
        if figure.dataset == head.dataset.name:
            rows.setdefault(figure.name, f"ipc {figure.ipc}, {figure.student}: {figure.top1} %")
    return Offer(tuple(Choice(name, note) for name, note in rows.items()), free=True)


def _devices(draft: Draft) -> Offer:
    return Offer((Choice("auto", "the first CUDA device, else the CPU"), Choice("cpu"), Choice("cuda")), free=True)


ONE_OF: dict[str, Callable[[Draft], Offer]] = {
    "condense.method": _methods,
    "condense.compat": _profiles,
    "dataset.name": _datasets,
    "compute.device": _devices,
}
SOME_OF: dict[str, Callable[[Draft], Offer]] = {
    "observers.synthesis": _models,
    "observers.labels": _models,
    "evaluate.students": _models,
    "condense.published": _figures,
}


def spoken(value: Any) -> str:
    """Say a value as the file has it, without quotes and brackets."""
    if value is None:
        return NOT_SET
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(spoken, value)) or "none"
    return printable(value)


def typed_text(value: Any) -> str:
    """Return what stands in the line when a value is to be typed over."""
    return "" if value is None or value == [] else spoken(value)


def typed(name: str, text: str) -> Any:
    """Return the value that a typed text means; None, that is not set, for an empty one."""
    text = printable(text)
    if not text:
        return None
    value = parse_override(f"{name}={text}")[1]
    parts = value if isinstance(value, list) else [value]
    return value if all(isinstance(part, bool | int | float | str) for part in parts) else text


@dataclass(frozen=True)
class FieldState:
    """What the line of a key shows: the value and its unit, where it comes from, and what is wrong with it."""

    value: str = ""
    unit: str = ""
    note: str = ""
    mark: Literal["", "deviates", "own"] = ""
    error: str = ""
    idle: bool = False  # has no effect as the project stands


def field_state(name: str, draft: Draft, problems: dict[str, str]) -> FieldState:
    """Return what a key's line shows for a draft and the problems by key, which may be more than the draft's own."""
    value = draft.value(name)
    deviates = name in draft.given and has_method_value(name) and value != draft.resolved.method_values.get(name)
    extra = field_of(name).json_schema_extra or {}
    error = problems.get(name, "")
    return FieldState(
        value=spoken(value),
        unit=extra.get("unit", "") if type(value) in (int, float) and value != 1 else "",
        note=origin_words(name, draft),
        mark="deviates" if deviates else "own" if name in draft.given else "",
        error=printable(error),
        idle=not error and "." in name and not in_use(draft.resolved.project, name),
    )


def origin_words(name: str, draft: Draft) -> str:
    """Say where a value comes from and, where it deviates, what the method has."""
    head = draft.resolved.project.condense
    if name in draft.given:
        usual = draft.resolved.method_values.get(name)
        if not has_method_value(name) or draft.given[name] == usual:
            return "you"
        said = spoken(usual)
        if isinstance(usual, list) and len(said) > SHORT and len(usual) > 1:
            return f"unlike {head.method}"
        return f"you; {head.method}: {printable(said, SHORT)}"
    return {
        "default": "default",
        "method": head.method,
        "dataset": f"{head.method} on {draft.resolved.project.dataset.name}",
        "compat": head.compat,
    }.get(draft.origins.get(name, "default"), "default")


def bounds(name: str) -> str:
    """Say which values a key takes: `0 to 1`, `at least 1`, `a, b or c`, `true or false`."""
    field = field_of(name)
    if name in ONE_OF or name in SOME_OF:
        return "one of a list" if name in ONE_OF else "some of a list, in this order"
    inner = _without_none(field.annotation)
    if get_origin(inner) is dict and (words := _words_of(get_args(inner)[1])):
        return f"by name: {words}"
    element = get_args(inner)[0] if get_origin(inner) is list else inner
    if get_origin(element) is Literal:
        return ("any of " if inner is not element else "") + _either(get_args(element))
    if element is bool:
        return "true or false"
    found = {type(mark).__name__: mark for mark in _marks(field.annotation, field.metadata)}
    low = f"at least {found['Ge'].ge}" if "Ge" in found else f"above {found['Gt'].gt}" if "Gt" in found else ""
    high = f"at most {found['Le'].le}" if "Le" in found else f"below {found['Lt'].lt}" if "Lt" in found else ""
    word = {int: "a whole number", float: "a number", str: "a text"}.get(_without_none(element), "")
    said = ", ".join(filter(None, [word, " and ".join(filter(None, [low, high]))]))
    return f"a list of: {said}" if inner is not element else said


def _words_of(annotation: Any) -> str:
    """Say which texts a value of a table takes: one of those listed, a list too where it may be one; nothing where it is a number."""
    parts = [annotation] if annotation is str or get_origin(annotation) is Literal else list(get_args(annotation))
    worded = [part for part in parts if part is str or get_origin(part) is Literal]
    said = [_either(get_args(part)) if get_origin(part) is Literal else "a text" for part in worded]
    lists = ["a list"] if said and any(get_origin(part) is list for part in parts) else []
    return " or ".join([*said, *lists])


def _either(values: Sequence[Any]) -> str:
    words = [spoken(value) for value in values]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _marks(annotation: Any, metadata: Sequence[Any]) -> list[Any]:
    """Return the bounds that stand in an annotation, however deep, and beside it."""
    found = list(metadata)
    if get_origin(annotation) is typing.Annotated:
        found += annotation.__metadata__
    for part in get_args(annotation):
        found += _marks(part, ())
    return [mark for mark in found if type(mark).__name__ in ("Ge", "Gt", "Le", "Lt")]
