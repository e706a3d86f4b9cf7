"""The run screen, as someone uses it who watches a run, comes back to it, or wants to know why it failed."""

import asyncio
import platform
import time

import pytest
from app_driver import run_async, screen_svg, screen_text, until, write_metrics
from run_driver import RESULTS, SIZES, SYNTHESIS, after, stages, synthesis, text_of, watch

from edc_tui.app import EdcApp
from edc_tui.feed import RunFeed, stage_shown
from edc_tui.keys import KEYS
from edc_tui.screens.run import RunScreen
from edc_tui.time_left import Left
from edc_tui.widgets.cells import Cells
from edc_tui.widgets.chart import Chart
from edc_tui.widgets.log import LogTail
from edc_tui.widgets.stages import stage_states
from engine.files import write_json
from engine.runs.events import EventLog


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

    def test_a_folder_with_a_long_name_of_wide_characters_is_shown_whole(self, projects, make_run):
        run = make_run("a [b] 名前名前名前名前")
        facts = [row.partition("│ ")[2] for row in watch(projects, run, text_of).splitlines()]
        start = next(place for place, fact in enumerate(facts) if fact.startswith("folder"))
        told = "".join(facts[start:]).removeprefix("folder")
        assert str(run.folder).replace(" ", "") in told.replace(" ", "")

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

        async def doings(pilot, app):
            assert "mean of 8" in screen_text(app)
            for key, seen, gone in (
                ("m", "mean of 32", "mean of 8"),
                ("m", "matching loss", "mean of"),
                ("l", " log", "at work"),
                ("l", "matching loss", " log"),
                ("t", "at work", " log"),
            ):
                await pilot.press(key)
                await until(pilot, lambda text, seen=seen, gone=gone: seen in text and gone not in text.partition("events")[0])

        watch(projects, run, doings)

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

    def test_z_gives_the_log_the_whole_screen_and_leaves_the_way_back_in_sight(self, projects, synthesising):
        run, _ = synthesising

        async def doings(pilot, app):
            app.screen.query_one(LogTail).focus()
            await pilot.press("z")
            alone = await until(pilot, lambda text: "matching loss" not in text)
            assert app.screen.query_one(LogTail).size.height > 30
            assert "the run was started" in alone and "▶ running" in alone.splitlines()[0]
            assert "esc Everything" in alone.splitlines()[-1] and "m Smooth" not in alone
            await pilot.press("escape")
            return await until(pilot, lambda text: "matching loss" in text)

        watch(projects, run, doings)

    def test_c_shows_the_next_chart_where_one_is_alone(self, projects, synthesising):
        run, _ = synthesising
        text = watch(projects, run, after("z", "c"))
        assert "classification loss" in text and "matching loss" not in text

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
        assert RunFeed(run).look().view.left.stage == pytest.approx(10 + 30)

    def test_the_time_left_of_the_whole_run_is_that_of_past_runs_like_it(self, projects, live_run, make_run):
        told = {"student": "a", "protocol": "published", "labels": "online"}
        steps = {
            "synthesise/condensed": {"status": "running", "seconds": 9.0, "folder": SYNTHESIS},
            "evaluate/condensed-a-seed0": {"status": "waiting", "folder": "6-evaluate/a", "set": "condensed", **told},
            "evaluate/random-a-seed0": {"status": "waiting", "folder": "6-evaluate/b", "set": "random", **told},
        }
        run, beat = live_run("left", step="condensed", stages=stages("synthesise"), steps=steps)
        beat(done=60, total=100, rate=4.0)
        assert RunFeed(run).look().view.left == Left(10.0, None)  # nobody knows how long a student takes
        earlier = {"status": "done", "seconds": 1795.0, "set": "condensed", **told}
        past = make_run("past", steps={"evaluate/condensed-a-seed7": earlier})
        for one in (run, past):
            frozen = f'host = "{platform.node()}"\ndevice = "cpu"\nclasses = ["a", "b"]\n'
            one.run_toml.write_text(one.run_toml.read_text() + frozen + "[evaluate]\nepochs = 300\n")
        assert RunFeed(run).look().view.left == Left(10.0, 3600.0)
        text = watch(projects, run, text_of)
        assert "done in about 1.0 h" in text.splitlines()[0] and "10 s left" in text.splitlines()[2]

    def test_a_stage_that_was_at_work_when_the_run_ended_is_failed_or_stopped(self, projects, make_run):
        for status in ("failed", "stopped"):
            run = make_run(status, status=status, stages=stages("synthesise"))
            states = {state.name: state.state for state in stage_states(RunFeed(run).look().view)}
            assert states == {"squeeze": "reused", "statistics": "done", "initialise": "done", "synthesise": status, "evaluate": "waiting"}
