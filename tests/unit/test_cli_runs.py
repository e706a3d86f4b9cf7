"""`edc tail`, `stop`, `resume` and `remove` of runs at work: real processes, of which the worker only keeps the worker's contract."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.runs import process as runs_process
from engine.runs.events import EventLog, MetricsWriter
from engine.runs.liveness import read_identity, take_lock
from engine.runs.process import start_detached
from engine.runs.status import run_status
from engine.runs.store import create_run

ROOT = str(Path(__file__).resolve().parents[2])
WORKER = """
import os, signal, sys, time
from pathlib import Path
from engine.runs.events import EventLog, write_heartbeat
from engine.runs.layout import open_run
from engine.runs.liveness import take_lock

run, deaf = open_run(Path(sys.argv[1])), "deaf" in sys.argv
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(time.monotonic()))
supervisor = os.getppid()
lock, log = take_lock(run.worker_lock), EventLog(run.events)
log.append("run_started")
while deaf or not asked or time.monotonic() < asked[0] + 1.5:
    write_heartbeat(run.heartbeat, {"t": time.time(), "stage": "squeeze", "step": "resnet18", "done": 1, "total": 2})
    time.sleep(0.05)
log.append("run_stopped")
sys.exit(75)
"""


@pytest.fixture
def work(tmp_path):
    """Start a detached run in the projects folder and return it once it is at work; it is killed in the end."""
    (tmp_path / "worker.py").write_text(WORKER)
    runs = []

    def start(*words):
        run = create_run(tmp_path / "projects", "foo", "[project]\n")
        runs.append(run)
        start_detached(run.folder, [sys.executable, str(tmp_path / "worker.py"), str(run.folder), *words])
        until(lambda: run_status(run.folder).word == "running")
        return run

    yield start
    for run in runs:
        for role in ("worker", "supervisor"):
            identity = read_identity(json.loads(run.process.read_text())[role])
            if identity is not None and identity.pid != os.getpid():
                runs_process.send_signal(identity, signal.SIGKILL)


@pytest.fixture
def ended(tmp_path):
    """Return a function that makes a run whose exit.json and files are as given."""

    def make(**exit_facts):
        run = create_run(tmp_path / "projects", "foo", "[project]\n")
        run.exit.write_text(json.dumps({"t": 1.0, "pid": 5, "signal": None, **exit_facts}))
        return run

    return make


def until(condition, seconds=20.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.01)


def supervisor_of(run):
    return json.loads(run.process.read_text())["supervisor"]["pid"]


class TestTail:
    @pytest.mark.parametrize(
        ("facts", "status"),
        [
            ({"returncode": 0}, 0),
            ({"returncode": 1}, 1),
            ({"returncode": 2}, 2),
            ({"returncode": 75}, 75),
            ({"returncode": -9, "signal": 9}, 1),
            ({"returncode": -9, "signal": 9, "out_of_memory": True}, 1),
        ],
    )
    def test_ends_with_the_exit_status_of_the_run(self, edc, ended, facts, status):
        assert edc("tail", ended(**facts).id)[0] == status

    def test_of_a_run_that_was_never_begun_says_that_it_can_be_resumed(self, edc, tmp_path):
        assert edc("tail", create_run(tmp_path / "projects", "foo", "[project]\n").id)[0] == 75

    def test_as_json_is_every_event_and_metric_and_the_status(self, edc, ended):
        run = ended(returncode=0)
        folder = run.stage_folder(1, "squeeze", "resnet18")
        with EventLog(run.events) as log, MetricsWriter(folder / "metrics.jsonl") as metrics:
            log.append("run_started")
            log.append("stage_started", stage="squeeze", step="resnet18", folder=str(folder.relative_to(run.folder)))
            log.append("stage_started", stage="squeeze", step="resnet18", folder="../../../elsewhere")
            metrics.write(10, {"loss": 0.5})
        status, out, _ = edc("tail", run.id, "--json")
        rows = [json.loads(line) for line in out.splitlines()]
        assert status == 0
        assert [row["event"] for row in rows] == ["run_started", "stage_started", "stage_started", "metrics", "status"]
        assert (rows[3]["stage"], rows[3]["step"], rows[3]["s"], rows[3]["k"]) == ("squeeze", "resnet18", 10, {"loss": 0.5})
        assert rows[4]["status"] == "done"

    def test_follows_until_the_run_ends(self, edc, work):
        run = work()
        os.kill(supervisor_of(run), signal.SIGTERM)
        status, out, _ = edc("tail", run.id)
        assert (status, f"run {run.id} is stopped" in out) == (75, True)


class TestStop:
    def test_says_how_long_the_run_still_has_and_then_what_became_of_it(self, edc, work):
        run = work()
        status, out, _ = edc("stop", run.id, "--grace", "30")
        first, last = out.splitlines()
        assert status == 0
        assert first.startswith(f"run {run.id} was asked to stop") and " is killed in " in first
        assert f"run {run.id} is stopped" in last

    def test_counts_down_on_a_terminal(self, work, tmp_path):
        run = work()
        master, terminal = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": ROOT, "TERM": "xterm", "COLUMNS": "120"}
        command = [sys.executable, "-m", "engine.cli", "stop", run.id, "--grace", "30"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=terminal, stderr=terminal)
        os.close(terminal)
        shown = b""
        while process.poll() is None or select.select([master], [], [], 0)[0]:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    shown += os.read(master, 65536)
                except OSError:
                    break
        os.close(master)
        assert process.wait() == 0
        assert b"is killed in 30 s if it has not" in shown or b"is killed in 29 s if it has not" in shown
        assert b"is killed in 28 s if it has not" in shown  # it stops after a second and a half

    def test_kills_what_does_not_stop(self, edc, work):
        run = work("deaf")
        out = edc("stop", run.id, "--grace", "0.5")[1]
        assert f"run {run.id} is killed" in out.splitlines()[-1]

    def test_kills_an_orphan_that_does_not_stop(self, edc, work, monkeypatch):
        monkeypatch.setattr("engine.commands.runs.KILL_SECONDS", 0.1)
        run = work("deaf")
        os.kill(supervisor_of(run), signal.SIGKILL)
        until(lambda: run_status(run.folder).orphaned)
        out = edc("stop", run.id, "--grace", "0.5")[1]
        assert "its supervisor, pid" in out.splitlines()[0] and "stops by itself" in out.splitlines()[0]
        assert f"run {run.id} is lost" in out.splitlines()[-1]

    def test_takes_several_runs_at_once(self, edc, work, ended, monkeypatch):
        monkeypatch.setenv("EDC_CPU_RUNS", "2")
        runs = [work(), work(), ended(returncode=0)]
        begun = time.monotonic()
        lines = edc("stop", *(run.id for run in runs))[1].splitlines()
        assert time.monotonic() - begun < 4  # each of them takes a second and a half
        assert [line.split(":")[0] for line in lines[-3:]] == [
            f"run {runs[0].id} is stopped",
            f"run {runs[1].id} is stopped",
            f"run {runs[2].id} was not at work, it is done",
        ]


class TestResume:
    def test_of_a_run_at_work_is_refused(self, edc, work):
        status, _, err = edc("resume", work().id)
        assert (status, "is running" in err and "nothing to resume" in err) == (2, True)

    def test_waits_for_a_run_that_is_stopping(self, edc, work, monkeypatch):
        run = work()
        os.kill(supervisor_of(run), signal.SIGTERM)
        until(lambda: run_status(run.folder).word == "stopping")
        monkeypatch.setattr(runs_process, "_program", lambda module, run: [sys.executable, "-c", "print('resumed')"])
        status, out, _ = edc("resume", run.id)
        assert status == 0
        assert f"run {run.id} is stopping: waiting until its processes have ended" in out
        assert run.worker_log.read_text().endswith("resumed\n")

    def test_of_a_finished_run_without_a_summary_writes_it(self, edc, ended, monkeypatch):
        run = ended(returncode=0)
        run.summary.write_text("")
        for words in (["list"], ["show", run.id]):
            assert f"summary.json is empty; `edc resume {run.id}` writes it anew" in edc(*words)[1]
        monkeypatch.setattr(runs_process, "_program", lambda module, run: [sys.executable, "-c", "print('resumed')"])
        assert edc("resume", run.id)[0] == 0
        assert run.worker_log.read_text() == "resumed\n"


class TestShow:
    def test_of_a_run_that_has_not_begun_says_what_was_asked_for(self, edc, tmp_path):
        asked = '[dataset]\nname = "digits"\n[condense]\nmethod = "edc"\nipc = 3\nseed = 1\n'
        run = create_run(tmp_path / "projects", "foo", f'{asked}[frozen]\ndevice = "cpu"\nprecision = "float32"\n')
        title, what, reason, *_ = edc("show", "foo")[1].splitlines()
        assert title.split() == ["foo", run.id, "queued"]
        assert what == "edc on digits, 3 images per class, seed 1, cpu in float32"
        assert reason.startswith("was created but has not been started")
        assert edc("list")[1].splitlines()[1].split()[:6] == ["foo", run.id, "queued", "edc", "digits", "3"]


class TestRemove:
    def test_refuses_a_run_at_work_before_it_asks_about_any(self, edc, work, ended):
        runs = [ended(returncode=0), work()]
        status, out, err = edc("remove", *(run.id for run in runs))
        assert (status, out) == (2, "")
        assert f"run {runs[1].id} is running" in err and "edc stop" in err
        assert all(run.folder.exists() for run in runs)

    def test_a_run_that_is_named_twice_goes_once(self, edc, ended):
        run = ended(returncode=0)
        status, out, err = edc("remove", run.id, "foo", "--yes")
        assert (status, out, err) == (0, f"removed projects/foo/runs/{run.id}\n", "")

    def test_a_run_that_is_just_being_started_stays(self, edc, ended):
        run = ended(returncode=75)
        with take_lock(run.run_lock):
            status, _, err = edc("remove", run.id, "--yes")
        assert (status, "stays" in err, run.folder.exists()) == (2, True, True)


def test_an_output_that_nobody_reads_any_more_is_let_go(tmp_path):
    code = (
        "import sys; from engine.commands.tables import mute_lost_streams; sys.stdin.read()\n"
        "print(mute_lost_streams(), mute_lost_streams(), file=sys.stderr); print('lost', flush=True)"
    )
    environment = {**os.environ, "PYTHONPATH": ROOT}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for read, expected in ((True, b"False False\n"), (False, b"True False\n")):
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, **streams)
        if not read:
            process.stdout.close()
        process.stdin.close()
        assert (process.stderr.read(), process.wait()) == (expected, 0)
        process.stderr.close()
        process.stdout.close()
