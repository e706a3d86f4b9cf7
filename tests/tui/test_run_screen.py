"""The run screen, as someone uses it who watches a run, stops it, comes back to it, or wants to know why it failed."""

import asyncio
import json
import math
import sys
import time
from pathlib import Path

import pytest
from app_driver import run_async, screen_svg, screen_text, until, write_metrics

from edc_tui.app import EdcApp
from edc_tui.feed import RunFeed, TextTail, stage_shown, text_line
from edc_tui.keys import KEYS
from edc_tui.screens.run import RunScreen
from edc_tui.widgets.cells import Cells
from edc_tui.widgets.chart import Chart
from edc_tui.widgets.log import LogTail
from edc_tui.widgets.stages import stage_left, stage_states
from engine.files import write_json
from engine.runs.events import EventLog
from engine.runs.process import start_detached, wait_for_end
from engine.runs.status import run_status

SIZES = [(80, 24), (120, 40), (200, 60)]
SYNTHESIS = "4-synthesise/condensed"


def spread(mean, deviation=0.4):
    return {"mean": mean, "std": deviation, "n": 2, "values": [mean, mean]}


RESULTS = [
    {
        "set": "condensed",
        "student": "convnet-w32",
        "seeds": [0, 1],
        "top1": spread(61.2),
        "top5": spread(90.0),
        "over_random": spread(5.15),
    },
    {"set": "random", "student": "convnet-w32", "seeds": [0, 1], "top1": spread(56.05), "top5": spread(88.0)},
]


def stages(current, status="running"):
    """Return a summary's stages, those before `current` done, the first of them reused."""
    names = ["squeeze", "statistics", "initialise", "synthesise", "evaluate"]
    place = names.index(current)
    return {
        name: {
            "status": "done" if index < place else status if index == place else "waiting",
            "seconds": 12.5,
            "reused": index == 0,
            "peak_memory_bytes": 2 << 30,
            "steps": 1,
            "steps_done": int(index < place or (index == place and status == "done")),
        }
        for index, name in enumerate(names)
    }


def synthesis(last, first=1, bad_from=math.inf):
    """Return rows of a synthesis that converges, until it is not a number any more."""
    for step in range(first, last + 1):
        matching = math.nan if step >= bad_from else 30.0 + 400.0 * math.exp(-step / 100)
        yield (
            step,
            {
                "classification": 2.3 * math.exp(-step / 200),
                "matching": matching,
                "matching_global": matching * 0.6,
                "matching_class": matching * 0.4,
                "loss": 2.3 * math.exp(-step / 200) + 0.01 * matching,
            },
        )


@pytest.fixture
def synthesising(live_run):
    """A run in the midst of its synthesis; gives (run, beat)."""
    steps = {
        "squeeze/convnet-w32": {"status": "done", "reused": True, "seconds": 12.5, "folder": "1-squeeze/convnet-w32"},
        "synthesise/condensed": {"status": "running", "folder": SYNTHESIS},
    }
    facts = {"dataset": "digits", "method": "edc", "ipc": 10, "seed": 3, "device": "cuda:0", "precision": "bfloat16"}
    run, beat = live_run("live", step="condensed", stages=stages("synthesise"), steps=steps, observers={"convnet-w32": 93.21}, **facts)
    write_metrics(run.stages / SYNTHESIS, synthesis(200))
    write_metrics(run.stages / "1-squeeze/convnet-w32", [(step, {"loss": 2.0 / step}) for step in range(1, 40)])
    beat(done=200, total=400, rate=10.0)
    return run, beat


def watch(projects, run, doings, size=(120, 40), **options):
    """Open a run and do something; returns what that returns."""

    async def session():
        app = EdcApp(projects, **options)
        async with app.run_test(size=size, notifications=True) as pilot:
            await pilot.pause()
            app.open_run(run)
            await until(pilot, lambda text: run.id[:8] in text and "reading …" not in text)
            await pilot.pause(0.2)
            return await doings(pilot, app)

    return run_async(session())


async def text_of(pilot, app):
    return screen_text(app)


def after(*keys):
    """Return doings that press keys and give the screen's text."""

    async def press(pilot, app):
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.1)
        return screen_text(app)

    return press


class TestWatchingARun:
    @pytest.mark.parametrize("size", SIZES)
    def test_one_sees_its_stages_its_curves_and_its_log(self, projects, synthesising, size):
        run, _ = synthesising
        text = watch(projects, run, text_of, size)
        rows = text.splitlines()
        assert rows[0].startswith(f" live  {run.id}") and "▶ running" in rows[0]
        assert "↺ squeeze" in rows[1] and "✓ statistics" in rows[1] and "▸ synthesise 50%" in rows[1] and "· evaluate" in rows[1]
        assert "condensed" in rows[2] and "200/400 iterations" in rows[2] and "10.0/s" in rows[2] and "20 s left" in rows[2]
        assert "matching loss  ● sum" in text and "■ global" in text and "▲ class" in text
        assert "the run was started" in text
        assert "x Stop" in rows[-1]
        assert max(map(len, rows)) <= size[0]

    def test_a_wide_terminal_shows_two_charts_and_the_facts(self, projects, synthesising):
        text = watch(projects, synthesising[0], text_of)
        assert "classification loss  ●" in text
        for fact in ("digits", "edc", "10 images, seed 3", "convnet-w32 93.2", "cuda:0 in bfloat16", "gpu-box", "2.0 GiB"):
            assert fact in text

    def test_new_points_log_lines_and_progress_appear(self, projects, synthesising):
        run, beat = synthesising

        async def doings(pilot, app):
            write_metrics(run.stages / SYNTHESIS, synthesis(300, first=201))
            beat(done=300, total=400, rate=10.0)
            with EventLog(run.events) as log:
                log.append("log", level="warning", text="the disk is [nearly] full\x1b[2J")
            await until(pilot, lambda text: "300/400" in text and "75%" in text)
            return await until(pilot, lambda text: "the disk is [nearly] full�[2J" in text)

        assert "1 warning" in watch(projects, run, doings)

    def test_the_results_so_far_stand_beside_the_random_control(self, projects, live_run):
        run, _ = live_run("live", stage="evaluate", step="x", stages=stages("evaluate"), results=RESULTS, steps={})
        text = watch(projects, run, text_of)
        rows = [row[row.index("│ ") + 2 :].split() for row in text.splitlines() if "│ " in row]
        assert ["condensed", "61.20", "±", "0.40", "2", "seeds"] in rows
        assert ["difference", "+5.15", "±", "0.40"] in rows
        assert ["random", "56.05", "±", "0.40", "2", "seeds"] in rows

    def test_while_nothing_happens_nothing_is_drawn(self, projects, make_run, monkeypatch):
        run = make_run("still", stages=stages("evaluate", "done"), results=RESULTS)
        drawn = []
        refresh = Cells.refresh

        async def doings(pilot, app):
            def noted(widget, *regions, **more):
                if widget.screen is app.screen:
                    drawn.append(widget)
                return refresh(widget, *regions, **more)

            monkeypatch.setattr(Cells, "refresh", noted)
            for _ in range(3):
                app.screen.look()
                await pilot.pause(0.2)
            return list(drawn)

        assert watch(projects, run, doings) == []

    def test_two_apps_watch_one_run(self, projects, synthesising):
        run, beat = synthesising

        async def session(size):
            app = EdcApp(projects)
            async with app.run_test(size=size) as pilot:
                await pilot.pause()
                app.open_run(run)
                await until(pilot, lambda text: "/400 iterations" in text)
                beat(done=240, total=400)
                await until(pilot, lambda text: "240/400" in text)

        async def both():
            await asyncio.gather(session((80, 24)), session((120, 40)))

        run_async(both())

    def test_a_stage_without_curves_says_so(self, projects, synthesising):
        text = watch(projects, synthesising[0], after("left_square_bracket", "left_square_bracket"))
        assert "statistics draws no curve; it took 12.5 s" in text

    def test_a_run_that_was_never_started_can_be(self, projects, make_run):
        text = watch(projects, make_run("new", status="queued"), text_of)
        assert "· queued" in text and "squeeze has not begun" in text and "r starts it" in text
        assert "r Resume" in text and "x Stop" not in text

    @pytest.mark.parametrize("theme", ["edc-light", "ansi-dark", "ansi-light"])
    def test_it_draws_in_every_kind_of_theme(self, projects, synthesising, theme):
        async def picture(pilot, app):
            return screen_svg(app)

        assert "matching" in watch(projects, synthesising[0], picture, theme=theme)

    def test_a_smaller_window_is_laid_out_anew(self, projects, synthesising):
        async def doings(pilot, app):
            await pilot.resize_terminal(80, 24)
            return await until(pilot, lambda text: "classification loss" not in text)

        assert max(map(len, watch(projects, synthesising[0], doings).splitlines())) <= 80


class TestEveryKey:
    def test_of_the_screen_has_an_action(self):
        for key in KEYS["run"]:
            assert hasattr(RunScreen, f"action_{key.action.partition('(')[0]}"), key.id

    def test_of_the_chart_and_the_log_has_one(self):
        for room, widget in (("chart", Chart), ("log", LogTail)):
            for key in KEYS[room]:
                assert hasattr(widget, f"action_{key.action.partition('(')[0]}"), key.id

    def test_brackets_and_nought_go_from_stage_to_stage(self, projects, synthesising):
        run, _ = synthesising
        assert "training loss  ● 0.05" in watch(projects, run, after(*["left_square_bracket"] * 3, "m", "m"))
        assert "evaluate has not begun" in watch(projects, run, after("right_square_bracket", "right_square_bracket"))
        assert "matching loss  ● sum" in watch(projects, run, after("left_square_bracket", "0"))

    def test_a_click_on_a_stage_shows_its_curves(self, projects, synthesising):
        async def doings(pilot, app):
            row = screen_text(app).splitlines()[1]
            await pilot.click(offset=(row.index("squeeze") + 1, 1))
            return await until(pilot, lambda text: "training loss" in text)

        watch(projects, synthesising[0], doings)

    def test_c_shows_the_charts_for_which_there_was_no_room(self, projects, synthesising):
        run, _ = synthesising
        assert "classification loss" not in watch(projects, run, text_of, (80, 24))
        assert "classification loss" in watch(projects, run, after("c"), (80, 24))
        assert "whole loss" in watch(projects, run, after("C"), (80, 24))

    def test_m_smooths_l_draws_logarithmic_t_draws_over_time(self, projects, synthesising):
        run, _ = synthesising
        assert "mean of 8" in watch(projects, run, text_of)
        assert "mean of 32" in watch(projects, run, after("m"))
        assert "mean of" not in watch(projects, run, after("m", "m"))
        assert "· log" in watch(projects, run, after("l"))
        assert "· log" not in watch(projects, run, after("l", "l"))
        assert "at work" in watch(projects, run, after("t"))

    def test_l_leaves_accuracies_alone(self, projects, make_run):
        step = {"status": "done", "folder": "6-evaluate/condensed-a-seed0"}
        run = make_run("done", stages=stages("evaluate", "done"), steps={"evaluate/condensed-a-seed0": step})
        write_metrics(run.stages / step["folder"], [(10, {"top1": 40.0}), (20, {"top1": 60.0}), (10, {"loss": 1.0}), (20, {"loss": 0.1})])
        rows = watch(projects, run, after("tab", "l")).splitlines()
        assert "log" in next(row for row in rows if "training loss" in row)
        assert "log" not in next(row for row in rows if "top-1 accuracy" in row)

    def test_z_gives_the_chart_the_whole_screen_and_takes_it_back(self, projects, synthesising):
        run, _ = synthesising
        alone = watch(projects, run, after("z"))
        assert "matching loss" in alone and "classification loss" not in alone and "the run was started" not in alone
        for back in ("z", "escape"):
            assert "the run was started" in watch(projects, run, after("z", back))

    def test_f_hides_the_facts_where_they_are_shown_and_shows_them_where_not(self, projects, synthesising):
        run, _ = synthesising
        assert "bfloat16" not in watch(projects, run, after("f"))
        narrow = watch(projects, run, after("f"), (80, 24))
        assert "bfloat16" in narrow and "matching loss" not in narrow
        assert "matching loss" in watch(projects, run, after("f", "f"), (80, 24))

    def test_arrows_read_the_values_at_a_point_and_escape_leaves_it(self, projects, synthesising):
        run, _ = synthesising

        async def doings(pilot, app):
            await pilot.press("left", "shift+left")
            text = await until(pilot, lambda text: " at " in text.splitlines()[4])
            await pilot.press("escape")
            await until(pilot, lambda text: " at " not in text.splitlines()[4])
            assert isinstance(app.screen, RunScreen)
            return text

        watch(projects, run, doings)

    def test_y_copies_the_id_and_keeps_it_in_a_file_too(self, projects, synthesising, tmp_path):
        run, _ = synthesising

        async def doings(pilot, app):
            await pilot.press("y")
            first = app.clipboard, (tmp_path / "state/edc/copied.txt").read_text()
            await pilot.press("Y")
            return [*first, app.clipboard]

        assert watch(projects, run, doings) == [run.id, run.id + "\n", str(run.folder)]

    def test_i_opens_the_gallery_and_escape_goes_back(self, projects, synthesising, monkeypatch):
        run, _ = synthesising
        opened = []
        monkeypatch.setattr(EdcApp, "open_gallery", lambda self, runs: opened.append(runs))

        async def doings(pilot, app):
            await pilot.press("i", "escape")
            await pilot.pause(0.1)
            return isinstance(app.screen, RunScreen)

        assert watch(projects, run, doings) is False
        assert [[found.id for found in runs] for runs in opened] == [[run.id]]


class TestTheLog:
    def lines(self, run, count, text="line"):
        with EventLog(run.events) as log:
            for number in range(count):
                log.append("log", level="info", text=f"{text} {number}")

    def test_slash_searches_and_n_goes_on(self, projects, synthesising):
        run, _ = synthesising
        self.lines(run, 100)

        async def doings(pilot, app):
            await until(pilot, lambda text: "line 99" in text)
            await pilot.press("slash", *"LINE 3", "enter")
            await until(pilot, lambda text: "11 × LINE 3" in text and "line 39" in text)
            await pilot.press("n", "n")
            await until(pilot, lambda text: "line 30" in text or "line 3" in text)
            await pilot.press("escape")
            return await until(pilot, lambda text: "line 99" in text and "× LINE" not in text)

        watch(projects, run, doings)

    def test_what_is_not_there_is_said_not_to_be(self, projects, synthesising):
        text = watch(projects, synthesising[0], after("slash", "q", "[", "x", "enter"))
        assert "the log does not hold 'q[x'" in text

    def test_escape_closes_the_search_without_leaving_the_screen(self, projects, synthesising):
        async def doings(pilot, app):
            await pilot.press("slash", "a", "escape")
            await pilot.pause(0.1)
            return isinstance(app.screen, RunScreen) and not app.screen.query_one("#search").has_class("-open")

        assert watch(projects, synthesising[0], doings)

    def test_e_goes_to_the_error_in_whichever_log_it_is(self, projects, synthesising):
        run, _ = synthesising
        run.worker_log.write_text("all is well\n" * 50 + "Traceback (most recent call last):\n" + "all is well\n" * 50)
        text = watch(projects, run, after("e"))
        assert "output of the worker" in text and "▸ Traceback" in text

    def test_scrolling_up_stays_there_while_lines_come_and_end_follows_again(self, projects, synthesising):
        run, _ = synthesising
        self.lines(run, 50)

        async def doings(pilot, app):
            await until(pilot, lambda text: "line 49" in text)
            app.screen.query_one(LogTail).focus()
            await pilot.press("home")
            await until(pilot, lambda text: "the run was started" in text)
            self.lines(run, 20, "more")
            await pilot.pause(1.3)
            assert "more 19" not in screen_text(app)
            await pilot.press("end")
            return await until(pilot, lambda text: "more 19" in text)

        watch(projects, run, doings)

    def test_of_a_gigabyte_only_the_end_is_read(self, projects, synthesising):
        run, _ = synthesising
        with run.worker_log.open("wb") as file:
            file.truncate(1 << 30)
            file.seek(0, 2)
            file.write(b"\nthe last line\n")
        begun = time.monotonic()
        text = watch(projects, run, after("o"))
        assert "the last line" in text and "1.0 GiB, the last 256 KiB" in text
        assert time.monotonic() - begun < 8

    def test_a_half_line_is_shown_once_it_stays_and_overwritten_bars_show_their_last(self, tmp_path):
        path = tmp_path / "log"
        tail = TextTail(path)
        assert tail.read() == []
        path.write_bytes(b"one\ntwo")
        assert [line.text for line in tail.read()] == ["one"]
        assert [line.text for line in tail.read()] == ["two"]
        path.write_bytes(b"anew\n")
        path.write_bytes(b"10%\r50%\r100%\r\n")
        assert [line.text for line in tail.read()] == ["100%"]

    @pytest.mark.parametrize(
        ("raw", "level"),
        [(b"ValueError: no", "error"), (b"UserWarning: hm", "warning"), (b"0 terrors", "info"), (b"error: no", "error")],
    )
    def test_errors_and_warnings_are_told_apart(self, raw, level):
        assert text_line(raw).level == level

    def test_control_characters_never_reach_the_terminal(self):
        assert text_line(b"  a\x1b]0;x\x07\xff\tb").text == "  a�]0;x��  b"
        assert len(text_line(b"x" * 1_000_000).text) == 2000


WORKER = """
import signal, sys, time
sys.path.insert(0, {home!r})
from pathlib import Path
from engine.runs.events import EventLog, MetricsWriter, write_heartbeat
run = Path({folder!r})
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


class TestARunThatHasEnded:
    @pytest.mark.parametrize("size", SIZES)
    def test_a_finished_one_shows_its_result_table_first(self, projects, make_run, size):
        run = make_run("done", stages=stages("evaluate", "done"), results=RESULTS, condensed={"images": 10, "image_bytes": 7680})
        text = watch(projects, run, text_of, size)
        assert "✓ done" in text.splitlines()[0]
        table = next(index for index, row in enumerate(text.splitlines()) if "over random" in row)
        assert " ".join(text.splitlines()[table + 1].split()) == "convnet-w32 condensed 61.20 ± 0.40 +5.15 ± 0.40 90.00 ± 0.40 2"
        assert text.splitlines()[table + 2].split()[:4] == ["random", "56.05", "±", "0.40"]
        assert table < next(index for index, row in enumerate(text.splitlines()) if "top-1 accuracy" in row)
        assert "x Stop" not in text and "r Resume" not in text

    @pytest.mark.parametrize("size", SIZES)
    def test_a_failed_one_says_why_shows_the_last_words_and_what_to_do(self, projects, make_run, size):
        steps = {"synthesise/condensed": {"status": "running", "folder": SYNTHESIS}}
        run = make_run("bad", status="failed", stages=stages("synthesise"), steps=steps)
        write_metrics(run.stages / SYNTHESIS, synthesis(120, bad_from=100))
        last = ["Traceback (most recent call last):", '  File "[b].py", line 3\x1b[2J']
        ending = {"t": time.time(), "pid": 7, "returncode": 1, "signal": None, "message": "the loss is no number", "last_lines": last}
        write_json(run.exit, ending)
        run.worker_log.write_text("\n".join(last) + "\n")
        text = watch(projects, run, text_of, size)
        rows = text.splitlines()
        assert "✗ failed" in rows[0] and "✗ synthesise" in rows[1]
        assert "the loss is no number" in " ".join(rows[3:6])
        assert "Traceback" in text and '  File "[b].py", line 3�[2J' in text
        assert "r goes on from the last checkpoint" in text and "r Resume" in rows[-1]
        assert "diverged at 100" in text and "×" in text
        assert "output of the worker" in text

    def test_the_best_on_the_test_set_is_called_what_it_is(self, projects, make_run):
        run = make_run("best", stages=stages("evaluate", "done"), results=RESULTS, select="best_on_test")
        assert "which flatters" in watch(projects, run, text_of)

    def test_a_table_too_long_for_the_screen_says_what_is_left_out(self, projects, make_run):
        rows = [RESULTS[1] | {"student": f"net{number:02}"} for number in range(30)]
        text = watch(projects, make_run("many", stages=stages("evaluate", "done"), results=rows), text_of)
        assert "net10" in text and "net29" not in text and "more, which `edc show` prints" in text

    def test_more_students_and_seeds_than_six_are_paged(self, projects, make_run):
        steps = {f"evaluate/condensed-net{n}-seed0": {"status": "done", "folder": f"6-evaluate/condensed-net{n}-seed0"} for n in range(8)}
        run = make_run("many", stages=stages("evaluate", "done"), steps=steps)
        for n, facts in enumerate(steps.values()):
            write_metrics(run.stages / facts["folder"], [(epoch, {"top1": 10.0 * n + epoch / 10}) for epoch in (10, 20, 30)])
        assert "lines 1-6 of 8" in watch(projects, run, text_of)
        assert "net7" in watch(projects, run, after("full_stop"))


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


class TestWhatIsWorkedOut:
    def test_the_stage_shown_is_the_current_one_or_the_last_with_curves(self, projects, live_run):
        for stage, shown in (("squeeze", "squeeze"), ("statistics", "squeeze"), ("initialise", "squeeze"), ("synthesise", "synthesise")):
            run, _ = live_run(f"at-{stage}", stage=stage, step="x", stages=stages(stage))
            assert stage_shown(RunFeed(run).look().view) == shown

    def test_the_time_left_counts_the_steps_of_the_stage_that_wait(self, projects, live_run):
        steps = {
            "evaluate/condensed-a-seed0": {"status": "done", "reused": False, "seconds": 30.0, "folder": "6-evaluate/a"},
            "evaluate/condensed-a-seed1": {"status": "running", "folder": "6-evaluate/b"},
            "evaluate/condensed-a-seed2": {"status": "waiting", "folder": "6-evaluate/c"},
        }
        run, beat = live_run("left", stage="evaluate", step="condensed-a-seed1", stages=stages("evaluate"), steps=steps)
        beat(done=60, total=100, rate=4.0)
        assert stage_left(RunFeed(run).look().view) == pytest.approx(10 + 30)

    def test_a_stage_that_was_at_work_when_the_run_ended_is_failed_or_stopped(self, projects, make_run):
        for status in ("failed", "stopped"):
            run = make_run(status, status=status, stages=stages("synthesise"))
            states = {state.name: state.state for state in stage_states(RunFeed(run).look().view)}
            assert states == {"squeeze": "reused", "statistics": "done", "initialise": "done", "synthesise": status, "evaluate": "waiting"}
