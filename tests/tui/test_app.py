"""The app as a whole: the command palette, colours, slow links, and news from other places."""

import pytest
from app_driver import screen_svg, screen_text, until, use
from textual.widgets import Input

from edc_tui.app import EdcApp
from edc_tui.cli import farewell
from edc_tui.machine import read_gpus
from edc_tui.screens.home import HomeScreen
from edc_tui.settings import read_state


class TestTheCommandPalette:
    def test_lists_what_can_be_done_now_and_nothing_else(self, projects, make_run):
        make_run("first")

        async def doings(pilot, app):
            await pilot.press("j", "ctrl+p")
            return await until(pilot, lambda text: "Mark the run" in text)

        text = use(projects, doings, size=(120, 60))
        assert "Start" in text and "Leave" in text
        assert "Compare  (c)" not in text and "Stop  (x)" not in text and "Try quickstart" not in text

    def test_does_what_is_chosen(self, projects, make_run):
        make_run("first")

        async def doings(pilot, app):
            await pilot.press("ctrl+p", *"sort by newest")
            await until(pilot, lambda text: "Sort  (o)" in text)
            await pilot.press("enter")
            return await until(pilot, lambda text: "accuracy" in text)

        use(projects, doings)

    def test_finds_runs_by_name(self, projects, make_run, monkeypatch):
        run = make_run("some[thing]")
        opened = []
        monkeypatch.setattr(EdcApp, "open_run", lambda self, run: opened.append(run))

        async def doings(pilot, app):
            await pilot.press("ctrl+p", *"open some")
            await until(pilot, lambda text: "Open some[thing]" in text)
            await pilot.press("enter")
            await pilot.pause(0.2)

        use(projects, doings)
        assert [found.id for found in opened] == [run.id]


class TestWhatIsTyped:
    def test_no_cursor_blinks_since_that_would_send_bytes_for_ever(self, projects, make_run):
        make_run("first")

        async def doings(pilot, app):
            fields = []
            for keys in (("slash",), ("escape", "ctrl+p"), ("escape", "n", "slash")):
                await pilot.press(*keys)
                await until(pilot, lambda text: isinstance(app.focused, Input))
                fields.append(app.focused)
            return [field.cursor_blink for field in fields]

        assert use(projects, doings) == [False, False, False]


class TestColours:
    @pytest.mark.parametrize("theme", ["edc-dark", "edc-light", "ansi-dark", "ansi-light", "nord"])
    def test_every_theme_draws(self, projects, make_run, theme):
        make_run("first", top1=50.0)
        svg = use(projects, _svg, theme=theme)
        assert svg.startswith("<svg") and "first" in svg

    def test_the_same_screen_is_the_same_picture(self, projects):
        assert use(projects, _svg) == use(projects, _svg)

    def test_a_theme_that_is_chosen_is_remembered(self, projects):
        async def choose(pilot, app):
            app.theme = "edc-light"
            await pilot.pause()

        async def seen(pilot, app):
            return app.theme

        use(projects, choose)
        assert use(projects, seen) == "edc-light"

    def test_a_theme_of_the_command_line_holds_for_this_time_alone(self, projects):
        async def seen(pilot, app):
            return app.theme

        assert use(projects, seen, theme="nord") == "nord"
        assert use(projects, seen) == "edc-dark" and "theme" not in read_state()

    def test_a_slow_link_takes_the_terminals_own_colours_and_half_the_ticks(self, projects):
        async def seen(pilot, app):
            return app.theme, app.interval, app.animation_level

        assert use(projects, seen, slow_link=True) == ("ansi-dark", 2.0, "none")

    def test_a_broken_memory_is_as_none(self, projects, tmp_path):
        (tmp_path / "state" / "edc").mkdir(parents=True)
        (tmp_path / "state" / "edc" / "tui.json").write_text('{"theme": 3, "order": ["x"], "grouped": "?"}')

        async def seen(pilot, app):
            return app.theme

        assert use(projects, seen) == "edc-dark"


async def _svg(pilot, app):
    app.screen.query_one("ResourceStrip").display = False  # as busy as the machine is
    await pilot.pause(0.2)
    return screen_svg(app)


class TestTelling:
    def test_what_is_told_is_printed_literally(self, projects):
        async def doings(pilot, app):
            app.tell("[bold]run[/bold] \x1b[31m[/] [red", "error")
            return await until(pilot, lambda text: "[bold]run[/bold]" in text)

        assert "\x1b" not in use(projects, doings)

    def test_back_ends_at_the_home_screen(self, projects):
        async def doings(pilot, app):
            await pilot.press("question_mark", "escape", "escape", "escape")
            assert isinstance(app.screen, HomeScreen)
            assert "Back" not in screen_text(app)

        use(projects, doings)


class TestLeaving:
    def test_says_which_runs_continue(self, projects, live_run, monkeypatch):
        monkeypatch.setenv("EDC_PROJECTS", str(projects))
        run, _ = live_run()
        use(projects, _nothing)

        async def doings(pilot, app):
            return farewell(app)

        assert use(projects, doings) == [f"1 run continues: edc tail {run.id}"]

    def test_names_the_folder_where_the_id_would_not_be_found(self, projects, live_run, monkeypatch):
        monkeypatch.delenv("EDC_PROJECTS", raising=False)
        live_run("one"), live_run("two")

        async def doings(pilot, app):
            return farewell(app)

        (line,) = use(projects, doings)
        assert line.startswith("2 runs continue: edc tail ") and str(projects) in line

    def test_says_nothing_when_nothing_is_at_work(self, projects, make_run):
        make_run("first")

        async def doings(pilot, app):
            return farewell(app)

        assert use(projects, doings) == []


async def _nothing(pilot, app):
    return None


class TestGpus:
    def test_reads_what_the_driver_says(self):
        gpus = read_gpus("0, NVIDIA H100 80GB HBM3, 83, 41000, 81559, 61\n1, NVIDIA A100, [N/A], 10, 40960, [Not Supported]\n")
        assert [gpu.load for gpu in gpus] == [83.0, None]
        assert gpus[0].used == 41000 * 2**20 and gpus[1].temperature is None

    def test_leaves_out_what_is_no_line_of_a_gpu(self):
        assert read_gpus("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") == ()
