"""What a file of condensed images says of itself, read without torch, so that a plan can be made from it."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from engine.data.trees import shown
from engine.errors import UserError
from engine.files import digest_file

# One key, because safetensors writes several in an order that changes from process to process, and equal sets must be equal bytes.
METADATA_KEY = "condensed"
LONGEST_HEADER = 100_000_000  # bytes, the limit of the format


@dataclass(frozen=True)
class CondensedHeader:
    """A file of condensed images: `images` in all, of `resolution` px, over the named classes, with or without soft labels of its own."""

    path: str
    images: int
    resolution: int
    classes: tuple[str, ...]
    ipc: int  # of the largest class
    soft_labels: bool
    fingerprint: str


def read_header(path: Path) -> CondensedHeader:
    """Read the header of a file of condensed images; raises UserError naming the file when it is missing or is none."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LONGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        facts = json.loads(header["__metadata__"][METADATA_KEY])
        count, channels, height, width = header["images"]["shape"]
        if channels != 3 or height != width:
            raise ValueError(f"its images are {channels} x {height} x {width}, not 3 x S x S")
        classes, soft = tuple(map(str, facts["classes"])), "soft_labels" in header
        return CondensedHeader(str(path), int(count), int(height), classes, int(facts["ipc"]), soft, digest_file(path))
    except FileNotFoundError:
        raise UserError(f"no condensed images at {shown(path)}; `edc evaluate` makes such a file from a folder of images") from None
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shown(path)} is no file of condensed images or is damaged: {shown(str(error))}") from error
