"""Images that stay in their archives: members are checked, and read where they lie; nothing is ever unpacked.

An image is named by a reference, one string: the path of its own file, or archive, member, place, size and packing with NUL between.
"""

import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from engine.data.trees import shown
from engine.errors import UserError

SEPARATOR = "\0"  # no path has one
STORED, DEFLATED = "stored", "deflated"
LARGEST_IMAGE_BYTES = 1 << 30  # packed or not; more is no image
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, …, lengths of name and extra field
KIND_BITS = 0o170000
REGULAR_KINDS = (0, 0o100000, 0o040000)  # what a zip file may say of a member: nothing, a file, a folder


def reference(archive: Path | str, name: str, offset: int, size: int, packing: str = STORED) -> str:
    """Return the reference of a member whose `size` bytes begin at `offset` (of a zip file: whose local header does)."""
    return SEPARATOR.join((str(archive), name, str(offset), str(size), packing))


def file_name(image: str) -> str:
    """Return the last part of the name of a referenced image."""
    return _member(image).rpartition("/")[2] if SEPARATOR in image else image.rpartition(os.sep)[2]


def shown_reference(image: str) -> str:
    """Return a reference as it can stand in a message."""
    return f"{shown(_member(image))} in {shown(image.partition(SEPARATOR)[0])}" if SEPARATOR in image else shown(image)


def _member(image: str) -> str:
    return image.split(SEPARATOR)[1]


def encoded_size(image: str) -> int:
    """Return the number of bytes of a referenced image as it lies on disk."""
    return int(image.split(SEPARATOR)[3]) if SEPARATOR in image else os.stat(image).st_size  # noqa: PTH116 - one of a million


def read_encoded(image: str) -> bytes:
    """Return the bytes of a referenced image; raises OSError, or ValueError where the archive has something else at that place."""
    if SEPARATOR not in image:
        return Path(image).read_bytes()
    archive, name, offset, size, packing = image.split(SEPARATOR)
    with open(archive, "rb", buffering=0) as file:  # noqa: PTH123 - as above
        start = int(offset)
        if archive.endswith(".zip"):
            header = os.pread(file.fileno(), LOCAL_HEADER.size, start)
            signature, name_length, extra_length = LOCAL_HEADER.unpack(header)
            if signature != b"PK\x03\x04":
                raise ValueError(f"the archive has changed: {name} no longer lies there")
            start += LOCAL_HEADER.size + name_length + extra_length
        data = os.pread(file.fileno(), int(size), start)
    if len(data) != int(size):
        raise ValueError("the archive ends before the image does")
    if packing == STORED:
        return data
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, LARGEST_IMAGE_BYTES)
    except zlib.error as error:
        raise ValueError(f"the archive is damaged there: {error}") from error


def opened(image: str) -> str | io.BytesIO:
    """Return what Pillow opens: the path of a file, or the bytes of a member."""
    return io.BytesIO(read_encoded(image)) if SEPARATOR in image else image


def checked_name(name: str, archive: Path) -> str:
    """Return a member's name without `./` before it; raises UserError where it points out of the archive's folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or (parts and ":" in parts[0]):
        raise UserError(f"{shown(archive)} is refused: its member {shown(name)} lies outside of the folder that it would be unpacked to")
    return name.removeprefix("./")


def tar_members(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield name and facts of every file in a tar archive, in its order, without keeping them.

    Raises UserError where a member points out of the archive's folder, or is a link, a device or anything else than a file or a folder.
    """
    while (member := archive.next()) is not None:
        archive.members.clear()  # tarfile keeps every member, a kilobyte each: gigabytes for millions of images
        name = checked_name(member.name, path)
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise UserError(f"{shown(path)} is refused: its member {shown(member.name)} is a link or a device, expected only files")
        yield name, member


def zip_members(path: Path) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Yield name and facts of every file in a zip archive; raises UserError as `tar_members` does, or where one is encrypted."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = checked_name(member.filename, path)
            kind = member.external_attr >> 16 & KIND_BITS
            if kind not in REGULAR_KINDS:
                raise UserError(f"{shown(path)} is refused: its member {shown(name)} is a link or a device, expected only files")
            if member.is_dir():
                continue
            if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{shown(path)}: its member {shown(name)} is encrypted or packed in a way that is not read here")
            yield name, member


def zip_reference(path: Path, name: str, member: zipfile.ZipInfo) -> str:
    """Return the reference of a member of a zip archive."""
    packing = STORED if member.compress_type == zipfile.ZIP_STORED else DEFLATED
    return reference(path, name, member.header_offset, member.compress_size, packing)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a damaged archive raises into a UserError that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise UserError(f"{shown(path)} is damaged or cannot be read: {shown(str(error))}") from error
