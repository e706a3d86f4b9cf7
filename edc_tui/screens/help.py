"""The help screen: what a screen is for, from help/*.md, and its keys, from the tables that make them work."""

from collections.abc import Iterable, Sequence
from importlib import resources

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Markdown, Static

from edc_tui.keys import KEYS, Key, bindings
from edc_tui.widgets.keybar import KeyBar
from edc_tui.widgets.titleline import TitleLine

TITLES = {
    "app": "Everywhere",
    "home": "Runs and projects",
    "rows": "Moving in a list",
    "project": "Project",
    "form": "In the form",
    "picker": "In a list of choices",
    "run": "Run",
    "chart": "Chart",
    "log": "Log",
    "gallery": "Images",
    "compare": "Comparing",
    "table": "In the table",
    "dialog": "A question",
}


def rooms_of(screen: Screen[object]) -> list[str]:
    """Return the rooms whose keys work on a screen, its own first and the app's last."""
    found: dict[str, None] = {}
    for node in (screen, *screen.query("*")):
        for binding in _own_bindings(type(node).mro()):
            room = (binding.id or "").partition(".")[0]
            if room in KEYS:
                found.setdefault(room)
    return [*(room for room in found if room != "app"), "app"]


def _own_bindings(classes: Iterable[type]) -> Iterable[Binding]:
    for kind in classes:
        yield from (binding for binding in kind.__dict__.get("BINDINGS", ()) if isinstance(binding, Binding))


class HelpScreen(Screen[None]):
    """Text and keys of the rooms of a screen."""

    BINDINGS = bindings("help")
    is_help = True
    AUTO_FOCUS = "#page"
    DEFAULT_CSS = """
    HelpScreen #page { padding: 1 2; }
    HelpScreen Markdown { max-width: 96; margin: 0; padding: 0; background: transparent; }
    HelpScreen .room { text-style: bold; color: $text-accent; }
    HelpScreen .keys { max-width: 116; margin: 0 0 1 2; }
    HelpScreen MarkdownH1 { content-align: left middle; margin: 0 0 1 0; }
    HelpScreen MarkdownH2 { content-align: left middle; margin: 0 0 1 0; }
    """

    def __init__(self, rooms: Sequence[str]) -> None:
        super().__init__()
        self.rooms = list(rooms)

    def compose(self) -> ComposeResult:
        """Lay out the keys, room after room, then what there is to say about them."""
        yield TitleLine()
        with VerticalScroll(id="page"):
            for room in self.rooms:
                yield Static(TITLES.get(room, room), classes="room")
                yield Static(self._keys(room), classes="keys")
            for text in filter(None, map(help_text, self.rooms)):
                yield Markdown(text)
            yield Markdown(KEYS_TOML)
        yield KeyBar()

    def on_mount(self) -> None:
        """Say whose help this is."""
        self.query_one(TitleLine).show([("help ", "strong"), (TITLES.get(self.rooms[0], self.rooms[0]), "")], [], [])

    def action_scroll(self, lines: int) -> None:
        """Scroll by so many lines."""
        self.query_one("#page").scroll_relative(y=lines, animate=False)

    def action_page(self, pages: int) -> None:
        """Scroll by pages."""
        page = self.query_one("#page")
        page.scroll_relative(y=pages * (page.size.height - 2), animate=False)

    def action_edge(self, last: bool) -> None:
        """Go to the end or the beginning."""
        page = self.query_one("#page")
        if last:
            page.scroll_end(animate=False)
        else:
            page.scroll_home(animate=False)

    def _keys(self, room: str) -> Table:
        """Return a room's keys as a table, with the keys that the user has chosen, and what keys.toml calls them."""
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(style="bold", width=12)
        table.add_column(ratio=1)
        table.add_column(style="dim", no_wrap=True, justify="right")
        for key in KEYS[room]:
            table.add_row(Text(self._label(key)), Text(key.help), Text(key.id))
        return table

    def _label(self, key: Key) -> str:
        keys = self.app._keymap.get(key.id, key.key).split(",")
        return " ".join(self.app.get_key_display(Binding(name.strip(), "")) for name in keys)


KEYS_TOML = """
Any key can be changed in `keys.toml`, in `$XDG_CONFIG_HOME/edc` or `~/.config/edc`, by the grey name beside it:

```toml
"home.stop" = "X"
"home.open" = ["enter", "ctrl+o"]
```
"""


def help_text(room: str) -> str:
    """Return the text of a room, empty where its keys say it all."""
    file = resources.files("edc_tui") / "help" / f"{room}.md"
    return file.read_text(encoding="utf-8") if file.is_file() else ""
