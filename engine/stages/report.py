"""What a stage tells while it works: progress, metrics, log lines; and what it is told: to stop, to write a checkpoint."""

import math
import time
from collections.abc import Callable

from torch import Tensor

CHECKPOINT_SECONDS = 20.0


class Report:
    """The stage's line to whoever runs it; by itself it keeps quiet, which is what tests and library users want.

    `on_metrics(step, values)`, `on_progress(done, total, unit)` and `on_log(text, level)` receive what the stage tells;
    `stop_wanted()` says whether the stage should write its checkpoint and raise `engine.errors.Stopped`.
    """

    def __init__(
        self,
        *,
        on_metrics: Callable[[int, dict[str, float]], None] = lambda step, values: None,
        on_progress: Callable[[int, int, str], None] = lambda done, total, unit: None,
        on_log: Callable[[str, str], None] = lambda text, level: None,
        on_checkpoint: Callable[[], None] = lambda: None,
        stop_wanted: Callable[[], bool] = lambda: False,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        self._on_metrics = on_metrics
        self.progress = on_progress
        self._on_log = on_log
        self._on_checkpoint = on_checkpoint
        self.stop_wanted = stop_wanted
        self._checkpoint_seconds = checkpoint_seconds
        self._last_checkpoint = time.monotonic()
        self._last_flush = -math.inf  # the first values are told at once
        self._waiting: list[tuple[int, dict[str, Tensor]]] = []

    def log(self, text: str, level: str = "info") -> None:
        """Tell people one sentence."""
        self._on_log(text, level)

    def metrics(self, step: int, **values: float) -> None:
        """Tell plain numbers of a step."""
        self._on_metrics(step, values)

    def later(self, step: int, values: dict[str, Tensor]) -> None:
        """Tell scalar tensors of a step without asking the device for their values now.

        They are fetched together about once a second, so that an inner loop never waits for the device.
        """
        self._waiting.append((step, {name: value.detach() for name, value in values.items()}))
        if time.monotonic() - self._last_flush > 1.0:
            self.flush()

    def flush(self) -> None:
        """Fetch and tell every value that `later` holds."""
        import torch

        if self._waiting:
            flat = torch.stack([value.float() for _, values in self._waiting for value in values.values()]).tolist()
            for step, values in self._waiting:
                fetched, flat = flat[: len(values)], flat[len(values) :]
                self._on_metrics(step, dict(zip(values, fetched, strict=True)))
            self._waiting.clear()
        self._last_flush = time.monotonic()

    def checkpoint_due(self) -> bool:
        """Say whether enough work has been done since the last checkpoint, or a stop is wanted."""
        return self.stop_wanted() or time.monotonic() - self._last_checkpoint >= self._checkpoint_seconds

    def checkpoint_written(self) -> None:
        """Start counting anew towards the next checkpoint."""
        self._on_checkpoint()
        self._last_checkpoint = time.monotonic()
