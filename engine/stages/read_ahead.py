"""Batches of real images that threads fetch while the device computes on the ones before."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

THREADS = 2  # each may itself wait for several that decode
BYTES_AHEAD = 1 << 28
MOST_BATCHES_AHEAD = 8


@cache
def _readers() -> ThreadPoolExecutor:
    """Return the threads of this process that fetch batches."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="read-ahead")


class ReadAhead:
    """Fetches a known sequence of batches in the background, some of them at a time; what comes does not depend on when."""

    def __init__(self, fetch: Callable[[Tensor], Tensor], batches: Iterable[Tensor], image_bytes: int) -> None:
        """`fetch` gives the images of CPU indices (B,); `batches` are those indices, in the order in which they will be asked for."""
        self.fetch, self.image_bytes = fetch, image_bytes
        self._rest: Iterator[Tensor] = iter(batches)
        self._waiting: deque[tuple[Tensor, Future[Tensor]]] = deque()
        self._begin()

    def _begin(self) -> None:
        """Let the threads begin with as many batches as memory is set aside for, two at least."""
        while len(self._waiting) < MOST_BATCHES_AHEAD:
            ahead = sum(len(indices) for indices, _ in self._waiting) * self.image_bytes
            if len(self._waiting) >= 2 and ahead >= BYTES_AHEAD:
                return
            indices = next(self._rest, None)
            if indices is None:
                return
            self._waiting.append((indices, _readers().submit(self.fetch, indices)))

    def take(self, indices: Tensor) -> Tensor | None:
        """Return the images of the next batch, or None where `indices` are not those of it; raises what fetching it raised."""
        if not self._waiting or not torch.equal(self._waiting[0][0], indices):
            return None
        _, future = self._waiting.popleft()
        self._begin()
        return future.result()

    def end(self) -> None:
        """Give up what has not been asked for."""
        self._rest = iter(())
        while self._waiting:
            self._waiting.popleft()[1].cancel()
