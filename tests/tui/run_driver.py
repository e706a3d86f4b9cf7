"""How the tests of the run screen make runs and watch them: `from run_driver import stages, synthesis, watch, after`."""

import math

from app_driver import run_async, screen_text, until

from edc_tui.app import EdcApp

SIZES = [(80, 24), (120, 40), (200, 60)]
SYNTHESIS = "4-synthesise/condensed"


def spread(mean, deviation=0.4):
    return {"mean": mean, "std": deviation, "n": 2, "values": [mean, mean]}


RESULTS = [
    {
        "set": "condensed",
        "student": "convnet-w32",
        "seeds": [0, 1],
        "top1": spread(61.2),
        "top5": spread(90.0),
        "over_random": spread(5.15),
    },
    {"set": "random", "student": "convnet-w32", "seeds": [0, 1], "top1": spread(56.05), "top5": spread(88.0)},
]


def stages(current, status="running"):
    """Return a summary's stages, those before `current` done, the first of them reused."""
    names = ["squeeze", "statistics", "initialise", "synthesise", "evaluate"]
    place = names.index(current)
    return {
        name: {
            "status": "done" if index < place else status if index == place else "waiting",
            "seconds": 12.5,
            "reused": index == 0,
            "peak_memory_bytes": 2 << 30,
            "steps": 1,
            "steps_done": int(index < place or (index == place and status == "done")),
        }
        for index, name in enumerate(names)
    }


def synthesis(last, first=1, bad_from=math.inf):
    """Return rows of a synthesis that converges, until it is not a number any more."""
    for step in range(first, last + 1):
        matching = math.nan if step >= bad_from else 30.0 + 400.0 * math.exp(-step / 100)
        yield (
            step,
            {
                "classification": 2.3 * math.exp(-step / 200),
                "matching": matching,
                "matching_global": matching * 0.6,
                "matching_class": matching * 0.4,
                "loss": 2.3 * math.exp(-step / 200) + 0.01 * matching,
            },
        )


def watch(projects, run, doings, size=(120, 40), **options):
    """Open a run and do something; returns what that returns."""

    async def session():
        app = EdcApp(projects, **options)
        async with app.run_test(size=size, notifications=True) as pilot:
            await pilot.pause()
            app.open_run(run)
            await until(pilot, lambda text: run.id[:8] in text and "reading …" not in text)
            await pilot.pause(0.2)
            return await doings(pilot, app)

    return run_async(session())


async def text_of(pilot, app):
    return screen_text(app)


def after(*keys):
    """Return doings that press keys and give the screen's text."""

    async def press(pilot, app):
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.1)
        return screen_text(app)

    return press
