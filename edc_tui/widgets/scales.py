"""Axes of a chart: bounds that change seldom and in 1-2-5 steps, the places of values on them, and the ticks."""

import math
from dataclasses import dataclass

MANTISSAS = (1.0, 2.0, 5.0, 10.0)
X_MANTISSAS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0)
HEADROOM = 0.1  # part of the range left free when an axis is chosen anew
SLACK = 0.35  # an axis stays as it is while the values fill at least this part of it
FROM_ZERO = 0.6  # an axis begins at zero where the lowest value is below this part of the highest
TIMES = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 4 * 3600, 6 * 3600, 12 * 3600, 86400)  # seconds


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    def part(self, value: float) -> float | None:
        """Return where a value stands, 0 at `low` and 1 at `high`; None where a logarithmic axis has no place for it."""
        if self.log:
            if value <= 0:
                return None
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def pixel(self, value: float, pixels: int) -> int | None:
        """Return the pixel of a value among `pixels`, those outside at the edge; None where it has no place."""
        part = self.part(value)
        return None if part is None else min(max(round(part * (pixels - 1)), 0), pixels - 1)

    def value(self, part: float) -> float:
        """Return the value that stands at a part of the axis."""
        if self.log:
            return self.low * (self.high / self.low) ** part
        return self.low + part * (self.high - self.low)


def round_up(value: float, mantissas: tuple[float, ...] = MANTISSAS) -> float:
    """Return the smallest mantissa times a power of ten that is not below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    for mantissa in mantissas:
        if mantissa * power >= value * (1 - 1e-12):
            return mantissa * power
    return 10.0 * power


def round_down(value: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is not above a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max((mantissa * power for mantissa in MANTISSAS if mantissa * power <= value * (1 + 1e-12)), default=power)


def fit(low: float, high: float, *, log: bool = False, before: Scale | None = None, top: float | None = None) -> Scale:
    """Return an axis for values from `low` to `high`: the one `before` as long as it does, else one in 1-2-5 steps with headroom.

    Both values finite; above zero for a logarithmic axis. `top` is a value that is never exceeded, 100 for percent.
    """
    if before is not None and before.log == log and before.low <= low and high <= before.high:
        filled = (before.part(high) or 0.0) - (before.part(low) or 0.0)
        if filled >= SLACK or (filled == 0.0 and low == high):
            return before
    if log:
        return Scale(round_down(low), max(round_up(high), round_down(low) * 10.0), log=True)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        margin = abs(high) / 2 or 1.0
        low, high = (0.0 if low >= 0 else low - margin), high + margin
    room = (high - low) * HEADROOM
    step = round_up((high - low + room) / 5)
    first, last = math.floor(low / step + 1e-9) * step, math.ceil((high + room) / step - 1e-9) * step
    if low >= 0 and low < FROM_ZERO * high:
        first = 0.0
    if top is not None and high <= top < last:
        last = top
    return Scale(first, last)


def fit_steps(last: float, limit: float | None = None) -> Scale:
    """Return an axis of steps from 0 past `last`, and not past `limit`, the number of steps there will be, unless it was too low."""
    high = round_up(max(last, 1.0), X_MANTISSAS)
    return Scale(0.0, high if limit is None else max(min(high, limit), last, 1.0))


def fit_seconds(last: float, *, ended: bool = False) -> Scale:
    """Return an axis of seconds at work from 0 past `last`; to its very end when nothing more will come."""
    if ended and last > 0:
        return Scale(0.0, last)
    return Scale(0.0, next((time for time in TIMES if time >= last), None) or math.ceil(last / 86400) * 86400.0)


def ticks(scale: Scale, most: int) -> list[float]:
    """Return round values on an axis, at most so many steps apart."""
    most = max(most, 1)
    if scale.log:
        return _log_ticks(scale, most)
    step = round_up((scale.high - scale.low) / most)
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    if last - first > most:
        step = round_up(step * 1.0001)
        first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def time_ticks(scale: Scale, most: int) -> list[float]:
    """Return at most so many round times (seconds) on an axis of seconds."""
    span = scale.high - scale.low
    step = next((time for time in TIMES if span / time < max(most, 1)), None) or math.ceil(span / max(most, 1) / 86400) * 86400
    return [index * float(step) for index in range(math.ceil(scale.low / step), math.floor(scale.high / step + 1e-9) + 1)]


def _log_ticks(scale: Scale, most: int) -> list[float]:
    low, high = math.floor(math.log10(scale.low) + 1e-9), math.ceil(math.log10(scale.high) - 1e-9)
    fine = [mantissa * 10.0**power for power in range(low, high + 1) for mantissa in (1.0, 2.0, 5.0)]
    inside = [value for value in fine if scale.low * (1 - 1e-9) <= value <= scale.high * (1 + 1e-9)]
    if len(inside) <= most:
        return inside
    every = -(-(high - low + 1) // most)
    return [10.0**power for power in range(low, high + 1, every) if scale.low * (1 - 1e-9) <= 10.0**power <= scale.high * (1 + 1e-9)]


def number_text(value: float) -> str:
    """Say a value in at most about 8 characters: `35.48`, `0.00206`, `12,480`, `1.2e-07`, `nan`."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    size = abs(value)
    if size and (size >= 1e7 or size < 1e-4):
        return f"{value:.1e}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def tick_text(value: float) -> str:
    """Say a tick's value shortly: `0.02`, `500`, `20k`, `1.5M`."""
    size = abs(value)
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e3 if name == 'k' else unit):.4g}{name}"
    if size and size < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.4g}"


def time_text(seconds: float) -> str:
    """Say a tick of time shortly: `30 s`, `5 min`, `1 h 30`, `2 d`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    if minutes < 60:
        return f"{minutes:.3g} min"
    if minutes < 48 * 60:
        return f"{minutes // 60:.0f} h" + (f" {minutes % 60:02.0f}" if minutes % 60 else "")
    return f"{minutes / (24 * 60):.3g} d"
