"""Images as half-blocks: every cell is an upper half in one colour on a lower half in another, so that pixels are square."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.color import Color
from rich.style import Style

from edc_tui.widgets.cells import Cell, Cells

if TYPE_CHECKING:
    import numpy as np

UPPER = "▀"
LARGEST = 8  # times
SMALLEST_SIDE = 8  # pixels on the screen
MOST_STYLES = 50_000


@dataclass(frozen=True)
class Scale:
    """A whole factor by which images are enlarged (`up`) or shrunk (`down`); one of the two is 1."""

    up: int = 1
    down: int = 1

    def pixels(self, side: int) -> int:
        """Return how many pixels a side has on the screen."""
        return -(-side * self.up // self.down)

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of cells that an image takes."""
        return -(-self.pixels(height) // 2), self.pixels(width)

    def __str__(self) -> str:
        return f"{self.up}:{self.down}"


def scales(height: int, width: int) -> Iterator[Scale]:
    """Yield the scales at which an image makes sense, from the largest to the smallest."""
    yield from (Scale(up) for up in range(LARGEST, 1, -1))
    yield Scale()
    yield from (Scale(1, down) for down in range(2, min(height, width) // SMALLEST_SIDE + 1))


def scaled(image: "np.ndarray", scale: Scale) -> "np.ndarray":
    """Enlarge an image, uint8 (H, W, 3), pixel by pixel, or shrink it to the means of blocks, the last of which may be smaller."""
    import numpy as np

    if scale.up > 1:
        return image.repeat(scale.up, axis=0).repeat(scale.up, axis=1)
    if scale.down == 1:
        return image
    sums = image.astype(np.uint32)
    counts = []
    for axis in (0, 1):
        starts = np.arange(0, image.shape[axis], scale.down)
        counts.append(np.diff(np.append(starts, image.shape[axis])))
        sums = np.add.reduceat(sums, starts, axis=axis)
    sizes = (counts[0][:, None] * counts[1][None, :])[..., None]
    return ((sums + sizes // 2) // sizes).astype(np.uint8)


def half_blocks(pixels: "np.ndarray") -> list[list[Cell]]:
    """Turn pixels, uint8 (H, W, 3), into rows of cells styled `#rrggbb/#rrggbb`, upper and lower; below an odd last row is nothing."""
    import numpy as np

    codes = np.zeros(pixels.shape[:2], np.int64)
    for channel in range(3):
        codes = codes * 256 + pixels[..., channel]
    names = [[f"#{code:06x}" for code in row] for row in codes.tolist()]
    rows: list[list[Cell]] = []
    for top in range(0, len(names), 2):
        lower = names[top + 1] if top + 1 < len(names) else [""] * len(names[top])
        rows.append([(UPPER, f"{above}/{below}") for above, below in zip(names[top], lower, strict=True)])
    return rows


class HalfBlockCells(Cells):
    """Cells that also take the styles of half-blocks; like all of them drawn on demand, and sent where they changed."""

    def _style(self, names: str) -> Style:
        if not names.startswith("#"):
            return super()._style(names)
        style = self._styles.get(names)
        if style is None:
            if len(self._styles) >= MOST_STYLES:
                self._styles.clear()
            above, _, below = names.partition("/")
            style = self.rich_style + Style(color=_colour(above), bgcolor=_colour(below) if below else None)
            self._styles[names] = style
        return style


def _colour(code: str) -> Color:
    return Color.from_rgb(int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16))
