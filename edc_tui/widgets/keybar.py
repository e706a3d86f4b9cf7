"""The bottom line: the keys that do something now, as many as fit; each can be clicked."""

from dataclasses import dataclass

from rich.cells import cell_len
from textual import events
from textual.app import App
from textual.screen import Screen

from edc_tui.widgets.cells import Canvas, Cells


@dataclass(frozen=True)
class Entry:
    """A key on the bar: what it is called, what it does, and the key itself."""

    key: str
    label: str
    description: str


class KeyBar(Cells):
    """Lists the keys of the focused widget and the screen, and at the right end those of the app, which always find room."""

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
        own, of_app = {}, {}
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.show and active.enabled:
                place = of_app if isinstance(active.node, App) else own
                place.setdefault(binding.action, Entry(binding.key, self.app.get_key_display(binding), binding.description))
        found = list(own.values()), list(of_app.values())
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


def _width(entry: Entry) -> int:
    return cell_len(entry.label) + cell_len(entry.description) + 3
