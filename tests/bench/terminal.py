"""A terminal without a screen: starts `edc-tui` in a pty and counts the bytes that it sends there."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]


class Terminal:
    """The app in a pty of `width` x `height` cells; `output` is everything it has sent, `counts` when and how much."""

    def __init__(
        self,
        projects: Path,
        *words: str,
        width: int = 120,
        height: int = 40,
        home: Path,
        term: str = "xterm-256color",
        ignore_hangup: bool = False,
    ) -> None:
        """`home` holds what the app remembers, in place of the user's own folders; `ignore_hangup` is how nohup starts programs."""
        self.output = bytearray()
        self.began = time.monotonic()
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            environment = {
                **os.environ,
                "TERM": term,
                "COLORTERM": "truecolor",
                "XDG_STATE_HOME": str(home / "state"),
                "XDG_CONFIG_HOME": str(home / "config"),
                "PYTHONPATH": str(ROOT),
            }
            code = "from edc_tui.cli import main; main()"
            if ignore_hangup:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.execve(sys.executable, [sys.executable, "-c", code, "--projects", str(projects), *words], environment)
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """Give the terminal another size, in cells."""
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self, seconds: float) -> int:
        """Read for so long and return how many bytes came."""
        ends, count = time.monotonic() + seconds, 0
        while (left := ends - time.monotonic()) > 0:
            ready, _, _ = select.select([self._descriptor], [], [], left)
            if ready:
                try:
                    data = os.read(self._descriptor, 1 << 16)
                except OSError:
                    break
                self.output += data
                count += len(data)
        return count

    def until(self, words: bytes, seconds: float = 20.0) -> float:
        """Read until these words were sent and return how long after the start that was; fails when they never are."""
        while words not in self.output:
            if time.monotonic() - self.began > seconds:
                raise AssertionError(f"{words!r} was not shown within {seconds} s: …{bytes(self.output[-600:])!r}")
            self.read(0.02)
        return time.monotonic() - self.began

    def until_steady(self, quiet: float = 3.0, seconds: float = 60.0) -> None:
        """Read until nothing has come for `quiet` seconds; fails when that never is."""
        ends = time.monotonic() + seconds
        while self.read(quiet):
            assert time.monotonic() < ends, f"still talking: …{bytes(self.output[-300:])!r}"

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._descriptor, keys.encode())

    def memory(self) -> float:
        """Return the resident memory of the app in megabytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the app is gone")

    def processor_seconds(self) -> float:
        """Return how long the app has computed."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def hang_up(self) -> None:
        """Close the terminal, as a lost connection does."""
        os.close(self._descriptor)
        self._descriptor = -1

    def wait(self, seconds: float = 10.0) -> int | None:
        """Return the app's exit status (negative: the signal that ended it), or None when it has not ended by then."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self._descriptor >= 0:
                self.read(0.05)
            else:
                time.sleep(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
