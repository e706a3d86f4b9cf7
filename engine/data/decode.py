"""Decoding a dataset: once, into one uint8 file a split that later runs only map into memory, or whenever images are needed.

The second way, a stream, keeps only where the encoded images lie. Both give the same bytes for every image.
"""

import contextlib
import fcntl
import json
import math
import os
import queue
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine.data import archives
from engine.data.datasets import USUAL
from engine.data.layouts import RawSplit, read_layout
from engine.data.sources import Source
from engine.data.trees import shown
from engine.errors import RunError, UserError
from engine.files import digest, write_json

DECODER_VERSION = 1  # raise it when the same files would become other bytes
FILES_FOR_SEVERAL_PROCESSES = 2_000
LARGEST_PROCESS_COUNT = 16
SECONDS_TO_TAKE_THE_LOCK = 60.0
SLAB_IMAGES = 256  # images decoded between two writes, and between two reports of progress
AUTO, MAPPED, STREAM = "auto", "memory-map", "stream"
MAPPED_BYTES = 50 * 10**9  # of decoded images; more are streamed unless the project says otherwise
PACKAGE_ROOT = Path(__file__).resolve().parents[2]

Progress = Callable[[int, int], None]


def prepare(source: Source, cache: Path, progress: Progress | None = None, store: str = AUTO) -> Path:
    """Prepare a dataset in `<cache>/data/<key>/` unless that is there, and return the folder, which `store.open_store` opens.

    Mapped, `{train,test}.images.npy` hold uint8 (N, 3, R, R); as a stream, `{train,test}.{files,ends}.npy` say where each image lies.
    `{train,test}.labels.npy` are int64 (N,): by class, then by file name or original order. `meta.json` has the classes, counts, and per
    channel mean and standard deviation: those of the training images in [0, 1], exact in float64, unless the dataset fixes others.
    `store` is "memory-map", "stream" or "auto": a stream where the decoded images would take more than MAPPED_BYTES or than the disk has
    free. The folder appears whole or not at all, whoever else prepares it. `progress` is told images done and in all.

    Raises UserError naming the file that is damaged or cannot be read, or when the disk has no room for decoded images that were asked
    for, RunError when the cache cannot be written.
    """
    facts = {"name": source.name, "resolution": source.resolution, "classes": list(source.classes.names), "fingerprint": source.fingerprint}
    if source.preparation is not USUAL:
        facts |= {"preparation": asdict(source.preparation)}
    mapped, streamed = (
        cache / "data" / digest({"decoder": DECODER_VERSION, **facts, **how})
        for how in ({}, {"paths": sorted(str(path) for path in source.paths.values())})
    )
    stream = store == STREAM and source.encoded
    if store == AUTO and source.encoded and not (mapped / "meta.json").is_file():
        stream = source.decoded_bytes > min(MAPPED_BYTES, _free_bytes(cache))
    target = streamed if stream else mapped
    if (target / "meta.json").is_file():
        return target
    if not stream and source.decoded_bytes > _free_bytes(cache):
        right = 'set dataset.store = "stream", or free some' if source.encoded else "free some"
        needed, free = (f"{number / 1e9:,.1f} GB" for number in (source.decoded_bytes, _free_bytes(cache)))
        raise UserError(f"{source.name}: the decoded images take {needed}, the disk of {shown(cache)} has {free} free: {right}")
    try:
        with _folder_in_one_step(target) as temporary:
            splits = dict(zip(("train", "test"), read_layout(source.layout, source.paths, source.classes.names), strict=True))
            histogram = (_write_stream if stream else _write_mapped)(temporary, source, splits, progress)
            mean, deviation = source.preparation.mean, source.preparation.std
            if mean is None:
                mean, deviation = channel_mean_and_deviation(histogram)
            counts = {"train_counts": list(source.train_counts), "test_counts": list(source.test_counts)}
            meta = {"schema": 1, **facts, **counts, "mirror": source.mirror, "mean": mean, "std": deviation}
            if source.classes.titles:
                meta["titles"] = list(source.classes.titles)
            if stream:
                meta |= {"stream": splits["train"].images.prefix, "margin": source.preparation.test_margin}
            write_json(temporary / "meta.json", meta)
    except OSError as error:
        raise RunError(f"cannot write the decoded images to {shown(target)}: {error.strerror or error}") from error
    return target


def _free_bytes(cache: Path) -> int:
    """Return how many bytes the disk has free on which a cache lies or will lie."""
    return shutil.disk_usage(next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())).free


def _write_mapped(folder: Path, source: Source, splits: dict[str, RawSplit], progress: Progress | None) -> np.ndarray:
    """Decode both splits into their files and return the histogram of the training images."""
    total, before, histograms = sum(len(split.labels) for split in splits.values()), 0, {}
    for name, split in splits.items():
        report = (lambda done, before=before: progress(before + done, total)) if progress else None
        margin = source.preparation.test_margin if name == "test" else 1.0
        histograms[name] = _write_split(folder, name, split, source.resolution, margin, report)
        before += len(split.labels)
    return histograms["train"]


def _write_stream(folder: Path, source: Source, splits: dict[str, RawSplit], progress: Progress | None) -> np.ndarray | None:
    """Write where the images lie; return the histogram of the training images where their mean must be known, which decodes them once."""
    for name, split in splits.items():
        _save_labels(folder, name, split.labels)
        split.images.save(folder, name)
    if source.preparation.mean is not None:
        return None
    files = splits["train"].images
    return _decode(files, None, source.resolution, 1.0, (lambda done: progress(done, len(files))) if progress else None)


@contextlib.contextmanager
def _folder_in_one_step(target: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `target` when the block ends well, or gives way to one that another process put there meanwhile."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target)
    temporary = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        with (temporary / "lock").open("w") as lock:
            with contextlib.suppress(OSError):  # where the file system has no locks, nothing is ever taken for abandoned
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield temporary
            (temporary / "lock").unlink()
            try:
                temporary.rename(target)
            except OSError:
                if not (target / "meta.json").is_file():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_abandoned(target: Path) -> None:
    """Remove what a killed process left half decoded: its lock is free, that of a living one is not."""
    for folder in target.parent.glob(f"{target.name}.*.tmp"):
        with contextlib.suppress(OSError), (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - folder.stat().st_mtime > SECONDS_TO_TAKE_THE_LOCK:
                shutil.rmtree(folder, ignore_errors=True)


def _write_split(
    folder: Path, name: str, split: RawSplit, resolution: int, margin: float, report: Callable[[int], None] | None
) -> np.ndarray:
    """Write images and labels of one split and return the histogram of its pixel values, int64 (3, 256)."""
    order = np.argsort(split.labels, kind="stable")
    _save_labels(folder, name, split.labels[order])
    with (folder / f"{name}.images.npy").open("wb+") as file:
        shape = (len(order), 3, resolution, resolution)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.flush()
        if isinstance(split.images, np.ndarray):
            starts = range(0, len(order), SLAB_IMAGES)
            slabs = (fit_array(split.images[order[start : start + SLAB_IMAGES]], resolution) for start in starts)
            histogram = _write_slabs(file, slabs, report)
        else:
            histogram = _decode(split.images, file, resolution, margin, report)
        _flush(file)
    return histogram


def _save_labels(folder: Path, name: str, labels: np.ndarray) -> None:
    with (folder / f"{name}.labels.npy").open("wb") as file:
        np.save(file, labels)
        _flush(file)


def _decode(
    files: Sequence[str], file: IO[bytes] | None, resolution: int, margin: float, report: Callable[[int], None] | None
) -> np.ndarray:
    """Decode images in as many processes as are worth it, write them where a file is given, and return their histogram."""
    processes = min(processor_count(), LARGEST_PROCESS_COUNT)
    if len(files) > FILES_FOR_SEVERAL_PROCESSES and processes > 1:
        return _decode_in_processes(files, file, resolution, margin, processes, report)
    return _write_slabs(file, _decoded_slabs(files, resolution, margin), report)


def processor_count() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write_slabs(file: IO[bytes] | None, slabs: Iterable[np.ndarray], report: Callable[[int], None] | None) -> np.ndarray:
    """Write slabs of images, uint8 (n, 3, R, R), one after another, and return the histogram of their values, int64 (3, 256)."""
    histogram, done = np.zeros((3, 256), dtype=np.int64), 0
    for slab in slabs:
        if file is not None:
            file.write(np.ascontiguousarray(slab).data)
        for channel in range(3):
            histogram[channel] += np.bincount(slab[:, channel].ravel(), minlength=256)
        done += len(slab)
        if report:
            report(done)
    return histogram


def channel_mean_and_deviation(histogram: np.ndarray) -> tuple[list[float], list[float]]:
    """Return per channel the mean and the (biased) standard deviation in [0, 1] from counts of the values 0..255, int64 (3, 256)."""
    means, deviations = [], []
    for counts in histogram.tolist():
        # Whole numbers of any size: no rounding before the last division.
        pixels = sum(counts)
        total = sum(count * value for value, count in enumerate(counts))
        squares = sum(count * value * value for value, count in enumerate(counts))
        means.append(total / (255 * pixels))
        deviations.append(math.sqrt((pixels * squares - total * total) / (255 * pixels) ** 2))
    return means, deviations


def fit_array(images: np.ndarray, resolution: int) -> np.ndarray:
    """Bring square images, uint8 (n, S, S) grey or (n, 3, S, S), to uint8 (n, 3, R, R).

    28 pixel images get a black border of 2 first, unless R is 28: 32 px networks then see every pixel as it is. The rest is bilinear.
    """
    side = images.shape[-1]
    if side == 28 != resolution:
        images = np.pad(images, [(0, 0)] * (images.ndim - 2) + [(2, 2), (2, 2)])
        side = 32
    if side != resolution:
        planes = images.reshape(-1, side, side)
        resized = [np.asarray(Image.fromarray(plane).resize((resolution, resolution), Image.Resampling.BILINEAR)) for plane in planes]
        images = np.stack(resized).reshape(*images.shape[:-2], resolution, resolution)
    return images if images.ndim == 4 else np.repeat(images[:, None], 3, axis=1)


def decode_image(image: str, resolution: int, margin: float = 1.0) -> np.ndarray:
    """Decode the image of a path or reference to uint8 (3, R, R).

    The shorter side is resized to R times `margin` (bilinear, antialiased), then the centre is cut out. Grey becomes three equal
    channels, 16-bit grey loses its lower byte, transparency is laid on white, of an animation the first picture counts, and EXIF's
    orientation is ignored (as torchvision's ImageFolder does). Raises UserError naming the file.
    """
    try:
        with Image.open(archives.opened(image)) as found:
            pixels = fit_image(to_rgb(found), resolution, margin)
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, struct.error, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else shown(str(error) or type(error).__name__)
        raise UserError(f"{archives.shown_reference(image)} cannot be decoded: {reason}: replace or remove it") from error
    return np.asarray(pixels).transpose(2, 0, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB; raises ValueError for floating-point images, which have no agreed white."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, expected 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def fit_image(image: Image.Image, resolution: int, margin: float = 1.0) -> Image.Image:
    """Resize the shorter side to `resolution` times `margin` and cut out the centre, as torchvision's Resize and CenterCrop do."""
    width, height = image.size
    short = round(resolution * margin)
    long = int(short * max(width, height) / min(width, height))
    size = (short, long) if width <= height else (long, short)
    if (width, height) != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    if size == (resolution, resolution):
        return image
    left, top = round((size[0] - resolution) / 2), round((size[1] - resolution) / 2)
    return image.crop((left, top, left + resolution, top + resolution))


def _decoded_slabs(files: Sequence[str], resolution: int, margin: float) -> Iterator[np.ndarray]:
    for start in range(0, len(files), SLAB_IMAGES):
        yield np.stack([decode_image(path, resolution, margin) for path in files[start : start + SLAB_IMAGES]])


# Several processes. Python's own pools start the calling script anew or fork a process that has threads, and their workers outlive a
# killed parent; here a helper gets its share on standard input, and dies of a closed pipe at its next report.


def _decode_in_processes(
    files: Sequence[str],
    file: IO[bytes] | None,
    resolution: int,
    margin: float,
    processes: int,
    report: Callable[[int], None] | None,
) -> np.ndarray:
    """Decode equal shares of the files in that many processes, each of which writes its own part of the images' file, if there is one."""
    bounds = [len(files) * number // processes for number in range(processes + 1)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))}
    first_byte, image_bytes = file.tell() if file else 0, 3 * resolution**2
    messages: queue.SimpleQueue[tuple[int, dict[str, Any] | None]] = queue.SimpleQueue()
    helpers, readers = [], []
    try:
        for number, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
            where = {"target": file.name if file else None, "first_byte": first_byte + start * image_bytes}
            share = {"files": files[start:stop], "resolution": resolution, "margin": margin, **where}
            command = [sys.executable, "-P", "-m", "engine.data.decode"]
            helper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
            helpers.append(helper)
            readers.append(threading.Thread(target=_talk, args=(number, helper, json.dumps(share), messages)))
            readers[-1].start()
        return _gather(helpers, messages, report)
    finally:
        for helper in helpers:
            helper.kill()
        for reader in readers:
            reader.join()


def _talk(number: int, helper: subprocess.Popen[str], share: str, messages: queue.SimpleQueue[tuple[int, dict[str, Any] | None]]) -> None:
    with helper:
        with contextlib.suppress(BrokenPipeError):  # a helper that ended early has said so, or its exit status does
            helper.stdin.write(share)
            helper.stdin.close()
        for line in helper.stdout:
            if line.endswith("\n"):  # else the helper was killed while it wrote
                messages.put((number, json.loads(line)))
    messages.put((number, None))


def _gather(
    helpers: Sequence[subprocess.Popen[str]],
    messages: queue.SimpleQueue[tuple[int, dict[str, Any] | None]],
    report: Callable[[int], None] | None,
) -> np.ndarray:
    """Follow the helpers to their end and add up their histograms; raises what stopped one of them."""
    done, histograms, running = [0] * len(helpers), {}, len(helpers)
    while running:
        number, message = messages.get()
        if message is None:
            running -= 1
            if number not in histograms:
                raise RunError(f"a decoding process ended early, exit status {helpers[number].returncode} (out of memory?)")
        elif "wrong" in message:
            raise UserError(message["wrong"])
        elif "failed" in message:
            raise RunError(message["failed"])
        elif "histogram" in message:
            histograms[number] = np.array(message["histogram"], dtype=np.int64)
        else:
            done[number] = message["done"]
            if report:
                report(sum(done))
    return sum(histograms.values())


def main() -> None:
    """Be one of the processes: read a share from standard input, write its images, answer in JSON lines."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; whoever started this process ends it
    share = json.load(sys.stdin)

    def say(**message: object) -> None:
        print(json.dumps(message), flush=True)

    try:
        slabs = _decoded_slabs(share["files"], share["resolution"], share["margin"])
        if share["target"] is None:
            histogram = _write_slabs(None, slabs, lambda done: say(done=done))
        else:
            with Path(share["target"]).open("rb+") as file:
                file.seek(share["first_byte"])
                histogram = _write_slabs(file, slabs, lambda done: say(done=done))
                _flush(file)
        say(histogram=histogram.tolist())
    except UserError as error:
        say(wrong=str(error))
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        say(failed=f"cannot write {shown(share['target'])}: {error.strerror or error}")


if __name__ == "__main__":
    main()
