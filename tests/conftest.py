"""Shared by all tests: one thread for torch, since many small operations on a busy machine are slower with more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
