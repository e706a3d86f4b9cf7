"""How the tests of the screen drive the app and look at it: `from app_driver import screen_text, until, run_async, check_snapshot`."""

import asyncio
import os
import re
import time
from pathlib import Path

from edc_tui.app import EdcApp
from engine.runs.events import MetricsWriter


def screen_text(app) -> str:
    """Return what the terminal shows, one line a row, trailing blanks removed."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


def screen_svg(app) -> str:
    """Return the screen as a picture."""
    return app.export_screenshot(simplify=True)


def asked(app):
    """Return what the question in front says; the screen behind it stays in sight at both sides."""
    return " ".join(str(line.content) for line in app.screen.query(".title, .line"))


async def until(pilot, condition, seconds=10.0):
    """Wait until `condition(text of the screen)` holds and return the text; fails, showing the screen, when it never does."""
    begun = time.monotonic()
    while True:
        await pilot.pause(0.02)
        text = screen_text(pilot.app)
        if condition(text):
            return text
        assert time.monotonic() - begun < seconds, f"not seen within {seconds} s:\n{text}"


async def settled(pilot, seconds=10.0):
    """Wait until two looks at the screen, some pictures apart, show the same, and return the text: layout follows content."""
    begun, before = time.monotonic(), None
    while (text := screen_text(pilot.app)) != before:
        assert time.monotonic() - begun < seconds, f"the screen still changes after {seconds} s:\n{text}"
        before = text
        await pilot.pause(0.3)
    return text


def run_async(coroutine):
    """Run a test's coroutine to its end."""
    return asyncio.run(coroutine)


def use(projects, doings, size=(120, 40), make=EdcApp, **options):
    """Open the app (`make` makes it) on a projects folder and do something in it: `doings(pilot, app)`."""

    async def session():
        app = make(projects, **options)
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda text: "looking …" not in text)
            await pilot.pause()
            return await doings(pilot, app)

    return run_async(session())


def write_metrics(folder, rows):
    """Write a metrics log: `rows` are (step, {name: value})."""
    with MetricsWriter(folder / "metrics.jsonl") as metrics:
        for step, values in rows:
            metrics.write(step, values)


def check_snapshot(name, text):
    """Compare a screen's text with tests/tui/snapshots/NAME.txt; ids and times of day are made alike first.

    `EDC_SNAPSHOTS=write` writes the file instead: look at it before it is kept.
    """
    text = re.sub(r"\d{8}-\d{6}-[0-9a-z]{4}", "20260101-000000-aaaa", re.sub(r"\b\d\d:\d\d\b", "12:34", text)) + "\n"
    path = Path(__file__).with_name("snapshots") / f"{name}.txt"
    if os.environ.get("EDC_SNAPSHOTS") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} differs; if it should, write it anew with EDC_SNAPSHOTS=write and look at it"
