"""The strip that shows how busy the machine is."""

import threading
from pathlib import Path

from textual.message import Message

from edc_tui.machine import Gpu, Resources, look
from edc_tui.widgets.cells import Canvas, Cells
from edc_tui.words import bar
from engine.commands.tables import count, size

LOOK_SECONDS = 4.0
STEP = 5.0  # percent; a load that wavers by less is not drawn anew, so that an idle machine costs an idle line


class ResourceStrip(Cells):
    """CPU, memory, disk and GPUs in one line; what does not fit is left out from the right."""

    DEFAULT_CSS = "ResourceStrip { height: 1; padding: 0 1; }"

    class Looked(Message):
        """The machine was looked at."""

        def __init__(self, found: Resources) -> None:
            self.found = found
            super().__init__()

    def __init__(self, folder: Path, interval: float) -> None:
        super().__init__()
        self._folder, self._interval = folder, max(interval * 2, LOOK_SECONDS)
        self._found: Resources | None = None
        self._loads: dict[str, float] = {}
        self._ended = threading.Event()

    def on_mount(self) -> None:
        """Begin to look, in a thread that never keeps the app from ending."""
        threading.Thread(target=self._look_on, name="resources", daemon=True).start()

    def on_unmount(self) -> None:
        """Look no more."""
        self._ended.set()

    def _look_on(self) -> None:
        look(self._folder)  # the first CPU load is that since some unknown moment
        while not self._ended.wait(self._interval if self._found else 0.3):
            self.post_message(self.Looked(look(self._folder)))

    def on_resource_strip_looked(self, event: Looked) -> None:
        """Show what was found."""
        self._found = event.found
        self.redraw()

    def draw(self, canvas: Canvas) -> None:
        """Draw as many parts as fit."""
        found, x = self._found, 0
        if found is None:
            canvas.put(0, 0, "looking at the machine", "muted")
            return
        parts = [[("cpu ", "muted"), *self._load("cpu", found.cpu), (f" of {count(found.cores, 'core')}", "muted")]]
        part = 100 * found.used / found.total if found.total else 0.0
        parts.append([("memory ", "muted"), *self._load("memory", part), (f" of {size(found.total)}", "muted")])
        parts += [self._gpu(gpu) for gpu in found.gpus]
        if found.free_disk is not None:
            low = found.free_disk < 2**31
            parts.append([("disk ", "muted"), (f"{_rounded(found.free_disk)} free", "warn" if low else "")])
        if not found.gpus:
            parts.append([("no NVIDIA GPU", "muted")])
        for words in parts:
            width = sum(len(text) for text, _ in words)
            if x + width <= canvas.width:
                x = canvas.parts(x, 0, words) + 3

    def _gpu(self, gpu: Gpu) -> list[tuple[str, str]]:
        words = [(f"gpu {gpu.index} ", "muted")]
        words += self._load(f"gpu {gpu.index}", gpu.load) if gpu.load is not None else []
        if gpu.used is not None and gpu.total:
            words.append((f" {gpu.used / 2**30:.0f}/{gpu.total / 2**30:.0f} GiB", "muted"))
        if gpu.temperature is not None:
            words.append((f" {gpu.temperature:.0f} °C", "warn" if gpu.temperature >= 85 else "muted"))
        return words

    def _load(self, name: str, percent: float) -> list[tuple[str, str]]:
        """Say a load in steps of five percent, staying at the last while it wavers around that."""
        last = self._loads.get(name)
        if last is None or abs(percent - last) > STEP * 0.8:
            last = self._loads[name] = min(round(percent / STEP) * STEP, 100.0)
        style = "warn" if last >= 90 else "good"
        return [(bar(last / 100, 5), style), (f"{last:4.0f} %", "")]


def _rounded(free: float) -> str:
    """Say bytes in two digits, lest every written megabyte be news."""
    unit = 2**30
    return f"{free / unit:.1f} GiB" if free < 10 * unit else f"{round(free / unit / 10) * 10} GiB"
