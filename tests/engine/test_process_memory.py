"""Freed memory is kept while a stage works, and does not count for the next one."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from engine.compute.precision import peak_memory_bytes, prepare_torch, reset_peak_memory
prepare_torch("cpu", 1)
reset_peak_memory("cpu")
base = peak_memory_bytes("cpu")
large = torch.ones(1 << 26)  # 256 MiB
one = peak_memory_bytes("cpu") - base
del large
reset_peak_memory("cpu")
between = peak_memory_bytes("cpu") - base
small = torch.ones(1 << 24)
print(one >> 20, between >> 20, (peak_memory_bytes("cpu") - base) >> 20)
import resource
del small
for _ in range(2):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)  # 64 MiB are 16,384 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system has no mark of the largest memory to reset")
def test_a_stages_peak_is_its_own_and_freed_memory_is_used_again():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    peaks, faults = done.stdout.splitlines()
    first, between, second = map(int, peaks.split())
    assert first == pytest.approx(256, abs=8) and between == pytest.approx(0, abs=8) and second == pytest.approx(64, abs=8)
    assert int(faults) < 40_000, "blocks given back after each use would be faulted in ten times, 163,840 pages"
