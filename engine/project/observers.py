"""Where the weights of each observer come from: trained here (squeeze), published by torchvision or timm, or a file of the user's."""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.files import digest_file
from engine.models.normalisations import DATASET, KNOWN
from engine.models.registry import LARGE, check_model, published_by
from engine.project.resolve import Problem, nearest
from engine.project.schema import Project

SQUEEZE = "squeeze"
SOURCES = (SQUEEZE, "torchvision", "timm")
OTHERS = "*"  # stands for every observer that is not named
ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl")
USUAL_TAGS = {"torchvision": "IMAGENET1K_V1", "timm": ""}
BY_NAME = ("observers.weights", "observers.accuracy", "observers.normalisation", "observers.class_order")


def observers_of(project: Project) -> list[str]:
    """Return the networks that a project asks as observers, each once."""
    common = [project.evaluate.common_teacher] if project.evaluate.protocol != "published" else []
    return list(dict.fromkeys([*project.observers.synthesis, *project.observers.labels, *common]))


def weights_of(project: Project, observer: str) -> str:
    """Return where an observer's weights come from, as `observers.weights` says it."""
    weights = project.observers.weights
    return weights.get(observer, weights.get(OTHERS, SQUEEZE))


def is_file(source: str) -> bool:
    """Say whether a value of `observers.weights` is the path of a file."""
    return source.partition(":")[0] not in SOURCES


def published(source: str) -> tuple[str, str]:
    """Return package and tag of published weights: `torchvision:IMAGENET1K_V2`, or `torchvision` alone for the usual ones."""
    package, _, tag = source.partition(":")
    return package, tag or USUAL_TAGS[package]


def absolute_weights(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of `observers.weights` with the files among them made absolute from `folder`."""
    return {
        name: str((folder / os.path.expanduser(source)).absolute())  # noqa: PTH111 - pathlib's raises for ~nobody
        if isinstance(source, str) and source and is_file(source)
        else source
        for name, source in values.items()
    }


def weights_settings(project: Project, observer: str) -> dict[str, Any]:
    """Return what the weights of an observer that is not squeezed depend on; raises UserError when its file is not there."""
    source, observers = weights_of(project, observer), project.observers
    settings: dict[str, Any] = {
        "observer": observer,
        "accuracy": observers.accuracy.get(observer),
        "normalisation": observers.normalisation.get(observer),
        "class_order": observers.class_order.get(observer),
    }
    if not is_file(source):
        return settings | {"weights": ":".join(published(source)), "path": None, "content": None}
    path = Path(source)
    try:
        status = path.stat()
        content = _content(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"observers.weights: {observer}: {path}: cannot be read: {error.strerror or error}") from None
    return settings | {"weights": "file", "path": str(path), "content": content}


@cache
def _content(path: Path, size: int, changed: int) -> str:
    return digest_file(path)


def observer_problems(project: Project, resolution: int, by_user: set[str]) -> Iterator[Problem]:
    """Yield what is wrong with the sources of observers' weights at a working resolution (px); slips only in keys that users wrote."""
    observers = observers_of(project)
    for key in BY_NAME:
        for name in getattr(project.observers, key.partition(".")[2]):
            if key in by_user and name not in observers and not (key == "observers.weights" and name == OTHERS):
                yield Problem(key, f"{name} is none of the observers; {nearest(name, observers)}")
            elif key != "observers.weights" and name in observers and weights_of(project, name) == SQUEEZE:
                yield Problem(key, f"{name} is trained here, and that leaves this without effect; name its file in observers.weights")
    for observer in observers:
        source = weights_of(project, observer)
        if wrong := _wrong_source(observer, source, resolution):
            yield Problem("observers.weights", wrong)
    for name, value in project.observers.normalisation.items():
        if isinstance(value, list) and (len(value) != 6 or min(value[3:]) <= 0):
            yield Problem("observers.normalisation", f"{name}: must be three means and three deviations above 0, or one of {_named()}")


def _named() -> str:
    return ", ".join([DATASET, *KNOWN])


def _wrong_source(observer: str, source: str, resolution: int) -> str:
    """Say what is wrong with a source of an observer's weights; nothing where all is well, as far as that shows without torch."""
    if is_file(source):
        if not source.endswith(ENDINGS):
            name, right = Path(source).name, nearest(Path(source).name, list(SOURCES))
            return f"{observer}: {name!r} is neither a source nor a file in {', '.join(ENDINGS[:3])}; {right}"
        return "" if Path(source).is_file() else f"{observer}: there is no file {source}"
    package, _, tag = source.partition(":")
    if package == SQUEEZE:
        return f"{observer}: squeeze has no {tag!r}" if tag else ""
    try:
        check_model(observer, resolution)
    except UserError:
        return ""  # said already
    by = published_by(observer, resolution)
    if by is None and resolution < LARGE:
        return f"{observer}: {package}'s weights are for {LARGE} px and more, where the network is another than at {resolution} px"
    if by != package:
        return f"{observer} is no network of {package}; use {' or '.join(repr(each) for each in (by, SQUEEZE) if each)}, or a file"
    return ""
