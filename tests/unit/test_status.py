"""The computed status: what each kind of evidence makes of a run, and that reading changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engine.runs.layout import Run
from engine.runs.liveness import boot_id, host_name, identify, lock_holder, presence, read_identity, send_signal, take_lock
from engine.runs.status import WORDS, run_status
from engine.runs.text import clock, duration

ROOT = str(Path(__file__).resolve().parents[2])
NOW = time.time()
HOLDER = (
    "import sys\nfrom pathlib import Path\nfrom engine.runs.liveness import take_lock\n"
    "locks = [take_lock(Path(name)) for name in sys.argv[1:]]\nprint('held', flush=True)\nsys.stdin.read()\n"
)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "foo" / "runs" / "20260101-000000-aaaa"
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text("[project]\n")
    return Run(folder, folder.name, "foo")


@pytest.fixture
def holder():
    """Start processes that hold locks until the test ends."""
    processes = []

    def hold(*paths):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *map(str, paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def write(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def end(run, **fields):
    write(run.exit, {"t": NOW, "pid": 4711, "returncode": 0, "signal": None, "last_lines": [], **fields})


def log(run, event, t=NOW, **fields):
    with run.events.open("a") as file:
        file.write(json.dumps({"t": t, "event": event, **fields}) + "\n")


def beat(run, t=NOW, due=10, **fields):
    progress = {"stage": "synthesise", "step": "b0", "done": 3, "total": 9, "unit": "images"}
    write(run.heartbeat, {"t": t, "seq": 1, **progress, "next_due": t + due, **fields})


def identities(run, supervisor=None, worker=None):
    status = run.folder.stat()
    named = {"supervisor": supervisor, "worker": worker}
    write(run.process, {**{k: v.as_json() if v else None for k, v in named.items()}, "folder_inode": [status.st_dev, status.st_ino]})


def dead_identity(role, started_at):
    process = subprocess.Popen(["sleep", "60"])
    identity = identify(process.pid, role, ["sleep"])
    process.kill()
    process.wait()
    return replace(identity, started_at=started_at)


class TestEndings:
    def test_done_is_read_from_exit_json_alone(self, run, monkeypatch):
        end(run)
        monkeypatch.setattr("engine.runs.status.lock_holder", None)
        monkeypatch.setattr("engine.runs.status.last_lifecycle", None)
        status = run_status(run.folder, NOW)
        assert (status.word, status.alive, status.resumable, status.since) == ("done", False, False, NOW)

    @pytest.mark.parametrize(
        ("fields", "word", "words"),
        [
            ({"returncode": -9, "signal": 9}, "killed", "its worker, pid 4711, was killed by signal 9 at {when}; resume with"),
            ({"returncode": -9, "signal": 9, "stop_requested": True}, "killed", "had been asked to stop and was killed by signal 9"),
            ({"returncode": -9, "signal": 9, "out_of_memory": True}, "out-of-memory", "the kernel killed it because memory ran out"),
            ({"returncode": 1, "out_of_memory": True, "message": "CUDA out of memory"}, "out-of-memory", "(CUDA out of memory)"),
            ({"returncode": -15, "signal": 15, "stop_requested": True}, "stopped", "before it had begun to work"),
            ({"returncode": -15, "signal": 15}, "killed", "signal 15"),
            ({"returncode": 75}, "stopped", "wrote its checkpoint and stopped at {when}"),
            ({"returncode": 75, "pid": None}, "stopped", "before its worker was started"),
            ({"returncode": 1, "message": "loss is NaN"}, "failed", "failed at {when}: loss is NaN"),
            ({"returncode": 2, "last_lines": ["Traceback", "ValueError: x", " "]}, "failed", ": ValueError: x"),
            ({"returncode": 3, "pid": None}, "failed", "its worker failed at {when}: exit status 3"),
            ({"returncode": "x"}, "failed", "no return code"),
        ],
    )
    def test_every_other_ending_says_why_and_where_it_stood(self, run, fields, word, words):
        end(run, **fields)
        beat(run)
        status = run_status(run.folder, NOW)
        assert status.word == word
        assert words.format(when=clock(NOW, NOW)) in status.reason
        assert (status.stage, status.step, status.done, status.total, status.unit) == ("synthesise", "b0", 3, 9, "images")
        assert status.resumable

    @pytest.mark.parametrize(("event", "word"), [("run_finished", "done"), ("run_failed", "failed"), ("run_stopped", "stopped")])
    def test_without_exit_json_the_workers_own_last_event_counts(self, run, event, word):
        log(run, "run_started")
        log(run, event, message="bad\x1b[31m\n[news]")
        status = run_status(run.folder, NOW)
        assert (status.word, status.alive) == (word, False)
        if word == "failed":
            assert "bad\ufffd[31m [news]" in status.reason

    def test_an_ending_of_an_earlier_attempt_does_not_count(self, run):
        log(run, "run_stopped", t=NOW - 100)
        identities(run, dead_identity("supervisor", NOW - 50), dead_identity("worker", NOW - 49))
        assert run_status(run.folder, NOW).word == "lost"

    def test_a_resumed_run_is_no_longer_at_its_old_end(self, run):
        log(run, "run_stopped")
        log(run, "run_started")
        assert run_status(run.folder, NOW).word == "lost"


class TestAlive:
    def test_not_started_is_queued(self, run):
        status = run_status(run.folder)
        assert (status.word, status.alive, status.resumable) == ("queued", False, True)

    def test_supervised_without_worker_is_starting(self, run, holder):
        process = holder(run.run_lock)
        identities(run, identify(process.pid, "supervisor", ["x"]))
        status = run_status(run.folder)
        assert (status.word, status.alive) == ("starting", True)
        assert f"pid {process.pid}" in status.reason

    def test_from_loading_to_running_to_stalled_by_heartbeat(self, run, holder):
        process = holder(run.run_lock, run.worker_lock)
        supervisor, worker = identify(process.pid, "supervisor", ["x"]), identify(process.pid, "worker", ["x"])
        identities(run, supervisor, worker)
        begun = worker.started_at
        beat(run, t=begun - 50)
        assert run_status(run.folder, begun + 5).word == "starting"
        assert run_status(run.folder, begun + 500).word == "stalled"
        beat(run, t=begun + 10, due=20)
        status = run_status(run.folder, begun + 12)
        assert (status.word, status.stage, status.done, status.seen) == ("running", "synthesise", 3, begun + 10)
        assert status.reason == f"its worker, pid {process.pid}, reported 2 s ago"
        status = run_status(run.folder, begun + 40)
        assert (status.word, status.alive) == ("stalled", True)
        assert "last reported 30 s ago" in status.reason

    def test_a_long_silence_that_was_announced_is_no_stall(self, run, holder):
        process = holder(run.run_lock, run.worker_lock)
        identities(run, identify(process.pid, "supervisor", ["x"]), identify(process.pid, "worker", ["x"]))
        beat(run, t=time.time(), due=3600)
        assert run_status(run.folder, time.time() + 3000).word == "running"

    def test_a_stop_request_shows_until_the_end_but_not_one_of_an_earlier_attempt(self, run, holder):
        process = holder(run.run_lock, run.worker_lock)
        identities(run, identify(process.pid, "supervisor", ["x"]), identify(process.pid, "worker", ["x"]))
        now = time.time()
        beat(run, t=now)
        write(run.stop_request, {"t": now - 1000, "grace": 60})
        assert run_status(run.folder, now).word == "running"
        write(run.stop_request, {"t": now, "grace": 60})
        status = run_status(run.folder, now + 18)
        assert (status.word, status.alive) == ("stopping", True)
        assert "is killed in 42 s" in status.reason
        run.stop_request.write_text("")
        assert run_status(run.folder, now).word == "stopping"

    def test_a_worker_whose_supervisor_is_gone_is_stopping(self, run, holder):
        process = holder(run.worker_lock)
        identities(run, dead_identity("supervisor", NOW - 9), identify(process.pid, "worker", ["x"]))
        status = run_status(run.folder)
        assert (status.word, status.alive) == ("stopping", True)
        assert "is gone" in status.reason

    def test_a_new_supervisor_that_waits_for_the_old_worker_is_starting(self, run, holder):
        process = holder(run.run_lock, run.worker_lock)
        supervisor = identify(process.pid, "supervisor", ["x"])
        identities(run, supervisor, replace(supervisor, started_at=supervisor.started_at - 100, role="worker"))
        status = run_status(run.folder)
        assert status.word == "starting"
        assert "previous worker" in status.reason

    def test_a_run_that_has_ended_but_whose_processes_linger_is_done_and_alive(self, run, holder):
        process = holder(run.run_lock, run.worker_lock)
        identities(run, identify(process.pid, "supervisor", ["x"]), identify(process.pid, "worker", ["x"]))
        log(run, "run_finished", t=time.time() + 1)
        status = run_status(run.folder)
        assert (status.word, status.alive) == ("done", True)

    def test_a_worker_started_by_hand_counts_as_running(self, run, holder):
        holder(run.worker_lock)
        beat(run, t=time.time())
        assert run_status(run.folder).word == "running"

    def test_identity_stands_in_where_a_lock_was_dropped_but_not_for_a_copy(self, run, tmp_path):
        me = identify(os.getpid(), "worker", ["x"])
        identities(run, replace(me, role="supervisor"), me)
        beat(run, t=time.time())
        assert run_status(run.folder).word == "running"
        copy = tmp_path / "foo" / "runs" / "copy"
        shutil.copytree(run.folder, copy)
        assert run_status(copy).word == "lost"


class TestGone:
    def test_both_processes_gone_without_a_word_is_lost(self, run):
        supervisor, worker = dead_identity("supervisor", NOW - 90), dead_identity("worker", NOW - 89)
        identities(run, supervisor, worker)
        beat(run, t=NOW - 60)
        status = run_status(run.folder, NOW)
        assert (status.word, status.alive, status.stage) == ("lost", False, "synthesise")
        assert f"supervisor pid {supervisor.pid}, worker pid {worker.pid}" in status.reason
        assert clock(NOW - 60, NOW) in status.reason

    def test_a_reused_pid_is_not_the_old_process(self, run):
        me = identify(os.getpid(), "worker", ["x"])
        identities(run, None, replace(me, start_ticks=me.start_ticks - 1))
        assert run_status(run.folder).word == "lost"

    def test_a_restarted_machine_is_told(self, run):
        me = identify(os.getpid(), "worker", ["x"])
        identities(run, replace(me, boot_id="another boot"), replace(me, boot_id="another boot"))
        status = run_status(run.folder)
        assert status.word == "lost"
        assert "restarted" in status.reason

    def test_a_run_on_another_host_is_judged_by_its_heartbeat(self, run):
        far = replace(identify(os.getpid(), "worker", ["x"]), host="node\x1b7", boot_id="far", started_at=NOW - 100)
        identities(run, replace(far, role="supervisor"), far)
        beat(run, t=NOW - 8)
        status = run_status(run.folder, NOW)
        assert (status.word, status.alive, status.host) == ("running", True, "node\ufffd7")
        assert status.reason == "running on node\ufffd7, last seen 8 s ago"
        write(run.stop_request, {"t": NOW - 5, "grace": 60})
        assert run_status(run.folder, NOW).word == "stopping"
        status = run_status(run.folder, NOW + 3600 * 3)
        assert (status.word, status.alive) == ("lost", False)
        assert "last seen 3 h 0 min ago" in status.reason

    def test_a_run_that_has_just_begun_on_another_host_is_given_time(self, run):
        far = replace(identify(os.getpid(), "worker", ["x"]), host="node7", boot_id="far", started_at=NOW)
        identities(run, replace(far, role="supervisor"), far)
        assert run_status(run.folder, NOW + 60).word == "running"

    def test_a_broken_process_json_is_the_reason_given(self, run):
        run.process.write_text("{")
        status = run_status(run.folder)
        assert status.word == "lost"
        assert "process.json is not valid JSON" in status.reason

    @pytest.mark.parametrize("value", [1e300, -1e300, float("nan"), "x", None, [], True, 10**400])
    def test_absurd_values_never_crash_a_reader(self, run, value):
        me = identify(os.getpid(), "worker", ["x"]).as_json()
        write(run.heartbeat, dict.fromkeys(("t", "seq", "stage", "step", "done", "total", "unit", "rate", "next_due"), value))
        log(run, "run_failed", t=value, message=value)
        write(run.stop_request, {"t": value, "grace": value})
        write(run.process, {"supervisor": {**me, "started_at": value}, "worker": {**me, "pid": value}, "folder_inode": value})
        assert run_status(run.folder).word in WORDS
        with take_lock(run.worker_lock):
            assert run_status(run.folder).word in WORDS
        mine = {**me, "started_at": NOW - 5}
        write(run.process, {"supervisor": {**mine, "role": "supervisor"}, "worker": mine})
        with take_lock(run.worker_lock), take_lock(run.run_lock):
            assert run_status(run.folder).word in WORDS
            run.stop_request.unlink()
            assert run_status(run.folder).word in WORDS
        write(run.process, {"supervisor": None, "worker": {**mine, "boot_id": "far", "host": "far"}})
        assert run_status(run.folder).word in WORDS
        write(run.exit, {"t": value, "returncode": value, "signal": value, "pid": value, "last_lines": value, "message": value})
        assert run_status(run.folder).word in WORDS


def test_an_exit_status_that_comes_while_the_reader_looks_is_not_missed(run, monkeypatch):
    def ends_meanwhile(path):
        end(run, returncode=-9, signal=9)

    monkeypatch.setattr("engine.runs.status.lock_holder", ends_meanwhile)
    assert run_status(run.folder).word == "killed"


def test_reading_a_status_writes_nothing(run, holder):
    holder(run.run_lock, run.worker_lock)
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    run_status(run.folder)
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


class TestLocks:
    def test_a_reader_names_the_holder_and_does_not_disturb_it(self, tmp_path, holder):
        path = tmp_path / "run.lock"
        assert lock_holder(path) is None
        assert not path.exists()
        process = holder(path)
        assert lock_holder(path) == lock_holder(path) == process.pid
        assert take_lock(path) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert lock_holder(path) is None
        with take_lock(path):
            pass

    def test_the_holder_may_look_at_its_own_lock_without_losing_it(self, tmp_path):
        path = tmp_path / "run.lock"
        code = "import sys\nfrom pathlib import Path\nfrom engine.runs.liveness import lock_holder\nprint(lock_holder(Path(sys.argv[1])))"

        def seen_by_another():
            environment = {**os.environ, "PYTHONPATH": ROOT}
            command = [sys.executable, "-c", code, path]
            return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

        with take_lock(path) as lock:
            assert lock_holder(path) == os.getpid()
            assert take_lock(path) is None
            assert seen_by_another() == str(os.getpid())
            lock.release()
            assert lock_holder(path) is None
            assert seen_by_another() == "None"

    def test_forked_children_neither_hold_nor_keep_a_lock(self, tmp_path):
        path = tmp_path / "run.lock"
        ready, hold = os.pipe()
        parent = os.fork()
        if parent == 0:
            try:
                take_lock(path)
                if os.fork() == 0:
                    os.write(hold, b"%d\n" % os.getpid())
                    time.sleep(30)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(parent, 0)
        grandchild = int(os.read(ready, 20))
        try:
            assert lock_holder(path) is None
        finally:
            os.kill(grandchild, signal.SIGKILL)
            os.close(ready)
            os.close(hold)


class TestIdentity:
    def test_a_zombie_is_dead(self):
        process = subprocess.Popen(["sleep", "60"])
        identity = identify(process.pid, "worker", ["sleep"])
        assert presence(identity) == "alive"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert presence(identity) == "dead"
        assert not send_signal(identity, signal.SIGTERM)
        process.wait()

    def test_it_survives_the_file(self):
        identity = identify(os.getpid(), "worker", ["a", "b"])
        assert read_identity(json.loads(json.dumps(identity.as_json()))) == identity
        assert (identity.host, identity.boot_id, identity.pgid) == (host_name(), boot_id(), os.getpgrp())
        assert read_identity({"pid": 3}) is None

    def test_a_signal_reaches_only_the_process_meant(self):
        process = subprocess.Popen(["sleep", "60"])
        identity = identify(process.pid, "worker", ["sleep"])
        assert not send_signal(replace(identity, start_ticks=1), signal.SIGKILL)
        assert process.poll() is None
        assert send_signal(identity, signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(float("nan"), "an unknown time"), (-3, "0 s"), (8.4, "8 s"), (60, "1 min"), (11_100, "3 h 5 min"), (200_000, "2 days")],
)
def test_durations_are_said_in_their_largest_unit(seconds, words):
    assert duration(seconds) == words


def test_another_day_is_named():
    assert clock(NOW - 200_000, NOW).startswith(time.strftime("%Y-%m-%d", time.localtime(NOW - 200_000)))
    assert clock(1e300, NOW) == clock(None, NOW) == "an unknown time"
