"""The recipes of the paper's Tables 1 and 2: one for every printed cell, resolvable without its data, and made by the generator."""

import runpy
from collections import Counter
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.models.registry import check_model
from engine.project.files import load_project
from engine.project.published import figures, held_against
from engine.project.resolve import flatten
from engine.project.sweep import chosen_points, missing_projects, read_sweep

PROJECTS = Path(__file__).parents[2] / "projects"
TABLES = {"table1": "table-1", "table2": "table-2"}


@pytest.fixture(scope="module")
def recipes():
    """For each table its points, each with its project completed and the figures that it is held against."""
    found = {}
    for name in TABLES:
        path = PROJECTS / f"{name}.toml"
        found[name] = []
        for point in read_sweep(path).points:
            project = load_project(path, swept=point.values).project
            found[name].append((point, project, [held.figure for held in held_against(flatten(project.model_dump()))]))
    return found


@pytest.mark.parametrize(("name", "table"), TABLES.items())
class TestEveryTable:
    def test_has_exactly_one_recipe_for_every_cell(self, name, table, recipes):
        cells = Counter(figure for _, _, held in recipes[name] for figure in held)
        assert cells == Counter(figure for figure in figures() if figure.table == table)

    def test_measures_in_a_recipe_the_students_that_the_table_prints(self, name, table, recipes):
        for point, project, held in recipes[name]:
            assert [figure.student for figure in held] == project.evaluate.students, point.name
            assert {figure.method for figure in held} == {project.condense.method}, point.name

    def test_names_its_published_figures(self, name, table, recipes):
        lines = (PROJECTS / f"{name}.toml").read_text()
        for point, project, held in recipes[name]:
            assert project.condense.published == [f"{table}/{project.condense.method}"]
            above = lines.split(f'name = "{point.name}"')[0].rsplit("\n\n", 1)[-1]
            assert all(figure.printed in above for figure in held), point.name

    def test_is_made_by_the_generator_to_the_byte(self, name, table):
        texts = runpy.run_path(str(PROJECTS / "make_tables.py"))["texts"]()
        assert texts[f"{name}.toml"].encode() == (PROJECTS / f"{name}.toml").read_bytes()

    def test_writes_projects_that_can_be_read_alone(self, name, table, tmp_path):
        path = tmp_path / f"{name}.toml"
        path.write_text((PROJECTS / path.name).read_text())
        sweep = chosen_points(read_sweep(path), ["*ipc10-edc"])
        for file, text in missing_projects(sweep).items():
            file.write_text(text)
            load_project(file)
        assert missing_projects(sweep) == {}


def test_students_have_the_learning_rates_that_the_papers_say(recipes):
    from engine.project.planner import learning_rate

    rates = {
        project.condense.method: {student: learning_rate(project, student) for student in project.evaluate.students}
        for _, project, _ in recipes["table2"]
    }
    assert {student: rate for student, rate in rates["edc"].items() if rate != 1e-3} == {"swin-tiny": 1e-4}
    others = {"mobilenet-v2": 2.5e-3, "efficientnet-b0": 2e-3, "deit-tiny": 1e-4, "swin-tiny": 1e-4}
    assert {student: rate for student, rate in rates["rded"].items() if rate != 1e-3} == others


def test_every_student_exists_at_small_and_large_sides(recipes):
    for student in {student for points in recipes.values() for _, project, _ in points for student in project.evaluate.students}:
        for side in (32, 64, 224):
            check_model(student, side)


class TestChoosingPoints:
    def test_takes_those_whose_names_match_any_pattern(self):
        sweep = read_sweep(PROJECTS / "table1.toml")
        chosen = chosen_points(sweep, ["cifar10-ipc1-*", "imagenet-1k-ipc50-edc"])
        assert [point.name for point in chosen.points] == ["cifar10-ipc1-rded", "cifar10-ipc1-edc", "imagenet-1k-ipc50-edc"]

    def test_knows_a_point_by_its_projects_name_too(self):
        sweep = read_sweep(PROJECTS / "table2.toml")
        assert [point.name for point in chosen_points(sweep, ["table2-ipc10-edc"]).points] == ["ipc10-edc"]
        assert len(chosen_points(read_sweep(PROJECTS / "table3-smoothing.toml"), ["zeta-2*"]).points) == 2

    def test_a_pattern_that_none_matches_is_refused_with_one_that_would(self):
        with pytest.raises(UserError, match=r"--only 'cifar10-ipc1-ecd': no point of .* cifar10-ipc1-edc is one"):
            chosen_points(read_sweep(PROJECTS / "table1.toml"), ["cifar10-ipc1-ecd"])
