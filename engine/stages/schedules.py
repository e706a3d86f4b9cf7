"""Learning rates as arrays: one factor of the peak rate for each epoch or step, readable without training."""

import math


def cosine(epochs: int, zeta: float = 1.0) -> list[float]:
    """Return `(1 + cos(pi i / (zeta N))) / 2` for i = 0 … N-1: the smoothing schedule of EDC 3.4; zeta 1 is the plain cosine."""
    return [0.5 * (1 + math.cos(math.pi * epoch / (zeta * epochs))) for epoch in range(epochs)]


def ssrs(epochs: int, zeta: float = 2.0) -> list[float]:
    """Return EDC's early smoothing, later steep reduction: cosine up to 5/6 of the epochs, then linear to zero.

    The second part starts at a sixth of where the first one ends: `(1 + cos(5 pi / (6 zeta))) / 2 * (6N - 6i) / (6N)` (EDC appendix).
    """
    turn = 0.5 * (1 + math.cos(5 * math.pi / (6 * zeta)))
    smooth = cosine(epochs, zeta)
    return [smooth[epoch] if 6 * epoch <= 5 * epochs else turn * (6 * epochs - 6 * epoch) / (6 * epochs) for epoch in range(epochs)]


def linear(epochs: int) -> list[float]:
    """Return `1 - i / N`."""
    return [1 - epoch / epochs for epoch in range(epochs)]


def linear_zeta(epochs: int, zeta: float = 2.0) -> list[float]:
    """Return `1 - i / (zeta N)`: what the reference release trains ImageNet-1k with where it says cosine (defect D7)."""
    return [1 - epoch / (zeta * epochs) for epoch in range(epochs)]


def multistep(epochs: int, milestones: list[float], gamma: float) -> list[float]:
    """Return `gamma` to the number of milestones (as parts of the epochs) that an epoch has reached (EDC Table 10)."""
    return [gamma ** sum(epoch >= round(milestone * epochs) for milestone in milestones) for epoch in range(epochs)]


def one_cycle(steps: int, warm_up: float = 0.25) -> list[float]:
    """Return a linear rise to 1 over the first quarter of the steps and a linear fall to zero after it."""
    rise = max(1, round(warm_up * steps))
    return [min((step + 1) / rise, (steps - step) / max(1, steps - rise)) for step in range(steps)]


def warm_up(epochs: int, start: float = 0.01) -> list[float]:
    """Return a linear rise from `start` that would reach 1 in the epoch after the last: torch's LinearLR, as SRe2L uses it."""
    return [start + (1 - start) * epoch / epochs for epoch in range(epochs)]


def alrs_factor(previous: float | None, current: float, *, gamma: float) -> float:
    """Return what ALRS multiplies the rate by after an epoch: `gamma` where the loss has stalled, else 1.

    Stalled means that it changed by at most 0.02, and by at most 2 % of its former value (EDC appendix).
    """
    if previous is None:
        return 1.0
    change = abs(current - previous)
    return gamma if change <= 0.02 and change <= 0.02 * abs(previous) else 1.0


def of_project(name: str, epochs: int, *, zeta: float, milestones: list[float], gamma: float) -> list[float]:
    """Return the factors of the schedule called `name`; `alrs` starts constant, since it depends on the losses."""
    return {
        "cosine": lambda: cosine(epochs, zeta),
        "ssrs": lambda: ssrs(epochs, zeta),
        "linear": lambda: linear(epochs),
        "linear_zeta": lambda: linear_zeta(epochs, zeta),
        "multistep": lambda: multistep(epochs, milestones, gamma),
        "alrs": lambda: [1.0] * epochs,
        "constant": lambda: [1.0] * epochs,
    }[name]()
