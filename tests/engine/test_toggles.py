"""Every toggle by itself: switching it changes what its stage makes, and nothing that is made before.

`TOGGLES` says for each stage which keys are switched there, beside those that `test_synthesise` switches one at a time. A key of the
schema, or one of its choices, that is in neither fails the first test.
"""

from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import test_synthesise
from safetensors.torch import load_file
from small_runs import CLASSES, SIDE, small_inputs_of, small_store

from engine.commands.methods import method_keys
from engine.data.condensed import read_condensed
from engine.data.sources import ClassIndex, Source
from engine.files import read_json
from engine.project.checks import has_effect
from engine.project.plan import STAGES
from engine.project.planner import make_plan
from engine.project.resolve import validate
from engine.project.schema import keys
from engine.runs.layout import Run
from engine.stages import evaluate as evaluation
from engine.stages import stage_function
from engine.stages.cache import finished, write_done
from engine.stages.report import Report
from engine.stages.summary import Summary

OBSERVERS = ["wrn-10-1", "convnet-d2-w16-bn"]
BASE = {
    "condense.ipc": 2,
    "observers.synthesis": OBSERVERS,
    "observers.labels": OBSERVERS,
    "squeeze.epochs": 3,
    "squeeze.batch_size": 20,
    "squeeze.padding": 2,
    "synthesise.iterations": 6,
    "evaluate.students": ["wrn-10-1"],
    "evaluate.seeds": [0],
    "evaluate.epochs": 8,  # 16 updates, so that the average of the student is one
    "evaluate.batch_size": 4,
    "evaluate.controls": [],
}
SOURCE = Source("folder", "tree", {}, SIDE, ClassIndex(CLASSES), (15,) * 4, (8,) * 4, "by hand", True)

RDED, STORED, SGD = {"initialise.source": "rded"}, {"labels.mode": "stored"}, {"evaluate.optimizer": "sgd"}
FIXED = {"labels.mode": "fixed"}
KL, MULTISTEP, JPEG = {"evaluate.loss": "kl"}, {"evaluate.schedule": "multistep"}, {"save.format": "jpeg"}
FLAT = {"flatness.weight": 100.0}  # at its usual weight six iterations show little of it
# For each stage: (key, another value, what else the project must say on both sides).
TOGGLES = {
    "squeeze": [
        ("squeeze.epochs", 2, {}),
        ("squeeze.optimizer", "adamw", {}),
        ("squeeze.learning_rate", 0.02, {}),
        ("squeeze.momentum", 0.5, {}),
        ("squeeze.weight_decay", 0.1, {}),
        ("squeeze.batch_size", 30, {}),
        ("squeeze.schedule", "cosine", {}),
        ("squeeze.schedule", "one_cycle", {}),
        ("squeeze.padding", 4, {}),
        ("squeeze.crop_scale", [0.3, 0.8], {}),
        ("squeeze.flip", False, {}),
        ("squeeze.seed", 1, {}),
        ("squeeze.checkpoint", "every10", {}),
    ],
    "statistics": [
        ("statistics.augmentation", "none", {}),
        ("match.layers", "bn", {"match.patch_size": 0}),
        ("match.patch_size", 8, {}),
    ],
    "initialise": [
        ("initialise.source", "noise", {}),
        ("initialise.source", "rded", {}),
        ("initialise.source", "easy", {}),
        ("initialise.source", "medium", {}),
        ("initialise.source", "herding", {}),
        ("initialise.source", "k-center", {}),
        ("initialise.replacement", "always", {}),
        ("initialise.replacement", "usage", {}),
        ("initialise.flip", False, {}),
        ("initialise.shuffle_patches", 2, {}),
        ("rded.factor", 2, RDED),
        ("rded.candidates", 5, RDED),
        ("rded.crops", 1, RDED),
        ("rded.crop_scale", [0.5, 1.0], RDED),
        ("rded.tile_order", "consecutive", RDED | {"rded.factor": 2}),
    ],
    "synthesise": [
        ("observers.synthesis", OBSERVERS[:1], {}),
        ("observers.rotation", "random", {}),
        ("match.ema_reset", False, {"batch.size": 4}),
        ("flatness.kind", "stat_ema", FLAT),
        ("flatness.weight", 100.0, {}),
        ("flatness.beta", 0.0, FLAT),
        ("flatness.tau", 1.0, FLAT),
        ("flatness.reduction", "mean", FLAT),
        ("flatness.rho", 1.0, {"flatness.kind": "sam"}),
        ("diversity.weight", 1.0, {"diversity.tau": 1000.0}),
        ("diversity.tau", 1000.0, {"diversity.weight": 1.0}),
        ("diversity.normalise", True, {"diversity.weight": 1.0}),
        ("augment.crop_scale", [0.08, 1.0], {}),
        ("augment.milestone", 0.5, {"augment.crop_mode": "curriculum_linear"}),
        ("augment.padding", 2, {"augment.crop_mode": "padded"}),
        ("batch.order", "one_per_class", {"batch.size": 4}),
        ("batch.statistics", 4, {}),
        ("synthesise.iterations", 5, {}),
        ("synthesise.learning_rate", 0.1, {}),
        ("save.format", "png", {}),
        ("save.quality", 30, JPEG),
    ],
    "relabel": [
        ("observers.labels", OBSERVERS[:1], STORED),
        ("labels.ensemble", "norm_mean", STORED),
        ("labels.crop_mode", "padded", STORED),
        ("labels.crop_scale", [0.08, 1.0], STORED),
        ("labels.padding", 2, STORED | {"labels.crop_mode": "padded"}),
        ("labels.flip", False, STORED),
        ("labels.mix", "none", STORED),
        ("labels.mix", "mixup", STORED),
        ("labels.dtype", "float32", STORED),
        ("labels.storage", "top-k", STORED | {"labels.top_k": 2}),
        ("labels.storage", "8-bit", STORED),
        ("labels.top_k", 1, STORED | {"labels.storage": "top-k", "labels.top_k": 2}),
        ("labels.teacher_batchnorm", "train", STORED),
        ("evaluate.epochs", 7, STORED),
        ("evaluate.batch_size", 8, STORED),
        ("evaluate.randaugment", False, STORED),
        ("evaluate.shuffle_patches", 2, STORED),
    ],
    "evaluate": [
        ("evaluate.loss", "kl", {}),
        ("evaluate.loss", "dist", {}),
        ("evaluate.loss", "ce", {}),
        ("evaluate.ce_weight", 0.5, {}),
        ("evaluate.ce_target", "mixed", {}),
        ("evaluate.temperature", 4.0, KL),
        ("evaluate.temperature_squared", True, KL),
        ("evaluate.optimizer", "adam", {}),
        ("evaluate.optimizer", "sgd", {}),
        ("evaluate.learning_rate", 0.01, {}),
        ("evaluate.student_learning_rates", {"wrn-10-1": 0.01}, {"evaluate.student_learning_rates": {"wrn-10-1": 0.02}}),
        ("evaluate.warmup_epochs", 3, {}),
        ("evaluate.weight_decay", 0.5, {}),
        ("evaluate.momentum", 0.5, SGD),
        ("evaluate.schedule", "ssrs", {}),
        ("evaluate.schedule", "linear", {}),
        ("evaluate.schedule", "multistep", {}),
        ("evaluate.schedule", "alrs", {}),
        ("evaluate.schedule", "linear_zeta", {}),
        ("evaluate.zeta", 1.0, {}),
        ("evaluate.milestones", [0.5], MULTISTEP),
        ("evaluate.gamma", 0.1, MULTISTEP),
        ("evaluate.ema", 0.0, {}),
        ("evaluate.ema_batchnorm", "ema", {}),
        ("evaluate.ema_batchnorm", "online", {}),
    ],
}
ROWS = [(stage, *row) for stage, rows in TOGGLES.items() for row in rows]
# Switched by tests of their own below.
BY_THEMSELVES = {
    *(("synthesise.enabled", False), ("evaluate.select", "best_on_test"), ("evaluate.without_augmentation", True)),
    *(("labels.mode", mode) for mode in ("stored", "fixed", "given")),  # given: test_soft_labels
    ("evaluate.search_learning_rates", None),
    *(("initialise.source", "files"), ("initialise.path", None)),  # test_initialise
    *(("evaluate.protocol", choice) for choice in ("common", "both")),  # test_plan
}
# No choice of a method: what is measured and how often, and what must not change a result.
NO_TOGGLES = {
    "observers.weights",  # test_pretrained and test_published_weights: whole networks from elsewhere
    "match.w_global",  # always the rest of w_class, which test_checks sees to
    "statistics.batch_size",  # test_tables: how images are batched does not matter
    "evaluate.students",
    "evaluate.seeds",
    "evaluate.every",
    "evaluate.controls",
    "evaluate.hard_labels",
    "evaluate.common_epochs",
    "evaluate.common_teacher",
    "evaluate.full_epochs",
    "evaluate.full_batch_size",
}


def choices_of(name):
    """The values that a key can be switched to from its default; None stands for any."""
    field = keys()[name]
    if get_origin(field.annotation) is Literal:
        return set(get_args(field.annotation)) - {field.default}
    return {not field.default} if field.annotation is bool else {None}


def test_no_toggle_and_no_choice_is_forgotten():
    alone = [next(iter(changes.items())) for changes in test_synthesise.TOGGLES if len(changes) == 1]
    switched = {(name, value) for _, name, value, _ in ROWS if not isinstance(value, list | dict)} | BY_THEMSELVES
    switched |= {(name.replace("__", "."), value) for name, value in alone if not isinstance(value, list)}
    named = {name for name, _ in switched} | {name for _, name, _, _ in ROWS} | {name.replace("__", ".") for name, _ in alone}
    toggles = [name for name in method_keys() if name not in NO_TOGGLES]
    wanted = [(name, choice) for name in toggles for choice in choices_of(name)]
    assert [(name, choice) for name, choice in wanted if (name not in named if choice is None else (name, choice) not in switched)] == []


class Steps:
    """Computes steps of plans where no step of the same fingerprint was computed before."""

    def __init__(self, root):
        self.root, self.store = root, small_store()

    def folder(self, plan, step_id):
        """The folder of a computed step."""
        step = plan.step(step_id)
        folder = self.root / step.fingerprint
        if finished(folder, step, thorough=False) is None:
            folders = {role: tuple(self.folder(plan, other) for other in ids) for role, ids in step.inputs.items()}
            folder.mkdir()
            result = stage_function(step.stage)(step.settings, small_inputs_of(self.store, **folders), folder, Report())
            write_done(folder, step, result, seconds=0, peak_memory_bytes=0)
        return folder

    def made(self, plan, step_id):
        """What a step is for: weights, a table, pixels and the names of image files, labels, or the measured student."""
        folder, stage = self.folder(plan, step_id), step_id.partition("/")[0]
        if stage in ("initialise", "synthesise"):
            files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*g"))
            return [read_condensed(folder).images.numpy().tobytes(), *files]
        if stage == "relabel":
            return np.load(folder / "logits.npy").tobytes()
        tensors = load_file(folder / ("table.safetensors" if stage == "statistics" else "observer.safetensors"))
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "RECALIBRATION_VIEWS", 16)
        yield Steps(tmp_path_factory.mktemp("steps"))


def plan_of(values):
    project, problems = validate(BASE | values)
    assert problems == []
    return make_plan(project, SOURCE, device="cpu", precision="float32")


def fingerprints(plan, stages):
    return {step.id: step.fingerprint for step in plan.steps if step.stage in stages}


@pytest.mark.parametrize(("stage", "name", "value", "needed"), ROWS, ids=lambda part: str(part))
def test_a_toggle_changes_what_its_stage_makes_and_nothing_before(steps, stage, name, value, needed):
    before, after = plan_of(needed), plan_of(needed | {name: value})
    assert has_effect(before.project, name) and has_effect(after.project, name)
    step_id = next(step.id for step in after.steps if step.stage == stage)
    assert steps.made(before, step_id) != steps.made(after, step_id)
    if not name.startswith("observers."):  # a further network has a squeeze of its own
        earlier = STAGES[: STAGES.index(stage)]
        assert fingerprints(before, earlier) == fingerprints(after, earlier)


def test_what_is_not_to_be_optimised_stays_as_it_starts(steps):
    optimised, kept = plan_of({}), plan_of({"synthesise.enabled": False})
    assert kept.condensed.id == "initialise/condensed" and optimised.condensed.id == "synthesise/condensed"
    pixels = steps.made(kept, kept.condensed.id)[0]
    assert pixels == steps.made(optimised, "initialise/condensed")[0] != steps.made(optimised, "synthesise/condensed")[0]


def test_stored_labels_are_those_of_views_drawn_for_the_set_and_online_ones_of_views_drawn_for_the_student(steps):
    online, stored = plan_of({}), plan_of(STORED)
    student = "evaluate/condensed-wrn-10-1-seed0"
    assert fingerprints(online, STAGES[:4]) == fingerprints(stored, STAGES[:4])
    assert [step.id for step in stored.steps if step not in online.steps] == ["relabel/condensed", student]
    assert steps.made(online, student) != steps.made(stored, student)


def result_of(steps, plan, step_id):
    """What a computed step has told."""
    return read_json(steps.folder(plan, step_id) / "done.json")["result"]


def test_one_soft_label_an_image_is_another_training_and_its_labels_hang_on_no_view(steps):
    online, fixed, longer = plan_of({}), plan_of(FIXED), plan_of(FIXED | {"evaluate.epochs": 9, "labels.mix": "none"})
    student = "evaluate/condensed-wrn-10-1-seed0"
    assert steps.made(online, student) != steps.made(fixed, student)
    assert fingerprints(fixed, ["relabel"]) == fingerprints(longer, ["relabel"]) != {}
    assert np.load(steps.folder(fixed, "relabel/condensed") / "logits.npy").shape == (8, 4)


def test_every_evaluation_of_a_plan_trains_and_tells_its_images(steps):
    asked = {"evaluate.without_augmentation": True, "evaluate.hard_labels": True, "evaluate.controls": ["random", "full", "full-soft"]}
    plan = plan_of(asked | {"evaluate.full_epochs": 2, "evaluate.full_batch_size": 20})
    trained = {step.id: result_of(steps, plan, step.id) for step in plan.steps if step.stage == "evaluate"}
    assert {step.facts["labels"] for step in plan.steps if step.stage == "evaluate"} == {"online", "hard"}
    assert {step_id.removeprefix("evaluate/") for step_id in trained} >= {
        *("condensed-wrn-10-1-seed0", "condensed-wrn-10-1-seed0-hard", "condensed-wrn-10-1-seed0-plain"),
        *("full-wrn-10-1-seed0", "full-wrn-10-1-seed0-soft", "random-wrn-10-1-seed0-plain"),
    }
    assert all(result["images"] == (60 if "/full" in step_id else 8) for step_id, result in trained.items())
    assert all(result["updates"] == plan.step(step_id).cost["iterations"] for step_id, result in trained.items())


def test_a_search_finds_a_rate_that_the_plan_then_trains_with(steps):
    plan = plan_of({"evaluate.search_learning_rates": [0.02, 1e30], "evaluate.seeds": [0, 1], "evaluate.hard_labels": False})
    searches = [step.id for step in plan.steps if "search" in step.facts]
    assert len(searches) == 2 and [result_of(steps, plan, step).get("diverged", False) for step in searches] == [False, True]
    for seed in (0, 1):
        assert result_of(steps, plan, f"evaluate/condensed-wrn-10-1-seed{seed}")["learning_rate"] == 0.02


@pytest.mark.parametrize(("select", "shown"), [("last", 40.0), ("best_on_test", 55.0)])
def test_the_headline_is_the_last_or_the_best_measurement_and_says_which(tmp_path, select, shown):
    plan = plan_of({"evaluate.select": select})
    summary = Summary(plan, Run(tmp_path, "a-run", "a-project"))
    step = plan.step("evaluate/condensed-wrn-10-1-seed0")
    result = {"final": {"top1": 40.0}, "best_on_test": {"epoch": 3, "top1": 55.0}, "updates": 16}
    summary.finished(step, {"result": result, "seconds": 1.0, "peak_memory_bytes": 0})
    content = summary.content("running")
    assert content["select"] == select
    assert (content["results"][0]["top1"]["mean"], content["results"][0]["best_on_test"]["mean"]) == (shown, 55.0)
    assert plan.fingerprint == plan_of({}).fingerprint


def test_without_a_toggle_every_stage_makes_the_same_again(steps, tmp_path):
    plan, again = plan_of(STORED), Steps(tmp_path)
    assert list(dict.fromkeys(step.stage for step in plan.steps)) == list(STAGES)
    assert [step.id for step in plan.steps if steps.made(plan, step.id) != again.made(plan, step.id)] == []
