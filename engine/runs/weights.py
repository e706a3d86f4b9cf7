"""How many weights a kept network has, read from the head of its file without torch."""

import json
import math
import struct
from pathlib import Path

WEIGHT_BYTES = 4  # of a weight kept in float32
LONGEST_HEAD = 100_000_000  # bytes, the limit of the format
NOT_LEARNT = ("running_mean", "running_var", "num_batches_tracked")  # ends of the names of what a network keeps beside its weights


def weight_count(path: Path) -> int | None:
    """Return the number of learnt numbers in a safetensors file of a network; None when the file is missing or none of these."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            head = json.loads(file.read(length)) if length <= LONGEST_HEAD else None
        learnt = [facts for name, facts in head.items() if name != "__metadata__" and not name.endswith(NOT_LEARNT)]
        return sum(math.prod(facts["shape"]) for facts in learnt if facts["dtype"].startswith(("F", "BF")))  # whole numbers are tables
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError):
        return None
