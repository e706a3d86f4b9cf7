"""How the tests of the home screen drive it: `from home_driver import use, look, lines_with`."""

from functools import partial

import app_driver
from app_driver import screen_text

from edc_tui.app import EdcApp

SIZES = [(80, 24), (120, 40), (200, 60)]


class Recorder(EdcApp):
    """The app, with other screens written down rather than opened."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.opened = []

    def open_run(self, run):
        self.opened.append(("run", run.id))

    def open_project(self, path):
        self.opened.append(("project", path))

    def open_compare(self, runs):
        self.opened.append(("compare", [run.id for run in runs]))

    def open_gallery(self, runs):
        self.opened.append(("gallery", [run.id for run in runs]))


use = partial(app_driver.use, make=Recorder)


def look(projects, size=(120, 40)):
    async def doings(pilot, app):
        return screen_text(app)

    return use(projects, doings, size)


def lines_with(text, word):
    return [line for line in text.splitlines() if word in line]
