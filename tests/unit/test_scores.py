"""The label-robust and augmentation-robust scores of DD-Ranking, by hand."""

import math
import statistics

import pytest

from engine.runs.scores import AS_RANDOM, NO_FULL, NO_HARD, NO_RANDOM, score, scores


def row(set_name, values, *, labels="online", augmentation=True, protocol="published", seeds=(0, 1), student="convnet-w32"):
    top1 = {"mean": statistics.fmean(values), "std": None, "n": len(values), "values": list(values)}
    return {
        "set": set_name,
        "student": student,
        "protocol": protocol,
        "labels": labels,
        "augmentation": augmentation,
        "seeds": list(seeds),
        "top1": top1,
    }


# Percent: hlr = .9 - .5 and .8 - .6, ior = .7 - .6 and .9 - .5; without augmentation .5 - .6 and .4 - .4.
ALL = [
    row("condensed", [70, 90]),
    row("random", [60, 50]),
    row("condensed", [50, 60], labels="hard"),
    row("random", [40, 40], labels="hard"),
    row("condensed", [50, 40], augmentation=False),
    row("random", [60, 40], augmentation=False),
    row("full", [90, 80], labels="hard"),
]


def by_hand(difference):
    return (math.exp(difference) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def test_as_good_as_random_without_a_gap_scores_0_269():
    assert pytest.approx((1 - 1 / math.e) / (math.e - 1 / math.e)) == AS_RANDOM == score(0)
    assert round(AS_RANDOM, 3) == 0.269
    equal = [row(name, [55, 65], labels=labels) for name, labels in (("condensed", "online"), ("random", "online"), ("condensed", "hard"))]
    (found,) = scores([*equal, row("full", [55, 65], labels="hard")])
    assert {at["mean"] for at in found["lrs"]["by_weight"].values()} == {round(AS_RANDOM, 5)}


def test_a_score_goes_from_0_to_1_over_all_that_fractions_can_differ():
    assert (score(-1), score(1)) == (pytest.approx(0), pytest.approx(1))


def test_the_label_robust_score_weighs_gain_over_random_against_the_gap_of_hard_labels():
    (found,) = scores(ALL)
    lrs = found["lrs"]
    assert (found["student"], found["protocol"], found["labels"], lrs["missing"]) == ("convnet-w32", "published", "online", [])
    assert lrs["hlr"] == {"mean": 0.3, "std": pytest.approx(statistics.stdev([0.4, 0.2]), abs=1e-5), "n": 2}
    assert lrs["ior"] == {"mean": 0.25, "std": pytest.approx(statistics.stdev([0.1, 0.4]), abs=1e-5), "n": 2}
    for weight in (0, 0.25, 0.5, 0.75, 1):
        values = [by_hand(weight * ior - (1 - weight) * hlr) for ior, hlr in ((0.1, 0.4), (0.4, 0.2))]
        at = lrs["by_weight"][f"{weight:g}"]
        assert (at["mean"], at["n"]) == (pytest.approx(statistics.fmean(values), abs=1e-5), 2)
        assert at["std"] == pytest.approx(statistics.stdev(values), abs=1e-5)


def test_the_augmentation_robust_score_weighs_the_gains_with_and_without():
    (found,) = scores(ALL)
    ars = found["ars"]
    assert (ars["augmented"]["mean"], ars["plain"]["mean"], ars["missing"]) == (0.25, -0.05, [])
    values = [by_hand(0.5 * 0.1 + 0.5 * -0.1), by_hand(0.5 * 0.4 + 0.5 * 0.0)]
    assert ars["by_weight"]["0.5"]["mean"] == pytest.approx(statistics.fmean(values), abs=1e-5)


def test_a_part_that_cannot_be_had_is_none_and_says_which_row_is_missing():
    (found,) = scores([one for one in ALL if one["set"] != "full" and one["augmentation"]])
    lrs, ars = found["lrs"], found["ars"]
    assert (lrs["hlr"], lrs["missing"]) == (None, [NO_FULL])
    assert lrs["by_weight"]["0.5"] is None and lrs["by_weight"]["0"] is None
    assert lrs["by_weight"]["1"]["mean"] == pytest.approx(statistics.fmean([by_hand(0.1), by_hand(0.4)]), abs=1e-5)  # needs no gap
    assert ars["plain"] is None and len(ars["missing"]) == 2 and all("without_augmentation" in sentence for sentence in ars["missing"])
    (alone,) = scores([row("condensed", [70, 90])])
    assert alone["lrs"]["missing"] == [NO_FULL, NO_HARD, NO_RANDOM]
    assert set(alone["lrs"]["by_weight"].values()) == set(alone["ars"]["by_weight"].values()) == {None}


def test_only_seeds_that_both_were_trained_with_are_paired():
    rows = [row("condensed", [70, 90, 80], seeds=(0, 1, 2)), row("random", [60, 50], seeds=(1, 5))]
    (found,) = scores(rows)
    assert found["lrs"]["ior"] == {"mean": 0.3, "std": None, "n": 1}


def test_without_a_common_seed_the_means_are_compared_and_nothing_is_said_of_their_spread():
    (found,) = scores([row("condensed", [70, 90]), row("random", [60, 50], seeds=(5, 6))])
    assert found["lrs"]["ior"] == {"mean": 0.25, "std": None, "n": 0}
    assert found["lrs"]["by_weight"]["1"] == {"mean": round(by_hand(0.25), 5), "std": None, "n": 0}


def test_the_whole_dataset_serves_both_protocols_and_all_else_stays_apart():
    common = [
        row("condensed", [60, 60], protocol="common"),
        row("random", [50, 50], protocol="common"),
        row("condensed", [70, 70], labels="hard", protocol="common"),
    ]
    published, other = scores([*ALL, *common])
    assert (published["protocol"], other["protocol"]) == ("published", "common")
    assert published["lrs"] == scores(ALL)[0]["lrs"]
    assert (other["lrs"]["hlr"]["mean"], other["lrs"]["ior"]["mean"]) == (0.15, 0.1)


def test_a_method_of_hard_labels_is_compared_under_them():
    (found,) = scores([row(name, [top1, top1], labels="hard") for name, top1 in (("condensed", 70), ("random", 60), ("full", 90))])
    assert (found["labels"], found["lrs"]["ior"]["mean"], found["lrs"]["hlr"]["mean"]) == ("hard", 0.1, 0.2)


def test_rows_of_older_runs_give_what_they_have():
    old = [{key: value for key, value in one.items() if key not in ("protocol", "labels", "augmentation")} for one in ALL[:2]]
    (found,) = scores(old)
    assert found["lrs"]["ior"]["mean"] == 0.25 and found["lrs"]["missing"] == [NO_FULL, NO_HARD]
