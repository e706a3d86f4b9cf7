"""Weights from files: read without executing anything, found in their wrappings, and fitted to a network by name."""

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engine.compute.checkpoint import METADATA_KEY
from engine.errors import UserError
from engine.models.registry import create_model
from engine.runs.text import printable

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "state_dict_ema", "model_ema", "model", "net", "network", "weights", "params")
PREFIXES = ("module.", "model.", "_orig_mod.", "network.", "net.")
COUNTERS = ("n_averaged",)  # of an averaged network, beside its weights
ACCURACIES = ("accuracy", "top1", "test_accuracy", "test_acc", "val_acc", "best_acc1", "best_acc", "acc1", "acc")
# What other code for small images calls the parts of torchvision's residual networks.
SYNONYMS = (("linear.", "fc."), (".shortcut.", ".downsample."))
BATCH_COUNTS = "num_batches_tracked"  # which older files lack, and which nothing but training reads


@dataclass(frozen=True)
class Weights:
    """Tensors by the names of a network's parameters and buffers, and what their file says of them (None where it says nothing)."""

    tensors: dict[str, Tensor]
    accuracy: float | None = None  # percent of the test images
    classes: tuple[str, ...] | None = None  # what each output means
    normalisation: tuple[float, ...] | None = None  # three means and three deviations, in units of [0, 1]
    facts: dict[str, Any] = field(default_factory=dict)


def read_weights(path: Path) -> Weights:
    """Read a file of weights: safetensors, or a state dict that torch.save has written, alone or in a training's checkpoint.

    Raises UserError in one line where it cannot be read, holds no weights, or more than tensors and plain values: such a file would
    have to be executed, and is not.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
        # A safetensors file begins with the length of its header and an opening brace, whatever it is called.
        content, said = _read_safetensors(path) if head[8:9] == b"{" else _read_pickled(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    tensors = _unwrapped(content)
    if tensors is None:
        raise UserError(f"{path}: holds no weights: {_shown(content)}; save model.state_dict()")
    bad = next((name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()), None)
    if bad is not None:
        raise UserError(f"{path}: {printable(bad)} holds values that are no numbers")
    said = _plain(content) | said
    accuracy = next((float(said[name]) for name in ACCURACIES if isinstance(said.get(name), int | float)), None)
    if accuracy is not None and 0 < accuracy <= 1:
        accuracy *= 100  # a share; nobody keeps a network that is right once in a hundred times
    classes, mean, std = said.get("classes"), said.get("mean"), said.get("std")
    named = isinstance(classes, list) and bool(classes) and all(isinstance(name, str) for name in classes)
    return Weights(
        tensors=tensors,
        accuracy=accuracy if accuracy is not None and 0 <= accuracy <= 100 else None,
        classes=tuple(classes) if named else None,
        normalisation=(*mean, *std) if _is_three_numbers(mean) and _is_three_numbers(std) else None,
        facts=said,
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of a safetensors file and its metadata, in which lists and numbers may be written as JSON."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: is no undamaged safetensors file: {printable(str(error))}") from None
    said = {name: _parsed(text) for name, text in metadata.items()}
    own = said.pop(METADATA_KEY, None)  # an observer that this program has written
    if isinstance(own, dict) and isinstance(values := _parsed(own.get("values")), dict):
        said |= values
    return tensors, said


def _read_pickled(path: Path) -> tuple[Any, dict[str, Any]]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True), {}
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds more than tensors and plain values (a pickled module?), which would have to be executed and is not; "
            "save model.state_dict(), or a safetensors file"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = printable((str(error) or type(error).__name__).splitlines()[0], 120)
        raise UserError(f"{path}: is no file that torch.save has written, or a damaged one ({reason})") from None


def _parsed(text: object) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return text


def _plain(content: object) -> dict[str, Any]:
    """Return what stands beside the weights in a checkpoint: numbers, also those kept as tensors, texts and lists."""
    if not isinstance(content, Mapping):
        return {}
    found = {}
    for name, value in content.items():
        if isinstance(value, Tensor) and value.numel() == 1 and name in ACCURACIES:
            value = value.item()
        if isinstance(name, str) and isinstance(value, int | float | str | list) and not isinstance(value, bool):
            found[name] = value
    return found


def _is_three_numbers(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(part, int | float) for part in value)


def _shown(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    return "it has " + (printable(", ".join(map(str, list(content)[:5])), 100) or "nothing in it")


def _unwrapped(content: object) -> dict[str, Tensor] | None:
    """Return the mapping of names to tensors inside of what training code keeps around it; None where there is none."""
    if not isinstance(content, Mapping):
        return None
    for name in WRAPPERS:
        if isinstance(inner := content.get(name), Mapping):
            return _unwrapped(inner)
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    tensors = {name: value for name, value in tensors.items() if name not in (*COUNTERS, *ACCURACIES)}
    if not tensors or any(isinstance(value, Tensor) and not isinstance(name, str) for name, value in content.items()):
        return None
    while prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def head_names(name: str, resolution: int) -> list[str]:
    """Return the names of a network's weights that have one row for each class, the last layer's."""
    with torch.device("meta"):
        few, more = (create_model(name, classes, resolution).state_dict() for classes in (11, 13))
    return [key for key, value in few.items() if value.shape != more[key].shape]


def renamed(tensors: Mapping[str, Tensor], name: str, resolution: int) -> dict[str, Tensor]:
    """Return tensors under the names that network `name` has, where other code calls the same parts otherwise."""
    with torch.device("meta"):
        known = create_model(name, 2, resolution).state_dict().keys()
    found = dict(tensors)
    for theirs, ours in SYNONYMS:
        changed = {key.replace(theirs, ours) if key not in known else key: value for key, value in found.items()}
        if len(changed) == len(found) and len(changed.keys() & known) > len(found.keys() & known):
            found = changed
    return found


def outputs_of(tensors: Mapping[str, Tensor], head: Sequence[str]) -> int | None:
    """Return how many outputs the weights have; None where the layer is not among them."""
    return next((len(tensors[key]) for key in head if key in tensors and tensors[key].ndim > 0), None)


def fitted(
    tensors: Mapping[str, Tensor], name: str, *, classes: int, resolution: int, rows: Sequence[int] | None = None, place: object
) -> nn.Module:
    """Return network `name` with these weights; with `rows` (classes,) the last layer has these of its rows, in this order.

    Raises UserError that begins with `place` and says which weights are missing, not known, or of another shape.
    """
    with torch.random.fork_rng(devices=[]):
        model = create_model(name, classes, resolution)
    own, given = model.state_dict(), dict(tensors)
    if rows is not None:
        chosen = torch.tensor(list(rows))
        given |= {key: given[key][chosen] for key in head_names(name, resolution) if key in given}
    for key in own.keys() - given.keys():
        if key.endswith(BATCH_COUNTS):
            given[key] = own[key]
    network = f"{name} at {resolution} px"
    missing, unknown = [key for key in own if key not in given], [key for key in given if key not in own]
    if missing and unknown:
        said = f"{len(missing)} of its {len(own)} weights are missing, {missing[0]} first, and {printable(unknown[0])} is not known"
        raise UserError(f"{place}: is no {network}: {said}")
    if missing or unknown:
        said = f"{missing[0]} is missing" if missing else f"{printable(unknown[0])} is not known"
        raise UserError(f"{place}: is no {network}: {said}")
    for key, value in own.items():
        if given[key].shape != value.shape:
            there, here = (" x ".join(map(str, shape)) or "a number" for shape in (given[key].shape, value.shape))
            raise UserError(f"{place}: is no {network}: {key} is {there} there and {here} here{_stem_hint(given[key], value)}")
    model.load_state_dict(given)
    return model


def _stem_hint(theirs: Tensor, ours: Tensor) -> str:
    """Say what most often makes the first convolution differ."""
    if theirs.ndim == ours.ndim == 4 and theirs.shape[:2] == ours.shape[:2] and theirs.shape[1] == 3:
        return f" (the stem: it was made for {'larger' if theirs.shape[-1] > ours.shape[-1] else 'smaller'} images)"
    return ""
