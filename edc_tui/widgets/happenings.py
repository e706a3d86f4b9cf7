"""The pane that tells what has happened lately: runs that began and ended, and what the app has said."""

import time
from collections.abc import Sequence

from edc_tui.overview import top1
from edc_tui.widgets.cells import Canvas, Cells
from edc_tui.words import short_reason, status_glyph, status_style
from engine.runs.store import Listing
from engine.runs.text import clock

MOST = 60
_SEVERITIES = {"information": ("›", "muted"), "warning": ("!", "warn"), "error": ("✗", "bad")}
Line = tuple[float, str, str, str]  # when (unix seconds), glyph, style, text


class Happenings(Cells):
    """The latest first, one a line, under a rule."""

    COMPONENT_CLASSES = {"cells--rule"}
    DEFAULT_CSS = """
    Happenings { padding: 0 1; }
    Happenings > .cells--rule { color: $foreground 20%; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[Line] = []
        self._now = 0.0

    def show(self, listings: Sequence[Listing], told: Sequence[tuple[float, str, str]], now: float) -> None:
        """Show what the runs' states and the app's messages tell at `now` (unix seconds)."""
        self._lines, self._now = happenings(listings, told)[:MOST], now
        self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw as many lines as there is room for."""
        canvas.parts(0, 0, [("lately ", "muted"), ("─" * max(canvas.width - 7, 0), "rule")])
        if not self._lines:
            canvas.put(0, 1, "nothing yet", "muted")
        for y, (at, glyph, style, text) in enumerate(self._lines[: canvas.height - 1], start=1):
            x = canvas.put(0, y, f"{clock(at, self._now):>5} ", "muted")
            x = canvas.put(x, y, f"{glyph} ", style)
            canvas.put(x, y, text)


def happenings(listings: Sequence[Listing], told: Sequence[tuple[float, str, str]]) -> list[Line]:
    """Return what has happened, the latest first: of each run the last thing, and every message of the app."""
    lines = [(at, *_SEVERITIES.get(severity, _SEVERITIES["information"]), text) for at, text, severity in told]
    for listing in listings:
        line = _of_run(listing)
        if line is not None:
            lines.append(line)
    return sorted(lines, key=lambda line: line[0], reverse=True)


def _of_run(listing: Listing) -> Line | None:
    run, status = listing.run, listing.status
    if status.since is None or not 0 < status.since < time.time() + 86400:
        return None
    words = f"began {run.id}" if status.word in ("running", "starting") else f"{run.id} {status.word}: {short_reason(status.reason)}"
    if status.word == "done":
        best = top1(listing)
        words = f"finished {run.id}{'' if best is None else f', top-1 {best:.2f} %'}"
    return status.since, status_glyph(status.word), status_style(status.word), f"{run.project}: {words}"
