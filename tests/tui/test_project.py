"""What a user sees and does on the project screen."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from app_driver import check_snapshot, run_async, screen_text, until
from textual.widgets import Input

from edc_tui.app import EdcApp
from edc_tui.screens.project import ProjectScreen
from edc_tui.widgets.form import Form
from edc_tui.widgets.form_fields import COMMON, PLACES, bounds, form_sections, kind_of, offer_of
from edc_tui.widgets.form_lines import FieldLine, line_id
from edc_tui.widgets.form_picker import Picker
from edc_tui.widgets.form_preview import preview_lines
from engine.project.draft import read_draft
from engine.project.files import load_project
from engine.project.schema import SECTIONS, keys

SIZES = [(80, 24), (120, 40), (200, 60)]
BY_HAND = """\
# my first project
schema = 1
title = "by hand"

[dataset]
name = "digits"     # small

[condense]
method = "edc"
ipc   =   5         # five, said the boss

[evaluate]
epochs = 700        # fewer
seeds = [
    0,              # the first
    1,
]
"""


class Recorder(EdcApp):
    """The app, with runs written down rather than started."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.started = []
        self.edited = []

    def start_run(self, project_path):
        self.started.append(project_path)

    def edit_outside(self, path, editor):
        self.edited.append((path, editor))
        self.edit(path)

    def edit(self, path):
        pass


def drive(projects, act, *, path=None, size=(120, 40)):
    """Open a project file, or a new project, and do what `act(pilot, app)` does."""

    async def main():
        app = Recorder(projects)
        async with app.run_test(size=size, notifications=True) as pilot:
            app.open_project(path)
            await until(pilot, lambda text: "dataset.name" in text)
            await pilot.pause()
            return await act(pilot, app)

    return run_async(main())


def hand_written(projects, text=BY_HAND, name="mine"):
    path = projects / f"{name}.toml"
    path.write_bytes(text.encode())
    return path


async def go(pilot, name):
    """Put the cursor on the line of a key, as one does by searching for it."""
    pilot.app.screen.query_one(Form).go_to(name)
    await pilot.pause()


async def types(pilot, text):
    """Type into whatever is open, over what stands there."""
    names = {" ": "space", ".": "full_stop", "-": "minus", ",": "comma", "/": "slash", "_": "underscore"}
    await pilot.press(*(names.get(character, character) for character in text))
    await pilot.pause()


def line(app, name):
    """Return what a key's line shows, without runs of blanks."""
    widget = app.screen.query_one(f"#{line_id(name)}", FieldLine)
    return [" ".join("".join(cell for cell, _ in row).split()) for row in widget._canvas.rows]


def told(app):
    return [text for _, text, *_ in app.told]


class TestTheFormIsMadeFromTheSchema:
    def test_every_key_of_the_schema_stands_in_it_exactly_once(self):
        names = [name for section in form_sections() for name in section.names]
        names += [name for section in form_sections() for group in section.groups for name in group.names]
        assert sorted(names) == sorted([*keys(), "title"])

    def test_every_section_of_the_schema_has_a_place_and_every_common_key_exists(self):
        assert sorted(section for sections in PLACES.values() for section in sections) == sorted(SECTIONS)
        assert {name for names in COMMON.values() for name in names} <= {*keys(), "title"}
        assert list(PLACES) == ["Data", "Backbones", "Method and toggles", "Labels", "Evaluation", "Compute"]

    def test_every_key_has_something_to_choose_from_or_is_typed(self):
        draft = read_draft(BY_HAND, Path("mine.toml"))
        for name in (*keys(), "title"):
            assert kind_of(name) == "text" or offer_of(name, draft).choices or offer_of(name, draft).free, name
            assert bounds(name), name

    def test_every_line_can_be_gone_to(self, projects):
        async def act(pilot, app):
            form = app.screen.query_one(Form)
            for name in form.fields:
                form.go_to(name)
                await pilot.pause(0)
                assert form.at() == name
                assert form.fields[name] in form.lines()

        drive(projects, act)

    @pytest.mark.parametrize("name", ["dataset.root", "dataset.mirror", "condense.method", "labels.crop_scale", "evaluate.controls"])
    def test_opening_and_closing_a_line_of_any_kind_changes_nothing(self, projects, name):
        async def act(pilot, app):
            await go(pilot, name)
            await pilot.press("enter")
            await pilot.pause()
            assert app.screen.query_one(Form).fields[name].open
            await pilot.press("escape")
            await pilot.pause()
            assert not app.screen.query_one(Form).fields[name].open
            assert not app.screen.unsaved

        drive(projects, act)


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


class TestWrongValues:
    def test_are_told_beside_the_field_as_one_types_and_gone_when_mended(self, projects):
        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await pilot.press("enter")
            await types(pilot, "-3")
            text = await until(pilot, lambda text: "-3 must be at least 1" in text)
            assert "1 problem" in text
            assert line(app, "condense.ipc")[1] == "✗ -3 must be at least 1"
            await pilot.press("backspace", "backspace")
            await types(pilot, "3")
            await until(pilot, lambda text: "must be" not in text and "problem" not in text)

        drive(projects, act)

    @pytest.mark.parametrize(
        ("name", "typed", "message"),
        [
            ("evaluate.epochs", "many", "'many' must be a whole number"),
            ("match.w_class", "1.5", "1.5 must be at most 1"),
            ("labels.crop_scale", "0.5, 0.2", "must be two fractions"),
            ("evaluate.gamma", "0.5", 'needs evaluate.schedule = "multistep"'),
            ("batch.statistics", "3", "must divide batch.size"),
        ],
    )
    def test_are_told_in_the_words_of_the_engine(self, projects, name, typed, message):
        path = hand_written(projects, BY_HAND + "[batch]\nsize = 100\n")

        async def act(pilot, app):
            await go(pilot, name)
            await pilot.press("enter")
            await pilot.press("ctrl+u")
            await types(pilot, typed)
            await pilot.pause()
            assert message.split("'")[-1] in " ".join(line(app, name)[1:]).replace("✗ ", "")

        drive(projects, act, path=path, size=(200, 60))

    def test_cannot_be_started(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "evaluate.epochs")
            await types(pilot, "0")
            await pilot.press("enter")
            await go(pilot, "title")
            await pilot.press("r")
            await until(pilot, lambda text: "not started" in text)
            assert app.screen.query_one(Form).at() == "evaluate.epochs", "the cursor goes to what is wrong"
            assert app.started == []

        drive(projects, act, path=path)
        assert path.read_text() == BY_HAND

    def test_can_be_saved_for_another_day(self, projects, monkeypatch):
        monkeypatch.chdir(projects)  # the message names the file, and a long way to it would break its line elsewhere
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "evaluate.epochs")
            await types(pilot, "0")
            await pilot.press("enter", "s")
            await until(pilot, lambda text: "with 1 problem" in text)

        drive(projects, act, path=path)
        assert tomllib.loads(path.read_text())["evaluate"]["epochs"] == 0

    def test_that_only_this_machine_refuses_are_told_beside_the_field_too(self, projects, monkeypatch, tmp_path):
        monkeypatch.setenv("EDC_DATA", str(tmp_path / "nothing"))
        path = hand_written(projects, BY_HAND.replace('"digits"', '"cifar10"'))

        async def act(pilot, app):
            await until(pilot, lambda text: "1 problem" in text)
            assert "cifar10 not found" in " ".join(line(app, "dataset.name"))
            await pilot.press("r")
            await until(pilot, lambda text: "not started" in text)
            assert app.started == []

        drive(projects, act, path=path, size=(200, 60))


class TestTheMethod:
    def test_switching_it_sets_the_defaults_and_marks_what_deviates(self, projects):
        path = hand_written(projects, BY_HAND.replace("epochs = 700 ", "epochs = 1000"))

        async def act(pilot, app):
            assert line(app, "evaluate.epochs") == ["· epochs 1000 epochs you"]
            assert line(app, "initialise.source") == ["initialise.source real edc"]
            await go(pilot, "condense.method")
            await pilot.press("enter")
            await types(pilot, "sre2l")
            await pilot.press("enter")
            await pilot.pause()
            assert line(app, "initialise.source") == ["initialise.source noise sre2l"]
            assert line(app, "evaluate.epochs") == ["◆ epochs 1000 epochs you; sre2l: 400"]
            await go(pilot, "evaluate.epochs")
            await pilot.press("m")
            await pilot.pause()
            assert line(app, "evaluate.epochs") == ["› epochs 400 epochs sre2l on digits"]
            assert "epochs" not in app.screen.draft.text

        drive(projects, act, path=path)

    def test_all_deviations_can_be_taken_back_at_once_and_that_undone(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            assert app.screen.draft.deviations == ["evaluate.seeds", "evaluate.epochs"]
            await pilot.press("M")
            await pilot.pause()
            assert app.screen.draft.deviations == []
            await pilot.press("u")
            await pilot.pause()
            assert app.screen.draft.text == BY_HAND
            await pilot.press("U")
            await pilot.pause()
            assert app.screen.draft.deviations == []

        drive(projects, act, path=path)

    def test_values_of_the_dataset_and_of_the_compat_profile_are_told_apart(self, projects):
        path = hand_written(projects, BY_HAND.replace('method = "edc"', 'method = "edc"\ncompat = "edc-head"'))

        async def act(pilot, app):
            assert line(app, "synthesise.iterations") == ["synthesise.iterations 75 iterations edc on digits"]
            assert line(app, "flatness.kind") == ["flatness.kind off edc-head"]

        drive(projects, act, path=path)


class TestChoosing:
    def test_observers_are_found_by_typing_and_kept_in_order(self, projects):
        async def act(pilot, app):
            await go(pilot, "observers.labels")
            await pilot.press("enter")
            await pilot.pause()
            for name in app.screen.draft.value("observers.labels"):
                await types(pilot, name)
                await pilot.press("enter")
            await types(pilot, "wrn")
            await pilot.press("space")
            await pilot.press("ctrl+u")
            await types(pilot, "d2")
            await pilot.press("space")
            await pilot.press("ctrl+u")
            await pilot.press("enter")
            await pilot.pause()
            assert app.screen.draft.given["observers.labels"] == ["wrn-16-2", "convnet-d2"]

        drive(projects, act)

    def test_only_networks_that_take_the_resolution_are_offered(self, projects):
        async def act(pilot, app):
            await go(pilot, "evaluate.students")
            await pilot.press("enter")
            await pilot.pause()
            offered = {choice.value for choice in app.screen.query_one(Picker)._choices}
            assert "wrn-16-2" in offered
            assert "alexnet" not in offered

        drive(projects, act)

    def test_a_network_that_does_not_exist_is_told_before_it_is_taken(self, projects):
        async def act(pilot, app):
            await go(pilot, "evaluate.students")
            await pilot.press("enter")
            await types(pilot, "resnet19")
            return await until(pilot, lambda text: "there is no model 'resnet19'" in text)

        drive(projects, act)

    def test_escape_leaves_everything_as_it_was(self, projects):
        async def act(pilot, app):
            before = app.screen.draft.text
            await go(pilot, "evaluate.students")
            await pilot.press("enter", "space", "down", "space")
            await pilot.pause()
            assert app.screen.draft.text != before
            await pilot.press("escape")
            await pilot.pause()
            assert app.screen.draft.text == before
            await go(pilot, "condense.ipc")
            await types(pilot, "77")
            await pilot.press("escape")
            await pilot.pause()
            assert app.screen.draft.text == before
            assert isinstance(app.screen, ProjectScreen)

        drive(projects, act)

    def test_works_with_the_mouse_alone(self, projects):
        async def act(pilot, app):
            await pilot.click(f"#{line_id('dataset.name')}", offset=(30, 0))
            await pilot.pause(0.2)
            await pilot.click("Picker OptionList", offset=(5, 1))
            await pilot.pause(0.2)
            assert app.screen.draft.value("dataset.name") == "fashion-mnist"
            await pilot.click("#save")
            await until(pilot, lambda text: "Name of the project" in text)

        drive(projects, act)


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
            await pilot.press("enter", "space", "enter")
            await until(pilot, lambda text: "evaluate     2 of 2" in text)

        drive(projects, act, path=path)


class TestFindingAndHelp:
    def test_words_keep_the_lines_that_have_them_in_name_or_help(self, projects):
        async def act(pilot, app):
            await pilot.press("slash")
            await types(pilot, "cosine slows")
            text = await until(pilot, lambda text: "zeta" in text and "dataset.root" not in text)
            assert "evaluate.epochs" not in text
            await pilot.press("enter")
            await pilot.pause()
            assert app.screen.query_one(Form).at() == "evaluate.zeta"
            await pilot.press("escape")
            await until(pilot, lambda text: "synthesise" in text)
            assert isinstance(app.screen, ProjectScreen)

        drive(projects, act)

    def test_only_mine_shows_what_is_set(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await pilot.press("v")
            await pilot.pause()
            shown = [line.key for line in app.screen.query_one(Form).lines()]
            assert set(shown) == {"title", "dataset.name", "condense.ipc", "condense.method", "evaluate.epochs", "evaluate.seeds"}

        drive(projects, act, path=path)

    def test_the_line_at_the_bottom_and_the_question_mark_explain_the_value_with_its_paper(self, projects):
        async def act(pilot, app):
            await go(pilot, "evaluate.zeta")
            text = await until(pilot, lambda text: "Slows the cosine down" in text)
            assert "EDC 3.4, Table 3" in text
            await pilot.press("question_mark")
            text = await until(pilot, lambda text: "Escape closes" in text)
            for words in ("evaluate.zeta", "EDC 3.4, Table 3", "a number, at least 1", "edc     2.0"):
                assert words in text
            await pilot.press("question_mark")
            await until(pilot, lambda text: "Write the file; comments and order" in text)

        drive(projects, act)

    def test_a_group_tells_how_much_of_it_is_set_and_opens(self, projects):
        path = hand_written(projects, BY_HAND + "[match]\nnorm = 'l2'\n")

        async def act(pilot, app):
            group = app.screen.query_one("#group-match")
            assert "1 yours" in "".join(cell for cell, _ in group._canvas.rows[0])
            group.focus()
            await pilot.press("right")
            await pilot.pause()
            assert app.screen.query_one(f"#{line_id('match.norm')}").display
            assert app.screen.query_one(f"#{line_id('match.norm')}") in app.screen.query_one(Form).lines()

        drive(projects, act, path=path)


class TestSizes:
    @pytest.mark.parametrize("size", SIZES)
    def test_form_file_and_plan_can_be_seen_at_every_size(self, projects, size):
        path = hand_written(projects)

        async def act(pilot, app):
            text = screen_text(app)
            assert "condense.ipc" in text and "by hand" in text
            assert ("The file as it will be saved" in text) is (size[0] >= 100)
            await pilot.press("p")
            text = await until(pilot, lambda text: "The file as it will be saved" in text and "What it would do" in text)
            assert 'title = "by hand"' in text
            assert ("condense.ipc" in text) is (size[0] >= 100)
            await pilot.press("p")
            text = await until(pilot, lambda text: "condense.ipc" in text)
            assert all(len(row) <= size[0] for row in text.splitlines())
            assert isinstance(app.focused, FieldLine)

        drive(projects, act, path=path, size=size)

    def test_the_screen_gets_wider_and_narrower_without_losing_anything(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "condense.ipc")
            await types(pilot, "20")
            for size in (*SIZES, (80, 24)):
                await pilot.resize_terminal(*size)
                await pilot.pause(0.1)
            await pilot.press("enter")
            await pilot.pause()
            assert app.screen.draft.value("condense.ipc") == 20

        drive(projects, act, path=path)


def test_text_from_a_file_cannot_steer_the_terminal(projects):
    path = hand_written(projects, 'title = "[red]x[/] \\u001b[31m 漢字 \\u202e"\n"a\\u001bb" = 3\n# \x7f comment [bold]\n')

    async def act(pilot, app):
        text = await until(pilot, lambda text: "1 problem" in text or "2 problems" in text)
        svg = app.export_screenshot()
        assert "\x1b" not in text + svg
        assert "\x7f" not in text + svg
        assert "[red]x[/]" in text

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


def test_the_screen_loads_no_torch_and_no_numpy():
    code = "import sys, edc_tui.screens.project; print([name for name in ('torch', 'numpy', 'timm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestKeysThatComeInOneGo:
    """Over a slow line several keys may arrive at once, before the first of them has done anything."""

    async def burst(self, pilot, *names):
        for name in names:
            pilot.app.simulate_key(name)
        await pilot.pause(0.5)

    def test_reach_the_line_that_the_keys_before_them_led_to(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await self.burst(pilot, "down", "down", "2", "0", "enter")
            assert app.screen.draft.text == BY_HAND.replace("=   5 ", "=   20 ")
            await self.burst(pilot, "3")
            await self.burst(pilot, "1", "up", "up", "up", "down", "down", "down", "4")
            await self.burst(pilot, "5", "enter")
            assert app.screen.draft.value("condense.ipc") == 45
            assert app.screen.draft.given["title"] == "by hand"

        drive(projects, act, path=path)

    def test_typed_into_an_open_line_do_not_go_on_into_the_next(self, projects):
        async def act(pilot, app):
            await go(pilot, "squeeze.epochs")
            await pilot.press("enter")
            await pilot.pause()
            await self.burst(pilot, "3", "down", "enter", "down", "down", "up", "up", "up", "7", "enter")
            assert app.screen.draft.given["squeeze.epochs"] == 7
            assert app.screen.query_one(Form).groups["observers"].open

        drive(projects, act)

    def test_meant_for_a_list_of_choices_do_not_save_or_start(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            await go(pilot, "condense.method")
            await self.burst(pilot, "enter", "s", "r", "e")
            assert isinstance(app.screen, ProjectScreen)
            assert app.started == app.edited == []
            assert app.screen.query_one(Picker)

        drive(projects, act, path=path)


@pytest.mark.parametrize("size", SIZES)
class TestLooks:
    """What the screen looks like at every size, kept in snapshots/."""

    TEXT = BY_HAND + '\n[compute]\ndevice = "cpu"\nprecision = "float32"\n'

    def test_a_project_with_a_value_changed_and_one_wrong(self, projects, size):
        path = hand_written(projects, self.TEXT)

        async def act(pilot, app):
            await go(pilot, "evaluate.epochs")
            await types(pilot, "30")
            await pilot.press("enter")
            await go(pilot, "condense.ipc")
            await types(pilot, "0")
            await pilot.press("enter")
            return await until(pilot, lambda text: "0 must be at least 1" in text)

        check_snapshot(f"project-wrong-{size[0]}x{size[1]}", drive(projects, act, path=path, size=size))

    def test_file_and_plan(self, projects, size):
        path = hand_written(projects, self.TEXT)

        async def act(pilot, app):
            await go(pilot, "evaluate.epochs")
            await types(pilot, "30")
            await pilot.press("enter", "p")
            return await until(pilot, lambda text: "4 of 4    6,000" in text and "+ epochs" in text)

        check_snapshot(f"project-plan-{size[0]}x{size[1]}", drive(projects, act, path=path, size=size))

    def test_a_list_of_choices(self, projects, size):
        path = hand_written(projects, self.TEXT)

        async def act(pilot, app):
            await go(pilot, "evaluate.students")
            await pilot.press("enter")
            await types(pilot, "conv")
            await until(pilot, lambda text: "no past run" in text or size[0] < 100)
            return await until(pilot, lambda text: "convnet-d2" in text)

        check_snapshot(f"project-choices-{size[0]}x{size[1]}", drive(projects, act, path=path, size=size))
