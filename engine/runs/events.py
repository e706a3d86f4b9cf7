"""Append-only logs of JSON lines: one writer each, any number of tailing readers, no line ever trusted."""

import contextlib
import json
import math
import os
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.errors import RunError

LIFECYCLE = ("run_started", "run_finished", "run_failed", "run_stopped")
LONGEST_LINE = 1 << 20  # bytes; what has no line break in so many is no line of ours
FLUSH_SECONDS = 1.0
FLUSH_BYTES = 64 * 1024


@dataclass(frozen=True)
class Metrics:
    """One line of a metrics log: time (unix seconds), step, and the values by name (NaN and infinities as floats)."""

    t: float
    step: int
    values: dict[str, float]


class _Appender:
    """Appends whole lines to a file, one write each time, so that a reader meets at most one torn line: the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                self.write(b"\n")  # ends the torn line of a killed predecessor, lest the next line be lost with it
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from error

    def write(self, data: bytes) -> None:
        if self._descriptor is None:
            raise RunError(f"cannot write {self.path}: it has been closed")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from error

    def sync(self) -> None:
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class EventLog:
    """The lifecycle log events.jsonl: each event reaches the file at once. Any thread of the one writing process may append."""

    def __init__(self, path: Path) -> None:
        self._file = _Appender(path)
        self._guard = threading.Lock()

    def append(self, event: str, **fields: object) -> None:
        """Append an event with its fields (any JSON values); raises RunError when the file cannot be written."""
        line = _encode({"t": round(time.time(), 3), "event": event, **fields})
        with self._guard:
            self._file.write(line)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._guard:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class MetricsWriter:
    """A metrics log written at step rate: lines wait in memory for at most one second or 64 KB.

    A write that fails in the background is raised as RunError by the next call.
    """

    def __init__(self, path: Path) -> None:
        self._file = _Appender(path)
        self._guard = threading.Lock()
        self._lines: list[bytes] = []
        self._waiting = 0
        self._timer: threading.Timer | None = None
        self._failure: RunError | None = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one step (numbers by name; NaN and infinities are kept)."""
        line = _encode({"t": round(time.time(), 3), "s": int(step), "k": {name: float(value) for name, value in values.items()}})
        with self._guard:
            self._raise_failure()
            self._lines.append(line)
            self._waiting += len(line)
            if self._waiting >= FLUSH_BYTES:
                self._flush()
            elif self._timer is None:
                self._timer = threading.Timer(FLUSH_SECONDS, self._flush_in_background)
                self._timer.daemon = True
                self._timer.start()

    def flush(self, sync: bool = False) -> None:
        """Hand every line to the file; with `sync`, as before a checkpoint, to the disk as well."""
        with self._guard:
            self._raise_failure()
            self._flush()
            if sync:
                self._file.sync()

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        with self._guard:
            try:
                self._raise_failure()
                self._flush()
            finally:
                self._file.close()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            data = b"".join(self._lines)
            self._lines, self._waiting = [], 0
            self._file.write(data)

    def _flush_in_background(self) -> None:
        with self._guard:
            try:
                self._flush()
            except RunError as error:
                self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Tail:
    """Reads a growing log of JSON objects piece by piece.

    `offset` is where the next read begins, `bad_lines` counts what was no JSON object and was skipped, `restarts` counts how
    often the file shrank or was replaced and was read anew (a screen then forgets what it had). With `last_bytes`, reading
    begins at the first whole line among that many bytes before the end.
    """

    def __init__(self, path: Path, last_bytes: int | None = None) -> None:
        self.path = path
        self.offset = 0
        self.bad_lines = 0
        self.restarts = 0
        self._inode: int | None = None
        self._last_bytes = last_bytes

    def read(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Return the objects of the whole lines that came since, reading about `limit` bytes; none while the file is missing.

        A last line without its line break is kept back until it is whole.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            status = os.fstat(descriptor)
            self._place(descriptor, status)
            wanted = status.st_size - self.offset
            data = _read(descriptor, self.offset, wanted if limit is None else min(wanted, max(limit, LONGEST_LINE)))
        except OSError:
            return []
        finally:
            os.close(descriptor)
        whole = data.rfind(b"\n") + 1
        self.offset += whole
        if len(data) - whole >= LONGEST_LINE:
            self.offset += len(data) - whole
            self.bad_lines += 1
        objects, bad = _decode(data[:whole])
        self.bad_lines += bad
        return objects

    def _place(self, descriptor: int, status: os.stat_result) -> None:
        if self._inode is None:
            if self._last_bytes is not None and status.st_size > self._last_bytes:
                self.offset = _first_line_from(descriptor, status.st_size - self._last_bytes, status.st_size)
        elif status.st_ino != self._inode or status.st_size < self.offset:
            self.offset, self.bad_lines = 0, 0
            self.restarts += 1
        self._inode = status.st_ino


def read_all(path: Path) -> list[dict[str, Any]]:
    """Return every whole JSON object of a log; none when it is missing."""
    return Tail(path).read()


def read_tail(path: Path, size: int) -> list[dict[str, Any]]:
    """Return the objects of the whole lines among a log's last `size` bytes, however long the log is."""
    return Tail(path, last_bytes=size).read()


def last_lifecycle(path: Path) -> dict[str, Any] | None:
    """Return the last of the run_… events if it stands among the log's last 64 KB, where an ended run's always does."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 64 * 1024, 0))
            data = file.read()
    except OSError:
        return None
    for line in reversed(data[: data.rfind(b"\n") + 1].split(b"\n")):
        if b'"run_' in line:
            objects, _ = _decode(line)
            if objects and objects[0].get("event") in LIFECYCLE:
                return objects[0]
    return None


def read_metrics(objects: Iterable[Mapping[str, Any]]) -> list[Metrics]:
    """Turn a metrics log's objects into Metrics; lines of another shape and values that are no numbers are left out."""
    rows = []
    for item in objects:
        step, values = number(item.get("s")), item.get("k")
        if step is None or not math.isfinite(step) or not isinstance(values, dict):
            continue
        floats = {str(name): value for name, raw in values.items() if (value := number(raw)) is not None}
        rows.append(Metrics(number(item.get("t")) or 0.0, int(step), floats))
    return rows


def without_rewinds(rows: Iterable[Metrics]) -> list[Metrics]:
    """Keep what still holds after resumes: where the step falls back, the earlier rows from that step on are superseded."""
    kept: list[Metrics] = []
    for row in rows:
        if kept and row.step < kept[-1].step:
            while kept and kept[-1].step >= row.step:
                kept.pop()
        kept.append(row)
    return kept


def number(value: object) -> float | None:
    """Return a JSON value as a float; "NaN", "Infinity" and "-Infinity" are numbers, truth values and other text are not."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else None


def write_heartbeat(path: Path, fields: Mapping[str, object]) -> None:
    """Replace heartbeat.json in one step; not forced to the disk, as the next one follows within a second.

    Fields: t, seq, stage, step, done, total, unit, rate (units per second), next_due (unix seconds by which the next one comes).
    Raises RunError when the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(_encode(fields))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _encode(value: object) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _finite(value: object) -> object:
    """Return a value with NaN and infinities as text, because JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _decode(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return the JSON objects of whole lines, and how many lines were none."""
    objects, bad = [], 0
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            objects.append(value)
        else:
            bad += 1
    return objects, bad


def _read(descriptor: int, offset: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def _first_line_from(descriptor: int, offset: int, end: int) -> int:
    """Return where the first line begins at or after `offset`; `end` when none does."""
    data = _read(descriptor, offset - 1, end - offset + 1)
    position = data.find(b"\n")
    return end if position < 0 else offset + position
