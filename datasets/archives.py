"""Files from outside: checked unpacking of .gz and .zip, idx arrays, digests."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from nsim.errors import DataError, NsimError

CHUNK = 1 << 20
DEFLATE_LIMIT = 1040  # no deflated byte can stand for more bytes than that
PARSE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    LookupError,
)


@contextlib.contextmanager
def damaged(path, kind):
    """What a parser of the standard library makes of a damaged file becomes a DataError; a full disk does not."""
    try:
        yield
    except (NsimError, MemoryError):
        raise
    except OSError as error:
        if is_full(error):
            raise
        raise DataError(f"{path}: cannot be read as {kind} ({type(error).__name__}: {error!s:.200})") from error
    except PARSE_ERRORS as error:
        raise DataError(f"{path}: damaged, truncated or not {kind} ({type(error).__name__}: {error!s:.200})") from error


def is_full(error):
    """Whether an OSError means that a disk or a quota is full."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)) or "No space left" in str(error)


@contextlib.contextmanager
def enough_space(folder, needed):
    """Turn a full disk into a DataError that names the folder and the bytes needed."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        with contextlib.suppress(OSError):
            folder = f"{folder} ({shutil.disk_usage(folder).free:,} bytes free)"
        raise DataError(
            f"the disk is full: {needed:,} bytes are needed in {folder}; make room, or write elsewhere: NSIM_CACHE "
            "names the folder of the cache, and data loaded with cache=False stay in memory"
        ) from error


def digests(path) -> tuple[str, str]:
    """Full-content blake2b (16 bytes) and MD5 of a file, in hexadecimal."""
    fast, md5 = hashlib.blake2b(digest_size=16), hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            fast.update(block)
            md5.update(block)
    return fast.hexdigest(), md5.hexdigest()


@contextlib.contextmanager
def unpacked(path, folder=None):
    """Path of the plain file in a .gz or a one-file .zip, unpacked into `folder` for as long as the block lasts.

    Other files are given back as they are. Checksums inside the archives are verified.

    Raises
    ------
    DataError
        If the archive is damaged, holds another number of .h5 files than one, or the disk is full.
    """
    path = Path(path)
    if path.suffix not in (".gz", ".zip"):
        yield path
        return
    with damaged(path, f"a {path.suffix} file"):
        needed = _declared(path)
    with tempfile.TemporaryDirectory(prefix="nsim-unpack-", dir=folder) as scratch:
        target = Path(scratch) / "unpacked.h5"
        guards = enough_space(scratch, needed), damaged(path, f"a {path.suffix} file")
        with guards[0], guards[1], open(target, "wb") as out:
            out.writelines(_contents(path))
        yield target


def _declared(path):
    """Bytes that an archive says it unpacks to."""
    if path.suffix == ".gz":
        with open(path, "rb") as file:
            file.seek(-4, os.SEEK_END)
            return struct.unpack("<I", file.read(4))[0]
    with open_zip(path) as archive:
        return sum(item.file_size for item in archive.infolist())


def _contents(path):
    """The bytes of the one file in a .gz or .zip, in pieces."""
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            while piece := stream.read(CHUNK):
                yield piece
        return
    with open_zip(path) as archive:
        names = [n for n in archive.namelist() if n.endswith(".h5")]
        if len(names) != 1:
            raise DataError(
                f"{path}: holds {len(names)} .h5 files, expected one; files in it: {archive.namelist()[:5]}"
            )
        yield from entry_contents(archive, names[0])


def entry_contents(archive, name):
    """The bytes of a zip entry, in pieces. (zipfile itself lets one pass that a damaged length ends early.)"""
    total = size = 0
    with archive.open(name) as stream:
        while piece := stream.read(CHUNK):
            total, size = zlib.crc32(piece, total), size + len(piece)
            yield piece
    item = archive.getinfo(name)
    if (size, total) != (item.file_size, item.CRC):
        raise zipfile.BadZipFile(f"wrong length or checksum of entry {name}")


@contextlib.contextmanager
def open_zip(path):
    """A ZipFile of stored or deflated entries, with believable sizes and no entry lost."""
    with zipfile.ZipFile(path) as archive:
        items, size = archive.infolist(), os.path.getsize(path)
        with open(path, "rb") as file:
            file.seek(size - 22 - len(archive.comment) + 10)  # the end record's count of entries
            count = struct.unpack("<H", file.read(2))[0]
        if count != 0xFFFF and count != len(items):  # 0xFFFF: counted elsewhere, in archives of that many entries
            raise DataError(f"{path}: its directory lists {len(items)} of {count} entries: damaged")
        odd = {item.compress_type for item in items} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
        if odd:
            raise DataError(f"{path}: compression method {odd.pop()}; expected a plain deflated zip")
        if sum(item.file_size for item in items) > DEFLATE_LIMIT * size:
            raise DataError(f"{path}: its entries claim more bytes than {size} bytes can unpack to: damaged")
        yield archive


def read_idx(path) -> np.ndarray:
    """Array of unsigned bytes from an idx file, plain or .gz.

    Raises
    ------
    DataError
        If the header is not that of an idx file of bytes, or the data are shorter or longer than it says.

    Source: Y. LeCun, http://yann.lecun.com/exdb/mnist, "The IDX file format".
    """
    path = Path(path)
    with damaged(path, "an idx file"), gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
        zeros, kind, axes = struct.unpack(">HBB", stream.read(4))
        if zeros != 0 or kind != 8 or not 1 <= axes <= 4:
            raise DataError(f"{path}: not an idx file of unsigned bytes (header {zeros}, {kind}, {axes})")
        shape = struct.unpack(f">{axes}I", stream.read(4 * axes))
        size = int(np.prod([int(k) for k in shape], dtype=object))
        if size > DEFLATE_LIMIT * path.stat().st_size:
            raise DataError(f"{path}: shape {shape} is more than the file can hold: damaged")
        data = stream.read(size + 1)
    if len(data) != size:
        raise DataError(f"{path}: holds {'more' if len(data) > size else len(data)} bytes, its header says {size}")
    return np.frombuffer(data, np.uint8).reshape(shape)
