"""How soon `edc` answers: 200 runs listed, and the wall time of short commands, each from a fresh process. Prints figures, asserts nothing.

    python tests/bench/startup.py [--runs 200] [--repeats 7]

Times are best and median of the repeats; the best is what a quiet machine gives. Half of the runs are done, half were stopped.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine.project.plan import STAGES
from engine.runs.events import EventLog, write_heartbeat
from engine.runs.layout import Run
from engine.runs.store import list_runs

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "textual", "numpy", "pydantic", "rich")
PROJECT = 'schema = 1\n[dataset]\nname = "digits"\n[condense]\nmethod = "edc"\nipc = 10\n'


def main() -> None:
    """Write the runs into a folder of their own, time the commands over them, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="how many runs there are")
    parser.add_argument("--repeats", type=int, default=7, help="how often each command is timed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        projects = Path(name) / "projects"
        runs = [write_run(projects, number) for number in range(given.runs)]
        (projects / "p0.toml").write_text(PROJECT)
        print(f"{'':34}{'best':>9}{'median':>9}")
        tell(f"{given.runs} runs listed (in process)", times(lambda: list_runs(projects), given.repeats))
        tell("python -c pass", times(lambda: command(projects, [sys.executable, "-c", "pass"]), given.repeats))
        for words in (["--help"], ["list"], ["list", "--json"], ["show", runs[0].id], ["show", runs[0].id, "--json"], ["check", "p0"]):
            call = [sys.executable, "-m", "engine.cli", *words]
            shown = " ".join(words).replace(runs[0].id, "RUN")
            loaded = modules(projects, words)
            taken = times(lambda call=call: command(projects, call), given.repeats)
            tell(f"edc {shown}", taken, f"  loads {', '.join(loaded) or 'nothing'}")


def write_run(projects: Path, number: int) -> Run:
    """Write the files of one run as a worker and its supervisor leave them."""
    run_id = f"20260101-{number // 3600 % 24:02}{number // 60 % 60:02}{number % 60:02}-aaaa"
    run = Run(projects / f"p{number % 10}" / "runs" / run_id, run_id, f"p{number % 10}")
    run.folder.mkdir(parents=True)
    done = number % 2 == 0
    run.run_toml.write_text(PROJECT + '[frozen]\nproject_fingerprint = "abc"\n')
    top1 = {"mean": 80.0, "std": 1.0, "n": 3, "values": [79.0, 80.0, 81.0]}
    summary = {
        "schema": 1,
        "run": run.id,
        "project": run.project,
        "status": "done",
        "dataset": "digits",
        "method": "edc",
        "ipc": 10,
        "stages": {stage: {"status": "done", "seconds": 12.5, "reused": False, "peak_memory_bytes": 1 << 30} for stage in STAGES},
        "results": [{"set": name, "student": "resnet18", "seeds": [0, 1, 2], "top1": top1} for name in ("condensed", "random")],
    }
    run.summary.write_text(json.dumps(summary, indent=1))
    write_heartbeat(run.heartbeat, {"t": time.time(), "seq": 9, "stage": "evaluate", "step": "resnet18", "done": 10, "total": 10})
    run.exit.write_text(json.dumps({"t": time.time(), "pid": 5, "returncode": 0 if done else 75, "signal": None}))
    with EventLog(run.events) as events:
        events.append("run_started", pid=5)
        for stage in STAGES:
            events.append("stage_finished", stage=stage, step="resnet18", seconds=12.5, peak_memory_bytes=1 << 30)
        events.append("run_finished" if done else "run_stopped")
    return run


def command(projects: Path, call: list[str]) -> str:
    """Run a command in a fresh process and return its output."""
    environment = os.environ | {"EDC_PROJECTS": str(projects), "PYTHONPATH": str(ROOT)}
    return subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout


def times(action: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds that each of the repeats took, after one that warms the caches."""
    action()
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return taken


def modules(projects: Path, words: list[str]) -> list[str]:
    """Return which of the heavy libraries a command of `edc` loads."""
    code = (
        "import sys\nfrom engine.cli import main\n"
        f"sys.argv = {['edc', *words]!r}\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('\\n' + ' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    return command(projects, [sys.executable, "-c", code]).splitlines()[-1].split()


def tell(what: str, taken: list[float], more: str = "") -> None:
    """Print one row of the table."""
    print(f"{what:34}{min(taken) * 1000:6.0f} ms{statistics.median(taken) * 1000:6.0f} ms{more}", flush=True)


if __name__ == "__main__":
    main()
