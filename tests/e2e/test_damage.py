"""Runs on disks that are full or cannot be written, with damaged files, or copied from other machines: all is told, and nothing lost."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_project import assert_the_same, edc, latest, make_projects, start, summary_of, until

from engine.runs.events import read_all
from engine.runs.layout import Run
from engine.runs.process import request_stop
from engine.runs.status import run_status

SYNTHESIS = "stages/4-synthesise/condensed"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A projects folder whose one run was stopped in the midst of its synthesis, with two checkpoints."""
    projects = make_projects(tmp_path_factory.mktemp("stopped"))
    process = start(projects, "run", "small")
    until(lambda: list(projects.glob(f"small/runs/*/{SYNTHESIS}/checkpoint.previous.safetensors")))
    request_stop(latest(projects).folder)
    assert process.communicate(timeout=60) and process.returncode == 75
    return projects


@pytest.fixture(scope="module")
def reference(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run resumed in peace; that this is what an undisturbed one gives is the business of test_survival."""
    projects = tmp_path_factory.mktemp("reference") / "projects"
    shutil.copytree(stopped, projects)
    edc(projects, "resume", latest(projects).folder)
    return latest(projects)


@pytest.fixture
def projects(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run's projects folder."""
    shutil.copytree(stopped, tmp_path / "projects")
    return tmp_path / "projects"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def damage(path: Path) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Cut a log in the midst of its last line."""
    path.write_bytes(path.read_bytes()[:-7])


def fill(disk: Path) -> Path:
    """Take all the room there is."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    file.write(b"x" * size)
                except OSError:
                    break
    return filler


def warnings_of(run: Run) -> list[str]:
    return [event["text"] for event in read_all(run.events) if event["event"] == "log" and event["level"] == "warning"]


class TestDamagedFiles:
    def test_the_checkpoint_before_a_damaged_one_is_taken_and_torn_logs_go_on(self, projects: Path, reference: Run) -> None:
        run = latest(projects)
        damage(run.folder / SYNTHESIS / "checkpoint.safetensors")
        before = len(read_all(run.events))
        for log in (run.events, run.folder / SYNTHESIS / "metrics.jsonl"):
            cut(log)
        run.summary.write_bytes(b"")
        for stem in ("heartbeat", "process", "exit"):
            (run.folder / f"{stem}.json").write_bytes(b"")
        shown = json.loads(edc(projects, "show", run.id, "--json").stdout)
        assert (shown["status"], "exit.json is empty" in shown["reason"]) == ("lost", True)
        assert "summary.json is empty" in edc(projects, "list").stdout
        edc(projects, "resume", run.id)
        assert_the_same(run, reference)
        (warning,) = warnings_of(run)
        assert "checkpoint.safetensors" in warning and "checksum" in warning
        events = read_all(run.events)
        assert len(events) > before and [event["event"] for event in events][-1] == "run_finished"
        assert any("goes on from iteration" in event.get("text", "") for event in events)

    def test_a_lost_summary_of_a_finished_run_is_written_anew(self, reference: Run, tmp_path: Path) -> None:
        projects = tmp_path / "projects"
        shutil.copytree(reference.folder.parents[2], projects)
        run = latest(projects)
        run.summary.write_bytes(b"")
        for words in (["list"], ["show", run.id]):
            assert f"summary.json is empty; `edc resume {run.id}` writes it anew" in edc(projects, *words).stdout
        edc(projects, "resume", run.id)
        mine, before = summary_of(run), summary_of(reference)
        assert {name: mine[name] for name in ("status", "results", "condensed", "observers", "steps")} == {
            name: before[name] for name in ("status", "results", "condensed", "observers", "steps")
        }
        assert "nothing to resume" in edc(projects, "resume", run.id, expect=2).stderr


class TestACopyFromAnotherMachine:
    def test_is_told_by_its_heartbeat_and_resumed_wherever_it_lies(self, projects: Path, reference: Run, tmp_path: Path) -> None:
        run = Run(tmp_path / "from-node7", "from-node7", "small")
        shutil.copytree(latest(projects).folder, run.folder)
        run.exit.unlink()  # as if copied while it was at work there
        run.stop_request.unlink()
        event = [line for line in run.events.read_text().splitlines() if "run_stopped" not in line]
        run.events.write_text("\n".join(event) + "\n")
        process, beat, hour = json.loads(run.process.read_text()), json.loads(run.heartbeat.read_text()), 3600
        for role in ("supervisor", "worker"):
            process[role] |= {"host": "node7", "boot_id": "another", "started_at": process[role]["started_at"] - hour}
        run.process.write_text(json.dumps(process))
        run.heartbeat.write_text(json.dumps(beat | {"t": beat["t"] - hour, "next_due": beat["next_due"] - hour}))
        status = run_status(run.folder, beat["t"] - hour + 5)
        assert (status.word, status.reason) == ("running", "running on node7, last seen 5 s ago")
        status = run_status(run.folder, beat["t"])
        assert (status.word, "was running on node7, last seen 1 h 0 min ago" in status.reason) == ("lost", True)
        edc(projects, "resume", run.folder)
        assert_the_same(run, reference)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["from-node7", "projects"]  # no cache of its own beside it
        assert json.loads(edc(projects, "show", run.folder, "--json").stdout)["status"] == "done"


class TestAFullDisk:
    def test_fails_the_run_with_the_files_name_and_once_there_is_room_it_goes_on(self, projects: Path, reference: Run, disk: Path) -> None:
        shutil.copytree(projects, disk / "projects")
        run = latest(disk / "projects")
        process = start(disk / "projects", "resume", run.id)
        until(lambda: run_status(run.folder).word == "running" and run_status(run.folder).stage == "synthesise")
        filler = fill(disk)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "No space left on device" in errors and f"cannot write {run.folder}" in errors and "Traceback" not in errors
        assert len(errors.splitlines()) == 2
        status = run_status(run.folder)
        assert (status.word, "No space left on device" in status.reason) == ("failed", True)
        filler.unlink()
        edc(disk / "projects", "resume", run.id)
        assert warnings_of(run) == []
        assert_the_same(run, reference)

    def test_from_the_beginning_is_told_and_changes_nothing(self, projects: Path, disk: Path) -> None:
        shutil.copytree(projects, disk / "projects")
        run = latest(disk / "projects")
        before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
        fill(disk)
        for words in (["resume", run.id], ["run", "small"], ["run", "small", "--set", "evaluate.zeta=1"], ["resume", run.id, "--detach"]):
            (line,) = edc(disk / "projects", *words, expect=1).stderr.splitlines()
            assert line.startswith("edc: cannot write ") and line.endswith("No space left on device")
        assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and path.name != "supervisor.log"} == before
        assert run_status(run.folder).word == "stopped"


class TestALimitOnTheSizeOfFiles:
    def test_fails_the_run_with_the_files_name_and_leaves_the_checkpoints(self, projects: Path) -> None:
        run = latest(projects)
        checkpoints = {path: path.read_bytes() for path in (run.folder / SYNTHESIS).glob("checkpoint*")}
        limit = min(len(data) for data in checkpoints.values()) - 1

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        done = edc(projects, "resume", run.id, expect=1, preexec_fn=limited)
        reason, _ = done.stderr.splitlines()
        assert "cannot write" in reason and "checkpoint.next.safetensors: File too large" in reason
        assert {path: path.read_bytes() for path in (run.folder / SYNTHESIS).glob("checkpoint*")} == checkpoints
        assert (run_status(run.folder).word, run_status(run.folder).resumable) == ("failed", True)


class TestAFolderThatCannotBeWritten:
    @pytest.fixture
    def read_only(self, projects: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
        """The projects folder, read-only."""
        if os.geteuid():
            folders = [projects, *(path for path in projects.rglob("*") if path.is_dir())]
            for folder in folders:
                folder.chmod(0o500)
            yield projects
            for folder in folders:
                folder.chmod(0o700)
        else:
            disk = request.getfixturevalue("disk")
            shutil.copytree(projects, disk / "projects")
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            yield disk / "projects"

    def test_can_be_read_and_what_would_write_fails_with_the_files_name(self, read_only: Path) -> None:
        run = latest(read_only)
        for words in (["list"], ["show", run.id], ["check", "small"]):
            assert edc(read_only, *words).stderr == ""
        assert edc(read_only, "tail", run.id, expect=75).stdout.endswith(f"resume with `edc resume {run.id}`\n")
        for words in (
            ["resume", run.id],
            ["resume", run.id, "--detach"],
            ["run", "small"],
            ["run", "small", "--fresh"],
            ["remove", run.id, "--yes"],
        ):
            done = edc(read_only, *words, expect=1)
            (line,) = done.stderr.splitlines()
            assert str(read_only) in line and line.rpartition(": ")[2] in ("Read-only file system", "Permission denied"), words
        assert run_status(run.folder).word == "stopped"
