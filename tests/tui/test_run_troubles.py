"""The run screen of someone who stops a run and goes on with it, or whose run folder is broken."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from app_driver import asked, until
from run_driver import SIZES, SYNTHESIS, after, stages, watch

from edc_tui.feed import RunFeed
from engine.files import write_json
from engine.runs.process import start_detached, wait_for_end
from engine.runs.status import run_status

WORKER = """
import signal, sys, time
sys.path.insert(0, {home!r})
from pathlib import Path
from engine.runs.events import EventLog, MetricsWriter, write_heartbeat
from engine.runs.liveness import take_lock
from engine.runs.store import open_run
run = Path({folder!r})
lock = take_lock(open_run(run).worker_lock)
events = EventLog(run / "events.jsonl")
events.append("run_started", pid=1)
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
step = 0
with MetricsWriter(run / "stages/{synthesis}/metrics.jsonl") as metrics:
    while not told or {stubborn}:
        step += 1
        metrics.write(step, {{"matching": 100 / step, "classification": 1 / step}})
        now = time.time()
        write_heartbeat(run / "heartbeat.json", {{"t": now, "seq": step, "stage": "synthesise", "step": "condensed", "done": step,
            "total": 1000, "unit": "iterations", "rate": 20.0, "next_due": now + 30}})
        time.sleep(0.05)
events.append("run_stopped")
sys.exit(75)
"""


class TestStoppingAndResuming:
    @pytest.fixture
    def worker(self, make_run, monkeypatch):
        """Give (run, command of a small worker that draws curves and stops when told)."""
        run = make_run("mine", status="queued")
        steps = {"synthesise/condensed": {"status": "running", "folder": SYNTHESIS}}
        write_json(run.summary, {"schema": 1, "run": run.id, "stages": stages("synthesise"), "steps": steps, "results": []})

        def command(stubborn=False):
            text = WORKER.format(home=str(Path(__file__).parents[2]), folder=str(run.folder), synthesis=SYNTHESIS, stubborn=stubborn)
            return [sys.executable, "-c", text]

        yield run, command
        from engine.runs.process import request_stop

        request_stop(run.folder, grace=0.0)
        wait_for_end(run.folder, timeout=10)

    def test_x_stops_it_after_asking_and_r_goes_on(self, projects, worker, monkeypatch):
        run, command = worker
        start_detached(run.folder, command())
        monkeypatch.setattr("engine.runs.process.start_detached", lambda folder: start_detached(folder, command()))

        async def doings(pilot, app):
            await until(pilot, lambda text: "▶ running" in text and "matching loss  ● sum" in text)
            await pilot.press("x")
            await until(pilot, lambda text: "Stop run" in text)
            await pilot.press("n")
            await pilot.pause(0.3)
            assert run_status(run.folder).word == "running"
            await pilot.press("x")
            await until(pilot, lambda text: "Stop run" in text)
            await pilot.press("y")
            text = await until(pilot, lambda text: "■ stopped" in text and "r Resume" in text and "x Stop" not in text)
            assert "r goes on from the last checkpoint" in text and "synthesise stopped at" in text
            await pilot.press("r")
            await until(pilot, lambda text: "Resume run" in text)
            await pilot.press("y")
            return await until(pilot, lambda text: "▶ running" in text and "x Stop" in text)

        watch(projects, run, doings)

    def test_one_that_does_not_stop_counts_down_and_x_ends_it_at_once(self, projects, worker):
        run, command = worker
        start_detached(run.folder, command(stubborn=True))

        async def doings(pilot, app):
            await until(pilot, lambda text: "▶ running" in text)
            await pilot.press("x")
            await until(pilot, lambda text: "Stop run" in text)
            await pilot.press("y")
            first = await until(pilot, lambda text: "it is killed in" in text)
            await until(pilot, lambda text: "it is killed in" in text and text.splitlines()[3] != first.splitlines()[3])
            await pilot.press("x")
            await until(pilot, lambda text: "Kill run" in text)
            await pilot.press("y")
            return await until(pilot, lambda text: "✗ killed" in text)

        watch(projects, run, doings)

    def test_one_that_has_lost_its_supervisor_is_taken_over(self, projects, worker, monkeypatch):
        run, command = worker
        supervisor = start_detached(run.folder, command())
        monkeypatch.setattr("engine.runs.process.start_detached", lambda folder: start_detached(folder, command()))

        async def doings(pilot, app):
            await until(pilot, lambda text: "▶ running" in text)
            orphan = json.loads(run.process.read_text())["worker"]["pid"]
            os.kill(supervisor, signal.SIGKILL)
            text = await until(pilot, lambda text: "r has it go on once that is written" in text)
            assert "is gone" in text and "r Resume" in text and "x Stop" in text
            await pilot.press("r")
            await until(pilot, lambda text: "goes on under a new one" in asked(app))
            await pilot.press("y")
            await until(pilot, lambda text: "▷ starting" in text)
            os.kill(orphan, signal.SIGTERM)  # its checkpoint is written
            await until(pilot, lambda text: "▶ running" in text)
            assert json.loads(run.process.read_text())["worker"]["pid"] != orphan

        watch(projects, run, doings)


class TestBrokenFolders:
    def test_broken_files_are_named_and_nothing_falls(self, projects, make_run):
        run = make_run("odd [b]名前", status="queued")
        run.summary.write_text("{")
        run.run_toml.write_text("not ] toml")
        run.exit.write_text("[]")
        run.events.write_bytes(b'\x00\xff garbage\n{"event": 3, "t": "x"}\n{"event":"log","text":["\\u001b[2J"],"level":{}}\n')
        run.heartbeat.write_text("null")
        run.worker_log.write_bytes(bytes(range(256)) * 20)
        for size in SIZES:
            text = watch(projects, run, after("o", "o", "c", "z", "z", "right_square_bracket", "left", "e"), size)
            assert "odd [b]名前" in text.splitlines()[0]
            assert "broken file: summary.json is not valid JSON" in text or size == SIZES[0]
            assert "\x1b" not in text

    def test_a_summary_of_another_shape_does_no_harm(self, projects, make_run):
        odd = {
            "stages": {"synthesise": {"status": 3, "steps": "x", "seconds": None, "reused": 1}, "evaluate": 7},
            "steps": {"synthesise/a": {"folder": "../../../etc"}, "synthesise/b": {"folder": 3}, "x": []},
            "results": [3, {"set": None, "top1": "high", "seeds": 4}],
            "condensed": [],
            "observers": {"a": "b"},
            "ipc": {"a": "[/]"},
        }
        run = make_run("odd", **{name: value for name, value in odd.items() if name not in ("stages", "results", "ipc")})
        write_json(run.summary, json.loads(run.summary.read_text()) | odd)
        for size in SIZES:
            assert "✓ done" in watch(projects, run, after("left_square_bracket", "f", "f"), size)

    def test_what_cannot_be_read_at_all_is_told_once_and_the_screen_stays(self, projects, synthesising, monkeypatch):
        run, beat = synthesising

        async def doings(pilot, app):
            with monkeypatch.context() as patch:
                patch.setattr(RunFeed, "look", lambda self, stage: 1 / 0)
                for _ in range(3):
                    app.screen.look()
                    await pilot.pause(0.2)
            assert sum("cannot be read: ZeroDivisionError" in text for _, text, _ in app.told) == 1
            beat(done=333, total=400)
            return await until(pilot, lambda text: "333/400" in text)

        watch(projects, run, doings)

    def test_a_folder_that_vanishes_is_told_and_what_was_read_stays(self, projects, synthesising):
        run, _ = synthesising

        async def doings(pilot, app):
            run.folder.rename(run.folder.with_name("moved"))
            text = await until(pilot, lambda text: "its folder is gone" in text)
            assert "matching loss  ● sum" in text
            await until(pilot, lambda text: not any(key in text for key in ("x Stop", "r Resume", "i Images")))
            await pilot.press("x", "r", "c", "m", "t", "left")
            (run.folder.with_name("moved")).rename(run.folder)
            return await until(pilot, lambda text: "▶ running" in text)

        watch(projects, run, doings)

    def test_a_long_run_is_there_at_once_and_whole_a_little_later(self, projects, synthesising):
        run, beat = synthesising
        line = '{"t":%d,"s":%d,"k":{"classification":1.25,"matching":35.25,"matching_global":17.5,"matching_class":17.75}}\n'
        (run.stages / SYNTHESIS / "metrics.jsonl").write_text("".join(line % (1e9 + step // 100, step) for step in range(1, 30_001)))
        beat(done=30_000, total=100_000)

        async def doings(pilot, app):
            seen = await until(pilot, lambda text: "sum 35.25" in text)
            await until(pilot, lambda text: "reading" not in text.splitlines()[4])
            with app.screen.feed.guard:
                assert app.screen.feed.curves("synthesise")["condensed"].series["matching"].points == 30_000
            return seen

        assert "matching loss" in watch(projects, run, doings)
