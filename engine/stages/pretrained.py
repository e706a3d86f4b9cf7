"""Observers from elsewhere: published weights or the user's file, taken only when they do on the test images what is claimed of them."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.compute.precision import frozen, place
from engine.data.catalogue import data_root
from engine.errors import UserError
from engine.models.class_orders import WNID, in_numeric_order, ordered, rows_of, synsets, usual_orders
from engine.models.normalisations import DATASET, KNOWN, Constants, constants
from engine.models.published import timm_weights, torchvision_weights
from engine.models.registry import published_by
from engine.models.weights import Weights, fitted, head_names, outputs_of, read_weights, renamed
from engine.runs.text import printable
from engine.stages import training
from engine.stages.inputs import Inputs, RealImages, renormalise
from engine.stages.report import Report

FAR_POINTS = 5.0  # that an observer may stay below its claim: other ways of resizing and cropping cost some
FAR_ERRORS = 3.0  # standard errors of the test images that it may stay below its claim
TELLING_POINTS = 10.0  # that another normalisation or order must bring to be given as the reason
LIKE_POINTS = 5.0  # that the simpler of two reasons may explain less
ASKED = 4000  # training images that are asked for the reason
USED = ""  # the normalisation that the observer was given
UNKNOWN = "no other order of its classes and none of the usual normalisations explains it; was it trained on other images?"


@dataclass(frozen=True)
class Candidate:
    """An observer with the constants by which its images are normalised, and in words where they were found."""

    model: nn.Module
    normalisation: Constants
    where: str


def take_over(settings: dict[str, Any], inputs: Inputs, folder: Path, report: Report) -> dict[str, Any]:
    """Fit weights from elsewhere to the observer, measure it on the test split, and write it as a squeezed one.

    Returns its accuracy in percent and what was claimed. Raises UserError in one line where the weights do not fit the network, its
    outputs are not the dataset's classes, or its accuracy is far below the claim, with the reason as far as trials can tell.
    """
    name = settings["observer"]
    weights, place_ = obtain(settings, inputs)
    claim = settings["accuracy"] if settings["accuracy"] is not None else weights.accuracy
    candidate = _candidate(settings, weights, place_, inputs)
    accuracy = _measured(candidate, inputs)
    said = f"{name}: {accuracy['top1']:.2f} % of the test images right"
    report.log(f"{said}, {claim:.2f} % claimed" if claim is not None else f"{said}; set observers.accuracy to have this checked")
    if wrong := _refusal(candidate, accuracy["top1"], claim, name, inputs):
        raise UserError(f"{place_}: {wrong}")
    mean, std = candidate.normalisation
    facts = accuracy | {"weights": settings["weights"]} | ({"claimed": claim} if claim is not None else {})
    inputs.save_observer(folder, candidate.model, name, **accuracy, mean=list(mean), std=list(std), weights=settings["weights"])
    return facts


def obtain(settings: dict[str, Any], inputs: Inputs) -> tuple[Weights, str]:
    """Return the weights that the settings of a step name, and what to call their place in a message."""
    name, source, cache = settings["observer"], settings["weights"], data_root() / "weights"
    package, _, tag = source.partition(":")
    if package == "torchvision":
        return torchvision_weights(name, tag, cache), f"torchvision's {name}"
    if package == "timm":
        return timm_weights(name, tag, inputs.store.resolution, cache / "timm"), f"timm's {name}"
    path = Path(settings["path"])
    weights = read_weights(path)
    return weights, printable(path)


def _candidate(settings: dict[str, Any], weights: Weights, place_: str, inputs: Inputs) -> Candidate:
    """Build the observer with the rows of its last layer in the dataset's order of classes."""
    name, side, names = settings["observer"], inputs.store.resolution, inputs.store.classes.names
    tensors = weights.tensors if published_by(name, side) else renamed(weights.tensors, name, side)
    outputs = outputs_of(tensors, head_names(name, side))
    rows = None
    if outputs is not None:
        meant = _meant(settings, weights, names, outputs)
        try:
            rows = rows_of(names, meant, outputs, "it")
        except UserError as error:
            raise UserError(f"{place_}: {error}") from None
    model = fitted(tensors, name, classes=len(names), resolution=side, rows=rows, place=place_)
    own = (inputs.store.mean, inputs.store.std)
    value = settings["normalisation"]
    if value is not None:
        return Candidate(model, constants(value, own), _called(value))
    if weights.normalisation is not None:
        return Candidate(model, constants(weights.normalisation, own), "its own")
    return Candidate(model, own, "the dataset's")


def _meant(settings: dict[str, Any], weights: Weights, names: tuple[str, ...], outputs: int) -> tuple[str, ...]:
    """Return what each output means: as the project says, else as the weights do, else the dataset's classes or those of ImageNet."""
    if settings["class_order"] is not None:
        return ordered(settings["class_order"], names, outputs)
    known = weights.classes or ()
    if set(names) <= set(known):
        return known
    of_imagenet = all(WNID.fullmatch(each) for each in names)
    if outputs != len(names) and (of_imagenet or known):
        return known or synsets(outputs)
    return names


def _called(value: str | list[float]) -> str:
    return "the dataset's" if value == DATASET else f'"{value}"' if isinstance(value, str) else "the given"


def _on_device(candidate: Candidate, inputs: Inputs) -> nn.Module:
    """Return a copy of the observer as `Inputs.observer` would load it."""
    model = copy.deepcopy(candidate.model)
    renormalise(model, (inputs.store.mean, inputs.store.std), candidate.normalisation)
    return frozen(place(model, inputs.device))


def _measured(candidate: Candidate, inputs: Inputs) -> dict[str, float]:
    return training.measure(_on_device(candidate, inputs), RealImages(inputs.store.test, inputs.device), inputs)


def _refusal(candidate: Candidate, top1: float, claim: float | None, name: str, inputs: Inputs) -> str:
    """Say why an observer is not taken; nothing where it is. Without a claim it is refused only when a reason is found."""
    images = len(inputs.store.test)
    if claim is not None:
        allowed = max(FAR_POINTS, FAR_ERRORS * 100 * ((claim / 100) * (1 - claim / 100) / images) ** 0.5)
        if top1 >= claim - allowed:
            return ""
    reason = _reason(candidate, name, claim, inputs)
    if claim is None:
        return f"{top1:.1f} % of the test images right: {reason}" if reason else ""
    return f"{top1:.1f} % of the test images right where {claim:.1f} % are claimed: {reason or UNKNOWN}"


def _reason(candidate: Candidate, name: str, claim: float | None, inputs: Inputs) -> str:
    """Try the usual normalisations and every order of the classes on training images, and say which explains most; else nothing."""
    from engine.stages.verify import answers_of, confusion, named, spread_rows  # with scipy, which the others do without

    store = inputs.store
    rows = spread_rows(len(store.train), max(ASKED, 2 * len(store.classes)))
    images, labels, names = store.train.images[rows], store.train.labels[rows], store.classes.names
    tried = {USED: candidate.normalisation, DATASET: (store.mean, store.std), **KNOWN}
    predicted = {
        word: named([_on_device(Candidate(candidate.model, values, word), inputs)], images, inputs)
        for word, values in tried.items()
        if word == USED or not _alike(values, candidate.normalisation)
    }
    answers = {word: answers_of(found, labels, names) for word, found in predicted.items()}
    measured = answers[USED].top1
    plain = max(answers, key=lambda word: answers[word].top1)
    ordered_best = max(answers, key=lambda word: answers[word].best)
    highest = max(answers[plain].top1, answers[ordered_best].best)
    if not _tells(highest, measured, claim, len(names)):
        return ""
    if answers[plain].top1 >= highest - LIKE_POINTS:
        return (
            f"its images seem to be normalised otherwise: with {candidate.where} constants {measured:.1f} % of the training images are "
            f'right, with those of "{plain}" {answers[plain].top1:.1f} %; '
            f'set observers.normalisation = {{ {_bare(name)} = "{plain}" }}'
        )
    best = USED if answers[USED].best >= highest - LIKE_POINTS else ordered_best
    if answers[best].best < answers[best].by_chance + TELLING_POINTS:
        return ""
    order = _order_found(confusion(labels, predicted[best], len(names)), names)
    also = f' and observers.normalisation = {{ {_bare(name)} = "{best}" }}' if best != USED else ""
    return (
        f"its classes seem to be in another order ({_order_said(order, names)}), in which {answers[best].best:.1f} % of the training "
        f"images are right; set observers.class_order = {{ {_bare(name)} = {_order_set(order, names)} }}{also}"
    )


def _tells(found: float, measured: float, claim: float | None, classes: int) -> bool:
    """Say whether the accuracy (percent) under another normalisation or order is so much better that it must be the right one."""
    if found < measured + TELLING_POINTS:
        return False
    if claim is not None:
        return found - measured >= (claim - measured) / 2
    chance = 100 / classes
    return found >= chance + (100 - chance) / 3


def _bare(name: str) -> str:
    """Return a network's name as a key of TOML."""
    return name if all(part.isalnum() or part in "-_" for part in name) else f'"{name}"'


def _alike(one: Constants, other: Constants) -> bool:
    return torch.allclose(torch.tensor(one), torch.tensor(other), atol=1e-4)


def _order_found(table: Any, names: tuple[str, ...]) -> list[str]:
    """Return what each output seems to mean, by the confusion table of classes (rows) and outputs (columns)."""
    from engine.stages.verify import best_order

    meant = [""] * len(names)
    for index, output in enumerate(best_order(table).tolist()):
        meant[output] = names[index]
    return meant


def _order_said(order: list[str], names: tuple[str, ...]) -> str:
    """Name the order that was found, or show how it begins."""
    known = next((word for word, usual in usual_orders(names).items() if _mostly(usual, order)), "")
    begins = ", ".join(printable(name, 24) for name in order[:4])
    return f"{known}: {begins}, …" if known else f"{begins}, …"


def _mostly(usual: list[str], found: list[str]) -> bool:
    """Say whether an order is the one found but for a few classes that the network confuses."""
    return sum(one == other for one, other in zip(usual, found, strict=True)) >= 0.9 * len(found)


def _order_set(order: list[str], names: tuple[str, ...]) -> str:
    """Return the order found as a value of observers.class_order."""
    for word, usual in (("alphabetical", sorted(names)), ("numeric", in_numeric_order(names))):
        if _mostly(usual, order):
            return f'"{word}"'
    if len(order) <= 12:
        return "[" + ", ".join(f'"{printable(name)}"' for name in order) + "]"
    return "[the names in its order]"
