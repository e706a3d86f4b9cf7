"""Do the class tables of ImageNet fit a machine of 24 GB? Tables of their true size, written in shards and read class by class.

The columns are those of the paper's five observers at 224 px, taken from one forward pass each; the rows are random numbers, since only
their size matters. 1,000 classes take 1.2 GB of disk, 10,450 take 12.7 GB, which are deleted at the end.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import torch

from engine.compute.precision import peak_memory_bytes, reset_peak_memory
from engine.matching.table_files import TableWriter, open_table, row_bytes
from engine.matching.tables import TableAccumulator
from engine.models.registry import create_model

OBSERVERS = ("resnet18", "mobilenet-v2", "efficientnet-b0", "shufflenet-v2-0.5", "alexnet")
SIDE, PATCH = 224, 16
BATCHES = ((1, 20), (2, 10), (20, 1), (100, 1))  # classes and images of each, of which targets are read


def main() -> None:
    """Write the tables, read targets, and print what either needs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[1_000, 10_450])
    parser.add_argument("--folder", type=Path, help="where the tables are written for a while, else the system's folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    segments = {name: columns_of(name) for name in OBSERVERS}
    for classes in options.classes:
        size = sum(classes * row_bytes(sum(part.size for part in parts)) for parts in segments.values())
        folder = Path(tempfile.mkdtemp(prefix="edc-tables-", dir=options.folder))
        try:
            if shutil.disk_usage(folder).free < 1.2 * size:
                print(f"{classes:,} classes: {folder} has no room for {size / 1e9:.1f} GB")
                continue
            measure(classes, segments, folder)
        finally:
            shutil.rmtree(folder)


def columns_of(name: str) -> tuple:
    """Return what the columns of an observer's table are."""
    model = create_model(name, 1000, SIDE).eval()
    accumulator = TableAccumulator(model, classes=1, patch=PATCH)
    with torch.no_grad(), accumulator.batch(torch.zeros(1, dtype=torch.int64)):
        model(torch.rand(1, 3, SIDE, SIDE))
    return accumulator.segments


class Peak:
    """The largest memory of this process during a block: `all` of it, and `own` without pages that only mirror files."""

    def __enter__(self) -> "Peak":
        reset_peak_memory("cpu")
        self.own, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        self.began = time.perf_counter()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            lines = Path("/proc/self/status").read_text().splitlines()
            self.own = max(self.own, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")))

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.perf_counter() - self.began
        self._ended.set()
        self._thread.join()
        self.all = peak_memory_bytes("cpu")

    def __str__(self) -> str:
        return f"{self.seconds:7.1f} s, peak {self.all / 2**20:6.0f} MiB, {self.own / 2**20:6.0f} MiB of it not pages of files"


def measure(classes: int, segments: dict[str, tuple], folder: Path) -> None:
    """Write the tables of all observers and read targets from them."""
    with Peak() as nothing:
        time.sleep(0.05)
    print(f"\n{classes:,} classes; before: {nothing}")
    counts = torch.full((classes,), 1000)
    draws = torch.Generator().manual_seed(0)
    for name, parts in segments.items():
        own, columns = folder / name, sum(part.size for part in parts)
        own.mkdir()
        with Peak() as peak:
            writer = TableWriter(own, classes)
            for _ in range(classes):
                writer.append(torch.rand(3, 1, columns, generator=draws))
            writer.finish(parts, PATCH, counts)
        size = sum(file.stat().st_size for file in own.iterdir())
        print(f"write {name:<18} {columns:>6} columns {size / 1e9:6.2f} GB in {len(list(own.iterdir())):>3} files: {peak}")
    if hasattr(os, "posix_fadvise"):
        for file in folder.rglob("*.safetensors"):
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with Peak() as peak:
        tables = [open_table(folder / name) for name in segments]
        for table in tables:
            table.global_moments()
    print(f"open all five, moments of the whole dataset:          {peak}")
    for present, each in BATCHES:
        with Peak() as peak:
            for _ in range(20):
                labels = torch.randperm(classes, generator=draws)[:present].repeat_interleave(each)[None]
                for table in tables:
                    table.class_target(labels)
        print(f"20 targets of each observer, {present:>3} classes x {each:>2} images   {peak}")


if __name__ == "__main__":
    main()
