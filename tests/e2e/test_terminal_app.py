"""From `edc-tui` to a finished run in a real terminal: started, hung up on, come back to."""

import importlib
import sys
import time
from pathlib import Path

from small_project import make_projects

from engine.runs.status import run_status
from engine.runs.store import list_runs

sys.path.append(str(Path(__file__).parents[1] / "bench"))
Terminal = importlib.import_module("terminal").Terminal


def test_a_run_is_started_hung_up_on_and_found_finished(tmp_path, monkeypatch):
    projects = make_projects(tmp_path / "projects")
    monkeypatch.setenv("EDC_STATE", str(projects / ".state"))  # a queue of its own
    with Terminal(projects, home=tmp_path) as terminal:
        terminal.until(b"no runs yet", 60)
        terminal.press("s")
        terminal.until(b"Start small?", 60)
        terminal.press("y")
        terminal.until(b"squeeze", 120)  # the run screen
        terminal.hang_up()
        assert terminal.wait(30) is not None
    (listing,) = list_runs(projects)
    begun = time.monotonic()
    while run_status(listing.run.folder).alive:
        assert time.monotonic() - begun < 240, run_status(listing.run.folder)
        time.sleep(0.5)
    assert run_status(listing.run.folder).word == "done", run_status(listing.run.folder).reason
    with Terminal(projects, home=tmp_path) as terminal:
        terminal.until(b"done", 60)
        terminal.press("q")
        assert terminal.wait(30) == 0
        assert b"continue" not in terminal.output
