"""Rows of stored soft labels: logits packed as `labels.storage` says and unpacked again (formulas in `engine.project.label_storage`).

A file of labels is a `.npy` whose type of row tells how it is packed: it is mapped, and read without being told.
"""

import numpy as np

from engine.project.label_storage import index_bytes

LEVELS = 255  # steps between the smallest and the largest logit of a row


def row_type(storage: str, dtype: str, classes: int, top_k: int | None) -> np.dtype:
    """Return the type of one stored row; that of full logits is a sub-array (classes,)."""
    if storage == "top-k":
        return np.dtype([("values", dtype, (top_k,)), ("others", dtype), ("classes", f"u{index_bytes(classes)}", (top_k,))])
    if storage == "8-bit":
        return np.dtype([("offset", dtype), ("scale", dtype), ("codes", "u1", (classes,))])
    return np.dtype((dtype, (classes,)))


def packed(logits: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Return logits (M, C) of float32 as M rows of the type `kind` of `row_type`."""
    if kind.names is None:
        return logits.astype(kind.base)
    rows = np.empty(len(logits), kind)
    if "codes" in kind.names:
        lowest, highest = logits.min(1), logits.max(1)
        rows["offset"], rows["scale"] = lowest, (highest - lowest) / LEVELS
        offset, scale = (rows[name].astype(np.float32)[:, None] for name in ("offset", "scale"))  # as they will be read
        steps = np.divide(logits - offset, scale, out=np.zeros_like(logits), where=scale > 0)
        rows["codes"] = np.clip(np.rint(steps), 0, LEVELS)
        return rows
    count = kind["classes"].shape[0]
    order = np.argsort(-logits, axis=1, kind="stable")
    top, rest = order[:, :count], order[:, count:]
    others = np.take_along_axis(logits, rest, 1).astype(np.float64)
    highest = others.max(1, keepdims=True)
    rows["classes"], rows["values"] = top, np.take_along_axis(logits, top, 1)
    rows["others"] = highest[:, 0] + np.log(np.exp(others - highest).mean(1))
    return rows


def unpacked(rows: np.ndarray, classes: int) -> np.ndarray:
    """Return the logits (M, classes) in float32 of rows that `packed` made."""
    names = rows.dtype.names
    if names is None:
        return rows.astype(np.float32)
    if "codes" in names:
        offset, scale = (rows[name].astype(np.float32)[:, None] for name in ("offset", "scale"))
        return offset + scale * rows["codes"].astype(np.float32)
    logits = np.repeat(rows["others"].astype(np.float32)[:, None], classes, 1)
    np.put_along_axis(logits, rows["classes"].astype(np.int64), rows["values"].astype(np.float32), 1)
    return logits
