"""What the stage cache holds and for whom, and its cleaning, on caches and runs written by hand."""

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import time

import pytest

from engine.project.plan import Step
from engine.runs.liveness import take_lock
from engine.runs.store import create_run, delete_run
from engine.stages import cache as stage_cache
from engine.stages.cache_users import clean, freed_bytes, list_entries, total_bytes

OBSERVER = Step("squeeze", "resnet18", {}, {}, "a" * 32, {})
STUDENT = Step("evaluate", "condensed-resnet18-seed0", {}, {}, "b" * 32, {})
OTHER = Step("evaluate", "condensed-resnet18-seed1", {}, {}, "c" * 32, {})
DATA = "d" * 32


@pytest.fixture
def projects(tmp_path):
    """An empty projects folder."""
    folder = tmp_path / "projects"
    folder.mkdir()
    return folder


def add(projects, step, content=1000, run=None):
    """Put a finished step into the cache, through a run's folder where one is given; return the entry's folder."""
    folder = (run.stages / step.folder) if run else projects / ".made" / step.fingerprint
    folder.mkdir(parents=True)
    (folder / "result.safetensors").write_bytes(b"x" * content)
    done = stage_cache.write_done(folder, step, {}, seconds=1.0, peak_memory_bytes=0)
    stage_cache.publish(folder, step, done, projects / ".cache")
    if run is None:
        import shutil

        shutil.rmtree(projects / ".made")
    return projects / ".cache" / step.stage / step.fingerprint


def add_data(projects, fingerprint="data", resolution=32):
    folder = projects / ".cache" / "data" / DATA
    folder.mkdir(parents=True)
    (folder / "train.images.npy").write_bytes(b"x" * 5000)
    (folder / "meta.json").write_text(json.dumps({"name": "digits", "resolution": resolution, "fingerprint": fingerprint}))
    return folder


def run_of(projects, *steps, name="foo", data="data"):
    """Make a run that was frozen for some steps."""
    table = "".join(f'"{step.id}" = "{step.fingerprint}"\n' for step in steps)
    frozen = f'[frozen]\ndata_fingerprint = "{data}"\nresolution = 32\n[frozen.steps]\n{table}'
    run = create_run(projects, name, frozen)
    run.exit.write_text(json.dumps({"t": time.time(), "returncode": 0, "pid": 1}))
    return run


@contextlib.contextmanager
def held(path):
    """Hold a lock in another process, as a run that computes does: its own process is not kept out by a lock."""
    code = "import sys, pathlib, engine.runs.liveness as it; lock = it.take_lock(pathlib.Path(sys.argv[1])); print(1, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    yield
    process.communicate(b"\n")


def by_name(projects):
    return {entry.name: entry for entry in list_entries(projects)}


class TestEntries:
    def test_an_empty_cache_has_none(self, projects, edc):
        assert list_entries(projects) == []
        assert edc("cache")[:2] == (0, "projects/.cache holds nothing yet; a run keeps there what it has finished\n")

    def test_know_who_refers_to_them_before_the_run_has_come_to_them(self, projects):
        add(projects, OBSERVER)
        add(projects, STUDENT)
        run = run_of(projects, OBSERVER)
        entries = by_name(projects)
        assert [user.id for user in entries["resnet18"].users] == [run.id]
        assert entries["condensed-resnet18-seed0"].users == ()
        assert [entry.removable for entry in entries.values()] == [False, True]

    def test_are_known_by_the_finished_steps_of_runs_without_a_list(self, projects):
        run = create_run(projects, "old", "[frozen]\n")
        add(projects, OBSERVER, run=run)
        assert [user.project for user in by_name(projects)["resnet18"].users] == ["old"]

    def test_a_broken_run_or_record_is_no_obstacle(self, projects):
        run = create_run(projects, "broken", "no toml")
        (run.stages / "1-squeeze" / "x").mkdir(parents=True)
        (run.stages / "1-squeeze" / "x" / "done.json").write_text("[1")
        folder = add(projects, OBSERVER)
        (folder / "done.json").write_text("{")
        (entry,) = list_entries(projects)
        assert (entry.name, entry.damaged, entry.users) == ("?", True, ())

    def test_bytes_count_once_what_has_several_links(self, projects):
        run = run_of(projects, OBSERVER)
        folder = add(projects, OBSERVER, run=run)
        (folder / "again").hardlink_to(folder / "result.safetensors")
        (entry,) = list_entries(projects)
        assert entry.bytes == 1000 + (folder / "done.json").stat().st_size
        assert total_bytes([entry]) == entry.bytes

    def test_only_what_nothing_else_links_is_freed(self, projects):
        run = run_of(projects, OBSERVER)
        add(projects, OBSERVER, run=run)
        add(projects, STUDENT)
        entries = by_name(projects)
        assert freed_bytes([entries["resnet18"]]) == 0
        assert freed_bytes(entries.values()) == entries["condensed-resnet18-seed0"].bytes

    def test_decoded_data_belong_to_the_runs_on_them(self, projects):
        add_data(projects)
        run = run_of(projects, name="foo")
        run_of(projects, name="bar", data="other")
        (entry,) = list_entries(projects)
        assert (entry.stage, entry.name, [user.id for user in entry.users]) == ("data", "digits 32 px", [run.id])

    def test_what_is_at_work_is_claimed(self, projects):
        add(projects, OBSERVER)
        with held(projects / ".cache" / "squeeze" / f"{OBSERVER.fingerprint}.lock"):
            assert by_name(projects)["resnet18"].claimed

    def test_looking_writes_nothing(self, projects, edc):
        add(projects, OBSERVER)
        run_of(projects, STUDENT)
        before = {path: path.stat().st_mtime_ns for path in projects.rglob("*")}
        edc("cache", "--all")
        edc("cache", "clean", "--dry-run")
        assert {path: path.stat().st_mtime_ns for path in projects.rglob("*")} == before


class TestCommand:
    @pytest.fixture
    def filled(self, projects):
        run = run_of(projects, OBSERVER, STUDENT)
        for step in (OBSERVER, STUDENT, OTHER):
            add(projects, step)
        return run

    def test_tells_stage_by_stage(self, edc, filled):
        lines = [line.split() for line in edc("cache")[1].splitlines()]
        assert lines[0] == ["stage", "entries", "size", "for", "runs", "unused", "newest", "oldest"]
        assert lines[1][:2] == ["squeeze", "1"]
        assert lines[2][:6] == ["evaluate", "2", *lines[2][2:4], "1", "1"]
        assert lines[-1][:5] == ["no", "run", "refers", "to", "1"]

    def test_tells_entry_by_entry_and_names_the_runs(self, edc, filled):
        out = edc("cache", "--all")[1].splitlines()
        assert f"foo/{filled.id}" in next(line for line in out if "resnet18-seed0" in line)
        assert next(line for line in out if "seed1" in line).endswith("none")

    def test_json(self, edc, filled):
        facts = json.loads(edc("cache", "--json")[1])
        assert facts["stages"]["evaluate"]["unused"] == 1
        assert [entry["runs"] for entry in facts["entries"]] == [[f"foo/{filled.id}"], [f"foo/{filled.id}"], []]
        assert facts["bytes"] == sum(entry["bytes"] for entry in facts["entries"])

    def test_clean_asks_and_nobody_to_ask_is_one_clear_line(self, edc, filled, projects):
        status, _, err = edc("cache", "clean")
        assert (status, err.count("\n")) == (2, 1)
        assert "needs a yes: give --yes" in err
        assert len(list_entries(projects)) == 3

    def test_clean_removes_what_no_run_refers_to_and_nothing_else(self, edc, filled, projects):
        status, out, _ = edc("cache", "clean", "--yes")
        assert (status, out.startswith("removed 1 entry, ")) == (0, True)
        assert set(by_name(projects)) == {"resnet18", "condensed-resnet18-seed0"}
        assert sorted(path.name for path in (projects / ".cache" / "evaluate").iterdir()) == [STUDENT.fingerprint]
        assert edc("cache", "clean", "--yes")[1] == "nothing in projects/.cache is without a run that refers to it\n"

    def test_clean_after_the_run_is_removed(self, edc, filled, projects):
        delete_run(filled)
        facts = json.loads(edc("cache", "clean", "--yes", "--json")[1])
        assert [entry["entry"] for entry in facts["entries"]] == [OBSERVER.name, STUDENT.name, OTHER.name]
        assert list_entries(projects) == []

    def test_the_projects_folder_may_be_given_before_or_after(self, edc, filled, projects, monkeypatch):
        monkeypatch.chdir("/")
        option = ["--projects", str(projects)]
        for words in (["cache", "clean", "--dry-run", *option], ["cache", *option, "clean", "--dry-run"]):
            assert "would remove 1 entry" in edc(*words)[1]


class TestCleaningWhileRunsAreAtWork:
    def test_what_is_being_computed_stays(self, projects):
        add(projects, OBSERVER)
        (entry,) = list_entries(projects)
        with held(projects / ".cache" / "squeeze" / f"{OBSERVER.fingerprint}.lock"):
            assert clean(projects, [entry]) == []
        assert len(list_entries(projects)) == 1

    def test_a_run_made_after_the_listing_keeps_what_it_needs(self, projects):
        add(projects, OBSERVER)
        (entry,) = list_entries(projects)
        run_of(projects, OBSERVER)
        assert clean(projects, [entry]) == []

    def test_decoded_data_stay_while_any_run_is_alive(self, projects):
        folder = add_data(projects)
        (entry,) = list_entries(projects)
        run = run_of(projects, data="other")
        run.exit.unlink()
        with take_lock(run.run_lock):
            assert clean(projects, [entry]) == []
        assert clean(projects, [entry]) == [entry]
        assert not folder.exists()

    def test_a_run_that_links_while_it_is_cleaned_computes_instead_of_failing(self, projects, tmp_path):
        """Reuse and removal of one entry, many times over, in two processes."""
        code = textwrap.dedent(
            """
            import shutil, sys
            from pathlib import Path
            from engine.project.plan import Step
            from engine.stages import cache as stage_cache

            cache, folder = Path(sys.argv[1]), Path(sys.argv[2])
            step = Step("squeeze", "resnet18", {}, {}, "a" * 32, {})
            for _ in range(60):
                shutil.rmtree(folder, ignore_errors=True)
                if stage_cache.reuse(folder, step, cache) is None:
                    with stage_cache.claimed(step, cache, stop_wanted=lambda: False, on_wait=lambda: None):
                        folder.mkdir(parents=True, exist_ok=True)
                        for name in "abcdef":
                            (folder / name).write_text(name)
                        stage_cache.publish(folder, step, stage_cache.write_done(folder, step, {}, seconds=1, peak_memory_bytes=0), cache)
                assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {*"abcdef", "done.json"}
            """
        )
        command = [sys.executable, "-c", code, str(projects / ".cache"), str(tmp_path / "mine")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ}, text=True)
        removed = 0
        while process.poll() is None:
            removed += len(clean(projects, list_entries(projects)))
        assert process.wait() == 0, process.stderr.read()
        assert removed > 5

    def test_leftovers_of_killed_processes_go_too(self, projects):
        folder = add(projects, OBSERVER)
        half = folder.with_name(f".{'e' * 32}.0a1b2c3d.tmp")
        claim = folder.with_name(f"{'e' * 32}.lock")
        living = folder.with_name(f"{'f' * 32}.lock")
        half.mkdir()
        claim.touch()
        run_of(projects, OBSERVER)
        with held(living):
            clean(projects, [])
            assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, living.name]


def test_the_command_loads_no_torch():
    code = "import sys, engine.commands.cache, engine.commands.sweep; print([name for name in ('torch', 'textual') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
