"""The schema: every key is typed, ranged and explained, and none of the papers' settings is missing."""

import re

import pytest
from pydantic import ValidationError

from engine.project.resolve import validate
from engine.project.schema import SECTIONS, Project, keys

# Each row of methods.md section 7 and the keys that stand for it here. A constant that no paper varies is no key: RDED's crops are
# always square and its scorer always pads with zeros.
SECTION_7 = {
    "synth.enabled": "synthesise.enabled",
    "observers.synth": "observers.synthesis",
    "observers.label": "observers.labels",
    "observers.rotation": "observers.rotation",
    "init.source": "initialise.source",
    "init.replacement": "initialise.replacement",
    "init.shuffle_patches": "initialise.shuffle_patches",
    "rded.factor": "rded.factor",
    "rded.mipc": "rded.candidates",
    "rded.num_crop": "rded.crops",
    "rded.tile_order": "rded.tile_order",
    "match.layers": "match.layers",
    "match.patch_size": "match.patch_size",
    "match.first_multiplier": "match.first_multiplier",
    "match.weight": "match.weight",
    "match.w_global": "match.w_global",
    "match.w_class": "match.w_class",
    "match.class_form": "match.class_form",
    "match.class_source": "match.class_source",
    "match.class_var": "match.class_variance",
    "match.ema_momentum": "match.ema_momentum",
    "match.ema_init": "match.ema_start",
    "match.ema_reset_per_batch": "match.ema_reset",
    "match.conv_drop": "match.conv_drop",
    "match.norm": "match.norm",
    "flatness.impl": "flatness.kind",
    "flatness.weight": "flatness.weight",
    "flatness.beta": "flatness.beta",
    "flatness.tau": "flatness.tau",
    "flatness.reduction": "flatness.reduction",
    "diversity.nuc_weight": "diversity.weight",
    "diversity.tau": "diversity.tau",
    "prior.tv": "prior.tv",
    "prior.l2": "prior.l2",
    "aug.crop_mode": "augment.crop_mode",
    "aug.crop_mode milestone": "augment.milestone",
    "aug.crop_mode padcrop": "augment.padding",
    "aug.crop_scale": "augment.crop_scale",
    "aug.flip": "augment.flip",
    "aug.roll": "augment.roll",
    "aug.per_image": "augment.per_image",
    "batch.order": "batch.order",
    "batch.size": "batch.size",
    "batch.stat_batch": "batch.statistics",
    "optim.iters": "synthesise.iterations",
    "optim.lr": "synthesise.learning_rate",
    "optim.betas": "synthesise.betas",
    "optim.schedule": "synthesise.schedule",
    "save.format": "save.format",
    "save.format jpeg(q)": "save.quality",
    "label.mode": "labels.mode",
    "label.ensemble": "labels.ensemble",
    "label.crop_scale": "labels.crop_scale",
    "label.mix": "labels.mix",
    "label.dtype": "labels.dtype",
    "label.teacher_bn": "labels.teacher_batchnorm",
    "eval.loss": "evaluate.loss",
    "eval.ce_weight": "evaluate.ce_weight",
    "eval.ce_target": "evaluate.ce_target",
    "eval.kl_T2_scale": "evaluate.temperature_squared",
    "eval.loss T": "evaluate.temperature",
    "eval.optimizer": "evaluate.optimizer",
    "eval.lr": "evaluate.learning_rate",
    "eval.wd": "evaluate.weight_decay",
    "eval.schedule": "evaluate.schedule",
    "eval.zeta": "evaluate.zeta",
    "eval.batch_size": "evaluate.batch_size",
    "eval.epochs": "evaluate.epochs",
    "eval.randaugment": "evaluate.randaugment",
    "eval.shuffle_patches": "evaluate.shuffle_patches",
    "eval.ema_rate": "evaluate.ema",
    "eval.ema_bn": "evaluate.ema_batchnorm",
    "eval.select": "evaluate.select",
    "squeeze.ckpt": "squeeze.checkpoint",
    "compat.profile": "condense.compat",
    "compat.swap_class_patch": "match.swap_class_patch",
    "compat.double_global_conv": "match.double_global_conv",
}

# Every choice that section 7 lists, in the words of the schema.
CHOICES = {
    "observers.rotation": ["round_robin", "random", "all"],
    "initialise.source": ["noise", "real", "rded"],
    "initialise.replacement": ["never", "always", "usage"],
    "rded.tile_order": ["stratified", "consecutive"],
    "match.layers": ["bn", "bn+conv"],
    "match.class_form": ["batch_mean", "per_class_sum"],
    "match.class_source": ["table", "sampled_real"],
    "match.class_variance": ["pooled", "within_image"],
    "match.ema_start": ["first", "debias", "zero"],
    "match.norm": ["l2", "l2_squared"],
    "flatness.kind": ["off", "logit_ema", "stat_ema", "two_crop", "sam"],
    "augment.crop_mode": ["fixed", "padded", "curriculum_step", "curriculum_linear", "curriculum_cosine"],
    "batch.order": ["class_major", "one_per_class"],
    "save.format": ["png", "jpeg", "tensor"],
    "labels.mode": ["stored", "online"],
    "labels.ensemble": ["mean", "norm_mean"],
    "labels.mix": ["none", "cutmix", "mixup"],
    "labels.dtype": ["float16", "float32"],
    "labels.storage": ["full", "top-k", "8-bit"],
    "labels.teacher_batchnorm": ["eval", "train"],
    "evaluate.loss": ["kl", "mse_ce", "dist", "ce"],
    "evaluate.ce_target": ["base", "mixed"],
    "evaluate.schedule": ["cosine", "ssrs", "linear", "multistep", "alrs", "linear_zeta"],
    "evaluate.ema_batchnorm": ["online", "ema", "recalibrate"],
    "evaluate.select": ["last", "best_on_test"],
    "squeeze.checkpoint": ["last", "every10"],
    "condense.compat": ["fixed", "edc-head", "edc-9836066"],
}

# The least and greatest value that a key may have, and one beyond each.
RANGES = {
    "dataset.resolution": ([8, 1024], [7, 1025]),
    "condense.ipc": ([1], [0, -1]),
    "condense.seed": ([0], [-1]),
    "squeeze.epochs": ([1], [0]),
    "squeeze.learning_rate": ([1e-9], [0.0, -0.1]),
    "squeeze.momentum": ([0.0, 0.999], [1.0, -0.1]),
    "match.weight": ([0.0], [-0.01]),
    "match.w_class": ([0.0, 1.0], [-0.1, 1.1]),
    "match.w_global": ([0.0, 1.0], [-0.1, 1.1]),
    "match.ema_momentum": ([0.0, 0.99], [1.0]),
    "match.conv_drop": ([0.0, 0.99], [1.0]),
    "flatness.beta": ([0.0, 0.999], [1.0]),
    "flatness.tau": ([0.1], [0.0]),
    "augment.milestone": ([0.0, 1.0], [1.01]),
    "synthesise.betas": ([[0.0, 0.0]], [[0.5, 1.0], [0.5], [0.5, 0.5, 0.5]]),
    "augment.crop_scale": ([[0.0, 1.0]], [[0.5], [0.1, 1.5]]),
    "save.quality": ([1, 100], [0, 101]),
    "evaluate.zeta": ([1.0, 9.0], [0.99]),
    "evaluate.ema": ([0.0], [1.0]),
    "evaluate.students": ([["resnet18"]], [[]]),
    "evaluate.seeds": ([[0]], [[], [-1]]),
    "evaluate.milestones": ([[], [0.0, 1.0]], [[1.5]]),
    "observers.labels": ([["resnet18"]], [[]]),
}


@pytest.mark.parametrize("name", keys())
def test_every_key_is_explained_in_one_sentence_that_ends(name):
    help_text = keys()[name].description
    assert re.fullmatch(r"(?=.*[a-z])[^ ].{8,}\.", help_text), help_text
    assert "\n" not in help_text
    assert set(keys()[name].json_schema_extra) == {"paper", "unit"}


def test_every_section_says_what_it_is_for():
    assert all(model.__doc__ and model.__doc__.endswith(".") for model in SECTIONS.values())


def test_the_defaults_are_a_valid_project_and_of_their_own_types():
    assert Project.model_validate(Project().model_dump()) == Project()


@pytest.mark.parametrize(("row", "name"), SECTION_7.items())
def test_no_setting_of_the_papers_is_missing(row, name):
    assert name in keys()


def test_every_listed_choice_can_be_made():
    for name, choices in CHOICES.items():
        for choice in choices:
            project, problems = validate({name: choice})
            assert project is not None, problems


def test_a_range_includes_its_ends_and_excludes_what_lies_beyond():
    for name, (inside, outside) in RANGES.items():
        for value in inside:
            assert validate({name: value})[0] is not None, (name, value)
        for value in outside:
            assert validate({name: value})[0] is None, (name, value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_is_infinite_or_none(value):
    for name, field in keys().items():
        if isinstance(field.default, float):
            assert validate({name: value})[0] is None, name


def test_types_are_not_guessed():
    for name, wrong in {
        "condense.ipc": "10",
        "condense.seed": True,
        "evaluate.zeta": "2",
        "augment.flip": 1,
        "evaluate.students": "resnet18",
        "dataset.name": 3,
        "evaluate.seeds": [0.0],
    }.items():
        assert validate({name: wrong})[0] is None, name


def test_a_whole_number_serves_where_a_fraction_may_stand_and_means_the_same():
    whole, _ = validate({"match.weight": 1})
    fraction, _ = validate({"match.weight": 1.0})
    assert whole == fraction
    assert type(whole.match.weight) is float


def test_a_misspelt_key_of_a_section_is_refused():
    with pytest.raises(ValidationError):
        Project.model_validate({"match": {"wieght": 1.0}})
