"""Keys: every one does what the help says, the user's own are taken up, and what is wrong with keys.toml is told."""

import importlib
import pkgutil

import pytest
from app_driver import run_async, screen_text, until

import edc_tui.screens
import edc_tui.widgets
from edc_tui.app import EdcApp
from edc_tui.keys import KEYS, every_key
from edc_tui.screens.help import help_text, rooms_of
from edc_tui.settings import read_keymap


def press(projects, *keys, size=(120, 40), until_shown=None):
    """Open the app, press keys and return what is shown."""

    async def session():
        app = EdcApp(projects)
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda text: "looking …" not in text)
            for key in keys:
                await pilot.press(key)
            if until_shown:
                return await until(pilot, lambda text: until_shown in text)
            await pilot.pause()
            return screen_text(app)

    return run_async(session())


class TestTheTables:
    def test_every_id_is_that_of_its_room_and_there_is_one_of_each(self):
        ids = [key.id for table in KEYS.values() for key in table]
        assert len(ids) == len(set(ids))
        assert all(key.id.startswith(f"{room}.") for room, table in KEYS.items() for key in table)

    def test_no_key_means_the_same_thing_twice_in_one_room(self):
        for room, table in KEYS.items():
            names = [(name, key.action) for key in table for name in key.key.split(",")]
            assert len(names) == len(set(names)), room

    def test_everything_that_shows_says_what_it_does_in_a_sentence(self):
        assert all(key.help.endswith(".") and key.description for key in every_key().values())

    def test_nothing_needs_a_function_key_or_ctrl_enter(self):
        for key in every_key().values():
            assert any(not name.startswith("f1") and "enter" not in name.partition("+")[2] for name in key.key.split(",")), key.id

    def test_every_action_is_there(self):
        """Each room is used by a class, and that class, or the app, has an action for every key."""
        classes = {}
        for package in (edc_tui.screens, edc_tui.widgets):
            for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
                for kind in vars(importlib.import_module(module.name)).values():
                    for binding in getattr(kind, "__dict__", {}).get("BINDINGS", ()):
                        room = (getattr(binding, "id", "") or "").partition(".")[0]
                        classes.setdefault(room, set()).add(kind)
        classes["app"] = {EdcApp}
        for room, table in KEYS.items():
            assert classes.get(room), f"nothing uses the room {room}"
            for kind in classes[room]:
                for key in table:
                    name = f"action_{key.action.partition('(')[0].removeprefix('app.')}"
                    assert any(hasattr(one, name) for one in (kind, *kind.__subclasses__())), f"{key.id}: {kind.__name__} has no {name}"


class TestHelp:
    def test_shows_what_the_screen_is_for_and_all_of_its_keys(self, projects):
        text = press(projects, "question_mark", size=(140, 120), until_shown="is a TOML file")
        assert "**project**" not in text
        for key in (*KEYS["home"], *KEYS["rows"], *KEYS["app"]):
            assert key.help[:40] in text and key.id in text  # longer sentences go on below

    def test_goes_away_with_escape(self, projects):
        assert "Runs and projects" not in press(projects, "question_mark", "escape")

    def test_scrolls_at_80x24(self, projects):
        before = press(projects, "question_mark", size=(80, 24), until_shown="Runs and projects")
        after = press(projects, "question_mark", "G", size=(80, 24), until_shown="keys.toml")
        assert before != after

    def test_every_screen_has_a_text(self):
        for room in KEYS:
            if room in ("home", "project", "run", "gallery", "compare"):
                assert help_text(room).startswith("# "), room

    def test_the_rooms_are_those_of_the_screen_then_those_of_its_widgets_then_the_apps(self, projects):
        async def session():
            app = EdcApp(projects)
            async with app.run_test():
                return rooms_of(app.screen)

        assert run_async(session()) == ["home", "rows", "app"]


class TestTheUsersKeys:
    @pytest.fixture
    def write(self, tmp_path, projects):
        folder = tmp_path / "config" / "edc"
        folder.mkdir(parents=True)

        def write(text):
            (folder / "keys.toml").write_text(text)
            return folder / "keys.toml"

        return write

    def test_a_key_of_ones_own_works_in_place_of_the_old_one(self, projects, make_run, write):
        make_run("first")
        write('"home.order" = "S"\n')
        assert "Sort by" in press(projects, "S")
        assert "Sort by" not in press(projects, "o")

    def test_is_shown_at_the_bottom_and_in_the_help(self, projects, make_run, write):
        make_run("first")
        write('[home]\norder = ["S", "f6"]\n')
        assert "S Sort" in press(projects).splitlines()[-1]
        assert "S f6" in press(projects, "question_mark", size=(120, 120), until_shown="Runs and projects")

    def test_a_key_of_the_users_own_keeps_its_place(self, projects, make_run, write):
        make_run("first")
        write('"home.open" = ["ctrl+o", "enter"]\n"app.quit" = "Q"\n')
        line = press(projects, size=(80, 24), until_shown="^o Open").splitlines()[-1]
        assert line.startswith(" ^o Open  s Start") and line.endswith("Q Leave")

    def test_what_is_wrong_is_told_and_the_rest_holds(self, projects, make_run, write):
        make_run("first")
        write('"home.ordre" = "S"\n"home.flat" = 3\n"home.order" = "S"\n')
        text = press(projects, until_shown="did you mean home.order?")
        assert "home.flat: must be a key" in text
        assert "Sort by" in press(projects, "S")

    def test_a_file_that_is_no_toml_is_told(self, write):
        keymap, problems = read_keymap(write("home.order = = 3"))
        assert keymap == {} and problems[0].startswith("keys.toml: not valid TOML")

    def test_a_key_given_twice_is_told(self, write):
        assert "x is now both" in read_keymap(write('"home.order" = "x"'))[1][0]

    def test_no_file_is_no_problem(self, tmp_path):
        assert read_keymap(tmp_path / "keys.toml") == ({}, [])


class TestTheBottomLine:
    def test_ends_alike_on_every_screen_also_where_a_screen_leaves_in_its_own_way(self, projects, make_run):
        make_run("first")
        ending = "? Help  esc Back  ^p Commands  q Leave"
        for keys in (("n",), ("e",), ("j", "enter"), ("j", "i")):
            assert press(projects, *keys, size=(80, 24), until_shown=ending).splitlines()[-1].endswith(ending)

    def test_a_click_on_a_key_does_what_it_does(self, projects, make_run):
        make_run("first")

        async def session():
            app = EdcApp(projects)
            async with app.run_test(size=(120, 40)) as pilot:
                text = await until(pilot, lambda text: "Sort" in text)
                await pilot.click("KeyBar", offset=(text.splitlines()[-1].index("Sort"), 0))
                await until(pilot, lambda text: "Sort by" in text)

        run_async(session())

    @pytest.mark.parametrize("width", [30, 60, 80, 100])
    def test_keeps_help_and_leave_where_there_is_no_room_for_all(self, projects, make_run, width):
        make_run("first")
        line = press(projects, size=(width, 24)).splitlines()[-1]
        assert "Help" in line and len(line) <= width
