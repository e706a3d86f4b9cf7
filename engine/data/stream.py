"""Images that are decoded when they are asked for, by as many threads as there are processors; nothing of them is kept."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from engine.data.decode import decode_image, processor_count
from engine.data.file_list import FileList


@cache
def _decoders() -> ThreadPoolExecutor:
    """Return the threads of this process that decode; Pillow lets go of Python's lock while it does."""
    return ThreadPoolExecutor(processor_count(), thread_name_prefix="decode")


class StreamedImages:
    """Read-only uint8 images (N, 3, R, R), indexed by slices or arrays of rows as a mapped array is."""

    dtype = np.dtype(np.uint8)

    def __init__(self, files: FileList, resolution: int, margin: float = 1.0) -> None:
        self.files, self.resolution, self.margin = files, resolution, margin

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 3, R, R)."""
        return (len(self.files), 3, self.resolution, self.resolution)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """Decode the images of a slice or of rows (n,), uint8 (n, 3, R, R); raises UserError naming a file that cannot be decoded."""
        numbers = range(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows).tolist()
        images = np.empty((len(numbers), *self.shape[1:]), dtype=np.uint8)

        def fill(place: int, number: int) -> None:
            images[place] = decode_image(self.files[number], self.resolution, self.margin)

        if len(numbers) < 2:
            for place, number in enumerate(numbers):
                fill(place, number)
        else:
            list(_decoders().map(fill, range(len(numbers)), numbers))
        return images
