"""Two ways of doing one thing, timed in turn."""

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from engine.errors import RunError
from engine.stages.report import Report

WARM_UP = 2  # rounds that are not counted
SHORTEST = 0.02  # seconds; a faster call is repeated within a round, lest the clock and the launch be what is timed

Call = Callable[[], object]
Stage = Callable[[Report], object]


class Enough(Exception):
    """Raised in a stage's report when as much was measured as was asked for."""



@dataclass(frozen=True)
class Timing:
    """Seconds of the bare and of the real call (medians), and the median and quartiles of their ratio round by round."""

    bare: float
    real: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int

    def as_json(self) -> dict[str, float | int]:
        """Return all numbers."""
        return asdict(self)


def interleaved(bare: Call, real: Call, *, rounds: int, device: str, on_round: Callable[[], None] = lambda: None) -> Timing:
    """Time both calls in turn for `rounds` rounds, after two that warm up; which comes first changes from round to round.

    A round's ratio is of two calls next to each other, so that a machine that slows down for a while does not move it.
    """
    for _ in range(WARM_UP):
        once = (seconds(bare, device), seconds(real, device))
        on_round()
    times = max(1, round(SHORTEST / min(once)))
    pairs = []
    for number in range(rounds):
        first, second = (bare, real) if number % 2 == 0 else (real, bare)
        taken = (seconds(first, device, times), seconds(second, device, times))
        pairs.append(taken if number % 2 == 0 else taken[::-1])
        on_round()
    return _timing(pairs)


def between(bare: Call, stage: Stage, *, rounds: int, device: str, on_round: Callable[[], None] = lambda: None) -> Timing:
    """Time the iterations of a stage with the bare call after each of them; after enough rounds the stage is ended.

    Raises RunError when the stage ends by itself before.
    """
    pairs: list[tuple[float, float]] = []
    begun: list[float] = []

    def turn(done: int, total: int, unit: str) -> None:
        _finish(device)
        now = time.perf_counter()
        if begun:  # the first iteration has the stage's beginning in it
            pairs.append((seconds(bare, device), now - begun[0]))
            on_round()
        if len(pairs) == WARM_UP + rounds:
            raise Enough
        begun[:] = [time.perf_counter()]

    run_until_enough(stage, turn)
    if len(pairs) < WARM_UP + rounds:
        raise RunError(f"only {len(pairs)} iterations could be timed; use fewer --repeats")
    return _timing(pairs[WARM_UP:])


def run_until_enough(stage: Stage, on_iteration: Callable[[int, int, str], None]) -> None:
    """Run a stage whose report calls `on_iteration`, until that raises Enough or the stage ends."""
    with contextlib.suppress(Enough):
        stage(Report(on_progress=on_iteration))


def _timing(pairs: list[tuple[float, float]]) -> Timing:
    """Return what (bare, real) seconds of some rounds come to."""
    rounds = len(pairs)
    ratios = [one[1] / one[0] for one in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if rounds > 1 else ratios * 3
    return Timing(statistics.median(one[0] for one in pairs), statistics.median(one[1] for one in pairs), middle, low, high, rounds)


def seconds(call: Call, device: str, times: int = 1) -> float:
    """Return the seconds of one call, of which `times` are made; on CUDA until the device has done all of it."""
    _finish(device)
    begun = time.perf_counter()
    for _ in range(times):
        call()
    _finish(device)
    return (time.perf_counter() - begun) / times


def _finish(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
