"""What a user does in the form of the project screen: values, choices, what is wrong with them, and the way about."""

import asyncio
import tomllib
from pathlib import Path

import pytest
from app_driver import until
from form_driver import BY_HAND, drive, go, hand_written, line, types

from edc_tui.screens.project import ProjectScreen
from edc_tui.widgets.form import Form
from edc_tui.widgets.form_fields import COMMON, PLACES, bounds, form_sections, kind_of, offer_of
from edc_tui.widgets.form_lines import line_id
from edc_tui.widgets.form_picker import Picker
from engine.project.draft import read_draft
from engine.project.schema import SECTIONS, keys


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
                for _ in range(100):
                    if form.at() != name:
                        await asyncio.sleep(0.001)
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


class TestKeysThatComeInOneGo:
    """Over a slow line several keys may arrive at once, before the first of them has done anything."""

    async def burst(self, pilot, *names, done=lambda: True):
        """Send keys at once and wait a moment, and until what they do is done."""
        for name in names:
            pilot.app.simulate_key(name)
        await pilot.pause(0.3)
        await until(pilot, lambda text: done())

    def test_reach_the_line_that_the_keys_before_them_led_to(self, projects):
        path = hand_written(projects)

        async def act(pilot, app):
            wanted = BY_HAND.replace("=   5 ", "=   20 ")
            await self.burst(pilot, "down", "down", "2", "0", "enter", done=lambda: app.screen.draft.text == wanted)
            await self.burst(pilot, "3")
            await self.burst(pilot, "1", "up", "up", "up", "down", "down", "down", "4")
            await self.burst(pilot, "5", "enter", done=lambda: app.screen.draft.value("condense.ipc") == 45)
            assert app.screen.draft.given["title"] == "by hand"

        drive(projects, act, path=path)

    def test_typed_into_an_open_line_do_not_go_on_into_the_next(self, projects):
        async def act(pilot, app):
            await go(pilot, "squeeze.epochs")
            await pilot.press("enter")
            await pilot.pause()
            keys = ("3", "down", "enter", "down", "down", "up", "up", "up", "7", "enter")
            await self.burst(pilot, *keys, done=lambda: app.screen.draft.given.get("squeeze.epochs") == 7)
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
