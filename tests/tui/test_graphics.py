"""Images in the terminal's own graphics: what is sent is read back by decoders written for the tests alone."""

import base64
import os
import pty
import re
import select
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from images import write_final

from edc_tui.graphics import KITTY, SIXEL, USUAL_CELL, Group, Terminal, arrange, kitty, page, sixel, understood

SENT = re.compile(r"\x1b_G([^;\x1b]*);([^\x1b]*)\x1b\\")


def picture(height, width, seed=0, levels=256):
    return np.random.default_rng(seed).integers(0, levels, (height, width, 3), dtype=np.uint8)


def from_kitty(text):
    """The pixels that a terminal would take from kitty's protocol."""
    pieces = SENT.findall(text)
    facts = dict(fact.split("=") for fact in pieces[0][0].split(","))
    assert (facts["a"], facts["f"], facts["o"]) == ("T", "24", "z")
    assert [piece[0].rpartition("m=")[2] for piece in pieces] == ["1"] * (len(pieces) - 1) + ["0"]
    assert all(len(piece[1]) <= 4096 for piece in pieces)
    data = zlib.decompress(base64.standard_b64decode("".join(piece[1] for piece in pieces)))
    return np.frombuffer(data, np.uint8).reshape(int(facts["v"]), int(facts["s"]), 3)


def from_sixel(text):
    """The pixels that a terminal would draw from sixels, in parts of a hundred."""
    body = re.fullmatch(r'\x1bP[\d;]*q"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL)
    width, height = int(body[1]), int(body[2])
    pixels, palette = np.full((height, width, 3), -1), {}
    x, top, colour = 0, 0, None
    for token in re.findall(r"#\d+(?:;2;\d+;\d+;\d+)?|!\d+[?-~]|[?-~]|[$-]", body[3]):
        if token[0] == "#":
            colour, *values = map(int, token[1:].split(";"))
            if values:
                palette[colour] = values[1:]
        elif token in "$-":
            x, top = 0, top + 6 * (token == "-")
        else:
            count = int(token[1:-1]) if token[0] == "!" else 1
            for bit in range(6):
                if ord(token[-1]) - 63 >> bit & 1:
                    pixels[top + bit, x : x + count] = palette[colour]
            x += count
    assert (pixels >= 0).all(), "every pixel was drawn"
    return pixels


class TestEncoding:
    @pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (64, 100)])
    def test_kitty_gets_every_pixel(self, height, width):
        image = picture(height, width)
        assert (from_kitty(kitty(image)) == image).all()

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (6, 9), (13, 40)])
    def test_sixels_of_few_colours_are_exact(self, height, width):
        image = picture(height, width, levels=4) * 85  # 64 colours
        assert np.abs(from_sixel(sixel(image)) - image / 255 * 100).max() <= 0.5

    def test_sixels_of_many_colours_come_near(self):
        y, x = np.mgrid[0:48, 0:48]
        image = np.stack([x * 5, y * 5, (x + y) * 2], -1).astype(np.uint8)
        assert np.abs(from_sixel(sixel(image)) - image / 255 * 100).mean() < 4


class TestWhatATerminalSays:
    @pytest.mark.parametrize(
        ("answer", "protocol", "cell"),
        [
            (b"\x1b_Gi=31;OK\x1b\\\x1b[6;20;10t\x1b[?62;c", KITTY, (10, 20)),
            (b"\x1b[?62;4;22c", SIXEL, (9, 18)),
            (b"\x1b[?64c", None, (9, 18)),
            (b"\x1b[?4c", None, (9, 18)),
            (b"", None, (9, 18)),
        ],
    )
    def test_its_answer_names_the_protocol(self, answer, protocol, cell):
        assert understood(answer, 24, 80, 720, 432) == Terminal(protocol, 80, 24, cell)

    def test_a_cell_of_unknown_size_is_taken_to_be_usual(self):
        assert understood(b"", 24, 80, 0, 0).cell == USUAL_CELL


class TestThePage:
    @pytest.mark.parametrize("side", [8, 32, 224])
    @pytest.mark.parametrize("size", [(80, 24), (200, 60)])
    @pytest.mark.parametrize("panes", [1, 2])
    def test_everything_is_inside_and_nothing_overlaps(self, side, size, panes):
        terminal = Terminal(KITTY, *size)
        groups = [Group(f"class {number}", [picture(side, side)] * 5) for number in range(4)]
        taken = np.zeros((size[1] + 1, size[0] + 1), int)
        items = arrange([("run", groups)] * panes, terminal)
        for item in items:
            if isinstance(item.content, str):
                height, width = 1, len(item.content)
            else:
                height, width = (-(-pixels // cell) for pixels, cell in zip(item.content.shape, (16, 8), strict=False))
            assert item.row + height - 1 < size[1] and item.column + width - 1 <= size[0]
            taken[item.row : item.row + height, item.column : item.column + width] += 1
        assert taken.max() == 1 and len(items) > 2 * panes

    def test_names_cannot_steer_the_terminal(self):
        items = arrange([("r\x1b[2Jun", [Group("c\x1b[31mat", [picture(8, 8)])])], Terminal(SIXEL, 80, 24))
        text = page(items, Terminal(SIXEL, 80, 24))
        assert "\x1b[31m" not in text and text.count("\x1b[2J") == 1


@pytest.mark.parametrize(("answer", "sign"), [(b"\x1b[?62;4c", b"\x1bP0;1;0q"), (b"\x1b_Gi=31;OK\x1b\\\x1b[?62c", b"\x1b_Ga=T")])
def test_the_app_shows_them_in_a_terminal_and_comes_back(projects, make_run, answer, sign):
    run = make_run("pets")
    write_final(run)
    program = (
        "import sys; from pathlib import Path; from edc_tui.app import EdcApp; from engine.runs.layout import open_run\n"
        "class Opened(EdcApp):\n"
        "    def on_mount(self):\n"
        "        super().on_mount(); self.call_later(self.open_gallery, [open_run(Path(sys.argv[2]))])\n"
        "Opened(Path(sys.argv[1])).run()"
    )
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(projects), str(run.folder)],
        stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    seen = bytearray()

    def wait_for(text, start=0):
        until = time.monotonic() + 20
        while text not in seen[start:]:
            assert time.monotonic() < until and child.poll() is None, f"{text!r} was not sent: {bytes(seen[-300:])!r}"
            if select.select([master], [], [], 0.1)[0]:
                seen.extend(os.read(master, 1 << 16))
        return seen.index(text, start)

    try:
        wait_for("▀".encode())
        os.write(master, b"v")
        wait_for(b"\x1b[c")
        os.write(master, answer)
        at = wait_for(sign)
        wait_for(b"any key goes back", at)
        os.write(master, b" ")
        back = wait_for(b"\x1b[?1049l", at)
        wait_for("▀".encode(), back)
        os.write(master, b"q")
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()
        os.close(master)
