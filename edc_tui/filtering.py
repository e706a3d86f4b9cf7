"""The filter of the home screen: words, and terms such as `acc>60 method=edc ipc=10 status=done -broken`."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from engine.commands.report import age
from engine.commands.runs import best_condensed
from engine.errors import UserError
from engine.runs.events import number
from engine.runs.store import Listing

NUMBERS = ("acc", "ipc", "seed", "age")
TEXTS = ("project", "run", "status", "method", "dataset", "stage", "device")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "=": operator.eq,
    "!=": operator.ne,
}
_TERM = re.compile(r"(-?)([a-z0-9-]+)(>=|<=|!=|=|:|>|<)(.*)", re.IGNORECASE)
_UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 3600.0}


@dataclass(frozen=True)
class Filter:
    """What the user asked for: `keeps` says whether a run fits, `words` must be in a project's name for it to be kept without runs."""

    text: str
    tests: tuple[Callable[[Listing], bool], ...]
    words: tuple[tuple[str, bool], ...]
    only_runs: bool

    def keeps(self, listing: Listing) -> bool:
        """Say whether a run fits every word and term."""
        return all(test(listing) for test in self.tests)

    def keeps_project(self, name: str) -> bool:
        """Say whether a project without runs fits: terms speak of runs, so that it fits words alone."""
        return not self.only_runs and all((word in name.lower()) is wanted for word, wanted in self.words)


def parse_filter(text: str) -> Filter:
    """Read a filter; raises UserError in one line about the first term that makes no sense."""
    tests: list[Callable[[Listing], bool]] = []
    words: list[tuple[str, bool]] = []
    only_runs = False
    for item in text.lower().split():
        term = _TERM.fullmatch(item)
        if term is None:
            wanted, word = not item.startswith("-"), item.removeprefix("-")
            if word:
                words.append((word, wanted))
                tests.append(_word_test(word, wanted))
            continue
        only_runs = True
        test = _term_test(term[2], "=" if term[3] == ":" else term[3], term[4])
        tests.append((lambda listing, test=test: not test(listing)) if term[1] else test)
    return Filter(text, tuple(tests), tuple(words), only_runs)


def _word_test(word: str, wanted: bool) -> Callable[[Listing], bool]:
    def test(listing: Listing) -> bool:
        run, status, summary = listing.run, listing.status, listing.summary
        parts = (run.project, run.id, status.word, status.stage, summary.get("method"), summary.get("dataset"))
        return any(word in str(part).lower() for part in parts if part) is wanted

    return test


def _term_test(name: str, sign: str, value: str) -> Callable[[Listing], bool]:
    name = {"top1": "acc", "top-1": "acc", "accuracy": "acc"}.get(name, name)
    if name in NUMBERS:
        wanted = _age_seconds(value) if name == "age" else _number(name, value)
        compare = _OPERATORS[sign]

        def test(listing: Listing) -> bool:
            found = _numeric(listing, name)
            return found is not None and compare(found, wanted)

        return test
    if name not in TEXTS:
        raise UserError(f"{name}: not known; there are {', '.join((*NUMBERS, *TEXTS))}")
    if sign not in ("=", "!="):
        raise UserError(f"{name} is a text: use {name}={value or '…'} or {name}!={value or '…'}")
    if not value:
        raise UserError(f"{name}{sign} needs a value")
    choices = value.split(",")
    return lambda listing: any(choice in _textual(listing, name) for choice in choices if choice) is (sign == "=")


def _numeric(listing: Listing, name: str) -> float | None:
    """Return a run's number: best top-1 of the condensed set (percent), images per class, seed, or age (seconds)."""
    if name == "acc":
        best = best_condensed(listing.summary)
        return None if best is None else number(best["mean"])
    if name == "age":
        return age(listing.run)
    return number(listing.summary.get(name))


def _textual(listing: Listing, name: str) -> str:
    own = {"project": listing.run.project, "run": listing.run.id, "status": listing.status.word, "stage": listing.status.stage}
    return str(own.get(name) or listing.summary.get(name) or "").lower()


def _number(name: str, text: str) -> float:
    try:
        return float(text.rstrip("%"))
    except ValueError:
        raise UserError(f"{name} is a number: {text!r} is none") from None


def _age_seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9.]+)(s|min|m|h|d|)", text)
    try:
        return float(match[1]) * _UNITS[match[2]]  # type: ignore[index]
    except (TypeError, ValueError):
        raise UserError(f"age is a time such as 30min, 6h or 2d: {text!r} is none") from None
