"""Run folders: created once, listed quickly, found by what a person types, removed safely."""

import json
import multiprocessing
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.errors import RunError, UserError
from engine.runs.liveness import take_lock
from engine.runs.store import (
    Run,
    all_runs,
    begin_lock,
    create_run,
    delete_run,
    find_projects_folder,
    find_run,
    latest_unfinished,
    list_runs,
    open_run,
    read_run_toml,
)
from engine.runs.text import printable, typed

TOML = '[project]\ntitle = "x"\n\n[frozen]\nproject_fingerprint = "abc"\n'


def make_run(projects, name, run_id, toml=TOML, **files):
    folder = projects / name / "runs" / run_id
    folder.mkdir(parents=True)
    if toml is not None:
        (folder / "run.toml").write_text(toml)
    for stem, value in files.items():
        (folder / f"{stem}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return Run(folder, run_id, name)


DONE = {"t": 1.0, "returncode": 0, "signal": None}
STOPPED = {"t": 1.0, "pid": 5, "returncode": 75, "signal": None}


def create_some(projects, count, queue):
    queue.put([create_run(projects, "foo", TOML).id for _ in range(count)])


def remove_all(runs, start, queue):
    start.wait()
    try:
        for run in runs:
            delete_run(run)
    except (UserError, RunError) as error:
        queue.put(str(error))
    else:
        queue.put(None)


class TestCreating:
    def test_a_run_holds_its_frozen_project(self, tmp_path):
        run = create_run(tmp_path, "foo", TOML)
        assert run.folder == tmp_path / "foo" / "runs" / run.id
        assert run.project == "foo"
        assert read_run_toml(run)["frozen"]["project_fingerprint"] == "abc"
        stamp = time.strptime(run.id[:15], "%Y%m%d-%H%M%S")
        assert abs(time.mktime(stamp) - time.mktime(time.gmtime())) < 60
        assert len(run.id) == len("20261122-153012-k3f9")

    def test_eight_processes_at_once_never_share_a_folder(self, tmp_path):
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        processes = [context.Process(target=create_some, args=(tmp_path, 25, queue)) for _ in range(8)]
        for process in processes:
            process.start()
        ids = [run_id for _ in processes for run_id in queue.get(timeout=10)]
        for process in processes:
            process.join()
        assert len(ids) == len(set(ids)) == 200
        assert all((tmp_path / "foo" / "runs" / run_id / "run.toml").read_text() == TOML for run_id in ids)

    def test_an_id_that_is_taken_is_not_used_again(self, tmp_path, monkeypatch):
        choices = iter("aa" "aa" "bb")
        monkeypatch.setattr("engine.runs.store.secrets.choice", lambda _: next(choices))
        monkeypatch.setattr("engine.runs.store.time.time", lambda: 1_795_361_412.5)
        made = [create_run(tmp_path, "foo", TOML).id for _ in range(2)]
        assert [run_id[:-2] for run_id in made] == ["20261122-153012-i2"] * 2  # 512/1024 of the second: the 17th and the first character
        assert [run_id[-2:] for run_id in made] == ["aa", "bb"]

    def test_runs_made_within_one_second_sort_in_the_order_of_their_making(self, tmp_path, monkeypatch):
        ids = []
        for thousandth in range(0, 1000, 2):
            monkeypatch.setattr("engine.runs.store.time.time", lambda now=1_795_361_412 + thousandth / 1000: now)
            ids.append(create_run(tmp_path, "foo", TOML).id)
        assert ids == sorted(ids)

    @pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\nb", "a\x1b[2J"])
    def test_names_that_cannot_be_folders_are_refused(self, tmp_path, name):
        with pytest.raises(UserError, match="project name") as caught:
            create_run(tmp_path, name, TOML)
        assert printable(caught.value) == str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_it_is_never_seen_without_its_frozen_project(self, tmp_path, monkeypatch):
        runs, seen = tmp_path / "foo" / "runs", []

        def looking(path, text):
            seen.extend(all_runs(tmp_path))
            raise KeyboardInterrupt

        monkeypatch.setattr("engine.runs.store.write_text", looking)
        with pytest.raises(KeyboardInterrupt):
            create_run(tmp_path, "foo", TOML)
        assert (seen, list(runs.iterdir())) == ([], [])

    def test_what_a_killed_process_had_begun_to_create_is_removed_after_an_hour(self, tmp_path):
        runs = tmp_path / "foo" / "runs"
        for name in ("old", "new"):
            (runs / f".new-{name}").mkdir(parents=True)
        os.utime(runs / ".new-old", (0, time.time() - 4000))
        create_run(tmp_path, "foo", TOML)
        assert [path.name for path in runs.glob(".*")] == [".new-new"]

    def test_a_file_in_the_way_is_one_clear_error(self, tmp_path):
        (tmp_path / "foo").write_text("")
        with pytest.raises(RunError, match="cannot create a run folder"):
            create_run(tmp_path, "foo", TOML)


class TestBeginning:
    def test_one_process_at_a_time_begins_with_a_project(self, tmp_path):
        code = (
            "import pathlib, sys; from engine.runs.store import begin_lock\n"
            "with begin_lock(pathlib.Path(sys.argv[1]), 'foo'): print('begins', flush=True); sys.stdin.read()"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
        processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **streams) for _ in range(2)]
        ready, _, _ = select.select([process.stdout for process in processes], [], [], 20)
        first, second = sorted(processes, key=lambda process: process.stdout is not ready[0])
        assert not select.select([second.stdout], [], [], 0.5)[0]
        assert [process.communicate()[0] for process in (first, second)] == [b"begins\n"] * 2
        with begin_lock(tmp_path, "foo"), begin_lock(tmp_path, "bar"):
            assert list_runs(tmp_path) == []

    def test_somebody_who_keeps_others_from_it_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr("engine.runs.store.BEGIN_SECONDS", 0.1)
        with begin_lock(tmp_path, "foo"), pytest.raises(RunError, match=f"foo: pid {os.getpid()} has been starting a run of it"):
            begin_lock(tmp_path, "foo")

    def test_a_project_whose_name_cannot_be_a_folders_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="project name"):
            begin_lock(tmp_path, "../x")


class TestListing:
    def test_newest_first_over_all_projects(self, tmp_path):
        make_run(tmp_path, "a", "20260101-000000-aaaa", exit=DONE)
        make_run(tmp_path, "b", "20260103-000000-aaaa", exit=DONE)
        make_run(tmp_path, "a", "20260102-000000-aaaa", exit=STOPPED)
        assert [(item.run.project, item.status.word) for item in list_runs(tmp_path)] == [("b", "done"), ("a", "stopped"), ("a", "done")]
        assert [item.run.project for item in list_runs(tmp_path, "a")] == ["a", "a"]

    def test_no_projects_folder_is_no_runs(self, tmp_path):
        assert list_runs(tmp_path / "missing") == []

    def test_two_hundred_runs_are_listed_within_300_ms(self, tmp_path):
        stages = {str(n): {"status": "done", "seconds": 1.0} for n in range(6)}
        summary = {"schema": 1, "stages": stages, "results": [{"values": [1.0] * 5}] * 6}
        for n in range(200):
            make_run(tmp_path, f"p{n % 10}", f"20260101-000{n:03d}-aaaa", summary=summary, exit=DONE, heartbeat={"t": 1.0})
        taken = []
        for _ in range(5):  # the quickest counts: on a busy machine others may be at work
            begun = time.perf_counter()
            listings = list_runs(tmp_path)
            taken.append(time.perf_counter() - begun)
        assert min(taken) < 0.3
        assert len(listings) == 200
        assert all(item.status.word == "done" and item.problem is None for item in listings)

    @pytest.mark.parametrize("stem", ["summary", "process", "exit", "heartbeat"])
    @pytest.mark.parametrize("content", ["", "{", "[]", "\0\0\0\0", "null", '{"t": []}', '{"worker": 3, "supervisor": [], "signal": ""}'])
    def test_a_broken_json_file_never_hides_a_run_or_the_others(self, tmp_path, stem, content):
        make_run(tmp_path, "foo", "20260101-000000-aaaa", exit=DONE)
        make_run(tmp_path, "foo", "20260102-000000-aaaa", **{stem: content})
        listings = list_runs(tmp_path)
        assert [item.run.id[7] for item in listings] == ["2", "1"]
        assert listings[0].status.reason
        if not content.startswith('{"'):
            told = f"{listings[0].problem} {listings[0].status.reason}"
            assert f"{stem}.json" in told or stem == "heartbeat"

    def test_a_broken_summary_is_told(self, tmp_path):
        make_run(tmp_path, "foo", "20260102-000000-aaaa", exit=DONE, summary="")
        (item,) = list_runs(tmp_path)
        assert (item.problem, item.summary, item.status.word) == ("summary.json is empty", {}, "done")

    def test_whether_a_resume_mends_what_is_broken_is_told(self, tmp_path):
        make_run(tmp_path, "foo", "20260102-000000-aaaa", exit=DONE, summary="")
        make_run(tmp_path, "foo", "20260101-000000-aaaa", toml="", exit=DONE)
        assert [(item.problem, item.mendable) for item in list_runs(tmp_path)] == [
            ("summary.json is empty", True),
            ("run.toml is empty", False),
        ]

    def test_a_run_that_waits_and_has_no_summary_yet_is_listed_with_what_was_asked_for(self, tmp_path):
        toml = '[dataset]\nname = "digits"\n[condense]\nmethod = "edc"\nipc = 3\nseed = 0\n[frozen]\ndevice = "cpu"\n'
        make_run(tmp_path, "foo", "20260101-000000-aaaa", toml=toml)
        (item,) = list_runs(tmp_path)
        assert (item.summary, item.problem) == ({"dataset": "digits", "method": "edc", "ipc": 3, "seed": 0, "device": "cpu"}, None)

    @pytest.mark.parametrize(("toml", "problem"), [("", "is empty"), ("a = ", "is not valid TOML"), (None, "is missing")])
    def test_a_broken_run_toml_is_told(self, tmp_path, toml, problem):
        make_run(tmp_path, "foo", "20260102-000000-aaaa", toml=toml, exit=DONE)
        (item,) = list_runs(tmp_path)
        assert item.problem.startswith(f"run.toml {problem}")

    def test_a_bare_folder_is_shown_as_broken_and_files_and_hidden_folders_are_not_runs(self, tmp_path):
        make_run(tmp_path, "foo", "20260102-000000-aaaa", toml=None)
        (tmp_path / "foo.toml").write_text("")
        (tmp_path / "foo" / "runs" / "note.txt").write_text("")
        (tmp_path / "foo" / "runs" / ".removing-x").mkdir()
        (tmp_path / ".cache" / "runs" / "x").mkdir(parents=True)
        assert [(item.run.id, item.problem) for item in list_runs(tmp_path)] == [("20260102-000000-aaaa", "run.toml is missing")]


class TestFinding:
    @pytest.fixture
    def projects(self, tmp_path):
        for name, run_id in [("foo", "20260101-000000-aaaa"), ("foo", "20260102-000000-bbbb"), ("bar", "20260103-000000-cccc")]:
            make_run(tmp_path, name, run_id)
        (tmp_path / "new.toml").write_text("schema = 1")
        return tmp_path

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("20260101-000000-aaaa", "20260101-000000-aaaa"),
            ("20260102", "20260102-000000-bbbb"),
            ("foo", "20260102-000000-bbbb"),
            ("projects/foo.toml", "20260102-000000-bbbb"),
            ("bar", "20260103-000000-cccc"),
        ],
    )
    def test_by_id_prefix_and_project(self, projects, text, found):
        assert find_run(projects, text).id == found

    def test_by_folder_also_far_from_any_projects(self, projects, tmp_path, monkeypatch):
        run = find_run(projects, "foo")
        assert find_run(projects, str(run.folder)) == run
        monkeypatch.chdir(run.folder)
        assert find_run(projects, ".").project == "foo"
        copy = tmp_path / "elsewhere" / "my copy"
        copy.mkdir(parents=True)
        (copy / "summary.json").write_text('{"project": "foo"}')
        assert find_run(projects, str(copy)).project == "foo"

    def test_by_the_folder_of_its_project_as_a_shell_completes_it(self, projects, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for text in (f"{projects}/foo/", "./foo", "foo/"):
            assert find_run(tmp_path / "other projects", text).id == "20260102-000000-bbbb"
        (projects / "new" / "runs").mkdir(parents=True)
        with pytest.raises(UserError, match="project new has no runs yet"):
            find_run(tmp_path, "new/")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("2026", "is the beginning of 3 runs: 20260103-000000-cccc, 20260102"),
            ("fooo", "did you mean foo?"),
            ("new", "has no runs yet; start one with `edc run new`"),
            ("\x1b[2Jqq", "no run or project \ufffd[2Jqq"),
            ("", "which run?"),
        ],
    )
    def test_what_cannot_be_found_names_what_is_near(self, projects, text, words):
        with pytest.raises(UserError) as caught:
            find_run(projects, text)
        assert words in str(caught.value)

    def test_a_folder_that_is_no_run_is_told(self, projects, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match="not a run folder"):
            find_run(projects, str(tmp_path / "empty"))
        with pytest.raises(UserError, match="not a run folder"):
            open_run(tmp_path / "empty")


class TestResuming:
    def test_the_newest_unfinished_run_of_the_same_project_is_found(self, tmp_path):
        make_run(tmp_path, "foo", "20260101-000000-aaaa", exit=STOPPED)
        wanted = make_run(tmp_path, "foo", "20260102-000000-aaaa", exit=STOPPED)
        make_run(tmp_path, "foo", "20260103-000000-aaaa", exit=DONE)
        make_run(tmp_path, "foo", "20260104-000000-aaaa", toml=TOML.replace("abc", "other"), exit=STOPPED)
        make_run(tmp_path, "foo", "20260105-000000-aaaa", toml="broken = ", exit=STOPPED)
        make_run(tmp_path, "foo", "20260106-000000-aaaa", toml="frozen = 3", exit=STOPPED)
        make_run(tmp_path, "bar", "20260107-000000-aaaa", exit=STOPPED)
        assert latest_unfinished(tmp_path, "foo", "abc").id == wanted.id
        assert latest_unfinished(tmp_path, "foo", "nothing") is None
        assert latest_unfinished(tmp_path, "missing", "abc") is None

    def test_a_run_that_is_alive_is_not_offered(self, tmp_path):
        run = make_run(tmp_path, "foo", "20260101-000000-aaaa")
        assert latest_unfinished(tmp_path, "foo", "abc") == run
        with take_lock(run.run_lock):
            assert latest_unfinished(tmp_path, "foo", "abc") is None


class TestDeleting:
    def test_a_finished_run_goes_with_everything_in_it(self, tmp_path):
        run = make_run(tmp_path, "foo", "20260101-000000-aaaa", exit=DONE)
        run.stage_folder(1, "squeeze", "resnet18").mkdir(parents=True)
        (run.stage_folder(1, "squeeze", "resnet18") / "x").write_text("x")
        delete_run(run)
        assert list((tmp_path / "foo" / "runs").iterdir()) == []

    def test_what_killed_removals_have_left_goes_with_the_next(self, tmp_path):
        run = make_run(tmp_path, "foo", "20260101-000000-aaaa", exit=DONE)
        (run.folder.parent / ".removing-20260101-000001-aaaa-012345").mkdir()
        delete_run(run)
        assert list(run.folder.parent.iterdir()) == []

    def test_processes_that_remove_the_same_runs_at_once_are_not_in_each_others_way(self, tmp_path):
        for turn in range(5):
            runs = [make_run(tmp_path, "foo", f"20260101-00000{number}-aaaa", exit=DONE) for number in range(3)]
            for run in runs:
                for number in range(40):
                    (run.stage_folder(1, "squeeze", str(number))).mkdir(parents=True)
            context = multiprocessing.get_context("fork")
            start, queue = context.Barrier(4), context.Queue()
            removers = [context.Process(target=remove_all, args=(runs[shift % 3 :] + runs, start, queue)) for shift in range(4)]
            for process in removers:
                process.start()
            errors = [queue.get(timeout=60) for _ in removers]
            for process in removers:
                process.join()
            assert (turn, errors) == (turn, [None] * 4)
            assert list((tmp_path / "foo" / "runs").iterdir()) == []

    def test_a_run_that_is_alive_stays(self, tmp_path):
        run = make_run(tmp_path, "foo", "20260101-000000-aaaa")
        with take_lock(run.run_lock), pytest.raises(UserError, match="stop it first"):
            delete_run(run)
        with take_lock(run.worker_lock), pytest.raises(UserError, match="stop it first"):
            delete_run(run)
        assert run.run_toml.exists()
        delete_run(run)
        assert not run.folder.exists()

    def test_a_folder_that_is_no_run_stays(self, tmp_path):
        run = make_run(tmp_path, "foo", "20260101-000000-aaaa")
        with pytest.raises(UserError, match="not a run folder"):
            delete_run(type(run)(tmp_path, tmp_path.name, "x"))
        assert run.folder.exists()


class TestProjectsFolder:
    def test_option_before_environment_before_working_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("EDC_PROJECTS", raising=False)
        assert find_projects_folder() == tmp_path / "projects"
        monkeypatch.setenv("EDC_PROJECTS", str(tmp_path / "env"))
        assert find_projects_folder() == tmp_path / "env"
        assert find_projects_folder(Path("option")) == tmp_path / "option"

    def test_what_is_no_folder_is_refused(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="--projects: .*is not a folder"):
            find_projects_folder(tmp_path / "file")
        monkeypatch.setenv("EDC_PROJECTS", str(tmp_path / "missing"))
        with pytest.raises(UserError, match=r"\$EDC_PROJECTS: there is no folder"):
            find_projects_folder(must_exist=True)


class TestPrintable:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("plain [bold]é日[/]", "plain [bold]é日[/]"),
            ("a\nb\r\n\tc", "a b c"),
            ("\x1b[2J\x07\x9b1m\x7f", "\ufffd[2J\ufffd\ufffd1m\ufffd"),
            ("\u202eevil\u2066\udc80", "\ufffdevil\ufffd\ufffd"),
            ("\u2028a\x85b", "a b"),
            (Path("x"), "x"),
        ],
    )
    def test_no_control_character_survives(self, text, shown):
        assert printable(text) == shown
        printable(text).encode()

    def test_a_word_of_a_command_is_quoted_where_a_shell_asks_for_it(self):
        assert [typed(word) for word in ("quickstart", "my set&1", "a\nb")] == ["quickstart", "'my set&1'", "'a b'"]

    def test_long_text_ends_in_an_ellipsis(self):
        assert printable("a" * 100, 10) == "a" * 9 + "…"
        assert printable("a" * 10, 10) == "a" * 10


def test_the_room_loads_none_of_the_heavy_libraries():
    code = (
        "import sys, engine.runs.store, engine.runs.process, engine.runs.events\n"
        "print([m for m in ('torch','textual','pydantic','rich','numpy','psutil') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
