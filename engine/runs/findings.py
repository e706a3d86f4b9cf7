"""What a verification says: a finding with its verdict, and lists of names in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["fine", "look", "wrong"]
FINE, LOOK, WRONG = "fine", "look", "wrong"

SHOWN = 8  # names in a line


@dataclass(frozen=True)
class Finding:
    """What one check found: its verdict, what was measured, and why it matters, each in plain words."""

    check: str
    verdict: Verdict
    measured: str
    why: str


def listed(words: Sequence[str], between: str = ", ") -> str:
    """Return words as a list on one line, the first few of many."""
    more = f"{between}and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return between.join(words[:SHOWN]) + more
