"""Sweeps: the points of a grid or a list, the project files made of them, and the tables of the paper that ship as sweeps."""

import json
import time
import tomllib
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.project.files import load_project, read_values
from engine.project.published import figures, held_against
from engine.project.resolve import flatten
from engine.project.sweep import missing_projects, read_sweep
from engine.runs.store import create_run

PROJECTS = Path(__file__).parents[2] / "projects"
PROJECT = """\
# A project of ours.
schema = 1
title = "tiny"        # its title

[condense]
method = "random"
ipc = 2               # few

[observers]
labels = ["convnet-w32"]

[evaluate]
hard_labels = false
controls = ["random"]
students = ["convnet-w32"]
seeds = [0, 1]
"""


@pytest.fixture
def project(tmp_path):
    path = tmp_path / "projects" / "tiny.toml"
    path.parent.mkdir()
    path.write_text(PROJECT)
    return path


def swept(project, table):
    project.write_text(f"{PROJECT}\n[sweep]\n{table}\n")
    return project


def values_of(sweep):
    return [point.values for point in sweep.points]


def names_of(sweep):
    return [point.path.stem for point in sweep.points]


class TestOnTheCommandLine:
    def test_each_value_is_a_point(self, project):
        sweep = read_sweep(project, ["evaluate.zeta=1,1.5,2"])
        assert values_of(sweep) == [{"evaluate.zeta": 1}, {"evaluate.zeta": 1.5}, {"evaluate.zeta": 2}]
        assert names_of(sweep) == ["tiny-zeta-1", "tiny-zeta-1.5", "tiny-zeta-2"]

    def test_several_keys_make_a_grid_the_first_outermost(self, project):
        sweep = read_sweep(project, ["condense.ipc=1,5", "evaluate.randaugment=true,false"])
        pairs = [(one["condense.ipc"], one["evaluate.randaugment"]) for one in values_of(sweep)]
        assert pairs == [(1, True), (1, False), (5, True), (5, False)]
        assert names_of(sweep)[1] == "tiny-ipc-1-randaugment-false"

    def test_values_that_are_lists_stand_in_brackets(self, project):
        sweep = read_sweep(project, ["observers.labels=[convnet-w32,resnet18],[resnet18]", "labels.crop_scale=[0.08,1.0],[0.5,1.0]"])
        assert [one["observers.labels"] for one in values_of(sweep)[::2]] == [["convnet-w32", "resnet18"], ["resnet18"]]
        assert values_of(sweep)[0]["labels.crop_scale"] == [0.08, 1.0]
        assert names_of(sweep)[0] == "tiny-labels-convnet-w32+resnet18-crop_scale-0.08+1.0"
        assert values_of(read_sweep(project, ["observers.labels=convnet-w32,resnet18"])) == [
            {"observers.labels": ["convnet-w32"]},
            {"observers.labels": ["resnet18"]},
        ]

    def test_texts_need_no_quotes_and_may_have_them(self, project):
        methods = [one["condense.method"] for one in values_of(read_sweep(project, ["condense.method=edc,'random'"]))]
        assert methods == ["edc", "random"]
        assert values_of(read_sweep(project, ["title='a, b',c"])) == [{"title": "a, b"}, {"title": "c"}]

    def test_keys_of_one_name_keep_their_sections(self, project):
        sweep = read_sweep(project, ["augment.crop_scale=[0.1,1.0]", "labels.crop_scale=[0.2,1.0]"])
        assert names_of(sweep) == ["tiny-augment-crop_scale-0.1+1.0-labels-crop_scale-0.2+1.0"]
        assert names_of(read_sweep(project, ["dataset.name=digits"])) == ["tiny-dataset-digits"]

    def test_names_of_files_are_safe_short_and_never_the_same(self, project):
        sweep = read_sweep(project, ["dataset.root=../x/y,../x-y,/" + "long/" * 60])
        stems = names_of(sweep)
        assert len(set(stems)) == 3
        assert all("/" not in stem and not stem.endswith(".") and len(stem) < 80 for stem in stems)

    @pytest.mark.parametrize(
        ("over", "says"),
        [
            (["evaluate.zeta"], "must be section.key=value,value,…"),
            (["evaluate.zeta="], "must be section.key=value,value,…"),
            (["=1,2"], "must be section.key=value,value,…"),
            (["evaluate.zeta=1,,2"], "must be section.key=value,value,…"),
            (["evaluate.zeta=1,1.0"], "--over evaluate.zeta: 1.0 is listed twice"),
            ([], "tiny.toml: nothing to sweep over; give --over"),
        ],
    )
    def test_what_is_malformed_is_one_clear_line(self, project, over, says):
        with pytest.raises(UserError) as error:
            read_sweep(project, over)
        assert says in str(error.value) and "\n" not in str(error.value)


class TestInAFile:
    @pytest.mark.parametrize("key", ['"evaluate.zeta"', "evaluate.zeta"])
    def test_a_grid(self, project, key):
        assert values_of(read_sweep(swept(project, f"over = {{ {key} = [1, 1.5] }}"))) == [{"evaluate.zeta": 1}, {"evaluate.zeta": 1.5}]

    def test_lists_as_values(self, project):
        sweep = read_sweep(swept(project, 'over = { observers.labels = [["convnet-w32"], ["convnet-w32", "resnet18"]] }'))
        assert [one["observers.labels"] for one in values_of(sweep)] == [["convnet-w32"], ["convnet-w32", "resnet18"]]

    def test_a_list_of_points_that_set_different_keys(self, project):
        table = 'points = [{ name = "plain" }, { name = "ema", evaluate.ema = 0.9 }, { "evaluate.zeta" = 3.0, evaluate.epochs = 5 }]'
        sweep = read_sweep(swept(project, table))
        assert values_of(sweep) == [{}, {"evaluate.ema": 0.9}, {"evaluate.zeta": 3.0, "evaluate.epochs": 5}]
        assert names_of(sweep) == ["tiny-plain", "tiny-ema", "tiny-zeta-3.0-epochs-5"]
        assert [point.name for point in sweep.points] == ["plain", "ema", ""]

    def test_both_take_every_point_at_every_place_of_the_grid(self, project):
        table = 'over = { evaluate.zeta = [1, 2] }\n[[sweep.points]]\nname = "a"\n[[sweep.points]]\nname = "b"\nevaluate.ema = 0.5'
        assert names_of(read_sweep(swept(project, table))) == ["tiny-zeta-1-a", "tiny-zeta-1-b", "tiny-zeta-2-a", "tiny-zeta-2-b"]

    def test_the_command_line_replaces_a_keys_values_and_adds_keys(self, project):
        path = swept(project, "over = { evaluate.zeta = [1, 2, 3] }")
        sweep = read_sweep(path, ["evaluate.zeta=4", "condense.ipc=1,5"])
        assert values_of(sweep) == [{"evaluate.zeta": 4, "condense.ipc": 1}, {"evaluate.zeta": 4, "condense.ipc": 5}]

    def test_only_what_differs_is_shown(self, project):
        points = '{ title = "x", evaluate.zeta = 1, evaluate.ema = 0.5 }, { evaluate.zeta = 1, evaluate.ema = 0.9 }, { evaluate.zeta = 1 }'
        table = f"points = [{points}]"
        assert read_sweep(swept(project, table)).shown_keys == ["evaluate.ema"]

    @pytest.mark.parametrize(
        ("table", "says"),
        [
            ("over = 3", "over must list the values of each key"),
            ("over = { evaluate.zeta = 1 }", "over must list the values of each key"),
            ("over = { evaluate.zeta = [] }", "over must list the values of each key"),
            ("over = { evaluate.zeta = [1, 1] }", "evaluate.zeta: 1 is listed twice"),
            ("points = {}", "points must be a list of tables"),
            ("points = []", "points must be a list of tables"),
            ("points = [{ evaluate.zeta = 1 }, { evaluate.zeta = 1 }]", "is listed twice"),
            ('points = [{ name = "a" }, { name = "a", evaluate.zeta = 1 }]', "'a' is listed twice"),
            ('points = [{ name = "../x" }]', "must be a text of letters"),
            ('points = [{ name = "\\u001b[2J" }]', "must be a text of letters"),
            ("points = [{ name = 1 }]", "must be a text of letters"),
            ("over = { evaluate.zeta = [1] }\npoints = [{ evaluate.zeta = 2 }]", "is given by over and by a point"),
            ("grid = { }", "no such key 'grid'; [sweep] has: over, points"),
            ("", "nothing to sweep over; give --over"),
        ],
    )
    def test_what_is_malformed_is_one_clear_line(self, project, table, says):
        with pytest.raises(UserError) as error:
            read_sweep(swept(project, table))
        assert says in str(error.value) and "\n" not in str(error.value) and "\x1b" not in str(error.value)
        assert str(project) in str(error.value)

    def test_a_sweep_that_is_no_table(self, project):
        project.write_text("sweep = 3\n" + PROJECT)
        with pytest.raises(UserError, match="tiny.toml:1: sweep: must be a table"):
            read_sweep(project)

    def test_it_is_not_run_as_a_project(self, project, edc):
        swept(project, "over = { evaluate.zeta = [1, 2] }")
        for command in ("run", "check"):
            status, _, err = edc(command, "tiny")
            assert (status, err.count("\n")) == (2, 1)
            assert "projects/tiny.toml:18: [sweep] makes several projects of this file; `edc sweep tiny` runs them" in err


class TestProjectFiles:
    def test_keep_the_comments_of_the_base_and_change_nothing_but_the_values(self, project):
        texts = missing_projects(read_sweep(project, ["condense.ipc=1,5", "evaluate.zeta=1.5"]))
        text = texts[project.with_name("tiny-ipc-5-zeta-1.5.toml")]
        changed = PROJECT.replace("ipc = 2 ", "ipc = 5 ").replace("seeds = [0, 1]\n", "seeds = [0, 1]\nzeta = 1.5\n")
        assert text == "# Made by `edc sweep tiny` with condense.ipc = 5, evaluate.zeta = 1.5.\n" + changed

    @pytest.mark.parametrize(
        "table", ["over = { evaluate.zeta = [1, 2] }", "[[sweep.points]]\nevaluate.zeta = 1\n[[sweep.points]]\nevaluate.zeta = 2"]
    )
    def test_carry_no_table_of_the_sweep(self, project, table):
        texts = missing_projects(read_sweep(swept(project, table)))
        assert [tomllib.loads(text)["evaluate"]["zeta"] for text in texts.values()] == [1, 2]
        assert not any("sweep." in text or "[sweep" in text for text in texts.values())

    def test_that_are_there_with_the_same_values_are_taken(self, project):
        sweep = read_sweep(project, ["evaluate.zeta=1,2"])
        path, text = next(iter(missing_projects(sweep).items()))
        path.write_text("# my own words\n" + text.replace("# few", ""))
        assert list(missing_projects(sweep)) == [project.with_name("tiny-zeta-2.toml")]

    def test_that_are_there_with_other_values_are_never_overwritten(self, project, edc):
        other = project.with_name("tiny-zeta-1.toml")
        other.write_text(PROJECT)
        status, _, err = edc("sweep", "tiny", "--over", "evaluate.zeta=1,2")
        assert (status, err.count("\n"), other.read_text()) == (2, 1, PROJECT)
        assert "projects/tiny-zeta-1.toml: is another project than this sweep's: evaluate.zeta is not set there and 1 in this sweep" in err
        assert not project.with_name("tiny-zeta-2.toml").exists()


class TestWrongInput:
    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--over", "evaluate.zta=1,2"], "--over evaluate.zta: no such key; did you mean evaluate.zeta?"),
            (["--over", "evaluate.zeta=2,0.5"], "--over evaluate.zeta: 0.5 must be at least 1 (in tiny-zeta-0.5)"),
            (["--over", "condense.ipc=1,500"], "--over condense.ipc: 500 images per class"),
            (["--over", "evaluate.schedule=cosine,multistep", "--set", "evaluate.zeta=2"], "--set evaluate.zeta: 2.0 would have no effect"),
            (["--over", "evaluate.zeta=1,2", "--format", "xml"], "--format: 'xml' is not a format; choose one of"),
            (["--over", "evaluate.zeta=1,2", "--set", "evaluate.epochs=many"], "--set evaluate.epochs: 'many' must be a whole number"),
        ],
    )
    def test_is_one_line_found_before_anything_is_written(self, edc, project, words, says):
        status, out, err = edc("sweep", "tiny", *words)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"edc: {says}")
        left = {path.name for path in project.parent.iterdir()}
        assert left <= {"tiny.toml", ".cache"}

    def test_in_the_base_is_said_once_with_its_line(self, edc, project):
        project.write_text(PROJECT.replace("ipc = 2 ", "ipc = 0 "))
        assert edc("sweep", "tiny", "--over", "evaluate.zeta=1,2,3")[2] == "edc: projects/tiny.toml:7: condense.ipc: 0 must be at least 1\n"

    def test_in_a_file_names_the_table(self, edc, project):
        swept(project, "over = { evaluate.zeta = [0.5, 1] }")
        assert edc("sweep", "tiny")[2] == "edc: [sweep] evaluate.zeta: 0.5 must be at least 1 (in tiny-zeta-0.5)\n"


class TestDryRun:
    def test_shows_what_is_shared_and_writes_nothing(self, edc, project):
        status, out, err = edc("sweep", "tiny", "--over", "evaluate.zeta=1,2", "--dry-run")
        lines = [line.split() for line in out.splitlines()]
        assert (status, err) == (0, "")
        assert lines[0] == ["project", "zeta", "steps", "cached", "shared", "own"]
        assert lines[1] == ["tiny-zeta-1", "1", "8", "0", "0", "8", "to", "do"]
        assert lines[2] == ["tiny-zeta-2", "2", "8", "0", "4", "4", "to", "do"]
        assert out.splitlines()[-1] == "2 projects of 16 steps: 12 steps to compute, the rest is shared or cached"
        assert {path.name for path in project.parent.iterdir()} <= {"tiny.toml", ".cache"}

    def test_json(self, edc, project):
        facts = json.loads(edc("sweep", "tiny", "--over", "evaluate.zeta=1,2", "--dry-run", "--json")[1])
        assert [point["values"] for point in facts["points"]] == [{"evaluate.zeta": 1}, {"evaluate.zeta": 2}]
        assert facts["points"][1]["own"] == 4

    def test_csv_and_markdown_are_what_was_asked_for(self, edc, project):
        words = ("sweep", "tiny", "--over", "evaluate.zeta=1,2", "--dry-run", "--format")
        lines = edc(*words, "csv")[1].splitlines()
        assert lines[0] == "project,evaluate.zeta,steps,cached,shared,own,run,status"
        assert lines[1:] == ["tiny-zeta-1,1,8,0,0,8,,to do", "tiny-zeta-2,2,8,0,4,4,,to do"]
        lines = edc(*words, "markdown")[1].splitlines()
        assert lines[0] == "| project | zeta | steps | cached | shared | own | status |"
        assert lines[2:] == ["| tiny-zeta-1 | 1 | 8 | 0 | 0 | 8 | to do |", "| tiny-zeta-2 | 2 | 8 | 0 | 4 | 4 | to do |"]

    def test_two_steps_of_a_point_that_are_the_same_work_are_one_to_compute(self, edc, project, monkeypatch):
        # Of a method that optimises, the real images it starts from are those of the random control.
        project.write_text(PROJECT.replace('method = "random"', 'method = "edc"'))
        words = ("sweep", "tiny", "--over", "evaluate.zeta=1,2", "--dry-run", "--json")
        points = json.loads(edc(*words)[1])["points"]
        assert all(point["shared"] + point["own"] == point["steps"] for point in points)
        assert points[0]["shared"] == 1
        monkeypatch.setattr("engine.commands.request.in_cache", lambda step, cache: True)
        cached = json.loads(edc(*words)[1])["points"]
        assert [(point["cached"], point["shared"], point["own"]) for point in cached] == [(point["steps"], 0, 0) for point in points]


def done_run(project, name, zeta, top1):
    """Write a run as one of a point that is done, and return its id."""
    from engine.commands.request import make_request
    from engine.project.frozen import freeze

    request = make_request(project.with_name(f"{name}.toml"))
    run = create_run(project.parent, name, freeze(request.resolved, request.plan, until="evaluate"))
    gain = {"mean": 3.0, "std": 0.1, "n": 2}
    results = [
        {"set": "condensed", "student": "convnet-w32", "top1": {"mean": top1, "std": 0.5, "n": 2}, "over_random": gain},
        {"set": "random", "student": "convnet-w32", "top1": {"mean": top1 - 3, "std": 0.25, "n": 2}},
    ]
    steps = {
        "squeeze/a": {"status": "done", "seconds": 70.0, "reused": True},
        "evaluate/b": {"status": "done", "seconds": 5.0, "reused": False},
    }
    run.summary.write_text(json.dumps({"run": run.id, "select": "last", "steps": steps, "results": results}))
    run.exit.write_text(json.dumps({"t": time.time(), "returncode": 0, "pid": 1}))
    return run.id


class TestResults:
    @pytest.fixture
    def finished(self, project, edc):
        """A sweep whose points are all done: the ids of their runs."""
        for path, text in missing_projects(read_sweep(project, ["evaluate.zeta=1,2"])).items():
            path.write_text(text)
        return [done_run(project, "tiny-zeta-1", 1, 70.0), done_run(project, "tiny-zeta-2", 2, 75.25)]

    def test_points_that_are_done_are_not_run_again(self, edc, project, finished):
        status, out, _ = edc("sweep", "tiny", "--over", "evaluate.zeta=1,2")
        table = [line.split() for line in out.splitlines()[-3:]]
        assert status == 0
        assert table[0] == ["zeta", "condensed", "%", "random", "%", "over", "random", "%", "seconds", "run"]
        assert table[1] == ["1", "70.00", "±", "0.50", "67.00", "±", "0.25", "+3.00", "±", "0.10", "1", "min", "15", "s", finished[0]]
        assert table[2][1:4] == ["75.25", "±", "0.50"]
        assert len(list((project.parent / "tiny-zeta-1" / "runs").glob("2*"))) == 1

    def test_json(self, edc, project, finished):
        facts = json.loads(edc("sweep", "tiny", "--over", "evaluate.zeta=1,2", "--json")[1])
        (first, second) = facts["points"]
        assert (first["run"], first["status"], first["seconds"], first["computed_seconds"]) == (finished[0], "done", 75.0, 5.0)
        assert second["results"][0]["condensed"]["mean"] == 75.25

    def test_csv_has_every_number_in_a_column_of_its_own(self, edc, project, finished):
        import csv

        rows = list(csv.DictReader(edc("sweep", "tiny", "--over", "evaluate.zeta=1,2", "--format", "csv")[1].splitlines()))
        assert [row["evaluate.zeta"] for row in rows] == ["1", "2"]
        names = ("condensed", "condensed.std", "over_random", "run")
        assert [rows[1][name] for name in names] == ["75.25", "0.5", "3.0", finished[1]]

    def test_markdown(self, edc, project, finished):
        lines = edc("sweep", "tiny", "--over", "evaluate.zeta=1,2", "--format", "markdown")[1].splitlines()
        assert lines[0] == "| zeta | condensed % | random % | over random % | seconds | run |"
        assert lines[2].startswith("| 1 | 70.00 ± 0.50 | 67.00 ± 0.25 | +3.00 ± 0.10 | 1 min 15 s |")


PUBLISHED = {
    "table3-smoothing": ("table-3", [f"config-c-zeta-{zeta}" for zeta in ("1.0", "1.5", "2.0", "2.5", "3.0")]),
    "table3-choices": ("table-3", ["rded", "rded+zeta+batch", "g-vbsm+real", "g-vbsm+real+zeta", "g-vbsm+real+zeta+batch"]),
    "table4-flatness": ("table-4", None),
    "table5-matching": ("table-5", None),
}


class TestTablesOfThePaper:
    """Each point of a sweep that ships is held against its row of the table, in the table's order and with the table's students."""

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_every_point_is_a_row(self, name):
        table, rows = PUBLISHED[name]
        printed = [figure for figure in figures() if figure.table == table and (rows is None or figure.row in rows)]
        found = []
        for point in read_sweep(PROJECTS / f"{name}.toml").points:
            project = load_project(PROJECTS / f"{name}.toml", swept=point.values).project
            held = [one.figure for one in held_against(flatten(project.model_dump()))]
            assert [figure.student for figure in held] == project.evaluate.students
            found += held
        assert [(figure.row, figure.student, figure.top1) for figure in found] == [(one.row, one.student, one.top1) for one in printed]

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_its_files_hold_what_the_sweep_says(self, name, tmp_path):
        path = tmp_path / f"{name}.toml"
        path.write_text((PROJECTS / path.name).read_text())
        sweep = read_sweep(path)
        for file, text in missing_projects(sweep).items():
            file.write_text(text)
            load_project(file)
        assert missing_projects(sweep) == {}

    def test_the_published_figures_stand_in_the_comments(self):
        for name, (table, rows) in PUBLISHED.items():
            comment = "\n".join(line for line in (PROJECTS / f"{name}.toml").read_text().splitlines() if line.startswith("#"))
            for figure in figures():
                if figure.table == table and (rows is None or figure.row in rows):
                    assert str(figure.top1) in comment, (name, figure)


def test_a_swept_value_counts_as_the_projects_own(project):
    resolved = load_project(project, swept={"evaluate.zeta": 3.0})
    assert (resolved.project.evaluate.zeta, resolved.origins["evaluate.zeta"]) == (3.0, "project")
    assert read_values(project)[0].get("evaluate.zeta") is None
