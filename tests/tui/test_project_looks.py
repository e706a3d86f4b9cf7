"""What the project screen looks like at every size, and what it keeps from the terminal."""

import subprocess
import sys

import pytest
from app_driver import check_snapshot, screen_text, settled, until
from form_driver import BY_HAND, SIZES, drive, go, hand_written, types

from edc_tui.widgets.form_lines import FieldLine


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


def test_the_screen_loads_no_torch_and_no_numpy():
    code = "import sys, edc_tui.screens.project; print([name for name in ('torch', 'numpy', 'timm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
            await until(pilot, lambda text: "0 must be at least 1" in text)
            return await settled(pilot)

        check_snapshot(f"project-wrong-{size[0]}x{size[1]}", drive(projects, act, path=path, size=size))

    def test_file_and_plan(self, projects, size):
        path = hand_written(projects, self.TEXT)

        async def act(pilot, app):
            await go(pilot, "evaluate.epochs")
            await types(pilot, "30")
            await pilot.press("enter", "p")
            await until(pilot, lambda text: "10 of 10   15,000" in text and "+ epochs" in text)
            return await settled(pilot)

        check_snapshot(f"project-plan-{size[0]}x{size[1]}", drive(projects, act, path=path, size=size))

    def test_a_list_of_choices(self, projects, size):
        path = hand_written(projects, self.TEXT)

        async def act(pilot, app):
            await go(pilot, "evaluate.students")
            await pilot.press("enter")
            await types(pilot, "conv")
            await until(pilot, lambda text: "no past run" in text or size[0] < 100)
            await until(pilot, lambda text: "convnet-d2" in text)
            return await settled(pilot)

        check_snapshot(f"project-choices-{size[0]}x{size[1]}", drive(projects, act, path=path, size=size))
