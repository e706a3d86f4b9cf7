"""A run that only pretends to work: it writes the files of a synthesis at the real rate, so that screens can be measured without one.

    python tests/bench/synthetic_run.py PROJECTS --seconds 60 --rate 20
"""

import argparse
import math
import os
import random
import sys
import time
from pathlib import Path

from engine.files import write_json
from engine.runs.events import EventLog, MetricsWriter, write_heartbeat
from engine.runs.layout import Run
from engine.runs.liveness import identify, take_lock
from engine.runs.store import create_run

RUN_TOML = """schema = 1
title = "A synthetic run"
[dataset]
name = "cifar10"
[condense]
method = "edc"
ipc = 10
seed = 0
[observers]
synthesis = ["resnet18", "convnet-w128"]
[frozen]
project_fingerprint = "0"
device = "cpu"
precision = "float32"
resolution = 32
classes = ["a", "b"]
"""
FOLDER = "4-synthesise/condensed"


def main() -> None:
    """Pretend for as long as told, printing the run's folder first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("projects", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=20.0, help="iterations a second")
    parser.add_argument("--total", type=int, default=4000, help="iterations in all")
    options = parser.parse_args()
    run = begin(options.projects)
    print(run.folder, flush=True)
    with take_lock(run.run_lock), take_lock(run.worker_lock):
        work(run, seconds=options.seconds, rate=options.rate, total=options.total)


def begin(projects: Path) -> Run:
    """Make a run whose supervisor and worker are this process, in the middle of its synthesis."""
    projects.mkdir(parents=True, exist_ok=True)
    (projects / "live.toml").write_text('schema = 1\n[dataset]\nname = "cifar10"\n[condense]\nmethod = "edc"\nipc = 10\n')
    run = create_run(projects, "live", RUN_TOML)
    folder = run.folder.stat()
    who = {role: identify(os.getpid(), role, sys.argv).as_json() for role in ("supervisor", "worker")}
    write_json(run.process, {**who, "folder_inode": [folder.st_dev, folder.st_ino]})
    before = ("squeeze", "statistics", "initialise")
    stages = {name: {"status": "done", "seconds": 12.3, "reused": False, "steps": 2, "steps_done": 2} for name in before}
    stages["synthesise"] = {"status": "running", "seconds": 0, "reused": False, "steps": 1, "steps_done": 0}
    stages["evaluate"] = {"status": "waiting", "seconds": 0, "reused": False, "steps": 6, "steps_done": 0}
    summary = {"schema": 1, "run": run.id, "project": "live", "status": "running", "dataset": "cifar10", "method": "edc", "ipc": 10}
    steps = {"synthesise/condensed": {"status": "running", "folder": FOLDER}}
    write_json(run.summary, summary | {"seed": 0, "device": "cpu", "precision": "float32", "stages": stages, "steps": steps, "results": []})
    (run.stages / FOLDER).mkdir(parents=True)
    return run


def work(run: Run, *, seconds: float, rate: float, total: int) -> None:
    """Write metrics at `rate` a second, a heartbeat each second and a log line now and then."""
    chance, step, beat, ends = random.Random(0), 0, 0.0, time.time() + seconds
    with EventLog(run.events) as events, MetricsWriter(run.stages / FOLDER / "metrics.jsonl") as metrics:
        events.append("run_started", pid=os.getpid())
        events.append("stage_started", stage="synthesise", step="condensed", folder=f"stages/{FOLDER}", fingerprint="0")
        while (now := time.time()) < ends:
            fresh = total // 10 if step == 0 else 1  # as if it had begun a while ago
            for _ in range(fresh):
                step += 1
                metrics.write(step, losses(step / total, chance))
            if now - beat >= 1:
                beat = now
                place = {"stage": "synthesise", "step": "condensed", "done": step, "total": total, "unit": "iterations"}
                write_heartbeat(run.heartbeat, {"t": now, "seq": step, **place, "rate": round(rate, 3), "next_due": now + 30})
            if step % 100 == 0:
                events.append("log", level="info", text=f"iteration {step} of {total}")
            time.sleep(1 / rate)


def losses(part: float, chance: random.Random) -> dict[str, float]:
    """Return losses that fall and waver as real ones do, `part` (0 to 1) of the way through."""
    fall = math.exp(-4 * part)
    matching = (400 * fall + 30) * (1 + 0.2 * chance.random())
    classification = 2.3 * fall + 0.1 * chance.random()
    return {
        "classification": classification,
        "matching": matching,
        "matching_global": 0.55 * matching,
        "matching_class": 0.45 * matching,
        "flatness": 0.01 * chance.random(),
        "loss": classification + 0.01 * matching,
    }


if __name__ == "__main__":
    main()
