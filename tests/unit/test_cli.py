"""What `edc` says and does where nothing has to be computed: wrong input, plans, lists, help, and what it imports."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from PIL import Image

from engine.errors import UserError
from engine.runs.store import create_run

PROJECT = """\
schema = 1
title = "tiny"

[condense]
method = "random"
ipc = 2

[observers]
labels = ["convnet-w32"]

[evaluate]
hard_labels = false
controls = ["random"]
students = ["convnet-w32"]
seeds = [0, 1]
"""
SUMMARY = {
    "schema": 1,
    "status": "done",
    "dataset": "digits",
    "method": "random",
    "ipc": 2,
    "seed": 0,
    "device": "cpu",
    "precision": "float32",
    "stages": {"squeeze": {"status": "done", "seconds": 75.0, "reused": True, "peak_memory_bytes": 1 << 20, "steps": 1, "steps_done": 1}},
    "condensed": {"images": 20, "image_bytes": 15360, "label_bytes": 0, "folder": "stages/3-initialise/condensed"},
    "observers": {"convnet-w32": 97.5},
    "results": [
        {"set": "random", "student": "convnet-w32", "seeds": [0, 1], "top1": {"mean": 70.0, "std": 1.414, "values": [69.0, 71.0]}},
        {
            "set": "condensed",
            "student": "convnet-w32",
            "seeds": [0, 1],
            "top1": {"mean": 81.234, "std": 0.456, "values": [80.9, 81.6]},
            "over_random": {"mean": 11.25, "std": 0.92, "n": 2, "values": [11.9, 10.6]},
        },
    ],
}


@pytest.fixture
def project(tmp_path):
    path = tmp_path / "projects" / "tiny.toml"
    path.parent.mkdir()
    path.write_text(PROJECT)
    return path


def finished_run(tmp_path, name="tiny", summary=SUMMARY):
    """Write a run that says of itself and of its process that it is done."""
    run = create_run(tmp_path / "projects", name, "[condense]\nipc = 2\n")
    run.summary.write_text(json.dumps({**summary, "run": run.id, "project": name}))
    run.exit.write_text(json.dumps({"t": time.time(), "returncode": 0, "pid": 1}))
    return run


class TestWrongInputIsOneLineAndWritesNothing:
    @pytest.mark.parametrize(
        ("override", "says"),
        [
            ("evaluate.zta=1.5", ["--set evaluate.zta", "did you mean evaluate.zeta?"]),
            ("evalute.zeta=1.5", ["--set evalute.zeta", "did you mean evaluate?"]),
            ("evaluate.epochs=many", ["--set evaluate.epochs", "'many'", "a whole number"]),
            ("evaluate.schedule=cosin", ["--set evaluate.schedule", "did you mean cosine?"]),
            ("evaluate.zeta", ["--set evaluate.zeta", "section.key=value"]),
            ("condense.ipc=500", ["--set condense.ipc", "500 images per class", "at most"]),
            ("condense.method=edcc", ["--set condense.method", "did you mean edc?"]),
            ("evaluate.students=alexnet", ["--set evaluate.students", "128 px and more, not 16 px"]),
            ("observers.labels=convnet-d5", ["--set observers.labels", "at 16 px the depth can be at most 4"]),
            ("observers.labels=resnet19", ["--set observers.labels", "did you mean resnet18"]),
            ("dataset.name=cifar", ["--set dataset.name", "did you mean 'cifar10'?"]),
            ("dataset.name=cifar10", ["--set dataset.name", "not found", "edc datasets --fetch cifar10"]),
            ("dataset.name=folder", ["dataset.root"]),
            ("compute.device=gpu", ["--set compute.device", "use auto, cpu, cuda or cuda:N"]),
            ("compute.device=cuda:63", ["--set compute.device", "cuda:63 is not here"]),
        ],
    )
    def test_in_an_override(self, edc, project, override, says):
        status, out, err = edc("run", "tiny", "--set", override)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("edc: ")
        assert [word for word in says if word not in err] == []
        assert_untouched(project)

    @pytest.mark.parametrize(
        ("line", "wrong", "says"),
        [
            ("ipc = 2", "ipc = 500", "tiny.toml:6: condense.ipc: 500 images per class"),
            ("ipc = 2", 'ipc = "two"', "tiny.toml:6: condense.ipc: 'two' must be a whole number"),
            ("ipc = 2", "images = 2", "tiny.toml:6: condense.images: no such key"),
            ("[condense]", "[condence]", "condence.ipc: no such section; did you mean condense?"),
            ("[condense]", "[condense", "tiny.toml:4: not valid TOML"),
            ("schema = 1", "schema = 9", "tiny.toml:1: schema is 9; this version of edc reads schema = 1"),
            ("[condense]", '[dataset]\nname = "cifar10"\n[condense]', "tiny.toml:5: dataset.name: cifar10 not found"),
            ("[condense]", '[compute]\ndevice = "cuda:63"\n[condense]', "tiny.toml:5: compute.device: cuda:63 is not here"),
        ],
    )
    def test_in_the_file_names_file_and_line(self, edc, project, line, wrong, says):
        project.write_text(PROJECT.replace(line, wrong, 1))
        status, out, err = edc("run", "tiny")
        assert (status, out) == (2, "")
        assert f"edc: projects/{says}" in err or f" {says}" in err
        assert_untouched(project)

    def test_every_problem_has_its_line(self, edc, project):
        project.write_text(PROJECT.replace("ipc = 2", "ipc = 0").replace("seeds = [0, 1]", "seeds = [0, 1]\nepoch = 3"))
        status, _, err = edc("check", "tiny")
        assert status == 2
        assert sorted(line.split(": ")[1] for line in err.splitlines()) == ["projects/tiny.toml:16", "projects/tiny.toml:6"]

    def test_a_stage_that_does_not_exist(self, edc, project):
        assert edc("run", "tiny", "--until", "synthesize")[2] == "edc: --until: 'synthesize' is not a stage; did you mean synthesise?\n"
        assert_untouched(project)

    def test_a_damaged_image(self, edc, project, tmp_path):
        for split, name, count in [("train", "a", 3), ("train", "b", 3), ("test", "a", 1), ("test", "b", 1)]:
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), (number, 9, 9)).save(folder / f"{number}.png")
        damaged = tmp_path / "images" / "train" / "b" / "1.png"
        damaged.write_bytes(damaged.read_bytes()[:60])
        root = f"dataset.root={tmp_path / 'images'}"
        status, out, err = edc("run", "tiny", "--set", "dataset.name=folder", "--set", root)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "train/b/1.png" in err
        assert not (project.parent / "tiny").exists()
        assert not list((project.parent / ".cache" / "data").glob("*"))

    def test_a_second_project_that_is_wrong_keeps_the_first_from_starting(self, edc, project):
        (project.parent / "wrong.toml").write_text(PROJECT.replace("ipc = 2", "ipc = 0"))
        status, _, err = edc("run", "tiny", "wrong")
        assert (status, err.count("\n")) == (2, 1)
        assert_untouched(project)

    def test_a_project_that_is_not_there_names_the_nearest(self, edc, project):
        assert edc("run", "tine")[::2] == (2, "edc: projects/tine.toml: no such project file; did you mean projects/tiny.toml?\n")

    @pytest.mark.parametrize("words", [["runn", "tiny"], ["run"], ["run", "tiny", "--fast"], ["new", "x", "--ipc", "ten"]])
    def test_wrong_use(self, edc, words):
        status, out, err = edc(*words)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "--help" in err

    @pytest.mark.parametrize("words", [["show", "nothing"], ["stop", "nothing"], ["resume", "nothing"], ["remove", "nothing", "--yes"]])
    def test_a_run_that_is_not_there(self, edc, project, words):
        assert edc(*words)[::2] == (2, f"edc: no run or project nothing in {project.parent}; there are no runs yet\n")

    def test_a_projects_folder_that_is_not_there(self, edc):
        for words in (["list", "--projects", "nowhere"], ["--projects", "nowhere", "list"]):
            status, _, err = edc(*words)
            assert status == 2
            assert err.startswith("edc: --projects: there is no folder")


def assert_untouched(project):
    """Nothing lies beside the project but, at most, the memo of the data's fingerprint."""
    left = {str(path.relative_to(project.parent)) for path in project.parent.rglob("*")}
    assert left <= {"tiny.toml", "wrong.toml", ".cache", ".cache/fingerprints.json"}


class TestCheck:
    def test_lists_the_steps_and_what_deviates_from_the_method(self, edc, project):
        status, out, err = edc("check", "tiny", "--set", "evaluate.epochs=7")
        assert (status, err) == (0, "")
        assert [line.split() for line in out.splitlines() if line.startswith("squeeze")] == [
            ["squeeze", "convnet-w32", "11,980", "190", "to", "do"]
        ]
        assert "0 of 8 steps would be reused" in out
        assert ["evaluate.epochs", "7", "1000", "--set"] in [line.split() for line in out.splitlines()]
        assert ["evaluate.students", "convnet-w32", "resnet18", "project"] in [line.split() for line in out.splitlines()]
        assert "condense.ipc" not in out
        recipe, beside = out.index("differs from the method"), out.index("chosen beside the method")
        assert recipe < out.index("evaluate.epochs ") < beside < out.index("evaluate.students ")

    def test_trainings_that_differ_in_seed_student_or_set_are_one_line(self, edc, project):
        values = ["evaluate.hard_labels=true", "evaluate.seeds=0,1,2", "evaluate.students=convnet-w32,convnet-d1"]
        values += ["evaluate.controls=random,easy,herding,medium,noise"]
        out = edc("check", "tiny", *(word for value in values for word in ("--set", value)))[1]
        lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
        assert ["students convnet-w32, convnet-d1; 3 seeds (0, 1, 2)"] in lines
        words = [line for line in lines if any(cell.startswith(("online labels:", "hard labels:")) for cell in line)]
        assert [line[-4].partition(":")[2] for line in words] == [" condensed, random and 4 more", " condensed, random and 3 more"]
        assert [line[-3].split()[:2] for line in words] == [["36", "×"], ["30", "×"]]  # 6 and 5 sets, 2 students, 3 seeds
        assert ["random", "3 × 20", "3 × 15.0 KiB", "to do"] in lines

    def test_json_holds_the_same_and_every_value(self, edc, project):
        status, out, _ = edc("check", str(project), "--json")
        facts = json.loads(out)
        assert (status, facts["project"], facts["ipc"], facts["resumes"]) == (0, "tiny", 2, None)
        assert facts["dataset"] | {"fingerprint": ""} == {
            "name": "digits",
            "classes": 10,
            "resolution": 16,
            "train_images": 1198,
            "test_images": 599,
            "fingerprint": "",
        }
        assert [step["stage"] for step in facts["steps"]] == ["squeeze", *["initialise"] * 3, *["evaluate"] * 4]
        condensed = next(step for step in facts["steps"] if (step["stage"], step["step"]) == ("initialise", "condensed"))
        assert (condensed["images"], condensed["bytes"], condensed["reused"]) == (20, 20 * 3 * 16 * 16, False)
        assert facts["values"]["evaluate.seeds"] == [0, 1]

    def test_until_leaves_later_stages_out(self, edc, project):
        facts = json.loads(edc("check", "tiny", "--until", "initialise", "--json")[1])
        assert {step["stage"] for step in facts["steps"]} == {"initialise"}  # the observers would only label

    def test_the_projects_folder_may_come_from_the_environment(self, edc, project, monkeypatch, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        monkeypatch.setenv("EDC_PROJECTS", str(project.parent))
        assert edc("check", "tiny")[0] == 0

    def test_fits_a_narrow_terminal(self, edc, project, monkeypatch):
        monkeypatch.setenv("COLUMNS", "60")
        out = edc("check", "tiny", "--set", "evaluate.epochs=7")[1]
        tables = [line for line in out.splitlines() if line.startswith(("stage", "squeeze", "evaluate", "differs"))]
        assert max(map(len, tables)) <= 60


class TestNew:
    def test_writes_a_project_that_passes_check(self, edc, tmp_path):
        assert edc("new", "first", "--method", "random", "--ipc", "3")[0] == 0
        assert "ipc = 3" in (tmp_path / "projects" / "first.toml").read_text()
        assert edc("check", "first")[0] == 0

    def test_does_not_overwrite(self, edc, project):
        status, _, err = edc("new", "tiny")
        assert (status, project.read_text()) == (2, PROJECT)
        assert "projects/tiny.toml exists already" in err

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["a/b"], "NAME"),
            (["\x1b[2J"], "NAME"),
            (["x", "--dataset", "cifr10"], "did you mean cifar10?"),
            (["x", "--method", "edcc"], "--method: no method is called 'edcc'; did you mean edc?"),
            (["x", "--ipc", "0"], "--ipc: 0 must be at least 1"),
            (["x", "--dataset", "folder"], "--root"),
        ],
    )
    def test_refuses_what_does_not_exist_and_writes_nothing(self, edc, tmp_path, words, says):
        status, _, err = edc("new", *words)
        assert (status, err.count("\n")) == (2, 1)
        assert says in err
        assert "\x1b" not in err
        assert not (tmp_path / "projects").exists()


class TestListAndShow:
    def test_a_finished_run_has_its_accuracy(self, edc, tmp_path):
        run = finished_run(tmp_path)
        out = edc("list")[1].splitlines()
        assert out[0].split() == ["project", "run", "status", "method", "dataset", "ipc", "top-1", "%", "age"]
        assert out[1].split()[:9] == ["tiny", run.id, "done", "random", "digits", "2", "81.23", "±", "0.46"]

    @pytest.mark.parametrize("width", [80, 60, 40, 20])
    def test_nothing_wraps(self, edc, tmp_path, monkeypatch, width):
        finished_run(tmp_path, "a-project-with-a-long-name-indeed")
        monkeypatch.setenv("COLUMNS", str(width))
        out = edc("list")[1].splitlines()
        assert len(out) == 2
        assert max(map(len, out)) <= width

    def test_list_json_gives_status_and_best_accuracy(self, edc, tmp_path):
        finished_run(tmp_path)
        (facts,) = json.loads(edc("list", "--json")[1])
        assert (facts["status"], facts["top1"]["mean"], facts["problem"]) == ("done", 81.234, None)

    def test_show_holds_the_condensed_set_against_random(self, edc, tmp_path):
        run = finished_run(tmp_path)
        images = run.folder / "stages" / "3-initialise" / "condensed" / "images.safetensors"
        images.parent.mkdir(parents=True)
        images.touch()
        status, out, _ = edc("show", "tiny")
        lines = [line.split() for line in out.splitlines()]
        assert status == 0
        assert ["convnet-w32"] in lines
        assert ["condensed", "81.23", "±", "0.46", "+11.25", "±", "0.92", "2"] in lines
        assert ["random", "70.00", "±", "1.41", "2"] in lines
        assert ["squeeze", "1", "1", "min", "15", "s", "reused", "1.0", "MiB"] in lines
        assert ["observers", "convnet-w32", "97.50", "%"] in lines
        assert ["images", "20", "images,", "15.0", "KiB"] in lines
        assert str(images.relative_to(tmp_path)) in out

    def test_a_difference_over_fewer_seeds_than_the_result_says_so_and_the_best_on_test_and_updates_stand_beside(self, edc, tmp_path):
        random, condensed = SUMMARY["results"]
        over = {"mean": 11.9, "std": None, "n": 1, "values": [11.9]}
        more = {"over_random": over, "best_on_test": {"mean": 82.5, "std": 0.1, "n": 2}, "updates": 1200, "labels": "online"}
        finished_run(tmp_path, summary=SUMMARY | {"results": [random, condensed | more]})
        lines = [re.split(r"\s{2,}", line.strip()) for line in edc("show", "tiny")[1].splitlines()]
        assert ["trained on", "top-1 %", "over random", "best on test", "updates", "seeds"] in lines
        assert ["convnet-w32", "online labels"] in lines
        assert ["condensed", "81.23 ± 0.46", "+11.90 (n 1)", "82.50 ± 0.10", "1,200", "2"] in lines

    def test_a_score_has_its_deviation_and_number_of_seeds_and_its_parts_theirs(self, edc, tmp_path):
        parts = {"ior": {"mean": 0.02, "std": 0.005, "n": 3}, "hlr": {"mean": 0.2, "std": None, "n": 1}}
        by_weight = {f"{weight}": {"mean": 0.2 + weight / 10, "std": 0.01, "n": 3} for weight in (0, 0.25, 0.5, 0.75, 1)}
        score = {"student": "convnet-w32", "protocol": "published", "lrs": parts | {"by_weight": by_weight}, "ars": {}}
        finished_run(tmp_path, summary=SUMMARY | {"scores": [score], "bytes": {"teachers": 4 << 20}})
        out = edc("show", "tiny")[1]
        assert "0.250 ± 0.010 (n 3), 0.200 to 0.300 by its weight; over random +2.00 ± 0.50 points" in out
        assert "hard labels behind the whole dataset +20.00 points; as good as random is 0.269 (convnet-w32, published protocol)" in out
        assert re.search(r"teachers +4.0 MiB", out) and "ARS" not in out

    def test_show_json_is_the_summary_with_the_computed_status(self, edc, tmp_path):
        run = finished_run(tmp_path, summary={**SUMMARY, "status": "running"})
        facts = json.loads(edc("show", run.id[:15], "--json")[1])
        assert (facts["status"], facts["alive"], facts["run"], facts["results"]) == ("done", False, run.id, SUMMARY["results"])
        assert facts["reason"].startswith("finished at")

    def test_a_run_of_a_project_elsewhere_is_found_by_its_file(self, edc, tmp_path, monkeypatch):
        run = finished_run(tmp_path)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert json.loads(edc("show", "../projects/tiny.toml", "--json")[1])["run"] == run.id

    def test_foreign_text_cannot_steer_the_terminal_and_is_no_markup(self, edc, tmp_path):
        run = finished_run(tmp_path, summary={**SUMMARY, "method": "\x1b[31m[bold]red", "observers": {"a\x9b2Jb": 1.0}})
        run.folder.parents[1].rename(tmp_path / "projects" / "\x1b[2J[red]name")
        for words in (["list"], ["show", run.id]):
            out = edc(*words)[1]
            assert "[red]name" in out
            assert "[bold]red" in out
            assert not {"\x1b", "\x9b"} & set(out)

    def test_broken_files_are_told_and_break_nothing(self, edc, tmp_path):
        run = finished_run(tmp_path)
        run.summary.write_text("{")
        assert "summary.json is not valid JSON" in edc("list")[1]
        assert edc("show", "tiny")[0] == 0

    def test_a_summary_of_the_wrong_shape_breaks_nothing(self, edc, tmp_path):
        run = finished_run(tmp_path)
        keys = ["stages", "steps", "condensed", "observers", "results", "method", "ipc", "dataset", "seed"]
        for wrong in (None, 3, "text", [1], {"a": 1}, [{"top1": 3}], {"squeeze": {"seconds": "x", "status": "done"}}):
            run.summary.write_text(json.dumps(dict.fromkeys(keys, wrong)))
            assert edc("show", "tiny")[0] == 0
            assert edc("list")[0] == 0

    def test_an_empty_folder_says_what_to_do(self, edc, project):
        assert "edc new NAME" in edc("list")[1]


class TestRemove:
    def test_asks_before_it_deletes(self, edc, tmp_path, monkeypatch):
        run = finished_run(tmp_path)
        monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: PTH123, SIM115
        assert edc("remove", run.id)[::2] == (2, f"edc: removing {run.id} needs a yes: give --yes\n")
        assert run.folder.exists()

    def test_deletes_the_run_with_a_yes(self, edc, tmp_path):
        run = finished_run(tmp_path)
        assert edc("remove", run.id, "--yes")[0] == 0
        assert not run.folder.exists()

    def test_stop_and_resume_of_a_finished_run_change_nothing(self, edc, tmp_path):
        run = finished_run(tmp_path)
        assert f"run {run.id} was not at work, it is done" in edc("stop", run.id)[1]
        status, _, err = edc("resume", run.id)
        assert (status, "there is nothing to resume" in err) == (2, True)


class TestHelp:
    @pytest.mark.parametrize(
        "command", ["new", "check", "run", "list", "show", "tail", "stop", "resume", "remove", "methods", "datasets", "models"]
    )
    def test_every_command_explains_itself_with_an_example(self, edc, command):
        status, out, _ = edc(command, "--help")
        assert status == 0
        assert "Example" in out
        assert f"\n    edc {command}" in out

    def test_without_a_command_the_commands_are_listed(self, edc):
        status, out, _ = edc()
        assert status == 2
        assert "check" in out
        assert "..." not in out.split("Commands:")[1]


class TestImports:
    @pytest.mark.parametrize("module", ["engine", "engine.cli", "engine.project.plan", "engine.runs.process", "engine.commands.run"])
    def test_neither_torch_nor_textual_is_loaded_by(self, module):
        code = f"import sys, {module}; print([name for name in ('torch', 'textual', 'numpy') if name in sys.modules])"
        assert in_python(code) == "[]"

    def test_lists_and_plans_load_neither_torch_nor_textual(self, project, tmp_path):
        finished_run(tmp_path)
        for words in (["list"], ["show", "tiny"], ["check", "tiny"], ["models"]):
            code = f"""
import sys
from engine.cli import main
sys.argv = ["edc", *{words!r}]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print([name for name in ("torch", "textual") if name in sys.modules])
"""
            assert in_python(code, cwd=tmp_path).splitlines()[-1] == "[]"

    def test_a_reader_that_goes_away_is_no_error(self, tmp_path):
        finished_run(tmp_path)
        command = f"{sys.executable} -m engine.cli models | true; {sys.executable} -m engine.cli list | true"
        ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert ended.stderr == ""


class TestPublicInterface:
    def test_names_are_there_and_others_are_not(self):
        import engine

        assert engine.load_project.__module__ == "engine.project.files"
        assert set(engine.__all__) == {"CondensedDataset", "load_project", "open_run", "run"}
        with pytest.raises(AttributeError, match="no attribute 'condense'"):
            engine.condense  # noqa: B018

    def test_run_refuses_wrong_input_as_the_command_does(self, project):
        import engine

        with pytest.raises(UserError, match="did you mean evaluate.zeta"):
            engine.run(project, ["evaluate.zta=1"])
        assert_untouched(project)


def in_python(code, cwd=None):
    """Run code in a fresh interpreter and return what it printed."""
    ended = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()
