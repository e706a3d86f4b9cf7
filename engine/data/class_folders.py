"""What class each folder of an image tree means: tools name them by class, by number, or by both."""

import re
from collections.abc import Sequence
from pathlib import Path

from engine.data.trees import shown
from engine.errors import UserError

NUMBER = re.compile(r"(?:(?:new|class)[_-]?)?(\d+)")  # `new000` is SRe2L's and EDC's
NUMBER_AND_NAME = re.compile(r"(\d+)_(.+)")


def safe_name(name: str) -> str:
    """Return a class name as it stands in the name of a folder, without what file systems refuse."""
    return re.sub(r"[^\w.+-]", "_", name)


def folder_labels(folders: Sequence[str], classes: Sequence[str], path: Path, dataset: str) -> tuple[dict[str, int], str]:
    """Return the label that each folder of `path` means for the `classes` of a dataset, and a note on how that was found.

    Folders are named by class, by the class's number from 0, or by both, `<number>_<class>`. Raises UserError naming folders when some
    class has none, a folder means no class, or the names can be read in two ways.
    """
    readings = {
        "": _by_name(folders, classes),
        f"its folders were taken for the numbers of {dataset}'s classes": _by_number(folders, len(classes)),
        f"its folders were taken for numbers and names of {dataset}'s classes": _by_both(folders, classes, path, dataset),
    }
    whole = {note: labels for note, labels in readings.items() if sorted(labels.values()) == list(range(len(classes)))}
    whole = {note: labels for note, labels in whole.items() if len(labels) == len(folders)}
    found = list(whole.items())
    if not found:
        raise UserError(_why(folders, classes, readings, path, dataset))
    for _, labels in found[1:]:
        if differing := next((name for name in folders if labels[name] != found[0][1][name]), None):
            one, other = classes[found[0][1][differing]], classes[labels[differing]]
            raise UserError(
                f"{shown(path)}: folder {differing!r} may mean class {one!r} by its name or {other!r} by its number; "
                f"name the folders <number>_<class>"
            )
    note, labels = found[0]
    return labels, note


def _by_name(folders: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """Read folders as names of classes, exact or made safe; safe names that two classes share mean neither."""
    known = {name: label for label, name in enumerate(classes)}
    safe = [safe_name(name) for name in classes]
    known = {name: label for label, name in enumerate(safe) if safe.count(name) == 1} | known
    return {folder: known[folder] for folder in folders if folder in known}


def _by_number(folders: Sequence[str], count: int) -> dict[str, int]:
    """Read folders as numbers from 0."""
    numbers = {folder: int(found[1]) for folder in folders if (found := NUMBER.fullmatch(folder))}
    return {folder: number for folder, number in numbers.items() if number < count}


def _by_both(folders: Sequence[str], classes: Sequence[str], path: Path, dataset: str) -> dict[str, int]:
    """Read folders as `<number>_<class>`; raises UserError where the number is that of another class."""
    labels = {}
    for folder in folders:
        found = NUMBER_AND_NAME.fullmatch(folder)
        if found is None or int(found[1]) >= len(classes):
            continue
        label, name = int(found[1]), found[2]
        own = next((other for other, known in enumerate(classes) if name in (known, safe_name(known))), None)
        if own is None:
            continue
        if name not in (classes[label], safe_name(classes[label])):
            raise UserError(
                f"{shown(path)}: folder {folder!r} has another number than class {classes[own]!r} of {dataset}, which is {own}: "
                f"is the order of classes another?"
            )
        labels[folder] = label
    return labels


def _why(folders: Sequence[str], classes: Sequence[str], readings: dict[str, dict[str, int]], path: Path, dataset: str) -> str:
    """Say which folders or classes are wrong in the reading that explains most folders."""
    labels = max(readings.values(), key=len)
    unknown = [folder for folder in folders if folder not in labels]
    if unknown:
        known = f"{_some(classes)}, or 0 to {len(classes) - 1}"
        return f"{shown(path)}: no class of {dataset} is meant by folder {_some(unknown)}; its classes are {known}"
    missing = [name for label, name in enumerate(classes) if label not in labels.values()]
    if missing:
        return f"{shown(path)}: no images of {_some(missing)}; every class of {dataset} needs a folder with images"
    twice = next(label for label in labels.values() if list(labels.values()).count(label) > 1)
    same = [folder for folder, label in labels.items() if label == twice]
    return f"{shown(path)}: {_some(same)} mean the same class of {dataset}, {classes[twice]!r}; leave one of them"


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(repr(name) for name in names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
