"""A project that goes through all six stages in seconds, writing a checkpoint after every step, and `edc` called as a user calls it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engine.runs.layout import Run, open_run

PROJECT = """schema = 1
[dataset]
name = "digits"
[condense]
method = "edc"
ipc = 1
[observers]
synthesis = ["convnet-d1-w8"]
labels = ["convnet-d1-w8"]
[squeeze]
epochs = 3
batch_size = 50
[synthesise]
iterations = 120
[batch]
size = 10
[labels]
mode = "stored"
[evaluate]
hard_labels = false
controls = ["random"]
students = ["convnet-d1-w8"]
seeds = [0]
epochs = 400
batch_size = 10
every = 100
[compute]
device = "cpu"
threads = 1
precision = "float32"
checkpoint_seconds = 0
"""
IMAGES = "stages/4-synthesise/condensed/images.safetensors"


def make_projects(folder: Path) -> Path:
    """Write the project `small` into a new folder, whose runs stand in a line of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.toml").write_text(PROJECT)
    return folder


def environment(projects: Path, **more: str) -> dict[str, str]:
    """Return the environment in which `edc` finds these projects, and their runs wait for each other but for no others."""
    return os.environ | {"EDC_PROJECTS": str(projects), "EDC_STATE": str(projects / ".state")} | more


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "engine.cli", *map(str, words)]


def start(projects: Path, *words: str | Path, **options) -> subprocess.Popen[str]:
    """Start `edc` and return its process, its output in pipes."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*words), env=environment(projects), **streams | options)


def edc(projects: Path, *words: str | Path, expect: int = 0, **options) -> subprocess.CompletedProcess[str]:
    """Call `edc` and return its ended process, which must have the exit status `expect`."""
    done = subprocess.run(command(*words), env=environment(projects), capture_output=True, text=True, timeout=240, **options)
    assert done.returncode == expect, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def latest(projects: Path) -> Run:
    """Return the newest run."""
    return open_run(max(path for path in (projects / "small" / "runs").iterdir() if not path.name.startswith(".")))


def summary_of(run: Run) -> dict:
    return json.loads(run.summary.read_text())


def made_by(run: Run) -> dict[str, str]:
    """Return the digest of every file that the steps of a finished run have made, but for logs."""
    made = {}
    for path in sorted(run.stages.glob("*/*/done.json")):
        files = json.loads(path.read_text())["files"]
        made |= {f"{path.parent.relative_to(run.stages)}/{name}": facts["sha256"] for name, facts in files.items()}
    return {name: digest for name, digest in made.items() if not name.endswith("metrics.jsonl")}


def assert_the_same(run: Run, reference: Run) -> None:
    """A run has made the same bytes and found the same accuracies as another."""
    assert (run.folder / IMAGES).read_bytes() == (reference.folder / IMAGES).read_bytes()
    assert made_by(run) == made_by(reference)
    assert summary_of(run)["results"] == summary_of(reference)["results"] != []


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"it did not happen within {seconds:.0f} s"
        time.sleep(0.01)
