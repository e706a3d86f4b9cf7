"""The app in a real terminal (a pty): it is there soon, costs little, and ends well when the terminal does not."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "bench"))

pretending = importlib.import_module("bytes_per_second").pretending
Terminal = importlib.import_module("terminal").Terminal

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@pytest.fixture
def live(projects):
    with pretending(projects, 120.0, 20.0) as folder:
        yield folder


class TestBeginning:
    def test_is_there_soon_with_little_memory(self, projects, tmp_path):
        with Terminal(projects, home=tmp_path) as terminal:
            shown = terminal.until(b"Leave")
            terminal.read(1.0)
            assert shown < 5  # 0.5 s on a machine that does nothing else
            assert terminal.memory() < 100

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--nope"], "unrecognized arguments: --nope"),
            (["--projects", "/no/such/folder"], "there is no folder /no/such/folder"),
            (["--theme"], "expected one argument"),
            (["somewhere"], "unrecognized arguments: somewhere"),
            ([], "needs a terminal"),
        ],
    )
    def test_wrong_use_is_one_line_and_status_2(self, words, said):
        done = subprocess.run(
            [sys.executable, "-c", "from edc_tui.cli import main; main()", *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1 and not done.stdout

    def test_an_unknown_theme_names_the_nearest(self, projects, tmp_path):
        with Terminal(projects, "--theme", "edc-lite", home=tmp_path) as terminal:
            assert terminal.wait() == 2
            assert b"did you mean edc-light?" in terminal.output

    def test_a_dumb_terminal_is_refused_in_one_line(self, projects, tmp_path):
        with Terminal(projects, home=tmp_path, term="dumb") as terminal:
            assert terminal.wait() == 2
            assert b"TERM is 'dumb'" in terminal.output


class TestLeaving:
    def test_says_that_a_run_continues(self, projects, live, tmp_path):
        with Terminal(projects, home=tmp_path) as terminal:
            terminal.until(b"running")
            terminal.press("q")
            assert terminal.wait() == 0
            assert b"1 run continues: edc tail" in terminal.output

    def test_a_closed_terminal_ends_the_app_and_not_the_run(self, projects, live, tmp_path):
        with Terminal(projects, home=tmp_path) as terminal:
            terminal.until(b"running")
            terminal.hang_up()
            assert terminal.wait() in (129, -signal.SIGHUP)
        before = (live / "heartbeat.json").stat().st_mtime_ns
        _wait_for(lambda: (live / "heartbeat.json").stat().st_mtime_ns != before)

    def test_a_closed_terminal_ends_the_app_also_where_the_signal_is_ignored(self, projects, tmp_path):
        with Terminal(projects, home=tmp_path, ignore_hangup=True) as terminal:
            terminal.until(b"Leave")
            terminal.hang_up()
            assert terminal.wait() == 129

    @pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
    def test_a_signal_gives_the_terminal_back_as_it_was(self, projects, tmp_path, number):
        with Terminal(projects, home=tmp_path) as terminal:
            terminal.until(b"Leave")
            terminal.read(0.5)
            os.kill(terminal.pid, number)
            assert terminal.wait() == 0
            assert b"\x1b[?1049l" in terminal.output  # the screen from before


class TestComingBack:
    """What is on the terminal is known cell by cell, so that what the terminal has lost must be sent again."""

    def test_all_is_drawn_again_after_a_while_in_the_shell(self, projects, tmp_path):
        (projects / "idle.toml").write_text("schema = 1\n")
        with Terminal(projects, home=tmp_path) as terminal:
            terminal.until(b"idle")
            terminal.read(0.5)
            os.kill(terminal.pid, signal.SIGTSTP)
            terminal.read(0.5)
            terminal.output.clear()
            os.kill(terminal.pid, signal.SIGCONT)
            terminal.until(b"idle")
            terminal.until(b"Leave")

    def test_all_is_drawn_again_in_another_size(self, projects, tmp_path):
        (projects / "idle.toml").write_text("schema = 1\n")
        with Terminal(projects, home=tmp_path) as terminal:
            terminal.until(b"idle")
            terminal.read(0.5)
            terminal.output.clear()
            terminal.resize(80, 24)
            terminal.until(b"idle")
            terminal.until(b"Leave")

    def test_all_is_drawn_again_when_one_asks(self, projects, tmp_path):
        (projects / "idle.toml").write_text("schema = 1\n")
        with Terminal(projects, home=tmp_path) as terminal:
            terminal.until(b"idle")
            terminal.read(0.5)
            terminal.output.clear()
            terminal.press("\x0c")  # ctrl+l
            terminal.until(b"idle")
            terminal.until(b"Leave")


class TestBytes:
    """Bounds are generous: `make bench-terminal` prints the figures, which are far below."""

    def test_nothing_is_sent_while_nothing_happens(self, projects, tmp_path):
        (projects / "idle.toml").write_text("schema = 1\n")
        with Terminal(projects, home=tmp_path) as terminal:
            terminal.until(b"idle")
            terminal.until_steady(2.0)
            assert terminal.read(3.0) < 150  # nothing but what the strip of resources may have to tell

    def test_the_home_screen_with_a_run_at_work(self, projects, live, tmp_path):
        with Terminal(projects, home=tmp_path) as terminal:
            terminal.until(b"running")
            terminal.read(2.0)
            assert 0 < terminal.read(3.0) < 3 * 1000

    def test_the_run_screen_with_its_charts_moving(self, projects, live, tmp_path):
        with Terminal(projects, home=tmp_path) as terminal:
            terminal.until(b"running")
            terminal.press("j")
            terminal.read(0.5)
            terminal.press("\r")
            terminal.until(b"matching loss")
            terminal.read(2.0)
            assert 0 < terminal.read(4.0) < 4 * 6000


def _wait_for(condition, seconds=10.0):
    import time

    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.1)
