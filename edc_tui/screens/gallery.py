"""The gallery: condensed images by class, as they form, beside those they began as, or beside those of another run."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual import on, work
from textual.app import ComposeResult, SuspendNotSupported
from textual.message import Message

from edc_tui.keys import bindings
from edc_tui.pictures import INITIAL, Pictures, Shown, look_at
from edc_tui.screens.dialogs import Choose
from edc_tui.screens.looking import LookingScreen
from edc_tui.widgets.cells import Cell
from edc_tui.widgets.halfblock import Scale, half_blocks, scaled, scales
from edc_tui.widgets.keybar import KeyBar
from edc_tui.widgets.picture_grid import PaneView, PictureGrid, Place
from edc_tui.widgets.titleline import TitleLine
from engine.commands.tables import count
from engine.errors import UserError
from engine.runs.layout import Run
from engine.runs.text import printable

if TYPE_CHECKING:
    from edc_tui.app import EdcApp
    from edc_tui.graphics import Group

LOOK_EVERY = 2  # ticks of the app between two looks at the files
MODES = ("now", "initial", "both")
Tiles = dict[Place, list[list[Cell]]]


class Looked(Message):
    """A look at the files is done."""

    def __init__(self, shown: tuple[Shown, ...], mode: str) -> None:
        self.shown, self.mode = shown, mode
        super().__init__()


class TilesRead(Message):
    """The images of a page are read."""

    def __init__(self, tiles: Tiles, key: object, problem: str) -> None:
        self.tiles, self.key, self.problem = tiles, key, problem
        super().__init__()


class GalleryScreen(LookingScreen):
    """The images of one run, or of two."""

    app: "EdcApp"
    BINDINGS = bindings("gallery")
    AUTO_FOCUS = "PictureGrid"

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__()
        self.runs = list(runs)[:2]
        self.mode = MODES[0]
        self._shown: tuple[Shown, ...] = ()
        self._names: list[str] = []  # of classes, as in the files
        self._labels: dict[str, str] = {}  # by them, as they are shown
        self._looking = threading.Lock()
        self._reading: object = None  # what is being read
        self._has_read: object = None

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield TitleLine()
        yield PictureGrid()
        yield KeyBar()

    def on_mount(self) -> None:
        """Begin to look."""
        self._timer = self.set_interval(self.app.interval * LOOK_EVERY, self.look)
        self._show_title()
        self.look()

    def on_resize(self) -> None:
        """Read what has come into sight."""
        self.call_after_refresh(self._show_page)

    @property
    def grid(self) -> PictureGrid:
        """The images."""
        return self.query_one(PictureGrid)

    # Reading, in threads.

    @work(thread=True, exit_on_error=False, group="look")
    def look(self) -> None:
        """Look for the files, unless a look is still going on."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            mode, panes = self.mode, self._panes(self.mode)
            before = {(shown.run, index): shown for index, shown in enumerate(self._shown)}
            found = [look_at(run, initial=initial, before=before.get((run, index))) for index, (run, initial) in enumerate(panes)]
            self.post_message(Looked(tuple(found), mode))
        finally:
            self._looking.release()

    def _panes(self, mode: str) -> list[tuple[Run, bool]]:
        """Return what stands side by side: runs, with their initial images or with the present ones."""
        if mode == "both" and len(self.runs) == 1:
            return [(self.runs[0], True), (self.runs[0], False)]
        return [(run, mode == "initial") for run in self.runs]

    @on(Looked)
    def _show_look(self, event: Looked) -> None:
        """Show what a look has found."""
        if event.mode != self.mode:
            self.look()
            return
        if event.shown == self._shown:
            return
        self._shown = event.shown
        names: dict[str, None] = {}
        for shown in self._shown:
            names |= dict.fromkeys(shown.pictures.classes if shown.pictures else ())
        at = self._names[self.grid.cursor[0]] if self._names else None
        self._names = [name for name in names if any(shown.pictures and shown.pictures.members.get(name) for shown in self._shown)]
        grid = self.grid
        self._labels = _labels(self._names)
        grid.names = list(self._labels.values())
        grid.panes = [self._pane_view(shown) for shown in self._shown]
        self._move_to(self._names.index(at) if at in self._names else 0, grid.cursor[1])
        self._show_title()
        self.refresh_bindings()

    def _pane_view(self, shown: Shown) -> PaneView:
        pictures, title = shown.pictures, self._pane_title(shown)
        if pictures is None:
            return PaneView(title, shown.note, shown.problem)
        counts = {self._labels[name]: len(members) for name, members in pictures.members.items() if members}
        return PaneView(title, shown.note, "", counts, pictures.height, pictures.width)

    def _pane_title(self, shown: Shown) -> str:
        """Name a pane by its project, with the run's id where both runs are of one."""
        alike = len({run.project for run in self.runs}) < len(self.runs)
        return f"{printable(shown.run.project)} {shown.run.id}" if alike else printable(shown.run.project)

    def _show_page(self) -> None:
        """Draw the page as far as its images are read, and read the others."""
        scale, wanted = self.grid.wanted()
        marks = tuple(shown.pictures.mark if shown.pictures else None for shown in self._shown)
        key = (scale, tuple(wanted), marks, self.mode)
        if scale is not None and wanted and key not in (self._reading, self._has_read):
            self._reading = key
            by_name = {label: name for name, label in self._labels.items()}
            pictures = [shown.pictures for shown in self._shown]
            self._read(scale, [(place, by_name[place[1]]) for place in wanted], pictures, key)
        self.grid.redraw()

    @work(thread=True, exit_on_error=False, group="read")
    def _read(self, scale: Scale, wanted: Sequence[tuple[Place, str]], pictures: Sequence[Pictures | None], key: object) -> None:
        """Read the images of a page, unless another page is wanted meanwhile."""
        tiles: Tiles = {}
        problem = ""
        for place, name in wanted:
            if self._reading != key:
                return
            pane, _, number = place
            file = pictures[pane]
            if file is None:
                continue
            try:
                tiles[place] = half_blocks(scaled(file.read(file.members[name][number]), scale))
            except UserError as error:
                problem = str(error)
        self.post_message(TilesRead(tiles, key, problem))

    @on(TilesRead)
    def _show_tiles(self, event: TilesRead) -> None:
        """Show the images of the page, if it is still the one in sight."""
        if event.key == self._reading:
            self._reading, self._has_read = None, event.key
            self.grid.tiles = event.tiles
            self.grid.redraw()
            if event.problem:
                self.app.tell(event.problem, "error")

    # What stands around.

    def _show_title(self) -> None:
        pictures = next((shown.pictures for shown in self._shown if shown.pictures), None)
        names = " and ".join(dict.fromkeys(printable(run.project) for run in self.runs))
        right = []
        if pictures is not None:
            sizes = dict.fromkeys(f"{shown.pictures.height}×{shown.pictures.width}" for shown in self._shown if shown.pictures)
            right = [
                (count(len(self._names), "class"), ""),
                (f"{self.grid.per_class} each", ""),
                (" and ".join(sizes) + " px", ""),
            ]
        run_id = f" {self.runs[0].id}" if len(self.runs) == 1 else ""
        self.query_one(TitleLine).show([("images ", "strong"), (names, ""), (run_id, "muted")], [], right)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the keys that would do nothing now."""
        if not self.is_mounted:
            return True
        grid = self.grid
        layout = grid.layout_now
        there = layout is not None
        applies = {
            "move": there,
            "page": there,
            "edge": there,
            "pictures": there,
            "zoom": there and not grid.zoomed,
            "leave_zoom": there and grid.zoomed,
            "size": there and not grid.zoomed,
            "fit": grid.scale is not None and not grid.zoomed,
            "choose_class": len(self._names) > 1,
            "initial": any(shown.pictures for shown in self._shown) and self._has_initial(),
            "beside": any(listing.run not in self.runs for listing in self.app.listings) or len(self.runs) > 1,
        }
        return applies.get(action, True)

    def _has_initial(self) -> bool:
        """Say whether any run has initial images besides those it has now."""
        return self.mode != MODES[0] or any(shown.kind and shown.kind != INITIAL for shown in self._shown)

    # Where the cursor goes.

    def _move_to(self, index: int, image: int) -> None:
        grid = self.grid
        index = min(max(index, 0), max(len(self._names) - 1, 0))
        name = grid.names[index] if grid.names else ""
        there = max((pane.counts.get(name, 0) for pane in grid.panes if pane.counts), default=0)
        grid.cursor = index, min(max(image, 0), max(there - 1, 0))
        self._show_page()

    def action_move(self, rows: int, images: int) -> None:
        """Move the cursor by rows of classes or by images; from a class's last image on to the class that stands beside it."""
        grid, layout = self.grid, self.grid.layout_now
        if layout is None:
            return
        (index, image), last = grid.cursor, grid.per_class - 1
        if images and layout.across > 1 and not 0 <= image + images <= last:
            self._move_to(index + images, 0 if images > 0 else last)
        else:
            self._move_to(index + rows * layout.across if 0 <= index + rows * layout.across < len(self._names) else index, image + images)

    def action_page(self, pages: int) -> None:
        """Move by pages of classes; the last page may be shorter."""
        layout = self.grid.layout_now
        if layout is not None:
            index, image = self.grid.cursor
            self._move_to(index + pages * layout.classes, image)

    def action_edge(self, last: bool) -> None:
        """Go to the first or the last class."""
        self._move_to(len(self._names) if last else 0, 0)

    @on(PictureGrid.Pointed)
    def _pointed(self, event: PictureGrid.Pointed) -> None:
        self._move_to(*event.place)
        if event.twice:
            self._zoom(not self.grid.zoomed)

    @on(PictureGrid.Scrolled)
    def _scrolled(self, event: PictureGrid.Scrolled) -> None:
        self.action_move(event.rows, 0)

    # What the keys do.

    def action_zoom(self) -> None:
        """Show the image under the cursor as large as it fits."""
        self._zoom(True)

    def action_leave_zoom(self) -> None:
        """Show all images again."""
        self._zoom(False)

    def _zoom(self, zoomed: bool) -> None:
        self.grid.zoomed = zoomed
        self._show_page()
        self.refresh_bindings()

    def action_size(self, steps: int) -> None:
        """Show images larger or smaller, as far as they fit."""
        grid, layout = self.grid, self.grid.layout_now
        if layout is None:
            return
        view = next(pane for pane in grid.panes if pane.counts)
        ladder = list(scales(view.height, view.width))
        place = ladder.index(layout.scale) if layout.scale in ladder else 0
        before = grid.scale
        grid.scale = ladder[min(max(place - steps, 0), len(ladder) - 1)]
        if grid.layout_now is None or grid.layout_now.scale != grid.scale:
            grid.scale = before
        self._show_page()
        self.refresh_bindings()

    def action_fit(self) -> None:
        """Let the size be chosen by the room there is."""
        self.grid.scale = None
        self._show_page()
        self.refresh_bindings()

    def action_initial(self) -> None:
        """Show initial images in place of the present ones, then both side by side, then the present ones."""
        modes = MODES if len(self.runs) == 1 else MODES[:2]
        self.mode = modes[(modes.index(self.mode) + 1) % len(modes)]
        self.look()

    def action_choose_class(self) -> None:
        """Choose a class by its name."""
        options = [f"{number}  {printable(name)}" for number, name in enumerate(self._names, start=1)]
        now = options[self.grid.cursor[0]]

        def go(option: str | None) -> None:
            if option is not None:
                self._move_to(options.index(option), 0)

        self.app.push_screen(Choose("Which class?", options, now), go)

    def action_pictures(self) -> None:
        """Show the images in sight in the terminal's own graphics until a key is pressed."""
        from edc_tui import graphics

        layout = self.grid.layout_now
        if layout is None:
            return
        seen = self.grid.in_sight(layout)
        try:
            panes = [(f"{self._pane_title(shown)}  {shown.note}", self._groups(shown, seen)) for shown in self._shown]
            with self.app.suspend():
                problem = graphics.show(panes)
        except (UserError, SuspendNotSupported) as error:
            problem = str(error)
        if problem:
            self.app.tell(problem, "warning")

    def _groups(self, shown: Shown, seen: Sequence[tuple[int, int, int]]) -> "list[Group]":
        """Read the images in sight; raises UserError when they cannot be read."""
        from edc_tui.graphics import Group

        groups = []
        for index, start, many in seen:
            name, pictures = self._names[index], shown.pictures
            start = self.grid.cursor[1] if self.grid.zoomed else start
            members = pictures.members.get(name, [])[start : start + many] if pictures else []
            groups.append(Group(self._labels[name], [pictures.read(member) for member in members] if pictures else []))
        return groups

    def action_beside(self) -> None:
        """Choose a run whose images are to stand beside these, or take it away again."""
        if len(self.runs) > 1:
            self._set_runs(self.runs[:1])
            return
        others = {
            f"{printable(listing.run.project)} {listing.run.id}  {listing.status.word}": listing.run
            for listing in self.app.listings
            if listing.run not in self.runs
        }

        def place(name: str | None) -> None:
            if name is not None:
                self._set_runs([*self.runs, others[name]])

        self.app.push_screen(Choose("Which run beside it?", list(others)), place)

    def _set_runs(self, runs: list[Run]) -> None:
        self.runs, self.mode = runs, MODES[0]
        self._show_title()
        self.look()


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Return names as they are shown, each one different."""
    taken: set[str] = set()
    labels: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        label = printable(name) or "?"
        labels[name] = f"{label} ({number})" if label in taken else label
        taken.add(labels[name])
    return labels
