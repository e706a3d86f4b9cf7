"""Processes of a run: supervise a worker, start detached, ask to stop, wait for the end.

As a program (`python -m engine.runs.process RUN_FOLDER [--now] [COMMAND…]`) it is the supervisor of one detached run.
"""

import contextlib
import errno
import functools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from engine.errors import RunError, UserError
from engine.files import write_json
from engine.runs.events import last_lifecycle, number
from engine.runs.layout import Run, open_run, read_object
from engine.runs.liveness import Identity, host_name, identify, lock_holder, read_identity, send_signal, take_lock
from engine.runs.memory import memory_kill_count
from engine.runs.queue import WAITING_SECONDS, Place, place_of
from engine.runs.status import EXIT_STOPPED, RunStatus, run_status
from engine.runs.text import printable

GRACE_SECONDS = 60.0
TICK_SECONDS = 0.2
NOW = "--now"  # after the run's folder on the command line: do not wait for the device
LINE_SECONDS = 0.5  # between two looks at the line for a device
LAST_LINES = 40
SUPERVISOR_PID = "EDC_SUPERVISOR_PID"  # tells a worker its supervisor, which may be gone before the worker can look for it
RESERVE_BYTES = 256 * 1024  # kept free for the record of how a run ended, should the disk be full by then
_MEMORY_WORDS = ("out of memory", "OutOfMemoryError", "MemoryError", "can't allocate memory", "Cannot allocate memory")


def supervise(
    run_folder: Path,
    command: Sequence[str] | None = None,
    on_tick: Callable[[], None] | None = None,
    grace: float = GRACE_SECONDS,
    on_held: Callable[[], None] | None = None,
    now: bool = False,
) -> int:
    """Run the worker of a run to its end and return the exit status: 0 done, 1 failed or killed, 2 wrong input, 75 stopped.

    `command` replaces the worker's command line. `on_held` is called once, as soon as this process holds the run. `on_tick` is called
    about five times a second from this thread; what it raises stops the worker with a checkpoint and is raised again afterwards. A
    stop request, SIGINT, SIGTERM or SIGHUP asks the worker for a checkpoint; a second signal, or `grace` seconds without an end, kills
    it. Signals are taken in the main thread only, and their handlers are put back. Runs that want one device wait for each other
    before their workers start, this one not if `now`. Raises UserError when the run is already supervised, RunError when it cannot be
    started.
    """
    run = open_run(run_folder)
    supervisor = identify(os.getpid(), "supervisor", sys.argv)
    lock = take_lock(run.run_lock)
    if lock is None:
        raise UserError(_already_running(run))
    with lock, _reserve(run), _StopSignals() as signals:
        before, _ = read_object(run.process)
        previous = read_identity((before or {}).get("worker"))
        stop = _Stop(run, signals, supervisor.started_at, grace)
        _forget_last_attempt(run, supervisor.started_at)
        with place_of(run, now=now) as place:
            on_wait = functools.partial(_write_process, run, supervisor, previous, place)
            on_wait()
            if on_held is not None:
                on_held()
            ticker = _Ticker(on_tick, signals)
            if not (_previous_worker_ended(run, previous, stop, ticker) and _device_reached(place, stop, ticker, on_wait)):
                _write_exit(run, pid=None, returncode=EXIT_STOPPED, stop_requested=True)
                if ticker.error is not None:
                    raise ticker.error
                return EXIT_STOPPED
            return _run_worker(run, supervisor, list(command or _program("engine.stages.worker", run)), stop, ticker)


def start_detached(run_folder: Path, command: Sequence[str] | None = None, timeout: float = 30.0, now: bool = False) -> int:
    """Start a supervisor that outlives this process and its terminal; return its pid once it holds the run.

    Raises UserError or RunError, with the last line of its log, when it ended first or did not begin within `timeout` seconds.
    """
    run = open_run(run_folder)
    if lock_holder(run.run_lock) is not None:
        raise UserError(_already_running(run))
    with _reserve(run):  # tried here first, because a supervisor on a full disk can write no reason why it cannot begin
        begun = time.time()
    try:
        with run.supervisor_log.open("ab") as log:
            log_start = log.tell()
            process = subprocess.Popen(
                [*_program("engine.runs.process", run), *([NOW] if now else []), *(command or ())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(),
            )
    except OSError as error:
        raise RunError(f"run {printable(run.id)}: cannot start its supervisor: {error.strerror or error}") from error
    # Collects the exit status whenever it comes, so that a long-lived caller keeps no zombie.
    threading.Thread(target=process.wait, daemon=True).start()
    while True:
        ended = process.returncode
        found = read_identity((read_object(run.process)[0] or {}).get("supervisor"))
        if found is not None and found.pid == process.pid and found.started_at >= begun:
            return process.pid
        if ended is not None:
            lines = _last_lines(run.supervisor_log, log_start)
            why = printable(lines[-1], 300) if lines else f"it ended with status {ended}"
            raise (UserError if ended == 2 else RunError)(why)
        if time.time() > begun + timeout:
            process.terminate()
            raise RunError(f"run {printable(run.id)}: its supervisor, pid {process.pid}, has not begun within {timeout:.0f} s")
        time.sleep(0.02)


def request_stop(run_folder: Path, grace: float = GRACE_SECONDS) -> bool:
    """Ask a run to write a checkpoint and stop, and to be killed after `grace` seconds; returns whether anything was alive to ask.

    Asking again changes nothing unless it shortens the grace; a grace of 0 kills. Raises RunError when the request cannot be written.
    """
    run = open_run(run_folder)
    if not run_status(run.folder).alive:
        return False
    process, _ = read_object(run.process)
    worker = read_identity((process or {}).get("worker"))
    supervisor = read_identity((process or {}).get("supervisor"))
    begun = supervisor.started_at if supervisor else 0.0
    standing, _ = read_object(run.stop_request)
    asked = number((standing or {}).get("t"))
    repeated = standing is not None and asked is not None and asked >= begun
    if not repeated or asked + (number(standing.get("grace")) or 0.0) > time.time() + grace:
        _write_stop_request(run, grace)
    supervised = lock_holder(run.run_lock) is not None
    if worker is not None and not supervised and lock_holder(run.worker_lock) is not None:
        send_signal(worker, signal.SIGTERM if grace > 0 else signal.SIGKILL, group=grace <= 0)
    return True


def wait_for_end(run_folder: Path, timeout: float | None = None) -> RunStatus:
    """Wait until nothing of the run is alive, or `timeout` seconds have passed, and return its status then."""
    until = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        status = run_status(run_folder)
        if not status.alive or time.monotonic() >= until:
            return status
        time.sleep(0.1)


class _StopSignals:
    """Counts the signals that ask for a stop, in place of their handlers, within a `with` block of the main thread."""

    TOGETHER = 0.5  # seconds in which signals count as one: launchers pass on a Ctrl-C that the terminal has sent already

    def __init__(self) -> None:
        self.count = 0
        self._last = -math.inf
        self._before: dict[int, Any] = {}

    def note(self, caught: int = signal.SIGINT, frame: FrameType | None = None) -> None:
        """Count one request; a hang-up asks but never presses."""
        now = time.monotonic()
        if self.count and (caught == signal.SIGHUP or now - self._last < self.TOGETHER):
            return
        self._last = now
        self.count += 1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                # What the caller ignores, as under nohup, stays ignored; None is a handler that Python could not put back.
                if signal.getsignal(caught) not in (signal.SIG_IGN, None):
                    self._before[caught] = signal.signal(caught, self.note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for caught, handler in self._before.items():
            signal.signal(caught, handler)


class _Stop:
    """What the worker is to be told now, from signals to the supervisor and from control/stop.json."""

    def __init__(self, run: Run, signals: _StopSignals, started: float, grace: float) -> None:
        self.signals = signals
        self.asked = False
        self._run, self._started, self._default_grace = run, started, grace
        self._grace: float | None = None
        self._deadline = math.inf  # on the monotonic clock

    def check(self) -> str | None:
        """Return None, `checkpoint` or `kill`."""
        if self.signals.count and not self.asked:
            self._ask(self._default_grace)
            with contextlib.suppress(RunError):  # only tells readers; the worker is told either way
                _write_stop_request(self._run, self._default_grace)
        request, broken = read_object(self._run.stop_request)
        if broken is not None:
            self._ask(self._default_grace)
        elif request is not None and (number(request.get("t")) or math.inf) >= self._started:
            grace = number(request.get("grace"))
            self._ask(self._default_grace if grace is None or not math.isfinite(grace) else max(grace, 0.0))
        if self.signals.count > 1 or time.monotonic() >= self._deadline:
            return "kill"
        return "checkpoint" if self.asked else None

    def _ask(self, grace: float) -> None:
        self.asked = True
        if grace != self._grace:
            self._grace = grace
            self._deadline = min(self._deadline, time.monotonic() + grace)


class _Ticker:
    """Calls `on_tick` until it raises; then keeps the error and asks for a stop."""

    def __init__(self, on_tick: Callable[[], None] | None, signals: _StopSignals) -> None:
        self.error: BaseException | None = None
        self._on_tick, self._signals = on_tick, signals

    def tick(self) -> None:
        if self._on_tick is None or self.error is not None:
            return
        try:
            self._on_tick()
        except KeyboardInterrupt:
            self._signals.note()
        except BaseException as error:  # raised again once the worker has stopped
            self.error = error
            self._signals.note()


def _run_worker(run: Run, supervisor: Identity, command: list[str], stop: _Stop, ticker: _Ticker) -> int:
    """Start the worker, wait for its end, write exit.json, and return the exit status."""
    memory_kills = memory_kill_count()
    try:
        with run.worker_log.open("ab") as log:
            log_start = log.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                env=_environment() | {SUPERVISOR_PID: str(os.getpid())},
            )
    except OSError as error:
        message = f"cannot start the worker {printable(command[0])}: {error.strerror or error}"
        _write_exit(run, pid=None, returncode=1, message=message)
        raise RunError(f"run {printable(run.id)}: {message}") from error
    try:
        _write_process(run, supervisor, identify(process.pid, "worker", command))
        _watch(process, stop, ticker)
    except BaseException:
        _kill_group(process.pid)
        process.wait()
        raise
    _kill_group(process.pid)  # loader processes and the like that a killed worker leaves, before its number can be used again
    returncode = process.returncode
    lines = _last_lines(run.worker_log, log_start)
    message = _failure_message(run, supervisor.started_at)
    killed = returncode == -signal.SIGKILL
    out_of_memory = returncode not in (0, EXIT_STOPPED) and not (killed and stop.asked)
    if out_of_memory:
        text = "\n".join([*lines, message or ""])
        out_of_memory = (killed and memory_kill_count() > memory_kills) or any(words in text for words in _MEMORY_WORDS)
    _write_exit(run, process.pid, returncode, stop_requested=stop.asked, out_of_memory=out_of_memory, message=message, lines=lines)
    if ticker.error is not None:
        raise ticker.error
    if returncode == -signal.SIGTERM and stop.asked:
        return EXIT_STOPPED  # stopped before it could take the signal: nothing was lost
    return returncode if returncode in (0, 2, EXIT_STOPPED) else 1


def _watch(process: subprocess.Popen[bytes], stop: _Stop, ticker: _Ticker) -> None:
    """Wait for the worker's end, telling it to stop when it is time."""
    told = False
    while True:
        try:
            process.wait(timeout=TICK_SECONDS)
            return
        except subprocess.TimeoutExpired:
            pass
        order = stop.check()
        if order == "kill":
            _kill_group(process.pid)  # a child not yet waited for keeps its number, so this cannot meet another process
        elif order == "checkpoint" and not told:
            # To the worker alone: a loader process that got it too would die and take the checkpoint with it.
            process.send_signal(signal.SIGTERM)
            told = True
        ticker.tick()


def _previous_worker_ended(run: Run, previous: Identity | None, stop: _Stop, ticker: _Ticker) -> bool:
    """Wait for a worker whose supervisor was killed: it stops itself, or is killed after the grace; False when asked to stop.

    Raises RunError when the worker cannot be made to end.
    """
    begun, killed = time.monotonic(), False
    while (pid := lock_holder(run.worker_lock)) is not None:
        if stop.check() is not None:
            return False
        waited = time.monotonic() - begun
        if waited > GRACE_SECONDS and not killed:
            killed = previous is not None and send_signal(previous, signal.SIGKILL, group=True)
            if not killed:
                raise RunError(f"run {printable(run.id)}: an earlier worker, pid {pid}, still holds it; end that process first")
        if waited > GRACE_SECONDS + 10:
            raise RunError(f"run {printable(run.id)}: an earlier worker, pid {pid}, does not die")
        ticker.tick()
        time.sleep(TICK_SECONDS)
    return True


def _device_reached(place: Place | None, stop: _Stop, ticker: _Ticker, on_wait: Callable[[], None]) -> bool:
    """Wait until it is the run's turn on its device, calling `on_wait` now and then; False when asked to stop."""
    looked = told = time.monotonic()
    while place is not None and not place.granted:
        time.sleep(TICK_SECONDS)
        ticker.tick()
        if stop.check() is not None:
            return False
        if time.monotonic() >= looked + LINE_SECONDS:
            place.grant()
            looked = time.monotonic()
        if time.monotonic() >= told + WAITING_SECONDS:
            on_wait()
            told = time.monotonic()
    return True


def _forget_last_attempt(run: Run, started: float) -> None:
    """Remove the exit status and the stop request of an earlier attempt; a request made since the start stands."""
    request, broken = read_object(run.stop_request)
    try:
        run.exit.unlink(missing_ok=True)
        if broken or (request is not None and (number(request.get("t")) or 0.0) < started):
            run.stop_request.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"run {printable(run.id)}: cannot begin in its folder: {error.strerror or error}") from error


def _write_process(run: Run, supervisor: Identity, worker: Identity | None, place: Place | None = None) -> None:
    status = run.folder.stat()
    value = {
        "supervisor": supervisor.as_json(),
        "worker": worker.as_json() if worker else None,
        "waits": None if place is None or place.granted else {**place.facts, "t": time.time()},
        "folder_inode": [status.st_dev, status.st_ino],  # a copy of this folder is not the run these processes work on
    }
    write_json(run.process, value)


@contextlib.contextmanager
def _reserve(run: Run) -> Iterator[None]:
    """Keep room on the run's disk for the record of its end; raises RunError when there is none to begin with."""
    try:
        try:
            run.reserve.write_bytes(b"\0" * RESERVE_BYTES)
        except OSError as error:
            if error.errno != errno.EFBIG:  # where files may not be as large there can still be room for small ones
                raise RunError(f"cannot write {printable(run.reserve)}: {error.strerror or error}") from error
        yield
    finally:
        give_back_reserve(run)


def give_back_reserve(run: Run) -> None:
    """Free the room that a run keeps on its disk for the record of its end; a second call does nothing."""
    with contextlib.suppress(OSError):
        run.reserve.unlink(missing_ok=True)


def _write_exit(
    run: Run,
    pid: int | None,
    returncode: int,
    stop_requested: bool = False,
    out_of_memory: bool = False,
    message: str | None = None,
    lines: Sequence[str] = (),
) -> None:
    value = {
        "t": round(time.time(), 3),
        "pid": pid,
        "returncode": returncode,
        "signal": -returncode if returncode < 0 else None,
        "stop_requested": stop_requested,
        "out_of_memory": out_of_memory,
        "message": message,
        "last_lines": list(lines),
    }
    give_back_reserve(run)
    write_json(run.exit, value)


def _write_stop_request(run: Run, grace: float) -> None:
    try:
        run.stop_request.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {printable(run.stop_request)}: {error.strerror or error}") from error
    write_json(run.stop_request, {"t": time.time(), "grace": grace, "host": host_name(), "pid": os.getpid()})


def _already_running(run: Run) -> str:
    process, _ = read_object(run.process)
    found = read_identity((process or {}).get("supervisor"))
    pid = lock_holder(run.run_lock) or (found.pid if found else None)
    who = f"its supervisor is pid {pid}" if pid else "another process holds it"
    where = f" on {printable(found.host)}" if found else ""
    return f"run {printable(run.id)} is already running: {who}{where}; watch it with `edc tail {printable(run.id)}`"


def _failure_message(run: Run, started: float) -> str | None:
    """Return what the worker itself logged as the reason of its failure in this attempt."""
    event = last_lifecycle(run.events) or {}
    if event.get("event") != "run_failed" or (number(event.get("t")) or 0.0) < started:
        return None
    return str(event.get("message") or "") or None


def _last_lines(log: Path, start: int) -> list[str]:
    """Return the last 40 lines that a log has gained since it was `start` bytes long."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 64 * 1024))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line[:2000] for line in lines if line.strip()][-LAST_LINES:]


def _kill_group(pgid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)


def _program(module: str, run: Run) -> list[str]:
    """Return the command line of one of our modules; -P keeps the working folder's files from being imported in their place."""
    return [sys.executable, "-P", "-m", module, str(run.folder)]


def _environment() -> dict[str, str]:
    """Return the environment for our programs: this very package importable, output unbuffered, a crash leaving its traceback."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    home = Path(__file__).resolve().parents[2]
    if home.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))
    return environment


def main() -> int:
    """Supervise the run named on the command line; errors become one line on standard error."""
    folder, *command = sys.argv[1:]
    now = command[:1] == [NOW]
    try:
        return supervise(Path(folder), command[now:] or None, now=now)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
