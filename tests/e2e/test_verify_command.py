"""`edc verify` as its user meets it: a small run on the digits, unfinished, finished, and tampered with."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from engine.runs.layout import open_run

PROJECT = """\
schema = 1

[condense]
method = "edc"
ipc = 2

[observers]
synthesis = ["convnet-d2-w16-bn"]
labels = ["convnet-d2-w16-bn"]

[squeeze]
epochs = 5

[synthesise]
iterations = 10

[evaluate]
students = ["convnet-d1-w8"]
seeds = [0, 1]
epochs = 4
hard_labels = false
controls = ["random"]

[compute]
device = "cpu"
precision = "float32"
threads = 1
"""


def edc(folder, *words):
    command = [sys.executable, "-m", "engine.cli", *map(str, words)]
    environment = os.environ | {"EDC_PROJECTS": str(folder / "projects"), "EDC_STATE": str(folder / "state")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def workbench(tmp_path_factory):
    """A folder with an unfinished run, and after it a finished one that shares its stages; their processes stand beside."""
    folder = tmp_path_factory.mktemp("workbench")
    (folder / "projects").mkdir()
    (folder / "projects" / "tiny.toml").write_text(PROJECT)
    return folder


@pytest.fixture(scope="module")
def begun(workbench):
    return edc(workbench, "run", "tiny", "--until", "synthesise")


@pytest.fixture(scope="module")
def finished(workbench, begun):
    return edc(workbench, "run", "tiny")


def test_a_run_says_once_what_is_to_be_said_against_its_settings(workbench, begun, finished):
    assert (begun.returncode, finished.returncode) == (0, 0), begun.stderr + finished.stderr
    warned = [line.split()[1] for line in finished.stdout.splitlines() if line.startswith("warning: ")]
    assert sorted(set(warned)) == sorted(warned)
    assert {"evaluate.seeds", "evaluate.epochs", "evaluate.ema", "evaluate.hard_labels"} <= set(warned)
    assert not any(line.startswith("warning: evaluate.") for line in begun.stdout.splitlines())  # nothing is evaluated there


def test_a_finished_run_has_nothing_wrong(workbench, finished):
    said = edc(workbench, "verify", "tiny")
    assert (said.returncode, said.stderr) == (0, "")
    assert "\x1b" not in said.stdout
    lines = [line.split() for line in said.stdout.splitlines()]
    assert any(line[:3] == ["fine", "observer", "convnet-d2-w16-bn:"] for line in lines)
    assert any(line[:3] == ["look", "averaged", "student"] for line in lines)
    assert said.stdout.splitlines()[-1].startswith("nothing is wrong")


def test_findings_are_json_for_programs(workbench, finished):
    told = json.loads(edc(workbench, "verify", "tiny", "--json").stdout)
    assert (told["project"], told["verdict"]) == ("tiny", "look")
    assert all(set(finding) == {"check", "verdict", "measured", "why"} for finding in told["findings"])


def test_one_that_ends_with_the_images_is_verified_as_far_as_it_goes(workbench, finished):
    earliest = min(path.name for path in (workbench / "projects/tiny/runs").iterdir() if path.name[0] != ".")
    said = edc(workbench, "verify", earliest)
    assert said.returncode == 0 and "over random" not in said.stdout
    assert "observers take" in said.stdout and "loss terms" in said.stdout


def test_a_permuted_class_order_ends_with_status_1(workbench, finished):
    from engine.data.condensed import read_condensed, write_condensed

    latest = max(path for path in (workbench / "projects/tiny/runs").iterdir() if path.name[0] != ".")
    copy = workbench / "copies" / latest.name
    shutil.copytree(latest, copy)
    folder = open_run(copy).stages / "4-synthesise/condensed"
    given = read_condensed(folder)
    (folder / "images.safetensors").unlink()
    about = {"classes": given.classes, "mean": given.mean, "std": given.std, "metadata": given.metadata}
    write_condensed(folder, given.images, (given.labels + 3) % 10, **about)
    before = sorted(path.relative_to(copy) for path in copy.rglob("*"))
    said = edc(workbench, "verify", copy)
    assert sorted(path.relative_to(copy) for path in copy.rglob("*")) == before  # nothing is left in a run that was copied
    assert said.returncode == 1 and said.stderr == ""
    assert any(line.split()[:4] == ["wrong", "classes", "of", "the"] for line in said.stdout.splitlines())
    assert said.stdout.splitlines()[-1].startswith("1 finding wrong")


def test_no_such_run_is_one_line(workbench):
    said = edc(workbench, "verify", "nothing")
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1)
