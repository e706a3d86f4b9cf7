"""What is said against a plan: each setting that is known to fail or to mislead, and nothing of a plan without one."""

import re
import subprocess
import sys

import pytest

from engine.data.sources import ClassIndex, Source
from engine.project.planner import make_plan
from engine.project.resolve import validate
from engine.project.warnings import Machine, highest_ema, memory_needed, warnings

SOUND = {
    "condense.ipc": 10,
    "observers.synthesis": ["convnet-w32-bn"],
    "observers.labels": ["convnet-w32-bn"],
    "batch.size": 10,
    "synthesise.iterations": 100,
    "evaluate.students": ["resnet18-w16"],
    "evaluate.seeds": [0, 1, 2],
    "evaluate.epochs": 1000,
    "evaluate.controls": ["random"],
}


def source_of(train_counts=(400, 400, 400), resolution=32):
    names = tuple("abcdefghij"[: len(train_counts)])
    return Source("folder", "tree", {}, resolution, ClassIndex(names), train_counts, (5,) * len(train_counts), "by hand", True)


def plan_of(values=None, *, source=None, until="evaluate"):
    project, problems = validate(SOUND | {name.replace("__", "."): value for name, value in (values or {}).items()})
    assert project is not None, problems
    return make_plan(project, source or source_of(), device="cpu", precision="float32", until=until)


def said(machine=None, source=None, **values):
    """Return what is said against the sound plan with other values, by key."""
    return {warning.key: warning.text for warning in warnings(plan_of(values, source=source), machine)}


def test_nothing_is_said_against_a_sound_plan():
    assert said(Machine(memory=1 << 40, free_disk=1 << 40, seconds=60.0)) == {}


# Every setting that fails, the key that is named, and words that must be in the sentence: why, and what would be right.
FAILING = [
    ({"evaluate__ema": 0.999, "evaluate__epochs": 500}, "evaluate.ema", ("capped", "0.98", "Tables 17 and 20")),
    ({"evaluate__ema": 0.999, "evaluate__epochs": 20000}, "evaluate.ema", ("13.1 %", "0.99")),
    ({"labels__teacher_batchnorm": "train"}, "labels.teacher_batchnorm", ("noise", "evaluate.controls")),
    ({"batch__size": 0}, "match.w_class", ("batch.size", "per_class_sum")),
    ({"batch__size": 0, "batch__order": "one_per_class"}, "match.w_class", ("class_major",)),
    ({"synthesise__learning_rate": 0.25}, "synthesise.learning_rate", ("0.05",)),
    ({"initialise__source": "rded", "rded__factor": 2}, "rded.factor", ("16 px", "rded.factor = 1")),
    ({"evaluate__seeds": [0, 1]}, "evaluate.seeds", ("at least 3",)),
    ({"condense__ipc": 1, "batch__size": 2, "evaluate__batch_size": 3}, "evaluate.seeds", ("at least 5",)),
    ({"evaluate__select": "best_on_test"}, "evaluate.select", ('"last"',)),
    ({"evaluate__batch_size": 1}, "evaluate.batch_size", ("resnet18-w16", "10 or more")),
    ({"evaluate__controls": ["noise"]}, "evaluate.controls", ("random",)),
    ({"match__weight": 0.0}, "match.weight", ('"auto"', 'match.layers = "bn"')),
    ({"evaluate__epochs": 199, "evaluate__ema": 0.0}, "evaluate.epochs", ("199 updates", "epochs = 200 or more")),
    ({"evaluate__hard_labels": False}, "evaluate.hard_labels", ("2604.18811",)),
]


@pytest.mark.parametrize(("values", "key", "words"), FAILING, ids=[f"{key} {list(values.values())[0]}" for values, key, _ in FAILING])
def test_a_setting_that_fails_is_named_with_the_reason_and_what_would_be_right(values, key, words):
    found = said(**values)
    assert list(found) == [key]
    assert all(word in found[key] for word in words), found[key]
    assert not re.search(r"[.?!] [A-Z]", found[key])  # one sentence


NOT_FAILING = [
    {"evaluate__ema": 0.98, "evaluate__epochs": 500},
    {"labels__teacher_batchnorm": "train", "evaluate__controls": ["random", "noise"]},
    {"labels__teacher_batchnorm": "train", "evaluate__loss": "ce"},  # no observer labels
    {"batch__size": 0, "match__class_form": "per_class_sum"},
    {"batch__size": 0, "match__w_class": 0.0},
    {"batch__size": 0, "batch__statistics": 10},
    {"batch__size": 0, "match__class_variance": "within_image"},
    {"synthesise__learning_rate": 0.25, "initialise__source": "noise"},
    {"synthesise__learning_rate": 0.25, "synthesise__enabled": False},
    {"evaluate__batch_size": 1, "evaluate__students": ["convnet-w32"]},
    {"match__weight": 0.0, "match__layers": "bn", "match__patch_size": 0, "match__w_class": 0.0},
    {"match__weight": "auto"},
    {"condense__method": "random", "synthesise__enabled": False, "evaluate__controls": ["noise"]},
]


@pytest.mark.parametrize("values", NOT_FAILING, ids=str)
def test_the_same_setting_where_it_does_no_harm_is_not(values):
    assert said(**values) == {}


def test_classes_of_different_size_leave_matching_by_class_something_to_do():
    assert "match.w_class" in said(batch__size=0, source=source_of((400, 400, 420)))
    assert said(batch__size=0, source=source_of((400, 400, 800))) == {}


def test_tiles_are_large_enough_in_larger_images():
    assert said(initialise__source="rded", rded__factor=2, source=source_of(resolution=64)) == {}


def test_the_short_training_of_the_common_protocol_is_its_own():
    found = said(evaluate__protocol="both", evaluate__common_epochs=100, evaluate__common_teacher="convnet-w32-bn")
    assert list(found) == ["evaluate.common_epochs"] and "100 updates under the common protocol" in found["evaluate.common_epochs"]


def test_short_trainings_under_both_protocols_are_told_once():
    values = {"evaluate__protocol": "both", "evaluate__common_epochs": 100, "evaluate__common_teacher": "convnet-w32-bn"}
    found = said(**values, evaluate__epochs=150, evaluate__ema=0.0)
    assert list(found) == ["evaluate.epochs"]
    assert found["evaluate.epochs"].startswith("150 updates and 100 updates under the common protocol are too few")
    assert found["evaluate.epochs"].endswith("use epochs = 200 and common_epochs = 200 or more")


def test_what_is_not_planned_is_not_warned_of():
    assert warnings(plan_of({"evaluate__ema": 0.9999, "evaluate__controls": []}, until="synthesise")) == []


def test_the_cap_is_one_minus_ten_over_the_updates():
    assert (highest_ema(200), highest_ema(1000), highest_ema(5)) == (0.95, 0.99, 0.0)


class TestBytes:
    def test_labels_larger_than_the_dataset_are_told_with_how_many_times(self):
        # 30 images, 1000 epochs, 3 classes, 2 bytes: 180,000 against 3 * 32 * 32 * 45 images.
        found = said(labels__mode="stored", evaluate__epochs=1000, source=source_of((15, 15, 15)))
        assert list(found) == ["labels.mode"] and "1.3 times" in found["labels.mode"]

    def test_labels_that_are_asked_online_take_nothing(self):
        assert said(source=source_of((15, 15, 15))) == {}

    def test_a_disk_too_small_for_labels_names_the_ways_to_store_fewer(self):
        found = said(Machine(free_disk=100_000), labels__mode="stored")
        assert "labels.mode" in found and "the disk has 97.7 KiB left" in found["labels.mode"]

    def test_a_disk_too_small_for_images(self):
        assert "fewer images" in said(Machine(free_disk=1000))["condense.ipc"]


class TestMachine:
    def test_hours_are_told_and_minutes_are_not(self):
        assert "2.5 hours" in said(Machine(seconds=9000.0))["compute.device"]
        assert said(Machine(seconds=3000.0)) == {}

    def test_memory_that_cannot_be_enough_is_told(self):
        assert "cpu has 5.0 MiB" in said(Machine(memory=5 << 20))["evaluate.students"]
        small = {"evaluate__students": ["convnet-d1-w8"], "evaluate__batch_size": 10, "squeeze__batch_size": 10, "condense__ipc": 400}
        assert "synthesise holds about" in said(Machine(memory=5 << 20), **small)["condense.ipc"]
        assert said(Machine(memory=1 << 34)) == {}

    def test_memory_counts_pixels_weights_what_adam_keeps_and_the_activations_of_a_batch(self):
        plan = plan_of({"observers__synthesis": ["convnet-d1-w8-bn"], "batch__size": 0, "squeeze__batch_size": 64})
        pixels, weights = 3 * 32 * 32, (3 * 8 * 9 + 8) + 2 * 8 + (8 * 16 * 16 + 1) * 3
        kept = 8 * (2 * 32 * 32 + 16 * 16)  # of an image: what enters the normalisation, the pool, and the last layer
        assert memory_needed(plan)["synthesise"] == 4 * (weights + (30 + 5 * 30) * pixels + 30 * kept)
        assert memory_needed(plan)["squeeze"] == 4 * 4 * weights + 1200 * pixels + 4 * 64 * kept

    def test_a_batch_too_large_for_the_memory_is_told(self):
        # ResNet-18 keeps about 5 MiB of an image of 32 px: a thousand of them 5 GiB.
        values = {"evaluate__students": ["resnet18"], "evaluate__batch_size": 1000, "condense__ipc": 400, "evaluate__epochs": 4000}
        assert "a smaller evaluate.batch_size" in said(Machine(memory=4 << 30), **values)["evaluate.students"]
        assert said(Machine(memory=16 << 30), **values) == {}


def test_no_torch_is_needed():
    code = "import engine.project.warnings, sys; print([name for name in ('torch', 'textual') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
