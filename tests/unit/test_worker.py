"""The worker's process: what it does when its run, its supervisor or its disk is not what it should be; it loads no torch for that."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_datasets import write_cifar10

from engine.commands.request import make_request
from engine.errors import UserError
from engine.project.frozen import freeze
from engine.runs.events import EventLog, read_all
from engine.runs.liveness import take_lock
from engine.runs.process import SUPERVISOR_PID, supervise
from engine.runs.status import run_status
from engine.runs.store import create_run
from engine.stages import worker

ROOT = str(Path(__file__).resolve().parents[2])
RUN_TOML = """schema = 1
[dataset]
name = "digits"
[frozen]
until = "evaluate"
data_fingerprint = "abc"
device = "cpu"
precision = "float32"
"""


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path / "projects", "foo", RUN_TOML)


def start(run, **environment):
    command = [sys.executable, "-P", "-m", "engine.stages.worker", str(run.folder)]
    environment = {**os.environ, "PYTHONPATH": ROOT, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


class TestASupervisorThatIsGone:
    def test_before_the_worker_could_begin_leaves_the_run_untouched(self, run):
        ended = start(run, **{SUPERVISOR_PID: "1"})
        assert (ended.returncode, ended.stderr) == (75, "")
        assert not run.events.exists() and not run.heartbeat.exists()

    def test_is_told_from_one_that_never_was(self, monkeypatch):
        monkeypatch.delenv(SUPERVISOR_PID, raising=False)
        assert not worker.orphaned()
        monkeypatch.setenv(SUPERVISOR_PID, str(os.getppid()))
        assert not worker.orphaned()
        monkeypatch.setenv(SUPERVISOR_PID, str(os.getpid()))
        assert worker.orphaned()


class TestPlanOfARun:
    @pytest.mark.parametrize(
        ("before", "after", "words"),
        [
            ('device = "cpu"\n', "", r"\[frozen\] says no device; start a new run with `edc run foo`"),
            ("[frozen]", "[other]", "other"),
            ('device = "cpu"', 'device = "cuda:97"', "begun on cuda:97, which this machine does not have"),
            ('device = "cpu"', 'device = "cuda:x"', "begun on cuda:x, which this machine does not have"),
            ('"digits"', '"folder"\nroot = "/nowhere/at/all"', "there is no folder /nowhere/at/all"),
            ("schema = 1", "schema = 2", "written by another version of edc"),
            ("", "", "the images of digits are not those that this run began with"),
        ],
    )
    def test_says_in_one_line_why_it_cannot_be_made(self, run, before, after, words):
        run.run_toml.write_text(RUN_TOML.replace(before, after) if before else RUN_TOML)
        with pytest.raises(UserError, match=words) as caught:
            worker.plan_of_run(run)
        assert "\n" not in str(caught.value)

    def test_finds_the_data_where_the_run_began_with_them_whatever_this_shell_says(self, tmp_path, monkeypatch):
        first, other, projects = tmp_path / "first", tmp_path / "other", tmp_path / "projects"
        write_cifar10(first / "cifar10")
        projects.mkdir()
        (projects / "foo.toml").write_text('schema = 1\n[dataset]\nname = "cifar10"\n[condense]\nmethod = "random"\nipc = 1\n')
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("EDC_DATA", "first")  # as one types it; the run's other processes may have another working folder
        request = make_request(projects / "foo.toml")
        run = create_run(projects, "foo", freeze(request.resolved, request.plan, until="evaluate"))
        write_cifar10(other / "cifar10", per_batch=20)
        monkeypatch.setenv("EDC_DATA", str(other))
        monkeypatch.chdir(other)
        assert worker.plan_of_run(run)[0].source.paths == request.plan.source.paths
        (other / "cifar10").rename(other / "gone")
        first.rename(tmp_path / "moved")  # as on another machine, whose data lie elsewhere
        monkeypatch.setenv("EDC_DATA", str(tmp_path / "moved"))
        assert worker.plan_of_run(run)[0].source.fingerprint == request.plan.source.fingerprint

    def test_reaches_the_person_as_the_reason_of_the_status(self, run):
        assert supervise(run.folder) == 2
        status = run_status(run.folder)
        assert (status.word, "not those that this run began with" in status.reason) == ("failed", True)
        assert not run.reserve.exists()


class TestAWorker:
    def test_that_cannot_take_its_lock_says_so_in_one_line(self, run, monkeypatch, capsys):
        monkeypatch.setattr(worker, "LOCK_SECONDS", 0.0)
        monkeypatch.setattr(sys, "argv", ["worker", str(run.folder)])
        with take_lock(run.worker_lock):
            assert worker.main() == 1
        assert capsys.readouterr().err == f"error: another worker holds {run.worker_lock}\n"

    def test_removes_what_killed_processes_were_about_to_write(self, run):
        torn = run.folder / ".heartbeat.json.1234567.0a1b2c3d.tmp"
        supervisors = run.folder / f".process.json.{os.getppid()}.0a1b2c3d.tmp"
        for path in (torn, supervisors):
            path.write_text("{")
        worker._remove_torn(run)
        assert (torn.exists(), supervisors.exists()) == (False, True)

    def test_records_its_failure_where_its_log_cannot_be_written(self, run, monkeypatch):
        class Full:
            def write(self, text):
                raise OSError(errno.ENOSPC, "No space left on device")

            flush = write

        run.reserve.write_bytes(b"0")
        monkeypatch.setattr(sys, "stderr", Full())
        with EventLog(run.events) as events:
            worker._failed(run, events, "cannot write checkpoint.safetensors")
        assert read_all(run.events)[-1]["message"] == "cannot write checkpoint.safetensors"
        assert not run.reserve.exists()
