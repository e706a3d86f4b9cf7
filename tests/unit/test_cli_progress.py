"""What one sees while a run is at work, from files as a worker writes them."""

import io
import json
import time

import pytest
from rich.console import Console

from engine.commands.progress import Follower, LiveProgress, PlainProgress, make_progress
from engine.files import write_json
from engine.runs.events import EventLog, MetricsWriter, write_heartbeat
from engine.runs.layout import read_object
from engine.runs.liveness import take_lock
from engine.runs.store import create_run


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path, "tiny", "[condense]\n")


def write_state(run, *, done=120, total=400, rate=40.0, step="condensed-resnet18-seed0"):
    """Write what a worker in the midst of its first evaluation has written."""
    stages = {
        "squeeze": {"status": "done", "steps": 2, "steps_done": 2},
        "evaluate": {"status": "running", "steps": 3, "steps_done": 0},
        "relabel": {"status": "waiting", "steps": 1, "steps_done": 0},
    }
    steps = {f"evaluate/{step}": {"status": "running", "folder": f"6-evaluate/{step}"}}
    run.summary.write_text(json.dumps({"stages": stages, "steps": steps}))
    beat = {"t": time.time() + 1, "stage": "evaluate", "step": step, "done": done, "total": total, "unit": "epochs", "rate": rate}
    write_heartbeat(run.heartbeat, beat)
    folder = run.stages / "6-evaluate" / step
    with MetricsWriter(folder / "metrics.jsonl") as metrics:
        metrics.write(10, {"loss": 1.25, "unused": 3.0})
        metrics.write(20, {"top1": 81.5, "loss": float("nan")})
    return folder


def console(width=80, terminal=False):
    return Console(
        file=io.StringIO(), width=width, force_terminal=terminal, color_system="standard" if terminal else None, legacy_windows=False
    )


class TestFollower:
    def test_tells_where_the_run_stands(self, run):
        write_state(run)
        follower = Follower(run)
        follower.look()
        now = follower.now
        assert (now.stage, now.done, now.total, now.unit) == ("evaluate", 120, 400, "epochs")
        assert now.seconds_left == 7.0
        assert now.metrics["top1"] == 81.5

    def test_an_earlier_attempts_heartbeat_is_not_taken_for_this_ones(self, run):
        write_state(run)
        write_heartbeat(run.heartbeat, {"t": time.time() - 60, "stage": "squeeze", "step": "x", "done": 1, "total": 2})
        follower = Follower(run)
        follower.look()
        assert follower.now.stage == ""

    def test_metrics_of_one_step_do_not_stay_for_the_next(self, run):
        write_state(run)
        follower = Follower(run)
        follower.look()
        write_heartbeat(run.heartbeat, {"t": time.time() + 2, "stage": "initialise", "step": "random-seed0", "done": 1, "total": 10})
        follower.look()
        assert follower.now.metrics == {}


    def test_says_that_the_run_waits_and_reads_process_json_only_when_it_is_new(self, run, monkeypatch):
        waits = {"device": "cpu", "file": "of another user"}
        write_json(run.process, {"waits": waits})
        follower, read = Follower(run), []
        monkeypatch.setattr("engine.commands.progress.read_object", lambda path: read.append(path) or read_object(path))
        with take_lock(run.run_lock):
            for _ in range(3):
                follower.look()
                assert follower.now.waits == "waits until cpu is free"
            assert read.count(run.process) == 1
            write_json(run.process, {"waits": None})
            follower.look()
        assert (follower.now.waits, read.count(run.process)) == ("", 2)


class TestPlainLines:
    def test_the_line_of_a_run_that_waits_is_a_sentence(self, run):
        screen = console()
        write_json(run.process, {"waits": {"device": "cpu", "file": "of another user"}})
        with take_lock(run.run_lock), PlainProgress(screen, run) as progress:
            progress.tick()
        assert screen.file.getvalue() == f"run {run.id} waits until cpu is free\n"

    def test_one_line_for_each_finished_step_and_log_line(self, run):
        shown, folder = console(), write_state(run)
        (folder / "done.json").write_text(json.dumps({"result": {"final": {"top1": 81.5}}}))
        with PlainProgress(shown, run) as progress, EventLog(run.events) as events:
            events.append("stage_started", stage="evaluate", step=folder.name)
            events.append("log", level="info", text="a \x1b[31mred\nline")
            events.append("log", level="warning", text="careful")
            events.append("stage_finished", stage="evaluate", step=folder.name, seconds=75.2)
            events.append("stage_reused", stage="squeeze", step="resnet18")
            progress.tick()
            progress.tick()
        assert shown.file.getvalue().splitlines() == [
            "a \ufffd[31mred line",
            "warning: careful",
            f"evaluate {folder.name}: 1 min 15 s, top-1 81.50 %",
            "squeeze resnet18: reused",
        ]

    def test_what_a_log_says_again_and_again_is_told_once_and_many_reused_steps_in_one_line(self, run):
        shown = console()
        with PlainProgress(shown, run) as progress, EventLog(run.events) as events:
            for _ in range(6):
                events.append("log", level="info", text="evaluate.ema lowered")
            for seed in range(6):
                events.append("stage_reused", stage="evaluate", step=f"random-resnet18-seed{seed}")
            for seed in range(2):
                events.append("stage_reused", stage="relabel", step=f"random-seed{seed}")
            progress.tick()
        told = ["evaluate.ema lowered", "evaluate: 6 steps reused", "relabel random-seed0: reused", "relabel random-seed1: reused"]
        assert shown.file.getvalue().splitlines() == told

    def test_a_sign_of_life_comes_after_thirty_seconds_and_not_before(self, run, monkeypatch):
        write_state(run)
        shown, clock = console(), [1000.0]
        monkeypatch.setattr("engine.commands.progress.time.monotonic", lambda: clock[0])
        with PlainProgress(shown, run) as progress:
            for second in range(0, 65, 5):
                clock[0] = 1000.0 + second
                progress.tick()
        line = "evaluate condensed-resnet18-seed0: 120/400 epochs, 40.0/s, 7.0 s left, loss nan, top-1 81.50 %, unused 3"
        assert shown.file.getvalue().splitlines() == [line, line]


class TestLiveBlock:
    @pytest.mark.parametrize("width", [120, 80, 40])
    def test_fits_the_terminal(self, run, width):
        write_state(run, step="condensed-" + "a-rather-long-network-name" * 3)
        shown = console(width)
        progress = LiveProgress(shown, run)
        progress._look()
        shown.print(progress._block())
        lines = shown.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) == 5  # a blank line, the stages, the step, the bar, the metrics
        assert lines[1].startswith("✓ squeeze  ▸ evaluate 0/3")
        assert "120/400 epochs" in lines[3]

    def test_says_when_a_stop_was_asked_for(self, run):
        write_state(run)
        run.stop_request.parent.mkdir()
        run.stop_request.write_text("{}")
        shown = console()
        progress = LiveProgress(shown, run)
        progress._look()
        shown.print(progress._block())
        assert "stopping with a checkpoint" in shown.file.getvalue()

    def test_is_for_terminals_only(self, run, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")
        assert isinstance(make_progress(console(terminal=True), run), LiveProgress)
        assert isinstance(make_progress(console(), run), PlainProgress)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(make_progress(console(terminal=True), run), PlainProgress)
