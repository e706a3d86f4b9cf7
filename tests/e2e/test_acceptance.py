"""What users of such code complain of, as one run on the digits: nothing fetched, nothing patched, nothing mixed up, bytes as foretold."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

PROJECT = """\
schema = 1

[condense]
method = "edc"
ipc = 2

[observers]
synthesis = ["convnet-d1-w8"]
labels = ["convnet-d1-w8"]

[squeeze]
epochs = 2

[synthesise]
iterations = 3

[labels]
mode = "stored"

[evaluate]
students = ["convnet-d1-w8"]
seeds = [0]
epochs = 40
controls = ["random"]

[compute]
precision = "float32"
threads = 1
"""

# Read by every Python below it: whoever looks for a network fails.
NO_NETWORK = """\
import socket
def refuse(*words, **more):
    raise OSError("this machine has no network")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
"""


def installed() -> dict[str, tuple[int, int]]:
    """Return size and time of every source file of torch and torchvision."""
    packages = Path(sysconfig.get_paths()["purelib"])
    files = [path for name in ("torch", "torchvision") for path in (packages / name).rglob("*.py")]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("acceptance")
    (folder / "projects").mkdir()
    (folder / "projects" / "tiny.toml").write_text(PROJECT)
    (folder / "lonely").mkdir()
    (folder / "lonely" / "sitecustomize.py").write_text(NO_NETWORK)
    return folder


def python(folder, *words):
    environment = os.environ | {
        "EDC_PROJECTS": str(folder / "projects"),
        "EDC_STATE": str(folder / "state"),
        "PYTHONPATH": os.pathsep.join([str(folder / "lonely"), os.environ.get("PYTHONPATH", "")]),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)


def edc(folder, *words):
    return python(folder, "-m", "engine.cli", *words)


@pytest.fixture(scope="module")
def foretold(folder):
    return json.loads(edc(folder, "check", "tiny", "--json").stdout)


@pytest.fixture(scope="module")
def before():
    return installed()


@pytest.fixture(scope="module")
def summary(folder, foretold, before):
    """The finished run of the whole pipeline, without a network and without a GPU."""
    ended = edc(folder, "run", "tiny", "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_the_whole_pipeline_runs_without_network_and_without_gpu(summary, folder):
    assert "no network" in python(folder, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))").stderr
    assert (summary["status"], summary["device"]) == ("done", "cpu")
    assert {stage["status"] for stage in summary["stages"].values()} == {"done"}


def test_an_observer_and_a_student_without_batch_norm_will_do(summary, folder):
    assert "synthesise/condensed" in summary["steps"] and summary["results"]
    refused = edc(folder, "check", "tiny", "--set", 'match.layers="bn"', "--set", "match.patch_size=0")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "matches nothing in convnet-d1-w8" in refused.stderr


def test_what_is_installed_stays_as_it_was(summary, before):
    assert len(before) > 1000 and installed() == before


def test_the_bytes_foretold_are_those_that_are_stored_within_two_per_cent(summary, foretold, folder):
    stages = Path(summary["folder"]) / "stages"
    stored = (stages / "5-relabel/condensed/logits.npy").stat().st_size
    assert foretold["bytes"]["labels"] == summary["bytes"]["labels"] == np.load(stages / "5-relabel/condensed/logits.npy").nbytes
    assert abs(foretold["bytes"]["labels"] / stored - 1) < 0.02
    assert foretold["bytes"]["images"] == summary["bytes"]["images"] == 20 * 3 * 16 * 16


def test_hard_rows_stand_beside_soft_ones_and_never_in_one(summary):
    assert {(row["set"], row["labels"]) for row in summary["results"]} == {
        (name, labels) for name in ("condensed", "random") for labels in ("epoch-soft", "hard")
    }


def test_another_method_reuses_observers_and_tables_and_another_transform_does_not(summary, folder):
    def reused(*words):
        plan = json.loads(edc(folder, "check", "tiny", "--json", *words).stdout)
        return {step["stage"] for step in plan["steps"] if step["reused"]}

    assert reused("--set", "flatness.weight=0.5") == {"squeeze", "statistics", "initialise", "relabel", "evaluate"}
    assert {"squeeze", "statistics"} <= reused("--set", "condense.method=config-d")
    assert not {"squeeze", "statistics"} & reused("--set", "squeeze.padding=1")
