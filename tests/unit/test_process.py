"""Supervision with real processes, really killed: the worker here is a small script that keeps the worker's contract."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.errors import RunError, UserError
from engine.runs import process as runs_process
from engine.runs.events import read_all
from engine.runs.liveness import identify, lock_holder, read_identity, take_lock
from engine.runs.memory import memory_kill_count
from engine.runs.process import request_stop, start_detached, supervise, wait_for_end
from engine.runs.status import run_status
from engine.runs.store import create_run, delete_run

WORKER = """
import os, signal, subprocess, sys, time
from pathlib import Path
from engine.runs.events import EventLog, write_heartbeat
from engine.runs.layout import open_run
from engine.runs.liveness import take_lock

run, mode = open_run(Path(sys.argv[1])), sys.argv[2]
asked = []
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
supervisor = os.getppid()
lock = take_lock(run.worker_lock)
assert lock is not None, "worker.lock is held"
log = EventLog(run.events)
log.append("run_started")
print("working", mode, flush=True)
if mode == "crash":
    log.append("run_failed", message="loss is NaN at step 7")
    sys.exit(1)
if mode == "cuda":
    print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", flush=True)
    sys.exit(1)
if mode == "userless":
    sys.exit(2)
if mode == "suicide":
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "children":
    child = subprocess.Popen(["sleep", "60"])
    (run.folder / "child").write_text(str(child.pid))
for step in range(10 if mode == "quick" else 3000):
    write_heartbeat(run.heartbeat, {"t": time.time(), "seq": step, "stage": "synthesise", "step": "b0", "done": step, "total": 10,
                                    "next_due": time.time() + 5})
    if (asked or os.getppid() != supervisor) and mode != "deaf":
        if mode == "children":
            time.sleep(0.2)
            print("child", "lives" if child.poll() is None else "is dead", flush=True)
        (run.folder / "checkpoint").write_text(str(step))
        log.append("run_stopped")
        sys.exit(75)
    time.sleep(0.02)
log.append("run_finished")
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture
def run(tmp_path):
    run = create_run(tmp_path / "projects", "foo", "[project]\n")
    yield run
    process = json.loads(run.process.read_text()) if run.process.exists() else {}
    for role in ("supervisor", "worker"):
        identity = read_identity(process.get(role))
        if identity is not None and identity.pid != os.getpid():
            runs_process.send_signal(identity, signal.SIGKILL)


@pytest.fixture
def command(run, script):
    return lambda mode: [sys.executable, str(script), str(run.folder), mode]


def until(condition, seconds=10.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.01)


def working(run):
    return run.heartbeat.exists() and run_status(run.folder).word == "running"


def identity(run, role):
    return read_identity(json.loads(run.process.read_text())[role])


def exit_of(run):
    return json.loads(run.exit.read_text())


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch):
    monkeypatch.setattr(runs_process, "TICK_SECONDS", 0.05)


class Once:
    """An on_tick that acts once its condition holds."""

    def __init__(self, condition, action):
        self.condition, self.action, self.acted = condition, action, 0.0

    def __call__(self):
        if not self.acted and self.condition():
            self.acted = time.monotonic()
            self.action()


class TestForeground:
    @pytest.mark.parametrize(
        ("mode", "status", "word", "reason"),
        [
            ("quick", 0, "done", "finished at"),
            ("crash", 1, "failed", "loss is NaN at step 7"),
            ("userless", 2, "failed", "working userless"),
            ("suicide", 1, "killed", "was killed by signal 9"),
            ("cuda", 1, "out-of-memory", "CUDA out of memory"),
        ],
    )
    def test_the_exit_status_and_the_computed_status_tell_how_it_ended(self, run, command, mode, status, word, reason):
        assert supervise(run.folder, command(mode)) == status
        found = run_status(run.folder)
        assert (found.word, found.alive) == (word, False)
        assert reason in found.reason
        ending = exit_of(run)
        assert ending["last_lines"][0] == f"working {mode}"
        assert lock_holder(run.run_lock) is None
        assert ending["pid"] == identity(run, "worker").pid

    def test_a_kill_by_the_kernel_for_want_of_memory_is_told_from_another(self, run, command, monkeypatch):
        counts = iter([3, 4])
        monkeypatch.setattr(runs_process, "memory_kill_count", lambda: next(counts))
        assert supervise(run.folder, command("suicide")) == 1
        assert run_status(run.folder).word == "out-of-memory"

    def test_control_c_stops_with_a_checkpoint_and_handlers_are_put_back(self, run, command):
        mine = signal.signal(signal.SIGINT, signal.default_int_handler)
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        seen = []

        def press():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # passed on by a launcher: counts as one with the first

        try:
            tick = Once(lambda: working(run), press)
            assert supervise(run.folder, command("long"), lambda: (tick(), seen.append(run_status(run.folder).word))) == 75
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
        finally:
            signal.signal(signal.SIGINT, mine)
        assert (run.folder / "checkpoint").exists()
        assert "running" in seen
        assert run_status(run.folder).word == "stopped"
        assert exit_of(run)["stop_requested"]

    def test_the_second_control_c_kills(self, run, command, monkeypatch):
        monkeypatch.setattr(runs_process._StopSignals, "TOGETHER", 0.1)
        first = Once(lambda: working(run), lambda: os.kill(os.getpid(), signal.SIGINT))
        second = Once(lambda: first.acted and time.monotonic() - first.acted > 0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
        words = []

        def tick():
            first()
            words.append(run_status(run.folder).word)
            second()

        assert supervise(run.folder, command("deaf"), tick) == 1
        assert "stopping" in words
        found = run_status(run.folder)
        assert found.word == "killed"
        assert "had been asked to stop" in found.reason

    def test_a_hang_up_asks_for_a_checkpoint_however_often_it_comes(self, run, command):
        tick = Once(lambda: working(run), lambda: [os.kill(os.getpid(), signal.SIGHUP) for _ in range(3)])
        assert supervise(run.folder, command("long"), tick) == 75

    def test_a_worker_that_does_not_stop_is_killed_when_the_grace_is_over(self, run, command):
        tick = Once(lambda: working(run), lambda: request_stop(run.folder, grace=0.4))
        assert supervise(run.folder, command("deaf"), tick) == 1
        assert 0.3 < time.monotonic() - tick.acted < 5
        assert run_status(run.folder).word == "killed"

    def test_a_worker_stopped_before_it_could_take_the_signal_counts_as_stopped(self, run):
        tick = Once(lambda: True, lambda: request_stop(run.folder))
        assert supervise(run.folder, ["sleep", "60"], tick) == 75
        assert run_status(run.folder).word == "stopped"

    def test_an_error_of_the_display_stops_the_run_with_a_checkpoint_and_comes_out(self, run, command):
        def fail():
            raise BrokenPipeError("no more pipe")

        with pytest.raises(BrokenPipeError):
            supervise(run.folder, command("long"), Once(lambda: working(run), fail))
        assert (run.folder / "checkpoint").exists()
        assert run_status(run.folder).word == "stopped"

    def test_looking_at_the_run_from_its_own_supervisor_does_not_drop_the_lock(self, run, command):
        results = []

        def tick():
            run_status(run.folder)
            with pytest.raises(UserError, match="already running"):
                supervise(run.folder, command("quick"))
            code = "import pathlib, sys, engine.runs.liveness as it\nprint(it.lock_holder(pathlib.Path(sys.argv[1])))"
            other = [sys.executable, "-c", code, str(run.run_lock)]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
            results.append(subprocess.run(other, capture_output=True, text=True, env=environment, check=True).stdout)

        assert supervise(run.folder, command("quick"), tick) == 0
        assert set(results) == {f"{os.getpid()}\n"}

    def test_it_works_in_a_thread_where_signals_cannot_be_taken(self, run, command):
        results = []
        thread = threading.Thread(target=lambda: results.append(supervise(run.folder, command("long"))))
        thread.start()
        until(lambda: working(run))
        assert request_stop(run.folder)
        thread.join(timeout=10)
        assert results == [75]

    def test_children_of_a_killed_worker_die_with_it(self, run, command):
        tick = Once(lambda: (run.folder / "child").exists() and working(run), lambda: os.kill(identity(run, "worker").pid, signal.SIGKILL))
        assert supervise(run.folder, command("children"), tick) == 1
        child = int((run.folder / "child").read_text())
        until(lambda: not Path(f"/proc/{child}").exists() or Path(f"/proc/{child}/stat").read_text().split()[2] == "Z")

    def test_only_the_workers_main_process_is_told_to_stop(self, run, command):
        assert supervise(run.folder, command("children"), Once(lambda: working(run), lambda: request_stop(run.folder))) == 75
        assert exit_of(run)["last_lines"] == ["working children", "child lives"]

    def test_a_resume_begins_with_a_clean_slate(self, run, command):
        assert supervise(run.folder, command("long"), Once(lambda: working(run), lambda: request_stop(run.folder))) == 75
        words = []
        assert supervise(run.folder, command("quick"), lambda: words.append(run_status(run.folder).word)) == 0
        assert set(words) <= {"starting", "running", "done"}
        assert [event["event"] for event in read_all(run.events)] == ["run_started", "run_stopped", "run_started", "run_finished"]
        assert exit_of(run)["last_lines"] == ["working quick"]
        assert run_status(run.folder).word == "done"

    def test_a_worker_that_cannot_be_started_is_one_clear_error(self, run):
        with pytest.raises(RunError, match="cannot start the worker /nowhere/python"):
            supervise(run.folder, ["/nowhere/python"])
        assert run_status(run.folder).word == "failed"
        with pytest.raises(UserError, match="not a run folder"):
            supervise(run.folder.parent)


class TestDetached:
    def test_it_returns_once_the_run_is_held_and_the_run_ends_by_itself(self, run, command):
        pid = start_detached(run.folder, command("quick"))
        assert identity(run, "supervisor").pid == pid
        assert os.getsid(pid) == pid
        status = wait_for_end(run.folder, timeout=10)
        assert (status.word, status.alive) == ("done", False)

    def test_a_second_supervisor_is_refused_and_told_who_holds_it(self, run, command):
        pid = start_detached(run.folder, command("long"))
        with pytest.raises(UserError, match=f"already running: its supervisor is pid {pid}"):
            start_detached(run.folder, command("long"))
        with pytest.raises(UserError, match=f"already running: its supervisor is pid {pid}"):
            supervise(run.folder, command("long"))
        with pytest.raises(UserError, match="stop it first"):
            delete_run(run)
        assert request_stop(run.folder)

    def test_a_stop_is_asked_once_and_asking_again_changes_nothing(self, run, command):
        start_detached(run.folder, command("deaf"))
        until(lambda: working(run))
        assert request_stop(run.folder, grace=30)
        first = run.stop_request.read_text()
        assert request_stop(run.folder, grace=60)
        assert run.stop_request.read_text() == first
        assert run_status(run.folder).word == "stopping"
        assert wait_for_end(run.folder, timeout=0.3).alive
        assert request_stop(run.folder, grace=0)
        assert wait_for_end(run.folder, timeout=10).word == "killed"
        assert not request_stop(run.folder)

    def test_a_stop_asked_right_after_the_start_is_not_lost(self, run, command):
        start_detached(run.folder, command("long"))
        assert request_stop(run.folder)
        assert wait_for_end(run.folder, timeout=10).word == "stopped"

    def test_sigterm_to_the_supervisor_stops_with_a_checkpoint(self, run, command):
        pid = start_detached(run.folder, command("long"))
        until(lambda: working(run))
        os.kill(pid, signal.SIGTERM)
        assert wait_for_end(run.folder, timeout=10).word == "stopped"
        assert (run.folder / "checkpoint").exists()

    def test_a_killed_supervisor_leaves_a_worker_that_stops_itself_and_a_run_to_resume(self, run, command):
        pid = start_detached(run.folder, command("long"))
        until(lambda: working(run))
        worker = identity(run, "worker")
        os.kill(pid, signal.SIGKILL)
        status = wait_for_end(run.folder, timeout=10)
        assert (status.word, status.resumable) == ("stopped", True)
        assert not run.exit.exists()
        assert supervise(run.folder, command("quick")) == 0
        assert identity(run, "worker") != worker

    def test_a_resume_waits_for_the_orphaned_worker(self, run, command, monkeypatch):
        pid = start_detached(run.folder, command("deaf"))
        until(lambda: working(run))
        orphan = identity(run, "worker").pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: run_status(run.folder).word == "stopping")
        monkeypatch.setattr(runs_process, "GRACE_SECONDS", 0.5)
        reasons = []
        assert supervise(run.folder, command("quick"), lambda: reasons.append(run_status(run.folder).reason)) == 0
        assert f"waits until the previous worker, pid {orphan}" in reasons[0]
        assert [event["event"] for event in read_all(run.events)] == ["run_started", "run_started", "run_finished"]

    def test_a_stop_while_waiting_for_the_orphaned_worker_starts_nothing(self, run, command):
        with take_lock(run.worker_lock):
            assert supervise(run.folder, command("quick"), lambda: request_stop(run.folder)) == 75
        assert not run.events.exists()
        status = run_status(run.folder)
        assert (status.word, "before its worker was started" in status.reason) == ("stopped", True)

    def test_a_terminal_lost_while_waiting_for_the_orphaned_worker_leaves_a_run_that_says_it_was_stopped(self, run, command):
        def lost():
            raise OSError("the terminal is gone")

        with take_lock(run.worker_lock), pytest.raises(OSError, match="the terminal is gone"):
            supervise(run.folder, command("quick"), lost)
        assert (exit_of(run)["returncode"], run_status(run.folder).word) == (75, "stopped")
        assert not run.events.exists()

    def test_an_orphaned_worker_can_be_killed(self, run, command):
        pid = start_detached(run.folder, command("deaf"))
        until(lambda: working(run))
        os.kill(pid, signal.SIGKILL)
        until(lambda: lock_holder(run.run_lock) is None)
        assert request_stop(run.folder, grace=0)
        assert wait_for_end(run.folder, timeout=10).word == "lost"

    def test_both_killed_is_lost_and_resumable(self, run, command):
        pid = start_detached(run.folder, command("long"))
        until(lambda: working(run))
        os.kill(pid, signal.SIGSTOP)  # so that it cannot see its worker end
        os.kill(identity(run, "worker").pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        status = wait_for_end(run.folder, timeout=10)
        assert (status.word, status.resumable) == ("lost", True)
        assert supervise(run.folder, command("quick")) == 0

    def test_a_supervisor_that_cannot_begin_is_reported_by_its_last_line(self, run, monkeypatch):
        code = "print('first'); raise SystemExit('disk\x1b is full')"
        monkeypatch.setattr(runs_process, "_program", lambda module, run: [sys.executable, "-c", code])
        with pytest.raises(RunError, match="^disk\ufffd is full$"):
            start_detached(run.folder)
        monkeypatch.setattr(runs_process, "_program", lambda module, run: ["sleep", "5"])
        with pytest.raises(RunError, match="has not begun within 0 s"):
            start_detached(run.folder, timeout=0.1)

    def test_the_working_folders_files_are_never_imported(self, run, command, tmp_path, monkeypatch):
        (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
        monkeypatch.chdir(tmp_path)
        start_detached(run.folder, [sys.executable, "-P", "-c", "print('fine')"])
        assert wait_for_end(run.folder, timeout=10).word == "done"

    def test_asking_a_run_that_was_never_started_is_answered_no(self, run):
        assert not request_stop(run.folder)
        assert not run.stop_request.exists()
        assert wait_for_end(run.folder).word == "queued"


class TestMemoryKills:
    def put(self, root, **files):
        for name, text in files.items():
            path = root / name.replace("__", "/").replace("_events", ".events").replace("_control", ".oom_control")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def test_the_unified_hierarchy(self, tmp_path):
        self.put(tmp_path, proc__self__cgroup="0::/user/a\n")
        self.put(tmp_path, sys__fs__cgroup__user__a__memory_events="low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
        assert memory_kill_count(tmp_path) == 2

    def test_the_older_hierarchy(self, tmp_path):
        self.put(tmp_path, proc__self__cgroup="5:cpu,memory:/a\n0::/a\n")
        self.put(tmp_path, sys__fs__cgroup__memory__a__memory_control="under_oom 0\noom_kill 7\n")
        assert memory_kill_count(tmp_path) == 7

    def test_the_whole_machine_where_no_group_counts(self, tmp_path):
        assert memory_kill_count(tmp_path) == 0
        self.put(tmp_path, proc__self__cgroup="0::/\n", proc__vmstat="nr_free_pages 1\noom_kill 5\n")
        assert memory_kill_count(tmp_path) == 5


def test_identifying_a_process_that_is_gone_is_one_clear_error():
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(RunError, match="was gone before"):
        identify(process.pid, "worker", ["true"])
