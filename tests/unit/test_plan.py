"""The plan: what is done in which order, what each key touches, and what it will cost; all of it without torch."""

import subprocess
import sys

import pytest

from engine.data.sources import ClassIndex, Source
from engine.errors import UserError
from engine.files import digest
from engine.project.checks import has_effect
from engine.project.plan import STAGES, VERSIONS
from engine.project.planner import NEUTRAL, STORAGE, batch_count, make_plan, steps_an_epoch
from engine.project.resolve import method_names, resolve, validate
from engine.project.schema import keys


def source_of(train_counts=(40, 30, 50), resolution=32, fingerprint="by hand", mirror=True):
    names = tuple("abcdefghij"[: len(train_counts)])
    return Source("folder", "tree", {}, resolution, ClassIndex(names), tuple(train_counts), (5,) * len(train_counts), fingerprint, mirror)


# Small, with every kind of step: stored labels, both controls, tables, and networks that both match and label.
BASE = {
    "condense.ipc": 10,
    "observers.synthesis": ["resnet18"],
    "observers.labels": ["resnet18"],
    "labels.mode": "stored",
    "evaluate.students": ["convnet-w32"],
    "evaluate.seeds": [0, 1],
    "evaluate.controls": ["random", "full"],
}


def plan_of(values=None, *, device="cpu", precision="float32", source=None, until="evaluate"):
    project, problems = validate(BASE | (values or {}))
    assert project is not None, problems
    return make_plan(project, source or source_of(), device=device, precision=precision, until=until)


# The kinds of steps, by a letter each.
KINDS = {
    "Q": ("squeeze/", ""),
    "S": ("statistics/", ""),
    "I": ("initialise/", "condensed"),
    "i": ("initialise/", "random"),
    "Y": ("synthesise/", "condensed"),
    "L": ("relabel/", "condensed"),
    "l": ("relabel/", "random"),
    "E": ("evaluate/", "condensed"),
    "e": ("evaluate/", "random"),
    "F": ("evaluate/", "full"),
}


def changed(before, after):
    """Return the letters of the kinds whose steps, or whose steps' fingerprints, differ between two plans."""

    def prints(plan, kind):
        stage, name = KINDS[kind]
        return {step.id: step.fingerprint for step in plan.steps if step.id.startswith(stage + name)}

    return "".join(kind for kind in KINDS if prints(before, kind) != prints(after, kind))


SOFT = "LlEe"  # what labels touch
OPTIMISED = "YLE"  # what matching touches
SQUEEZED = "QSYLlEe"  # what observers touch
RDED = {"initialise.source": "rded"}
ELSEWHERE = {"observers.weights": {"*": "timm"}}
# For every key: another value, what else the project must say for it to have an effect, and the steps that it touches.
TOUCHES = {
    "dataset.name": ("folder", {}, ""),  # the images' own fingerprint counts, not what they are called or where they lie
    "dataset.root": ("/data", {}, ""),
    "dataset.resolution": (64, {}, ""),  # the located dataset's resolution counts, see below
    "dataset.mirror": (False, {}, "QSIiYLlEeF"),
    "dataset.store": ("stream", {}, ""),
    "condense.method": ("random", {}, ""),  # its values count, not its name
    "condense.ipc": (5, {}, "IiYLlEe"),
    "condense.seed": (1, {}, "IYLE"),
    "condense.compat": ("edc-head", {}, ""),
    "condense.published": (["table-1/edc"], {}, ""),  # it says what is shown beside the result
    "observers.synthesis": (["resnet18", "wrn-16-2"], {}, "QSYLE"),
    "observers.labels": (["resnet18", "wrn-16-2"], {}, "Q" + SOFT),
    "observers.rotation": ("all", {}, OPTIMISED),
    "observers.weights": ({"*": "torchvision"}, {}, SQUEEZED),
    "observers.accuracy": ({"resnet18": 90.0}, ELSEWHERE, SQUEEZED),
    "observers.normalisation": ({"resnet18": "half"}, ELSEWHERE, SQUEEZED),
    "observers.class_order": ({"resnet18": "numeric"}, ELSEWHERE, SQUEEZED),
    "squeeze.epochs": (3, {}, SQUEEZED),
    "squeeze.optimizer": ("adamw", {}, SQUEEZED),
    "squeeze.learning_rate": (0.2, {}, SQUEEZED),
    "squeeze.momentum": (0.5, {}, SQUEEZED),
    "squeeze.weight_decay": (0.1, {}, SQUEEZED),
    "squeeze.batch_size": (32, {}, SQUEEZED),
    "squeeze.schedule": ("cosine", {}, SQUEEZED),
    "squeeze.padding": (2, {}, SQUEEZED + "F"),  # the whole dataset is augmented likewise
    "squeeze.crop_scale": ([0.5, 1.0], {}, SQUEEZED + "F"),
    "squeeze.flip": (False, {}, SQUEEZED + "F"),
    "squeeze.seed": (1, {}, SQUEEZED),
    "squeeze.checkpoint": ("every10", {}, SQUEEZED),
    "statistics.augmentation": ("none", {}, "S" + OPTIMISED),
    "statistics.batch_size": (32, {}, "S" + OPTIMISED),
    "initialise.source": ("noise", {}, "I" + OPTIMISED),
    "initialise.replacement": ("always", {}, "I" + OPTIMISED),
    "initialise.flip": (False, {}, "I" + OPTIMISED),
    "initialise.shuffle_patches": (2, {}, "I" + OPTIMISED),
    "rded.factor": (2, RDED | {"condense.ipc": 5}, "I" + OPTIMISED),
    "rded.candidates": (30, RDED, "I" + OPTIMISED),
    "rded.crops": (3, RDED, "I" + OPTIMISED),
    "rded.crop_scale": ([0.3, 1.0], RDED, "I" + OPTIMISED),
    "rded.tile_order": ("consecutive", RDED, "I" + OPTIMISED),
    "match.layers": ("bn", {}, "S" + OPTIMISED),
    "match.patch_size": (8, {}, "S" + OPTIMISED),
    "match.first_multiplier": (1.0, {}, OPTIMISED),
    "match.weight": (0.1, {}, OPTIMISED),
    "match.w_global": (0.5, {}, OPTIMISED),
    "match.w_class": (0.3, {}, OPTIMISED),
    "match.class_form": ("per_class_sum", {}, OPTIMISED),
    "match.class_source": ("sampled_real", {}, OPTIMISED),
    "match.class_variance": ("within_image", {}, OPTIMISED),
    "match.ema_momentum": (0.5, {}, OPTIMISED),
    "match.ema_start": ("zero", {}, OPTIMISED),
    "match.ema_reset": (False, {}, OPTIMISED),
    "match.conv_drop": (0.4, {}, OPTIMISED),
    "match.norm": ("l2_squared", {}, OPTIMISED),
    "match.swap_class_patch": (True, {}, OPTIMISED),
    "match.double_global_conv": (True, {}, OPTIMISED),
    "flatness.kind": ("off", {}, OPTIMISED),
    "flatness.weight": (1.0, {}, OPTIMISED),
    "flatness.beta": (0.9, {}, OPTIMISED),
    "flatness.tau": (2.0, {}, OPTIMISED),
    "flatness.reduction": ("mean", {}, OPTIMISED),
    "flatness.rho": (0.1, {"flatness.kind": "sam"}, OPTIMISED),
    "diversity.weight": (1.0, {}, OPTIMISED),
    "diversity.tau": (2.0, {"diversity.weight": 1.0}, OPTIMISED),
    "diversity.normalise": (True, {"diversity.weight": 1.0}, OPTIMISED),
    "prior.tv": (1e-4, {}, OPTIMISED),
    "prior.l2": (1e-5, {}, OPTIMISED),
    "augment.crop_mode": ("padded", {}, OPTIMISED),
    "augment.crop_scale": ([0.08, 1.0], {}, OPTIMISED),
    "augment.milestone": (0.5, {"augment.crop_mode": "curriculum_cosine"}, OPTIMISED),
    "augment.padding": (2, {"augment.crop_mode": "padded"}, OPTIMISED),
    "augment.flip": (False, {}, OPTIMISED),
    "augment.roll": (4, {}, OPTIMISED),
    "augment.per_image": (True, {}, OPTIMISED),
    "batch.order": ("one_per_class", {}, OPTIMISED),
    "batch.size": (15, {}, OPTIMISED),
    "batch.statistics": (15, {}, OPTIMISED),
    "synthesise.enabled": (False, {}, "SIYLE"),
    "synthesise.iterations": (7, {}, OPTIMISED),
    "synthesise.learning_rate": (0.1, {}, OPTIMISED),
    "synthesise.betas": ([0.9, 0.9], {}, OPTIMISED),
    "synthesise.schedule": ("constant", {}, OPTIMISED),
    "save.format": ("jpeg", {}, OPTIMISED),
    "save.quality": (90, {"save.format": "jpeg"}, OPTIMISED),
    "save.quantise": ("truncate", {}, OPTIMISED),
    "labels.mode": ("online", {}, SOFT),
    "labels.ensemble": ("norm_mean", {}, SOFT),
    "labels.crop_mode": ("padded", {}, SOFT),
    "labels.crop_scale": ([0.08, 1.0], {}, SOFT),
    "labels.padding": (2, {"labels.crop_mode": "padded"}, SOFT),
    "labels.flip": (False, {}, SOFT),
    "labels.mix": ("mixup", {}, SOFT),
    "labels.dtype": ("float32", {}, SOFT),
    "labels.storage": ("8-bit", {}, SOFT),
    "labels.top_k": (1, {"labels.storage": "top-k", "labels.top_k": 2}, SOFT),
    "labels.teacher_batchnorm": ("train", {}, SOFT),
    "evaluate.students": (["convnet-d2"], {}, "EeF"),
    "evaluate.seeds": ([0, 2], {}, "ilEeF"),
    "evaluate.epochs": (5, {}, SOFT),
    "evaluate.batch_size": (7, {}, SOFT),
    "evaluate.loss": ("kl", {}, "Ee"),
    "evaluate.ce_weight": (0.5, {}, "Ee"),
    "evaluate.ce_target": ("mixed", {}, "Ee"),
    "evaluate.temperature": (4.0, {"evaluate.loss": "kl"}, "Ee"),
    "evaluate.temperature_squared": (True, {"evaluate.loss": "kl"}, "Ee"),
    "evaluate.optimizer": ("adam", {}, "EeF"),
    "evaluate.learning_rate": (0.5, {}, "EeF"),
    "evaluate.student_learning_rates": ({"convnet-w32": 0.5}, {}, "EeF"),
    "evaluate.weight_decay": (0.5, {}, "EeF"),
    "evaluate.momentum": (0.5, {"evaluate.optimizer": "sgd"}, "EeF"),
    "evaluate.schedule": ("linear", {}, "Ee"),
    "evaluate.zeta": (1.5, {}, "Ee"),
    "evaluate.warmup_epochs": (2, {}, "Ee"),
    "evaluate.milestones": ([0.5], {"evaluate.schedule": "multistep"}, "Ee"),
    "evaluate.gamma": (0.1, {"evaluate.schedule": "multistep"}, "Ee"),
    "evaluate.randaugment": (False, {}, SOFT),
    "evaluate.shuffle_patches": (2, {}, SOFT),
    "evaluate.ema": (0.9, {}, "Ee"),
    "evaluate.ema_batchnorm": ("ema", {}, "Ee"),
    "evaluate.select": ("best_on_test", {}, ""),  # both are measured; it only says which one is shown
    "evaluate.every": (3, {}, "Ee"),
    "evaluate.protocol": ("both", {}, "Ee"),
    "evaluate.common_epochs": (5, {"evaluate.protocol": "common"}, "Ee"),
    "evaluate.common_teacher": ("convnet-w128", {"evaluate.protocol": "common"}, "QEe"),
    "evaluate.hard_labels": (False, {}, "Ee"),
    "evaluate.without_augmentation": (True, {}, SOFT),
    "evaluate.search_learning_rates": ([0.1, 0.01], {}, "Ee"),
    "evaluate.controls": (["full"], {}, "ile"),
    "evaluate.full_epochs": (3, {}, "F"),
    "evaluate.full_batch_size": (32, {}, "F"),
    "compute.device": ("cuda", {}, ""),  # what it resolves to counts, see below
    "compute.precision": ("float32", {}, ""),
    "compute.threads": (1, {}, ""),
    "compute.checkpoint_seconds": (1.0, {}, ""),
}


class TestWhatEachKeyTouches:
    def test_no_key_is_forgotten(self):
        assert set(TOUCHES) | {"initialise.path"} == set(keys())  # what the path names counts, see TestImagesOfOnesOwn

    @pytest.mark.parametrize("name", TOUCHES)
    def test_a_key_changes_the_fingerprints_that_depend_on_it_and_no_others(self, name):
        value, needed, kinds = TOUCHES[name]
        before, after = plan_of(needed), plan_of(needed | {name: value})
        assert after.project != before.project
        assert set(changed(before, after)) == set(kinds)

    def test_the_same_project_has_the_same_fingerprints(self):
        assert changed(plan_of(), plan_of()) == ""
        assert plan_of().fingerprint == plan_of().fingerprint

    @pytest.mark.parametrize(
        "other",
        [
            {"device": "cuda"},
            {"precision": "bfloat16"},
            {"source": source_of(fingerprint="other images")},
            {"source": source_of(resolution=64)},
            {"source": source_of(mirror=False)},
            {"source": source_of((40, 30, 50, 60))},
        ],
    )
    def test_device_kind_precision_and_data_touch_everything(self, other):
        assert changed(plan_of(), plan_of(**other)) == "".join(KINDS)

    def test_which_of_several_gpus_touches_nothing(self):
        assert changed(plan_of(device="cuda"), plan_of(device="cuda:3")) == ""

    def test_the_order_of_classes_touches_everything(self):
        first = source_of()
        second = Source(**vars(first) | {"classes": ClassIndex(("b", "a", "c"))})
        assert changed(plan_of(source=first), plan_of(source=second)) == "".join(KINDS)

    def test_with_labels_asked_online_the_same_keys_touch_the_same_evaluations(self):
        online = {"labels.mode": "online"}
        for name, kinds in {
            "labels.ensemble": "Ee",
            "evaluate.batch_size": "Ee",
            "squeeze.epochs": "QSYEe",
            "condense.seed": "IYE",
        }.items():
            assert set(changed(plan_of(online), plan_of(online | {name: TOUCHES[name][0]}))) == set(kinds), name

    def test_stored_logits_precision_touches_nothing_where_none_are_stored(self):
        online = {"labels.mode": "online"}
        assert changed(plan_of(online), plan_of(online | {"labels.dtype": "float32"})) == ""

    def test_hard_labels_need_no_observer(self):
        plan = plan_of({"labels.mode": "online", "evaluate.loss": "ce", "observers.labels": ["wrn-16-2"]})
        assert [step.name for step in plan.steps if step.stage == "squeeze"] == ["resnet18"]

    @pytest.mark.parametrize(
        ("name", "value", "idle"),
        [
            ("evaluate.zeta", 1.5, {"evaluate.schedule": "multistep"}),
            ("evaluate.temperature", 30.0, {}),
            ("evaluate.momentum", 0.5, {}),
            ("evaluate.ce_weight", 0.1, {"evaluate.loss": "kl"}),
            ("evaluate.ema_batchnorm", "ema", {"evaluate.ema": 0.0}),
            ("labels.padding", 2, {}),
            ("labels.crop_scale", [0.08, 1.0], {"labels.crop_mode": "padded"}),
            ("evaluate.student_learning_rates", {"convnet-w128": 0.5, "convnet-w32": 1e-3}, {}),
        ],
    )
    def test_a_key_of_labels_or_evaluate_without_effect_touches_nothing(self, name, value, idle):
        assert changed(plan_of(idle), plan_of(idle | {name: value})) == ""

    def test_a_key_that_came_later_touches_nothing_at_the_value_that_was_meant_before(self):
        """What was computed when the key was not there yet is found again."""
        plan = plan_of({"diversity.weight": 1.0})
        for step in plan.steps:
            settings = {name: value for name, value in step.settings.items() if name not in NEUTRAL}
            inputs = {role: [plan.step(step_id).fingerprint for step_id in ids] for role, ids in step.inputs.items()}
            known = {"stage": step.stage, "version": VERSIONS[step.stage], "settings": settings, "inputs": inputs}
            assert step.fingerprint == digest(known)
        for name, value in NEUTRAL.items():
            assert value == (keys()[name].default if has_effect(plan.project, name) else None), name

    def test_one_students_learning_rate_touches_that_student_alone(self):
        two = {"evaluate.students": ["convnet-w32", "convnet-d1"]}
        before, after = plan_of(two), plan_of(two | {"evaluate.student_learning_rates": {"convnet-d1": 0.5}})
        new = [step for step in after.steps if step not in before.steps]
        assert {step.settings["student"] for step in new} == {"convnet-d1"}
        assert {step.settings["evaluate.learning_rate"] for step in new} == {0.5}
        assert {step.stage for step in new} == {"evaluate"} and {step.settings["set"] for step in new} == {"condensed", "random", "full"}

    def test_keys_that_two_stages_share_are_in_both(self):
        """Stored labels belong to the views, so both see what draws them; a student sees no key of the observers' training."""
        plan = plan_of()
        views = {name for name in plan.step("relabel/condensed").settings if name.startswith(("evaluate.", "labels."))}
        student = set(plan.step("evaluate/condensed-convnet-w32-seed0").settings)
        assert views - {*STORAGE, "labels.ensemble", "labels.teacher_batchnorm"} <= student
        assert not any(name.startswith(("squeeze.", "match.")) for name in student)


class TestOrder:
    def test_stages_follow_each_other_and_every_input_comes_before(self):
        plan = plan_of({"initialise.source": "rded"})
        stages = [STAGES.index(step.stage) for step in plan.steps]
        assert stages == sorted(stages)
        seen = set()
        for step in plan.steps:
            assert {step_id for ids in step.inputs.values() for step_id in ids} <= seen, step.id
            seen.add(step.id)

    def test_the_whole_plan_of_a_small_project(self):
        plan = plan_of({"evaluate.seeds": [0], "observers.labels": ["wrn-16-2"]})
        assert [(step.id, {role: list(ids) for role, ids in step.inputs.items()}) for step in plan.steps] == [
            ("squeeze/resnet18", {}),
            ("squeeze/wrn-16-2", {}),
            ("statistics/resnet18", {"observer": ["squeeze/resnet18"]}),
            ("initialise/condensed", {}),
            ("initialise/random-seed0", {}),
            (
                "synthesise/condensed",
                {"images": ["initialise/condensed"], "observers": ["squeeze/resnet18"], "tables": ["statistics/resnet18"]},
            ),
            ("relabel/condensed", {"images": ["synthesise/condensed"], "observers": ["squeeze/wrn-16-2"]}),
            ("relabel/random-seed0", {"images": ["initialise/random-seed0"], "observers": ["squeeze/wrn-16-2"]}),
            ("evaluate/condensed-convnet-w32-seed0", {"images": ["synthesise/condensed"], "labels": ["relabel/condensed"]}),
            ("evaluate/random-convnet-w32-seed0", {"images": ["initialise/random-seed0"], "labels": ["relabel/random-seed0"]}),
            ("evaluate/condensed-convnet-w32-seed0-hard", {"images": ["synthesise/condensed"]}),
            ("evaluate/random-convnet-w32-seed0-hard", {"images": ["initialise/random-seed0"]}),
            ("evaluate/full-convnet-w32-seed0", {}),
        ]
        assert [step.folder for step in plan.steps][:3] == ["1-squeeze/resnet18", "1-squeeze/wrn-16-2", "2-statistics/resnet18"]

    def test_matching_batch_norm_alone_needs_no_tables(self):
        plan = plan_of({"match.layers": "bn", "match.patch_size": 0, "match.w_class": 0.0})
        assert not [step for step in plan.steps if step.stage == "statistics"]
        assert set(plan.step("synthesise/condensed").inputs) == {"images", "observers"}
        assert [step for step in plan_of({"match.layers": "bn", "match.patch_size": 0}).steps if step.stage == "statistics"]

    def test_rded_asks_the_first_observer_and_optimises_nothing(self):
        resolved, _ = resolve({"dataset.name": "folder", "condense.method": "rded", "condense.ipc": 2}, resolution=32)
        plan = make_plan(resolved.project, source_of(), device="cpu", precision="float32")
        assert [step.stage for step in plan.steps][:3] == ["squeeze", "initialise", "initialise"]
        assert plan.step("initialise/condensed").inputs == {"scorer": ("squeeze/resnet18",)}
        assert plan.condensed == plan.step("initialise/condensed")
        assert plan.condensed.settings["save"] is not None

    def test_a_plan_may_end_early(self):
        for index, stage in enumerate(STAGES):
            assert {step.stage for step in plan_of(until=stage).steps} == set(STAGES[: index + 1])
        assert plan_of(until="initialise").condensed is None
        assert plan_of(until="synthesise").condensed.id == "synthesise/condensed"

    @pytest.mark.parametrize("until", ["statistics", "initialise", "synthesise"])
    def test_observers_that_only_label_are_not_trained_for_a_plan_that_ends_before_labels(self, until):
        for mode in ("stored", "online"):
            given = {"observers.labels": ["resnet18", "wrn-16-2"], "labels.mode": mode}
            trained = [step.name for step in plan_of(given, until=until).steps if step.stage == "squeeze"]
            assert trained == ["resnet18"]
            assert {step.name for step in plan_of(given, until="squeeze").steps} == {"resnet18", "wrn-16-2"}
            assert {step.name for step in plan_of(given).steps if step.stage == "squeeze"} == {"resnet18", "wrn-16-2"}

    def test_labels_stored_early_ask_all_observers_that_label(self):
        given = {"observers.labels": ["wrn-16-2"]}
        assert [step.name for step in plan_of(given, until="relabel").steps if step.stage == "squeeze"] == ["resnet18", "wrn-16-2"]
        online = plan_of(given | {"labels.mode": "online"}, until="relabel")
        assert [step.name for step in online.steps if step.stage == "squeeze"] == ["resnet18"]

    def test_a_plan_that_ends_early_shares_its_steps_with_the_whole(self):
        whole = {step.id: step.fingerprint for step in plan_of().steps}
        early = {step.id: step.fingerprint for step in plan_of(until="synthesise").steps}
        assert early.items() <= whole.items()
        assert plan_of(until="synthesise").fingerprint != plan_of().fingerprint


class TestControls:
    """What the condensed set is held against, and how its images come about."""

    def steps(self, given, **more):
        plan = plan_of({"labels.mode": "online", "evaluate.seeds": [0]} | given, **more)
        return {step.id: step for step in plan.steps}

    def test_every_set_is_trained_with_soft_and_with_hard_labels_as_far_as_that_says_anything(self):
        controls = ["random", "noise", "initial", "easy", "medium", "herding", "k-center", "equal-bytes", "full", "full-soft"]
        steps = self.steps({"evaluate.controls": controls})
        rows = {(step.facts["set"], step.facts["labels"]) for step in steps.values() if step.stage == "evaluate"}
        both = ["condensed", "random", "initial", "easy", "medium", "herding", "k-center", "full"]
        assert rows == {(name, labels) for name in both for labels in ("online", "hard")} | {("noise", "online"), ("equal-bytes", "hard")}

    def test_a_coreset_is_one_for_all_seeds_and_ranked_by_the_first_observer_that_labels(self):
        steps = self.steps({"evaluate.controls": ["herding"], "evaluate.seeds": [0, 1], "observers.labels": ["wrn-16-2", "resnet18"]})
        assert steps["initialise/herding"].inputs == {"scorer": ("squeeze/wrn-16-2",)}
        assert [name for name in steps if name.startswith("initialise/herding")] == ["initialise/herding"]

    def test_the_images_before_synthesis_are_those_that_it_starts_from(self):
        steps = self.steps({"evaluate.controls": ["initial"]})
        assert steps["evaluate/initial-convnet-w32-seed0"].inputs["images"] == ("initialise/condensed",)
        alone = self.steps({"evaluate.controls": ["initial"], "synthesise.enabled": False})
        assert not [name for name in alone if name.startswith("evaluate/initial")]

    def test_equal_bytes_has_as_many_real_images_as_fit_in_images_and_labels(self):
        """30 images of 32 px and their float16 logits over 3 classes for 100 epochs are 92,160 + 18,000 bytes: 35 images, 11 a class."""
        steps = self.steps({"evaluate.controls": ["equal-bytes"], "labels.mode": "stored", "evaluate.epochs": 100})
        assert steps["initialise/equal-bytes-seed0"].settings["ipc"] == 11
        assert steps["evaluate/equal-bytes-convnet-w32-seed0-hard"].cost["images"] == 100 * 33

    def test_equal_bytes_counts_the_teachers_that_are_asked_online_and_never_exceeds_the_smallest_class(self):
        steps = self.steps({"evaluate.controls": ["equal-bytes"], "condense.ipc": 1})
        assert steps["initialise/equal-bytes-seed0"].settings["ipc"] == 30

    def test_all_methods_share_noise_and_coresets(self):
        names = ["noise", "easy", "k-center"]
        before = plan_of({"evaluate.controls": names})
        for other in ({"condense.seed": 7}, {"match.weight": 0.5}, {"synthesise.enabled": False}, {"initialise.source": "noise"}):
            after = {step.id: step.fingerprint for step in plan_of({"evaluate.controls": names} | other).steps}
            for step in before.steps:
                if step.name.startswith(tuple(names)):
                    assert after[step.id] == step.fingerprint


class TestEvaluations:
    """Protocols and label regimes: which trainings there are, and what they are called."""

    def rows(self, given):
        plan = plan_of({"evaluate.seeds": [0], "evaluate.controls": []} | given)
        return {step.name: step for step in plan.steps if step.stage == "evaluate"}

    @pytest.mark.parametrize(
        ("given", "regime"),
        [
            ({"labels.mode": "online"}, "online"),
            ({"labels.mode": "stored"}, "epoch-soft"),
            ({"labels.mode": "fixed"}, "fixed-soft"),
            ({"labels.mode": "online", "evaluate.loss": "ce"}, "hard"),
        ],
    )
    def test_every_result_says_its_label_regime_and_a_hard_row_is_always_among_them(self, given, regime):
        regimes = [step.facts["labels"] for step in self.rows(given).values()]
        assert regimes == ([regime] if regime == "hard" else [regime, "hard"])

    def test_both_protocols_in_one_run_stand_apart(self):
        rows = self.rows({"evaluate.protocol": "both"})
        assert [(name, step.facts["protocol"], step.facts["labels"]) for name, step in rows.items()] == [
            ("condensed-convnet-w32-seed0", "published", "epoch-soft"),
            ("condensed-convnet-w32-seed0-hard", "published", "hard"),
            ("condensed-convnet-w32-seed0-common", "common", "online"),
            ("condensed-convnet-w32-seed0-common-hard", "common", "hard"),
        ]

    def test_the_common_protocol_is_that_of_rd3(self):
        given = {"evaluate.protocol": "common", "evaluate.students": ["resnet18", "convnet-w32"], "evaluate.ema": 0.9}
        rows = self.rows(given | {"evaluate.student_learning_rates": {"resnet18": 0.5}})
        own, other = (rows[f"condensed-{student}-seed0-common"].settings for student in ("resnet18", "convnet-w32"))
        names = ("epochs", "batch_size", "loss", "optimizer", "learning_rate", "schedule", "zeta", "randaugment", "ema")
        assert [own[f"evaluate.{name}"] for name in names] == [400, 50, "kl", "adam", 1e-3, "cosine", 1.0, False, 0.0]
        assert {name for name in own if own[name] != other[name]} == {"student", "evaluate.zeta"} and other["evaluate.zeta"] == 2.0
        assert (own["labels.mix"], own["labels.flip"], own["labels.crop_scale"]) == ("cutmix", True, [0.08, 1.0])
        assert own["observers"] == ["resnet18"]

    def test_the_common_protocol_is_the_same_whatever_the_methods_own(self):
        rows = self.rows({"evaluate.protocol": "common"})
        others = self.rows({"evaluate.protocol": "common", "evaluate.loss": "dist", "labels.mode": "online", "labels.mix": "none"})
        assert {name: step.fingerprint for name, step in rows.items()} == {name: step.fingerprint for name, step in others.items()}

    def test_a_search_trains_every_rate_once_and_the_headline_takes_the_best(self):
        plan = plan_of({"evaluate.search_learning_rates": [0.1, 0.01], "evaluate.controls": ["random"], "evaluate.hard_labels": False})
        searched = [step for step in plan.steps if "search" in step.facts]
        assert [(step.facts["set"], step.facts["search"], step.facts["seed"]) for step in searched] == [
            *(("condensed", rate, 0) for rate in (0.1, 0.01)),
            *(("random", rate, 0) for rate in (0.1, 0.01)),
        ]
        assert {step.settings["measured_on"] for step in searched} == {"validation"}
        for seed in (0, 1):
            step = plan.step(f"evaluate/condensed-convnet-w32-seed{seed}")
            assert step.inputs["search"] == ("evaluate/condensed-convnet-w32-seed0-lr0.1", "evaluate/condensed-convnet-w32-seed0-lr0.01")
            assert step.settings["evaluate.learning_rate"] is None


class TestSharing:
    def shared(self, given, stages):
        """Return, for each step of `stages`, the fingerprints that the shipped methods give it on Fashion-MNIST."""
        found = {}
        for method in method_names():
            resolved, problems = resolve({"dataset.name": "fashion-mnist", "condense.method": method, **given}, resolution=32)
            assert problems == [], method
            plan = make_plan(resolved.project, source_of(), device="cpu", precision="float32")
            for step in plan.steps:
                if step.id.startswith(stages):
                    found.setdefault(step.id, set()).add(step.fingerprint)
        return found

    def test_all_methods_share_observers_and_tables(self):
        observers = ["resnet18", "wrn-16-2"]
        found = self.shared(
            {"condense.ipc": 5, "observers.synthesis": observers, "observers.labels": observers}, ("squeeze/", "statistics/")
        )
        assert set(found) == {f"{stage}/{name}" for stage in ("squeeze", "statistics") for name in observers}
        assert all(len(prints) == 1 for prints in found.values())

    def test_under_one_evaluation_all_methods_share_the_controls(self):
        """Keys that then have no effect (SRe2L's temperature, EDC's milestones) still differ between the methods' files."""
        one_evaluation = {
            "condense.ipc": 5,
            "observers.labels": ["resnet18"],
            "labels.mode": "online",
            "labels.ensemble": "mean",
            "labels.crop_mode": "fixed",
            "labels.crop_scale": [0.5, 1.0],
            "labels.mix": "cutmix",
            "evaluate.controls": ["random", "full"],
            "evaluate.loss": "mse_ce",
            "evaluate.ce_weight": 0.025,
            "evaluate.optimizer": "adamw",
            "evaluate.learning_rate": 1e-3,
            "evaluate.weight_decay": 0.01,
            "evaluate.schedule": "cosine",
            "evaluate.zeta": 2.0,
            "evaluate.epochs": 300,
            "evaluate.batch_size": 25,
            "evaluate.randaugment": True,
            "evaluate.ema": 0.99,
        }
        found = self.shared(one_evaluation, ("evaluate/random", "evaluate/full"))
        assert len(found) == 9
        assert all(len(prints) == 1 for prints in found.values())

    def test_the_random_control_of_a_seed_does_not_depend_on_how_the_condensed_set_came_about(self):
        for other in ({"condense.seed": 7}, {"match.weight": 0.5}, {"synthesise.enabled": False}, {"save.format": "png"}):
            assert not set(changed(plan_of(), plan_of(other))) & set("ileF")

    def test_each_seed_of_the_control_has_images_of_its_own(self):
        plan = plan_of()
        first, second = plan.step("initialise/random-seed0"), plan.step("initialise/random-seed1")
        assert first.fingerprint != second.fingerprint
        assert (first.settings["seed"], second.settings["seed"]) == (0, 1)


class TestCost:
    def cost(self, step_id, values=None, **source):
        return plan_of(values, source=source_of(**source)).step(step_id).cost

    def test_squeeze_sees_every_image_every_epoch(self):
        """120 images in batches of 50 are 3 steps an epoch."""
        assert self.cost("squeeze/resnet18", {"squeeze.epochs": 4, "squeeze.batch_size": 50}) == {"images": 480, "iterations": 12}

    def test_squeeze_up_to_a_tenth_epoch_is_shorter(self):
        """Of 25 epochs the release keeps that of index 20, the 21st."""
        values = {"squeeze.epochs": 25, "squeeze.batch_size": 120, "squeeze.checkpoint": "every10"}
        assert self.cost("squeeze/resnet18", values) == {"images": 21 * 120, "iterations": 21}

    def test_statistics_see_every_image_once(self):
        assert self.cost("statistics/resnet18") == {"images": 120}

    def test_condensed_images_are_three_bytes_a_pixel(self):
        """3 classes of 10 images of 32 x 32 x 3 bytes."""
        assert self.cost("initialise/condensed") == {"images": 30, "bytes": 30 * 3072}
        assert self.cost("initialise/condensed", resolution=64)["bytes"] == 30 * 3 * 64 * 64

    @pytest.mark.parametrize(
        ("size", "statistics", "batches"), [(0, 0, 1), (30, 0, 1), (100, 0, 1), (10, 5, 3), (20, 0, 2), (0, 7, 2), (8, 4, 5)]
    )
    def test_synthesis_takes_its_iterations_for_each_batch(self, size, statistics, batches):
        """30 images: batches of 20 leave one of 10; statistics batches of 7 leave one of 2; batches of 8 leave 6, which are 4 and 2."""
        cost = self.cost("synthesise/condensed", {"batch.size": size, "batch.statistics": statistics, "synthesise.iterations": 9})
        assert cost == {"images": 30, "iterations": 9 * batches, "bytes": 30 * 3072}

    def test_batches_of_one_image_of_each_class_hold_no_more_than_there_are_classes(self):
        """3 classes of 10 images: ten batches of three, or each of them cut into two and one."""
        given = {"batch.order": "one_per_class", "synthesise.iterations": 9}
        plans = [plan_of(given | {"batch.size": size}) for size in (0, 3, 100)]
        assert {plan.step("synthesise/condensed").cost["iterations"] for plan in plans} == {90}
        assert {plan.step("synthesise/condensed").settings["batch.size"] for plan in plans} == {3}
        assert len({plan.fingerprint for plan in plans}) == 1
        assert self.cost("synthesise/condensed", given | {"batch.size": 2})["iterations"] == 180

    @pytest.mark.parametrize("images", [1, 10, 29, 30, 31])
    def test_batches_are_counted_as_they_are_cut(self, images):
        for size in range(32):
            for statistics in range(32):
                count = 0
                for first in range(0, images, size or images):
                    left = min(size or images, images - first)
                    group = min(statistics or left, left)
                    count += 1 if left % group == 0 else 2
                assert batch_count(images, size=size, statistics=statistics) == count, (size, statistics)

    def test_stored_labels_are_logits_of_every_view(self):
        """30 images, 7 epochs, 3 classes, 2 or 4 bytes."""
        assert self.cost("relabel/condensed", {"evaluate.epochs": 7}) == {"images": 210, "bytes": 210 * 3 * 2}
        assert self.cost("relabel/condensed", {"evaluate.epochs": 7, "labels.dtype": "float32"})["bytes"] == 210 * 3 * 4

    @pytest.mark.parametrize(
        ("stored", "row"),
        [
            ({"labels.storage": "8-bit"}, 3 + 2 + 2),
            ({"labels.storage": "8-bit", "labels.dtype": "float32"}, 3 + 4 + 4),
            ({"labels.storage": "top-k", "labels.top_k": 2}, 2 * (2 + 1) + 2),
            ({"labels.storage": "top-k", "labels.top_k": 1, "labels.dtype": "float32"}, 4 + 1 + 4),
        ],
    )
    def test_packed_labels_take_the_bytes_of_their_rows(self, stored, row):
        assert self.cost("relabel/condensed", {"evaluate.epochs": 7} | stored)["bytes"] == 210 * row

    def test_top_k_must_leave_a_class_out(self):
        with pytest.raises(UserError, match=r"^labels.top_k: 3 of 3 classes leaves none out; use at most 2, or labels.storage = \"full\"$"):
            plan_of({"labels.storage": "top-k", "labels.top_k": 3})
        assert plan_of({"labels.storage": "top-k", "labels.top_k": 3, "labels.mode": "online"}).steps

    def test_a_student_takes_the_steps_of_its_epochs(self):
        """30 images in batches of 8 are 4 steps; the whole 120 in batches of 50 are 3."""
        values = {"evaluate.epochs": 7, "evaluate.batch_size": 8, "evaluate.full_epochs": 2, "evaluate.full_batch_size": 50}
        assert self.cost("evaluate/condensed-convnet-w32-seed0", values) == {"images": 210, "iterations": 28}
        assert self.cost("evaluate/full-convnet-w32-seed0", values) == {"images": 240, "iterations": 6}

    def test_a_last_image_alone_makes_no_step(self):
        assert [steps_an_epoch(images, 10) for images in (1, 9, 10, 11, 12, 20, 21)] == [1, 1, 1, 1, 2, 2, 2]
        assert steps_an_epoch(3, 1) == 3


class TestRefusals:
    def test_more_images_than_the_smallest_class_has(self):
        with pytest.raises(UserError) as error:
            plan_of({"condense.ipc": 31})
        assert str(error.value) == ("condense.ipc: 31 images per class, but class 'b' of folder has 30 training images; use at most 30")
        plan_of({"condense.ipc": 30})

    def test_more_crops_than_the_smallest_class_has_images(self):
        tiled = {"initialise.source": "rded", "rded.factor": 2}
        with pytest.raises(UserError) as error:
            plan_of({"condense.ipc": 8, **tiled})
        assert str(error.value) == (
            "condense.ipc: 8 images of 4 crops per class, but class 'b' of folder has 30 training images; use at most 7"
        )
        plan_of({"condense.ipc": 7, **tiled})
        with pytest.raises(UserError, match="lower rded.factor"):
            plan_of({"condense.ipc": 1, "initialise.source": "rded", "rded.factor": 6})


def test_planning_loads_neither_torch_nor_textual():
    code = (
        "import sys, engine.project.files, engine.project.plan, engine.project.frozen, engine.models.registry; "
        "from engine.project.files import load_project; "
        "sys.exit(bool({'torch', 'textual', 'torchvision', 'timm', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
