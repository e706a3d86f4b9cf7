"""What the rows of a summary's results are called, and which of them is a set's headline.

A set is measured under one or two protocols, with its own and with hard labels, with and without augmentation. These are different
tasks, so their numbers never share a row or a column; summaries of older versions know one of them alone.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.project.protocols import HARD, PUBLISHED, SETS

PLAIN = "no augmentation"
STEP = re.compile(rf"({'|'.join(SETS)})-(.+)-seed(\d+)(-.+)?")  # a training: set, student, seed, what tells its evaluation or search
HARD_BY_NATURE = ("full", "equal-bytes")  # sets whose usual labels are the real ones


def evaluation_of(row: Mapping[str, Any]) -> tuple[str, str, bool]:
    """Return protocol, label regime (empty in older summaries) and whether views were augmented."""
    return str(row.get("protocol", PUBLISHED)), str(row.get("labels", "")), row.get("augmentation", True) is not False


def evaluation_words(row: Mapping[str, Any]) -> str:
    """Say under which evaluation a row was measured: `online labels`, `hard labels, common protocol`, …; empty for older summaries."""
    protocol, labels, augmented = evaluation_of(row)
    words = [f"{labels} labels" if labels else "", f"{protocol} protocol" if protocol != PUBLISHED else "", "" if augmented else PLAIN]
    return ", ".join(filter(None, words))


def result_name(row: Mapping[str, Any], *, regime: bool = False) -> str:
    """Return a row's set with what tells it from the method's own evaluation: `condensed`, `condensed, hard labels`, …

    With `regime` the labels are named in any case, as is right where runs with different ones stand side by side.
    """
    (protocol, labels, augmented), set_name = evaluation_of(row), str(row.get("set"))
    by_nature = set_name in HARD_BY_NATURE
    named = labels and (regime or (labels != HARD if by_nature else labels == HARD)) and not (by_nature and labels == HARD)
    words = [f"{labels} labels" if named else "", f"{protocol} protocol" if protocol != PUBLISHED else "", "" if augmented else PLAIN]
    return ", ".join([set_name, *filter(None, words)])


def base_set(name: str) -> str:
    """Return the set that a result's name begins with."""
    return name.partition(",")[0]


def set_place(name: str) -> tuple[int, int, str]:
    """Return where a result's name stands among others: the method's own evaluation first, then set by set."""
    base = base_set(name)
    return int(name != base), SETS.index(base) if base in SETS else len(SETS), name


def headline(results: object, set_name: str, student: str | None = None) -> Mapping[str, Any] | None:
    """Return the row of a set's own evaluation (with hard labels only where it has no other), of any student or of one."""
    rows = [row for row in results if isinstance(row, dict)] if isinstance(results, list) else []
    found = [row for row in rows if row.get("set") == set_name and student in (None, row.get("student"))]
    return min(found, key=evaluation_place, default=None)


def headlines(results: object, set_name: str) -> list[Mapping[str, Any]]:
    """Return a set's headline for every student, in the order of the rows."""
    rows = [row for row in results if isinstance(row, dict)] if isinstance(results, list) else []
    students = dict.fromkeys(str(row.get("student")) for row in rows if row.get("set") == set_name)
    found = (headline(rows, set_name, student) for student in students)
    return [row for row in found if row is not None]


def evaluation_place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return where a row's evaluation stands among others: the method's own first, then hard labels, no augmentation, other protocols."""
    protocol, labels, augmented = evaluation_of(row)
    return protocol != PUBLISHED, not augmented, labels == HARD, labels


def alike(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether two rows are of one student under one evaluation, whatever their sets."""
    return (row.get("student"), *evaluation_of(row)) == (other.get("student"), *evaluation_of(other))


def own_regimes(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the label regimes, other than hard ones, that rows of the condensed set were measured with."""
    found = {evaluation_of(row)[1] for row in rows if row.get("set") == "condensed" and evaluation_of(row)[0] == PUBLISHED}
    return found - {HARD, ""}
