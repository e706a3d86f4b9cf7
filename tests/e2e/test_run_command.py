"""`edc run` from end to end on the digits, with a worker process of its own, as small as it can be."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.runs.events import read_all

PROJECT = """\
schema = 1

[condense]
method = "random"
ipc = 1

[observers]
labels = ["convnet-d1-w8"]

[squeeze]
epochs = 1

[evaluate]
hard_labels = false
controls = ["random"]
students = ["convnet-d1-w8"]
seeds = [0, 1]
epochs = 2
every = 2

[compute]
device = "cpu"
precision = "float32"
threads = 1
"""


def edc(folder, *words):
    """Run `edc` in a folder and return the ended process, its output as text."""
    command = [sys.executable, "-m", "engine.cli", *words]
    environment = {**os.environ}  # as Python sees it: readline, which pytest loads, gives child processes a width in $COLUMNS
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def workbench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workbench")
    (folder / "projects").mkdir()
    (folder / "projects" / "tiny.toml").write_text(PROJECT)
    return folder


@pytest.fixture(scope="module")
def first(workbench):
    """The first run of the project: its process."""
    return edc(workbench, "run", "tiny")


def steps_of(summary, *, reused):
    return {name for name, step in summary["steps"].items() if step["reused"] == reused}


def test_a_run_ends_with_accuracies_and_files(workbench, first):
    assert (first.returncode, first.stderr) == (0, "")
    assert "\x1b" not in first.stdout
    lines = [line.split() for line in first.stdout.splitlines()]
    assert any(line[:1] == ["condensed"] and line[-1] == "2" for line in lines)
    assert any(line[:2] == ["squeeze", "convnet-d1-w8:"] for line in lines)
    for name in ("images.safetensors", "contact-sheet.png"):
        assert sum(line.endswith(name) for line in first.stdout.splitlines()) == 1
        (path,) = workbench.glob(f"projects/tiny/runs/*/stages/*/condensed/{name}")
        assert path.stat().st_size > 0


def test_show_and_list_tell_of_it(workbench, first):
    summary = json.loads(edc(workbench, "show", "tiny", "--json").stdout)
    assert (summary["status"], summary["condensed"]["images"]) == ("done", 10)
    assert summary["condensed"]["image_bytes"] == 10 * 3 * 16 * 16
    sets = {row["set"]: row for row in summary["results"]}
    assert set(sets) == {"condensed", "random"}
    values = zip(sets["condensed"]["top1"]["values"], sets["random"]["top1"]["values"], strict=True)
    assert sets["condensed"]["over_random"]["values"] == pytest.approx([ours - theirs for ours, theirs in values], abs=2e-3)
    assert edc(workbench, "list").stdout.splitlines()[-1].split()[0] == "tiny"


def test_check_says_that_all_of_it_would_be_reused(workbench, first):
    facts = json.loads(edc(workbench, "check", "tiny", "--json").stdout)
    assert all(step["reused"] for step in facts["steps"])


def test_the_second_run_reuses_every_stage_in_seconds(workbench, first):
    begun = time.monotonic()
    ended = edc(workbench, "run", "tiny", "--json")
    assert time.monotonic() - begun < 10
    summary = json.loads(ended.stdout)
    assert (ended.returncode, summary["status"]) == (0, "done")
    assert steps_of(summary, reused=False) == set()
    assert all(stage["reused"] for stage in summary["stages"].values())


def test_another_zeta_runs_the_evaluation_alone(workbench, first):
    summary = json.loads(edc(workbench, "run", "tiny", "--json", "--set", "evaluate.zeta=1.5").stdout)
    assert {name.split("/")[0] for name in steps_of(summary, reused=False)} == {"evaluate"}
    assert {name.split("/")[0] for name in steps_of(summary, reused=True)} == {"squeeze", "initialise"}


def test_fresh_computes_everything_anew_and_finds_the_same(workbench, first):
    ended = edc(workbench, "run", "tiny", "--fresh", "--until", "initialise", "--json")
    summary = json.loads(ended.stdout)
    assert steps_of(summary, reused=True) == set()
    before = json.loads(edc(workbench, "check", "tiny", "--json").stdout)
    images = workbench / "projects" / ".cache" / "initialise"
    fingerprint = next(step["fingerprint"] for step in before["steps"] if (step["stage"], step["step"]) == ("initialise", "condensed"))
    mine = Path(summary["folder"], summary["condensed"]["folder"], "images.safetensors")
    assert mine.read_bytes() == (images / fingerprint / "images.safetensors").read_bytes()


def test_a_detached_run_is_stopped_with_a_checkpoint_and_resumed_to_its_end(workbench, first):
    longer = ["--set", "squeeze.epochs=5", "--until", "squeeze"]
    started = edc(workbench, "run", "tiny", *longer, "--detach", "--json")
    facts = json.loads(started.stdout)
    try:
        assert (started.returncode, facts["alive"]) == (0, True)
        wait_for_event(Path(facts["folder"]) / "events.jsonl", "stage_started")
        stopped = edc(workbench, "stop", facts["run"])
        assert f"run {facts['run']} is stopped" in stopped.stdout
        assert json.loads(edc(workbench, "check", "tiny", *longer, "--json").stdout)["resumes"] == facts["run"]
        resumed = edc(workbench, "run", "tiny", *longer, "--json")
        assert (resumed.returncode, json.loads(resumed.stdout)["run"], json.loads(resumed.stdout)["status"]) == (0, facts["run"], "done")
        told = edc(workbench, "tail", facts["run"]).stdout
        assert "goes on from step" in told
        assert "squeeze convnet-d1-w8: " in told
    finally:
        edc(workbench, "stop", facts["run"], "--kill")


def wait_for_event(path, name, seconds=60):
    """Wait until a run's log has an event of this name."""
    until = time.monotonic() + seconds
    while not any(event["event"] == name for event in read_all(path)):
        assert time.monotonic() < until, f"no {name} within {seconds} s"
        time.sleep(0.05)


def test_a_cache_that_cannot_be_written_fails_the_run_and_says_where(workbench, first, tmp_path):
    (tmp_path / "projects" / ".cache").mkdir(parents=True)
    (tmp_path / "projects" / ".cache" / "squeeze").write_text("in the way")
    (tmp_path / "projects" / "tiny.toml").write_text(PROJECT)
    ended = edc(tmp_path, "run", "tiny")
    assert ended.returncode == 1
    reason, log = ended.stderr.splitlines()
    assert f"cannot write {tmp_path}/projects/.cache/squeeze" in reason
    assert (tmp_path / log.rpartition(" ")[2]).is_file()


def test_the_python_interface_runs_a_project_and_opens_what_came_out(workbench, first):
    code = "import engine; folder = engine.run('projects/tiny.toml'); print(folder, len(engine.CondensedDataset.open(folder)))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=workbench, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split()[1] == "10"
