"""How soon a run whose stages are all there but the evaluation trains: from the shell to the student's first update."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import RunError
from engine.runs.text import printable

LOOK_SECONDS = 0.02
LONGEST_SECONDS = 600.0
# The quickstart with as little work before the evaluation as can be: how long that took is not what is measured.
PROJECT = """schema = 1
[dataset]
name = "digits"
[condense]
method = "edc"
ipc = 1
[observers]
synthesis = ["convnet-w32-bn", "resnet18-w16", "wrn-16-1"]
labels = ["convnet-w32-bn", "resnet18-w16", "wrn-16-1"]
[squeeze]
epochs = 1
padding = 2
[synthesise]
iterations = 2
[evaluate]
students = ["convnet-w32"]
seeds = [0]
epochs = 1000
batch_size = 10
controls = []
hard_labels = false
"""


@contextmanager
def finished_stages() -> Iterator[Path]:
    """Yield a projects folder in which the project `warm` has all of its stages but the evaluation."""
    with tempfile.TemporaryDirectory(prefix="edc-bench-") as name:
        folder = Path(name)
        (folder / "warm.toml").write_text(PROJECT)
        done = subprocess.run(_command("--until", "synthesise"), env=_environment(folder), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"warm start: its run ended with status {done.returncode}: {_last(done.stderr)}")
        yield folder


def first_update(folder: Path, number: int) -> float:
    """Start a run of `warm` whose evaluation has another setting each time, and return the seconds to its first training update.

    The run is killed then. Raises RunError when it ends before, or does not get there.
    """
    begun = time.time()
    command = _command("--set", f"evaluate.zeta={2.5 + number / 1000}")
    before = set(_metrics(folder))
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, env=_environment(folder), stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while True:
                for path in set(_metrics(folder)) - before:
                    if text := path.read_text():
                        return json.loads(text.splitlines()[0])["t"] - begun
                if process.poll() is not None or time.time() > begun + LONGEST_SECONDS:
                    raise RunError(f"warm start: its run did not train: {_last((folder / 'output').read_text())}")
                time.sleep(LOOK_SECONDS)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _command(*options: str) -> list[str]:
    return [sys.executable, "-P", "-m", "engine.cli", "run", "warm", "--now", *options]


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"EDC_PROJECTS": str(folder), "EDC_STATE": str(folder / "state")}


def _metrics(folder: Path) -> list[Path]:
    return list(folder.glob("warm/runs/*/stages/*-evaluate/*/metrics.jsonl"))


def _last(text: str) -> str:
    return printable((text.strip().splitlines() or ["no message"])[-1], 200)
