"""How a set of images becomes an accuracy: under which protocol, with which labels, with or without augmentation."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine.project.protocols import HARD, PUBLISHED
from engine.project.schema import Project

COMMON = Path(__file__).parent / "protocols" / "common.toml"
REGIMES = {"online": "online", "stored": "epoch-soft", "fixed": "fixed-soft", "given": "fixed-soft"}  # of labels.mode
SOFT_CONTROLS = ("noise",)  # hard labels on noise teach nothing
HARD_CONTROLS = ("equal-bytes",)  # real images that need no more than their class

# What a student sees without augmentation.
PLAIN = {
    "labels": {"crop_mode": "fixed", "crop_scale": [1.0, 1.0], "flip": False, "mix": "none"},
    "evaluate": {"randaugment": False, "shuffle_patches": 0},
}
HARD_VALUES = {"labels": {"mode": "online"}, "evaluate": {"loss": "ce"}}


@dataclass(frozen=True)
class Evaluation:
    """One way to train and measure students: `project` has the values of labels, evaluate and label observers that belong to it."""

    protocol: str  # published or common
    regime: str
    augmented: bool
    project: Project
    suffix: str  # tells its steps from those of the method's own evaluation: none, `-hard`, `-common`, `-common-hard`, `-plain`, …

    def takes(self, set_name: str) -> bool:
        """Say whether a set is trained on in this evaluation; `full` has evaluations of its own."""
        if not self.augmented:
            return set_name in ("condensed", "random")
        if set_name in HARD_CONTROLS:
            return self.regime == HARD
        return self.regime != HARD or set_name not in SOFT_CONTROLS


def label_regime(project: Project) -> str:
    """Return the label regime of a project's own evaluation."""
    return HARD if project.evaluate.loss == "ce" else REGIMES[project.labels.mode]


def evaluations(project: Project, student: str) -> list[Evaluation]:
    """Return the evaluations that a project asks for of a student, its own first."""
    asked = project.evaluate.protocol
    protocols = {
        PUBLISHED: project if asked in ("published", "both") else None,
        "common": common(project, student) if asked in ("common", "both") else None,
    }
    found = []
    for name, variant in protocols.items():
        if variant is None:
            continue
        regime, mark = label_regime(variant), "" if name == PUBLISHED else f"-{name}"
        found.append(Evaluation(name, regime, True, variant, mark))
        if regime != HARD and project.evaluate.hard_labels:
            found.append(Evaluation(name, HARD, True, changed(variant, HARD_VALUES), f"{mark}-hard"))
        if project.evaluate.without_augmentation:
            found.append(Evaluation(name, regime, False, changed(variant, PLAIN), f"{mark}-plain"))
    return found


def common(project: Project, student: str) -> Project:
    """Return a project evaluated under the common protocol, with the epochs and the teacher it names for it."""
    own = {
        "observers": {"labels": [project.evaluate.common_teacher]},
        "evaluate": {"epochs": project.evaluate.common_epochs},
    }
    return changed(changed(project, common_values(student)), own)


@cache
def _common_file() -> dict[str, Any]:
    return tomllib.loads(COMMON.read_text(encoding="utf-8"))


def common_values(student: str) -> dict[str, dict[str, Any]]:
    """Return the values that the common protocol sets for a student, by section."""
    data = _common_file()
    values = {section: dict(content) for section, content in data["set"].items()}
    for layer in data.get("when", []):
        if student in layer["student"]:
            for section, content in layer["set"].items():
                values[section] |= content
    return values


def changed(project: Project, values: dict[str, dict[str, Any]]) -> Project:
    """Return a copy of a project with other values, given by section and checked against the schema."""
    sections = {
        name: type(getattr(project, name)).model_validate(getattr(project, name).model_dump() | content) for name, content in values.items()
    }
    return project.model_copy(update=sections)
