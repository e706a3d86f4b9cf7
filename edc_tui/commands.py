"""The command palette: what the keys do now, and every run by its name."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.fuzzy import Matcher
from textual.markup import escape

from edc_tui.keys import every_key
from engine.runs.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_RUNS = 200
LEFT_OUT = ("rows", "dialog", "chart", "log")  # moving about, which nobody searches for


class Commands(Provider):
    """Offers what applies to the screen below it and the widget that has its focus there."""

    def _now(self) -> "Iterator[tuple[str, str, Callable[[], object]]]":
        """Give title, help and deed of every key that does something now, each once."""
        known, seen = every_key(), set()
        for active in self.screen.active_bindings.values():
            key = known.get(active.binding.id or "")
            if key is None or not active.enabled or key.id in seen or key.id.partition(".")[0] in LEFT_OUT or key.id == "app.palette":
                continue
            seen.add(key.id)
            label = self.app.get_key_display(active.binding)
            yield f"{key.description}  ({label})", key.help, partial(self.app.run_action, active.binding.action, active.node)

    async def discover(self) -> Hits:
        """List everything that can be done now."""
        for title, help_text, act in self._now():
            yield DiscoveryHit(Content(title), act, text=title, help=escape(help_text))

    async def search(self, query: str) -> Hits:
        """Find deeds by title and help, and runs by project and id."""
        matcher = self.matcher(query)
        for title, help_text, act in self._now():
            score = max(matcher.match(title), matcher.match(help_text) * 0.7)
            if score > 0:
                yield Hit(score, _highlighted(matcher, title), act, text=title, help=escape(help_text))
        found = 0
        for listing in getattr(self.app, "listings", ()):
            title = f"Open {printable(listing.run.project)} {printable(listing.run.id)}"
            score = matcher.match(title)
            if score > 0 and found < MOST_RUNS:
                found += 1
                act = partial(self.app.open_run, listing.run)
                yield Hit(score * 0.9, _highlighted(matcher, title), act, text=title, help=listing.status.word)


def _highlighted(matcher: Matcher, title: str) -> Content:
    """Return a title with what was found in it marked; taken literally, as the matcher's own would not."""
    content = Content(title)
    _, places = matcher.fuzzy_search.match(matcher.query, title)
    for place in places:
        content = content.stylize(matcher.match_style, place, place + 1)
    return content
