"""The comparison of all methods (tests/bench/compare_methods.py): its projects are valid, its table and differences are right."""

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.project.checks import has_effect, value_of
from engine.project.files import load_project
from engine.project.resolve import layer_values, load_profile
from engine.project.schema import keys

sys.path.append(str(Path(__file__).parents[1] / "bench"))
bench = importlib.import_module("compare_methods")

RECIPE = Path(__file__).parents[2] / "projects" / "fashion-mnist-edc-ipc10.toml"
OBSERVERS = ["convnet-w32-bn", "resnet18-w16", "wrn-16-1"]


def written(folder, *, recipe="mixed", compat=False, **options):
    """Write every row's project and return the resolved projects by row, as `edc run` would read them."""
    asked = bench.Options(**options)
    base = bench.base_values(RECIPE, asked)
    common = bench.common_recipe(RECIPE, base)
    projects = {}
    for entry in bench.entries(recipe=recipe, compat=compat):
        path = folder / f"{entry.name}.toml"
        path.write_text(bench.project_text(entry, bench.project_values(entry, base, common, asked, compat=compat)))
        projects[entry.name] = load_project(path).project
    return projects


def evaluation(project):
    """Every key of a project's evaluation that has an effect, without what it is held against."""
    names = [name for name in keys() if name.partition(".")[0] in ("labels", "evaluate") and has_effect(project, name)]
    held_against = ("evaluate.controls", "evaluate.full_epochs", "evaluate.full_batch_size")
    return {name: value_of(project, name) for name in names if name not in held_against}


class TestTheProjectsOfTheMethods:
    def test_there_is_one_for_every_method_and_every_step_of_the_ladder(self, tmp_path):
        projects = written(tmp_path)
        assert list(projects) == ["random", "sre2l", "cda", "rded", "g-vbsm", "edc", *(f"config-{letter}" for letter in "abcdefg")]
        assert all(project.condense.method == name for name, project in projects.items())

    def test_all_have_the_same_data_observers_squeeze_statistics_and_epochs(self, tmp_path):
        recipe = load_project(RECIPE).project.squeeze
        for project in written(tmp_path, epochs=7, ipc=3, seeds=(4, 5)).values():
            assert project.observers.synthesis == project.observers.labels == OBSERVERS
            assert project.squeeze == recipe
            assert (project.dataset.name, project.condense.ipc, project.evaluate.epochs) == ("fashion-mnist", 3, 7)
            assert project.evaluate.seeds == [4, 5]
            assert project.evaluate.students == ["convnet-w32"]

    def test_methods_share_one_evaluation_and_the_ladder_keeps_its_own(self, tmp_path):
        projects = written(tmp_path)
        assert all(evaluation(projects[name]) == evaluation(projects["edc"]) for name in bench.METHODS)
        assert (projects["config-b"].evaluate.zeta, projects["config-c"].evaluate.zeta) == (1.0, 1.5)
        assert (projects["config-d"].evaluate.batch_size, projects["config-e"].evaluate.batch_size) == (100, 25)

    def test_a_common_evaluation_can_be_had_for_the_ladder_and_their_own_for_methods(self, tmp_path):
        common = written(tmp_path, recipe="common")
        assert all(evaluation(project) == evaluation(common["edc"]) for project in common.values())
        assert written(tmp_path, recipe="own")["sre2l"].evaluate.loss == "kl"

    def test_each_has_the_random_control_and_one_of_them_the_whole_dataset(self, tmp_path):
        controls = {name: project.evaluate.controls for name, project in written(tmp_path).items()}
        assert controls.pop("random") == ["random", "full"]
        assert all(names == ["random"] for names in controls.values())

    def test_iterations_are_limited_never_raised(self, tmp_path):
        own, limited = written(tmp_path), written(tmp_path, iterations=500)
        assert (own["edc"].synthesise.iterations, limited["edc"].synthesise.iterations) == (75, 75)
        assert (own["sre2l"].synthesise.iterations, limited["sre2l"].synthesise.iterations) == (1000, 500)

    def test_a_value_set_for_all_rows_is_left_out_where_it_has_no_effect(self, tmp_path):
        projects = written(tmp_path, overrides=("match.ema_start=zero", "match.weight=0.5"))
        assert {project.match.weight for project in projects.values()} == {0.5}
        assert projects["edc"].match.ema_start == "zero"
        assert "ema_start" not in (tmp_path / "sre2l.toml").read_text()

    def test_a_value_of_no_key_is_refused(self):
        with pytest.raises(UserError, match=r"match\.weight"):
            options = bench.Options(overrides=("match.wieght=1",))
            bench.project_values(bench.Entry("edc", "edc"), bench.base_values(RECIPE, options), {}, options, compat=False)

    def test_a_row_that_does_not_exist_is_refused(self):
        with pytest.raises(UserError, match="config-h: choose among random sre2l"):
            bench.entries(recipe="mixed", compat=False, only=["config-h"])


class TestTheProjectsOfTheDefects:
    def test_each_changes_just_its_keys(self, tmp_path):
        projects = {name: project.model_dump() for name, project in written(tmp_path, compat=True).items()}
        for name, changes in bench.DEFECTS.items():
            expected = tomllib.loads((tmp_path / "fixed.toml").read_text())
            for key, value in changes.items():
                section, _, leaf = key.partition(".")
                expected.setdefault(section, {})[leaf] = value
                assert projects["fixed"][section][leaf] != value or leaf in ("tau", "quality"), f"{name} changes nothing by {key}"
            found = tomllib.loads((tmp_path / f"{name}.toml").read_text())
            assert found | {"title": None} == expected | {"title": None}

    def test_together_they_are_what_the_profiles_set_on_this_dataset(self):
        single = {(key, str(value)) for changes in bench.DEFECTS.values() for key, value in changes.items()}
        for name in bench.PROFILES:
            values = layer_values(load_profile(name).layers, dataset="fashion-mnist", ipc=10, resolution=32)
            assert {(key, str(value)) for key, value in values.items()} <= single

    def test_fixed_is_run_whatever_is_asked_for(self):
        assert [entry.name for entry in bench.entries(recipe="mixed", compat=True, only=["D3"])] == ["fixed", "D3"]


def result(set_name, values, seeds=(0, 1, 2), updates=40):
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return {"set": set_name, "seeds": list(seeds), "updates": updates, "top1": {"mean": mean, "std": deviation, "values": list(values)}}


class TestTheTable:
    SUMMARY = {
        "steps": {"initialise/condensed": {"seconds": 1.5}, "synthesise/condensed": {"seconds": 60.0}},
        "results": [result("condensed", [60.0, 62.0, 67.0]), result("random", [58.0, 59.0, 60.0]), result("full", [90.0, 90.5, 91.0])],
    }

    def test_a_row_holds_the_method_against_its_control_seed_by_seed(self):
        row = bench.row_of(bench.Entry("edc", "edc", "common"), self.SUMMARY, bench.result_of(self.SUMMARY, "random"))
        # Differences 2, 3 and 7: mean 4, squared deviations 4 + 1 + 9 = 14, over n - 1 = 2 is 7, of which the root is 2.6458.
        assert row.difference["mean"] == 4.0
        assert row.difference["std"] == pytest.approx(2.6458, abs=1e-3)
        assert (row.top1["mean"], row.reference["mean"], row.seconds, row.updates) == (63.0, 59.0, 61.5, 40)

    def test_over_several_draws_of_starting_images_a_row_spreads_over_the_draws(self):
        entry, fixed = bench.Entry("D2", "edc"), result("condensed", [60.0, 60.0, 60.0])
        draws = [{**self.SUMMARY, "results": [result("condensed", values)]} for values in ([61.0, 62.0, 63.0], [66.0, 66.0, 66.0])]
        row = bench.over_draws([bench.row_of(entry, summary, fixed) for summary in draws])
        # Means of the draws 62 and 66: mean 64, squared deviations 4 + 4 over n - 1 = 1, of which the root is 2.8284; differences 2 and 6.
        assert (row.top1["mean"], row.top1["n"], row.difference["mean"], row.difference["n"]) == (64.0, 2, 4.0, 2)
        assert row.top1["std"] == row.difference["std"] == pytest.approx(2.8284, abs=1e-3)

    def test_a_draw_is_the_seed_of_the_condensed_set_and_leaves_those_of_students_alone(self, tmp_path):
        first, second = (written(tmp_path, compat=True, draw=draw)["D2"] for draw in (0, 3))
        assert (first.condense.seed, second.condense.seed) == (0, 3)
        assert first.evaluate == second.evaluate and first.squeeze == second.squeeze

    def test_it_is_aligned_and_ends_with_the_whole_dataset(self):
        rows = [bench.row_of(bench.Entry("edc", "edc", "common"), self.SUMMARY, bench.result_of(self.SUMMARY, "random"))]
        lines = bench.comparison([*rows, bench.full_row(self.SUMMARY)], compat=False, markdown=False).split("\n")
        assert lines == [
            "method  evaluation        top-1 %  random, same evaluation    difference  images made in  updates",
            "edc     common       63.00 ± 3.61             59.00 ± 1.00  +4.00 ± 2.65      1 min 02 s       40",
            "full    hard labels  90.50 ± 0.50                                                              40",
        ]

    def test_markdown_has_a_rule_below_the_header(self):
        assert bench.table(["a", "number"], [["x", "1"], ["long", "22"]], markdown=True).split("\n") == [
            "| a    | number |",
            "| ---- | -----: |",
            "| x    |      1 |",
            "| long |     22 |",
        ]


class TestWhatRowsShare:
    SQUEEZE = "squeeze/wrn-16-1"

    def steps(self, fingerprint, reused):
        return {self.SQUEEZE: bench.SharedStep(fingerprint, reused)}

    def test_a_step_that_one_row_computed_and_the_others_reused_is_shared(self):
        sentences, shared = bench.sharing({"edc": self.steps("f", False), "cda": self.steps("f", True), "rded": self.steps("f", True)})
        assert shared
        assert sentences == ["squeeze/wrn-16-1: computed by edc, reused by 2 of 3"]

    def test_two_rows_that_computed_it_did_not_share_it(self):
        assert not bench.sharing({"edc": self.steps("f", False), "cda": self.steps("f", False)})[1]

    def test_steps_of_different_fingerprints_are_not_shared(self):
        sentences, shared = bench.sharing({"edc": self.steps("f", False), "cda": self.steps("g", True)})
        assert not shared
        assert sentences[1] == "squeeze/wrn-16-1 (variant 2 of 2: cda): in the cache before, reused by 1 of 1"
