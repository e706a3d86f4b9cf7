"""What the app does when its terminal goes away: it ends, and never spins on a dead one."""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

HUNG_UP = 128 + 1  # the exit status of a program that a hang-up has ended
PATIENCE_SECONDS = 2.0


@contextlib.contextmanager
def ending_on_hangup(leave: Callable[[], object], terminal: int = 0) -> Iterator[None]:
    """Within the block, end the process when the terminal hangs up; `leave` asks the app to, which a signal alone allows.

    SIGHUP and SIGTERM with a terminal that is still there call `leave` and give it two seconds. A terminal that is gone, which is seen
    even where SIGHUP is ignored as under nohup, ends the process at once: whoever writes to it would wait for ever.
    """

    def asked(number: int, frame: object) -> None:
        if _is_gone(terminal, wait=0):
            os._exit(HUNG_UP)
        timer = threading.Timer(PATIENCE_SECONDS, os._exit, [128 + number])
        timer.daemon = True
        timer.start()
        leave()

    before: dict[int, Any] = {}
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, asked)
    threading.Thread(target=_end_when_gone, args=[terminal], name="hangup", daemon=True).start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_when_gone(terminal: int) -> None:
    """Wait, at no cost, until the terminal hangs up."""
    if _is_gone(terminal, wait=None):
        os._exit(HUNG_UP)


def _is_gone(terminal: int, wait: int | None) -> bool:
    """Say whether the terminal has hung up, or does within `wait` milliseconds (None: however long it takes)."""
    watcher = select.poll()
    watcher.register(terminal, 0)  # POLLHUP and POLLERR come without being asked for
    return any(happened & (select.POLLHUP | select.POLLERR) for _, happened in watcher.poll(wait))
