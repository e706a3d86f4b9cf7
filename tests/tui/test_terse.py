"""What reaches the terminal is little, and yet the whole picture: checked by a small terminal of our own that obeys what is sent."""

import random
import re

import pytest
from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.geometry import Region
from textual.strip import Strip

from edc_tui.terse import Painter

STYLES = ["", "bold", "red", "#112233 on #445566", "bold reverse #112233", "on #445566", "dim underline", "italic #010203 on #445566"]
WORDS = ["a", "loss", "  ", "0.123", "条件", "é", "e\u0301", "▇▇", "━━━", "x" * 30, "🙂"]


class SmallTerminal:
    """Obeys cursor moves, colours and text on a grid of (character, attributes, foreground, background)."""

    def __init__(self, width, height):
        self.grid = [[("?", "", "39", "49")] * width for _ in range(height)]
        self.x = self.y = 0
        self.attributes, self.front, self.back = set(), "39", "49"

    def obey(self, text):
        for move, style, character in re.findall(r"\x1b\[(\d+;\d+)H|\x1b\[([\d;]*)m|([^\x1b])", text):
            if move:
                self.y, self.x = (int(part) - 1 for part in move.split(";"))
            elif character:
                self.put(character)
            else:
                self.style(style.split(";"))

    def style(self, numbers):
        while numbers:
            number = numbers.pop(0)
            if number in ("", "0"):
                self.attributes, self.front, self.back = set(), "39", "49"
            elif number in ("38", "48"):
                count = 4 if numbers[0] == "2" else 2
                code = ";".join([number, *numbers[:count]])
                del numbers[:count]
                self.front, self.back = (code, self.back) if number == "38" else (self.front, code)
            elif number.startswith("3") and len(number) == 2:
                self.front = number
            elif number.startswith("4") and len(number) == 2:
                self.back = number
            else:
                self.attributes.add(number)

    def put(self, character):
        width = Segment.get_line_length([Segment(character)])
        cell = (character, tuple(sorted(self.attributes)), self.front, self.back)
        if width == 0:
            place = self.x - 1 if self.grid[self.y][self.x - 1][0] else self.x - 2
            self.grid[self.y][place] = (self.grid[self.y][place][0] + character, *self.grid[self.y][place][1:])
            return
        row = self.grid[self.y]
        if not row[self.x][0]:
            row[self.x - 1] = (" ", *row[self.x - 1][1:])  # half of a wide character is gone, and so is the other half
        after = self.x + width
        if after < len(row) and not row[after][0]:
            row[after] = (" ", *row[after][1:])
        row[self.x : after] = [cell, ("", *cell[1:])][:width]
        self.x = after


def expected(lines, width):
    """Return the grid that a fresh terminal shows for whole lines."""
    terminal = SmallTerminal(width, len(lines))
    terminal.obey(Painter().paint(full(lines, width), ColorSystem.TRUECOLOR))
    return terminal.grid


def full(lines, width):
    return LayoutUpdate([[Strip(line)] for line in lines], Region(0, 0, width, len(lines)))


def random_line(chance, width):
    segments, left = [], width
    while left > 0:
        text = chance.choice(WORDS)
        segment = Segment(text, Style.parse(chance.choice(STYLES)) if chance.random() < 0.9 else None)
        if segment.cell_length > left:
            segment = Segment(" " * left)
        segments.append(segment)
        left -= segment.cell_length
    return segments


def partial(lines, spans, width):
    """Make an update of spans of lines, each line in two pieces as where two widgets stand side by side."""
    chops, ends = [], []
    for line in lines:
        strip = Strip(line)
        cut = width // 2
        left, right = strip.crop(0, cut), strip.crop(cut, width)
        chops.append({0: left, cut: right})
        ends.append([cut, width])
    return ChopsUpdate(chops, spans, ends)


class TestPicture:
    @pytest.mark.parametrize("seed", range(30))
    def test_a_terminal_that_gets_only_the_changes_shows_the_whole_picture(self, seed):
        chance, width, height = random.Random(seed), 40, 6
        painter, terminal = Painter(), SmallTerminal(width, height)
        lines = [random_line(chance, width) for _ in range(height)]
        terminal.obey(painter.paint(full(lines, width), ColorSystem.TRUECOLOR))
        for _ in range(12):
            for y in range(height):
                if chance.random() < 0.4:
                    lines[y] = random_line(chance, width)
            terminal.obey(painter.paint(full(lines, width), ColorSystem.TRUECOLOR))
            assert terminal.grid == expected(lines, width)

    def test_an_update_of_a_part_changes_that_part_alone(self):
        width = 20
        painter, terminal = Painter(), SmallTerminal(width, 2)
        before = [[Segment("a" * width)], [Segment("b" * width)]]
        terminal.obey(painter.paint(full(before, width), ColorSystem.TRUECOLOR))
        after = [[Segment("c" * width)], [Segment("d" * width)]]
        terminal.obey(painter.paint(partial(after, [(0, 3, 6), (1, 8, 12)], width), ColorSystem.TRUECOLOR))
        assert "".join(cell[0] for cell in terminal.grid[0]) == "aaaccc" + "a" * 14
        assert "".join(cell[0] for cell in terminal.grid[1]) == "b" * 8 + "dddd" + "b" * 8

    def test_a_part_is_drawn_where_nothing_was_known(self):
        terminal = SmallTerminal(20, 1)
        terminal.obey(Painter().paint(partial([[Segment("c" * 20)]], [(0, 3, 6)], 20), ColorSystem.TRUECOLOR))
        assert "".join(cell[0] for cell in terminal.grid[0]) == "???ccc" + "?" * 14

    def test_a_wide_character_at_the_edge_of_a_part_is_drawn_whole(self):
        width = 12
        painter, terminal = Painter(), SmallTerminal(width, 1)
        terminal.obey(painter.paint(full([[Segment("a" * width)]], width), ColorSystem.TRUECOLOR))
        after = [[Segment("条条条" + "z" * 6)]]
        terminal.obey(painter.paint(partial(after, [(0, 1, 5)], width), ColorSystem.TRUECOLOR))
        assert "".join(cell[0] for cell in terminal.grid[0]) == "条条条" + "a" * 6


class TestBytes:
    def test_what_is_shown_already_costs_nothing(self):
        line = [Segment("loss 0.5", Style.parse("bold #112233 on #445566"))]
        painter = Painter()
        painter.paint(full([line], 8), ColorSystem.TRUECOLOR)
        assert painter.paint(full([line], 8), ColorSystem.TRUECOLOR) == ""

    def test_one_changed_digit_costs_one_move_one_colour_and_one_character(self):
        style = Style.parse("bold #112233 on #445566")
        painter = Painter()
        painter.paint(full([[Segment("loss 0.5", style)]], 8), ColorSystem.TRUECOLOR)
        sent = painter.paint(full([[Segment("loss 0.6", style)]], 8), ColorSystem.TRUECOLOR)
        assert sent == "\x1b[1;8H\x1b[0;1;38;2;17;34;51;48;2;68;85;102m6\x1b[0m"

    def test_a_colour_that_is_set_already_is_not_set_again(self):
        line = [Segment("ab", Style.parse("red on blue")), Segment("cd", Style.parse("green on blue"))]
        assert Painter().paint(full([line], 4), ColorSystem.STANDARD) == "\x1b[1;1H\x1b[0;31;44mab\x1b[32mcd\x1b[0m"

    def test_after_something_else_has_written_everything_is_sent(self):
        line = [Segment("loss 0.5")]
        painter = Painter()
        first = painter.paint(full([line], 8), ColorSystem.TRUECOLOR)
        painter.forget()
        assert painter.paint(full([line], 8), ColorSystem.TRUECOLOR) == first

    def test_another_size_is_sent_whole(self):
        painter = Painter()
        painter.paint(full([[Segment("abc")]], 3), ColorSystem.TRUECOLOR)
        assert "abc" in painter.paint(full([[Segment("abc ")]], 4), ColorSystem.TRUECOLOR)
