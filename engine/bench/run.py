"""Measures everything that was asked for, one thing after the other, into one object of plain numbers."""

import platform
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.bench import warm_start
from engine.bench.cases import OBSERVERS, QUICK, QUICK_BATCH, SYNTHESIS_BATCH, WARM_START_SECONDS, Case, Choice, cases, memory_cases
from engine.bench.choices import device_peak, formats, operations
from engine.bench.memory import peaks
from engine.bench.timing import WARM_UP, between, interleaved
from engine.bench.workloads import workload
from engine.compute.precision import prepare_torch

WARM_STARTS = 3

Say = Callable[[str, float], None]  # what is being measured, and which part of it is done (0 to 1)


def measure(asked: Choice, *, device: str, threads: int, rounds: int, say: Say, found: dict[str, Any]) -> None:
    """Fill `found` with what was measured, part after part, so that an interruption leaves what there is.

    Its keys: facts of the machine; `cases` (ratios with their limits), `memory`, `precision` and `warm_start` as far as asked for.
    Times are in seconds, memory in bytes.
    """
    prepare_torch(device, threads)
    found |= {
        "schema": 1,
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device != "cpu" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": rounds,
        "quick": asked.quick,
    }
    found["cases"] = []
    for case in cases(asked):
        found["cases"].append(_ratio(case, device, rounds, say))
    if "memory" in asked.parts:
        found["memory"] = []
        for case in memory_cases(asked):
            found["memory"].append(_memory(case, device, threads, say))
    if "precision" in asked.parts:
        found["precision"] = []
        models = asked.models or ((QUICK,) if asked.quick else OBSERVERS)
        for model in models:
            done = iter(range(1, WARM_UP + rounds + 1))
            name = f"precision and memory format of {model}"
            say(name, 0)
            batch = QUICK_BATCH if asked.quick else SYNTHESIS_BATCH
            on_round = _teller(say, name, done, WARM_UP + rounds)
            found["precision"].append(formats(model, batch, device, rounds=rounds, on_round=on_round))
    if "warm-start" in asked.parts:
        found["warm_start"] = _warm_start(say)


def _ratio(case: Case, device: str, rounds: int, say: Say) -> dict[str, Any]:
    """Time one case."""
    say(case.name, 0)
    with tempfile.TemporaryDirectory(prefix="edc-bench-") as folder:
        work = workload(case, device, Path(folder))
        on_round = _teller(say, case.name, iter(range(1, WARM_UP + rounds + 1)), WARM_UP + rounds)
        if work.stage is not None:
            timing = between(work.bare, work.stage, rounds=rounds, device=device, on_round=on_round)
        else:
            timing = interleaved(work.bare, work.real, rounds=rounds, device=device, on_round=on_round)
        peak = device_peak(device, case.precision)
        counted = operations(work.bare) if device != "cpu" else None
    shares = {} if counted is None else {"operations": counted, "operations_per_second": counted / timing.real}
    if peak is not None and counted is not None:
        shares["share_of_peak"] = counted / timing.real / peak
    return (
        _facts(case)
        | timing.as_json()
        | {"images": work.images, "images_per_second": work.images / timing.real, "met": timing.ratio <= case.limit}
        | shares
    )


def _memory(case: Case, device: str, threads: int, say: Say) -> dict[str, Any]:
    """Hold the memory of one synthesis against that of the bare pass."""
    say(f"memory of {case.name}", 0)
    taken = peaks(case, device, threads)
    ratio = taken["real"] / max(1, taken["bare"])
    return _facts(case) | {"bare_bytes": taken["bare"], "real_bytes": taken["real"], "ratio": ratio, "met": ratio <= case.limit}


def _warm_start(say: Say) -> dict[str, Any]:
    """Time some warm starts; the first fills the file cache and does not count."""
    say("warm start: a run to start from", 0)
    with warm_start.finished_stages() as folder:
        taken = []
        for number in range(WARM_STARTS + 1):
            say("warm start", number / (WARM_STARTS + 1))
            taken.append(warm_start.first_update(folder, number))
    median = statistics.median(taken[1:])
    return {"seconds": taken[1:], "median": median, "limit": WARM_START_SECONDS, "met": median <= WARM_START_SECONDS}


def _facts(case: Case) -> dict[str, Any]:
    facts = {"stage": case.stage, "variant": case.variant, "network": case.network, "models": list(case.models)}
    return facts | {"precision": case.precision, "batch": case.batch, "limit": case.limit}


def _teller(say: Say, name: str, numbers: Any, total: int) -> Callable[[], None]:
    return lambda: say(name, next(numbers) / total)


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
