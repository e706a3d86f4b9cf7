"""Relabel: store the observers' logits for every view of every epoch, or once for every image.

Only logits are stored: order, crops, mirrors, boxes and partners are drawn again from the seed and the epoch (`engine.data.views`).
"""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.compute.seeding import generator
from engine.data.condensed import read_condensed
from engine.data.label_rows import packed, row_type
from engine.data.views import Chunk, ViewSettings, batch_spans, chunk_limit, chunks, render
from engine.errors import RunError, Stopped
from engine.files import read_json, replacing, write_json
from engine.stages.inputs import Inputs
from engine.stages.labelling import ensemble_logits, label_chunk
from engine.stages.report import Report

FIXED_BATCH = 100  # images that an observer sees together where it normalises by the batch
CHECKED_VIEWS = 4096  # views read at once when the labels of an earlier attempt are checked


def relabel(settings: dict[str, Any], inputs: Inputs, folder: Path, report: Report) -> dict[str, Any]:
    """Write `logits.npy`, a row of `labels.storage` for each of epochs * N views, in the order in which they are seen (FKD; EDC 3.4).

    With `labels.mode = "fixed"` one row an image instead, of what the observers say about it unaugmented. Raises Stopped when asked to
    stop; it then goes on with the next chunk of views, or labels the images anew.
    """
    condensed = read_condensed(inputs.folder("images"))
    images = condensed.images.to(inputs.device)
    if settings.get("labels.mode") == "fixed":
        return _label_images(images, settings, inputs, folder, report)
    epochs, count = settings["evaluate.epochs"], len(images)
    views = ViewSettings.of(settings, settings["seed"])
    path, progress = folder / "logits.npy", folder / "progress.json"
    total, kind = epochs * count, _row_type(settings, inputs)
    first, checksum = _done_before(path, progress, total, kind, report)
    logits = np.lib.format.open_memmap(path, mode="r+") if first else _empty_logits(path, total, kind)
    observers = inputs.observers()
    for chunk in chunks(count, inputs.store.resolution, epochs, views, limit=chunk_limit(inputs.store.resolution), first=first):
        rows = slice(chunk.first_view, chunk.first_view + len(chunk.views))
        logits[rows] = packed(label_views(images, observers, chunk, views, settings, inputs).cpu().numpy(), kind)
        checksum = zlib.crc32(logits[rows], checksum)
        report.progress(rows.stop, total, "views")
        if report.checkpoint_due():
            logits.flush()
            write_json(progress, {"chunks": chunk.number + 1, "views": rows.stop, "crc32": _sealed(checksum, chunk.number + 1, rows.stop)})
            report.checkpoint_written()
            if report.stop_wanted():
                raise Stopped(f"{folder.name}: stopped at view {rows.stop} of {total}")
    logits.flush()
    progress.unlink(missing_ok=True)
    return {"label_bytes": logits.nbytes, "views": total}


def label_views(
    images: Tensor, observers: list[nn.Module], chunk: Chunk, views: ViewSettings, settings: dict[str, Any], inputs: Inputs
) -> Tensor:
    """Render a chunk's views of uint8 images (N, 3, H, W) and return the ensemble's logits (M, classes) of them in float32."""
    return label_chunk(observers, render(images, chunk.views, views, inputs.mean, inputs.std), chunk, settings, inputs)


def _row_type(settings: dict[str, Any], inputs: Inputs) -> np.dtype:
    """Return the type of a row of labels."""
    return row_type(settings.get("labels.storage", "full"), settings["labels.dtype"], inputs.classes, settings.get("labels.top_k"))


def _label_images(images: Tensor, settings: dict[str, Any], inputs: Inputs, folder: Path, report: Report) -> dict[str, Any]:
    """Write the logits of unaugmented uint8 images (N, 3, H, W).

    They are labelled in a random order, so that observers that normalise by the batch they see are not shown one class at a time.
    """
    kind, observers = _row_type(settings, inputs), inputs.observers()
    order = torch.randperm(len(images), generator=generator("fixed labels", len(images)))
    logits = np.empty(len(images), kind)
    batches = batch_spans(len(images), FIXED_BATCH)
    whole = max(1, chunk_limit(inputs.store.resolution) // FIXED_BATCH)
    for start in range(0, len(batches), whole):
        part = batches[start : start + whole]
        first, last = part[0][0], part[-1][1]
        shown = inputs.normalise(images[order[first:last].to(images.device)])
        spans = [slice(begin - first, end - first) for begin, end in part]
        logits[order[first:last].numpy()] = packed(ensemble_logits(observers, shown, spans, settings, inputs).cpu().numpy(), kind)
        report.progress(last, len(images), "images")
        if last < len(images) and report.stop_wanted():
            raise Stopped(f"{folder.name}: stopped at image {last} of {len(images)}; it starts anew")
    with replacing(folder / "logits.npy") as temporary, temporary.open("wb") as file:
        np.save(file, logits)
    return {"label_bytes": logits.nbytes, "views": len(images)}


def _done_before(path: Path, progress: Path, total: int, kind: np.dtype, report: Report) -> tuple[int, int]:
    """Return how many chunks an earlier attempt has labelled and the checksum of their logits; (0, 0) when none, or when damaged."""
    if not progress.exists():
        return 0, 0
    try:
        facts = read_json(progress)
        chunks_done, views = int(facts["chunks"]), int(facts["views"])
        checksum = _checksum(path, views, total, kind)
        whole = _sealed(checksum, chunks_done, views) == facts["crc32"]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        whole = False
    if not whole:
        report.log(f"{path}: the labels of an earlier attempt are damaged; labelling starts anew", "warning")
        return 0, 0
    report.log(f"goes on from view {views} of {total}")
    return chunks_done, checksum


def _sealed(checksum: int, chunks_done: int, views: int) -> int:
    """Return the checksum of logits and of the numbers that are kept beside it."""
    return zlib.crc32(f"{chunks_done} {views}".encode(), checksum)


def _checksum(path: Path, views: int, total: int, kind: np.dtype) -> int:
    """Return the CRC-32 of the first `views` rows of a file of logits; raises ValueError when the file is of another shape or type."""
    logits, checksum = np.load(path, mmap_mode="r"), 0
    if (logits.shape, logits.dtype) != ((total, *kind.shape), kind.base):
        raise ValueError(f"{path} is of another shape or type")
    for start in range(0, views, CHECKED_VIEWS):
        checksum = zlib.crc32(logits[start : min(start + CHECKED_VIEWS, views)], checksum)
    return checksum


def _empty_logits(path: Path, total: int, kind: np.dtype) -> np.memmap:
    """Return the mapped file of the logits, with its room on the disk taken: a full disk met while writing to a map kills the process.

    Raises RunError naming the file when there is no room.
    """
    path.unlink(missing_ok=True)  # a finished file may be shared with the cache, and would be overwritten there
    try:
        logits = np.lib.format.open_memmap(path, mode="w+", dtype=kind.base, shape=(total, *kind.shape))
        if hasattr(os, "posix_fallocate"):
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    return logits
