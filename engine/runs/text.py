"""Words for people: text from files made safe to show, and times as a reader says them."""

import math
import re
import shlex
import time

# C0 and C1 controls (escape sequences begin with one of them), bidirectional controls that reorder what stands around them,
# line separators, invisible tag characters, and lone surrogates, which cannot be encoded when printed.
_BLANKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]")


def printable(text: object, limit: int | None = None) -> str:
    """Return any text from a file or a name as one line that cannot steer a terminal.

    Line breaks and tabs become one space, every other control character becomes U+FFFD, and beyond `limit` characters the text
    ends in an ellipsis. Square brackets stay: whoever renders markup escapes them for that markup.
    """
    line = _UNSAFE.sub("\ufffd", _BLANKS.sub(" ", str(text))).strip()
    if limit is not None and len(line) > limit:
        return line[: max(limit - 1, 0)].rstrip() + "…"
    return line


def typed(word: object) -> str:
    """Return a word of a command as one types it into a shell: a name with blanks or signs stands in quotes."""
    return shlex.quote(printable(word))


def clock(moment: float | None, now: float) -> str:
    """Say when something happened (unix seconds) in local time: `15:31` today, `2026-11-22 15:31` on any other day."""
    if moment is None:
        return "an unknown time"
    try:
        then, today = time.localtime(moment), time.localtime(now)
    except (OverflowError, ValueError, OSError):
        return "an unknown time"
    same_day = then[:3] == today[:3]
    return time.strftime("%H:%M" if same_day else "%Y-%m-%d %H:%M", then)


def duration(seconds: float) -> str:
    """Say how long something took (seconds) in its largest fitting unit: `8 s`, `12 min`, `3 h 5 min`, `2 days`."""
    if not math.isfinite(seconds) or seconds > 1e10:
        return "an unknown time"
    seconds = max(seconds, 0.0)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} days"
