"""The bottom line: the keys that do something now, as many as fit; each can be clicked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from textual import events
from textual.screen import Screen

from edc_tui.keys import KEYS, every_key
from edc_tui.widgets.cells import Canvas, Cells

PLACES = {key.id: place for place, key in enumerate(every_key().values())}
# What these do stands at the right, also where a screen takes the same key in its own way, to go back or to leave.
OF_APP = {name: place for place, key in enumerate(KEYS["app"]) if key.show for name in (key.id, key.key)}


@dataclass(frozen=True)
class Entry:
    """A key on the bar: what it is called, what it does, and the key itself."""

    key: str
    label: str
    description: str


class KeyBar(Cells):
    """Lists the keys of the focused widget, then of the screen, as their tables do, and at the right those that always find room."""

    COMPONENT_CLASSES = {"cells--key"}
    DEFAULT_CSS = """
    KeyBar { height: 1; dock: bottom; background: $footer-background; color: $footer-description-foreground; }
    KeyBar > .cells--key { color: $footer-key-foreground; text-style: bold; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[Entry] = []
        self._of_app: list[Entry] = []
        self._places: list[tuple[int, int, str]] = []

    def on_mount(self) -> None:
        """Hear of every change of what the keys do."""
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)
        self.call_after_refresh(self._bindings_changed, self.screen)

    def _bindings_changed(self, screen: Screen[object]) -> None:
        if screen is not self.screen or not self.is_attached:
            return
        rooms: dict[object, int] = {}  # the focused widget's first
        own: list[tuple[tuple[int, int], Entry]] = []
        of_app: list[tuple[int, Entry]] = []
        for active in screen.active_bindings.values():
            binding = active.binding
            room = rooms.setdefault(active.node, len(rooms))
            if binding.show and active.enabled:
                entry = Entry(binding.key, self.app.get_key_display(binding), binding.description)
                place = OF_APP.get(binding.id or "", OF_APP.get(binding.key))
                if place is not None:
                    of_app.append((place, entry))
                else:
                    own.append(((room, PLACES.get(binding.id or "", 0)), entry))
        found = _in_order(own), _in_order(of_app)
        if found != (self._entries, self._of_app):
            self._entries, self._of_app = found
            self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw the app's keys at the right and before them what fits."""
        self._places = []
        right = sum(_width(entry) for entry in self._of_app)
        x = 1
        for entry in self._entries:
            if x + _width(entry) > canvas.width - right:
                break
            x = self._draw_entry(canvas, x, entry)
        x = max(canvas.width - right, x)
        for entry in self._of_app:
            x = self._draw_entry(canvas, x, entry)

    def _draw_entry(self, canvas: Canvas, x: int, entry: Entry) -> int:
        end = canvas.parts(x, 0, [(entry.label, "key"), (f" {entry.description}  ", "")])
        self._places.append((x, end, entry.key))
        return end

    def on_click(self, event: events.Click) -> None:
        """Do what the clicked key does."""
        for start, end, key in self._places:
            if start <= event.x < end:
                self.app.simulate_key(key)


def _in_order(entries: Sequence[tuple[Any, Entry]]) -> list[Entry]:
    """Return entries in the order of their ranks, each deed once."""
    found: dict[str, Entry] = {}
    for _, entry in sorted(entries, key=lambda ranked: ranked[0]):
        found.setdefault(entry.description, entry)
    return list(found.values())


def _width(entry: Entry) -> int:
    return cell_len(entry.label) + cell_len(entry.description) + 3
