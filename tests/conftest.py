"""Shared by all tests: one thread for torch, since many small operations on a busy machine are slower with more, and a queue of our own."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["EDC_STATE"] = tempfile.mkdtemp(prefix="edc-tests-")  # lest tests wait for real runs, or real runs for them
os.environ.pop("EDC_CPU_RUNS", None)
atexit.register(shutil.rmtree, os.environ["EDC_STATE"], ignore_errors=True)
