"""Runs side by side: what differs, what is grouped, means and deviations worked out by hand, differences to a baseline."""

import json
import math
import tomllib

import pytest

from engine.commands.compare import said_spread
from engine.commands.tables import percent
from engine.errors import UserError
from engine.project.resolve import flatten as flatten_sections
from engine.project.resolve import resolve
from engine.runs.compare import (
    IDLE,
    MISSING,
    OVER_RANDOM,
    Facts,
    as_json,
    compare,
    difference,
    flatten,
    group_runs,
    measurements,
    published_gaps,
    read_facts,
)
from engine.runs.spread import Spread, spread
from engine.runs.store import create_run
from engine.stages.summary import spread_facts

NUMBER = iter(range(10**6))


def result(set_name, percents, student="net", **more):
    """A row of a summary's results: top-1 by training seed."""
    return {"set": set_name, "student": student, "seeds": list(percents), "top1": {"values": list(percents.values())}, **more}


def facts_of(*results, project="p", stages=None, condensed=None, **changed):
    """A run's facts: the values of a small project on digits, changed where a test says so, and its results."""
    given = {"condense.ipc": 1, "evaluate.students": ["convnet-w32"], "evaluate.seeds": [0, 1]}
    given |= {name.replace("__", "."): value for name, value in changed.items() if not name.startswith("frozen")}
    resolved, problems = resolve(given, resolution=16)
    assert problems == []
    values = {"title": project} | {
        name: value for name, value in flatten_sections(resolved.project.model_dump()).items() if value is not None
    }
    values |= {"frozen.device": "cpu", "frozen.commit": "abc", "frozen.resolution": 16}
    values |= {name.replace("__", "."): value for name, value in changed.items() if name.startswith("frozen")}
    run = f"20261122-120000-{next(NUMBER):04d}"
    summary = {"results": list(results), "stages": stages or {}, "condensed": condensed or {}}
    return Facts(run, project, f"/projects/{project}/runs/{run}", "done", values, summary)


def differing(comparison):
    """The keys in which runs differ, with their cells."""
    return {setting.key: setting.cells for setting in comparison.settings if setting.differs}


def row(comparison, *name):
    """The cells of a row."""
    (found,) = [each for each in comparison.rows if each.name == name]
    return found.cells


class TestFlattening:
    def test_tables_become_dotted_keys_and_empty_ones_stay(self):
        text = 'a = 1\n[b]\nc = []\nd = ""\n[f]\n[frozen.versions]\ntorch = "2"\n'
        assert flatten(tomllib.loads(text)) == {"a": 1, "b.c": [], "b.d": "", "f": {}, "frozen.versions.torch": "2"}

    def test_a_table_that_is_the_value_of_a_key_stays_whole(self):
        assert flatten({"evaluate": {"rates": {"net-0.5": 1.0}}}) == {"evaluate.rates": {"net-0.5": 1.0}}

    def test_a_key_with_a_dot_of_its_own_is_told_from_a_table(self):
        assert flatten({"frozen": {"a.b": 1, "a": {"b": 2}}}) == {'frozen."a.b"': 1, "frozen.a.b": 2}


class TestSettings:
    def test_only_those_that_differ_are_marked(self):
        comparison = compare([facts_of(), facts_of(evaluate__epochs=7)])
        assert differing(comparison) == {"evaluate.epochs": ((1000,), (7,))}
        assert len(comparison.settings) > 100

    def test_titles_places_and_machines_are_not(self):
        other = facts_of(project="q", compute__threads=3, compute__checkpoint_seconds=1.0, dataset__root="/data", frozen__commit="def")
        comparison = compare([facts_of(), other])
        assert differing(comparison) == {}
        assert {"title", "compute.threads", "frozen.commit"} <= {setting.key for setting in comparison.settings}

    def test_the_device_and_the_data_of_the_run_are(self):
        assert set(differing(compare([facts_of(), facts_of(frozen__device="cuda")]))) == {"frozen.device"}
        assert set(differing(compare([facts_of(), facts_of(frozen__data_fingerprint="x")]))) == {"frozen.data_fingerprint"}

    def test_a_missing_key_is_not_an_empty_one(self):
        without, empty = facts_of(), facts_of(evaluate__controls=[])
        del without.values["evaluate.controls"]
        assert differing(compare([without, empty]))["evaluate.controls"] == (MISSING, ([],))

    def test_a_key_without_effect_is_idle(self):
        comparison = compare([facts_of(evaluate__loss="kl"), facts_of(evaluate__loss="mse_ce")])
        assert differing(comparison)["evaluate.temperature"] == ((20.0,), IDLE)
        assert differing(comparison)["evaluate.ce_weight"] == (IDLE, (0.025,))

    def test_a_run_that_optimises_nothing_is_not_compared_in_how_that_is_done(self):
        comparison = compare([facts_of(), facts_of(synthesise__enabled=False), facts_of(synthesise__iterations=5)])
        assert set(differing(comparison)) == {"synthesise.enabled", "synthesise.iterations"}

    def test_a_run_toml_of_another_version_is_compared_as_it_is(self):
        old = facts_of()
        old.values["evaluate.zeta"] = "two"
        assert differing(compare([old, facts_of()]))["evaluate.zeta"] == (("two",), (2.0,))


class TestGrouping:
    def test_runs_that_differ_in_seeds_alone_share_a_column(self):
        runs = [facts_of(), facts_of(condense__seed=1), facts_of(evaluate__seeds=[5]), facts_of(evaluate__zeta=1.5), facts_of(project="q")]
        assert [[facts.run for facts in group.runs] for group in group_runs(runs)] == [
            [runs[0].run, runs[1].run, runs[2].run, runs[4].run],
            [runs[3].run],
        ]

    def test_a_column_says_all_its_values(self):
        group = group_runs([facts_of(condense__seed=2), facts_of(condense__seed=1), facts_of(condense__seed=2)])[0]
        assert group.values["condense.seed"] == (1, 2)
        assert group.values["evaluate.zeta"] == (2.0,)

    def test_seeds_that_are_the_same_in_every_column_do_not_differ(self):
        runs = [facts_of(condense__seed=seed, evaluate__zeta=zeta) for seed, zeta in ((0, 1.0), (1, 1.0), (1, 2.0), (0, 2.0))]
        assert set(differing(compare(runs))) == {"evaluate.zeta"}

    def test_mean_and_deviation_go_over_all_seeds(self):
        runs = [facts_of(result("condensed", {0: 80.0, 1: 82.0})), facts_of(result("condensed", {0: 84.0, 1: 90.0}), condense__seed=1)]
        (cell,) = row(compare(runs), "condensed", "net", "top1")
        # mean 84, squared deviations 16 + 4 + 0 + 36 = 56 over 3
        assert cell.value == Spread(84.0, pytest.approx(math.sqrt(56 / 3)), 4)

    def test_a_repeated_measurement_counts_once(self):
        runs = [facts_of(result("condensed", {0: 80.0, 1: 82.0})), facts_of(result("condensed", {0: 80.0, 1: 82.0, 2: 87.0}))]
        (cell,) = row(compare(runs), "condensed", "net", "top1")
        assert (cell.value.mean, cell.value.n) == (83.0, 3)

    def test_a_control_that_runs_share_counts_once(self):
        runs = [facts_of(result("random", {0: 70.0, 1: 72.0}), condense__seed=seed) for seed in (0, 1)]
        (cell,) = row(compare(runs), "random", "net", "top1")
        assert cell.value == Spread(71.0, pytest.approx(math.sqrt(2)), 2)

    def test_runs_that_say_different_things_of_the_same_seeds_stay_apart(self):
        runs = [
            facts_of(result("condensed", {0: 80.0})),
            facts_of(result("condensed", {0: 80.5})),
            facts_of(result("condensed", {1: 81.0})),
        ]
        groups = group_runs(runs)
        assert [len(group.runs) for group in groups] == [2, 1]
        assert differing(compare(runs)) == {}

    def test_a_run_named_twice_stands_there_once(self):
        facts = facts_of()
        assert len(compare([facts, facts], baseline=facts).groups[0].runs) == 1

    def test_labels_tell_columns_apart(self):
        one, other, third = facts_of(project="a"), facts_of(project="a", condense__seed=1), facts_of(project="b", evaluate__zeta=1.5)
        assert [group.label for group in group_runs([one, other, third])] == ["a +1", "b"]
        same = [one, facts_of(project="a", evaluate__zeta=1.0), third]
        assert [group.label for group in group_runs(same)] == [f"a/{one.run[-4:]}", f"a/{same[1].run[-4:]}", "b"]


class TestResults:
    def test_the_gain_over_random_is_paired_by_training_seed(self):
        facts = facts_of(result("condensed", {0: 80.0, 1: 83.0, 2: 90.0}), result("random", {1: 80.0, 0: 79.0}), condense__seed=4)
        assert measurements(facts)["condensed", "net", OVER_RANDOM] == {(4, 0): 1.0, (4, 1): 3.0}

    def test_each_student_set_and_metric_has_a_row_the_headline_first(self):
        more = {"top5": {"values": [99.0]}, "best_on_test": {"values": [81.0]}}
        results = [
            result("full", {0: 95.0}),
            result("random", {0: 70.0}, top5={"values": [98.0]}),
            result("condensed", {0: 80.0}, **more),
            result("condensed", {0: 60.0}, "other"),
        ]
        assert [each.name for each in compare([facts_of(*results)]).rows] == [
            ("condensed", "net", "top1"),
            ("condensed", "net", "over_random"),
            ("condensed", "net", "top5"),
            ("condensed", "net", "best_on_test"),
            ("random", "net", "top1"),
            ("random", "net", "top5"),
            ("full", "net", "top1"),
            ("condensed", "other", "top1"),
        ]

    def test_a_single_value_has_no_deviation(self):
        assert spread([3.0]) == Spread(3.0, None, 1)

    def test_a_run_is_said_to_have_the_same_deviation_here_and_by_show(self):
        # The deviation of the first is 5.24464: 5.245 in three digits, and 5.24 in two. The mean of the second is half a hundredth.
        for percents in ([70.0055648303, 59.5993322204, 63.6616583194], [67.11, 67.12], [100 / 3, 200 / 3, 100 / 7]):
            summary = {"results": [result("condensed", dict(enumerate(percents))) | {"top1": spread_facts(percents)}]}
            read_again = Facts("r", "p", "/p/r", "done", {}, json.loads(json.dumps(summary)))
            (row,) = (row for row in compare([read_again]).rows if row.name[2] == "top1")
            shown = summary["results"][0]["top1"]
            assert said_spread(row.cells[0].value) == percent(shown)
            assert row.cells[0].value.as_json().items() <= shown.items()
        assert percent(spread_facts([70.0055648303, 59.5993322204, 63.6616583194])) == "64.42 ± 5.24"

    @pytest.mark.parametrize(
        "broken",
        [
            "text",
            [3, None],
            [{"set": "condensed", "student": "net", "seeds": [0, 1], "top1": {"values": [80.0]}}],
            [{"set": "condensed", "student": "net", "seeds": 3, "top1": {"values": [80.0]}}],
            [{"set": "condensed", "student": "net", "seeds": [[0]], "top1": {"values": [80.0]}}],
            [{"set": "condensed", "student": "net", "seeds": [0], "top1": {"values": ["NaN"]}}],
            [{"set": "condensed", "student": "net", "seeds": [0], "top1": 80.0}],
        ],
    )
    def test_a_summary_of_any_shape_is_read_without_what_is_no_result(self, broken):
        facts = facts_of()
        facts.summary["results"] = broken
        assert measurements(facts) == {}
        assert [each for each in compare([facts]).rows if each.kind == "results"] == []


class TestABaseline:
    def test_comes_first_also_when_it_is_not_among_the_runs(self):
        runs = [facts_of(project="a"), facts_of(project="b", evaluate__zeta=1.5)]
        base = facts_of(project="base", evaluate__zeta=1.0)
        comparison = compare(runs, baseline=base)
        assert comparison.baseline
        assert [group.label for group in comparison.groups] == ["base", "a", "b"]
        assert [group.label for group in compare(runs, baseline=runs[1]).groups] == ["b", "a"]
        assert not compare(runs).baseline

    def test_differences_are_signed_and_their_deviation_is_that_of_pairs(self):
        runs = [
            facts_of(result("condensed", {0: 80.0, 1: 82.0, 2: 87.0})),
            facts_of(result("condensed", {0: 79.0, 1: 84.0, 2: 88.0}), evaluate__zeta=1.5),
        ]
        base, other = row(compare(runs, baseline=runs[0]), "condensed", "net", "top1")
        assert base.delta is None
        # -1, 2, 1: mean 2/3, squared deviations 25/9 + 16/9 + 1/9 = 42/9 over 2
        assert other.delta == Spread(pytest.approx(2 / 3), pytest.approx(math.sqrt(42 / 18)), 3)

    def test_only_shared_seeds_are_paired(self):
        assert difference({(0, 0): 5.0, (0, 1): 9.0}, {(0, 1): 6.0, (0, 2): 1.0}) == Spread(3.0, None, 1)

    def test_without_shared_seeds_means_are_subtracted_and_no_deviation_is_claimed(self):
        assert difference({(0, 0): 5.0, (0, 1): 7.0}, {(1, 0): 3.0}) == Spread(3.0, None, 0)

    def test_the_condensed_set_of_another_seed_is_another_pair_and_a_control_is_not(self):
        sets = result("condensed", {0: 80.0}), result("random", {0: 70.0})
        runs = [facts_of(*sets), facts_of(*sets, condense__seed=1, evaluate__zeta=1.5)]
        comparison = compare(runs, baseline=runs[0])
        assert row(comparison, "condensed", "net", "top1")[1].delta.n == 0
        assert row(comparison, "random", "net", "top1")[1].delta.n == 1

    def test_a_column_without_the_measurement_has_no_cell(self):
        runs = [facts_of(result("condensed", {0: 80.0})), facts_of(evaluate__zeta=1.5)]
        assert row(compare(runs, baseline=runs[1]), "condensed", "net", "top1")[0] is None
        assert row(compare(runs, baseline=runs[1]), "condensed", "net", "top1")[1].delta is None


class TestTheBest:
    def bests(self, comparison, *name):
        return [cell.best if cell else None for cell in row(comparison, *name)]

    def test_is_the_highest_accuracy_of_condensed_sets_and_no_control(self):
        runs = [
            facts_of(result("condensed", {0: percent}), result("random", {0: percent - 10}), evaluate__zeta=zeta)
            for percent, zeta in ((80.0, 1.0), (82.0, 1.5), (82.0, 2.0))
        ]
        comparison = compare([*runs, facts_of(evaluate__zeta=3.0)])
        assert self.bests(comparison, "condensed", "net", "top1") == [False, True, True, None]
        assert self.bests(comparison, "random", "net", "top1") == [False, False, False, None]
        assert {each.name: each.better for each in comparison.rows} == {
            ("condensed", "net", "top1"): "up",
            ("condensed", "net", "over_random"): "up",
            ("random", "net", "top1"): None,
        }

    def test_is_the_fewest_seconds_and_bytes(self):
        runs = [
            facts_of(
                evaluate__zeta=zeta,
                stages={"squeeze": {"status": "done", "seconds": took, "peak_memory_bytes": int(took)}},
                condensed={"image_bytes": 100, "label_bytes": int(took) * 10},
            )
            for took, zeta in ((5.0, 1.0), (3.0, 1.5))
        ]
        comparison = compare(runs)
        for name in (("squeeze",), ("total",), ("labels",), ("peak_memory",)):
            assert self.bests(comparison, *name) == [False, True], name
        assert self.bests(comparison, "images") == [False, False]

    def test_is_nobody_alone(self):
        assert self.bests(compare([facts_of(result("condensed", {0: 80.0}))]), "condensed", "net", "top1") == [False]


class TestCosts:
    STAGES = {
        "squeeze": {"status": "done", "seconds": 4.0, "peak_memory_bytes": 10},
        "evaluate": {"status": "running", "seconds": 2.0, "peak_memory_bytes": 30},
    }

    def test_only_finished_stages_count_and_only_a_finished_run_has_a_total(self):
        done = {name: {**stage, "status": "done"} for name, stage in self.STAGES.items()}
        comparison = compare([facts_of(stages=self.STAGES), facts_of(stages=done, evaluate__zeta=1.5)])
        assert row(comparison, "evaluate")[0] is None
        assert [cell and cell.value.mean for cell in row(comparison, "total")] == [None, 6.0]
        assert [cell.value.mean for cell in row(comparison, "peak_memory")] == [30.0, 30.0]

    def test_stages_stand_in_their_order_whichever_run_has_them(self):
        runs = [
            facts_of(stages={"evaluate": self.STAGES["squeeze"]}),
            facts_of(stages={"squeeze": self.STAGES["squeeze"]}, evaluate__zeta=1.5),
        ]
        assert [each.name for each in compare(runs).rows if each.kind == "seconds"] == [("squeeze",), ("evaluate",), ("total",)]

    def test_a_group_has_the_mean_of_its_runs_and_a_difference_of_means(self):
        def run(took, **changed):
            return facts_of(stages={"squeeze": {"status": "done", "seconds": took}}, **changed)

        runs = [run(2.0), run(4.0, condense__seed=1), run(10.0, evaluate__zeta=1.5)]
        first, second = row(compare(runs, baseline=runs[0]), "squeeze")
        assert first.value == Spread(3.0, pytest.approx(math.sqrt(2)), 2)
        assert second.delta == Spread(7.0, None, 0)


class TestPublishedFigures:
    def run(self, top1, **changed):
        changed = {"dataset__name": "cifar10", "condense__ipc": 10, "evaluate__students": ["resnet18"]} | changed
        return facts_of(result("condensed", top1, "resnet18"), frozen__resolution=32, **changed)

    def test_a_gap_is_the_measured_mean_minus_the_printed_one(self):
        (gap,) = published_gaps(group_runs([self.run({0: 78.0, 1: 79.0})]))
        assert (gap.figure.name, gap.figure.top1, gap.named) == ("table-1/edc", 79.1, False)
        assert gap.gap == pytest.approx(78.5 - 79.1)

    def test_a_column_of_several_seeds_has_one_gap(self):
        (gap,) = published_gaps(group_runs([self.run({0: 78.0}), self.run({0: 80.0}, condense__seed=1)]))
        assert gap.measured == Spread(79.0, pytest.approx(math.sqrt(2)), 2)

    def test_it_says_which_settings_depart_from_the_method(self):
        assert published_gaps(group_runs([self.run({0: 78.0}, evaluate__epochs=5)]))[0].changed == ("evaluate.epochs",)

    def test_there_is_none_for_what_was_not_measured(self):
        assert published_gaps(group_runs([facts_of(dataset__name="cifar10", condense__ipc=10, evaluate__students=["resnet18"])])) == []


class TestJson:
    def test_it_is_plain_and_whole(self):
        runs = [facts_of(result("condensed", {0: 80.0, 1: 82.0})), facts_of(result("condensed", {0: 79.0, 1: 84.0}), evaluate__loss="kl")]
        runs[0].values.pop("evaluate.every")
        value = json.loads(json.dumps(as_json(compare(runs, baseline=runs[0])), allow_nan=False))
        first, second = value["columns"]
        assert first["baseline"] and not second["baseline"]
        assert first["settings"]["evaluate.loss"] == "mse_ce"
        assert "evaluate.every" not in first["settings"] and second["settings"]["evaluate.every"] == 0
        assert first["unused"] == ["evaluate.temperature", "evaluate.temperature_squared"]
        assert second["results"] == [
            {
                "set": "condensed",
                "student": "net",
                "metric": "top1",
                "mean": 81.5,
                "std": 3.535534,
                "n": 2,
                "delta": {"mean": 0.5, "std": 2.12132, "n": 2},
                "best": True,
            }
        ]

    def test_every_setting_is_told_when_asked_for_and_several_values_are_told_apart_from_a_list(self):
        runs = [facts_of(), facts_of(condense__seed=1)]
        (column,) = as_json(compare(runs), every=True)["columns"]
        assert column["settings"]["condense.seed"] == {"each": [0, 1]}
        assert column["settings"]["evaluate.seeds"] == [0, 1]
        assert as_json(compare(runs))["columns"][0]["settings"] == {}


class TestReadingRuns:
    def test_a_run_without_results_is_read(self, tmp_path):
        run = create_run(tmp_path, "p", "[condense]\nipc = 2\n")
        facts = read_facts(run)
        assert (facts.run, facts.project, facts.values, facts.summary) == (run.id, "p", {"condense.ipc": 2}, {})
        assert facts.status == "queued"

    def test_a_broken_summary_counts_as_none_and_a_broken_run_toml_is_refused(self, tmp_path):
        run = create_run(tmp_path, "p", "[condense]\nipc = 2\n")
        run.summary.write_text("{")
        assert read_facts(run).summary == {}
        run.run_toml.write_text("ipc = ")
        with pytest.raises(UserError, match=f"run {run.id}: run.toml is not valid TOML"):
            read_facts(run)
