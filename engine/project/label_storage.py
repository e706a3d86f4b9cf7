"""How soft labels are stored, and the bytes that a row takes; `engine.data.label_rows` writes and reads them.

- `full`: every logit in `labels.dtype`.
- `top-k`: the k largest logits and one more, r, that stands for each of the other C - k: `r = log(sum of exp(z_j) over the others) -
  log(C - k)`. So the probabilities of the k stay what they were, the others share evenly in the rest, and all sum to one; a squared
  error sees r in the place of each of them.
- `8-bit`: whole numbers q from 0 to 255, one for each logit, with an offset and a scale a row: `z = offset + scale q`, where the offset
  is the smallest logit and the scale a 255th of their range, both in `labels.dtype`.
"""

from engine.errors import UserError
from engine.project.schema import Labels

VALUE_BYTES = {"float16": 2, "float32": 4}


def index_bytes(classes: int) -> int:
    """Return the bytes of the smallest whole number type that holds the index of a class."""
    return 1 if classes <= 1 << 8 else 2 if classes <= 1 << 16 else 4


def row_bytes(labels: Labels, classes: int) -> int:
    """Return the bytes of one stored label: one view of one epoch, or one image with `fixed` labels."""
    value = VALUE_BYTES[labels.dtype]
    if labels.storage == "top-k":
        return labels.top_k * (value + index_bytes(classes)) + value
    return classes * value if labels.storage == "full" else classes + 2 * value


def check_top_k(labels: Labels, classes: int) -> None:
    """Raise UserError where `labels.top_k` leaves no class out."""
    if labels.mode != "online" and labels.storage == "top-k" and labels.top_k >= classes:
        raise UserError(
            f'labels.top_k: {labels.top_k} of {classes} classes leaves none out; use at most {classes - 1}, or labels.storage = "full"'
        )
