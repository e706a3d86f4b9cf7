"""The pane that tells what has happened lately: runs that began and ended, and what the app has said."""

import heapq
from collections.abc import Sequence
from operator import itemgetter

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
        self._lines, self._now = happenings(listings, told, now), now
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


def happenings(listings: Sequence[Listing], told: Sequence[tuple[float, str, str]], now: float) -> list[Line]:
    """Return what has happened lately, the latest first: of each run the last thing, and the messages of the app."""
    dated = ((listing.status.since, listing) for listing in listings)
    runs = heapq.nlargest(MOST, ((at, listing) for at, listing in dated if at is not None and 0 < at < now + 86400), key=itemgetter(0))
    lines = [(at, *_SEVERITIES.get(severity, _SEVERITIES["information"]), text) for at, text, severity in told]
    lines += [_of_run(at, listing) for at, listing in runs]
    return sorted(lines, key=itemgetter(0), reverse=True)[:MOST]


def _of_run(at: float, listing: Listing) -> Line:
    run, status = listing.run, listing.status
    words = f"{run.id} {status.word}: {short_reason(status.reason)}"
    if status.word in ("running", "starting"):
        words = f"began {run.id}"
    elif status.word == "stopped":
        words = f"stopped {run.id}"
    elif status.word == "done":
        best = top1(listing)
        words = f"finished {run.id}{'' if best is None else f', top-1 {best:.2f} %'}"
    return at, status_glyph(status.word), status_style(status.word), f"{run.project}: {words}"
