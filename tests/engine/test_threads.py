"""How many threads a run takes on a machine that it shares."""

import os
import subprocess
import sys

import pytest

CODE = """\
import os, torch
from engine.compute.precision import prepare_torch
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
prepare_torch("cpu")
print(torch.get_num_threads())
prepare_torch("cpu", 3)
print(torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to processors here")
def test_no_more_than_the_processors_it_may_use_unless_it_is_told_to():
    told = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout.split()
    assert told == ["1", "3"]
