"""The orders in which the outputs of a network may name its classes; no torch is needed."""

import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from engine.errors import UserError

WNID = re.compile(r"n\d{8}")
# The lists of WordNet ids that timm ships: what the outputs of networks trained on ImageNet mean, told apart by how many there are.
SYNSETS = ("imagenet_synsets", "imagenet12k_synsets", "imagenet21k_miil_synsets", "imagenet21k_miil_w21_synsets", "imagenet22k_synsets")
NAMED = ("names", "alphabetical", "numeric", "imagenet")


def in_numeric_order(names: Sequence[str]) -> list[str]:
    """Return names sorted with the numbers in them taken as numbers: 2 before 10."""
    return sorted(names, key=lambda name: [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)])


def usual_orders(names: Sequence[str]) -> dict[str, list[str]]:
    """Return by name the orders in which a network's outputs are usually found when they are not in that of `names`."""
    found = {
        "alphabetical": sorted(names),
        "numeric": in_numeric_order(names),
        "alphabetical without case": sorted(names, key=str.casefold),
        "reversed": list(reversed(names)),
    }
    return {word: order for word, order in found.items() if order != list(names)}


@cache
def synsets(outputs: int) -> tuple[str, ...]:
    """Return the WordNet ids that a network of so many outputs names in this order; nothing where no such list is known."""
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        return ()
    for name in SYNSETS:
        path = Path(spec.origin).parent / "data" / "_info" / f"{name}.txt"
        lines = path.read_text(encoding="utf-8").split() if path.is_file() else []
        if len(lines) == outputs:
            return tuple(lines)
    return ()


def ordered(value: str | Sequence[str], names: Sequence[str], outputs: int) -> tuple[str, ...]:
    """Return what each output of a network means, by the value of `observers.class_order` and the dataset's class `names`."""
    if not isinstance(value, str):
        return tuple(value)
    if value == "imagenet":
        return synsets(outputs)
    return tuple({"alphabetical": sorted, "numeric": in_numeric_order, "names": list}[value](names))


def rows_of(names: Sequence[str], meant: Sequence[str], outputs: int, network: str) -> list[int]:
    """Return for each of the dataset's classes the output of `network` that names it, `meant` being what each output means.

    Raises UserError when outputs and meanings differ in number, or a class is none of them.
    """
    if len(meant) != outputs and list(meant) == list(names):
        right = "say in observers.class_order what each of them means"
        raise UserError(f"{network} has {outputs} outputs and the dataset {len(names)} classes; {right}")
    if len(meant) != outputs:
        known = f"{len(meant)} classes are named for them" if meant else "it is not known which"
        raise UserError(f"{network} has {outputs} outputs and {known}; the dataset has {len(names)} classes")
    place = {name: index for index, name in enumerate(meant)}
    missing = [name for name in names if name not in place]
    if missing:
        of_imagenet = WNID.fullmatch(str(meant[0]))
        right = "classes of ImageNet are named by WordNet ids such as n01440764" if of_imagenet else f"{meant[0]!r} is one"
        raise UserError(f"{network} tells {outputs} classes apart, and {missing[0]!r} is none of them ({right})")
    return [place[name] for name in names]
