"""Sweeps: several projects from one, a project file each, that differ in the values of a few keys.

A sweep is a grid given on the command line (`--over evaluate.zeta=1,1.5,2`), or a project file with a table [sweep]:

    [sweep]
    over = { "match.w_class" = [0.0, 0.25, 0.5] }                      # a grid: every value of each key
    points = [                                                         # or a list: each entry is a point
        { name = "plain" },                                            # named, else its values make its name
        { name = "ema", evaluate.ema = 0.99, evaluate.zeta = 2.0 },
    ]

With both, every point of the list is taken at every point of the grid.
"""

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import tomlkit

from engine.errors import RunError, UserError
from engine.files import digest
from engine.project.files import edited, line_of, parse_as, read_values, values_of
from engine.project.resolve import flatten

LONGEST_PART = 48  # characters that one key may take of a project's name
NOT_SHOWN = ("title", "condense.published")  # keys that a point may set and that say nothing about how it differs


@dataclass(frozen=True)
class Point:
    """One project of a sweep: its file, what its point is called where it has a name of its own, and the values it sets (flat)."""

    path: Path
    name: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A project file with the points made from it; `origins` says of each key where its values were given: `--over` or `[sweep]`."""

    path: Path
    origins: dict[str, str]
    points: tuple[Point, ...]

    @property
    def shown_keys(self) -> list[str]:
        """The keys in whose values the points differ, in the order in which they were given."""
        names = dict.fromkeys(name for point in self.points for name in point.values if name not in NOT_SHOWN)
        return [name for name in names if any(point.values.get(name) != self.points[0].values.get(name) for point in self.points)]


def read_sweep(path: Path, over: Sequence[str] = ()) -> Sweep:
    """Read the points of a sweep from a file's table [sweep] and from `over`, texts like `evaluate.zeta=1,1.5,2`.

    What `over` names replaces the values of the same key in the file's grid. Raises UserError in one line when the sweep is malformed.
    """
    values, text = read_values(path)
    place = f"{path}:{line_of(text, 'sweep')}: sweep"
    grid, points = _grid_of(values.get("sweep.over", {}), place), _points_of(values.get("sweep.points", [{}]), place)
    if "sweep" in values:
        raise UserError(f"{place}: must be a table: [sweep] on a line of its own, over or points below")
    unknown = [name for name in values if name.split(".")[0] == "sweep" and name not in ("sweep.over", "sweep.points")]
    if unknown:
        raise UserError(f"{place}: no such key {unknown[0].partition('.')[2]!r}; [sweep] has: over, points")
    given = dict(_parse_over(item) for item in over)
    grid |= given
    if not grid and "sweep.points" not in values:
        raise UserError(f"{path}: nothing to sweep over; give --over section.key=value,value,…, or the file a table [sweep]")
    for name in grid:
        if any(name in point for point in points):
            raise UserError(f"{place}: {name!r} is given by over and by a point; leave one of them out")
    cells = [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]
    combined = [cell | point for cell in cells for point in points]
    names = _names(combined, parts=[_part_keys(grid, point) for _ in cells for point in points])
    made = [
        Point(path.with_name(f"{path.stem}-{name}.toml"), str(chosen.pop("name", "")), chosen)
        for name, chosen in zip(names, combined, strict=True)
    ]
    origins = {name: "--over" if name in given else "[sweep]" for point in made for name in point.values}
    return Sweep(path, origins, tuple(made))


def chosen_points(sweep: Sweep, patterns: Sequence[str]) -> Sweep:
    """Return a sweep with the points alone that match one of the patterns: `cifar10-*`, a point's name or its project's.

    Raises UserError for a pattern that none matches.
    """

    def matches(point: Point, pattern: str) -> bool:
        names = (point.name, point.path.stem, point.path.stem.removeprefix(f"{sweep.path.stem}-"))
        return any(fnmatchcase(name, pattern) for name in names)

    for pattern in patterns:
        if not any(matches(point, pattern) for point in sweep.points):
            names = [point.name or point.path.stem for point in sweep.points]
            near = get_close_matches(pattern, names, n=1, cutoff=0.3) or names[:1]
            raise UserError(f"--only {pattern!r}: no point of {sweep.path} is called so; {near[0]} is one, and * stands for anything")
    return replace(sweep, points=tuple(point for point in sweep.points if any(matches(point, pattern) for pattern in patterns)))


def missing_projects(sweep: Sweep) -> dict[Path, str]:
    """Return the text of each project file of a sweep that is not there yet.

    A file with other values is never overwritten: raises UserError with one line for each.
    """
    values, text = read_values(sweep.path)
    base = {name: value for name, value in values.items() if name.split(".")[0] != "sweep"}
    problems, missing = [], {}
    for point in sweep.points:
        wanted = base | point.values
        if not point.path.exists():
            missing[point.path] = _project_text(sweep, text, point, wanted)
            continue
        there, _ = read_values(point.path)
        other = [name for name in {**wanted, **there} if wanted.get(name) != there.get(name)]
        if other:
            said = f"{other[0]} is {_shown(there.get(other[0]))} there and {_shown(wanted.get(other[0]))} in this sweep"
            problems.append(f"{point.path}: is another project than this sweep's: {said}; rename or remove it")
    if problems:
        raise UserError("\n".join(problems))
    return missing


def said_value(value: Any) -> str:
    """Say a value as one would write it in a project, a list without its brackets; `-` for none."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(said_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    text = "not set" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _project_text(sweep: Sweep, text: str, point: Point, wanted: dict[str, Any]) -> str:
    """Return the base's text with the point's values in place of its own and without its table [sweep]."""
    said = ", ".join(f"{name} = {tomlkit.item(value).as_string()}" for name, value in point.values.items())
    first = f"# Made by `edc sweep {sweep.path.stem}`{f' with {said}' if said else ''}.\n"
    content = first + edited(edited(text, {"sweep": None}).rstrip() + "\n", point.values)
    if values_of(content, point.path) != wanted:
        raise RunError(f"{sweep.path}: cannot set {', '.join(point.values)} in it; write each of its sections as a table [section]")
    return content


def _parse_over(item: str) -> tuple[str, list[Any]]:
    """Split `section.key=value,value`; a value that is a list stands in brackets."""
    name, equals, text = item.partition("=")
    name, parts = name.strip(), [part.strip() for part in _split(text)]
    if not equals or not name or not all(parts):
        raise UserError(f"--over {item!r}: must be section.key=value,value,…, for instance --over evaluate.zeta=1,1.5,2")
    values = [parse_as(name, part) for part in parts]
    _refuse_twice(values, f"--over {name}")
    return name, values


def _split(text: str) -> list[str]:
    """Split at the commas that stand neither in brackets nor in quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        if character == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _grid_of(table: object, place: str) -> dict[str, list[Any]]:
    grid = _flat(table) if isinstance(table, dict) else None
    if grid is None or not all(isinstance(values, list) and values for values in grid.values()):
        raise UserError(f'{place}: over must list the values of each key: over = {{ "evaluate.zeta" = [1, 1.5, 2] }}')
    for name, values in grid.items():
        _refuse_twice(values, f"{place}: {name}")
    return grid


def _points_of(listed: object, place: str) -> list[dict[str, Any]]:
    if not isinstance(listed, list) or not listed or not all(isinstance(point, dict) for point in listed):
        raise UserError(f'{place}: points must be a list of tables: points = [{{ "evaluate.zeta" = 1.5 }}, …]')
    points = [_flat(point) for point in listed]
    names = [point["name"] for point in points if "name" in point]
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w+-][\w.+-]*", name, re.ASCII):
            raise UserError(f"{place}: name = {_shown(name)} must be a text of letters, digits, - + _ and points")
    _refuse_twice(points, f"{place}: points")
    _refuse_twice(names, f"{place}: points")
    return points


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a table whose keys are written `"section.key"` or `section.key`; a point's `name` stays as it is."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= {name: value} if "." in name else flatten({name: value})
    return flat


def _refuse_twice(values: Sequence[Any], place: str) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise UserError(f"{place}: {_shown(value)} is listed twice")


def _part_keys(grid: Mapping[str, Any], point: Mapping[str, Any]) -> list[str]:
    """Return the keys that make a point's name: those of the grid, and its own where it has no name."""
    return [*grid, *(["name"] if "name" in point else [name for name in point if name not in NOT_SHOWN])]


def _names(combined: Sequence[Mapping[str, Any]], parts: Sequence[Sequence[str]]) -> list[str]:
    """Return what stands after the base's name in each project's: key and value of each part, or the point's own name."""
    keys = list(dict.fromkeys(itertools.chain.from_iterable(parts)))
    labels = dict(zip(keys, (label.replace(".", "-") for label in short_keys(keys)), strict=True))
    names = []
    for values, own in zip(combined, parts, strict=True):
        words = [values[key] if key == "name" else _short(f"{labels[key]}-{said_value(values[key])}") for key in own]
        names.append("-".join(words) or "same")
    repeated = Counter(names)
    digests = [digest(dict(values))[:6] for values in combined]
    return [name if repeated[name] == 1 else f"{name}-{short}" for name, short in zip(names, digests, strict=True)]


def short_keys(names: Sequence[str]) -> list[str]:
    """Return keys without their sections where that is clear: `evaluate.zeta` is `zeta`, `dataset.name` is `dataset`."""
    short = [name.removesuffix(".name") if name.endswith(".name") else name.rpartition(".")[2] for name in names]
    return [word if short.count(word) == 1 else name for word, name in zip(short, names, strict=True)]


def _short(part: str) -> str:
    """Return a part of a name with nothing in it that a file's name should not have, and not too long."""
    plain = re.sub(r"[^\w.+-]+", "-", part.replace(", ", "+"), flags=re.ASCII).strip("-")
    return plain if len(plain) <= LONGEST_PART else f"{plain[: LONGEST_PART - 7]}-{digest(part)[:6]}"

