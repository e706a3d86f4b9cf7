"""Random draws that depend on what they are for, never on what ran before."""

import hashlib
import json

import torch


def seed_for(*items: str | int) -> int:
    """Return the 63-bit seed that belongs to `items`, for instance (project seed, stage, batch, iteration)."""
    text = json.dumps(items, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*items: str | int) -> torch.Generator:
    """Return a fresh CPU generator for `items`.

    Draws are made on the CPU and moved, so that a result does not depend on the device's own generator.
    """
    return torch.Generator().manual_seed(seed_for(*items))
