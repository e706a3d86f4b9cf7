"""How the tests of the project screen drive it: `from form_driver import drive, hand_written, go, types, line, told`."""

from app_driver import run_async, until

from edc_tui.app import EdcApp
from edc_tui.widgets.form import Form
from edc_tui.widgets.form_lines import FieldLine, line_id

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
