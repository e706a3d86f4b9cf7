"""What a verification measures with a run's own networks: how observers answer now, and what the condensed images are."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.compute.device import resolve_device
from engine.compute.precision import autocast, prepare_torch
from engine.data.catalogue import locate_dataset
from engine.data.condensed import CondensedDataset, read_condensed
from engine.data.decode import prepare
from engine.data.store import Split, open_store
from engine.errors import RunError, UserError
from engine.project.frozen import thaw
from engine.project.schema import Project
from engine.runs.events import number
from engine.runs.layout import Run, read_object, tables
from engine.runs.verify import Answers, ImageFacts, Measured, ObserverFacts
from engine.stages.cache import cache_of_run
from engine.stages.inputs import Inputs

MOST_IMAGES = 2000
BATCH = 250
MOST_CLASSES = 2000  # above which the best order of the classes is not searched for: it takes minutes
FEWEST_OF_CLASS = 5  # images from which most of a class's are told
DRAWS = 10  # of answers without knowledge

Progress = Callable[[int, int], None]


def measure_run(run: Run, content: dict[str, Any], progress: Progress = lambda done, total: None) -> Measured:
    """Measure the squeezed observers and the condensed images of a run, by its parsed `run.toml`, as far as they are there.

    At most 2,000 test images are asked, evenly spread over the classes. Where dataset or device are not on this machine, `problem` says
    so, or the CPU is used.
    """
    with _decoding_folder(run) as cache:
        try:
            project, frozen = thaw(content)
            source = locate_dataset(project, cache=cache)
            if source.fingerprint != frozen.get("data_fingerprint"):
                return Measured(problem=f"the images of {source.name} are not those that this run was made with")
            store = open_store(prepare(source, cache, store=project.dataset.store))
        except (UserError, RunError) as error:
            return Measured(problem=str(error))
        device, precision = _where(frozen)
        prepare_torch(device, project.compute.threads)
        return measure(run, project, Inputs(store, device, precision), progress)


@contextmanager
def _decoding_folder(run: Run) -> Iterator[Path]:
    """Give the cache of the run's projects folder; for a run that was copied elsewhere one for now, so that nothing is left in it."""
    if run.folder.parent.name == "runs":
        yield cache_of_run(run)
    else:
        with TemporaryDirectory(prefix="edc-verify-") as folder:
            yield Path(folder)


def _where(frozen: dict[str, Any]) -> tuple[str, str]:
    """Return device and precision of the run where its device is here, else the CPU in float32."""
    device, precision = str(frozen.get("device")), str(frozen.get("precision"))
    try:
        return resolve_device(device), precision
    except (UserError, ValueError):
        return "cpu", "float32"


def measure(run: Run, project: Project, inputs: Inputs, progress: Progress = lambda done, total: None) -> Measured:
    """Measure a run's observers on the test images and what those that label say of its condensed images."""
    folders = sorted(path.parent for path in run.stages.glob("*-squeeze/*/done.json"))
    observers, labelling = [], {}
    for number_done, folder in enumerate(folders):
        progress(number_done, len(folders))
        facts, model = _observer(folder, inputs)
        observers.append(facts)
        if model is not None and folder.name in project.observers.labels:
            labelling[folder.name] = model
    progress(len(folders), len(folders))
    stage = "synthesise" if project.synthesise.enabled else "initialise"
    made = next((path.parent for path in run.stages.glob(f"*-{stage}/condensed/done.json")), None)
    try:
        images = None if made is None else _image_facts(read_condensed(made), list(labelling.values()), inputs)
    except UserError as error:
        return Measured(tuple(observers), None, str(error))
    return Measured(tuple(observers), images)


def _observer(folder: Path, inputs: Inputs) -> tuple[ObserverFacts, nn.Module | None]:
    """Measure one squeezed network; the network itself is None where it cannot be read."""
    result = tables(read_object(folder / "done.json")[0]).get("result", {})
    try:
        model = inputs.observer(folder)
    except (RunError, UserError, OSError, RuntimeError, ValueError, KeyError) as error:
        return ObserverFacts(folder.name, number(result.get("top1")), None, problem=str(error).splitlines()[0]), None
    rows = spread_rows(len(inputs.store.test), MOST_IMAGES)
    answers = answers_of(named([model], inputs.store.test.images[rows], inputs), inputs.store.test.labels[rows], inputs.store.classes.names)
    return ObserverFacts(folder.name, number(result.get("top1")), answers, batch_norm=batch_norm_problem(model)), model


def spread_rows(count: int, most: int) -> np.ndarray:
    """Return at most `most` of `count` rows, evenly spread, so that each class of a sorted split has its share."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


@torch.no_grad()
def named(models: Sequence[nn.Module], images: np.ndarray | Tensor, inputs: Inputs) -> np.ndarray:
    """Return the class (N,) that the mean of the networks' logits gives each of the uint8 images (N, 3, H, W)."""
    found = []
    for first in range(0, len(images), BATCH):
        batch = inputs.normalise(torch.as_tensor(images[first : first + BATCH]).to(inputs.device))
        with autocast(inputs.device, inputs.precision):
            found.append(torch.stack([model(batch).float() for model in models]).mean(0).argmax(1).cpu())
    return torch.cat(found).numpy()


def answers_of(predicted: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Answers:
    """Say how right predicted classes (N,) are, and how right they would be in the order of classes that fits them best."""
    count, classes = len(labels), len(names)
    top1 = float((predicted == labels).mean() * 100)
    if not 1 < classes <= MOST_CLASSES:
        return Answers(count, top1, top1, top1)
    table = confusion(labels, predicted, classes)
    order = best_order(table)
    best = float(table[np.arange(classes), order].sum() * 100 / count)
    draws = np.random.default_rng(0)  # answers as often given as these are, but for no reason
    chances = [confusion(labels, draws.choice(predicted, count), classes) for _ in range(DRAWS)] if best > top1 else []
    by_chance = max((float(chance[np.arange(classes), best_order(chance)].sum() * 100 / count) for chance in chances), default=top1)
    most = [
        (str(names[one]), str(names[other]))
        for one, other in enumerate(order.tolist())
        if one != other and table[one].sum() >= FEWEST_OF_CLASS and table[one, other] > table[one].sum() / 2
    ]
    return Answers(count, top1, best, by_chance, tuple(most))


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return how many images of each class (rows) were named each class (columns)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def best_order(table: np.ndarray) -> np.ndarray:
    """Return for each class the name that it should have for most answers of a confusion table to be right, each name once."""
    return linear_sum_assignment(table, maximize=True)[1]


def batch_norm_problem(model: nn.Module) -> str:
    """Say what is odd about the running statistics of a network's batch-norm layers; nothing where all is well."""
    for name, layer in model.named_modules():
        if not isinstance(layer, _BatchNorm) or layer.running_var is None or layer.running_mean is None:
            continue
        if not (torch.isfinite(layer.running_mean).all() and torch.isfinite(layer.running_var).all()):
            return f"{name}: its running statistics are no numbers"
        if (layer.running_var < 0).any():
            return f"{name}: a running variance is negative"
        if layer.num_batches_tracked is not None and layer.num_batches_tracked == 0:
            return f"{name}: its running statistics were never taken"
    return ""


def _image_facts(condensed: CondensedDataset, observers: Sequence[nn.Module], inputs: Inputs) -> ImageFacts:
    """Measure the condensed images: what observers call them, their pixels, and whether any is there twice."""
    images, labels = condensed.images.numpy(), condensed.labels.numpy()
    answers = answers_of(named(observers, images, inputs), labels, inputs.store.classes.names) if observers else None
    across, within = duplicates(images, labels)
    flat = images.reshape(len(images), -1)
    constant = int((flat.max(1) == flat.min(1)).sum())
    return ImageFacts(len(images), answers, constant, extreme_share(images), extreme_share(_some(inputs.store.train)), across, within)


def _some(split: Split) -> np.ndarray:
    return split.images[spread_rows(len(split), MOST_IMAGES)]


def extreme_share(images: np.ndarray) -> float:
    """Return the share of pixel values of uint8 images that are 0 or 255."""
    return float(((images == 0) | (images == 255)).mean())


def duplicates(images: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """Return how many images are also there under another class, and how many are there again under their own."""
    found: dict[bytes, list[int]] = {}
    for image, label in zip(images, labels.tolist(), strict=True):
        found.setdefault(hashlib.blake2b(np.ascontiguousarray(image)).digest(), []).append(label)
    across = sum(len(classes) for classes in found.values() if len(set(classes)) > 1)
    return across, sum(len(classes) - len(set(classes)) for classes in found.values())
