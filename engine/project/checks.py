"""Combinations of keys that make no sense, each refused with what would be right."""

import re
from collections.abc import Callable
from typing import Any

from engine.errors import UserError
from engine.models.registry import check_model, normalisation
from engine.project.observers import observer_problems
from engine.project.resolve import Problem, Resolved, nearest
from engine.project.schema import Project

ZETA_SCHEDULES = ("cosine", "ssrs", "linear_zeta")
OPTIMISATION = ("statistics", "match", "flatness", "diversity", "prior", "augment", "batch", "synthesise")  # sections

# Keys that the rest of a project can leave without effect: (keys, when they have one, what would be right).
INEFFECTIVE: list[tuple[tuple[str, ...], Callable[[Project], bool], str]] = [
    (("evaluate.zeta",), lambda p: p.evaluate.schedule in ZETA_SCHEDULES, 'needs evaluate.schedule = "cosine", "ssrs" or "linear_zeta"'),
    (("evaluate.milestones",), lambda p: p.evaluate.schedule == "multistep", 'needs evaluate.schedule = "multistep"'),
    (("evaluate.gamma",), lambda p: p.evaluate.schedule in ("multistep", "alrs"), 'needs evaluate.schedule = "multistep" or "alrs"'),
    (("evaluate.temperature",), lambda p: p.evaluate.loss in ("kl", "dist"), 'needs evaluate.loss = "kl" or "dist"'),
    (("evaluate.temperature_squared",), lambda p: p.evaluate.loss == "kl", 'needs evaluate.loss = "kl"'),
    (("evaluate.ce_weight", "evaluate.ce_target"), lambda p: p.evaluate.loss == "mse_ce", 'needs evaluate.loss = "mse_ce"'),
    (("evaluate.ema_batchnorm",), lambda p: p.evaluate.ema > 0, "needs evaluate.ema above 0"),
    (("evaluate.momentum",), lambda p: p.evaluate.optimizer == "sgd", 'needs evaluate.optimizer = "sgd"'),
    (
        ("evaluate.full_epochs", "evaluate.full_batch_size"),
        lambda p: bool({"full", "full-soft"} & set(p.evaluate.controls)),
        'needs "full" or "full-soft" among evaluate.controls',
    ),
    (
        ("match.class_form", "match.class_source", "match.class_variance", "match.swap_class_patch"),
        lambda p: p.match.w_class > 0,
        "needs match.w_class above 0",
    ),
    (("match.ema_start",), lambda p: p.match.ema_momentum > 0, "needs match.ema_momentum above 0"),
    (
        ("match.ema_reset",),  # without it the observers' turn goes on from batch to batch, too
        lambda p: p.match.ema_momentum > 0 or (p.observers.rotation == "round_robin" and len(p.observers.synthesis) > 1),
        "needs match.ema_momentum above 0 or several observers in rotation",
    ),
    (("match.conv_drop", "match.double_global_conv"), lambda p: p.match.layers == "bn+conv", 'needs match.layers = "bn+conv"'),
    (("flatness.weight",), lambda p: p.flatness.kind not in ("off", "sam"), "needs a flatness.kind that is a loss"),
    (("flatness.beta",), lambda p: p.flatness.kind in ("logit_ema", "stat_ema"), 'needs flatness.kind = "logit_ema" or "stat_ema"'),
    (
        ("flatness.tau", "flatness.reduction"),
        lambda p: p.flatness.kind in ("logit_ema", "two_crop"),
        'needs flatness.kind = "logit_ema" or "two_crop"',
    ),
    (("flatness.rho",), lambda p: p.flatness.kind == "sam", 'needs flatness.kind = "sam"'),
    (("diversity.tau", "diversity.normalise"), lambda p: p.diversity.weight > 0, "needs diversity.weight above 0"),
    (("augment.milestone",), lambda p: p.augment.crop_mode.startswith("curriculum"), 'needs augment.crop_mode = "curriculum_…"'),
    (("augment.padding",), lambda p: p.augment.crop_mode == "padded", 'needs augment.crop_mode = "padded"'),
    (("augment.crop_scale",), lambda p: p.augment.crop_mode not in ("none", "padded"), 'needs augment.crop_mode = "fixed" or a curriculum'),
    (("initialise.replacement",), lambda p: p.initialise.source == "real", 'needs initialise.source = "real"'),
    (
        ("rded.factor", "rded.candidates", "rded.crops", "rded.crop_scale"),
        lambda p: p.initialise.source == "rded",
        'needs initialise.source = "rded"',
    ),
    (
        ("rded.tile_order",),
        lambda p: p.initialise.source == "rded" and p.rded.factor > 1,
        'needs initialise.source = "rded" and rded.factor above 1',
    ),
    (("labels.crop_scale",), lambda p: p.labels.crop_mode == "fixed", 'needs labels.crop_mode = "fixed"'),
    (("labels.padding",), lambda p: p.labels.crop_mode == "padded", 'needs labels.crop_mode = "padded"'),
    (
        ("evaluate.student_learning_rates",),
        lambda p: any(student_learning_rate(p, student) is not None for student in p.evaluate.students),
        "needs one of evaluate.students in it",
    ),
    (("labels.dtype",), lambda p: p.labels.mode != "online", 'needs labels.mode = "stored" or "fixed"'),
    (("labels.storage",), lambda p: p.labels.mode != "online", 'needs labels.mode = "stored" or "fixed"'),
    (
        ("labels.top_k",),
        lambda p: p.labels.mode != "online" and p.labels.storage == "top-k",
        'needs labels.storage = "top-k" and labels.mode = "stored" or "fixed"',
    ),
    (
        ("initialise.flip", "initialise.shuffle_patches"),
        lambda p: p.initialise.source != "files",
        'needs another initialise.source than "files", whose images stay as they are',
    ),
    (("initialise.path",), lambda p: p.initialise.source == "files", 'needs initialise.source = "files"'),
    (
        ("evaluate.common_epochs", "evaluate.common_teacher"),
        lambda p: p.evaluate.protocol != "published",
        'needs evaluate.protocol = "common" or "both"',
    ),
    (
        ("labels.ensemble", "labels.teacher_batchnorm"),
        lambda p: p.evaluate.loss != "ce",
        'needs an evaluate.loss that reads soft labels; "ce" does not',
    ),
    (("squeeze.momentum",), lambda p: p.squeeze.optimizer == "sgd", 'needs squeeze.optimizer = "sgd"'),
    (("squeeze.padding",), lambda p: p.squeeze.crop_scale is None, "needs no squeeze.crop_scale, which crops in another way"),
    (("save.quality",), lambda p: p.save.format == "jpeg", 'needs save.format = "jpeg"'),
]


def combination_problems(resolved: Resolved) -> list[Problem]:
    """Return every combination of keys in a resolved project that makes no sense, in words.

    A key of the file that `--set` leaves without effect, by another method or another key of its section, is no mistake of the user's.
    """
    project, origins = resolved.project, resolved.origins
    forced = {name for name, origin in origins.items() if origin == "--set"}
    sections = {name.partition(".")[0] for name in forced}
    in_file = {name for name, origin in origins.items() if origin == "project" and name.partition(".")[0] not in sections}
    by_user = forced if forced & {"condense.method", "condense.compat"} else forced | in_file
    problems = [
        Problem(name, f"{value_of(project, name)!r} would have no effect: {right}")
        for names, _, right in INEFFECTIVE
        for name in names
        if name in by_user and not has_effect(project, name)
    ]
    if "evaluate.student_learning_rates" in by_user and not problems:
        problems += _rate_problems(project)
    problems += _contradictions(project) + _model_problems(project, resolved.resolution) + _published_problems(resolved)
    return problems + list(observer_problems(project, resolved.resolution, by_user))


def has_effect(project: Project, name: str) -> bool:
    """Say whether a `section.key` changes anything as the rest of the project stands."""
    return all(effective(project) for names, effective, _ in INEFFECTIVE if name in names)


def in_use(project: Project, name: str) -> bool:
    """Say whether a `section.key` has an effect and belongs to something that the project does at all: optimising, matching to tables."""
    if name.startswith("statistics.") and project.match.layers == "bn" and project.match.w_class == 0:
        return False  # running statistics alone are matched, and no table is made
    return has_effect(project, name) and (project.synthesise.enabled or not of_optimisation(project, name))


def of_optimisation(project: Project, name: str) -> bool:
    """Say whether a `section.key` tells nothing but how images are optimised."""
    if name == "observers.synthesis":
        return project.initialise.source != "rded"  # the first of them scores RDED's crops
    return name == "observers.rotation" or (name.partition(".")[0] in OPTIMISATION and name != "synthesise.enabled")


def student_learning_rate(project: Project, student: str) -> float | None:
    """Return the peak learning rate that `evaluate.student_learning_rates` has for a student, None where it has the usual one.

    Names of torchvision's networks may be written with - or _.
    """
    rates = {_dashed(name): rate for name, rate in project.evaluate.student_learning_rates.items()}
    return rates.get(_dashed(student))


def _dashed(network: str) -> str:
    return network.replace("_", "-")


def value_of(project: Project, name: str) -> Any:
    """Return the value of a `section.key`."""
    section, _, leaf = name.partition(".")
    return getattr(getattr(project, section), leaf)


def _rate_problems(project: Project) -> list[Problem]:
    """Return learning rates of networks that are no students, which would be slips of the pen where a user wrote them."""
    students = project.evaluate.students
    known = set(map(_dashed, students))
    idle = [name for name in project.evaluate.student_learning_rates if _dashed(name) not in known]
    return [Problem("evaluate.student_learning_rates", f"{name} is none of evaluate.students; {nearest(name, students)}") for name in idle]


def _contradictions(project: Project) -> list[Problem]:
    """Return values that exclude each other whoever set them."""
    match, batch = project.match, project.batch
    conditions = [
        (
            match.layers == "bn" and match.patch_size > 0,
            "match.patch_size",
            'tiles belong to conv inputs, and match.layers = "bn" has none; set match.patch_size = 0',
        ),
        (
            match.w_global is not None and abs(match.w_global + match.w_class - 1) > 1e-6,
            "match.w_global",
            "match.w_global and match.w_class must add up to 1; leave match.w_global out to get the rest",
        ),
        (
            project.condense.method == "rded" and project.synthesise.enabled,
            "synthesise.enabled",
            'RDED optimises nothing; for its crops as a start use another method with initialise.source = "rded"',
        ),
        (
            project.condense.method == "random" and project.synthesise.enabled,
            "synthesise.enabled",
            'the method "random" optimises nothing; to optimise real images use "edc"',
        ),
        (
            project.initialise.source == "noise" and not project.synthesise.enabled,
            "synthesise.enabled",
            'noise that is not optimised shows nothing; set initialise.source = "real" or "rded"',
        ),
        (
            project.initialise.source == "rded" and project.rded.candidates < project.condense.ipc * project.rded.factor**2,
            "rded.candidates",
            f"{project.condense.ipc} images of {project.rded.factor} x {project.rded.factor} crops need at least "
            f"{project.condense.ipc * project.rded.factor**2} candidates of each class",
        ),
        (
            project.evaluate.schedule == "alrs" and project.evaluate.gamma < 0.9,
            "evaluate.gamma",
            f"alrs multiplies by it after every epoch that stalls; {project.evaluate.gamma} would end the training, the paper has 0.9975",
        ),
        (
            project.evaluate.warmup_epochs >= project.evaluate.epochs,
            "evaluate.warmup_epochs",
            f"{project.evaluate.warmup_epochs} must be fewer than evaluate.epochs = {project.evaluate.epochs}",
        ),
        (
            batch.size and batch.statistics and batch.size % batch.statistics,
            "batch.statistics",
            f"{batch.statistics} must divide batch.size = {batch.size}",
        ),
        (
            project.flatness.kind == "two_crop" and project.augment.crop_mode == "none",
            "flatness.kind",
            "two_crop compares two crops; augment.crop_mode is none",
        ),
        (
            project.evaluate.loss == "ce" and project.labels.mode != "online",
            "labels.mode",
            'evaluate.loss = "ce" uses hard labels and would leave stored labels unread; set labels.mode = "online"',
        ),
        (
            project.initialise.source == "files" and not project.initialise.path,
            "initialise.path",
            'initialise.source = "files" needs the file of condensed images; `edc evaluate` writes one from a folder of images',
        ),
        (
            project.labels.mode == "given" and (project.initialise.source != "files" or project.synthesise.enabled),
            "labels.mode",
            '"given" takes the labels that came with images of your own, left as they are: initialise.source = "files"',
        ),
        (
            "full-soft" in project.evaluate.controls and project.evaluate.loss == "ce",
            "evaluate.controls",
            '"full-soft" needs soft labels, and evaluate.loss is "ce"; "full" is the whole dataset with hard labels',
        ),
        (
            "equal-bytes" in project.evaluate.controls and project.evaluate.loss != "ce" and not project.evaluate.hard_labels,
            "evaluate.controls",
            '"equal-bytes" are real images with hard labels; set evaluate.hard_labels = true',
        ),
        (
            not re.fullmatch(r"auto|cpu|cuda(:\d+)?", project.compute.device),
            "compute.device",
            f"{project.compute.device!r} is not a device; use auto, cpu, cuda or cuda:N",
        ),
        (
            project.compute.device == "cpu" and project.compute.precision == "float16",
            "compute.precision",
            "float16 needs cuda; use bfloat16 or float32 on the cpu",
        ),
    ]
    problems = [Problem(name, message) for wrong, name, message in conditions if wrong]
    for name in ("augment.crop_scale", "labels.crop_scale", "rded.crop_scale", "squeeze.crop_scale"):
        low, high = value_of(project, name) or (1.0, 1.0)
        if not 0 < low <= high:
            problems.append(Problem(name, f"[{low}, {high}] must be two fractions, the smaller one first and above 0"))
    lists = ("students", "seeds", "controls", "search_learning_rates")
    for name in ("observers.synthesis", "observers.labels", *(f"evaluate.{leaf}" for leaf in lists)):
        values = value_of(project, name)
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        if repeated:
            problems.append(Problem(name, f"{', '.join(repeated)} is listed twice"))
    return problems


def _model_problems(project: Project, resolution: int) -> list[Problem]:
    """Return networks that do not exist or cannot take the working resolution (px)."""
    problems = []
    for name in ("observers.synthesis", "observers.labels", "evaluate.students", "evaluate.common_teacher"):
        if not has_effect(project, name):
            continue
        value = value_of(project, name)
        for model in value if isinstance(value, list) else [value]:
            try:
                check_model(model, resolution)
            except UserError as error:
                problems.append(Problem(name, str(error)))
    without = [model for model in project.observers.synthesis if normalisation(model) not in ("batch", None)]
    if project.match.layers == "bn" and project.synthesise.enabled and without:
        right = 'choose networks with batch normalisation, or match.layers = "bn+conv"'
        problems.append(Problem("observers.synthesis", f'match.layers = "bn" matches nothing in {", ".join(without)}; {right}'))
    return problems


def _published_problems(resolved: Resolved) -> list[Problem]:
    """Return names of published figures that do not exist, or that the file gives for another dataset than its own.

    Another dataset by `--set` is no mistake of the file's.
    """
    from engine.project.published import check_name, named_figures

    project, problems = resolved.project, []
    elsewhere = resolved.origins.get("dataset.name") == "--set" and resolved.origins.get("condense.published") != "--set"
    for name in project.condense.published:
        try:
            if elsewhere:
                named_figures(name)
            else:
                check_name(name, project.dataset.name)
        except UserError as error:
            problems.append(Problem("condense.published", str(error)))
    return problems
