"""The worker of one run (`python -m engine.stages.worker RUN_FOLDER`): it loads torch, computes, and is the one writer of the run.

SIGTERM, or the end of the supervisor that started it, means: write a checkpoint and end with status 75. A hang-up means nothing.
"""

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from engine.errors import RunError, Stopped, UserError
from engine.project.frozen import thaw
from engine.project.plan import Plan, make_plan
from engine.runs.events import EventLog, write_heartbeat
from engine.runs.layout import Run, open_run
from engine.runs.liveness import take_lock
from engine.runs.store import read_run_toml
from engine.stages.cache import cache_folder
from engine.stages.pipeline import Pipeline

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 30.0  # how long a heartbeat may be late before the run counts as stalled


class Heart:
    """Writes `heartbeat.json` once a second from a thread of its own, and notices the supervisor's end."""

    def __init__(self, run: Run) -> None:
        self.run, self.stop = run, threading.Event()
        self._parent = os.getppid()
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
        while True:
            last = self._ended.wait(BEAT_SECONDS)
            if os.getppid() != self._parent:
                self.stop.set()
            now = time.time()
            self._sequence += 1
            try:
                write_heartbeat(self.run.heartbeat, {"t": now, "seq": self._sequence, **self._state, "next_due": now + SILENCE_SECONDS})
            except (RunError, OSError) as error:
                print(f"heartbeat: {error}", file=sys.stderr)
            if last:
                return


def plan_of_run(run: Run) -> tuple[Plan, bool]:
    """Make the plan of a run anew from its `run.toml`; also whether it was asked for without the cache.

    Raises UserError when the data are missing or differ from those that the run began with.
    """
    from engine.data.catalogue import locate_dataset

    project, facts = thaw(read_run_toml(run))
    projects = run.folder.parents[2]
    source = locate_dataset(project, cache=cache_folder(projects))
    if source.fingerprint != facts["data_fingerprint"]:
        raise UserError(f"the images of {source.name} are not those that this run began with; start a new run with `edc run {run.project}`")
    return make_plan(project, source, device=facts["device"], precision=facts["precision"], until=facts["until"]), bool(facts.get("fresh"))


def work(run: Run) -> int:
    """Compute the run and return the exit status: 0 done, 1 failed, 2 wrong input, 75 stopped and resumable."""
    heart = Heart(run)
    signal.signal(signal.SIGTERM, lambda *_: heart.stop.set())
    for ignored in (signal.SIGHUP, signal.SIGINT):
        signal.signal(ignored, signal.SIG_IGN)
    with EventLog(run.events) as events:
        events.append("run_started", pid=os.getpid())
        heart.start()
        try:
            plan, fresh = plan_of_run(run)
            pipeline = Pipeline(
                plan,
                run,
                cache_folder(run.folder.parents[2]),
                events,
                stop_wanted=heart.stop.is_set,
                on_progress=heart.progress,
                fresh=fresh,
            )
            pipeline.execute()
        except Stopped as stop:
            events.append("run_stopped", message=str(stop))
            return 75
        except (RunError, UserError) as error:
            print(f"error: {error}", file=sys.stderr)
            events.append("run_failed", message=str(error))
            return 2 if isinstance(error, UserError) else 1
        except Exception as error:  # anything else is a defect of ours or of a library: it ends the run, not its record
            traceback.print_exc()
            events.append(
                "run_failed",
                message=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}; see worker.log",
            )
            return 1
        finally:
            heart.end()
        events.append("run_finished")
        return 0


def main() -> int:
    """Work on the run named on the command line."""
    run = open_run(Path(sys.argv[1]))
    lock = take_lock(run.worker_lock)
    if lock is None:
        print(f"error: another worker holds {run.worker_lock}", file=sys.stderr)
        return 1
    with lock:
        return work(run)


if __name__ == "__main__":
    sys.exit(main())
