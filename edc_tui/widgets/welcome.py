"""What an empty projects folder shows: how to begin."""

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Button, Static

from edc_tui.quickstart import TAKES
from engine.runs.text import printable

if TYPE_CHECKING:
    from edc_tui.app import EdcApp


class Welcome(VerticalScroll, can_focus=False):
    """Offers the quickstart, and says what it takes, and a project of one's own."""

    app: "EdcApp"
    DEFAULT_CSS = """
    Welcome { align: center middle; height: 1fr; }
    Welcome > Static { width: 72; max-width: 96%; margin-bottom: 1; }
    Welcome > #hello { text-style: bold; }
    Welcome > Button { margin-left: 2; margin-bottom: 1; }
    """

    def compose(self) -> ComposeResult:
        """Lay out the offer."""
        yield Static("Dataset condensation: a few synthetic images per class to train a network on.", id="hello", markup=False)
        yield Static(f"There are no projects in {printable(self.app.projects)} yet.", markup=False)
        yield Static(" ".join(TAKES), markup=False)
        yield Button("t  Try the quickstart", id="quickstart", variant="primary", compact=True)
        yield Static("Or choose dataset, images per class, observers and method yourself.", markup=False)
        yield Button("n  New project", id="new", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Do what the button says."""
        if event.button.id == "quickstart":
            self.app.offer_quickstart()
        else:
            self.app.open_project(None)
