"""The computed truth about a run: nothing it says of itself is believed without exit status, lock, identity or heartbeat."""

import math
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.runs.events import last_lifecycle, number
from engine.runs.layout import Run, read_object
from engine.runs.liveness import Identity, boot_id, lock_holder, presence, read_identity
from engine.runs.queue import WAITING_SECONDS, words_of
from engine.runs.text import clock, duration, printable

WORDS = (
    "queued",
    "starting",
    "running",
    "stalled",
    "stopping",
    "done",
    "failed",
    "killed",
    "out-of-memory",
    "lost",
    "stopped",
)
EXIT_STOPPED = 75
STARTING_SECONDS = 120.0  # a worker that loads torch on a busy machine is silent for a while before its first heartbeat
HEARTBEAT_SECONDS = 30.0  # how long a heartbeat holds that does not say when the next one is due
CLOCK_SKEW_SECONDS = 30.0  # how far another host's clock may be off before its heartbeat counts as overdue
_ENDINGS = {"run_finished": "done", "run_failed": "failed", "run_stopped": "stopped"}


@dataclass(frozen=True)
class RunStatus:
    """What a run is doing, in one of WORDS, and in `reason` one sentence why that is so.

    `alive`: processes of it are at work, as far as can be known. `since` (when the word began to hold) and `seen` (the last
    heartbeat) are unix seconds; stage, step, done of total in `unit` and `rate` (units per second) are where it stands or stood.
    Every text is safe to print.
    """

    word: str
    reason: str
    alive: bool = False
    since: float | None = None
    seen: float | None = None
    stage: str | None = None
    step: str | None = None
    done: float | None = None
    total: float | None = None
    unit: str | None = None
    rate: float | None = None
    host: str | None = None
    orphaned: bool = False  # its worker has lost its supervisor, and stops by itself

    @property
    def resumable(self) -> bool:
        """Whether a resume makes sense: it is not done, and nothing works on it but a worker that is about to stop."""
        return (not self.alive or self.orphaned) and self.word != "done"


@dataclass(frozen=True)
class _Evidence:
    """Everything found in the folder of a run that has no exit.json, and who of its processes is alive."""

    run: Run
    now: float
    supervisor: Identity | None
    worker: Identity | None
    supervisor_alive: bool
    worker_alive: bool
    supervisor_pid: int
    worker_pid: int
    beat: dict[str, Any] | None
    event: dict[str, Any] | None
    stop: dict[str, Any] | None
    waits: dict[str, Any] | None  # the place in the line for a device that its supervisor stands at
    broken: str | None  # what is wrong with process.json or exit.json

    @property
    def begun(self) -> float:
        """When the present attempt began (unix seconds); events and heartbeats before it belong to an earlier one."""
        return self.supervisor.started_at if self.supervisor else self.worker.started_at if self.worker else 0.0


def run_status(folder: Path, now: float | None = None) -> RunStatus:
    """Compute the status of the run in `folder` at `now` (unix seconds, default the present); reads only, never raises for bad files."""
    run = Run(Path(folder), Path(folder).name, Path(folder).parent.parent.name)
    now = time.time() if now is None else now
    ending, broken = read_object(run.exit)
    if ending is not None:
        return _ended(run, ending, now)
    found = _gather(run, now, broken)
    if found.supervisor_alive or found.worker_alive:
        return _alive(found)
    ending, _ = read_object(run.exit)  # written before the lock is given back, so it may have come since
    return _gone(found) if ending is None else _ended(run, ending, now)


def exit_status(folder: Path) -> int:
    """Return what `edc run` would say of the run in `folder`: 0 done or still at work, 75 stopped or never begun, 2 wrong input, else 1."""
    status = run_status(folder)
    if status.alive or status.word == "done":
        return 0
    if status.word in ("stopped", "queued"):
        return EXIT_STOPPED
    code = (read_object(Path(folder) / "exit.json")[0] or {}).get("returncode")
    return 2 if code == 2 and status.word == "failed" else 1


def _ended(run: Run, ending: dict[str, Any], now: float) -> RunStatus:
    """Read the status of a run whose supervisor saw its worker end."""
    at = _moment(ending.get("t"))
    code, by_signal = _whole(ending.get("returncode")), _whole(ending.get("signal"))
    when, worker = clock(at, now), _worker_words(_whole(ending.get("pid")))
    resume = _resume(run)
    message = printable(ending.get("message") or _last_line(ending.get("last_lines")), 300)
    asked = ending.get("stop_requested") is True
    if code == 0:
        return RunStatus("done", f"finished at {when}", since=at)
    if ending.get("out_of_memory") is True:
        cause = "the kernel killed it because memory ran out" if by_signal == signal.SIGKILL else f"it ran out of memory ({message})"
        word, reason = "out-of-memory", f"{worker} ended at {when}: {cause}; {resume}"
    elif code == EXIT_STOPPED and ending.get("pid") is None:
        word, reason = "stopped", f"was stopped at {when} before its worker was started; {resume}"
    elif code == EXIT_STOPPED:
        word, reason = "stopped", f"{worker} wrote its checkpoint and stopped at {when}; {resume}"
    elif by_signal == signal.SIGTERM and asked:
        word, reason = "stopped", f"{worker} was stopped at {when} before it had begun to work; {resume}"
    elif by_signal is not None and asked:
        word, reason = "killed", f"{worker} had been asked to stop and was killed by signal {by_signal} at {when}; {resume}"
    elif by_signal is not None:
        word, reason = "killed", f"{worker} was killed by signal {by_signal} at {when}; {resume}"
    elif code is None:
        word, reason = "failed", f"exit.json says no return code; {resume}"
    else:
        word, reason = "failed", f"{worker} failed at {when}: {message or f'exit status {code}'}"
    return _with_progress(RunStatus(word, reason, since=at), read_object(run.heartbeat)[0])


def _gather(run: Run, now: float, broken: str | None) -> _Evidence:
    process, process_broken = read_object(run.process)
    process = process or {}
    supervisor, worker = read_identity(process.get("supervisor")), read_identity(process.get("worker"))
    supervisor_pid, worker_pid = lock_holder(run.run_lock), lock_holder(run.worker_lock)
    original = _is_original(run.folder, process)
    beat, _ = read_object(run.heartbeat)
    stop, stop_broken = read_object(run.stop_request)
    return _Evidence(
        run=run,
        now=now,
        supervisor=supervisor,
        worker=worker,
        supervisor_alive=supervisor_pid is not None or (original and supervisor is not None and presence(supervisor) == "alive"),
        worker_alive=worker_pid is not None or (original and worker is not None and presence(worker) == "alive"),
        supervisor_pid=supervisor_pid or (supervisor.pid if supervisor else 0),
        worker_pid=worker_pid or (worker.pid if worker else 0),
        beat=beat,
        event=last_lifecycle(run.events),
        stop={} if stop_broken else stop,
        waits=waits if isinstance(waits := process.get("waits"), dict) else None,
        broken=broken or process_broken,
    )


def _is_original(folder: Path, process: dict[str, Any]) -> bool:
    """Tell the folder its processes work in from a copy of it, whose process.json names processes that work elsewhere."""
    try:
        status = folder.stat()
    except OSError:
        return False
    return process.get("folder_inode") == [status.st_dev, status.st_ino]


def _alive(found: _Evidence) -> RunStatus:
    """Tell starting, running, stalled, stopping and just ending runs apart."""
    now, worker = found.now, _worker_words(found.worker_pid, found.worker)
    identity = found.worker or found.supervisor
    host = _word(identity.host) if identity else None
    status = _with_progress(RunStatus("running", "", alive=True, since=found.begun or None, host=host), found.beat)
    ending = _ending_event(found)
    if ending is not None:
        return replace(ending, alive=True, host=host)  # its processes are about to end
    if not found.supervisor_alive and found.supervisor is not None:
        reason = f"its supervisor, pid {found.supervisor.pid}, is gone; {worker} stops by itself after a checkpoint"
        return replace(status, word="stopping", reason=reason, orphaned=True)
    asked = _stop_asked(found)
    if asked is not None:
        since, deadline = asked
        left = "and is about to be killed" if deadline <= now else f"and is killed in {duration(deadline - now)} if it has not"
        return replace(status, word="stopping", reason=f"was asked to stop at {clock(since, now)} {left}", since=since)
    if not found.worker_alive:
        queued = words_of(found.waits) if found.waits else None
        if queued is not None:
            return replace(status, word="queued", reason=queued)
        return replace(status, word="starting", reason=f"its supervisor, pid {found.supervisor_pid}, is starting the worker")
    if found.worker and found.supervisor and found.worker.started_at < found.supervisor.started_at:
        reason = f"its supervisor, pid {found.supervisor_pid}, waits until the previous worker, pid {found.worker_pid}, has ended"
        return replace(status, word="starting", reason=reason)
    return _by_heartbeat(found, status, worker)


def _by_heartbeat(found: _Evidence, status: RunStatus, worker: str) -> RunStatus:
    """Tell whether a living worker reports when it said it would."""
    now, beat_at = found.now, status.seen
    begun = max(found.begun, found.worker.started_at if found.worker else 0.0)  # it may have waited long for its device
    if beat_at is None or beat_at < begun:
        silent = now - begun if begun else 0.0
        if silent <= STARTING_SECONDS:
            return replace(status, word="starting", reason=f"{worker} is loading")
        return replace(status, word="stalled", reason=f"{worker} is alive but has not reported since its start {duration(silent)} ago")
    due = _next_due(found.beat, beat_at)
    if now > due:
        reason = f"{worker} is alive but last reported {duration(now - beat_at)} ago and was due at {clock(due, now)}"
        return replace(status, word="stalled", reason=reason, since=due)
    return replace(status, reason=f"{worker} reported {duration(now - beat_at)} ago")


def _gone(found: _Evidence) -> RunStatus:
    """Tell what became of a run none of whose processes is alive here and whose supervisor left no exit.json."""
    now, resume = found.now, _resume(found.run)
    ending = _ending_event(found)
    if ending is not None:
        return ending if ending.word == "done" else _with_progress(ending, found.beat)
    identity = found.worker or found.supervisor
    last = max((moment for moment in (_beat_time(found.beat), _event_time(found.event)) if moment is not None), default=None)
    status = _with_progress(RunStatus("lost", "", since=last, host=_word(identity.host) if identity else None), found.beat)
    if found.broken:
        return replace(status, reason=f"{found.broken}, so how it ended cannot be told; {resume}")
    if identity is None:
        if last is None:
            return replace(status, word="queued", reason=f"was created but has not been started; {resume}")
        return replace(status, reason=f"there is no process.json; it was last seen at {clock(last, now)}; {resume}")
    last = max(last or 0.0, identity.started_at)
    status = replace(status, since=last)
    state = presence(identity)
    if state == "elsewhere":
        return _on_other_host(found, status, identity)
    if state == "rebooted":
        reason = f"this machine has restarted since it was last seen at {clock(last, now)}; {resume}"
    else:
        pids = ", ".join(f"{who.role} pid {who.pid}" for who in (found.supervisor, found.worker) if who)
        reason = f"its processes ({printable(pids)}) are gone without a word, last seen at {clock(last, now)}; {resume}"
    return replace(status, reason=reason)


def _on_other_host(found: _Evidence, status: RunStatus, identity: Identity) -> RunStatus:
    """Judge by the heartbeat alone, for locks and pids of another host tell nothing here."""
    now, host = found.now, printable(identity.host, 60)
    seen = max(status.seen or 0.0, identity.started_at)
    begun = max(found.begun, identity.started_at)
    due = _next_due(found.beat, seen) if status.seen is not None and status.seen >= found.begun else begun + STARTING_SECONDS
    if found.waits:
        seen = max(seen, _moment(found.waits.get("t")) or 0.0)
        due = seen + 3 * WAITING_SECONDS
    if now > due + CLOCK_SKEW_SECONDS:
        reason = f"was running on {host}, last seen {duration(now - seen)} ago ({clock(seen, now)}); look there for its processes"
        return replace(status, word="lost", reason=reason, since=seen)
    word = "stopping" if _stop_asked(found) else "queued" if found.waits else "running"
    return replace(status, word=word, alive=True, since=found.begun, reason=f"{word} on {host}, last seen {duration(now - seen)} ago")


def _ending_event(found: _Evidence) -> RunStatus | None:
    """Return the ending that the worker itself has logged in the present attempt, if it has."""
    event = found.event or {}
    word = _ENDINGS.get(str(event.get("event")))
    at = _event_time(event)
    if word is None or (at or 0.0) < found.begun:
        return None
    when = clock(at, found.now)
    if word == "done":
        return RunStatus("done", f"finished at {when}", since=at)
    if word == "stopped":
        return RunStatus("stopped", f"its worker wrote its checkpoint and stopped at {when}; {_resume(found.run)}", since=at)
    return RunStatus("failed", f"failed at {when}: {printable(event.get('message') or 'no message', 300)}", since=at)


def _stop_asked(found: _Evidence) -> tuple[float, float] | None:
    """Return when the present attempt was asked to stop and when its grace ends (unix seconds), or None."""
    if found.stop is None:
        return None
    asked = _moment(found.stop.get("t"))
    if asked is None:
        return found.now, found.now  # a file without a time still is a request
    return None if asked < found.begun else (asked, asked + (_moment(found.stop.get("grace")) or 0.0))


def _with_progress(status: RunStatus, beat: dict[str, Any] | None) -> RunStatus:
    if beat is None:
        return status
    return replace(
        status,
        seen=_beat_time(beat),
        stage=_word(beat.get("stage")),
        step=_word(beat.get("step")),
        done=number(beat.get("done")),
        total=number(beat.get("total")),
        unit=_word(beat.get("unit")),
        rate=number(beat.get("rate")),
    )


def _next_due(beat: dict[str, Any] | None, beat_at: float) -> float:
    due = _moment((beat or {}).get("next_due"))
    return beat_at + HEARTBEAT_SECONDS if due is None else due


def _beat_time(beat: dict[str, Any] | None) -> float | None:
    return _moment((beat or {}).get("t"))


def _event_time(event: dict[str, Any] | None) -> float | None:
    return _moment((event or {}).get("t"))


def _moment(value: object) -> float | None:
    seconds = number(value)
    return seconds if seconds is not None and math.isfinite(seconds) else None


def _word(value: object) -> str | None:
    return None if value is None else printable(value, 80)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _last_line(lines: object) -> str:
    if not isinstance(lines, list):
        return ""
    return next((str(line) for line in reversed(lines) if str(line).strip()), "")


def _worker_words(pid: int | None, identity: Identity | None = None) -> str:
    where = f" on {printable(identity.host, 60)}" if identity and identity.boot_id != boot_id() else ""
    return f"its worker{where}, pid {pid}," if pid else f"its worker{where}"


def _resume(run: Run) -> str:
    return f"resume with `edc resume {printable(run.id)}`"
