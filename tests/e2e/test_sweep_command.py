"""`edc sweep` from end to end on the digits: interrupted, taken up again by the same command, and then nothing is left to do."""

import json
import os
import signal
import subprocess
import sys
import time

from engine.runs.events import read_all

PROJECT = """\
schema = 1

[condense]
method = "random"
ipc = 1              # one image of each class

[observers]
labels = ["convnet-d1-w8"]

[squeeze]
epochs = 1

[evaluate]
hard_labels = false
controls = ["random"]
students = ["convnet-d1-w8"]
seeds = [0]
epochs = 3
every = 3

[compute]
device = "cpu"
precision = "float32"
threads = 1
"""
WORDS = [sys.executable, "-m", "engine.cli", "sweep", "tiny", "--over", "evaluate.zeta=1,2.5"]


def sweep(folder, *more):
    return subprocess.run([*WORDS, *more], cwd=folder, env={**os.environ}, capture_output=True, text=True, timeout=180)


def runs_of(folder, name):
    return sorted(path for path in (folder / "projects" / name / "runs").iterdir() if path.name[0].isdigit())


def test_a_sweep_goes_on_where_it_was_stopped_and_shares_what_its_points_share(tmp_path):
    (tmp_path / "projects").mkdir()
    (tmp_path / "projects" / "tiny.toml").write_text(PROJECT)
    process = subprocess.Popen(WORDS, cwd=tmp_path, env={**os.environ}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 60
    while not list(tmp_path.glob("projects/tiny-zeta-1/runs/2*/heartbeat.json")):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 75, errors
    assert "the same `edc sweep` goes on with what is left" in errors
    (first,) = runs_of(tmp_path, "tiny-zeta-1")
    assert not (tmp_path / "projects" / "tiny-zeta-2.5").exists()

    ended = sweep(tmp_path, "--json")
    assert ended.returncode == 0, ended.stderr
    points = json.loads(ended.stdout)["points"]
    assert [(point["values"], point["status"]) for point in points] == [({"evaluate.zeta": 1}, "done"), ({"evaluate.zeta": 2.5}, "done")]
    assert points[0]["run"] == first.name
    assert all(0 <= point["results"][0][name]["mean"] <= 100 for point in points for name in ("condensed", "random"))
    (second,) = runs_of(tmp_path, "tiny-zeta-2.5")
    steps = json.loads((second / "summary.json").read_text())["steps"]
    assert {step.partition("/")[0] for step, facts in steps.items() if not facts["reused"]} == {"evaluate"}

    again = sweep(tmp_path)
    assert again.returncode == 0
    assert again.stdout.count("has done this") == 2
    assert [len(runs_of(tmp_path, name)) for name in ("tiny-zeta-1", "tiny-zeta-2.5")] == [1, 1]
    assert [event["event"] for event in read_all(first / "events.jsonl")].count("run_finished") == 1
    assert "# one image of each class" in (tmp_path / "projects" / "tiny-zeta-2.5.toml").read_text()
