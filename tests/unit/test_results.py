"""What results are called, so that different tasks never share a row."""

import pytest

from engine.runs.compare import Facts, compare, measurements
from engine.runs.results import evaluation_words, headline, headlines, result_name, set_place

STUDENT = "net"


def row(set_name="condensed", labels="online", protocol="published", augmentation=True, values=(50.0, 52.0), student=STUDENT):
    return {
        "set": set_name,
        "student": student,
        "protocol": protocol,
        "labels": labels,
        "augmentation": augmentation,
        "seeds": list(range(len(values))),
        "top1": {"mean": sum(values) / len(values), "values": list(values)},
    }


def facts(*rows, run="r"):
    return Facts(run, "p", f"/{run}", "done", {"condense.seed": 0, "condense.method": run}, {"results": list(rows)})


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (row(), "condensed"),
        (row(labels="epoch-soft"), "condensed"),
        (row(labels="hard"), "condensed, hard labels"),
        (row(protocol="common"), "condensed, common protocol"),
        (row(labels="hard", protocol="common"), "condensed, hard labels, common protocol"),
        (row(augmentation=False), "condensed, no augmentation"),
        (row("full", labels="hard"), "full"),
        (row("full"), "full, online labels"),
        (row("equal-bytes", labels="hard", protocol="common"), "equal-bytes, common protocol"),
        ({"set": "random", "student": STUDENT}, "random"),
    ],
)
def test_a_name_says_what_differs_from_the_methods_own_evaluation(given, name):
    assert result_name(given) == name


def test_the_method_own_evaluation_comes_first_then_set_by_set():
    names = ["condensed, hard labels", "full", "noise", "random", "condensed", "random, hard labels"]
    assert sorted(names, key=set_place) == ["condensed", "random", "noise", "full", "condensed, hard labels", "random, hard labels"]


def test_a_set_headline_is_its_own_evaluation_and_hard_labels_only_where_there_is_no_other():
    rows = [row(labels="hard"), row(protocol="common"), row(), row("random", labels="hard")]
    assert headline(rows, "condensed") is rows[2]
    assert headline(rows, "random") is rows[3]
    assert headline(rows, "noise") is None
    assert headline("broken", "condensed") is None
    two = [row(student="a"), row(labels="hard", student="b")]
    assert headlines(two, "condensed") == two


def test_words_for_an_evaluation_name_its_labels_always():
    assert evaluation_words(row()) == "online labels"
    assert evaluation_words(row(labels="hard", protocol="common", augmentation=False)) == "hard labels, common protocol, no augmentation"
    assert evaluation_words({"set": "condensed"}) == ""


def test_a_run_with_several_evaluations_keeps_them_apart_each_beside_its_own_random_images():
    soft = [row(), row("random", values=(40.0, 40.0))]
    hard = [row(labels="hard", values=(30.0, 31.0)), row("random", "hard", values=(20.0, 20.0))]
    found = measurements(facts(*soft, *hard))
    assert found["condensed", STUDENT, "top1"] == {(0, 0): 50.0, (0, 1): 52.0}
    assert found["condensed, hard labels", STUDENT, "top1"] == {(0, 0): 30.0, (0, 1): 31.0}
    assert list(found["condensed", STUDENT, "over_random"].values()) == [10.0, 12.0]
    assert list(found["condensed, hard labels", STUDENT, "over_random"].values()) == [10.0, 11.0]


def test_runs_with_different_label_regimes_share_no_row():
    alike = compare([facts(row(), run="a"), facts(row(), run="b")])
    assert {line.name[0] for line in alike.rows if line.kind == "results"} == {"condensed"}
    unlike = compare([facts(row(), run="a"), facts(row(labels="epoch-soft"), run="b")])
    names = {line.name[0]: [cell is not None for cell in line.cells] for line in unlike.rows if line.name[-1] == "top1"}
    assert names == {"condensed, online labels": [True, False], "condensed, epoch-soft labels": [False, True]}
