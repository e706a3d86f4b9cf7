"""Fixtures of the tests of the screen: runs made of the real files. What drives the app and looks at it is in app_driver.py."""

import time

import pytest
from app_driver import write_metrics
from run_driver import SYNTHESIS, stages, synthesis
from textual import _wait

import edc_tui.app
from engine.files import write_json
from engine.runs.events import EventLog, write_heartbeat
from engine.runs.layout import Run
from engine.runs.store import create_run


@pytest.fixture(autouse=True)
def in_quick_time(monkeypatch):
    """Look at files five times a second, and at whether the app has come to rest after each key 100 times rather than 50."""
    monkeypatch.setattr(edc_tui.app, "TICK_SECONDS", 0.2)
    monkeypatch.setattr(_wait, "SLEEP_GRANULARITY", 0.01)
    monkeypatch.setattr(_wait, "SLEEP_IDLE", 0.001)


@pytest.fixture
def projects(tmp_path, monkeypatch):
    """An empty projects folder, and a configuration folder that is not the user's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "projects"
    folder.mkdir()
    return folder


RUN_TOML = """schema = 1
title = "{project}"
[dataset]
name = "{dataset}"
[condense]
method = "{method}"
ipc = {ipc}
seed = {seed}
[frozen]
project_fingerprint = "0"
"""


@pytest.fixture
def make_run(projects):
    """Make a run folder with real files: `make_run("foo", status="done", top1=61.5)`; gives the Run.

    `status`: done, failed, stopped (by exit.json), or queued. `stages` fills the summary's stages.
    """

    def make(project="foo", *, status="done", top1=None, method="edc", dataset="digits", ipc=1, seed=0, stages=None, results=None, **more):
        path = projects / f"{project}.toml"
        if not path.exists():
            path.write_text(f'schema = 1\n[dataset]\nname = "{dataset}"\n[condense]\nmethod = "{method}"\nipc = {ipc}\n')
        run: Run = create_run(projects, project, RUN_TOML.format(project=project, dataset=dataset, method=method, ipc=ipc, seed=seed))
        if top1 is not None and results is None:
            spread = {"mean": top1, "std": 0.5, "values": [top1]}
            results = [{"set": "condensed", "student": "convnet-w32", "top1": spread, "top5": spread, "seeds": [0]}]
        summary = {
            "schema": 1,
            "run": run.id,
            "project": project,
            "status": status,
            "dataset": dataset,
            "method": method,
            "ipc": ipc,
            "seed": seed,
            "device": "cpu",
            "precision": "float32",
            "stages": stages or {},
            "results": results or [],
            **more,
        }
        if status != "queued":
            write_json(run.summary, summary)
            codes = {"done": 0, "failed": 1, "stopped": 75}
            names = {"done": "run_finished", "failed": "run_failed", "stopped": "run_stopped"}
            with EventLog(run.events) as events:
                events.append("run_started", pid=1)
                events.append(names[status], message="it did not work" if status == "failed" else status)
            ending = {"t": time.time(), "pid": 1, "returncode": codes[status], "signal": None, "last_lines": ["last line"]}
            write_json(run.exit, ending | {"message": "it did not work" if status == "failed" else None})
        return run

    return make


@pytest.fixture
def live_run(projects, make_run):
    """Make a run that is alive on another host, by its heartbeat alone; gives (run, beat), where beat(**fields) writes the next one."""

    def make(project="live", *, stage="synthesise", step="synthesise", **facts):
        run = make_run(project, status="queued")
        identity = {
            "host": "gpu-box",
            "boot_id": "elsewhere",
            "pid": 4711,
            "start_ticks": 1,
            "pgid": 4711,
            "argv": ["edc"],
            "started_at": time.time() - 60,
            "role": "supervisor",
        }
        write_json(run.process, {"supervisor": identity, "worker": identity | {"pid": 4712, "role": "worker"}, "folder_inode": [0, 0]})
        with EventLog(run.events) as events:
            events.append("run_started", pid=4712)

        def beat(done=10, total=100, rate=5.0, unit="iterations", **fields):
            now = time.time()
            values = {"t": now, "seq": 1, "stage": stage, "step": step, "done": done, "total": total, "unit": unit, "rate": rate}
            write_heartbeat(run.heartbeat, values | {"next_due": now + 30} | fields)

        beat()
        write_json(run.summary, {"schema": 1, "run": run.id, "project": project, "stages": {}, "results": [], **facts})
        return run, beat

    return make


@pytest.fixture
def synthesising(live_run):
    """A run in the midst of its synthesis; gives (run, beat)."""
    steps = {
        "squeeze/convnet-w32": {"status": "done", "reused": True, "seconds": 12.5, "folder": "1-squeeze/convnet-w32"},
        "synthesise/condensed": {"status": "running", "folder": SYNTHESIS},
    }
    facts = {"dataset": "digits", "method": "edc", "ipc": 10, "seed": 3, "device": "cuda:0", "precision": "bfloat16"}
    run, beat = live_run("live", step="condensed", stages=stages("synthesise"), steps=steps, observers={"convnet-w32": 93.21}, **facts)
    write_metrics(run.stages / SYNTHESIS, synthesis(200))
    write_metrics(run.stages / "1-squeeze/convnet-w32", [(step, {"loss": 2.0 / step}) for step in range(1, 40)])
    beat(done=200, total=400, rate=10.0)
    return run, beat
