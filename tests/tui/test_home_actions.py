"""What a user does to runs on the home screen: marks, starts, stops, resumes and removes them, and answers what is asked."""

from app_driver import asked, screen_text, until
from home_driver import lines_with, use

from edc_tui.screens.dialogs import Confirm
from edc_tui.screens.home import HomeScreen
from engine.commands.outline import Outline, StageOutline


class TestMarks:
    def test_marked_runs_are_compared_in_the_order_of_their_marks(self, projects, make_run):
        runs = [make_run("first") for _ in range(3)]

        async def doings(pilot, app):
            await pilot.press("j", "space", "space", "c")
            return app.opened

        assert use(projects, doings) == [("compare", [runs[2].id, runs[1].id])]

    def test_one_mark_is_not_enough_to_compare_and_the_key_is_not_offered(self, projects, make_run):
        make_run("first")

        async def doings(pilot, app):
            await pilot.press("j")
            assert "Compare" not in screen_text(app)
            await pilot.press("space", "c")
            return app.opened

        assert use(projects, doings) == []

    def test_escape_takes_the_marks_back(self, projects, make_run):
        make_run("first")

        async def doings(pilot, app):
            await pilot.press("j", "space")
            assert "1 marked" in screen_text(app)
            await pilot.press("escape")
            assert "marked" not in screen_text(app)

        use(projects, doings)


class TestDoingSomethingToRuns:
    def test_stop_asks_and_says_what_will_happen_and_then_asks_the_run(self, projects, live_run):
        run, _ = live_run()

        async def doings(pilot, app):
            await pilot.press("j", "x")
            text = await until(pilot, lambda text: "Stop run" in text)
            assert "A checkpoint is written" in text and "synthesise at 10 of 100" in text
            assert not run.stop_request.exists()
            await pilot.press("y")
            await until(pilot, lambda text: "was asked to stop" in text)

        use(projects, doings)
        assert run.stop_request.exists()

    def test_stop_is_not_offered_for_a_run_that_is_done(self, projects, make_run):
        make_run("first")

        async def doings(pilot, app):
            await pilot.press("j", "x")
            assert "Stop" not in screen_text(app) and isinstance(app.screen, HomeScreen)

        use(projects, doings)

    def test_remove_asks_with_no_as_the_answer_of_enter(self, projects, make_run):
        run = make_run("first")

        async def doings(pilot, app):
            await pilot.press("j", "d")
            await until(pilot, lambda text: "This cannot be undone." in text)
            await pilot.press("enter")
            assert run.folder.exists()
            await pilot.press("d")
            await until(pilot, lambda text: "This cannot be undone." in text)
            await pilot.press("y")
            await until(pilot, lambda text: f"removed {run.id}" in text)

        use(projects, doings)
        assert not run.folder.exists()
        assert (projects / "first.toml").exists()

    def test_several_marked_runs_are_removed_together(self, projects, make_run):
        runs = [make_run("first") for _ in range(3)]

        async def doings(pilot, app):
            await pilot.press("j", "space", "space", "d")
            await until(pilot, lambda text: "Remove 2 runs?" in text)
            await pilot.press("y")
            await until(pilot, lambda text: "removed 2 runs" in text)

        use(projects, doings)
        assert [run.folder.exists() for run in runs] == [True, False, False]

    def test_resume_says_where_it_goes_on_and_starts_it(self, projects, make_run, monkeypatch):
        run = make_run("first", status="stopped")
        started = []
        monkeypatch.setattr("engine.runs.process.start_detached", lambda folder: started.append(folder) or 1)

        async def doings(pilot, app):
            await pilot.press("j", "r")
            assert "last checkpoint" in screen_text(app)
            await pilot.press("y")
            await until(pilot, lambda text: "goes on" in text)

        use(projects, doings)
        assert started == [run.folder]

    def test_what_goes_wrong_is_told_in_one_line_and_stays_in_the_list(self, projects):
        (projects / "bad.toml").write_text('schema = 1\n[dataset]\nname = "nosuch"\n')

        async def doings(pilot, app):
            await pilot.press("s")
            return await until(pilot, lambda text: "nosuch" in text.partition("lately")[2], seconds=30)

        # The message is wrapped, and where depends on the length of the folder's name.
        told = "".join(line.partition("▌")[2] for line in use(projects, doings).splitlines())
        assert "bad.toml:3:dataset.name:" in told.replace(" ", "")

    def test_start_says_how_long_it_takes_by_past_runs(self, projects, make_run, monkeypatch):
        make_run("first")
        plan = Outline(10, 16, 1198, 599, "cpu", "float32", (StageOutline("evaluate", 6, 2, 60, 600, 0, 754.0, 1),), None)
        monkeypatch.setattr("engine.commands.outline.outline", lambda *args, **options: plan)

        async def doings(pilot, app):
            await pilot.press("s")
            await until(pilot, lambda text: "Start first?" in text)
            return asked(app)

        told = "6 steps, 2 of them finished already; about 12 min and 1 step that no past run tells of"
        assert told in use(projects, doings)

    def test_start_says_what_it_will_do_before_it_does_it(self, projects):
        (projects / "small.toml").write_text('schema = 1\n[dataset]\nname = "digits"\n[condense]\nmethod = "edc"\nipc = 1\n')

        async def doings(pilot, app):
            await pilot.press("s")
            text = await until(pilot, lambda text: "Start small?" in text, seconds=30)
            await pilot.press("escape")
            return text

        text = use(projects, doings)
        assert "It begins a new run." in text and "in the background" in text
        assert not (projects / "small").exists()


class TestCopying:
    def test_y_copies_the_id_and_capital_y_the_path_as_on_the_screen_of_a_run(self, projects, make_run, tmp_path):
        run = make_run("first")

        async def doings(pilot, app):
            await pilot.press("Y")
            project = app.clipboard
            await pilot.press("j", "y")
            first = app.clipboard, (tmp_path / "state/edc/copied.txt").read_text()
            await pilot.press("Y")
            return [project, *first, app.clipboard]

        assert use(projects, doings) == [str(projects / "first.toml"), run.id, run.id + "\n", str(run.folder)]


class TestDialogs:
    def test_what_a_question_is_about_stays_in_sight(self, projects, make_run):
        run = make_run("first", top1=61.5)

        async def doings(pilot, app):
            await pilot.press("j", "d")
            text = await until(pilot, lambda text: "Remove run" in text)
            assert "61.50" in lines_with(text, run.id)[0] and "top-1 %" in text

        use(projects, doings)

    def test_a_click_beside_a_list_takes_nothing(self, projects, make_run):
        make_run("first")

        async def doings(pilot, app):
            await pilot.press("o")
            await until(pilot, lambda text: "Sort by" in text)
            await pilot.click(offset=(1, 1))
            return await until(pilot, lambda text: "Sort by" not in text)

        assert "by " not in use(projects, doings).splitlines()[0]

    def test_a_click_beside_the_box_means_no(self, projects, make_run):
        run = make_run("first")

        async def doings(pilot, app):
            await pilot.press("j", "d")
            await until(pilot, lambda text: isinstance(app.screen, Confirm))
            await pilot.click(offset=(1, 1))
            assert isinstance(app.screen, HomeScreen)

        use(projects, doings)
        assert run.folder.exists()

    def test_the_arrows_go_from_button_to_button(self, projects, make_run):
        run = make_run("first")

        async def doings(pilot, app):
            await pilot.press("j", "d")
            await until(pilot, lambda text: isinstance(app.screen, Confirm))
            await pilot.press("left", "enter")
            await until(pilot, lambda text: "removed" in text)

        use(projects, doings)
        assert not run.folder.exists()
