"""Relabel: store the observers' logits for every view of every epoch.

Only logits are stored: order, crops, mirrors, boxes and partners are drawn again from the seed and the epoch (`engine.data.views`).
"""

from pathlib import Path
from typing import Any

import numpy as np

from engine.data.condensed import read_condensed
from engine.data.views import ViewSettings, chunk_limit, chunks, render
from engine.errors import Stopped
from engine.files import read_json, write_json
from engine.stages.inputs import Inputs
from engine.stages.labelling import label_chunk
from engine.stages.report import Report


def relabel(settings: dict[str, Any], inputs: Inputs, folder: Path, report: Report) -> dict[str, Any]:
    """Write `logits.npy`, (epochs * N, classes) in `labels.dtype`, in the order in which the views are seen (FKD; EDC 3.4).

    Raises Stopped when asked to stop; it then goes on with the next chunk of views.
    """
    condensed = read_condensed(inputs.folder("images"))
    images = condensed.images.to(inputs.device)
    epochs, count = settings["evaluate.epochs"], len(images)
    views = ViewSettings.of(settings, settings["seed"])
    path, progress = folder / "logits.npy", folder / "progress.json"
    first = read_json(progress)["chunks"] if progress.exists() and path.exists() else 0
    if not first:
        path.unlink(missing_ok=True)  # a finished file may be shared with the cache, and would be overwritten there
    shape = (epochs * count, inputs.classes)
    logits = np.lib.format.open_memmap(path, mode="r+" if first else "w+", dtype=settings["labels.dtype"], shape=None if first else shape)
    observers = inputs.observers()
    for chunk in chunks(count, inputs.store.resolution, epochs, views, limit=chunk_limit(inputs.store.resolution), first=first):
        rendered = render(images, chunk.views, views, inputs.mean, inputs.std)
        rows = slice(chunk.first_view, chunk.first_view + len(chunk.views))
        logits[rows] = label_chunk(observers, rendered, chunk, settings, inputs).cpu().numpy().astype(settings["labels.dtype"])
        report.progress(rows.stop, shape[0], "views")
        if report.checkpoint_due():
            logits.flush()
            write_json(progress, {"chunks": chunk.number + 1})
            report.checkpoint_written()
            if report.stop_wanted():
                raise Stopped(f"{folder.name}: stopped at view {rows.stop} of {shape[0]}")
    logits.flush()
    progress.unlink(missing_ok=True)
    return {"label_bytes": logits.nbytes, "views": shape[0]}
