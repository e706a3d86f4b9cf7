"""The memory of a synthesis beside that of the bare pass, each in a process of its own.

As a program (`python -m engine.bench.memory CASE WHICH DEVICE THREADS`) it measures one of the two and prints the bytes.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from engine.bench.cases import Case
from engine.errors import RunError
from engine.runs.text import printable

CALLS = 3
WAYS = ("bare", "real")


def peaks(case: Case, device: str, threads: int) -> dict[str, int]:
    """Return by how many bytes the bare pass and the stage's own iteration raise the memory in use, once their tensors are in place.

    On a CPU that is memory of the process, on CUDA of the device's allocator. Raises RunError when a process fails.
    """
    return {which: _in_child(case, which, device, threads) for which in WAYS}


def _in_child(case: Case, which: str, device: str, threads: int) -> int:
    command = [sys.executable, "-P", "-m", "engine.bench.memory", json.dumps(asdict(case)), which, device, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return int(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        why = printable((done.stderr.splitlines() or [f"it ended with status {done.returncode}"])[-1], 200)
        raise RunError(f"memory of {case.name}: {why}") from None


def main() -> None:
    """Measure one case one way and print the bytes."""
    from engine.bench.timing import Enough, run_until_enough
    from engine.bench.workloads import workload
    from engine.compute.precision import peak_memory_bytes, prepare_torch, reset_peak_memory

    facts, which, device, threads = json.loads(sys.argv[1]), *sys.argv[2:5]
    prepare_torch(device, int(threads))
    before: list[int] = []
    iterations = 0

    def turn(done: int, total: int, unit: str) -> None:
        """After the first iteration all tensors are in place; what is held beyond them counts."""
        nonlocal iterations
        if not before:
            reset_peak_memory(device)
            before.append(peak_memory_bytes(device))
        if which == "bare":
            for _ in range(CALLS):
                work.bare()
        iterations += 1
        if which == "bare" or iterations > CALLS:
            raise Enough

    with tempfile.TemporaryDirectory(prefix="edc-bench-") as folder:
        work = workload(Case(**facts | {"models": tuple(facts["models"])}), device, Path(folder))
        if work.stage is None:
            raise RunError("only the memory of a whole stage can be measured")
        run_until_enough(work.stage, turn)
        print(peak_memory_bytes(device) - before[0])


if __name__ == "__main__":
    main()
