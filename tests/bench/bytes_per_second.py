"""What the app costs: bytes a second to the terminal, time to the first picture, memory, and processor time.

    make bench-terminal

Starts `edc-tui` in a pty on a folder with a synthetic run at the real rate and prints the figures of each screen.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from terminal import ROOT, Terminal

SIZES = ((80, 24), (120, 40), (200, 60))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each screen is measured")
    parser.add_argument("--rate", type=float, default=20.0, help="iterations a second of the synthetic run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'':44}{'first picture':>14}{'memory':>10}{'bytes/s':>10}{'cpu':>8}")
        (folder / "still").mkdir()
        (folder / "still" / "one.toml").write_text('schema = 1\n[dataset]\nname = "digits"\n')
        measure("home, nothing happens, 120x40", folder / "still", folder, seconds=options.seconds)
        for width, height in SIZES:
            with pretending(folder / f"live-{width}", options.seconds * 2 + 60, options.rate):
                projects = folder / f"live-{width}"
                measure(f"home, one run at work, {width}x{height}", projects, folder, width=width, height=height, seconds=options.seconds)
                measure(f"run, {width}x{height}", projects, folder, "j\r", width=width, height=height, seconds=options.seconds)
                if width == 120:
                    measure(f"run, {width}x{height}, --slow-link", projects, folder, "j\r", "--slow-link", seconds=options.seconds)


class pretending:
    """Within the block a synthetic run is at work in a projects folder."""

    def __init__(self, projects: Path, seconds: float, rate: float) -> None:
        words = [str(ROOT / "tests/bench/synthetic_run.py"), str(projects), "--seconds", str(seconds), "--rate", str(rate)]
        self._process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)})

    def __enter__(self) -> Path:
        assert self._process.stdout is not None
        return Path(self._process.stdout.readline().strip())

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()


def measure(
    title: str, projects: Path, home: Path, keys: str = "", *words: str, width: int = 120, height: int = 40, seconds: float
) -> None:
    """Print a line of figures about one screen, reached from the home screen by `keys`."""
    with Terminal(projects, *words, width=width, height=height, home=home) as terminal:
        shown = terminal.until(b"Leave")
        terminal.read(4.0)
        for key in keys:
            terminal.press(key)
            terminal.read(0.5)
        terminal.read(4.0)
        before, began = terminal.processor_seconds(), time.monotonic()
        count = terminal.read(seconds)
        passed = time.monotonic() - began
        busy = (terminal.processor_seconds() - before) / passed
        print(f"{title:44}{shown:>12.2f} s{terminal.memory():>7.0f} MB{count / passed:>10.0f}{100 * busy:>6.1f} %", flush=True)


if __name__ == "__main__":
    main()
