"""Images in the terminal's own graphics, kitty's or sixel: the app hands the terminal over for a moment, and any key takes it back.

Nothing of this is drawn among the app's cells, so it can neither disturb them nor be left behind.
"""

import base64
import contextlib
import fcntl
import os
import re
import select
import struct
import sys
import termios
import time
import tty
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len

from edc_tui.widgets.cells import cut
from edc_tui.widgets.halfblock import Scale, scaled, scales
from engine.runs.text import printable

if TYPE_CHECKING:
    import numpy as np

KITTY, SIXEL = "kitty", "sixel"
ANSWER_SECONDS = 1.0
USUAL_CELL = 8, 16  # pixels of a cell, wide and high, where the terminal does not tell
CHUNK = 4096  # bytes of a piece of kitty's data
COLOURS = 256
GAP = 4  # pixels between two images
FRAME = 3  # rows of titles and of the line that says how to go back
# Is kitty's protocol known; how large is a cell; what else is known, which every terminal answers, so that no answer is waited for in vain.
QUESTIONS = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[16t\x1b[c"
_LAST_ANSWER = re.compile(rb"\x1b\[\?([\d;]*)c")
_CELL_ANSWER = re.compile(rb"\x1b\[6;(\d+);(\d+)t")


@dataclass(frozen=True)
class Terminal:
    """What a terminal can do: its protocol (None for neither), its size in cells, and a cell's in pixels, wide and high."""

    protocol: str | None
    columns: int
    rows: int
    cell: tuple[int, int] = USUAL_CELL


@dataclass(frozen=True)
class Group:
    """Images of one class, uint8 (H, W, 3), with its name."""

    name: str
    images: Sequence["np.ndarray"]


@dataclass(frozen=True)
class Item:
    """What stands at a row and column of cells, counted from 1: a text, or pixels, uint8 (H, W, 3)."""

    row: int
    column: int
    content: "str | np.ndarray"


def kitty(pixels: "np.ndarray") -> str:
    """Return pixels, uint8 (H, W, 3), in kitty's graphics protocol; the cursor stays where it is."""
    data = base64.standard_b64encode(zlib.compress(pixels.tobytes())).decode()
    pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    facts = f"a=T,f=24,o=z,q=2,C=1,s={pixels.shape[1]},v={pixels.shape[0]},"
    found = []
    for number, piece in enumerate(pieces):
        found.append(f"\x1b_G{facts if number == 0 else ''}m={int(number < len(pieces) - 1)};{piece}\x1b\\")
    return "".join(found)


def sixel(pixels: "np.ndarray") -> str:
    """Return pixels, uint8 (H, W, 3), as sixels of at most 256 colours."""
    import numpy as np
    from PIL import Image

    reduced = Image.fromarray(np.ascontiguousarray(pixels)).quantize(COLOURS, dither=Image.Dither.NONE)
    codes, palette = np.asarray(reduced), reduced.getpalette() or []
    height, width = codes.shape
    found = [f'\x1bP0;1;0q"1;1;{width};{height}']
    for code in np.unique(codes).tolist():
        red, green, blue = (round(value * 100 / 255) for value in palette[3 * code : 3 * code + 3])
        found.append(f"#{code};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band = codes[top : top + 6]
        weights = (1 << np.arange(len(band)))[:, None]
        lines = [f"#{code}{_repeated(((band == code) * weights).sum(0).tolist())}" for code in np.unique(band).tolist()]
        found.append("$".join(lines) + "-")
    return "".join(found) + "\x1b\\"


def _repeated(values: Sequence[int]) -> str:
    """Return sixels, with runs of the same one counted."""
    text, start = [], 0
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] != values[start]:
            count, sign = end - start, chr(63 + values[start])
            text.append(f"!{count}{sign}" if count > 3 else sign * count)
            start = end
    return "".join(text)


ENCODERS = {KITTY: kitty, SIXEL: sixel}


def arrange(panes: Sequence[tuple[str, Sequence[Group]]], terminal: Terminal) -> list[Item]:
    """Place panes (title and classes) side by side, as large as they fit; what does not fit at the smallest size is left out."""
    sizes = [image.shape[:2] for _, groups in panes for group in groups for image in group.images]
    if not sizes:
        return []
    largest = max(height for height, _ in sizes), max(width for _, width in sizes)
    room = terminal.columns // len(panes), terminal.rows - FRAME
    most = max(len(group.images) for _, groups in panes for group in groups)
    classes = max(len(groups) for _, groups in panes)
    for scale in scales(*largest):
        high, wide = scale.pixels(largest[0]), most * (scale.pixels(largest[1]) + GAP)
        rows = -(-high // terminal.cell[1]) + 1
        if wide <= (room[0] - 1) * terminal.cell[0] and rows * classes <= room[1]:
            break
    items = []
    for number, (title, groups) in enumerate(panes):
        column = 1 + number * room[0]
        items.append(Item(1, column, cut(printable(title), room[0] - 1)))
        for place, group in enumerate(groups[: max(room[1] // rows, 1)]):
            items.append(Item(2 + place * rows, column, cut(printable(group.name), room[0] - 1)))
            if group.images:
                count = max((room[0] - 1) * terminal.cell[0] // (scale.pixels(largest[1]) + GAP), 1)
                items.append(Item(3 + place * rows, column, _beside(group.images[:count], scale)))
    return items


def _beside(images: Sequence["np.ndarray"], scale: Scale) -> "np.ndarray":
    """Return images side by side, dark between them."""
    import numpy as np

    tiles = [scaled(image, scale) for image in images]
    height, width = max(len(tile) for tile in tiles), sum(tile.shape[1] + GAP for tile in tiles) - GAP
    whole, left = np.zeros((height, width, 3), np.uint8), 0
    for tile in tiles:
        whole[: tile.shape[0], left : left + tile.shape[1]] = tile
        left += tile.shape[1] + GAP
    return whole


def page(items: Sequence[Item], terminal: Terminal) -> str:
    """Return everything to send for a page of items."""
    encode = ENCODERS[terminal.protocol or KITTY]
    found = ["\x1b[2J"]
    for item in items:
        found.append(f"\x1b[{item.row};{item.column}H" + (item.content if isinstance(item.content, str) else encode(item.content)))
    words = f"any key goes back · {terminal.protocol} graphics"
    return "".join(found) + f"\x1b[{terminal.rows};{max(1, terminal.columns - cell_len(words))}H{words}"


def ask(source: int, target: int) -> Terminal:
    """Ask the terminal at these file descriptors, in raw mode, what it can do; it has a second to answer."""
    os.write(target, QUESTIONS)
    answer, until = b"", time.monotonic() + ANSWER_SECONDS
    while not _LAST_ANSWER.search(answer) and (left := until - time.monotonic()) > 0:
        if select.select([source], [], [], left)[0]:
            data = os.read(source, 4096)
            if not data:
                break
            answer += data
    rows, columns, wide, high = struct.unpack("HHHH", fcntl.ioctl(target, termios.TIOCGWINSZ, b"\0" * 8))
    return understood(answer, rows or 24, columns or 80, wide, high)


def understood(answer: bytes, rows: int, columns: int, wide: int, high: int) -> Terminal:
    """Work out from a terminal's answer and its size, in cells and in pixels (0 where unknown), what it can do."""
    told, features = _CELL_ANSWER.search(answer), _LAST_ANSWER.search(answer)
    cell = (int(told[2]), int(told[1])) if told else (wide // columns, high // rows)
    known = features[1].split(b";")[1:] if features else []
    protocol = KITTY if b"_Gi=31;OK" in answer else SIXEL if b"4" in known else None
    return Terminal(protocol, columns, rows, cell if min(cell) > 0 else USUAL_CELL)


def show(panes: Sequence[tuple[str, Sequence[Group]]]) -> str | None:
    """Show images until a key is pressed, and return what is wrong if that cannot be; the terminal must be the caller's alone."""
    with contextlib.suppress(OSError, termios.error, ValueError):
        source, target = sys.__stdin__.fileno(), sys.__stdout__.fileno()  # type: ignore[union-attr]
        with _raw(source):
            terminal = ask(source, target)
            if terminal.protocol is None:
                return "this terminal says that it knows neither kitty's graphics nor sixels; tmux passes sixels on from 3.4 on"
            _send(target, "\x1b[?1049h\x1b[?25l" + page(arrange(panes, terminal), terminal))
            select.select([source], [], [])
            os.read(source, 4096)
            _send(target, ("\x1b_Ga=d,d=A,q=2\x1b\\" if terminal.protocol == KITTY else "") + "\x1b[2J\x1b[?25h\x1b[?1049l")
            return None
    return "there is no terminal to show images on"


@contextlib.contextmanager
def _raw(source: int) -> Iterator[None]:
    before = termios.tcgetattr(source)
    try:
        tty.setraw(source)
        yield
    finally:
        termios.tcsetattr(source, termios.TCSAFLUSH, before)


def _send(target: int, text: str) -> None:
    data = text.encode()
    while data:
        data = data[os.write(target, data) :]
