"""Runs that want one device wait for each other: real supervisors and workers, some of them really killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.compute import device as compute_device
from engine.errors import UserError
from engine.runs import process as runs_process
from engine.runs import queue
from engine.runs.layout import Run
from engine.runs.liveness import host_name, lock_holder, read_identity, send_signal, take_lock
from engine.runs.process import request_stop, start_detached, supervise, wait_for_end
from engine.runs.status import run_status
from engine.runs.store import create_run, list_runs

# Works until told to end (by a file in its folder, SIGTERM, or its supervisor's death), and notes when it began and ended.
WORKER = """
import os, signal, sys, time
from pathlib import Path
from engine.runs.layout import open_run
from engine.runs.liveness import take_lock

run, diary, supervisor = open_run(Path(sys.argv[1])), Path(sys.argv[2]), os.getppid()
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
lock = take_lock(run.worker_lock)
with diary.open("a") as file:
    file.write(f"begin {run.project}\\n")
while not (run.folder / "end").exists() and not asked and os.getppid() == supervisor:
    time.sleep(0.02)
if os.getppid() != supervisor:
    time.sleep(0.5)  # its checkpoint
with diary.open("a") as file:
    file.write(f"end {run.project}\\n")
sys.exit(75 if asked else 0)
"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    monkeypatch.setenv("EDC_STATE", str(folder))
    monkeypatch.setattr(runs_process, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(runs_process, "LINE_SECONDS", 0.05)
    return folder


@pytest.fixture
def diary(tmp_path):
    path = tmp_path / "diary"
    path.touch()
    return path


@pytest.fixture
def bench(tmp_path, diary):
    """Make runs and start them; whatever still lives at the end is killed."""
    made: list[Run] = []

    class Bench:
        def make(self, name, device="cpu", projects="projects"):
            made.append(create_run(tmp_path / projects, name, f'[frozen]\ndevice = "{device}"\n'))
            return made[-1]

        def command(self, run):
            return [sys.executable, "-c", WORKER, str(run.folder), str(diary)]

        def start(self, name, device="cpu", projects="projects", now=False):
            run = self.make(name, device, projects)
            start_detached(run.folder, self.command(run), now=now)
            return run

        def end(self, run):
            (run.folder / "end").touch()
            return wait_for_end(run.folder, timeout=10)

    yield Bench()
    for run in made:
        for role in ("supervisor", "worker"):
            found = identity(run, role)
            if found is not None and found.pid != os.getpid():
                send_signal(found, signal.SIGKILL)


def identity(run, role):
    return read_identity(json.loads(run.process.read_text()).get(role)) if run.process.exists() else None


def until(condition, seconds=10.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.02)


def lines(diary):
    return diary.read_text().splitlines()


def word(run):
    return run_status(run.folder).word


def begun(diary, *names):
    return lambda: [line.split()[1] for line in lines(diary) if line.startswith("begin")] == list(names)


def tickets(state):
    return sorted(path.name for path in state.rglob("*.json"))


class TestInOrderOfAsking:
    def test_runs_start_one_after_the_other(self, bench, diary, state):
        first, second, third = (bench.start(name) for name in ("a", "b", "c"))
        until(begun(diary, "a"))
        assert [word(run) for run in (second, third)] == ["queued", "queued"]
        assert run_status(second.folder).reason == f"is 1st in line for cpu, behind a/{first.id}"
        assert run_status(third.folder).reason == f"is 2nd in line for cpu, behind b/{second.id}"
        assert run_status(third.folder).alive
        bench.end(first)
        until(begun(diary, "a", "b"))
        assert run_status(third.folder).reason == f"is 1st in line for cpu, behind b/{second.id}"
        bench.end(second)
        until(begun(diary, "a", "b", "c"))
        assert bench.end(third).word == "done"
        assert lines(diary) == ["begin a", "end a", "begin b", "end b", "begin c", "end c"]
        until(lambda: tickets(state) == [])

    def test_two_projects_folders_have_one_line(self, bench, diary):
        bench.start("a", projects="here")
        until(begun(diary, "a"))
        assert word(bench.start("b", projects="there")) == "queued"

    def test_another_device_has_a_line_of_its_own(self, bench, diary):
        bench.start("a")
        until(begun(diary, "a"))
        bench.start("b", device="cuda:1")
        until(begun(diary, "a", "b"))
        assert word(bench.start("c", device="cuda:1")) == "queued"

    def test_a_run_that_names_no_device_waits_for_none(self, bench, diary, tmp_path):
        bench.start("a")
        run = create_run(tmp_path / "projects", "broken", "no toml")
        assert supervise(run.folder, ["true"]) == 0

    def test_many_that_ask_at_once_never_work_together(self, bench, diary):
        runs = [bench.make(name) for name in "abcdef"]
        for run in runs:
            (run.folder / "end").touch()
        threads = [threading.Thread(target=start_detached, args=(run.folder, bench.command(run))) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for run in runs:
            assert wait_for_end(run.folder, timeout=30).word == "done"
        told = [line.split() for line in lines(diary)]
        assert [what for what, _ in told] == ["begin", "end"] * 6
        assert all(told[index][1] == told[index + 1][1] for index in range(0, 12, 2))

    def test_in_the_foreground_too_where_it_is_shown_and_stopped(self, bench, diary):
        bench.start("a")
        until(begun(diary, "a"))
        run, words = bench.make("b"), []

        def tick():
            words.append(word(run))
            if len(words) == 5:
                os.kill(os.getpid(), signal.SIGINT)

        began = time.monotonic()
        assert supervise(run.folder, bench.command(run), tick) == 75
        assert time.monotonic() - began < 3
        assert set(words) == {"queued"}
        status = run_status(run.folder)
        assert (status.word, status.resumable, "before its worker was started" in status.reason) == ("stopped", True, True)
        assert lines(diary) == ["begin a"]

    def test_a_display_that_fails_while_waiting_ends_the_wait(self, bench, diary):
        bench.start("a")
        until(begun(diary, "a"))
        run = bench.make("b")

        def fail():
            raise BrokenPipeError

        with pytest.raises(BrokenPipeError):
            supervise(run.folder, bench.command(run), fail)
        assert word(run) == "stopped"


class TestToldOtherwise:
    def test_now_does_not_wait_and_the_others_wait_for_it(self, bench, diary):
        first = bench.start("a")
        until(begun(diary, "a"))
        second = bench.start("b")
        hasty = bench.start("c", now=True)
        until(begun(diary, "a", "c"))
        assert word(second) == "queued"
        bench.end(first)
        time.sleep(0.4)
        assert word(second) == "queued"
        assert run_status(second.folder).reason == f"is 1st in line for cpu, behind c/{hasty.id}"
        bench.end(hasty)
        until(begun(diary, "a", "c", "b"))

    def test_the_cpu_takes_as_many_as_the_environment_says(self, bench, diary, monkeypatch):
        monkeypatch.setenv("EDC_CPU_RUNS", "2")
        for name in "ab":
            bench.start(name)
        until(lambda: sorted(lines(diary)) == ["begin a", "begin b"])
        assert word(bench.start("c")) == "queued"

    def test_a_gpu_takes_one_whatever_the_environment_says_of_the_cpu(self, monkeypatch):
        monkeypatch.setenv("EDC_CPU_RUNS", "4")
        assert [queue.slots_of(device) for device in ("cpu", "cuda", "cuda:1")] == [4, 1, 1]

    @pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "٣"])
    def test_what_is_no_number_is_one_clear_line(self, bench, monkeypatch, text):
        monkeypatch.setenv("EDC_CPU_RUNS", text)
        run = bench.make("a")
        with pytest.raises(UserError, match="EDC_CPU_RUNS: .* must be a whole number of at least 1"):
            supervise(run.folder, bench.command(run))
        with pytest.raises(UserError, match="EDC_CPU_RUNS"):
            start_detached(run.folder, bench.command(run))


class TestStopped:
    def test_a_stop_while_waiting_ends_it_at_once(self, bench, diary):
        bench.start("a")
        until(begun(diary, "a"))
        run = bench.start("b")
        began = time.monotonic()
        assert request_stop(run.folder)
        status = wait_for_end(run.folder, timeout=5)
        assert time.monotonic() - began < 3
        assert (status.word, json.loads(run.exit.read_text())["returncode"]) == ("stopped", 75)
        (run.folder / "end").touch()
        start_detached(run.folder, bench.command(run), now=True)
        assert wait_for_end(run.folder, timeout=10).word == "done"


class TestKilled:
    def test_a_killed_waiter_holds_up_nobody(self, bench, diary, state):
        first = bench.start("a")
        until(begun(diary, "a"))
        second, third = bench.start("b"), bench.start("c")
        os.kill(identity(second, "supervisor").pid, signal.SIGKILL)
        until(lambda: word(second) == "lost")
        assert run_status(third.folder).reason == f"is 1st in line for cpu, behind a/{first.id}"
        bench.end(first)
        until(begun(diary, "a", "c"))
        assert len(tickets(state)) == 2  # that of the dead too, until somebody asks again
        bench.start("d")
        assert len(tickets(state)) == 2

    def test_a_worker_without_its_supervisor_has_the_device_until_it_ends(self, bench, diary):
        first = bench.start("a")
        until(begun(diary, "a"))
        second = bench.start("b")
        os.kill(identity(first, "supervisor").pid, signal.SIGKILL)
        until(begun(diary, "a", "b"))
        assert lines(diary) == ["begin a", "end a", "begin b"]
        assert bench.end(second).word == "done"

    def test_a_resumed_run_waits_for_its_own_worker_and_is_not_in_its_own_way(self, bench, diary):
        run = bench.start("a")
        until(begun(diary, "a"))
        os.kill(identity(run, "supervisor").pid, signal.SIGKILL)
        until(lambda: lock_holder(run.run_lock) is None)
        (run.folder / "end").touch()
        assert supervise(run.folder, bench.command(run)) == 0
        assert lines(diary) == ["begin a", "end a"] * 2

    def test_who_asked_before_a_resume_comes_before_it(self, bench, diary):
        first = bench.start("a")
        until(begun(diary, "a"))
        second = bench.start("b")
        os.kill(identity(first, "supervisor").pid, signal.SIGKILL)
        until(lambda: lock_holder(first.run_lock) is None)
        start_detached(first.folder, bench.command(first))
        until(begun(diary, "a", "b"))
        assert lines(diary) == ["begin a", "end a", "begin b"]
        until(lambda: word(first) == "queued")
        bench.end(second)
        until(begun(diary, "a", "b", "a"))

    def test_a_killed_worker_gives_the_device_to_the_next(self, bench, diary):
        first = bench.start("a")
        until(begun(diary, "a"))
        bench.start("b")
        os.kill(identity(first, "worker").pid, signal.SIGKILL)
        until(begun(diary, "a", "b"))


class TestWhereTheLineLies:
    def test_in_the_users_state_folder_by_host_and_device(self, bench, diary, state):
        bench.start("a")
        until(begun(diary, "a"))
        assert {path.parent for path in state.rglob("*.json")} == {state / "queue" / host_name() / "cpu"}

    def test_xdg_and_home_where_nothing_is_chosen(self, monkeypatch, tmp_path):
        monkeypatch.delenv("EDC_STATE")
        monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
        assert next(queue._states()) == Path("/xdg/edc")
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert next(queue._states()) == tmp_path / ".local/state/edc"

    def test_below_the_temporary_folder_where_it_cannot_be_written(self, bench, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("EDC_STATE", str(tmp_path / "file" / "state"))
        monkeypatch.setattr(queue.tempfile, "gettempdir", lambda: str(tmp_path))
        run = bench.make("a")
        place = queue.stand_in_line(run, "cpu")
        assert list((tmp_path / f"edc-{os.getuid()}").rglob("*.json"))
        place.release()

    def test_nobody_waits_where_no_folder_can_be_written(self, bench, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("EDC_STATE", str(tmp_path / "file"))
        monkeypatch.setattr(queue.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
        assert queue.stand_in_line(bench.make("a"), "cpu") is None

    def test_another_users_temporary_folder_is_not_trusted(self, tmp_path, monkeypatch):
        monkeypatch.setattr(queue.tempfile, "gettempdir", lambda: str(tmp_path))
        (tmp_path / f"edc-{os.getuid()}").symlink_to(tmp_path)
        assert queue._temporary_state() == []

    def test_a_line_whose_folder_is_removed_holds_up_nobody(self, bench, state):
        import shutil

        first = queue.stand_in_line(bench.make("a"), "cpu")
        second = queue.stand_in_line(bench.make("b"), "cpu")
        assert (first.granted, second.grant()) == (True, False)
        shutil.rmtree(state)
        assert second.grant()

    def test_a_gpu_is_known_by_its_uuid_however_it_is_called(self, monkeypatch):
        gpus = [("GPU-aaaa", 9.0), ("GPU-bbbb", 9.0)]
        monkeypatch.setattr(compute_device, "_gpus", lambda: gpus)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
        keys = [compute_device.device_key(name) for name in ("cpu", "cuda", "cuda:0", "cuda:1")]
        assert keys == ["cpu", "GPU-bbbb", "GPU-bbbb", "GPU-aaaa"]
        monkeypatch.setattr(compute_device, "_gpus", list)
        assert compute_device.device_key("cuda:1") == "cuda-1"


class TestReaders:
    def test_write_nothing(self, bench, diary, state, tmp_path):
        bench.start("a")
        until(begun(diary, "a"))
        run = bench.start("b")

        def everything():
            return {path: path.stat().st_mtime_ns for root in (state, run.folder) for path in root.rglob("*")}

        before = everything()
        assert word(run) == "queued"
        assert "queued" in [listing.status.word for listing in list_runs(tmp_path / "projects")]
        assert everything() == before

    def test_who_cannot_read_the_line_still_sees_that_it_waits(self, bench, diary, tmp_path):
        bench.start("a")
        until(begun(diary, "a"))
        run = bench.start("b")
        process = json.loads(run.process.read_text())
        process["waits"]["file"] = "/nowhere/1.json"
        run.process.write_text(json.dumps(process))
        assert run_status(run.folder).reason == "waits until cpu is free"

    def test_on_another_host_a_waiting_run_is_known_by_its_signs_of_life(self, bench):
        run, now = bench.make("a"), time.time()
        status = run.folder.stat()
        who = {**identity_of(os.getpid(), "supervisor"), "host": "far", "boot_id": "another", "started_at": now - 9000}
        process = {"supervisor": who, "worker": None, "waits": {"device": "cpu", "file": "/x/1.json", "t": now - 15}}
        run.process.write_text(json.dumps({**process, "folder_inode": [status.st_dev, status.st_ino]}))
        found = run_status(run.folder, now)
        assert (found.word, found.alive, found.reason) == ("queued", True, "queued on far, last seen 15 s ago")
        assert run_status(run.folder, now + 600).word == "lost"

    def test_a_worker_that_starts_after_a_long_wait_is_not_taken_for_stalled(self, bench):
        run, now = bench.make("a"), time.time()
        mine = {**identity_of(os.getpid(), "worker"), "started_at": now - 5}
        boss = {**identity_of(os.getpid(), "supervisor"), "started_at": now - 9000}
        status = run.folder.stat()
        run.process.write_text(
            json.dumps({"supervisor": boss, "worker": mine, "waits": None, "folder_inode": [status.st_dev, status.st_ino]})
        )
        with take_lock(run.run_lock), take_lock(run.worker_lock):
            assert run_status(run.folder, now).word == "starting"

    def test_places_are_counted_in_words(self):
        assert [queue._ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 112)] == [
            "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th",
        ]


def identity_of(pid, role):
    from engine.runs.liveness import identify

    return identify(pid, role, ["x"]).as_json()


def test_a_supervisor_that_waits_loads_neither_torch_nor_pydantic():
    code = "import sys, engine.runs.process; print([name for name in ('torch', 'textual', 'pydantic', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
