"""The watch on the projects folder: what it reads again, and what it sees at once."""

import os
import time

import pytest

from edc_tui.watch import Lister
from engine.files import write_json
from engine.runs.status import run_status


class TestTheLister:
    def test_does_not_read_again_a_run_that_has_ended_long_ago(self, projects, make_run, monkeypatch):
        run = make_run("first")
        past = time.time() - 60
        os.utime(run.folder, (past, past))
        lister = Lister(projects)
        before = lister.runs()
        monkeypatch.setattr("edc_tui.watch.list_run", lambda run, now: pytest.fail("it was read again"))
        assert lister.runs() == before

    def test_sees_at_once_that_a_run_has_ended(self, projects, live_run):
        run, _ = live_run()
        lister = Lister(projects)
        assert lister.runs()[0].status.word == "running"
        write_json(run.exit, {"t": time.time(), "pid": 1, "returncode": 0})
        assert lister.runs()[0].status.word == "done"

    def test_sees_that_a_stopped_run_goes_on(self, projects, make_run):
        run = make_run("first", status="stopped")
        past = time.time() - 60
        os.utime(run.folder, (past, past))
        lister = Lister(projects)
        assert lister.runs()[0].status.word == "stopped"
        run.exit.unlink()
        run.events.unlink()
        assert lister.runs()[0].status.word == run_status(run.folder).word != "stopped"
