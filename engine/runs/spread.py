"""Mean and deviation over seeds, computed in one place and in the digits that are written, so that all who say them say the same."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DIGITS = 6  # behind the point, of every value, mean and deviation


@dataclass(frozen=True)
class Spread:
    """Mean and deviation (ddof 1; None for a single value) of `n` values."""

    mean: float
    std: float | None
    n: int

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"mean": round(self.mean, DIGITS), "std": None if self.std is None else round(self.std, DIGITS), "n": self.n}


def spread(values: Sequence[float]) -> Spread:
    """Return mean and deviation (ddof 1) of at least one value, of the values as `written` gives them."""
    values = written(values)
    deviation = round(statistics.stdev(values), DIGITS) if len(values) > 1 else None
    return Spread(round(statistics.fmean(values), DIGITS), deviation, len(values))


def written(values: Sequence[float]) -> list[float]:
    """Return values as they are written to files."""
    return [round(value, DIGITS) for value in values]
