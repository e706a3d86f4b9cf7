"""The images of a run, read a few at a time and without torch: finished, as they form, or as they were chosen to begin with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edc_tui.feed import inside
from engine.errors import UserError
from engine.files import file_mark
from engine.project.plan import STAGES
from engine.runs.layout import Run, read_object, tables
from engine.runs.status import RunStatus, run_status
from engine.runs.text import printable

if TYPE_CHECKING:
    import numpy as np

FILE_NAME, PREVIEW, METADATA_KEY = "images.safetensors", "preview.safetensors", "condensed"
STEP = "condensed"
FINAL, FORMING, INITIAL = "final", "forming", "initial"
LARGEST_SIDE = 8192  # pixels; what claims more is no image of ours


@dataclass(frozen=True)
class Source:
    """A file of images and what they are: FINAL, FORMING or INITIAL."""

    path: Path
    kind: str


class Pictures:
    """An open file of condensed images: `height` and `width` in pixels, class names, and the images of each class by number."""

    def __init__(self, path: Path) -> None:
        """Raise UserError in one line when the file is missing or damaged."""
        from safetensors import SafetensorError, safe_open

        self.mark = file_mark(path)
        try:
            self._file = safe_open(path, "np")
            facts = json.loads((self._file.metadata() or {})[METADATA_KEY])
            self._images = self._file.get_slice("images")
            shape, labels = self._images.get_shape(), self._file.get_tensor("labels")
            self.classes = tuple(str(name) for name in facts.get("titles") or facts["classes"])
            told = facts.get("provenance")
            self.facts: dict[str, Any] = told if isinstance(told, dict) else {}
            if self._images.get_dtype() != "U8" or len(shape) != 4 or shape[1] != 3 or not 0 < max(shape[2:]) <= LARGEST_SIDE:
                raise ValueError(f"expected images uint8 (N, 3, H, W), found {self._images.get_dtype()} {tuple(shape)}")
            if labels.shape != (shape[0],) or labels.dtype.kind not in "iu":
                raise ValueError(f"expected {shape[0]} integer labels")
            self.count, _, self.height, self.width = shape
            self.members: dict[str, list[int]] = {name: [] for name in self.classes}
            for index, label in enumerate(labels.tolist()):
                if not 0 <= label < len(self.classes):
                    raise ValueError(f"label {label} is none of {len(self.classes)} classes")
                self.members[self.classes[label]].append(index)
        except FileNotFoundError as error:
            raise UserError(f"{path.name} is gone") from error
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path.name} is damaged: {printable(error, 120)}") from error

    @property
    def per_class(self) -> int:
        """Return the most images that a class has."""
        return max(map(len, self.members.values()), default=0)

    def read(self, index: int) -> "np.ndarray":
        """Return an image, uint8 (H, W, 3); raises UserError when it cannot be read."""
        try:
            return self._images[index : index + 1][0].transpose(1, 2, 0)
        except Exception as error:  # whatever a file that was cut off meanwhile makes of it
            raise UserError(f"image {index} cannot be read: {printable(error, 120)}") from error


@dataclass(frozen=True)
class Shown:
    """What a look found of a run's images: the images, if any, what they are, and what is wrong."""

    run: Run
    kind: str = ""
    pictures: Pictures | None = None
    note: str = ""
    problem: str = ""


def step_folder(run: Run, stage: str) -> Path:
    """Return the folder of the condensed set's step in a stage."""
    return run.stage_folder(STAGES.index(stage) + 1, stage, STEP)


def find_source(run: Run, summary: Mapping[str, Any], *, initial: bool) -> Source | None:
    """Return the file of a run's images as far as they are made, or of those it began with; None while there is none."""
    chosen = step_folder(run, "initialise") / FILE_NAME
    if not initial:
        made, forming = (step_folder(run, "synthesise") / name for name in (FILE_NAME, PREVIEW))
        told = tables({"condensed": summary.get("condensed")}).get("condensed", {}).get("folder")
        folder = inside(run.folder, told)
        if folder is not None and (folder / FILE_NAME).is_file():
            return Source(folder / FILE_NAME, FINAL)
        for path, kind in ((made, FINAL), (forming, FORMING)):
            if path.is_file():
                return Source(path, kind)
    return Source(chosen, INITIAL) if chosen.is_file() else None


def look_at(run: Run, *, initial: bool, before: Shown | None = None) -> Shown:
    """Look for the images of a run; what was open before stays open while its file is the same."""
    if not run.folder.is_dir():
        return Shown(run, problem="the run's folder is gone")
    summary, status = read_object(run.summary)[0] or {}, run_status(run.folder)
    source = find_source(run, summary, initial=initial)
    if source is None:
        return Shown(run, note=_reason(status, summary))
    if before is not None and before.pictures is not None and before.pictures.mark == file_mark(source.path):
        pictures = before.pictures
    else:
        try:
            pictures = Pictures(source.path)
        except UserError as error:
            return Shown(run, source.kind, problem=str(error))
    return Shown(run, source.kind, pictures, _note(source.kind, pictures, status, summary, initial=initial))


def _note(kind: str, pictures: Pictures, status: RunStatus, summary: Mapping[str, Any], *, initial: bool) -> str:
    """Say what the images are."""
    if kind == FORMING:
        iteration, iterations = (pictures.facts.get(name) for name in ("iteration", "iterations"))
        told = isinstance(iteration, int) and isinstance(iterations, int)
        place = f"iteration {iteration:,} of {iterations:,}" if told else "on their way"
        return place if status.alive else f"{place}, {status.word}"
    if kind == FINAL:
        return "final, optimised" if "settings" in pictures.facts else "final, chosen and not optimised"
    if initial:
        return "initial"
    if "synthesise" not in tables(summary.get("stages")):
        return "chosen"
    return "initial, not optimised yet" if status.alive else f"initial; {status.word} before they were optimised"


def _reason(status: RunStatus, summary: Mapping[str, Any]) -> str:
    """Say why a run has no images."""
    if status.alive:
        at = f" at {status.stage}" if status.stage else ""
        return f"no images yet: {status.word}{at}; the first come with the stage initialise"
    if status.word == "queued":
        return "no images yet: the run was never started"
    begun = any(stage.get("status") == "done" for name, stage in tables(summary.get("stages")).items() if name == "initialise")
    return "no images: their files are gone" if begun else f"no images: {status.word} before any were chosen"
