"""Pictures of the app for the README, made from a real run: `make screenshots`.

    python tests/bench/screenshots.py docs/screenshots                         runs the quickstart first, in a folder of its own
    python tests/bench/screenshots.py docs/screenshots --projects projects     shows the latest finished run of an existing folder
"""

import argparse
import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edc_tui.app import EdcApp
from engine.runs.layout import Run
from engine.runs.store import list_runs

ROOT = Path(__file__).resolve().parents[2]
SIZE = (120, 40)
PATIENCE = 20.0  # seconds within which a screen has read its files and drawn


def main() -> None:
    """Make the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the SVG files go")
    parser.add_argument("--projects", type=Path, help="take a run from here instead of making one")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if options.projects is not None:
        asyncio.run(pictures(options.projects, folder))
        return
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # lest the pictures name a folder of this machine
        projects = Path("projects")
        projects.mkdir()
        shutil.copy(ROOT / "projects" / "quickstart.toml", projects)
        subprocess.run([sys.executable, "-m", "engine.cli", "run", "quickstart"], check=True)
        asyncio.run(pictures(projects, folder))


async def pictures(projects: Path, folder: Path) -> None:
    """Write `home.svg`, `run.svg`, `gallery.svg` and `project.svg` of the latest finished run."""
    run = next(listing.run for listing in list_runs(projects) if listing.status.word == "done")
    screens: dict[str, Callable[[EdcApp], object]] = {
        "home": lambda app: None,
        "run": lambda app: app.open_run(run),
        "gallery": lambda app: app.open_gallery([run]),
        "project": lambda app: app.open_project(projects / f"{run.project}.toml"),
    }
    for name, opening in screens.items():
        (folder / f"{name}.svg").write_text(await picture(projects, run, opening))
        print(folder / f"{name}.svg")


async def picture(projects: Path, run: Run, opening: Callable[[EdcApp], object]) -> str:
    """Return the screen as SVG once it has come to rest."""
    app = EdcApp(projects)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(1.0)
        opening(app)
        before, until = "", time.monotonic() + PATIENCE
        while time.monotonic() < until:
            await pilot.pause(2.0)
            shown = app.export_screenshot(title="edc-tui", simplify=True)
            if shown == before:
                break
            before = shown
        return shown


if __name__ == "__main__":
    main()
