"""What becomes of a project's file on the project screen: begun, changed, saved, changed by others, planned and started."""

import os

import pytest
from app_driver import run_async, screen_text, until
from form_driver import BY_HAND, Recorder, drive, go, hand_written, told, types
from textual.widgets import Input

from edc_tui.screens.project import ProjectScreen
from edc_tui.widgets.form_preview import preview_lines
from engine.project.files import load_project


class TestANewProject:
    def test_from_nothing_to_a_saved_file_that_resolves_to_what_was_chosen(self, projects):
        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "1")
            await pilot.press("enter")
            await go(pilot, "observers.synthesis")
            await pilot.press("enter")
            await types(pilot, "convnet-d1-w8-bn")
            await pilot.press("enter", "enter")
            await go(pilot, "evaluate.epochs")
            await pilot.press("enter")
            await types(pilot, "40")
            await pilot.press("enter")
            await go(pilot, "labels.mix")
            await pilot.press("right")
            await go(pilot, "initialise.flip")
            await pilot.press("space")
            await pilot.press("s")
            text = await until(pilot, lambda text: "Name of the project" in text)
            assert "digits-edc-ipc1" in text, "a name is suggested"
            await pilot.press("ctrl+u")
            await types(pilot, "tiny")
            await pilot.press("enter")
            await until(pilot, lambda text: "tiny.toml" in text and "not saved" not in text)

        drive(projects, act)
        project = load_project(projects / "tiny.toml").project
        assert project.condense.ipc == 1
        assert project.observers.synthesis[-1] == "convnet-d1-w8-bn"
        assert project.evaluate.epochs == 40
        assert project.labels.mix == "mixup"
        assert project.initialise.flip is False
        assert project.title == "edc on digits, 1 image per class"

    @pytest.mark.parametrize("name", ["", "a/b", ".hidden", "-x", "mine"])
    def test_a_name_that_cannot_be_had_is_refused_and_nothing_is_written(self, projects, name):
        hand_written(projects)

        async def act(pilot, app):
            await pilot.press("s")
            await until(pilot, lambda text: "Name of the project" in text)
            app.screen.query_one(Input).value = name
            await pilot.press("enter")
            await until(pilot, lambda text: "use a file name" in text or "exists already" in text)
            await pilot.press("escape")
            await until(pilot, lambda text: "new project" in text)

        drive(projects, act)
        assert [path.name for path in projects.glob("*.toml")] == ["mine.toml"]
        assert (projects / "mine.toml").read_text() == BY_HAND

    def test_is_named_and_saved_with_the_mouse_alone(self, projects):
        async def act(pilot, app):
            await pilot.click("#save")
            await until(pilot, lambda text: "Name of the project" in text)
            await pilot.click(offset=(1, 20))
            await until(pilot, lambda text: "Name of the project" not in text)
            await pilot.click("#save")
            await until(pilot, lambda text: "Name of the project" in text)
            await pilot.click("#yes")
            await until(pilot, lambda text: "Name of the project" not in text)

        drive(projects, act)
        assert [path.name for path in projects.glob("*.toml")] == ["digits-edc-ipc10.toml"]

    def test_leaving_one_that_was_not_touched_asks_nothing(self, projects):
        async def act(pilot, app):
            await pilot.press("escape")
            await until(pilot, lambda text: "The file as it will be saved" not in text)
            assert not isinstance(app.screen, ProjectScreen)

        drive(projects, act)
        assert list(projects.glob("*.toml")) == []

    def test_its_commented_values_are_those_of_the_chosen_method(self, projects):
        async def act(pilot, app):
            await go(pilot, "condense.method")
            await pilot.press("enter")
            await types(pilot, "sre2l")
            await pilot.press("enter")
            await pilot.pause()
            return app.screen.draft.text

        text = drive(projects, act)
        assert 'method = "sre2l"' in text
        assert "# iterations = 1000" in text


class TestAFileWrittenByHand:
    def test_keeps_every_byte_outside_the_values_that_were_changed(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "20")
            await pilot.press("enter")
            await go(pilot, "flatness.weight")
            await types(pilot, "0.5")
            await pilot.press("enter", "ctrl+s")
            await until(pilot, lambda text: "saved" in text and "not saved" not in text)

        drive(projects, act, path=path)
        assert path.read_bytes().decode() == BY_HAND.replace("ipc   =   5 ", "ipc   =   20 ") + "\n[flatness]\nweight = 0.5\n"

    def test_keeps_its_line_endings(self, projects):
        path = hand_written(projects, BY_HAND.replace("\n", "\r\n"))

        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "20")
            await pilot.press("enter", "s")
            await until(pilot, lambda text: "not saved" not in text)
            await pilot.pause(0.1)

        drive(projects, act, path=path)
        assert path.read_bytes().decode() == BY_HAND.replace("ipc   =   5 ", "ipc   =   20 ").replace("\n", "\r\n")

    def test_is_not_rewritten_by_opening_and_closing_its_lines(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            for name in ("evaluate.seeds", "condense.method", "condense.ipc", "evaluate.students"):
                await go(pilot, name)
                await pilot.press("enter")
                await pilot.pause()
                await pilot.press("enter")
                await pilot.pause()
            assert app.screen.draft.text == BY_HAND

        drive(projects, act, path=path)

    def test_shows_what_is_new_in_it_beside_the_form(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "20")
            return await until(pilot, lambda text: "+ ipc   =   20" in text)

        text = drive(projects, act, path=path)
        assert "- ipc   =   5" in text
        assert "not saved" in text

    def test_with_a_key_that_does_not_exist_says_so_above_the_form(self, projects):
        path = hand_written(projects, BY_HAND + "epoch = 5\n")
        text = drive(projects, lambda pilot, app: until(pilot, lambda text: "did you mean" in text), path=path)
        assert "✗ evaluate.epoch: no such key; did you mean evaluate.epochs?" in text
        assert "1 problem" in text

    def test_that_is_not_toml_is_shown_with_its_line_and_can_be_opened_in_an_editor(self, projects, monkeypatch):
        path = hand_written(projects, "[dataset\n")
        monkeypatch.setenv("VISUAL", "ed")

        async def act(pilot, app):
            await until(pilot, lambda text: "not valid TOML" in text)
            await go(pilot, "condense.ipc")
            await types(pilot, "3")
            await pilot.press("enter")
            await until(pilot, lambda text: "e opens the file in an editor" in text)
            app.edit = lambda path: path.write_text(BY_HAND)
            await pilot.press("e")
            await until(pilot, lambda text: "by hand" in text)
            assert app.edited == [(path, "ed")]
            assert app.screen.draft.problems == {}

        drive(projects, act, path=path)

    def test_that_is_missing_is_told_and_the_screen_closes(self, projects):
        async def main():
            app = Recorder(projects)
            async with app.run_test(size=(80, 24)) as pilot:
                app.open_project(projects / "gone.toml")
                await until(pilot, lambda text: any("no such project file" in line for line in told(app)))
                await until(pilot, lambda text: not isinstance(app.screen, ProjectScreen))

        run_async(main())


class TestAnEditorBesideIt:
    def changed_meanwhile(self, projects, answer, *, theirs=BY_HAND.replace("by hand", "by editor"), size=(120, 40)):
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "20")
            await pilot.press("enter")
            path.write_text(theirs)
            await pilot.press("s")
            await until(pilot, lambda text: "Another program has changed mine.toml" in text)
            if answer:
                await pilot.press(*answer)
                await until(pilot, lambda text: "Another program" not in text or "only theirs" in text)
            await pilot.pause(0.1)
            return screen_text(app), app.screen.draft.text if isinstance(app.screen, ProjectScreen) else ""

        return path, *drive(projects, act, path=path, size=size)

    def test_mine_overwrites_it(self, projects):
        path, _, _ = self.changed_meanwhile(projects, "m")
        assert path.read_text() == BY_HAND.replace("=   5 ", "=   20 ")

    def test_theirs_drops_what_was_changed(self, projects):
        path, _, text = self.changed_meanwhile(projects, "t")
        assert path.read_text() == text == BY_HAND.replace("by hand", "by editor")

    def test_both_puts_the_changed_values_into_their_file(self, projects):
        path, _, _ = self.changed_meanwhile(projects, "b")
        assert path.read_text() == BY_HAND.replace("by hand", "by editor").replace("=   5 ", "=   20 ")

    def test_the_difference_is_shown_and_nothing_written(self, projects):
        path, screen, _ = self.changed_meanwhile(projects, "d")
        assert '-title = "by editor"' in screen
        assert '+title = "by hand"' in screen
        assert path.read_text() == BY_HAND.replace("by hand", "by editor")

    def test_a_long_difference_leaves_the_answers_in_sight(self, projects):
        long = BY_HAND + "".join(f"# line {number}\n" for number in range(60))
        _, screen, _ = self.changed_meanwhile(projects, "d", theirs=long, size=(80, 24))
        assert all(answer in screen for answer in ("b Both", "m Mine", "t Theirs", "d Difference"))

    def test_escape_writes_nothing(self, projects):
        path, screen, text = self.changed_meanwhile(projects, ["escape"])
        assert path.read_text() == BY_HAND.replace("by hand", "by editor")
        assert "=   20 " in text
        assert "not saved" in screen

    def test_the_file_is_read_again_by_itself_where_nothing_would_be_lost(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            path.write_text(BY_HAND.replace("by hand", "by editor"))
            await until(pilot, lambda text: "by editor" in text)
            assert any("read again" in text for text in told(app))

        drive(projects, act, path=path)

    def test_a_file_that_was_only_touched_is_no_change(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "20")
            await pilot.press("enter")
            os.utime(path, (1, 1))
            await pilot.press("s")
            await until(pilot, lambda text: "not saved" not in text)

        drive(projects, act, path=path)
        assert "=   20 " in path.read_text()

    def test_a_file_that_was_deleted_is_written_again(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            path.unlink()
            await pilot.press("s")
            await until(pilot, lambda text: path.exists())

        drive(projects, act, path=path)
        assert path.read_text() == BY_HAND


class TestLeaving:
    @pytest.mark.parametrize(("answer", "kept"), [("d", False), ("s", True)])
    def test_with_unsaved_changes_asks_what_becomes_of_them(self, projects, answer, kept):
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "20")
            await pilot.press("enter", "escape")
            await until(pilot, lambda text: "mine has unsaved changes" in text)
            await pilot.press(answer)
            await until(pilot, lambda text: "runs at work" in text or "0 at work" in text)
            assert not isinstance(app.screen, ProjectScreen)

        drive(projects, act, path=path)
        assert ("20" in path.read_text()) is kept

    def test_the_app_asks_too_and_back_stays(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "20")
            await pilot.press("enter", "q")
            await until(pilot, lambda text: "mine has unsaved changes" in text)
            await pilot.press("escape")
            await until(pilot, lambda text: "unsaved changes" not in text)
            assert isinstance(app.screen, ProjectScreen)
            assert app.is_running

        drive(projects, act, path=path)

    def test_what_is_being_typed_counts(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "20")
            await pilot.press("ctrl+s")
            await until(pilot, lambda text: "saved" in text and "not saved" not in text)

        drive(projects, act, path=path)
        assert "=   20 " in path.read_text()


class TestStarting:
    def test_saves_and_starts_the_project(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "20")
            await pilot.press("enter", "r")
            await until(pilot, lambda text: bool(app.started))
            assert app.started == [path]

        drive(projects, act, path=path)
        assert "=   20 " in path.read_text()

    def test_asks_the_name_of_a_new_one_before(self, projects):
        async def act(pilot, app):
            await pilot.click("#start")
            await until(pilot, lambda text: "Name of the project" in text)
            await pilot.press("enter")
            await until(pilot, lambda text: bool(app.started))
            assert app.started == [projects / "digits-edc-ipc10.toml"]

        drive(projects, act)


class TestThePlan:
    def test_says_what_would_be_done_and_that_there_is_no_past_to_go_by(self, projects):
        path = hand_written(projects)
        text = drive(projects, lambda pilot, app: until(pilot, lambda text: "no past run to go by" in text), path=path)
        assert "10 classes of 16 px, 1,198 images" in text
        for stage in ("squeeze", "statistics", "initialise", "synthesise", "evaluate"):
            assert f"{stage} " in text.split("What it would do")[1]

    def test_is_none_while_a_value_is_wrong(self, projects):
        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "0")
            await until(pilot, lambda text: "no plan while a value is wrong" in text)

        drive(projects, act)

    def test_follows_what_is_changed(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await until(pilot, lambda text: "no past run" in text)
            await go(pilot, "evaluate.controls")
            await pilot.press("enter", "space", "enter")  # without random images: soft and hard labels and noise for both seeds
            await until(pilot, lambda text: "evaluate     6 of 6" in text and "without random real images" in text)

        drive(projects, act, path=path)


def test_lines_that_are_gone_stand_before_those_that_took_their_place():
    lines = preview_lines("a\nb\nc\n", "a\nB\nc\nd\n")
    assert [(line.sign, line.text, line.number) for line in lines] == [
        (" ", "a", 1),
        ("-", "b", None),
        ("+", "B", 2),
        (" ", "c", 3),
        ("+", "d", 4),
    ]
