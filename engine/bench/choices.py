"""Whether `auto` precision and channels_last are what is fastest here: the bare pass in every precision and memory format."""

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.bench.cases import CLASSES, SIDE
from engine.bench.timing import WARM_UP, Call, seconds
from engine.bench.workloads import bare_backward
from engine.compute.device import resolve_precision
from engine.compute.precision import frozen
from engine.models.registry import create_model

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
USED = "channels_last"
ALMOST = 1.05  # slower by less than this is as good

# Operations a second in units of 1e12, dense: 32-bit floats, the same on tensor cores (TF32), 16-bit floats with 32-bit sums. Of the
# makers' data sheets; the first name that is part of a device's counts.
PEAKS = {
    "H200": (67.0, 494.7, 989.4),
    "H100 PCIe": (51.2, 378.0, 756.0),
    "H100": (67.0, 494.7, 989.4),
    "A100": (19.5, 156.0, 312.0),
    "L40S": (91.6, 183.0, 362.0),
    "L4": (30.3, 60.0, 121.0),
    "A10": (31.2, 62.5, 125.0),
    "V100": (15.7, 15.7, 125.0),
    "T4": (8.1, 8.1, 65.0),
    "RTX 4090": (82.6, 82.6, 165.2),
    "RTX 3090": (35.6, 35.6, 71.0),
}


def formats(model: str, batch: int, device: str, *, rounds: int, on_round: Callable[[], None]) -> dict[str, Any]:
    """Time forward and backward to the pixels of a network in each precision and memory format, in turn.

    Returns seconds by `precision format`, what `auto` takes, the fastest, and whether the first is as good as the second.
    """
    calls = {}
    for precision, form in itertools.product(precisions_of(device), FORMATS):
        network = frozen(create_model(model, CLASSES, SIDE)).to(device=device, memory_format=FORMATS[form])
        images = torch.randn(batch, 3, SIDE, SIDE, device=device).contiguous(memory_format=FORMATS[form])
        labels = torch.arange(batch, device=device) % CLASSES
        calls[f"{precision} {form}"] = bare_backward(network, images, labels, device, precision)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(WARM_UP + rounds):
        for name, call in calls.items():
            taken[name].append(seconds(call, device))
        on_round()
    medians = {name: statistics.median(found[WARM_UP:]) for name, found in taken.items()}
    auto, best = f"{resolve_precision('auto', device)} {USED}", min(medians, key=lambda name: medians[name])
    right = medians[auto] <= ALMOST * medians[best]
    return {"model": model, "batch": batch, "seconds": medians, "auto": auto, "fastest": best, "right": right}


def precisions_of(device: str) -> tuple[str, ...]:
    """Return the precisions that a device computes in."""
    return ("float32", "bfloat16", "float16") if torch.device(device).type == "cuda" else ("float32", "bfloat16")


def operations(call: Call) -> int:
    """Return the floating-point operations of a call, a product and a sum counted as two; elementwise ones do not count."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def device_peak(device: str, precision: str) -> float | None:
    """Return the most operations a second that a device is sold with in a precision; None for one that is not in the table."""
    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = next((peaks for part, peaks in PEAKS.items() if part in name), None)
    if found is None:
        return None
    plain, tensor_cores, half = found
    return 1e12 * (half if precision != "float32" else tensor_cores if torch.backends.cudnn.allow_tf32 else plain)
