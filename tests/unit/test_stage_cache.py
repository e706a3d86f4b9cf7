"""The stage cache: finished steps are shared, damaged ones are not, and no two processes compute the same one at once."""

import errno
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from engine.errors import RunError, Stopped
from engine.project.plan import Step
from engine.runs.layout import Run
from engine.stages import cache as stage_cache

STEP = Step("squeeze", "resnet18", {"squeeze.epochs": 3}, {}, "f" * 32, {})


def worked(folder: Path, content: str = "weights") -> dict:
    """A folder as a stage leaves it, with done.json."""
    (folder / "png" / "0_cat").mkdir(parents=True)
    (folder / "observer.safetensors").write_text(content)
    (folder / "png" / "0_cat" / "0.png").write_text("picture")
    for unfinished in ("checkpoint.safetensors", "checkpoint.previous.safetensors", "progress.json", ".fingerprint", ".seconds"):
        (folder / unfinished).write_text("not for others")
    return stage_cache.write_done(folder, STEP, {"top1": 50.0}, seconds=1.23456, peak_memory_bytes=9)


class TestFinished:
    def test_a_finished_folder_tells_what_it_holds(self, tmp_path):
        done = worked(tmp_path / "a")
        assert stage_cache.finished(tmp_path / "a", STEP) == done
        assert done["result"] == {"top1": 50.0} and done["seconds"] == 1.235 and done["settings"] == STEP.settings
        assert {name: facts["bytes"] for name, facts in done["files"].items()} == {"observer.safetensors": 7, "png/0_cat/0.png": 7}

    def test_an_empty_or_missing_folder_is_not_finished(self, tmp_path):
        assert stage_cache.finished(tmp_path, STEP) is None
        assert stage_cache.finished(tmp_path / "nowhere", STEP) is None

    def test_another_fingerprint_is_not_finished(self, tmp_path):
        worked(tmp_path / "a")
        other = Step("squeeze", "resnet18", {}, {}, "0" * 32, {})
        assert stage_cache.finished(tmp_path / "a", other) is None

    def test_a_changed_byte_is_noticed_by_a_thorough_look_and_a_changed_size_by_any(self, tmp_path):
        done = worked(tmp_path / "a")
        file = tmp_path / "a" / "observer.safetensors"
        file.write_text("weightz")
        assert stage_cache.finished(tmp_path / "a", STEP) is None
        assert stage_cache.finished(tmp_path / "a", STEP, thorough=False) == done
        file.write_text("weight")
        assert stage_cache.finished(tmp_path / "a", STEP, thorough=False) is None
        file.unlink()
        assert stage_cache.finished(tmp_path / "a", STEP, thorough=False) is None

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"fingerprint": "' + "f" * 32 + '"}', "\x00\xff"])
    def test_a_damaged_record_is_not_finished(self, tmp_path, text):
        worked(tmp_path / "a")
        (tmp_path / "a" / "done.json").write_bytes(text.encode("latin-1"))
        assert stage_cache.finished(tmp_path / "a", STEP) is None


class TestSharing:
    @pytest.fixture
    def cache(self, tmp_path):
        """A cache that holds the step."""
        done = worked(tmp_path / "first")
        stage_cache.publish(tmp_path / "first", STEP, done, tmp_path / "cache")
        return tmp_path / "cache"

    def entry(self, cache):
        return cache / STEP.stage / STEP.fingerprint

    def test_a_published_step_is_reused_whole_and_without_what_is_unfinished(self, cache, tmp_path):
        done = stage_cache.reuse(tmp_path / "runs" / "second", STEP, cache)
        assert done["result"] == {"top1": 50.0}
        second = tmp_path / "runs" / "second"
        files = sorted(path.relative_to(second).as_posix() for path in second.rglob("*") if path.is_file())
        assert files == [stage_cache.REUSED, "done.json", "observer.safetensors", "png/0_cat/0.png"]
        assert stage_cache.finished(tmp_path / "runs" / "second", STEP) == done
        assert stage_cache.was_reused(second) and not stage_cache.was_reused(tmp_path / "first")

    def test_it_costs_no_second_copy(self, cache, tmp_path):
        stage_cache.reuse(tmp_path / "second", STEP, cache)
        folders = (tmp_path / "first", self.entry(cache), tmp_path / "second")
        assert len({(folder / "observer.safetensors").stat().st_ino for folder in folders}) == 1

    @pytest.mark.parametrize("refusal", [errno.EXDEV, errno.EPERM, errno.EMLINK])
    def test_where_links_are_impossible_files_are_copied(self, cache, tmp_path, monkeypatch, refusal):
        def refuse(self, target):
            raise OSError(refusal, "no links here")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        assert stage_cache.reuse(tmp_path / "second", STEP, cache) is not None
        file = tmp_path / "second" / "observer.safetensors"
        assert file.read_text() == "weights" and file.stat().st_ino != (self.entry(cache) / "observer.safetensors").stat().st_ino

    def test_a_full_disk_is_told_and_leaves_nothing_behind(self, cache, tmp_path, monkeypatch):
        def refuse(self, target):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        with pytest.raises(RunError, match="cannot write .*second: No space left"):
            stage_cache.reuse(tmp_path / "runs" / "second", STEP, cache)
        assert list((tmp_path / "runs").iterdir()) == []

    def test_what_killed_processes_have_left_beside_a_step_is_removed(self, cache, tmp_path):
        for name in (".second.0123abcd.tmp", ".second.0123abcd.old", ".secondary.0123abcd.tmp"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").touch()
        stage_cache.reuse(tmp_path / "second", STEP, cache)
        assert [path.name for path in tmp_path.glob(".*")] == [".secondary.0123abcd.tmp"]

    def test_a_step_cleaned_out_of_the_cache_while_it_is_linked_is_computed_instead(self, cache, tmp_path, monkeypatch):
        link = Path.hardlink_to

        def clean_first(self, target):
            if self.name == "done.json":
                shutil.rmtree(cache)
            link(self, target)

        monkeypatch.setattr(Path, "hardlink_to", clean_first)
        assert stage_cache.reuse(tmp_path / "second", STEP, cache) is None

    def test_a_step_that_is_not_there_is_not_reused(self, tmp_path):
        assert stage_cache.reuse(tmp_path / "second", STEP, tmp_path / "cache") is None
        assert not (tmp_path / "second").exists()

    def test_a_damaged_entry_is_not_used_and_the_next_finished_work_replaces_it(self, cache, tmp_path):
        damaged = self.entry(cache) / "observer.safetensors"
        damaged.unlink()
        damaged.write_text("weightz")
        assert stage_cache.reuse(tmp_path / "second", STEP, cache) is None
        assert not (tmp_path / "second").exists()
        stage_cache.publish(tmp_path / "third", STEP, worked(tmp_path / "third"), cache)
        assert stage_cache.reuse(tmp_path / "second", STEP, cache) is not None
        assert (tmp_path / "second" / "observer.safetensors").read_text() == "weights"

    def test_unfinished_work_in_a_runs_folder_gives_way(self, cache, tmp_path):
        (tmp_path / "second").mkdir()
        (tmp_path / "second" / "checkpoint.safetensors").write_text("half done")
        stage_cache.reuse(tmp_path / "second", STEP, cache)
        assert not (tmp_path / "second" / "checkpoint.safetensors").exists()
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    def test_what_is_published_already_is_left_alone(self, cache, tmp_path):
        before = (self.entry(cache) / "done.json").stat().st_ino
        stage_cache.publish(tmp_path / "again", STEP, worked(tmp_path / "again"), cache)
        assert (self.entry(cache) / "done.json").stat().st_ino == before


PROCESS = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from engine.project.plan import Step
    from engine.stages import cache as stage_cache

    cache, folder = Path(sys.argv[1]), Path(sys.argv[2])
    step = Step("squeeze", "resnet18", {}, {}, "f" * 32, {})
    with stage_cache.claimed(step, cache, stop_wanted=lambda: False, on_wait=lambda: print("waits", flush=True)):
        if stage_cache.reuse(folder, step, cache):
            print("reuses", flush=True)
        else:
            print("computes", flush=True)
            sys.stdin.readline()
            folder.mkdir()
            (folder / "observer.safetensors").write_text(folder.name)
            stage_cache.publish(folder, step, stage_cache.write_done(folder, step, {}, seconds=1, peak_memory_bytes=0), cache)
    """
)


class TestClaims:
    def start(self, tmp_path, name):
        command = [sys.executable, "-c", PROCESS, str(tmp_path / "cache"), str(tmp_path / name)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def test_of_two_processes_one_computes_and_the_other_waits_and_reuses(self, tmp_path):
        first = self.start(tmp_path, "first")
        assert first.stdout.readline() == "computes\n"
        second = self.start(tmp_path, "second")
        assert second.stdout.readline() == "waits\n"
        assert not (tmp_path / "second").exists()
        assert first.communicate("\n", timeout=30)[0] == "" and first.returncode == 0
        assert second.communicate(timeout=30)[0] == "reuses\n" and second.returncode == 0
        assert (tmp_path / "second" / "observer.safetensors").read_text() == "first"
        assert not (tmp_path / "cache" / "squeeze" / f"{'f' * 32}.lock").exists()

    def test_a_killed_process_holds_no_claim(self, tmp_path):
        first = self.start(tmp_path, "first")
        assert first.stdout.readline() == "computes\n"
        second = self.start(tmp_path, "second")
        assert second.stdout.readline() == "waits\n"
        first.kill()
        first.communicate()
        assert second.stdout.readline() == "computes\n"
        second.communicate("\n", timeout=30)
        assert (tmp_path / "second" / "done.json").exists()

    def test_a_stop_ends_the_waiting(self, tmp_path):
        first = self.start(tmp_path, "first")
        assert first.stdout.readline() == "computes\n"
        waits, began = [], time.monotonic()
        with pytest.raises(Stopped, match="squeeze/resnet18: stopped while another run computes it"):
            claim = stage_cache.claimed(
                STEP, tmp_path / "cache", stop_wanted=lambda: time.monotonic() > began + 0.5, on_wait=lambda: waits.append(1)
            )
            with claim:
                pytest.fail("the claim was not free")
        assert waits == [1]
        first.communicate("\n", timeout=30)

    def test_work_that_fails_frees_the_claim(self, tmp_path):
        def claim():
            return stage_cache.claimed(STEP, tmp_path, stop_wanted=lambda: True, on_wait=lambda: pytest.fail("still claimed"))

        with pytest.raises(RunError), claim():
            raise RunError("the disk is full")
        with claim():
            pass

    def test_a_lock_on_a_file_whose_name_is_gone_is_no_claim(self, tmp_path, monkeypatch):
        """The one before may end, and remove the name, between another's opening the file and its locking it."""
        import fcntl

        path = tmp_path / STEP.stage / f"{STEP.fingerprint}.lock"
        lockf, locked = fcntl.lockf, []

        def removing_first(handle, operation):
            if not locked:
                path.unlink()
            locked.append(handle.fileno())
            lockf(handle, operation)

        monkeypatch.setattr(fcntl, "lockf", removing_first)
        with stage_cache.claimed(STEP, tmp_path, stop_wanted=lambda: False, on_wait=lambda: None):
            assert path.exists() and len(locked) == 2

    def test_a_cache_that_cannot_be_written_fails_the_run(self, tmp_path):
        (tmp_path / "cache").write_text("a file where a folder should be")
        with pytest.raises(RunError, match="cannot write"), stage_cache.claimed(
            STEP, tmp_path / "cache", stop_wanted=lambda: False, on_wait=lambda: None
        ):
            pytest.fail("claimed nonetheless")


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        for file in "abc":
            (tmp_path / name / file).write_text(name)
    target = tmp_path / "target"
    stage_cache.link_folder(tmp_path / "old", target, ["a", "b", "c"])

    link = Path.hardlink_to
    monkeypatch.setattr(Path, "hardlink_to", lambda self, source: link(self, source) if self.name != "c" else self.joinpath("no").touch())
    with pytest.raises(RunError, match="cannot write"):
        stage_cache.link_folder(tmp_path / "new", target, ["a", "b", "c"])
    assert [file.read_text() for file in sorted(target.iterdir())] == ["old", "old", "old"]
    monkeypatch.undo()
    stage_cache.link_folder(tmp_path / "new", target, ["a", "b", "c"])
    assert [file.read_text() for file in sorted(target.iterdir())] == ["new", "new", "new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "target"]


def test_the_cache_lies_in_the_projects_folder(tmp_path):
    assert stage_cache.cache_folder(tmp_path) == tmp_path / ".cache"
    assert stage_cache.cache_of_run(Run(tmp_path / "foo" / "runs" / "1", "1", "foo")) == tmp_path / ".cache"


@pytest.mark.parametrize("folder", ["/copy", "/mnt/usb/copies/1"])
def test_a_run_that_was_copied_elsewhere_keeps_its_cache_to_itself(folder):
    assert stage_cache.cache_of_run(Run(Path(folder), "1", "foo")) == Path(folder) / ".cache"
