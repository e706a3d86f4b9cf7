"""Looking at condensed images: by class, as they form, before and after, and of two runs side by side."""

import pytest
from app_driver import run_async, screen_svg, screen_text, until
from images import CLASSES, write_final, write_initial, write_preview

from edc_tui.app import EdcApp
from edc_tui.keys import KEYS
from edc_tui.pictures import FILE_NAME, step_folder
from edc_tui.screens.gallery import GalleryScreen
from edc_tui.widgets.picture_grid import lay_out

SIZE = (120, 40)


@pytest.fixture
def finished(make_run):
    """A finished run with initial and final images."""
    run = make_run("pets", top1=61.5, stages={"initialise": {"status": "done"}, "synthesise": {"status": "done"}})
    write_initial(run)
    write_final(run)
    return run


def gallery(projects, runs, story, size=SIZE):
    """Open the gallery of runs and live through a story in it."""

    async def live():
        app = EdcApp(projects)
        async with app.run_test(size=size) as pilot:
            app.open_gallery(runs)
            await until(pilot, lambda text: "looking" not in text)
            await story(pilot)

    run_async(live())


def colours(app):
    """The colours of half-blocks on the screen, as (r, g, b)."""
    found = set()
    for strip in app.screen._compositor.render_strips():
        for segment in strip:
            if "▀" in segment.text:
                found |= {tuple(colour.triplet) for colour in (segment.style.color, segment.style.bgcolor) if colour is not None}
    return found


def drawn(text):
    return "▀" in text


class TestLooking:
    def test_every_class_is_named_and_its_images_have_their_colours(self, projects, finished):
        async def story(pilot):
            text = await until(pilot, drawn)
            assert all(name in text for name in CLASSES) and "final, optimised" in text
            assert "3 classes" in text and "2 each" in text and "8×8 px" in text
            assert {(255, 0, 0), (0, 255, 0), (0, 0, 255), (204, 0, 0)} <= colours(pilot.app)

        gallery(projects, [finished], story)

    @pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
    def test_it_looks_the_same_every_time_at_every_size(self, projects, finished, size):
        pictures = []

        async def story(pilot):
            text = await until(pilot, drawn)
            assert all(len(line) <= size[0] for line in text.splitlines()) and len(text.splitlines()) <= size[1]
            pictures.append(screen_svg(pilot.app))

        for _ in range(2):
            gallery(projects, [finished], story, size)
        assert pictures[0] == pictures[1]

    def test_the_arrows_go_to_images_and_classes_and_say_where_one_is(self, projects, finished):
        async def story(pilot):
            await until(pilot, lambda text: "image 1 of 2 · class 1 of 3" in text)
            await pilot.press("right")
            await until(pilot, lambda text: "image 2 of 2 · class 1 of 3" in text)
            await pilot.press("j", "left")
            await until(pilot, lambda text: "image 1 of 2" in text)
            await pilot.press("end")
            await until(pilot, lambda text: "class 3 of 3" in text)
            await pilot.press("home")
            await until(pilot, lambda text: "class 1 of 3" in text)

        gallery(projects, [finished], story, (60, 40))

    def test_many_classes_are_paged_and_one_can_be_chosen_by_name(self, projects, make_run):
        run = make_run("many")
        names = [f"class-{number:03}" for number in range(300)]
        write_final(run, classes=names, per_class=10, side=16)

        async def story(pilot):
            text = await until(pilot, drawn)
            assert "class-000" in text and "class-299" not in text and "page 1 of" in text
            await pilot.press("pagedown")
            await until(pilot, lambda text: "page 2 of" in text and "class-000" not in text)
            await pilot.press("c")
            await until(pilot, lambda text: "Which class?" in text)
            await pilot.press("end", "enter")
            await until(pilot, lambda text: "class-299" in text and "class 300 of 300" in text)

        gallery(projects, [run], story)

    def test_an_image_can_be_seen_alone_and_large(self, projects, finished):
        async def story(pilot):
            await until(pilot, drawn)
            await pilot.press("down", "enter")
            text = await until(pilot, lambda text: "cat" not in text and {(0, 255, 0)} == colours(pilot.app))
            assert "dog" in text and "shown 7:1" in text and max(line.count("▀") for line in text.splitlines()) == 7 * 8
            await pilot.press("right")
            await until(pilot, lambda text: "image 2 of 2" in text)
            await pilot.press("escape")
            await until(pilot, lambda text: "cat" in text)
            assert isinstance(pilot.app.screen, GalleryScreen)

        gallery(projects, [finished], story, (60, 40))

    def test_images_can_be_made_larger_and_smaller_and_fitted_again(self, projects, make_run):
        run = make_run("large")
        write_final(run, per_class=10, side=32)

        async def story(pilot):
            await until(pilot, lambda text: "shown 1:2" in text)
            await pilot.press("minus")
            await until(pilot, lambda text: "shown 1:3" in text)
            await pilot.press("plus", "plus")
            await until(pilot, lambda text: "shown 1:1" in text)
            await pilot.press("plus", "plus", "plus", "plus")
            assert "shown 2:1" in screen_text(pilot.app), "larger ones have no room"
            await pilot.press("0")
            await until(pilot, lambda text: "shown 1:2" in text)

        gallery(projects, [run], story)

    def test_the_mouse_chooses_an_image_and_a_second_click_enlarges_it(self, projects, finished):
        async def story(pilot):
            text = await until(pilot, drawn)
            y = next(number for number, line in enumerate(text.splitlines()) if "dog" in line)
            x = text.splitlines()[y].index("dog")
            await pilot.click(offset=(x + 1, y + 2))
            await until(pilot, lambda text: "class 2 of 3" in text)
            await pilot.double_click(offset=(x + 1, y + 2))
            await until(pilot, lambda text: "cat" not in text)

        gallery(projects, [finished], story)


class TestForming:
    def test_images_are_seen_as_they_form(self, projects, live_run):
        run, beat = live_run("live", stages={"initialise": {"status": "done"}, "synthesise": {"status": "running"}})

        async def story(pilot):
            await until(pilot, lambda text: "no images yet: running at synthesise" in text)
            write_initial(run)
            await until(pilot, lambda text: "initial, not optimised yet" in text and drawn(text))
            write_preview(run, 10)
            await until(pilot, lambda text: "iteration 10 of 100" in text)
            await until(pilot, lambda text: (153, 0, 0) in colours(pilot.app))
            await pilot.press("down", "right")
            write_preview(run, 20, shade=0.8)
            await until(pilot, lambda text: "iteration 20 of 100" in text and (204, 0, 0) in colours(pilot.app))
            assert "image 2 of 2" in screen_text(pilot.app), "the cursor stays where it was"
            write_final(run)
            await until(pilot, lambda text: "final, optimised" in text)

        gallery(projects, [run], story)

    def test_nothing_is_sent_while_nothing_changes(self, projects, finished, monkeypatch):
        async def story(pilot):
            await until(pilot, drawn)
            await pilot.pause(0.3)
            refreshed = []
            monkeypatch.setattr(type(pilot.app.screen.grid), "refresh", lambda grid, *regions, **options: refreshed.append(regions))
            for _ in range(5):
                pilot.app.screen.look()
                await pilot.pause(0.1)
            assert refreshed == []

        gallery(projects, [finished], story)

    def test_a_stopped_run_shows_how_far_it_came(self, projects, make_run):
        run = make_run("stopped", status="stopped")
        write_preview(run, 40)

        async def story(pilot):
            await until(pilot, lambda text: "iteration 40 of 100, stopped" in text and drawn(text))

        gallery(projects, [run], story)


class TestSideBySide:
    def test_initial_images_then_both_then_the_final_ones(self, projects, finished):
        async def story(pilot):
            await until(pilot, lambda text: "final, optimised" in text and drawn(text))
            await pilot.press("i")
            await until(pilot, lambda text: "initial" in text and "final" not in text)
            await until(pilot, lambda text: (76, 0, 0) in colours(pilot.app) and (255, 0, 0) not in colours(pilot.app))
            await pilot.press("i")
            await until(pilot, lambda text: {(76, 0, 0), (255, 0, 0)} <= colours(pilot.app))
            text = screen_text(pilot.app)
            assert "initial" in text and "final, optimised" in text and text.count("dog") == 2
            await pilot.press("i")
            await until(pilot, lambda text: "initial" not in text)

        gallery(projects, [finished], story)

    def test_classes_of_one_image_use_the_room_of_a_pane_as_they_do_alone(self):
        both = lay_out(118, 38, image=(16, 16), per_class=1, classes=10, panes=2)
        assert both.across == 3 and str(both.scale) == "1:1" and both.classes >= 10

    def test_two_runs_stand_beside_each_other_with_the_same_class_in_line(self, projects, finished, make_run):
        other = make_run("others")
        write_final(other, classes=("frog", "cat", "owl"), shade=0.5)

        async def story(pilot):
            text = await until(pilot, lambda text: drawn(text) and "owl" in text)
            lines = text.splitlines()
            assert any("pets" in line and "others" in line for line in lines)
            assert any(line.count("cat") == 2 for line in lines) and any(line.count("frog") == 2 for line in lines)
            assert any("dog" in line and "not in this run" in line for line in lines)
            await until(pilot, lambda text: {(255, 0, 0), (0, 127, 0)} <= colours(pilot.app))

        gallery(projects, [finished, other], story)

    def test_a_run_is_put_beside_and_taken_away_again(self, projects, finished, make_run):
        other = make_run("others")
        write_final(other, shade=0.5)

        async def story(pilot):
            await until(pilot, drawn)
            await until(pilot, lambda text: "Beside" in text)
            await pilot.press("b")
            await until(pilot, lambda text: "Which run beside it?" in text)
            await pilot.press("enter")
            await until(pilot, lambda text: "pets" in text and "others" in text and (127, 0, 0) in colours(pilot.app))
            await pilot.press("b")
            await until(pilot, lambda text: "others" not in text and (127, 0, 0) not in colours(pilot.app))

        gallery(projects, [finished], story)


class TestWhatIsMissingOrBroken:
    def test_chosen_images_are_said_not_to_be_optimised(self, projects, make_run):
        run = make_run("chosen", method="random", condensed={"folder": "stages/3-initialise/condensed"}, stages={"initialise": {}})
        write_initial(run)

        async def story(pilot):
            text = await until(pilot, lambda text: drawn(text))
            assert "final, chosen and not optimised" in text

        gallery(projects, [run], story)

    @pytest.mark.parametrize(
        ("status", "words"),
        [("queued", "the run was never started"), ("failed", "no images: failed before any were"), ("stopped", "no images: stopped")],
    )
    def test_a_run_without_images_says_why(self, projects, make_run, status, words):
        run = make_run("none", status=status)

        async def story(pilot):
            text = await until(pilot, lambda text: words in text)
            assert "Zoom" not in text and "Class" not in text

        gallery(projects, [run], story)

    @pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"garbage" * 50, b"\xff" * 100])
    def test_a_damaged_file_is_told_in_place(self, projects, make_run, content):
        run = make_run("broken")
        path = step_folder(run, "synthesise") / FILE_NAME
        path.parent.mkdir(parents=True)
        path.write_bytes(content)

        async def story(pilot):
            await until(pilot, lambda text: "images.safetensors is damaged" in text)
            write_final(run)
            await until(pilot, drawn)

        gallery(projects, [run], story)

    def test_labels_without_a_class_are_damage_as_well(self, projects, make_run):
        run = make_run("broken")
        write_final(run)
        path = step_folder(run, "synthesise") / FILE_NAME
        damaged = path.read_bytes().replace(b'\\"frog\\"', b"        ").replace(b'\\"dog\\",', b'\\"dog\\" ')
        assert len(damaged) == path.stat().st_size
        path.write_bytes(damaged)

        async def story(pilot):
            await until(pilot, lambda text: "is damaged" in text)

        gallery(projects, [run], story)

    def test_a_run_that_is_removed_meanwhile_is_told(self, projects, finished):
        async def story(pilot):
            await until(pilot, drawn)
            finished.folder.rename(projects / "elsewhere")
            await until(pilot, lambda text: "the run's folder is gone" in text)

        gallery(projects, [finished], story)

    def test_names_cannot_steer_the_terminal_and_take_the_room_they_take(self, projects, make_run):
        run = make_run("na[me")
        names = ("[bold]b[/]", "e\x1b[31mscape", "two\nlines", "日本語の名前", "日本語の名前\u202e", "", "x" * 200)
        write_final(run, classes=names, per_class=1)

        async def story(pilot):
            text = await until(pilot, drawn)
            assert "\x1b" not in text and "\u202e" not in text
            assert "[bold]b[/]" in text and "two lines" in text and "日本語の名前" in text
            for _ in names:
                await pilot.press("down")
            await pilot.press("c")
            await until(pilot, lambda text: "Which class?" in text and "[bold]b[/]" in text)

        gallery(projects, [run], story, (80, 24))

    def test_a_tiny_terminal_says_that_there_is_no_room(self, projects, finished):
        async def story(pilot):
            await pilot.resize_terminal(30, 5)
            await until(pilot, lambda text: "no room for images" in text)
            await pilot.resize_terminal(80, 24)
            await until(pilot, drawn)

        gallery(projects, [finished], story)


def test_every_key_of_the_gallery_does_something_there():
    for key in KEYS["gallery"]:
        assert hasattr(GalleryScreen, f"action_{key.action.partition('(')[0]}"), key.id
