"""Weights that torchvision and timm publish: what is said of them, and fetching them into the data root."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import RunError, UserError
from engine.files import digest_file
from engine.models.class_orders import synsets
from engine.models.registry import builder_of
from engine.models.weights import Weights, read_weights
from engine.runs.text import printable

USUAL = "IMAGENET1K_V1"  # of torchvision: those of the papers
HASH = re.compile(r"-([a-f0-9]{8,})\.")
ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
HALF = (0.5, 0.5, 0.5, 0.5, 0.5, 0.5)  # what GoogLeNet and Inception turn ImageNet's normalisation into when their weights are published


@dataclass(frozen=True)
class Entry:
    """One set of published weights: where it lies, what it reaches on ImageNet, and how its images are normalised."""

    url: str
    accuracy: float | None  # percent
    normalisation: tuple[float, ...]  # three means and three deviations


def torchvision_weights(name: str, tag: str, folder: Path) -> Weights:
    """Return torchvision's weights of a network, fetched into `folder` where they are not there.

    Raises UserError naming the weights there are, or saying where to put the file that cannot be fetched.
    """
    entry = torchvision_entry(name, tag)
    path = folder / entry.url.rpartition("/")[2]
    found = HASH.search(path.name)
    if path.is_file() and found and not digest_file(path).startswith(found[1]):
        raise UserError(f"{path}: is not the file that its name says, or a damaged one; remove it, and it is fetched again")
    tensors = _fetched(entry.url, folder)
    tensors = {key: value for key, value in tensors.items() if not key.startswith(("aux", "AuxLogits"))}  # heads that only training uses
    outputs = len(list(tensors.values())[-1])
    return Weights(tensors, entry.accuracy, synsets(outputs) or None, entry.normalisation, {"url": entry.url})


def torchvision_entry(name: str, tag: str) -> Entry:
    """Return what torchvision says of a network's weights; raises UserError naming those there are."""
    from torchvision.models import get_model_weights

    package, builder = builder_of(name)
    if package != "torchvision":
        raise UserError(f"torchvision has no {name}")
    published = get_model_weights(builder)
    if tag not in published.__members__:
        raise UserError(f"torchvision has no weights {tag!r} of {name}; it has: {', '.join(published.__members__) or 'none'}")
    weights = published[tag]
    presets = weights.transforms()
    accuracy = weights.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    inception = builder in ("googlenet", "inception_v3")
    return Entry(weights.url, accuracy, HALF if inception else (*presets.mean, *presets.std))


def _fetched(url: str, folder: Path) -> dict[str, Tensor]:
    name = url.rpartition("/")[2]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return torch.hub.load_state_dict_from_url(url, str(folder), map_location="cpu", progress=False, check_hash=True, weights_only=True)
    except PermissionError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot fetch {url}: {_reason(error)}; where there is no network, put the file {name} into {folder}") from None


def timm_weights(name: str, tag: str, resolution: int, folder: Path) -> Weights:
    """Return timm's weights of a network for images of `resolution` px, through timm's own loading, which fetches them into `folder`.

    A file `<architecture>.<tag>.safetensors` in that folder, or one ending in .pth or .bin, is taken before the net is asked.
    """
    import timm

    _, builder = builder_of(name)
    known = [other.partition(".")[2] for other in timm.list_pretrained(f"{builder}.*")]
    if tag not in ("", *known) or not timm.is_model_pretrained(builder):
        raise UserError(f"timm has no weights {tag!r} of {name}; it has: {', '.join(filter(None, known)) or 'none'}")
    configuration = timm.get_pretrained_cfg(f"{builder}.{tag}" if tag else builder)
    full = f"{builder}.{configuration.tag}" if configuration.tag else builder
    here = next((path for ending in ENDINGS if (path := folder / f"{full}{ending}").is_file()), None)
    options: dict[str, Any] = {"img_size": resolution} if configuration.fixed_input_size else {}
    if here is not None:
        options["pretrained_cfg_overlay"] = {"state_dict": read_weights(here).tensors}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model = timm.create_model(full, pretrained=True, cache_dir=str(folder), **options)
    except Exception as error:  # the Hub's client has errors of several libraries
        where = f"; where there is no network, put its model.safetensors into {folder} as {full}.safetensors" if here is None else ""
        raise UserError(f"cannot load timm's weights {full}: {_reason(error)}{where}") from None
    normalisation = (*map(float, configuration.mean), *map(float, configuration.std))
    return Weights(model.state_dict(), None, synsets(configuration.num_classes) or None, normalisation, {"timm": full})


def _reason(error: Exception) -> str:
    reason = str(getattr(error, "reason", "") or error) or type(error).__name__
    return printable(reason.splitlines()[0], 160)
