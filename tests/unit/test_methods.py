"""The shipped methods: they say what the papers and releases say, and CONFIG A to G differ in what the paper names."""

import re

import pytest
from small_datasets import RESOLUTIONS

from engine.project.checks import student_learning_rate
from engine.project.resolve import COMPAT, METHODS, flatten, load_method, load_profile, method_names, resolve
from engine.project.schema import keys

DATASETS = RESOLUTIONS | {"folder": 32}
LADDER = ["g-vbsm", *(f"config-{letter}" for letter in "abcdefg")]
EIGHT = ["resnet18", "convnet-w128", "mobilenet-v2", "wrn-16-2", "shufflenet-v2-0.5", "convnet-d1", "convnet-d2", "convnet-w32"]
FIVE = EIGHT[:5]
FOUR = ["resnet18", "mobilenet-v2", "efficientnet-b0", "shufflenet-v2-0.5"]


def values(method, dataset, ipc=10, resolution=None, **given):
    """Return every resolved value of a method on a dataset, flat, without what names the two."""
    flat = {"dataset.name": dataset, "condense.method": method, "condense.ipc": ipc} | given
    resolved, problems = resolve(flat, resolution=resolution or DATASETS[dataset])
    assert problems == []
    return {name: value for name, value in flatten(resolved.project.model_dump()).items() if name not in ("title", "condense.method")}


def test_all_methods_of_the_project_are_there():
    assert method_names() == sorted(["random", "rded", "sre2l", "cda", "edc", *LADDER])


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_every_method_resolves_on_every_dataset(method, ipc):
    for dataset in DATASETS:
        assert values(method, dataset, ipc)["condense.ipc"] == ipc
    values(method, "folder", ipc, resolution=224)


@pytest.mark.parametrize("name", method_names())
def test_a_method_presents_itself_in_a_sentence_and_names_its_paper(name):
    method = load_method(name)
    assert re.fullmatch(r"[A-Z][^\n]{10,160}\.", method.summary), method.summary
    assert re.search(r"arXiv \d{4}\.\d{5}", method.paper)
    assert len(method.title) <= 20


@pytest.mark.parametrize("path", [*sorted(METHODS.glob("*.toml")), *sorted(COMPAT.glob("*.toml"))], ids=lambda path: path.stem)
def test_every_value_of_a_method_file_has_its_source_in_a_comment(path):
    text = path.read_text(encoding="utf-8")
    assert unsourced(text) == []
    assert [line for line in text.splitlines() if len(line) > 140] == []


def unsourced(text):
    """Return the values for which neither their line, nor their table's header, nor the condition or the comment above it has a comment."""
    missing, group, section, above = [], False, False, False
    for line in text.splitlines():
        said = "#" in line
        if line.startswith("[["):
            group, section = said or above, False
        elif line.startswith("["):
            group, section = above if line.startswith("[set") else group, said
        elif re.match(r"(dataset|ipc|resolution) =", line):
            group = group or said
        elif re.match(r"\w+ =", line) and not re.match(r"(title|summary|paper|methods|extends) =", line) and not (said or section or group):
            missing.append(line)
        above = line.startswith("#")
    return missing


def test_a_value_without_a_source_would_be_noticed():
    assert unsourced('title = "T"\n[set.match]\nweight = 1.0\nnorm = "l2"  # P\n[[when]]\n[when.set.save]  # C\nquality = 3\n') == [
        "weight = 1.0"
    ]


# Hand-typed from methods.md sections 1, 2 and 7: (dataset, ipc, {key: value}). ImageNet-1k, Tiny-ImageNet, CIFAR-100, CIFAR-10, others.
EXPECTED = {
    "edc": [
        ("imagenet-1k", 10, {"synthesise.iterations": 2000, "batch.size": 80, "batch.statistics": 20, "initialise.source": "rded"}),
        ("imagenet-1k", 10, {"rded.factor": 2, "match.patch_size": 16, "labels.mode": "stored", "evaluate.randaugment": False}),
        ("imagenet-1k", 10, {"evaluate.epochs": 300, "evaluate.batch_size": 100, "evaluate.schedule": "cosine", "evaluate.zeta": 2.0}),
        ("imagenet-1k", 10, {"observers.synthesis": [*FOUR, "alexnet"], "observers.labels": [*FOUR[:2], FOUR[3], "alexnet"]}),
        ("imagenet-1k", 10, {"augment.crop_scale": [0.5, 1.0], "labels.crop_scale": [0.5, 1.0]}),
        ("imagenet-10", 10, {"synthesise.iterations": 2000, "batch.size": 100, "initialise.source": "rded", "labels.mode": "online"}),
        (
            "imagenet-10",
            10,
            {"evaluate.epochs": 1000, "evaluate.batch_size": 50, "evaluate.schedule": "cosine", "evaluate.randaugment": True},
        ),
        ("imagenet-10", 10, {"observers.synthesis": FOUR, "observers.labels": FOUR, "squeeze.epochs": 20}),
        ("tiny-imagenet", 10, {"synthesise.iterations": 2000, "batch.size": 100, "initialise.source": "real", "match.patch_size": 4}),
        ("tiny-imagenet", 10, {"evaluate.epochs": 300, "evaluate.batch_size": 100, "evaluate.schedule": "cosine", "squeeze.padding": 8}),
        ("tiny-imagenet", 10, {"observers.synthesis": FIVE, "observers.labels": FIVE, "evaluate.optimizer": "adamw"}),
        ("tiny-imagenet", 1, {"evaluate.epochs": 1000}),
        ("cifar100", 10, {"synthesise.iterations": 2000, "batch.size": 100, "initialise.source": "real", "evaluate.epochs": 1000}),
        (
            "cifar100",
            10,
            {"evaluate.batch_size": 50, "evaluate.schedule": "cosine", "observers.synthesis": EIGHT, "observers.labels": EIGHT},
        ),
        ("cifar10", 10, {"synthesise.iterations": 75, "batch.size": 0, "evaluate.epochs": 1000, "evaluate.batch_size": 25}),
        ("cifar10", 10, {"evaluate.schedule": "multistep", "evaluate.milestones": [0.8, 0.9, 0.95], "evaluate.gamma": 0.5}),
        ("cifar10", 10, {"augment.crop_scale": [0.08, 1.0], "labels.crop_scale": [0.08, 1.0], "observers.synthesis": EIGHT}),
        ("cifar10", 1, {"batch.size": 10, "evaluate.batch_size": 10}),
        *(
            (
                dataset,
                10,
                {
                    "synthesise.learning_rate": 0.05,
                    "synthesise.betas": [0.5, 0.9],
                    "match.weight": 0.01,
                    "match.w_class": 0.5,
                    "match.ema_momentum": 0.8,
                    "match.first_multiplier": 10.0,
                    "flatness.kind": "logit_ema",
                    "flatness.weight": 0.25,
                    "flatness.beta": 0.99,
                    "flatness.tau": 4.0,
                    "diversity.weight": 0.0,
                    "augment.roll": 0,
                    "evaluate.loss": "mse_ce",
                    "evaluate.ce_weight": 0.025,
                    "evaluate.optimizer": "adamw",
                    "evaluate.learning_rate": 1e-3,
                    "evaluate.weight_decay": 0.01,
                    "evaluate.ema": 0.99,
                    "labels.mix": "cutmix",
                    "labels.ensemble": "mean",
                },
            )
            for dataset in DATASETS
        ),
    ],
    "sre2l": [
        ("imagenet-1k", 10, {"synthesise.iterations": 4000, "synthesise.learning_rate": 0.25, "match.weight": 0.01, "augment.roll": 32}),
        (
            "imagenet-1k",
            10,
            {"augment.crop_mode": "fixed", "augment.crop_scale": [0.08, 1.0], "labels.mode": "stored", "labels.mix": "cutmix"},
        ),
        (
            "imagenet-1k",
            10,
            {"evaluate.epochs": 300, "evaluate.batch_size": 1024, "evaluate.temperature": 20.0, "evaluate.optimizer": "adamw"},
        ),
        ("imagenet-1k", 10, {"evaluate.learning_rate": 1e-3, "evaluate.weight_decay": 0.01, "evaluate.temperature_squared": False}),
        (
            "tiny-imagenet",
            10,
            {"synthesise.iterations": 4000, "synthesise.learning_rate": 0.1, "match.weight": 1.0, "labels.mode": "online"},
        ),
        (
            "tiny-imagenet",
            10,
            {"evaluate.epochs": 100, "evaluate.batch_size": 256, "evaluate.temperature": 20.0, "evaluate.optimizer": "sgd"},
        ),
        (
            "tiny-imagenet",
            10,
            {"evaluate.learning_rate": 0.2, "evaluate.temperature_squared": True, "labels.mix": "none", "augment.flip": True},
        ),
        ("tiny-imagenet", 10, {"evaluate.warmup_epochs": 5, "evaluate.momentum": 0.9, "labels.crop_mode": "fixed"}),
        (
            "tiny-imagenet",
            10,
            {"squeeze.epochs": 50, "squeeze.learning_rate": 0.2, "squeeze.weight_decay": 1e-4, "squeeze.batch_size": 256},
        ),
        ("cifar100", 10, {"synthesise.iterations": 1000, "synthesise.learning_rate": 0.25, "match.weight": 0.01, "labels.mode": "online"}),
        ("cifar100", 10, {"evaluate.epochs": 400, "evaluate.batch_size": 128, "evaluate.temperature": 30.0, "evaluate.optimizer": "adamw"}),
        ("cifar100", 10, {"augment.crop_mode": "none", "augment.flip": False, "augment.roll": 4, "labels.mix": "mixup"}),
        ("cifar100", 10, {"labels.crop_mode": "padded", "labels.padding": 4, "evaluate.warmup_epochs": 0}),
        ("imagenet-1k", 10, {"labels.crop_mode": "fixed", "evaluate.warmup_epochs": 0}),
        ("cifar100", 10, {"squeeze.epochs": 200, "squeeze.learning_rate": 0.1, "squeeze.weight_decay": 5e-4, "squeeze.batch_size": 128}),
        ("fashion-mnist", 10, {"synthesise.iterations": 1000, "evaluate.epochs": 400, "augment.roll": 4}),
    ],
    "cda": [
        ("imagenet-1k", 10, {"synthesise.iterations": 4000, "synthesise.learning_rate": 0.25, "match.weight": 0.01, "augment.roll": 32}),
        ("imagenet-1k", 10, {"evaluate.epochs": 300, "evaluate.batch_size": 128, "evaluate.temperature": 20.0, "labels.mode": "stored"}),
        (
            "tiny-imagenet",
            10,
            {"synthesise.iterations": 4000, "synthesise.learning_rate": 0.4, "match.weight": 0.05, "labels.mode": "stored"},
        ),
        (
            "tiny-imagenet",
            10,
            {"evaluate.epochs": 300, "evaluate.batch_size": 128, "evaluate.temperature": 20.0, "evaluate.optimizer": "adamw"},
        ),
        ("tiny-imagenet", 10, {"evaluate.learning_rate": 1e-3, "evaluate.weight_decay": 0.01, "evaluate.temperature_squared": False}),
        ("tiny-imagenet", 10, {"labels.mix": "cutmix", "labels.crop_scale": [0.08, 1.0], "evaluate.warmup_epochs": 0}),
        ("imagenet-21k-p", 10, {"synthesise.iterations": 2000, "synthesise.learning_rate": 0.05, "match.weight": 0.25}),
    ],
    "rded": [
        ("imagenet-1k", 10, {"rded.factor": 2, "labels.crop_scale": [0.5, 1.0], "evaluate.shuffle_patches": 2, "evaluate.batch_size": 100}),
        ("imagenet-1k", 1, {"evaluate.batch_size": 20}),
        ("imagenet-1k", 50, {"evaluate.batch_size": 200}),
        ("cifar100", 50, {"evaluate.batch_size": 200, "rded.factor": 1}),
        ("tiny-imagenet", 50, {"evaluate.batch_size": 100, "rded.factor": 1}),
        ("tiny-imagenet", 1, {"evaluate.batch_size": 100}),
        ("cifar10", 1, {"evaluate.batch_size": 10, "labels.crop_scale": [1.0, 1.0], "evaluate.shuffle_patches": 0}),
        ("cifar10", 10, {"evaluate.batch_size": 50}),
        ("cifar10", 50, {"evaluate.batch_size": 100}),
        ("imagenet-10", 10, {"evaluate.batch_size": 50, "rded.factor": 2}),
    ],
    "g-vbsm": [
        ("imagenet-1k", 10, {"synthesise.learning_rate": 0.1, "batch.size": 80, "match.ema_momentum": 0.4, "match.conv_drop": 0.0}),
        (
            "imagenet-1k",
            10,
            {"evaluate.epochs": 300, "evaluate.batch_size": 1024, "evaluate.ce_weight": 0.1, "labels.ensemble": "norm_mean"},
        ),
        ("imagenet-1k", 10, {"evaluate.optimizer": "adamw", "evaluate.learning_rate": 1e-3, "evaluate.weight_decay": 0.01}),
        ("imagenet-1k", 10, {"augment.crop_mode": "fixed", "augment.crop_scale": [0.08, 1.0], "observers.synthesis": FOUR}),
        ("tiny-imagenet", 10, {"synthesise.learning_rate": 0.05, "batch.size": 100, "match.ema_momentum": 0.8, "match.conv_drop": 0.4}),
        ("tiny-imagenet", 10, {"evaluate.epochs": 100, "evaluate.batch_size": 100, "evaluate.ce_weight": 0.1, "labels.ensemble": "mean"}),
        (
            "tiny-imagenet",
            10,
            {"evaluate.optimizer": "sgd", "evaluate.learning_rate": 0.1, "evaluate.weight_decay": 5e-4, "evaluate.momentum": 0.9},
        ),
        ("tiny-imagenet", 10, {"augment.crop_mode": "padded", "augment.padding": 8, "observers.synthesis": FIVE}),
        ("cifar100", 10, {"synthesise.learning_rate": 0.05, "batch.size": 100, "match.ema_momentum": 0.8, "match.conv_drop": 0.4}),
        ("cifar100", 10, {"evaluate.epochs": 1000, "evaluate.batch_size": 64, "evaluate.ce_weight": 0.15, "evaluate.optimizer": "sgd"}),
        ("cifar100", 10, {"evaluate.learning_rate": 0.1, "evaluate.weight_decay": 5e-4}),
        ("cifar10", 10, {"synthesise.learning_rate": 0.05, "batch.size": 100, "match.ema_momentum": 0.8, "match.conv_drop": 0.4}),
        ("cifar10", 10, {"evaluate.epochs": 1000, "evaluate.batch_size": 100, "evaluate.ce_weight": 0.15, "evaluate.optimizer": "adamw"}),
        (
            "cifar10",
            10,
            {"evaluate.learning_rate": 1e-3, "evaluate.weight_decay": 0.0, "augment.crop_mode": "padded", "augment.padding": 4},
        ),
    ],
}
# The same on every dataset.
EVERYWHERE = {
    "sre2l": {
        "observers.synthesis": ["resnet18"],
        "observers.labels": ["resnet18"],
        "initialise.source": "noise",
        "match.layers": "bn",
        "match.patch_size": 0,
        "match.first_multiplier": 10.0,
        "match.w_class": 0.0,
        "match.ema_momentum": 0.0,
        "flatness.kind": "off",
        "diversity.weight": 0.0,
        "prior.tv": 0.0,
        "prior.l2": 0.0,
        "batch.order": "one_per_class",
        "batch.size": 100,
        "synthesise.schedule": "cosine",
        "synthesise.betas": [0.5, 0.9],
        "labels.crop_scale": [0.08, 1.0],
        "evaluate.loss": "kl",
        "evaluate.schedule": "cosine",
        "evaluate.zeta": 1.0,
        "evaluate.randaugment": False,
        "evaluate.ema": 0.0,
    },
    "rded": {
        "synthesise.enabled": False,
        "initialise.source": "rded",
        "rded.candidates": 300,
        "rded.crops": 5,
        "rded.crop_scale": [0.08, 1.0],
        "rded.tile_order": "stratified",
        "observers.synthesis": ["resnet18"],
        "labels.mode": "online",
        "labels.mix": "cutmix",
        "evaluate.loss": "kl",
        "evaluate.temperature": 20.0,
        "evaluate.temperature_squared": False,
        "evaluate.optimizer": "adamw",
        "evaluate.learning_rate": 1e-3,
        "evaluate.weight_decay": 0.01,
        "evaluate.schedule": "cosine",
        "evaluate.zeta": 2.0,
        "evaluate.epochs": 300,
        "evaluate.randaugment": False,
        "evaluate.ema": 0.0,
    },
    "g-vbsm": {
        "initialise.source": "noise",
        "match.layers": "bn+conv",
        "match.weight": 0.01,
        "match.first_multiplier": 10.0,
        "match.w_class": 0.0,
        "flatness.kind": "off",
        "diversity.weight": 1.0,
        "diversity.tau": 4.0,
        "augment.flip": True,
        "augment.roll": 32,
        "batch.order": "class_major",
        "synthesise.iterations": 4000,
        "labels.crop_scale": [0.08, 1.0],
        "labels.mix": "cutmix",
        "evaluate.loss": "mse_ce",
        "evaluate.schedule": "cosine",
        "evaluate.zeta": 1.0,
        "evaluate.randaugment": False,
        "evaluate.ema": 0.0,
    },
}
EVERYWHERE["cda"] = EVERYWHERE["sre2l"] | {
    "augment.crop_mode": "curriculum_cosine",
    "augment.crop_scale": [0.08, 1.0],
    "augment.milestone": 1.0,
    "augment.flip": True,
}


@pytest.mark.parametrize(
    ("method", "dataset", "rates"),
    [
        ("rded", "imagenet-1k", {"efficientnet-b0": 2e-3, "mobilenet-v2": 2.5e-3, "alexnet": 1e-4, "vit-b-16": 1e-4, "swin_v2_t": 1e-4}),
        ("rded", "imagenet-1k", {"vgg11": 5e-4, "resnet18": 1e-3, "resnet101": 1e-3}),
        ("rded", "cifar10", {"mobilenet-v2": 2.5e-3, "convnet-w128": 1e-3}),
        ("edc", "imagenet-1k", {"swin-tiny": 1e-4, "resnet18": 1e-3, "deit-tiny": 1e-3}),
        ("edc", "cifar10", {"mobilenet-v2": 1e-3}),
        ("random", "imagenet-1k", {"swin-tiny": 1e-4}),
        ("sre2l", "imagenet-1k", {"mobilenet-v2": 1e-3}),
    ],
)
def test_students_have_the_learning_rates_that_the_papers_gave_them(method, dataset, rates):
    resolved, problems = resolve({"dataset.name": dataset, "condense.method": method}, resolution=DATASETS[dataset])
    assert problems == []
    project = resolved.project
    assert {name: student_learning_rate(project, name) or project.evaluate.learning_rate for name in rates} == rates


@pytest.mark.parametrize(("method", "dataset", "ipc", "expected"), [(name, *row) for name, rows in EXPECTED.items() for row in rows])
def test_a_method_says_what_its_paper_and_release_say(method, dataset, ipc, expected):
    found = values(method, dataset, ipc)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("method", EVERYWHERE)
@pytest.mark.parametrize("dataset", DATASETS)
def test_what_a_method_does_on_every_dataset(method, dataset):
    found = values(method, dataset)
    assert {name: found[name] for name in EVERYWHERE[method]} == EVERYWHERE[method]


def test_every_headline_number_is_that_of_the_last_epoch():
    """The releases report the best epoch on the test set; only a compat profile does so here."""
    assert {values(method, dataset)["evaluate.select"] for method in method_names() for dataset in DATASETS} == {"last"}


# CONFIG A to G (EDC Fig. 1 and Tables 3 to 5, 12, 13; methods.md section 3): what each step changes from the one before, on ImageNet-1k.
STEPS = {
    "config-a": {},
    "config-b": {"initialise.source": "rded", "rded.factor": 2, "synthesise.iterations": 2000},
    "config-c": {"evaluate.zeta": 1.5},
    "config-d": {"flatness.kind": "logit_ema"},
    "config-e": {
        "evaluate.batch_size": 100,
        "evaluate.zeta": 2.0,
        "observers.synthesis": [*FOUR, "alexnet"],
        "observers.labels": ["resnet18", "mobilenet-v2", "shufflenet-v2-0.5", "alexnet"],
    },
    "config-f": {"match.w_class": 0.5},
    "config-g": {"augment.crop_scale": [0.5, 1.0], "labels.crop_scale": [0.5, 1.0], "evaluate.ema": 0.99},
}
# Small images start from real ones (EDC 3.1), and G-VBSM's padded crop gives way to the weak random resized crop.
SMALL = STEPS | {
    "config-b": {"initialise.source": "real", "synthesise.iterations": 2000},
    "config-g": STEPS["config-g"] | {"augment.crop_mode": "fixed"},
}
# Step E takes EDC's batches and observers; where those are G-VBSM's already, fewer keys change.
STEP_E = {
    "imagenet-1k": STEPS["config-e"],
    "imagenet-21k-p": STEPS["config-e"],
    "imagenet-10": {"evaluate.batch_size": 50, "evaluate.zeta": 2.0},
    "tiny-imagenet": {"evaluate.zeta": 2.0},
    "cifar100": {"evaluate.batch_size": 50, "evaluate.zeta": 2.0, "observers.synthesis": EIGHT, "observers.labels": EIGHT},
    "cifar10": {"evaluate.batch_size": 25, "evaluate.zeta": 2.0, "observers.synthesis": EIGHT, "observers.labels": EIGHT},
    "fashion-mnist": {"evaluate.batch_size": 25, "evaluate.zeta": 2.0},
    "digits": {"evaluate.batch_size": 25, "evaluate.zeta": 2.0},
    "folder": {"evaluate.batch_size": 25, "evaluate.zeta": 2.0},
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_each_step_of_the_ladder_changes_exactly_what_the_paper_names(dataset):
    table = (STEPS if DATASETS[dataset] >= 128 else SMALL) | {"config-e": STEP_E[dataset]}
    for before, after in zip(LADDER, LADDER[1:], strict=False):
        old, new = values(before, dataset), values(after, dataset)
        assert {name: new[name] for name in keys() if name in new and new[name] != old[name]} == table[after], after


def test_the_ladder_takes_its_batches_and_observers_from_edc():
    for dataset in ("cifar10", "cifar100", "tiny-imagenet", "imagenet-10", "imagenet-1k", "imagenet-21k-p", "fashion-mnist", "digits"):
        for ipc in (1, 10, 50):
            ladder, edc = values("config-g", dataset, ipc), values("edc", dataset, ipc)
            for name in ("evaluate.batch_size", "observers.synthesis", "observers.labels", "initialise.source"):
                assert ladder[name] == edc[name], (dataset, ipc, name)


def test_random_differs_from_edc_in_its_images_alone():
    allowed = {"initialise.source", "initialise.flip", "synthesise.enabled"}
    for dataset in DATASETS:
        random, edc = values("random", dataset), values("edc", dataset)
        assert {name for name in edc if random[name] != edc[name]} <= allowed
        assert (random["initialise.source"], random["synthesise.enabled"]) == ("real", False)


def test_cda_differs_from_sre2l_in_its_crops_alone_where_neither_paper_says_otherwise():
    for dataset in ("cifar10", "cifar100", "fashion-mnist", "digits", "folder"):
        cda, sre2l = values("cda", dataset), values("sre2l", dataset)
        assert {name for name in cda if cda[name] != sre2l[name]} == {"augment.crop_mode", "augment.flip"}


def test_methods_share_their_observers_where_no_paper_says_how_they_were_trained():
    for dataset in ("cifar10", "imagenet-10", "fashion-mnist", "digits", "folder"):
        trained = {
            tuple((name, str(value)) for name, value in values(method, dataset).items() if name.startswith("squeeze."))
            for method in method_names()
        }
        assert len(trained) == 1, dataset


class TestCompat:
    def difference(self, compat, dataset, than="fixed"):
        new, old = (values("edc", dataset, **{"condense.compat": profile}) for profile in (compat, than))
        return {name: new[name] for name in new if new[name] != old[name] and name != "condense.compat"}

    DEFECTS = {
        "initialise.replacement": "always",  # D15
        "match.class_variance": "within_image",  # D3
        "match.swap_class_patch": True,  # D2
        "match.ema_start": "zero",  # D6
        "match.ema_reset": False,  # D16
        "flatness.kind": "off",  # D4
        "save.format": "jpeg",  # D21
        "save.quantise": "truncate",  # D21
        "evaluate.ema_batchnorm": "online",  # D9
        "evaluate.select": "best_on_test",  # D38
    }
    SGD = {"evaluate.optimizer": "sgd", "evaluate.learning_rate": 0.1, "evaluate.momentum": 0.875, "evaluate.weight_decay": 5e-4}
    SCRIPTS = {
        "fashion-mnist": {},
        "imagenet-1k": {
            "match.weight": 0.1,
            "match.double_global_conv": True,  # D8
            "synthesise.iterations": 1000,
            "evaluate.schedule": "linear_zeta",  # D7
        },
        "imagenet-10": {
            "observers.synthesis": ["resnet18", "mobilenet-v2", "shufflenet-v2-0.5"],  # D13
            "initialise.replacement": "usage",
            "match.ema_momentum": 0.0,
            "synthesise.iterations": 50,
            "evaluate.schedule": "ssrs",
        },
        "tiny-imagenet": SGD | {"squeeze.checkpoint": "every10", "match.double_global_conv": True, "save.format": "png"},
        "cifar100": SGD
        | {
            "squeeze.checkpoint": "every10",  # D10
            "save.format": "png",
            "observers.labels": FIVE,  # D14
            "evaluate.schedule": "ssrs",
        },
        "cifar10": {"squeeze.checkpoint": "every10", "squeeze.epochs": 5},
    }

    @pytest.mark.parametrize("dataset", SCRIPTS)
    def test_head_is_the_release_with_its_defects(self, dataset):
        assert self.difference("edc-head", dataset) == self.DEFECTS | self.SCRIPTS[dataset]

    def test_february_still_had_the_two_crop_loss_and_the_nuclear_norm(self):
        general = {"flatness.kind": "two_crop", "flatness.weight": 1.0, "flatness.reduction": "mean", "diversity.weight": 1.0}
        assert self.difference("edc-9836066", "cifar10", than="edc-head") == general
        assert self.difference("edc-9836066", "imagenet-1k", than="edc-head") == general | {
            "match.weight": 0.01,
            "synthesise.iterations": 2000,
        }

    def test_a_user_may_still_mend_a_single_defect(self):
        assert values("edc", "cifar10", **{"condense.compat": "edc-head", "match.ema_start": "debias"})["match.ema_start"] == "debias"

    @pytest.mark.parametrize("method", [name for name in method_names() if name != "edc"])
    def test_the_release_has_only_edc(self, method):
        for profile in ("edc-head", "edc-9836066"):
            assert load_profile(profile).methods == ("edc",)
            resolved, problems = resolve({"condense.method": method, "condense.compat": profile}, resolution=16)
            assert resolved is None
            assert [problem.key for problem in problems] == ["condense.compat"]
