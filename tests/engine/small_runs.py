"""A dataset of 60 small pictures built by hand, every setting of a project flattened, and a report that stops a stage in the middle."""

from pathlib import Path

import numpy as np

from engine.data.sources import ClassIndex
from engine.data.store import ImageStore, Split
from engine.project.checks import value_of
from engine.project.schema import Project, keys
from engine.stages.inputs import Inputs
from engine.stages.report import Report

CLASSES = ("bird", "cat", "dog", "frog")
SIDE = 16


def pictures(count: int, seed: int, side: int = SIDE) -> np.ndarray:
    """`count` uint8 images of each class, class after class: a coloured square whose place and colour say the class, under noise."""
    draws = np.random.default_rng(seed)
    images = draws.normal(110, 30, (len(CLASSES) * count, 3, side, side))
    for index in range(len(images)):
        label = index // count
        row, column = divmod(label, 2)
        top, left = row * side // 2 + draws.integers(0, 3), column * side // 2 + draws.integers(0, 3)
        images[index, label % 3, top : top + side // 3, left : left + side // 3] += 120
    return images.clip(0, 255).astype(np.uint8)


def small_store(side: int = SIDE, classes: tuple[str, ...] = CLASSES) -> ImageStore:
    """15 training and 8 test images of each of four classes."""
    train, test = pictures(15, 1, side), pictures(8, 2, side)
    scaled = train / 255
    return ImageStore(
        train=Split(train, np.repeat(np.arange(len(classes)), 15)),
        test=Split(test, np.repeat(np.arange(len(classes)), 8)),
        classes=ClassIndex(classes),
        mean=tuple(scaled.mean((0, 2, 3)).tolist()),
        std=tuple(scaled.std((0, 2, 3)).tolist()),
        resolution=side,
        fingerprint="by hand",
        mirror=True,
    )


def small_inputs_of(store: ImageStore, **folders: tuple[Path, ...]) -> Inputs:
    """Inputs on the CPU in float32."""
    return Inputs(store, "cpu", "float32", folders)


def flat_settings(**changes) -> dict:
    """Every `section.key` at its default, as a step sees them; `changes` are written `section__key=value`, the step's own as they are."""
    project = Project()
    flat = {name: value_of(project, name) for name in keys()} | {"mirror": True}
    for name, value in changes.items():
        dotted = name.replace("__", ".")
        assert "." not in dotted or dotted in flat, dotted
        flat[dotted] = value
    return flat


class StopAfter:
    """Wants a stop after so many questions whether one is wanted; each checkpoint asks at least once."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def stopping_report(questions: int, logs: list[str] | None = None) -> Report:
    """A report that wants a stop after some questions, and keeps what is logged."""
    return Report(stop_wanted=StopAfter(questions), on_log=lambda text, level: None if logs is None else logs.append(text))
