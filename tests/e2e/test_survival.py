"""Runs whose processes are killed, whose terminal is closed, and that are started by many at once: nothing is lost, mixed or misreported.

Set EDC_KILL_SEED to another number for kills at other moments.
"""

import json
import os
import pty
import random
import select
import shlex
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_project import assert_the_same, command, edc, environment, latest, made_by, make_projects, start, summary_of, until

from engine.project.plan import STAGES
from engine.runs.events import read_all
from engine.runs.layout import Run, open_run, read_object
from engine.runs.liveness import read_identity
from engine.runs.status import RunStatus, run_status

SEED = int(os.environ.get("EDC_KILL_SEED", "4"))
LIVES = 5
# One kill in each: at any moment after the start of the processes, or after the worker has got on within this stage or a later one.
TARGETS = ("start", "squeeze", "start", "synthesise", "relabel", "evaluate")
VICTIMS = ("worker", "supervisor", "both")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing has disturbed."""
    projects = make_projects(tmp_path_factory.mktemp("reference"))
    edc(projects, "run", "small")
    return latest(projects)


class Life:
    """One run that is killed again and again, and what was seen of it."""

    def __init__(self, projects: Path, draws: random.Random) -> None:
        self.projects, self.draws = make_projects(projects), draws
        self.process: subprocess.Popen[str] | None = None
        self.run: Run | None = None
        self.finished: dict[Path, tuple[int, int]] = {}  # done.json of finished steps, as first seen
        self.kills: list[str] = []

    def live(self) -> "Life":
        """Begin, be killed as often as planned, and go on to the end."""
        victims = [*VICTIMS, *VICTIMS]
        self.draws.shuffle(victims)
        for target, victim in zip(TARGETS, victims, strict=True):
            self.start()
            self.wait_for(target)
            self.kill(target, victim)
            self.note_finished()
        self.start()
        _, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, f"{self.kills}: {errors}"
        return self

    def start(self) -> None:
        """Start or resume the run in the foreground: this process is its supervisor."""
        self.process = start(self.projects, *(["resume", self.run.folder] if self.run else ["run", "small"]))
        self.begun = time.time()
        until(lambda: self.holder() == self.process.pid or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()[1]
        self.run = latest(self.projects)

    def holder(self) -> int | None:
        try:
            process, _ = read_object(latest(self.projects).process)
        except (OSError, ValueError):
            return None
        return process["supervisor"]["pid"] if process else None

    def worker(self):
        """Return the identity of this attempt's worker; None while there is none."""
        process, _ = read_object(self.run.process)
        worker = read_identity(process["worker"])
        return worker if worker is not None and worker.started_at >= self.begun else None

    def wait_for(self, target: str) -> None:
        if target == "start":
            time.sleep(self.draws.uniform(0, 1.5))
        else:
            until(lambda: self.got_on() and STAGES.index(stage_begun(self.run)) >= STAGES.index(target))
            time.sleep(self.draws.uniform(0, 0.5))
        until(lambda: self.worker() or self.process.poll() is not None)
        assert self.process.poll() is None, f"{self.kills}: it ended before it could be killed"

    def got_on(self) -> bool:
        """Say whether this attempt has written a checkpoint or finished a step."""
        written = [*self.run.stages.glob("*/*/checkpoint.safetensors"), *self.run.stages.glob("*/*/done.json")]
        return any(modified(path) > self.begun for path in written)

    def kill(self, target: str, victim: str) -> None:
        """Kill, and hold the computed status against what the log says."""
        worker = self.worker()
        self.kills.append(f"{victim} at {target} in {stage_begun(self.run)}")
        if victim != "worker":
            self.process.kill()
        if victim != "supervisor":
            os.kill(worker.pid, signal.SIGKILL)
        if victim == "worker":
            output = self.process.communicate(timeout=30)
            assert self.process.returncode == 1, output
            assert "was killed by signal 9" in output[1]
            self.expect(run_status(self.run.folder), "killed", "was killed by signal 9")
            return
        self.process.communicate()
        if victim == "both":
            until(lambda: not run_status(self.run.folder).alive)  # its threads end after its main one
            self.expect(run_status(self.run.folder), "lost", "are gone without a word")
            return
        status = run_status(self.run.folder)
        if status.alive:
            self.expect(status, "stopping", f"its supervisor, pid {self.process.pid}, is gone")
            if self.draws.random() < 0.5:
                return  # the resume has to wait for the orphan by itself
        until(lambda: not run_status(self.run.folder).alive)
        of_this_attempt = [event["event"] for event in read_all(self.run.events) if event["t"] >= self.begun]
        if of_this_attempt[-1:] == ["run_stopped"]:
            self.expect(run_status(self.run.folder), "stopped", "wrote its checkpoint and stopped")
        else:  # it was orphaned before it could take up the run
            self.expect(run_status(self.run.folder), "lost", "are gone without a word")

    def expect(self, status: RunStatus, word: str, reason: str) -> None:
        assert (status.word, reason in status.reason) == (word, True), f"{self.kills}: {status}"
        assert status.alive == status.orphaned == (word == "stopping") and status.resumable

    def note_finished(self) -> None:
        for path in self.run.stages.glob("*/*/done.json"):
            self.finished.setdefault(path, (path.stat().st_ino, path.stat().st_mtime_ns))


def stage_begun(run: Run) -> str:
    """Return the stage that was begun last."""
    begun = [event for event in read_all(run.events) if event["event"] == "stage_started"]
    return begun[-1]["stage"] if begun else STAGES[0]


def modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@pytest.fixture(scope="module")
def lives(reference: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Life]:
    folder = tmp_path_factory.mktemp("lives")
    all_lives = [Life(folder / str(number), random.Random(f"{SEED}-{number}")) for number in range(LIVES)]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(Life.live, all_lives))


class TestThirtyKills:
    def test_there_were_thirty_of_all_kinds_over_all_of_the_run(self, lives: list[Life]) -> None:
        kills = [kill for life in lives for kill in life.kills]
        assert len(kills) == 30
        assert {kill.split()[0] for kill in kills} == set(VICTIMS)
        assert {"squeeze", "synthesise", "evaluate"} <= {kill.split()[-1] for kill in kills}

    def test_every_run_ends_in_the_same_bytes_and_results_as_one_left_in_peace(self, lives: list[Life], reference: Run) -> None:
        for life in lives:
            assert_the_same(life.run, reference)
            assert run_status(life.run.folder).word == "done"

    def test_no_finished_step_is_computed_again(self, lives: list[Life]) -> None:
        for life in lives:
            assert life.finished
            assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in life.finished} == life.finished, life.kills
            ended = set()
            for event in read_all(life.run.events):
                step = (event.get("stage"), event.get("step"))
                assert event["event"] != "stage_started" or step not in ended, life.kills
                if event["event"] == "stage_finished":
                    ended.add(step)

    def test_every_resume_goes_on_with_the_one_run(self, lives: list[Life]) -> None:
        for life in lives:
            assert [path.name for path in (life.run.folder.parent).iterdir() if not path.name.startswith(".")] == [life.run.id]

    def test_nothing_is_left_of_the_killed(self, lives: list[Life]) -> None:
        for life in lives:
            names = [path.name for path in life.run.folder.rglob("*")]
            assert [name for name in names if name.endswith((".tmp", ".old")) or name.startswith(("checkpoint", ".reserve"))] == []

    def test_what_came_from_the_cache_is_told_from_what_was_computed(self, lives: list[Life], reference: Run) -> None:
        for life in lives:
            reused = {step for step, facts in summary_of(life.run)["steps"].items() if facts["reused"]}
            assert reused == {step for step, facts in summary_of(reference)["steps"].items() if facts["reused"]} != set()


class Terminal:
    """A real pseudo-terminal with a command as the leader of its session."""

    def __init__(self, projects: Path, *words: str) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execvpe(words[0], list(words), environment(projects, TERM="xterm-256color"))
        self.text = b""

    def shows(self, text: str) -> bool:
        """Read what has been written, lest the writer wait for us, and say whether the text was among it."""
        while select.select([self.master], [], [], 0)[0]:
            try:
                self.text += os.read(self.master, 65536)
            except OSError:
                break
        return text.encode() in self.text

    def close(self) -> None:
        """Hang up."""
        os.close(self.master)

    def exit_status(self) -> int:
        """Wait for the command's end; negative for a signal."""
        ended = 0, 0

        def has_ended() -> bool:
            nonlocal ended
            ended = os.waitpid(self.pid, os.WNOHANG)
            return ended[0] != 0

        until(has_ended)
        return os.waitstatus_to_exitcode(ended[1])


class TestAClosedTerminal:
    def test_does_not_touch_a_detached_run(self, tmp_path: Path, reference: Run) -> None:
        projects = make_projects(tmp_path)
        terminal = Terminal(projects, "sh", "-c", f"{shlex.join(command('run', 'small', '--detach'))}; exec sleep 60")
        until(lambda: terminal.shows("detached, pid"))
        run = latest(projects)
        until(lambda: terminal.shows("") or run_status(run.folder).word == "running")
        terminal.close()
        assert terminal.exit_status() == -signal.SIGHUP  # the shell itself
        until(lambda: not run_status(run.folder).alive)
        assert run_status(run.folder).word == "done"
        assert_the_same(run, reference)
        events = [event["event"] for event in read_all(run.events)]
        assert events.count("run_started") == 1 and "run_stopped" not in events

    @pytest.mark.parametrize("hang_up", ["default", "ignored"])
    def test_stops_a_run_in_the_foreground_with_a_checkpoint(self, tmp_path: Path, reference: Run, hang_up: str) -> None:
        projects = make_projects(tmp_path)
        trap = "trap '' HUP; " if hang_up == "ignored" else ""  # as under nohup, and in the shells of some sudo configurations
        terminal = Terminal(projects, "sh", "-c", f"{trap}exec {shlex.join(command('run', 'small'))}")
        until(lambda: terminal.shows("of small: ") and stage_begun(latest(projects)) == "synthesise")
        run = latest(projects)
        terminal.close()
        closed = time.monotonic()
        assert terminal.exit_status() == 75
        assert time.monotonic() - closed < 10
        status = run_status(run.folder)
        assert (status.word, status.resumable) == ("stopped", True)
        if hang_up == "default":
            edc(projects, "resume", run.folder)
            assert_the_same(run, reference)


class TestEightStartsAtOnce:
    def test_make_eight_runs_that_compute_each_step_once(self, tmp_path: Path) -> None:
        projects = make_projects(tmp_path)
        processes = [start(projects, "run", "small", "--until", "statistics", "--now", "--json") for _ in range(8)]
        outputs = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0] * 8, outputs
        shown = [json.loads(output) for output, _ in outputs]
        runs = [open_run(Path(facts["folder"])) for facts in shown]
        assert len({run.id for run in runs}) == 8
        assert {run.id for run in runs} == {path.name for path in (projects / "small" / "runs").iterdir() if path.name[0] != "."}
        logs = [[event["event"] for event in read_all(run.events)] for run in runs]
        assert all(log.count("run_started") == log.count("run_finished") == 1 for log in logs)  # no two processes in one folder
        assert sum(log.count("stage_finished") for log in logs) == 2
        assert sum(log.count("stage_reused") for log in logs) == 14
        assert len({json.dumps(made_by(run)) for run in runs}) == 1
