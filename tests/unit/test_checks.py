"""Combinations of keys that make no sense are refused in one line; those that make sense are not."""

import pytest
from small_datasets import RESOLUTIONS

from engine.errors import UserError
from engine.models.registry import check_model, list_models, normalisation
from engine.project.checks import INEFFECTIVE, combination_problems, has_effect, in_use, student_learning_rate
from engine.project.resolve import method_names, resolve
from engine.project.schema import Project, keys

DATASETS = RESOLUTIONS | {"folder": 32, "unheard-of": 48}


def problems(resolution=32, **given):
    """Return the problems of a project on an unknown dataset (so that only the method's general values count) as `key: message`."""
    flat = {"dataset.name": "folder", "condense.ipc": 1} | {name.replace("__", "."): value for name, value in given.items()}
    resolved, found = resolve(flat, resolution=resolution)
    assert resolved is not None, found
    return [f"{problem.key}: {problem.message}" for problem in combination_problems(resolved)]


MINE = {"initialise.source": "files", "initialise.path": "mine.safetensors", "synthesise.enabled": False}
BN_ONLY = {"match.layers": "bn", "match.patch_size": 0, "observers.synthesis": ["resnet18"]}

# What makes each key of the table ineffective, a value for it, and what makes it effective again.
WITHOUT_EFFECT = [
    ("evaluate.zeta", 1.5, {"evaluate.schedule": "multistep"}, {"evaluate.schedule": "ssrs"}),
    ("evaluate.zeta", 1.5, {"evaluate.schedule": "linear"}, {"evaluate.schedule": "linear_zeta"}),
    ("evaluate.zeta", 1.5, {"evaluate.schedule": "alrs", "evaluate.gamma": 0.99}, {"evaluate.schedule": "cosine"}),
    ("evaluate.milestones", [0.5], {}, {"evaluate.schedule": "multistep"}),
    ("evaluate.gamma", 0.99, {}, {"evaluate.schedule": "multistep"}),
    ("evaluate.gamma", 0.99, {"evaluate.schedule": "ssrs"}, {"evaluate.schedule": "alrs"}),
    ("evaluate.temperature", 4.0, {}, {"evaluate.loss": "kl"}),
    ("evaluate.temperature", 4.0, {"evaluate.loss": "ce"}, {"evaluate.loss": "dist"}),
    ("evaluate.temperature_squared", True, {"evaluate.loss": "dist"}, {"evaluate.loss": "kl"}),
    ("evaluate.ce_weight", 0.1, {"evaluate.loss": "kl"}, {"evaluate.loss": "mse_ce"}),
    ("evaluate.ce_target", "mixed", {"evaluate.loss": "ce"}, {"evaluate.loss": "mse_ce"}),
    ("evaluate.ema_batchnorm", "online", {"evaluate.ema": 0.0}, {"evaluate.ema": 0.9}),
    ("evaluate.momentum", 0.8, {}, {"evaluate.optimizer": "sgd"}),
    ("evaluate.full_epochs", 3, {}, {"evaluate.controls": ["full"]}),
    ("evaluate.full_batch_size", 3, {"evaluate.controls": []}, {"evaluate.controls": ["random", "full"]}),
    ("match.class_form", "per_class_sum", {"match.w_class": 0.0}, {"match.w_class": 0.1}),
    ("match.class_source", "sampled_real", {"match.w_class": 0.0}, {"match.w_class": 0.1}),
    ("match.class_variance", "within_image", {"match.w_class": 0.0}, {"match.w_class": 1.0}),
    ("match.swap_class_patch", True, {"match.w_class": 0.0}, {"match.w_class": 1.0}),
    ("match.ema_start", "zero", {"match.ema_momentum": 0.0}, {"match.ema_momentum": 0.5}),
    (
        "match.ema_reset",
        False,
        {"match.ema_momentum": 0.0, "observers.synthesis": ["resnet18"]},
        {"match.ema_momentum": 0.0, "observers.synthesis": ["resnet18", "wrn-16-2"]},
    ),
    ("match.ema_reset", False, {"match.ema_momentum": 0.0, "observers.rotation": "all"}, {"match.ema_momentum": 0.5}),
    ("match.conv_drop", 0.4, BN_ONLY, {"match.layers": "bn+conv"}),
    ("match.double_global_conv", True, BN_ONLY, {"match.layers": "bn+conv"}),
    ("flatness.weight", 1.0, {"flatness.kind": "off"}, {"flatness.kind": "two_crop"}),
    ("flatness.weight", 1.0, {"flatness.kind": "sam"}, {"flatness.kind": "stat_ema"}),
    ("flatness.beta", 0.9, {"flatness.kind": "two_crop"}, {"flatness.kind": "stat_ema"}),
    ("flatness.tau", 2.0, {"flatness.kind": "stat_ema"}, {"flatness.kind": "two_crop"}),
    ("flatness.reduction", "mean", {"flatness.kind": "sam"}, {"flatness.kind": "logit_ema"}),
    ("flatness.rho", 0.1, {}, {"flatness.kind": "sam"}),
    ("diversity.tau", 2.0, {}, {"diversity.weight": 1.0}),
    ("diversity.normalise", True, {}, {"diversity.weight": 1.0}),
    ("augment.milestone", 0.5, {}, {"augment.crop_mode": "curriculum_step"}),
    ("augment.padding", 2, {}, {"augment.crop_mode": "padded"}),
    ("augment.crop_scale", [0.3, 1.0], {"augment.crop_mode": "padded"}, {"augment.crop_mode": "curriculum_linear"}),
    ("augment.crop_scale", [0.3, 1.0], {"augment.crop_mode": "none"}, {"augment.crop_mode": "fixed"}),
    ("initialise.replacement", "always", {"initialise.source": "noise"}, {"initialise.source": "real"}),
    ("initialise.replacement", "usage", {"initialise.source": "rded"}, {"initialise.source": "real"}),
    ("rded.factor", 2, {}, {"initialise.source": "rded"}),
    ("rded.candidates", 200, {"initialise.source": "noise"}, {"initialise.source": "rded"}),
    ("rded.crops", 2, {}, {"initialise.source": "rded"}),
    ("rded.crop_scale", [0.2, 1.0], {}, {"initialise.source": "rded"}),
    ("rded.tile_order", "consecutive", {"initialise.source": "rded"}, {"initialise.source": "rded", "rded.factor": 2}),
    ("labels.crop_scale", [0.3, 1.0], {"labels.crop_mode": "padded"}, {"labels.crop_mode": "fixed"}),
    ("labels.padding", 2, {}, {"labels.crop_mode": "padded"}),
    ("evaluate.student_learning_rates", {"wrn-16-2": 0.1}, {}, {"evaluate.students": ["resnet18", "wrn-16-2"]}),
    ("labels.dtype", "float32", {}, {"labels.mode": "stored"}),
    ("labels.storage", "8-bit", {}, {"labels.mode": "fixed"}),
    ("labels.top_k", 3, {"labels.mode": "stored"}, {"labels.mode": "stored", "labels.storage": "top-k"}),
    ("initialise.flip", False, MINE, {}),
    ("initialise.shuffle_patches", 2, MINE, {}),
    ("initialise.path", "mine.safetensors", {}, {"initialise.source": "files", "synthesise.enabled": False}),
    ("evaluate.common_epochs", 100, {}, {"evaluate.protocol": "both"}),
    ("evaluate.common_teacher", "wrn-16-2", {}, {"evaluate.protocol": "common"}),
    ("labels.ensemble", "norm_mean", {"evaluate.loss": "ce"}, {"evaluate.loss": "kl"}),
    ("labels.teacher_batchnorm", "train", {"evaluate.loss": "ce"}, {"evaluate.loss": "dist"}),
    ("squeeze.momentum", 0.5, {"squeeze.optimizer": "adamw"}, {"squeeze.optimizer": "sgd"}),
    ("squeeze.padding", 2, {"squeeze.crop_scale": [0.5, 1.0]}, {}),
    ("save.quality", 90, {"save.format": "png"}, {"save.format": "jpeg"}),
]


@pytest.mark.parametrize(("name", "value", "without", "effective"), WITHOUT_EFFECT)
def test_a_key_without_effect_is_refused_in_one_line(name, value, without, effective):
    (message,) = problems(**{name: value}, **without)
    assert message.startswith(f"{name}: {value!r} would have no effect: needs ")
    assert "\n" not in message
    assert problems(**{name: value}, **effective) == []


def test_the_table_above_has_every_key_that_can_be_without_effect():
    assert {name for name, *_ in WITHOUT_EFFECT} == {name for names, _, _ in INEFFECTIVE for name in names}


def test_keys_outside_the_table_always_have_an_effect():
    project = Project()
    assert all(has_effect(project, name) for name in set(keys()) - {name for names, _, _ in INEFFECTIVE for name in names})


def test_only_what_the_user_set_can_be_without_effect():
    """EDC's file sets milestones for CIFAR-10, whose schedule needs them; another schedule leaves them idle, which is nobody's mistake."""
    resolved, _ = resolve({"dataset.name": "cifar10", "evaluate.schedule": "cosine"}, resolution=32)
    assert resolved.project.evaluate.milestones == [0.8, 0.9, 0.95]
    assert combination_problems(resolved) == []


def test_a_learning_rate_of_a_network_that_is_no_student_is_a_slip_of_the_pen():
    given = {"evaluate.students": ["mobilenet-v2", "wrn-16-2"], "evaluate.student_learning_rates": {"mobilnet-v2": 0.1, "wrn-16-2": 0.2}}
    assert problems(**given) == [
        "evaluate.student_learning_rates: mobilnet-v2 is none of evaluate.students; did you mean mobilenet-v2?"
    ]
    rded = {"condense.method": "rded", "evaluate.students": ["mobilenet-v2"]}
    assert problems(**rded) == []  # its file has the rates of many


def test_a_network_written_with_underscores_has_the_learning_rate_of_its_name():
    project = Project.model_validate({"evaluate": {"student_learning_rates": {"swin-v2-t": 1e-4, "vit_b_16": 2e-4}}})
    assert [student_learning_rate(project, name) for name in ("swin_v2_t", "vit-b-16", "resnet18")] == [1e-4, 2e-4, None]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"evaluate.warmup_epochs": 5, "evaluate.epochs": 5}, "evaluate.warmup_epochs"),
        ({"match.layers": "bn", "observers.synthesis": ["resnet18"]}, "match.patch_size"),
        ({"match.w_global": 0.6}, "match.w_global"),
        ({"match.w_global": 0.5, "match.w_class": 0.6}, "match.w_global"),
        ({"condense.method": "rded", "synthesise.enabled": True}, "synthesise.enabled"),
        ({"condense.method": "random", "synthesise.enabled": True}, "synthesise.enabled"),
        ({"initialise.source": "noise", "synthesise.enabled": False}, "synthesise.enabled"),
        ({"initialise.source": "rded", "rded.factor": 2, "condense.ipc": 76}, "rded.candidates"),
        ({"initialise.source": "rded", "rded.candidates": 9, "condense.ipc": 10}, "rded.candidates"),
        ({"batch.size": 10, "batch.statistics": 20}, "batch.statistics"),
        ({"batch.size": 100, "batch.statistics": 30}, "batch.statistics"),
        ({"flatness.kind": "two_crop", "augment.crop_mode": "none"}, "flatness.kind"),
        ({"evaluate.loss": "ce", "labels.mode": "stored"}, "labels.mode"),
        ({"evaluate.schedule": "alrs"}, "evaluate.gamma"),
        ({"compute.device": "gpu"}, "compute.device"),
        ({"compute.device": "cuda:"}, "compute.device"),
        ({"compute.device": "cpu", "compute.precision": "float16"}, "compute.precision"),
        ({"augment.crop_scale": [0.0, 1.0]}, "augment.crop_scale"),
        ({"labels.crop_scale": [0.8, 0.5]}, "labels.crop_scale"),
        ({"initialise.source": "rded", "rded.crop_scale": [0.0, 0.0]}, "rded.crop_scale"),
        ({"observers.synthesis": ["resnet18", "wrn-16-2", "resnet18"]}, "observers.synthesis"),
        ({"observers.labels": ["resnet18", "resnet18"]}, "observers.labels"),
        ({"evaluate.students": ["resnet18", "resnet18"]}, "evaluate.students"),
        ({"evaluate.seeds": [0, 1, 0]}, "evaluate.seeds"),
        ({"evaluate.controls": ["random", "random"]}, "evaluate.controls"),
        ({"observers.synthesis": ["resnet19"]}, "observers.synthesis"),
        ({"observers.labels": ["alexnet"]}, "observers.labels"),
        ({"evaluate.students": ["convnet-d6"]}, "evaluate.students"),
        ({"condense.method": "sre2l", "observers.synthesis": ["convnet-w128"]}, "observers.synthesis"),
    ],
)
def test_values_that_exclude_each_other_are_refused_in_one_line(given, key):
    (message,) = problems(**given)
    assert message.startswith(f"{key}: ")
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize(
    "given",
    [
        BN_ONLY,
        {"match.w_global": 0.4, "match.w_class": 0.6},
        {"match.w_global": 0.0, "match.w_class": 1.0},
        {"initialise.source": "real", "synthesise.enabled": False},
        {"initialise.source": "rded", "rded.factor": 2, "condense.ipc": 75},
        {"batch.size": 100, "batch.statistics": 20},
        {"batch.size": 0, "batch.statistics": 30},
        {"evaluate.loss": "ce"},
        {"evaluate.loss": "dist", "labels.mode": "stored"},
        {"evaluate.schedule": "alrs", "evaluate.gamma": 0.9975},
        {"compute.device": "cuda:1", "compute.precision": "float16"},
        {"compute.device": "cpu", "compute.precision": "bfloat16"},
        {"labels.crop_scale": [1.0, 1.0]},
        {"condense.method": "sre2l", "observers.synthesis": ["convnet-w32-bn", "wrn-16-2"]},
        {"condense.method": "rded", "observers.synthesis": ["convnet-w128"]},
        {"evaluate.controls": []},
    ],
)
def test_what_makes_sense_is_accepted(given):
    assert problems(**given) == []


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_no_shipped_method_raises_an_alarm_on_any_dataset(method, ipc):
    for dataset, resolution in DATASETS.items():
        resolved, found = resolve({"dataset.name": dataset, "condense.method": method, "condense.ipc": ipc}, resolution=resolution)
        assert found == []
        assert combination_problems(resolved) == [], dataset


@pytest.mark.parametrize("compat", ["edc-head", "edc-9836066"])
@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_no_compat_profile_raises_an_alarm_on_any_dataset(compat, ipc):
    for dataset, resolution in DATASETS.items():
        resolved, found = resolve({"dataset.name": dataset, "condense.compat": compat, "condense.ipc": ipc}, resolution=resolution)
        assert found == []
        assert combination_problems(resolved) == [], dataset


@pytest.mark.parametrize(
    ("method", "used", "unused"),
    [
        ("edc", ["match.weight", "statistics.augmentation", "observers.rotation", "flatness.tau"], ["flatness.rho", "rded.factor"]),
        ("sre2l", ["match.weight", "observers.synthesis", "prior.tv"], ["statistics.augmentation", "match.class_form", "match.conv_drop"]),
        ("rded", ["rded.factor", "observers.synthesis", "synthesise.enabled", "save.format"], ["match.weight", "observers.rotation"]),
        ("random", ["initialise.replacement", "observers.labels", "evaluate.zeta"], ["observers.synthesis", "synthesise.iterations"]),
    ],
)
def test_a_key_is_in_use_where_it_has_an_effect_on_something_that_is_done(method, used, unused):
    resolved, _ = resolve({"condense.method": method, "dataset.name": "folder", "evaluate.schedule": "cosine"}, resolution=32)
    assert [name for name in used if not in_use(resolved.project, name)] == []
    assert [name for name in unused if in_use(resolved.project, name)] == []


def test_the_normalisation_of_a_network_is_known_by_name():
    known = {info.name: info.normalisation for info in list_models() if "<" not in info.name}
    assert {name: normalisation(name) for name in known} == known
    assert normalisation("convnet-d4-w64-bn") == "batch"
    assert normalisation("convnet-d4") == "instance"
    assert normalisation("resnet18-w16") == "batch"
    assert normalisation("resnext50-32x4d") is None


def test_models_are_checked_at_the_working_resolution():
    check_model("alexnet", 224)
    with pytest.raises(UserError):
        check_model("alexnet", 32)
    assert problems(resolution=224, **{"evaluate.students": ["alexnet"]}) == []
