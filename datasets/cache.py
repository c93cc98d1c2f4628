"""Flat event arrays on disk, memory-mapped, keyed by the content they were made from and by the parameters.

An entry is a folder of .npy files and a table of their types and shapes, written under a temporary name and renamed,
so that processes that build the same entry at once do no harm and a killed one leaves no half entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pooch

from nsim.datasets.archives import digests, enough_space
from nsim.files import atomic, sweep, unfinished

VERSION = 1  # of the meaning of the arrays: a change makes new entries
SETTLED = 2.0  # seconds after which a file that changes again is sure to show another time stamp


def folder() -> Path:
    """The cache folder: $NSIM_CACHE, or the system's place for caches."""
    return Path(os.environ.get("NSIM_CACHE") or pooch.os_cache("nsim")).expanduser()


def scratch(cache) -> Path | None:
    """Where files that are read only once may lie: the cache folder if it is used and can be written; else None, the
    system's place."""
    if cache:
        with contextlib.suppress(OSError):
            folder().mkdir(parents=True, exist_ok=True)
        if folder().is_dir() and os.access(folder(), os.W_OK):
            return folder()
    return None


def key(*parts) -> str:
    """Name of the cache entry for these digests and parameters."""
    return hashlib.blake2b(repr((VERSION, *parts)).encode(), digest_size=16).hexdigest()


def file_digests(path, cache=True) -> tuple[str, str]:
    """blake2b and MD5 of a file's whole content, remembered for as long as its size, time stamps and inode stay.

    Programs that keep the time of the last change (cp -p, rsync) cannot keep that of the last change of status.
    """
    path = Path(path).resolve()
    stat = path.stat()
    memo = folder() / "digests" / f"{key(str(path))}.json"
    signature = _signature(path, stat)
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        seen = json.loads(memo.read_text()) if cache else {}
        if seen.get("file") == signature:
            return seen["blake2b"], seen["md5"]
    fast, md5 = digests(path)
    unchanged = _signature(path, path.stat()) == signature
    if cache and unchanged and time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED:
        with contextlib.suppress(OSError), atomic(memo) as partial:
            partial.write_text(json.dumps({"file": signature, "blake2b": fast, "md5": md5}))
    return fast, md5


def _signature(path, stat):
    return [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def arrays(name, build, cache=True) -> dict[str, np.ndarray]:
    """The arrays of cache entry `name`, memory-mapped read-only; made with `build()` where there is no such entry.

    With cache=False, or where the folder cannot be written (told in a warning), the built arrays stay in memory.

    Raises
    ------
    DataError
        If the disk is full; nothing half-written stays behind.
    """
    if not cache:
        return build()
    entry = folder() / "events" / name
    found = _open(entry)
    if found is not None:
        return found
    made = build()
    try:
        _write(entry, made)
    except OSError as error:
        warnings.warn(
            f"the cache folder {folder()} cannot be written ({error}); the events stay in memory and are read anew "
            "next time. Let NSIM_CACHE name a folder that can be written",
            stacklevel=2,
        )
        return made
    return _open(entry) or made


def _open(entry):
    """Memory maps of a whole entry, or None where there is none or its files are not what its table says."""
    try:
        table = json.loads((entry / "table.json").read_text())
        maps = {
            name: np.load(entry / f"{name}.npy", mmap_mode="r" if shape != [0] else None)
            for name, (_, shape) in table.items()
        }
        whole = all([maps[k].dtype.str, list(maps[k].shape)] == table[k] for k in table)
        sound = whole and ("starts" not in maps or _rows(maps["starts"], len(maps["times"])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, IndexError):
        return None
    return maps if sound else None


def _rows(starts, size):
    """Whether these are the starts of rows of `size` events in all."""
    return starts[0] == 0 and starts[-1] == size and bool((np.diff(starts) >= 0).all())


def _write(entry, made):
    entry.parent.mkdir(parents=True, exist_ok=True)
    sweep(entry.parent)
    partial = unfinished(entry)
    try:
        with enough_space(entry.parent, sum(a.nbytes for a in made.values())):
            partial.mkdir()
            for name, a in made.items():
                _save(partial / f"{name}.npy", a)
            table = {name: [a.dtype.str, list(a.shape)] for name, a in made.items()}
            (partial / "table.json").write_text(json.dumps(table))
        _rename(partial, entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save(path, a):
    """One .npy file, on the disk when this returns. (np.save loses the reason when the disk is full.)"""
    a = np.ascontiguousarray(a)
    with open(path, "xb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(a))
        file.write(a.data)
        file.flush()
        os.fsync(file.fileno())


def _rename(partial, entry):
    """Put a finished entry in its place; a whole one that another process was quicker to make stays."""
    if entry.exists() and _open(entry) is None:
        broken = unfinished(entry)
        with contextlib.suppress(FileNotFoundError):
            os.rename(entry, broken)
        shutil.rmtree(broken, ignore_errors=True)
    try:
        os.rename(partial, entry)
    except OSError:
        if _open(entry) is None:
            raise
