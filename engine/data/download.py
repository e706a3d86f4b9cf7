"""One file from the net: continued where it broke off, checked, and in place only when whole."""

import contextlib
import fcntl
import hashlib
import http
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from engine.data.trees import shown
from engine.errors import RunError, UserError

TIMEOUT_SECONDS = 30.0
BLOCK_BYTES = 1 << 18


def download(url: str, md5: str, target: Path, progress: Callable[[int], None] | None = None) -> None:
    """Download `url` to `target` unless a file with that MD5 (hex) is there; `progress` is told the bytes of this file that are here.

    What has come so far waits in `<target>.part`, and the next call goes on from there. Raises UserError when the server cannot be
    reached, breaks off, sends a file with another checksum, or another process downloads the same file; RunError when the disk refuses.
    """
    if target.is_file() and _md5(target) == md5:
        if progress:
            progress(target.stat().st_size)
        return
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            _claim(file, target)
            _receive(url, file, progress)
            file.flush()
            os.fsync(file.fileno())
            found = _md5(part)
            if found != md5:
                part.unlink()
                raise UserError(f"{url} sent a file with MD5 {found} instead of {md5}: try again, or put the right file at {shown(target)}")
            part.replace(target)
    except UserError:
        if part.exists() and not part.stat().st_size:
            part.unlink()
        raise
    except OSError as error:
        raise RunError(f"cannot write {shown(target)}: {error.strerror or error}") from error


def _claim(file: IO[bytes], target: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is downloading {shown(target)}: wait for it") from None


def _receive(url: str, file: IO[bytes], progress: Callable[[int], None] | None) -> None:
    """Append to `file` what it lacks; the server may ignore the wish to continue, and then the file starts afresh."""
    done = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with _network_errors(url):
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            return  # all of it is here already; the checksum decides
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
            file.truncate(0)
        length = response.headers.get("Content-Length")
        total = done + int(length) if length and length.isdigit() else None
        while True:
            with _network_errors(url):
                block = response.read(BLOCK_BYTES)
            if not block:
                break
            file.write(block)
            done += len(block)
            if progress:
                progress(done)
    if total is not None and done < total:
        raise UserError(f"{url} broke off after {done} of {total} bytes: run the same command again to continue")


@contextlib.contextmanager
def _network_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        raise UserError(f"cannot download {url}: {shown(reason)}") from error


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
