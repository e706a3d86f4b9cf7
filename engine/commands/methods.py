"""`edc methods`: which methods there are, in what they differ on a dataset, and what one of them does in every key."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.commands.tables import Column, count, make_console, print_blocks, print_fields, print_json
from engine.data.catalogue import dataset_resolution
from engine.errors import UserError
from engine.project.checks import in_use, of_optimisation, value_of
from engine.project.resolve import Method, load_method, method_names, resolve
from engine.project.schema import SECTIONS, Project, has_method_value, keys
from engine.runs.text import printable

if TYPE_CHECKING:
    from rich.console import Console

COMPARED = ("sre2l", "cda", "rded", "g-vbsm", "edc", "random")
LADDER = tuple(f"config-{letter}" for letter in "abcdefg")
IDLE = "-"  # stands for the value of a key that a method does not use
VALUE_WIDTH = 14


@dataclass(frozen=True)
class Resolution:
    """A method, the project that it makes of a dataset, and the keys that its file sets."""

    method: Method
    project: Project
    own: frozenset[str]

    def value(self, name: str) -> Any:
        """Return the value of a `section.key`."""
        return value_of(self.project, name)

    def used(self, name: str) -> bool:
        """Say whether the method does anything with a `section.key`."""
        return in_use(self.project, name)


def methods_command(names: Sequence[str], *, ladder: bool, dataset: str, ipc: int, as_json: bool) -> None:
    """Print methods side by side in the keys in which they differ, or a single one whole.

    Raises UserError when a method or the dataset does not exist, or `ipc` is below 1.
    """
    try:
        side = dataset_resolution(dataset)
    except UserError as error:
        raise UserError(f"--dataset: {error}") from None
    chosen = list(dict.fromkeys([*names, *(LADDER if ladder else ())]))
    listed = chosen or method_names()
    if as_json:
        shown = [_facts(_resolved(name, dataset=dataset, ipc=ipc, side=side)) for name in listed]
        print_json({"dataset": dataset, "resolution": side, "ipc": ipc, "methods": shown})
        return
    methods = [_resolved(name, dataset=dataset, ipc=ipc, side=side) for name in chosen or COMPARED]
    console = make_console()
    where = f"on {dataset} ({side} px) at {count(ipc, 'image')} per class"
    if len(methods) == 1:
        _print_one(console, methods[0], where)
    else:
        _print_side_by_side(console, listed, methods, where)


def _resolved(name: str, *, dataset: str, ipc: int, side: int) -> Resolution:
    """Resolve a method on a dataset with `ipc` images per class and a working resolution of `side` px."""
    resolved, problems = resolve({"dataset.name": dataset, "condense.method": name, "condense.ipc": ipc}, resolution=side)
    if resolved is None:
        options = {"condense.ipc": "--ipc: ", "condense.method": ""}
        raise UserError("\n".join(f"{options.get(problem.key, f'{problem.key}: ')}{problem.message}" for problem in problems))
    own = frozenset(key for key, origin in resolved.origins.items() if origin == f"method {name}")
    return Resolution(load_method(name), resolved.project, own)


def method_keys() -> list[str]:
    """Return every `section.key` that a method decides, in the order of the schema."""
    return [name for name in keys() if has_method_value(name)]


def differing(methods: Sequence[Resolution]) -> list[str]:
    """Return the keys in which methods differ: in value, or in that only some use a value that one of them sets.

    A method that optimises nothing is left out of the comparison of how images are optimised.
    """
    found = []
    for name in method_keys():
        counted = [each for each in methods if each.project.synthesise.enabled or not of_optimisation(each.project, name)]
        users = [each for each in counted if each.used(name)]
        values = [each.value(name) for each in users]
        only_some = len(users) < len(counted) and any(name in each.own for each in users)
        if only_some or any(value != values[0] for value in values):
            found.append(name)
    return found


def short(value: Any) -> str:
    """Say a value in few characters: `true`, `0.001`, `0.08 1`, and nothing for an absent one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(short(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{name} {short(item)}" for name, item in value.items())
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def table_rows(methods: Sequence[Resolution]) -> list[list[str]]:
    """Return a row of texts for each key in which methods differ; lists of networks have a row for each network that any of them has."""
    rows = []
    for name in differing(methods):
        values = [each.value(name) if each.used(name) else IDLE for each in methods]
        if not name.startswith("observers.") or not any(isinstance(value, list) for value in values):
            rows.append([name, *map(short, values)])
            continue
        networks = dict.fromkeys(network for value in values if isinstance(value, list) for network in value)
        for number, network in enumerate(networks):
            idle = "" if number else IDLE
            rows.append(["" if number else name, *(idle if value == IDLE else network if network in value else "" for value in values)])
    return rows


def _print_side_by_side(console: "Console", listed: Sequence[str], methods: Sequence[Resolution], where: str) -> None:
    """Print the names and titles of methods, then the table of what differs between some of them."""
    print_fields(console, [(name, printable(load_method(name).title)) for name in listed])
    console.print()
    rows = table_rows(methods)
    if not rows:
        console.print(f"They do not differ {where}.", soft_wrap=True)
        return
    for line in textwrap.wrap(f"In what they differ {where}; {IDLE} is a key that a method does not use.", max(console.width, 20)):
        console.print(line, style="dim", soft_wrap=True)
    console.print()
    print_blocks(console, [Column("key"), *(Column(each.method.name) for each in methods)], rows)


def _print_one(console: "Console", resolution: Resolution, where: str) -> None:
    """Print a method's summary and source, and every key that it uses with its value and help."""
    from rich.text import Text

    method = resolution.method
    console.print(Text.assemble((method.name, "bold"), f"  {printable(method.title)}"), soft_wrap=True)
    for text in (method.summary, method.paper):
        for line in textwrap.wrap(printable(text), max(min(console.width, 100), 20)):
            console.print(line, soft_wrap=True)
    console.print()
    console.print(f"What it does {where}:", soft_wrap=True)
    by_network = [name for name in method_keys() if isinstance(resolution.value(name), dict) and resolution.value(name)]
    names = [name for name in method_keys() if resolution.used(name) or name in by_network]  # idle for the usual students only
    for section in dict.fromkeys(name.partition(".")[0] for name in names):
        console.print()
        console.print(Text.assemble((f"[{section}]", "bold"), f"  {SECTIONS[section].__doc__}"), soft_wrap=True)
        mine = [name for name in names if name.startswith(f"{section}.")]
        print_fields(console, [(name.partition(".")[2], _explained(name, resolution.value(name))) for name in mine])


def _explained(name: str, value: Any) -> str:
    """Return a key's value with its unit, followed by its help."""
    field = keys()[name]
    unit = field.json_schema_extra["unit"]
    said = short(value) or "absent"
    return f"{said}{f' {unit}' if unit and value is not None else ''}".ljust(VALUE_WIDTH) + f"  {field.description}"


def _facts(resolution: Resolution) -> dict[str, Any]:
    """Return everything about a method as JSON values: all its values in full, and which of them it does not use."""
    method = resolution.method
    return {
        "name": method.name,
        "title": method.title,
        "summary": method.summary,
        "paper": method.paper,
        "values": {name: resolution.value(name) for name in method_keys()},
        "unused": [name for name in method_keys() if not resolution.used(name)],
    }
