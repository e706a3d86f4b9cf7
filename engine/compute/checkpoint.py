"""Checkpoints: tensors and a few plain values in one file that is whole or not there, with the one before it kept."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.errors import RunError
from engine.files import write_bytes

METADATA_KEY = "checkpoint"


def save_tensors(path: Path, tensors: dict[str, Tensor], values: dict[str, Any] | None = None) -> None:
    """Write tensors and JSON `values` to a safetensors file in one step, with a checksum over both.

    Raises RunError naming the file when it cannot be written.
    """
    # Cloned because safetensors refuses tensors that share storage, as averaged and plain weights may.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(values or {})
    # One key, because safetensors writes several in an order that changes from call to call, and equal contents must be equal bytes.
    write_bytes(path, save(plain, metadata={METADATA_KEY: json.dumps({"values": text, "checksum": _checksum(plain, text)})}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_tensors`.

    Raises RunError naming the file when it is not there, is cut short, or differs from its checksum.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = json.loads((file.metadata() or {})[METADATA_KEY])
            text, checksum = metadata["values"], metadata["checksum"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    if checksum != _checksum(tensors, text):
        raise RunError(f"{path}: its content differs from its checksum; it was damaged after it was written")
    return tensors, json.loads(text)


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of the tensors and over the text."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return total.hexdigest()


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write `checkpoint.safetensors`, keeping the one before as `checkpoint.previous.safetensors`."""
    path = folder / "checkpoint.safetensors"
    fresh = folder / "checkpoint.next.safetensors"
    save_tensors(fresh, tensors, values)
    if path.exists():
        path.replace(folder / "checkpoint.previous.safetensors")
    fresh.replace(path)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Return the tensors and values of the newest undamaged checkpoint (empty when there is none) and what was wrong with newer ones."""
    damaged: list[str] = []
    for name in ("checkpoint.safetensors", "checkpoint.previous.safetensors"):
        if (folder / name).exists():
            try:
                return *load_tensors(folder / name), damaged
            except RunError as error:
                damaged.append(str(error))
    return {}, {}, damaged
