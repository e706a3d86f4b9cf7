"""Images by class on pages that fit the screen: of one run, or of two with the same class side by side; one of them under the cursor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from textual import events
from textual.message import Message

from edc_tui.widgets.cells import Canvas, Cell, cut, wrapped
from edc_tui.widgets.halfblock import HalfBlockCells, Scale, scales

BETWEEN = 3  # cells between two panes
FRAME_ROWS = 2  # the panes' titles above, the facts below
NARROWEST_BLOCK = 12  # cells of a class's name
WISHED_CLASSES, WISHED_IMAGES, WISHED_IN_ALL = 4, 5, 12  # as many are to be in sight, before images are made larger

Place = tuple[int, str, int]  # pane, class, number of the image within the class


@dataclass(frozen=True)
class Layout:
    """How images are laid out: `columns` images of a class in a pane, `across` classes side by side, `rows` of them in sight.

    A tile is an image with a bar at either side for the cursor and a line above for the name of its class.
    """

    scale: Scale
    tile_width: int
    tile_height: int
    pane_width: int
    columns: int
    across: int
    rows: int

    @property
    def classes(self) -> int:
        """Return how many classes are in sight."""
        return self.rows * self.across

    @property
    def block_width(self) -> int:
        """Return the cells from one class to the next at its side."""
        return max(self.columns * self.tile_width, NARROWEST_BLOCK)


@dataclass(frozen=True)
class PaneView:
    """What stands above a pane, and which images there are in it: how many of each class, and their size in pixels."""

    title: str
    note: str = ""
    problem: str = ""
    counts: Mapping[str, int] | None = None
    height: int = 0
    width: int = 0


def lay_out(
    width: int, height: int, *, image: tuple[int, int], per_class: int, classes: int, panes: int = 1, scale: Scale | None = None
) -> Layout | None:
    """Lay images of (height, width) pixels out in so many cells; None where not even the smallest fits.

    Without a `scale`, the largest at which a few classes and a few images of each are in sight, else the smallest.
    """
    pane_width, rows = (width - (panes - 1) * BETWEEN) // panes, height - FRAME_ROWS
    fitting = []
    for one in [scale] if scale else scales(*image):
        tile_height, tile_width = one.cells(*image)
        tile_height, tile_width = tile_height + 1, tile_width + 2
        if tile_width > pane_width or tile_height > rows:
            continue
        columns = max(min(per_class, pane_width // tile_width), 1)
        block = max(columns * tile_width, NARROWEST_BLOCK)
        across = max(pane_width // block, 1) if columns >= per_class else 1
        layout = Layout(one, tile_width, tile_height, pane_width, columns, across, rows // tile_height)
        enough = layout.classes * columns >= min(classes * per_class, WISHED_IN_ALL)
        if enough and layout.classes >= min(classes, WISHED_CLASSES) and columns >= min(per_class, WISHED_IMAGES):
            return layout
        fitting.append(layout)
    return fitting[-1] if fitting else None


class PictureGrid(HalfBlockCells, can_focus=True):
    """Draws the page that the cursor is on; what images are needed for it is told by `wanted`, and given by `tiles`."""

    DEFAULT_CSS = "PictureGrid { padding: 0 1; }"

    class Pointed(Message):
        """The image at this class and number was clicked, `twice` or once."""

        def __init__(self, place: tuple[int, int], twice: bool) -> None:
            self.place, self.twice = place, twice
            super().__init__()

    class Scrolled(Message):
        """The wheel was turned by so many rows of classes."""

        def __init__(self, rows: int) -> None:
            self.rows = rows
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self.panes: Sequence[PaneView] = ()
        self.names: Sequence[str] = ()
        self.cursor = (0, 0)  # class and number of the image
        self.scale: Scale | None = None
        self.zoomed = False
        self.tiles: Mapping[Place, list[list[Cell]]] = {}

    @property
    def per_class(self) -> int:
        """Return the most images that a class has in any pane."""
        return max((max(pane.counts.values(), default=0) for pane in self.panes if pane.counts), default=0)

    @property
    def layout_now(self) -> Layout | None:
        """Return the layout for the present size, None without images or room for them."""
        sizes = [(pane.height, pane.width) for pane in self.panes if pane.counts]
        if not sizes or not self.names:
            return None
        image = max(height for height, _ in sizes), max(width for _, width in sizes)
        size, panes = self.content_size, max(len(self.panes), 1)
        if not self.zoomed:
            many = {"per_class": self.per_class, "classes": len(self.names)}
            chosen = lay_out(*size, image=image, panes=panes, scale=self.scale, **many)
            return chosen or lay_out(*size, image=image, panes=panes, **many)
        alone = lay_out(*size, image=image, per_class=1, classes=1, panes=panes)
        return replace(alone, columns=1, across=1, rows=1) if alone else None

    def in_sight(self, layout: Layout) -> list[tuple[int, int, int]]:
        """Return (class, first image, images) of the classes in sight."""
        number, image = self.cursor
        first = number // layout.classes * layout.classes
        start = image // layout.columns * layout.columns
        return [(index, start, layout.columns) for index in range(first, min(first + layout.classes, len(self.names)))]

    def wanted(self) -> tuple[Scale | None, list[Place]]:
        """Return the images in sight and the scale they are wanted at."""
        layout = self.layout_now
        if layout is None:
            return None, []
        places = []
        for index, start, count in self.in_sight(layout):
            name = self.names[index]
            for pane, view in enumerate(self.panes):
                there = (view.counts or {}).get(name, 0)
                places += [(pane, name, number) for number in range(start, min(start + count, there))]
        return layout.scale, places

    def draw(self, canvas: Canvas) -> None:
        """Draw titles, images and what the cursor is at."""
        layout = self.layout_now
        pane_width = (canvas.width - (len(self.panes) - 1) * BETWEEN) // max(len(self.panes), 1)
        for pane, view in enumerate(self.panes):
            left = pane * (pane_width + BETWEEN)
            self._draw_title(canvas, left, pane_width, view)
            if pane:
                for y in range(canvas.height - 1):
                    canvas.put(left - 2, y, "│", "muted")
            if layout is not None and view.counts:
                self._draw_pane(canvas, left, layout, pane, view)
        if layout is not None:
            self._draw_facts(canvas, layout)
        elif any(view.counts for view in self.panes):
            canvas.put(0, canvas.height // 2, "no room for images here", "muted")

    def _draw_title(self, canvas: Canvas, left: int, width: int, view: PaneView) -> None:
        x = canvas.put(left, 0, view.title, "strong", width)
        room = left + width - x - 2
        if view.counts:
            canvas.put(x + 2, 0, view.note, "muted", max(room, 0))
            return
        for y, line in enumerate(wrapped(view.problem or view.note, width), start=2):
            canvas.put(left, y, line, "bad" if view.problem else "muted", width)

    def _draw_pane(self, canvas: Canvas, left: int, layout: Layout, pane: int, view: PaneView) -> None:
        for place, (index, start, count) in enumerate(self.in_sight(layout)):
            row, column = divmod(place, layout.across)
            x, y = left + column * layout.block_width, 1 + row * layout.tile_height
            name = self.names[index]
            there = (view.counts or {}).get(name)
            room = min(layout.block_width, layout.pane_width - column * layout.block_width)
            self._draw_name(canvas, x, y, room, index, start, count, there)
            for offset in range(min(count, (there or 0) - start)):
                self._draw_tile(canvas, x + offset * layout.tile_width, y + 1, layout, (pane, name, start + offset), index)

    def _draw_name(self, canvas: Canvas, x: int, y: int, room: int, index: int, start: int, count: int, there: int | None) -> None:
        here = index == self.cursor[0]
        name = cut(self.names[index], max(room - 1, 1))
        end = canvas.put(x + 1, y, name, "accent" if here else "")
        if there is None:
            notes = ["not in this run"]
        elif start >= there:
            notes = [f"only {there}"]
        else:
            notes = [f"{start + 1}-{min(start + count, there)} of {there}"] if there > count and not self.zoomed else []
        for note in notes:
            if end + 2 + cell_len(note) <= x + room:
                canvas.put(end + 2, y, note, "muted")

    def _draw_tile(self, canvas: Canvas, x: int, y: int, layout: Layout, place: Place, index: int) -> None:
        height, width = layout.tile_height - 1, layout.tile_width - 2
        tile = self.tiles.get(place)
        if tile is not None and (len(tile) > height or len(tile[0]) > width):
            tile = None  # of a larger scale, until it is read at this one
        if tile is None:
            canvas.put(x + 1 + width // 2, y + height // 2, "·", "muted")
        for row, cells in enumerate(tile or []):
            if y + row < canvas.height and x + 1 + len(cells) <= canvas.width:
                canvas.rows[y + row][x + 1 : x + 1 + len(cells)] = cells
        if (index, place[2]) == self.cursor and not self.zoomed:
            for row in range(height):
                canvas.put(x, y + row, "▐", "accent")
                canvas.put(x + 1 + width, y + row, "▌", "accent")

    def _draw_facts(self, canvas: Canvas, layout: Layout) -> None:
        """Draw in the last line what the cursor is at."""
        index, number = self.cursor
        name = cut(self.names[index], max(canvas.width // 3, 10))
        here = [f"image {number + 1} of {self.per_class}", f"class {index + 1} of {len(self.names)}", f"shown {layout.scale}"]
        pages = -(-len(self.names) // layout.classes)
        if pages > 1 and not self.zoomed:
            here.append(f"page {index // layout.classes + 1} of {pages}")
        x = canvas.put(0, canvas.height - 1, name, "accent")
        canvas.put(x + 2, canvas.height - 1, " · ".join(here), "muted")

    # What one does with the mouse.

    def on_click(self, event: events.Click) -> None:
        """Tell which image was clicked."""
        layout, offset = self.layout_now, event.get_content_offset(self)
        if layout is None or offset is None or self.zoomed:
            if self.zoomed:
                self.post_message(self.Pointed(self.cursor, twice=True))
            return
        x, row = offset.x % (layout.pane_width + BETWEEN), (offset.y - 1) // layout.tile_height
        column, inside = divmod(x, layout.block_width)
        if layout.across == 1:
            column, inside = 0, x
        place, image = row * layout.across + column, inside // layout.tile_width
        seen = self.in_sight(layout)
        if offset.y >= 1 and 0 <= row < layout.rows and column < layout.across and place < len(seen) and image < layout.columns:
            index, start, _ = seen[place]
            self.post_message(self.Pointed((index, start + image), twice=event.chain == 2))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Go down by a row of classes."""
        event.stop()
        self.post_message(self.Scrolled(1))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Go up by a row of classes."""
        event.stop()
        self.post_message(self.Scrolled(-1))
