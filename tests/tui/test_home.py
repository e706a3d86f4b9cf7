"""What a user sees on the home screen, and how one goes about in it."""

import os
import time
from importlib import resources
from pathlib import Path

import pytest
from app_driver import check_snapshot, screen_text, until
from home_driver import SIZES, lines_with, look, use
from textual.widgets import Input

from edc_tui.app import EdcApp
from edc_tui.screens.home import HomeScreen
from edc_tui.watch import Lister
from engine.files import write_json


class TestAnEmptyFolder:
    def test_offers_the_quickstart_and_says_what_it_takes(self, projects):
        text = look(projects)
        assert "Try the quickstart" in text
        assert "About a minute on two" in text and "nothing is downloaded" in text

    def test_the_quickstart_is_written_and_started_after_a_yes(self, projects, monkeypatch):
        started = []
        monkeypatch.setattr(EdcApp, "start_run", lambda self, path: started.append(path))

        async def doings(pilot, app):
            await pilot.press("t")
            assert "quickstart.toml is written into" in " ".join(screen_text(app).split())
            assert not list(projects.iterdir())
            await pilot.press("y")

        use(projects, doings)
        assert started == [projects / "quickstart.toml"]
        assert 'name = "digits"' in started[0].read_text()

    def test_nothing_is_written_after_a_no(self, projects):
        async def doings(pilot, app):
            await pilot.press("t", "n")
            assert isinstance(app.screen, HomeScreen)

        use(projects, doings)
        assert not list(projects.iterdir())

    def test_the_quickstart_is_the_recipe_that_ships(self):
        shipped = Path(__file__).parents[2] / "projects" / "quickstart.toml"
        assert (resources.files("edc_tui") / "quickstart.toml").read_text() == shipped.read_text()


class TestTheList:
    def test_shows_projects_and_below_them_their_runs_with_status_and_accuracy(self, projects, make_run):
        run = make_run("first", top1=61.5)
        make_run("first", status="failed")
        text = look(projects)
        (line,) = lines_with(text, run.id)[:1]
        assert "✓ done" in line and "61.50" in line
        assert "2 runs" in lines_with(text, "▾ first")[0]
        assert "it did not work" in lines_with(text, "✗ failed")[0]

    def test_shows_a_project_without_runs(self, projects, make_run):
        (projects / "idle.toml").write_text('schema = 1\n[dataset]\nname = "cifar10"\n[condense]\nmethod = "rded"\nipc = 50\n')
        line = lines_with(look(projects), "idle")[0]
        assert "no runs yet" in line and "rded" in line and "cifar10" in line and "50" in line

    def test_a_file_that_describes_a_sweep_is_called_one_and_says_how_it_is_run(self, projects):
        path = projects / "grid.toml"
        path.write_text('schema = 1\n[dataset]\nname = "digits"\n[sweep]\nover = { "evaluate.zeta" = [1.0, 2.0] }\n')

        async def doings(pilot, app):
            line = lines_with(screen_text(app), "  grid")[0]
            keys = {active.binding.action for active in app.screen.active_bindings.values() if active.enabled}
            await pilot.press("s", "e", "enter")
            told = await until(pilot, lambda text: "--dry-run" in text)
            return line, keys, told, app.opened

        line, keys, told, opened = use(projects, doings, (200, 60))
        assert "a sweep" in line and "digits" in line and "makes several projects: `edc sweep grid` runs them" in line
        assert "0 projects" in told.splitlines()[0] and "grid.toml makes several projects" in told
        assert not {"start", "edit"} & keys and {"open", "new"} <= keys
        assert opened == []

    def test_every_sweep_that_ships_is_called_one(self, projects):
        recipes = Path(__file__).parents[2] / "projects"
        sweeps = {path.stem for path in recipes.glob("*.toml") if "[sweep]" in path.read_text().splitlines()}
        assert sweeps and {file.name for file in Lister(recipes).files() if file.sweep} == sweeps

    def test_shows_stage_progress_and_time_left_of_a_run_at_work(self, projects, live_run):
        run, beat = live_run()
        beat(done=45, total=100, rate=5.0)
        line = lines_with(look(projects), run.id)[0]
        assert "▶ running" in line and "synthesise" in line and " 45% " in line and "11 s" in line

    def test_follows_a_run_as_it_goes_on(self, projects, live_run):
        run, beat = live_run()

        async def doings(pilot, app):
            await until(pilot, lambda text: " 10% " in lines_with(text, run.id)[0])
            beat(done=77, total=100)
            await until(pilot, lambda text: " 77% " in lines_with(text, run.id)[0])

        use(projects, doings)

    def test_shows_a_run_that_something_else_has_started(self, projects, make_run):
        make_run("first")

        async def doings(pilot, app):
            assert "second" not in screen_text(app)
            make_run("second")
            await until(pilot, lambda text: "second" in text)

        use(projects, doings)

    @pytest.mark.parametrize("size", SIZES)
    def test_fits_at_every_size(self, projects, make_run, live_run, size):
        make_run("first", top1=61.5)
        live_run("second")
        text = look(projects, size)
        assert "61.50" in text and "running" in text and "synthesise" in text
        assert all(len(line) <= size[0] for line in text.splitlines())
        assert "Help" in text.splitlines()[-1] and "Leave" in text.splitlines()[-1]

    def test_tells_what_has_happened_the_latest_first(self, projects, make_run):
        make_run("old", top1=50.0)
        time.sleep(0.02)
        make_run("new", status="failed")
        lines = look(projects).partition("lately")[2].splitlines()
        assert "new" in lines[1] and "failed" in lines[1]
        assert "old: finished" in lines[2] and "top-1 50.00 %" in lines[2]


class TestMoving:
    def test_enter_opens_the_run_under_the_cursor_and_the_form_of_a_project(self, projects, make_run):
        run = make_run("first")

        async def doings(pilot, app):
            await pilot.press("enter", "j", "enter")
            return app.opened

        assert use(projects, doings) == [("project", projects / "first.toml"), ("run", run.id)]

    def test_the_cursor_stays_on_its_run_when_another_appears_above(self, projects, make_run):
        run = make_run("first")

        async def doings(pilot, app):
            await pilot.press("j")
            newer = make_run("first")
            await until(pilot, lambda text: newer.id in text)
            await pilot.press("enter")
            return app.opened

        assert use(projects, doings) == [("run", run.id)]

    def test_a_double_click_opens(self, projects, make_run):
        run = make_run("first")

        async def doings(pilot, app):
            await pilot.click("#runs", offset=(10, 2), times=2)
            await pilot.pause()
            return app.opened

        assert use(projects, doings) == [("run", run.id)]

    def test_a_project_is_folded_and_unfolded(self, projects, make_run):
        run = make_run("first")

        async def doings(pilot, app):
            await pilot.press("left")
            assert not lines_with(screen_text(app).partition("lately")[0], run.id)
            await pilot.press("right")
            assert lines_with(screen_text(app).partition("lately")[0], run.id)

        use(projects, doings)

    def test_five_hundred_runs_scroll_without_delay(self, projects, make_run):
        first = make_run("many")
        for index in range(499):
            folder = first.folder.with_name(f"20200101-{index:06d}-aaaa")
            folder.mkdir()
            for file in (first.run_toml, first.summary, first.exit):
                os.link(file, folder / file.name)

        async def doings(pilot, app):
            await until(pilot, lambda text: "500 runs" in text)
            began = time.monotonic()
            await pilot.press("end", *["k"] * 20, "home", *["pagedown"] * 5)
            passed = time.monotonic() - began
            await pilot.press("end", "enter")
            return app.opened, passed

        opened, passed = use(projects, doings)
        assert opened == [("run", "20200101-000000-aaaa")]
        assert passed < 5


class TestSortingAndFiltering:
    def order(self, text, *names):
        found = text.partition("lately")[0]
        return sorted(names, key=found.index)

    def test_sorts_by_accuracy_and_remembers_that(self, projects, make_run):
        good, better, best = make_run("a", top1=50.0), make_run("b", top1=70.0), make_run("c", top1=90.0)
        ids = [run.id for run in (good, better, best)]

        async def doings(pilot, app):
            await pilot.press("o", "down", "enter")
            await pilot.pause()
            return screen_text(app)

        assert self.order(use(projects, doings), *ids) == [best.id, better.id, good.id]
        assert "by accuracy" in look(projects)

    def test_a_click_on_a_title_sorts(self, projects, make_run):
        make_run("zebra"), make_run("aard")

        async def doings(pilot, app):
            await pilot.click("#runs", offset=(5, 0))
            await pilot.pause()
            return screen_text(app)

        assert self.order(use(projects, doings), "zebra", "aard") == ["aard", "zebra"]

    def test_a_filter_keeps_what_fits_while_one_types(self, projects, make_run):
        make_run("low", top1=50.0), make_run("high", top1=70.0)

        async def doings(pilot, app):
            await pilot.press("slash", *"acc>60")
            text = await until(pilot, lambda text: "1 of 2" in text)
            assert "high" in text.partition("lately")[0] and "low" not in text.partition("lately")[0]
            await pilot.press("enter", "escape")
            await until(pilot, lambda text: "low" in text.partition("lately")[0])

        use(projects, doings)

    def test_a_term_that_makes_no_sense_is_told_and_the_list_stays(self, projects, make_run):
        make_run("first")

        async def doings(pilot, app):
            await pilot.press("slash", *"acc>lots")
            return await until(pilot, lambda text: "acc is a number" in text)

        assert "first" in use(projects, doings)

    def test_runs_alone_are_listed_flat(self, projects, make_run):
        make_run("first"), make_run("second")

        async def doings(pilot, app):
            await pilot.press("f")
            return screen_text(app).partition("lately")[0]

        text = use(projects, doings)
        assert "▾" not in text and "first  2" in text


class TestThingsThatAreBroken:
    def test_broken_files_are_told_in_place(self, projects, make_run):
        run = make_run("first")
        run.summary.write_text("{")
        (projects / "torn.toml").write_text("schema = [")
        text = look(projects, (200, 60))
        assert "summary.json is not valid JSON" in lines_with(text, run.id)[0]
        assert "not valid TOML" in lines_with(text, "torn")[0]

    def test_a_run_whose_project_file_is_gone_is_still_there(self, projects, make_run):
        run = make_run("first", top1=50.0)
        (projects / "first.toml").unlink()
        text = look(projects, (200, 60))
        assert run.id in text and "the project file is gone" in text

    @pytest.mark.parametrize("name", ["[bold]a[bold]", "条件蒸馏", "a\x1b[31mred", "two\nlines", "[red", "x" * 200])
    def test_odd_names_are_shown_and_steer_nothing(self, projects, make_run, name):
        run = make_run("first", top1=50.0)
        (projects / "first").rename(projects / name)
        (projects / "first.toml").unlink()
        (projects / f"{name}.toml").write_text("schema = 1\n")
        listing = Lister(projects).runs()[0]
        assert listing.run.project == name

        async def doings(pilot, app):
            await pilot.press("end", "space", "d")
            text = await until(pilot, lambda text: "Remove run" in text)
            await pilot.press("escape")
            return text

        text = use(projects, doings)
        assert run.id in text and "\x1b" not in text
        assert name[:5] in text or "\ufffd" in text or "two lines" in text

    def test_odd_values_in_a_summary_harm_nothing(self, projects, make_run):
        run = make_run("first")
        results = [{"set": "condensed", "top1": {"mean": "NaN"}}, 3, None]
        write_json(run.summary, {"results": results, "method": ["x"], "ipc": {"a": 1}, "stages": 7})
        assert run.id in look(projects)

    def test_a_heartbeat_of_nonsense_harms_nothing(self, projects, live_run):
        run, beat = live_run()
        for odd in ({"done": "NaN", "total": "Infinity"}, {"done": -5, "total": 0}, {"rate": "NaN", "unit": 7, "stage": ["x"]}):
            beat(**odd)
            assert run.id in look(projects)

    def test_no_folder_at_all_is_an_empty_folder(self, tmp_path, projects):
        assert "Try the quickstart" in look(tmp_path / "nowhere")


def test_the_filter_field_takes_the_letters_that_are_keys_elsewhere(projects, make_run):
    make_run("first")

    async def doings(pilot, app):
        await pilot.press("slash", *"qnsxj?")
        return app.screen.query_one("#filter", Input).value

    assert use(projects, doings) == "qnsxj?"


@pytest.mark.parametrize("size", SIZES)
class TestLooks:
    """What the screen looks like at every size, kept in snapshots/."""

    @pytest.fixture(autouse=True)
    def still(self, monkeypatch):
        monkeypatch.setattr("edc_tui.screens.home_rows.age", lambda run, now: 3600.0)
        monkeypatch.setattr("edc_tui.screens.home._short", lambda path: "projects")
        monkeypatch.setattr("edc_tui.widgets.welcome.printable", lambda path: "projects")
        monkeypatch.setattr("edc_tui.widgets.resources.ResourceStrip.draw", lambda self, canvas: None)

    def test_with_runs(self, projects, make_run, live_run, size):
        _, beat = live_run("cifar10-edc-ipc10")
        beat(done=1830, total=4000, rate=3.2)
        make_run("cifar10-edc-ipc10", top1=79.13, dataset="cifar10", ipc=10)
        make_run("digits-rded", status="failed", method="rded")
        make_run("digits-rded", status="stopped", method="rded")
        (projects / "idle.toml").write_text('schema = 1\n[dataset]\nname = "imagenet-1k"\n[condense]\nmethod = "g-vbsm"\nipc = 1\n')
        (projects / "torn.toml").write_text("schema = [")
        for name in ("idle", "torn"):
            os.utime(projects / f"{name}.toml", (1.0, 1.0))

        async def doings(pilot, app):
            await pilot.press("j", "space", "space")
            await pilot.pause(0.2)
            return screen_text(app)

        check_snapshot(f"home-{size[0]}x{size[1]}", use(projects, doings, size))

    def test_without(self, projects, size):
        async def doings(pilot, app):
            await pilot.pause(0.2)
            return screen_text(app)

        check_snapshot(f"empty-{size[0]}x{size[1]}", use(projects, doings, size))
