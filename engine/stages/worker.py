"""The worker of one run (`python -m engine.stages.worker RUN_FOLDER`): it loads torch, computes, and is the one writer of the run.

SIGTERM, or the end of the supervisor that started it, means: write a checkpoint and end with status 75. A hang-up means nothing.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from engine.errors import RunError, Stopped, UserError
from engine.project.frozen import thaw
from engine.project.plan import Plan
from engine.project.planner import make_plan
from engine.runs.events import EventLog, write_heartbeat
from engine.runs.layout import Run, open_run
from engine.runs.liveness import FileLock, wait_for_lock
from engine.runs.process import SUPERVISOR_PID, give_back_reserve
from engine.runs.store import read_run_toml
from engine.runs.text import printable, typed
from engine.stages.cache import cache_of_run
from engine.stages.pipeline import Pipeline

BEAT_SECONDS = 1.0
LOCK_SECONDS = 10.0  # how long a worker waits for one before it to let go of the run
SILENCE_SECONDS = 30.0  # how long a heartbeat may be late before the run counts as stalled


class Heart:
    """Writes `heartbeat.json` once a second from a thread of its own, and notices the supervisor's end."""

    def __init__(self, run: Run) -> None:
        self.run, self.stop = run, threading.Event()
        self._state = {"stage": "", "step": "", "done": 0, "total": 0, "unit": "", "rate": 0.0}
        self._began, self._first, self._sequence = time.monotonic(), 0, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def end(self) -> None:
        """Beat a last time and stop."""
        self._ended.set()
        self._thread.join()

    def progress(self, stage: str, step: str, done: int, total: int, unit: str) -> None:
        """Take up how far the current step is; the rate is that of this attempt."""
        if (stage, step) != (self._state["stage"], self._state["step"]):
            self._began, self._first = time.monotonic(), done
        elapsed = time.monotonic() - self._began
        rate = (done - self._first) / elapsed if elapsed > 0.5 else 0.0
        self._state = {"stage": stage, "step": step, "done": done, "total": total, "unit": unit, "rate": round(rate, 3)}

    def _beat(self) -> None:
        """Write until told to end."""
        trouble = ""
        while True:
            last = self._ended.wait(BEAT_SECONDS)
            if orphaned():
                self.stop.set()
            now = time.time()
            self._sequence += 1
            try:
                write_heartbeat(self.run.heartbeat, {"t": now, "seq": self._sequence, **self._state, "next_due": now + SILENCE_SECONDS})
                trouble = ""
            except (RunError, OSError) as error:
                if str(error) != trouble:
                    say(f"heartbeat: {error}")
                trouble = str(error)
            if last:
                return


def orphaned() -> bool:
    """Say whether the supervisor has gone and left this process to another parent; a worker started by hand never had one."""
    supervisor = os.environ.get(SUPERVISOR_PID)
    return supervisor is not None and supervisor != str(os.getppid())


def say(text: str) -> None:
    """Print a line to the worker's log, which may lie on a full disk: that must end neither the heart nor the record of the run."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


def plan_of_run(run: Run) -> tuple[Plan, bool]:
    """Make the plan of a run anew from its `run.toml`; also whether it was asked for without the cache.

    Raises UserError when the data are missing or differ from those that the run began with, or its device is not on this machine.
    """
    from engine.compute.device import resolve_device
    from engine.data.catalogue import locate_dataset

    project, facts = thaw(read_run_toml(run))
    anew = f"start a new run with `edc run {typed(run.project)}`"
    missing = [name for name in ("device", "precision", "until", "data_fingerprint") if not isinstance(facts.get(name), str)]
    if missing:
        raise UserError(f"run.toml: [frozen] says no {missing[0]}; {anew}")
    try:
        resolve_device(facts["device"])
    except (UserError, ValueError):
        raise UserError(f"this run was begun on {printable(facts['device'])}, which this machine does not have; {anew}") from None
    frozen_root = facts.get("data_root")
    source = locate_dataset(
        project, cache=cache_of_run(run), frozen_root=Path(frozen_root) if isinstance(frozen_root, str) and frozen_root else None
    )
    if source.fingerprint != facts["data_fingerprint"]:
        raise UserError(f"the images of {source.name} are not those that this run began with; {anew}")
    return make_plan(project, source, device=facts["device"], precision=facts["precision"], until=facts["until"]), bool(facts.get("fresh"))


def work(run: Run) -> int:
    """Compute the run and return the exit status: 0 done, 1 failed, 2 wrong input, 75 stopped and resumable."""
    heart = Heart(run)
    signal.signal(signal.SIGTERM, lambda *_: heart.stop.set())
    for ignored in (signal.SIGHUP, signal.SIGINT):
        signal.signal(ignored, signal.SIG_IGN)
    _remove_torn(run)
    with EventLog(run.events) as events:
        events.append("run_started", pid=os.getpid())
        heart.start()
        try:
            plan, fresh = plan_of_run(run)
            cache, stop_wanted = cache_of_run(run), heart.stop.is_set
            Pipeline(plan, run, cache, events, stop_wanted=stop_wanted, on_progress=heart.progress, fresh=fresh).execute()
        except Stopped as stop:
            give_back_reserve(run)
            events.append("run_stopped", message=str(stop))
            return 75
        except (RunError, UserError) as error:
            _failed(run, events, str(error))
            return 2 if isinstance(error, UserError) else 1
        except OSError as error:
            say(traceback.format_exc())
            _failed(run, events, f"{error.filename or run.folder}: {error.strerror or error}")
            return 1
        except Exception as error:  # anything else is a defect of ours or of a library: it ends the run, not its record
            say(traceback.format_exc())
            _failed(run, events, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}; see worker.log")
            return 1
        finally:
            heart.end()
        events.append("run_finished")
        return 0


def _remove_torn(run: Run) -> None:
    """Remove files that processes killed in an earlier attempt were about to put in place; their names tell whose they are."""
    living = {str(os.getpid()), str(os.getppid())}
    for path in run.folder.glob(".*.*.????????.tmp"):
        if path.name.split(".")[-3] not in living:
            with contextlib.suppress(OSError):
                path.unlink()


def _failed(run: Run, events: EventLog, message: str) -> None:
    """Record why the run failed, in the room kept for it where the disk is full."""
    give_back_reserve(run)
    say(f"error: {message}")
    events.append("run_failed", message=message)


def main() -> int:
    """Work on the run named on the command line."""
    try:
        run = open_run(Path(sys.argv[1]))
        with _alone(run):
            if orphaned():  # killed before this process could begin: whoever resumes the run brings a worker of their own
                return 75
            return work(run)
    except (RunError, UserError) as error:  # the record itself cannot be written
        say(f"error: {error}")
        return 2 if isinstance(error, UserError) else 1


def _alone(run: Run) -> FileLock:
    """Take the worker's lock, waiting a little for an orphan that is about to notice that it is one; raises RunError when it is held."""
    lock = wait_for_lock(run.worker_lock, LOCK_SECONDS)
    if lock is None:
        raise RunError(f"another worker holds {run.worker_lock}")
    return lock


if __name__ == "__main__":
    sys.exit(main())
