"""Curves of a run: metric logs read piece by piece into series that stay small however long the run is."""

import contextlib
import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

from engine.runs.events import Metrics, Tail, read_metrics

CAPACITY = 4096  # buckets of a series; four to a pixel of a chart that is 500 columns wide
RECENT_BYTES = 256 * 1024
CHUNK_BYTES = 1 << 20
TOGETHER_SECONDS = 0.05  # lines stamped within so many seconds were told in one go
LONGEST_SPREAD = 5.0  # seconds before such a group that its steps may have taken


class Series:
    """The points of one metric in order, in at most CAPACITY buckets of equally many points.

    Every bucket keeps its first and last step, the time of its last point (seconds at work), lowest, highest and summed finite
    value, and how many points were finite or not. A point at a step that was passed already supersedes what came from there on.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.width = 1  # points to a bucket
        self.version = 0
        self.first, self.last = array("q"), array("q")
        self.time = array("d")
        self.low, self.high, self.sum = array("d"), array("d"), array("d")
        self.finite, self.bad = array("q"), array("q")
        self.latest: float | None = None

    def __len__(self) -> int:
        return len(self.last)

    @property
    def points(self) -> int:
        """Return how many points there are in all."""
        return sum(self.finite) + sum(self.bad)

    @property
    def diverged(self) -> int | None:
        """Return the step near which the first value stands that is not finite, None where all are."""
        return next((self.first[index] for index, count in enumerate(self.bad) if count), None)

    def append(self, step: int, time: float, value: float) -> None:
        """Add a point; `time` is in seconds at work."""
        self.extend([step], [time], [value])

    def extend(self, steps: Sequence[int], times: Sequence[float], values: Sequence[float]) -> None:
        """Add points in order."""
        if not steps:
            return
        self.version += len(steps)
        self.latest = values[-1]
        isfinite, last_step = math.isfinite, self.last[-1] if self.last else -math.inf
        for step, time, value in zip(steps, times, values, strict=True):
            if step <= last_step:
                self._rewind(step)
            last_step = step
            if not self.last or self.finite[-1] + self.bad[-1] >= self.width:
                self._open(step)
            self.last[-1], self.time[-1] = step, time
            if isfinite(value):
                if value < self.low[-1]:
                    self.low[-1] = value
                if value > self.high[-1]:
                    self.high[-1] = value
                self.sum[-1] += value
                self.finite[-1] += 1
            else:
                self.bad[-1] += 1

    def _open(self, step: int) -> None:
        """Begin an empty bucket."""
        if len(self.last) >= self.capacity:
            self._halve()
        for column, value in zip(self._columns(), (step, step, 0.0, math.inf, -math.inf, 0.0, 0, 0), strict=True):
            column.append(value)

    def mean(self, index: int) -> float:
        """Return the mean of a bucket's finite values; NaN where it has none."""
        return self.sum[index] / self.finite[index] if self.finite[index] else math.nan

    def nearest(self, x: float, by_time: bool = False) -> int | None:
        """Return the bucket that stands nearest to a step, or to a time; None for an empty series."""
        places = self.time if by_time else self.last
        if not places:
            return None
        after = bisect_left(places, x)
        near = [index for index in (after - 1, after) if 0 <= index < len(places)]
        if not by_time and after < len(places) and self.first[after] <= x:
            return after
        return min(near, key=lambda index: abs(places[index] - x))

    def _columns(self) -> tuple[array, ...]:
        return self.first, self.last, self.time, self.low, self.high, self.sum, self.finite, self.bad

    def _rewind(self, step: int) -> None:
        """Forget what stands at or after `step`; a bucket across it keeps its range, for a resumed run does the same again."""
        while self.last and self.first[-1] >= step:
            for column in self._columns():
                column.pop()
        if self.last and self.last[-1] >= step:
            self.last[-1] = step - 1

    def _halve(self) -> None:
        """Join neighbouring buckets two by two."""
        self.width *= 2
        pairs = range(0, len(self.last) - 1, 2)
        odd = len(self.last) % 2
        self.first = array("q", [*self.first[::2]])
        self.last = array("q", [*self.last[1::2], *(self.last[-1:] if odd else ())])
        self.time = array("d", [*self.time[1::2], *(self.time[-1:] if odd else ())])
        for name, join in (("low", min), ("high", max), ("sum", float.__add__)):
            values = getattr(self, name)
            setattr(self, name, array("d", [join(values[at], values[at + 1]) for at in pairs] + [*(values[-1:] if odd else ())]))
        for name in ("finite", "bad"):
            values = getattr(self, name)
            setattr(self, name, array("q", [values[at] + values[at + 1] for at in pairs] + [*(values[-1:] if odd else ())]))


class WorkClock:
    """Turns the times of a log's lines into seconds at work: the time between two attempts at the run does not count."""

    def __init__(self, attempts: Sequence[float] = ()) -> None:
        """`attempts` are the unix seconds at which the run was started or resumed, in order; more may be given later."""
        self.attempts = list(attempts)
        self._begun: float | None = None
        self._previous = 0.0
        self._paused = 0.0
        self._passed = 0  # attempts that have been taken into account

    def seconds(self, moment: float) -> float:
        """Return the seconds at work at a moment; moments must come in order."""
        if self._begun is None:
            begun = max((start for start in self.attempts if start <= moment), default=moment)
            self._begun, self._previous = (begun if moment - begun < LONGEST_SPREAD else moment), moment
        while self._passed < len(self.attempts) and self.attempts[self._passed] <= moment:
            start = self.attempts[self._passed]
            self._passed += 1
            if start > self._previous:
                self._paused += start - self._previous
                self._previous = start
        self._previous = max(moment, self._previous)
        return max(self._previous - self._begun - self._paused, 0.0)


class CurveFile:
    """The series of one step's metrics.jsonl, read as far as it has grown.

    Of a long log the last part is read first and shown (`part` says how much of it all has been read) until the whole is there.
    """

    def __init__(self, path: Path, attempts: Sequence[float] = (), guard: AbstractContextManager | None = None) -> None:
        """`attempts`: see WorkClock; `guard` is held while series change, for those who draw them in another thread."""
        self.path = path
        self.part = 1.0
        self.series: dict[str, Series] = {}
        self.attempts = list(attempts)
        self._guard = guard or contextlib.nullcontext()
        self._recent: _Reader | None = None
        self._whole = _Reader(path, self.attempts, self._guard)
        self._opened = False

    @property
    def bad_lines(self) -> int:
        """Return how many lines were no JSON object."""
        return self._whole.tail.bad_lines

    def read(self) -> bool:
        """Read what is new, at most about a megabyte, and say whether there is more to read at once."""
        size = self._size()
        if not self._opened and size:
            self._opened = True
            if size > RECENT_BYTES + CHUNK_BYTES:
                self._recent = _Reader(self.path, self.attempts, self._guard, RECENT_BYTES)
                self._recent.read()
                self.series, self.part = self._recent.series, 0.0
                return True
        self._whole.read()
        if self._recent is not None:
            self._recent.read()
            self.part = min(self._whole.tail.offset / size, 1.0) if size else 1.0
            if self._whole.tail.offset < self._recent.tail.offset and self._whole.advanced:
                return True
            self._recent, self.part = None, 1.0
        self.series = self._whole.series
        return self._whole.advanced and size - self._whole.tail.offset > RECENT_BYTES

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


class _Reader:
    """One pass over a metrics log, from its beginning or from near its end."""

    def __init__(self, path: Path, attempts: list[float], guard: AbstractContextManager, last_bytes: int | None = None) -> None:
        self.tail = Tail(path, last_bytes=last_bytes)
        self.series: dict[str, Series] = {}
        self.advanced = False
        self._attempts, self._guard = attempts, guard
        self._clock = WorkClock(attempts)
        self._restarts = 0
        self._before = -math.inf

    def read(self) -> None:
        """Read one chunk and append its points."""
        offset = self.tail.offset
        rows = read_metrics(self.tail.read(CHUNK_BYTES))
        self.advanced = self.tail.offset > offset
        with self._guard:
            if self.tail.restarts != self._restarts:
                self._restarts = self.tail.restarts
                self.series.clear()
                self._clock, self._before = WorkClock(self._attempts), -math.inf
            self._clock.attempts = self._attempts
            self._append(rows)

    def _append(self, rows: list[Metrics]) -> None:
        columns: dict[str, tuple[list[int], list[float], list[float]]] = {}
        for row, moment in zip(rows, spread_times(rows, self._before), strict=True):
            time = self._clock.seconds(moment)
            for name, value in row.values.items():
                column = columns.get(name)
                if column is None:
                    column = columns[name] = ([], [], [])
                column[0].append(row.step)
                column[1].append(time)
                column[2].append(value)
        for name, column in columns.items():
            self.series.setdefault(name, Series()).extend(*column)
        if rows:
            self._before = rows[-1].t


def spread_times(rows: Sequence[Metrics], before: float = -math.inf) -> Iterator[float]:
    """Yield a time for each row: rows told in one go are spread evenly over the time since the row before them.

    A stage asks its device for values about once a second and so stamps many steps alike; `before` is the time of the row before.
    """
    start = 0
    ends = [index + 1 for index, (one, other) in enumerate(pairwise(rows)) if abs(other.t - one.t) > TOGETHER_SECONDS]
    for end in [*ends, len(rows)] if rows else []:
        group = rows[start:end]
        last = group[-1].t
        took = last - before if 0.0 < last - before <= LONGEST_SPREAD else 0.0
        for place, row in enumerate(group):
            yield last - took * (len(group) - 1 - place) / len(group) if took else row.t
        before, start = last, end
