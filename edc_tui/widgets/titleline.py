"""The top line of a screen: what it shows at the left, how much of it at the right, and what one has set in the middle."""

from collections.abc import Sequence

from rich.cells import cell_len

from edc_tui.widgets.cells import Canvas, Cells

Part = tuple[str, str]  # text and style


class TitleLine(Cells):
    """One line; where there is no room the left is cut, then the middle left out."""

    DEFAULT_CSS = "TitleLine { height: 1; dock: top; padding: 0 1; background: $panel; }"

    def __init__(self) -> None:
        super().__init__()
        self._left: Sequence[Part] = ()
        self._middle: Sequence[Part] = ()
        self._right: Sequence[Part] = ()

    def show(self, left: Sequence[Part], middle: Sequence[Part], right: Sequence[Part]) -> None:
        """Show these parts: the left ones follow one another, the others stand two blanks apart."""
        self._left, self._middle, self._right = left, middle, right
        self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw the parts that fit."""
        tail = [*self._middle, *self._right]
        while tail and sum(cell_len(text) + 2 for text, _ in tail) > canvas.width - 12:
            tail.pop(-1 if len(tail) > len(self._middle) else 0)
        start = canvas.width - sum(cell_len(text) + 2 for text, _ in tail) + 2
        x = 0
        for text, style in self._left:
            x = canvas.put(x, 0, text, style, max(start - 2 - x, 0))
        for text, style in tail:
            start = canvas.put(start, 0, text, style) + 2
