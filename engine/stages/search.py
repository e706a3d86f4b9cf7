"""The search of a student's learning rate: measured on training images, never on those of the test split."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from engine.compute.seeding import generator
from engine.data.store import ImageStore
from engine.errors import RunError
from engine.files import read_json
from engine.stages.report import Report

HELD_OUT = 10  # one in so many training images of a class


def held_out_rows(store: ImageStore, seed: int, trained_on: Iterable[int] = ()) -> np.ndarray:
    """Return the rows (M,) int64, rising, of a tenth of each class's training images (at least one), drawn by `seed`.

    Rows that the student is trained on are left out, so that what it is measured on is new to it; images that were optimised, and the
    observers, have still seen them. Raises RunError when no image is left.
    """
    taken, chosen = set(trained_on), []
    for label, name in enumerate(store.classes.names):
        span = store.train.rows_of_class(label)
        count = span.stop - span.start
        order = torch.randperm(count, generator=generator(seed, "held-out", name)).tolist()
        free = [span.start + place for place in order if span.start + place not in taken]
        chosen += free[: max(1, round(count / HELD_OUT))]
    if not chosen:
        raise RunError("every training image is trained on, so none is left to search a learning rate with")
    return np.sort(np.array(chosen, dtype=np.int64))


def found_learning_rate(folders: Iterable[Path], report: Report) -> float:
    """Return the learning rate whose training ended with the best top-1, the smaller one of equals.

    `folders` are those of the finished trainings. Raises RunError when all of them diverged.
    """
    trainings = [read_json(folder / "done.json") for folder in folders]
    rates = {done["settings"]["evaluate.learning_rate"]: done["result"] for done in trainings}
    usable = {rate: result["final"]["top1"] for rate, result in rates.items() if not result.get("diverged")}
    if not usable:
        told = ", ".join(f"{rate:g}" for rate in sorted(rates))
        raise RunError(f"evaluate.search_learning_rates: every training diverged ({told}); name smaller ones")
    best = min(usable, key=lambda rate: (-usable[rate], rate))
    told = ", ".join(f"{rate:g}: {f'{usable[rate]:.2f} %' if rate in usable else 'diverged'}" for rate in sorted(rates))
    report.log(f"learning rate {best:g} is the best on training images held out ({told})")
    return best
