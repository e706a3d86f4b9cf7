"""How the app says what it shows: status glyphs and their styles, progress, times left and ages."""

import math
import re

# Of each status: a glyph, one cell wide in every font, and the style it is shown in; the word always stands beside them.
STATUS = {
    "queued": ("·", "muted"),
    "starting": ("▷", "accent"),
    "running": ("▶", "accent"),
    "stalled": ("!", "warn"),
    "stopping": ("■", "warn"),
    "done": ("✓", "good"),
    "stopped": ("■", "warn"),
    "failed": ("✗", "bad"),
    "killed": ("✗", "bad"),
    "out-of-memory": ("✗", "bad"),
    "lost": ("?", "bad"),
}


def status_glyph(word: str) -> str:
    """Return the glyph of a status word."""
    return STATUS.get(word, ("?", "bad"))[0]


def status_style(word: str) -> str:
    """Return the style of a status word: muted, accent, good, warn or bad."""
    return STATUS.get(word, ("?", "bad"))[1]


def fraction(done: float | None, total: float | None) -> float | None:
    """Return how much is done, from 0 to 1; None where that is not known."""
    if done is None or not total or not math.isfinite(done) or not math.isfinite(total) or total < 0:
        return None
    return min(max(done / total, 0.0), 1.0)


def seconds_left(done: float | None, total: float | None, rate: float | None) -> float | None:
    """Return how many seconds the rest takes at `rate` a second; None where that is not known."""
    if done is None or total is None or rate is None or not all(map(math.isfinite, (done, total, rate))) or rate <= 0 or total <= done:
        return None
    return (total - done) / rate


def bar(part: float, cells: int) -> str:
    """Return a bar of so many cells, a thick line in halves up to `part` (0 to 1) and a thin one from there."""
    whole, half = divmod(round(min(max(part, 0.0), 1.0) * cells * 2), 2)
    return ("━" * whole + "╸" * half).ljust(cells, "─")


def short_duration(seconds: float | None) -> str:
    """Say a time in at most six characters: `8 s`, `12 min`, `3.1 h`, `12 d`; nothing for None."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    seconds = max(seconds, 0.0)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    hours = seconds / 3600
    if hours < 48:
        return f"{hours:.1f} h" if hours < 9.95 else f"{hours:.0f} h"
    return f"{hours / 24:.0f} d" if hours < 24 * 9999 else ""


def short_reason(reason: str) -> str:
    """Return why a run ended without what the list says already: that it failed, when, and that it can be resumed."""
    return re.sub(r"^its worker.{0,80}? failed at [-0-9: ]+: ", "", without_command(reason))


def without_command(reason: str) -> str:
    """Return why a run ended without the command that would resume it, for which the app has a key."""
    return re.sub(r"; resume with `[^`]*`$", "", reason)
