"""How long steps will take, by what like steps took before."""

import pytest
import tomlkit

from engine.files import write_json
from engine.runs.estimates import PastWork, estimate, past_work, work_of
from engine.runs.store import create_run

PROJECT = {
    "condense.ipc": 10,
    "squeeze.epochs": 4,
    "squeeze.batch_size": 64,
    "synthesise.iterations": 200,
    "observers.synthesis": ["a", "b"],
    "observers.labels": ["a"],
    "labels.mode": "online",
    "evaluate.epochs": 300,
    "evaluate.batch_size": 10,
    "evaluate.loss": "mse_ce",
    "evaluate.full_epochs": 5,
    "initialise.source": "real",
}
FACTS = {"data": "d1", "classes": 10, "resolution": 16, "device": "cpu", "precision": "float32"}


def told(name, **more):
    """Return what a plan tells of a student's training called `<set>-<student>-seed<n>`."""
    set_name, _, rest = name.partition("-")
    labels = "hard" if set_name == "full" else "online"
    return {"set": set_name, "student": rest.rpartition("-seed")[0], "protocol": "published", "labels": labels} | more


def work(stage, name, facts=None, *, labels=None, protocol=None, views=None, **values):
    changes = {name.replace("__", "."): value for name, value in values.items()}
    more = {key: value for key, value in {"labels": labels, "protocol": protocol, "views": views}.items() if value is not None}
    return work_of(stage, name, PROJECT | changes, FACTS | (facts or {}), told(name, **more) if stage == "evaluate" else {})


def past(seconds, stage, name, facts=None, **values):
    return PastWork(work(stage, name, facts, **values), seconds)


def test_there_is_no_estimate_without_a_past():
    assert estimate(work("squeeze", "a"), []) is None


def test_the_same_work_takes_as_long_as_it_did():
    assert estimate(work("squeeze", "a"), [past(8.0, "squeeze", "a")]) == 8.0


def test_squeezing_takes_time_in_proportion_to_its_epochs():
    assert estimate(work("squeeze", "a", squeeze__epochs=12), [past(8.0, "squeeze", "a")]) == pytest.approx(24.0)


@pytest.mark.parametrize("facts", [{"device": "cuda"}, {"precision": "bfloat16"}, {"resolution": 32}, {"data": "d2"}])
def test_nothing_is_taken_from_another_device_precision_resolution_or_other_images(facts):
    assert estimate(work("squeeze", "a"), [past(8.0, "squeeze", "a", facts)]) is None


def test_another_network_is_not_like_this_one():
    assert estimate(work("squeeze", "a"), [past(8.0, "squeeze", "b")]) is None


def test_synthesis_scales_with_iterations_and_images():
    seen = [past(10.0, "synthesise", "condensed")]
    assert estimate(work("synthesise", "condensed", synthesise__iterations=400, condense__ipc=20), seen) == pytest.approx(40.0)


def test_synthesis_with_another_loss_or_other_observers_is_another_work():
    seen = [past(10.0, "synthesise", "condensed")]
    assert estimate(work("synthesise", "condensed", flatness__kind="sam"), seen) is None
    assert estimate(work("synthesise", "condensed", observers__synthesis=["a"]), seen) is None


def test_a_student_takes_as_long_on_random_images_as_on_condensed_ones():
    assert estimate(work("evaluate", "condensed-net-seed0"), [past(6.0, "evaluate", "random-net-seed3")]) == 6.0


def test_another_student_is_not_like_this_one():
    assert estimate(work("evaluate", "condensed-net-2-seed0"), [past(6.0, "evaluate", "condensed-net-seed0")]) is None


def test_training_on_all_images_has_its_own_past():
    seen = [past(6.0, "evaluate", "condensed-net-seed0"), past(90.0, "evaluate", "full-net-seed0", evaluate__full_epochs=10)]
    assert estimate(work("evaluate", "full-net-seed1"), seen) == pytest.approx(45.0)


def test_asking_observers_takes_other_time_than_reading_stored_labels():
    seen = [past(6.0, "evaluate", "condensed-net-seed0")]
    assert estimate(work("evaluate", "condensed-net-seed0", labels="epoch-soft"), seen) is None
    assert estimate(work("evaluate", "condensed-net-seed0", labels="hard"), seen) is None
    assert estimate(work("evaluate", "condensed-net-seed0", observers__labels=["b"]), seen) is None


def test_the_common_protocol_has_its_own_teacher_and_epochs():
    common = {"protocol": "common", "evaluate__common_teacher": "a", "evaluate__common_epochs": 600}
    assert estimate(work("evaluate", "condensed-net-seed0", **common), [past(6.0, "evaluate", "condensed-net-seed0")]) == 12.0
    other = common | {"evaluate__common_teacher": "b"}
    assert estimate(work("evaluate", "condensed-net-seed0", **other), [past(6.0, "evaluate", "condensed-net-seed0")]) is None


def test_a_larger_set_takes_longer_by_the_views_that_the_plan_tells():
    assert estimate(work("evaluate", "condensed-net-seed0", views=60_000), [past(6.0, "evaluate", "condensed-net-seed0")]) == 12.0


def test_steps_that_are_closer_count_rather_than_others():
    seen = [past(6.0, "evaluate", "condensed-net-seed0", evaluate__batch_size=50), past(9.0, "evaluate", "condensed-net-seed1")]
    assert estimate(work("evaluate", "condensed-net-seed0"), seen) == 9.0
    assert estimate(work("evaluate", "condensed-net-seed0"), seen[:1]) == 6.0, "a distant one is better than none"


def test_the_median_of_the_latest_five_counts():
    seen = [past(seconds, "squeeze", "a") for seconds in (5.0, 6.0, 100.0, 7.0, 8.0, 900.0, 900.0)]
    assert estimate(work("squeeze", "a"), seen) == 7.0


@pytest.mark.parametrize("epochs", [0, "many", None, float("nan"), float("inf")])
def test_a_past_with_values_that_are_no_amounts_is_left_out(epochs):
    assert estimate(work("squeeze", "a"), [past(8.0, "squeeze", "a", squeeze__epochs=epochs)]) is None


def write_run(projects, name, steps, *, host="here", values=PROJECT, broken=None):
    document = {"schema": 1}
    for key, value in values.items():
        section, _, leaf = key.partition(".")
        document.setdefault(section, {})[leaf] = value
    frozen = {name: FACTS[name] for name in ("resolution", "device", "precision")}
    frozen |= {"host": host, "data_fingerprint": "d1", "classes": list("0123456789")}
    run = create_run(projects, name, tomlkit.dumps(document | {"frozen": frozen}) if broken is None else broken)
    write_json(run.summary, {"schema": 1, "run": run.id, "steps": steps})
    return run


def test_the_past_is_read_from_the_files_of_runs(tmp_path):
    write_run(tmp_path, "p", {"squeeze/a": {"status": "done", "seconds": 8.0}, "evaluate/condensed-net-seed0": {"status": "waiting"}})
    assert past_work(tmp_path, host="here") == [past(8.0, "squeeze", "a")]


def test_runs_of_other_machines_tell_nothing(tmp_path):
    write_run(tmp_path, "p", {"squeeze/a": {"status": "done", "seconds": 8.0}}, host="gpu-box")
    assert past_work(tmp_path, host="here") == []
    assert len(past_work(tmp_path, host="gpu-box")) == 1


@pytest.mark.parametrize("broken", ["", "not toml [", "schema = 1\n", "frozen = 3\n"])
def test_broken_runs_are_passed_over(tmp_path, broken):
    write_run(tmp_path, "p", {"squeeze/a": {"seconds": 8.0}}, broken=broken)
    write_run(tmp_path, "q", {"squeeze/a": {"seconds": "long"}, "squeeze/b": 3, "nonsense/x": {"seconds": 1}, "squeeze/c": {"seconds": -1}})
    write_run(tmp_path, "r", [])
    assert past_work(tmp_path, host="here") == []


def test_the_past_tells_how_students_were_labelled(tmp_path):
    write_run(tmp_path, "p", {"evaluate/condensed-net-seed0-hard": {"seconds": 3.0, **told("condensed-net-seed0", labels="hard")}})
    (seen,) = past_work(tmp_path, host="here")
    assert estimate(work("evaluate", "condensed-net-seed1", labels="hard"), [seen]) == 3.0
    assert estimate(work("evaluate", "condensed-net-seed1"), [seen]) is None


def test_a_run_that_goes_on_is_read_again_when_its_summary_changes(tmp_path):
    run = write_run(tmp_path, "p", {"squeeze/a": {"seconds": 8.0}})
    assert len(past_work(tmp_path, host="here")) == 1
    write_json(run.summary, {"steps": {"squeeze/a": {"seconds": 8.0}, "squeeze/b": {"seconds": 4.0}}})
    assert len(past_work(tmp_path, host="here")) == 2
