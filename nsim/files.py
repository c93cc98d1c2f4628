"""Files that are written whole or not at all: under a name of their own, brought to the disk, and renamed.

A process that is killed leaves a hidden `.<name>.<12 hex digits>.tmp`; who writes `<name>` a day later removes it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import time
from pathlib import Path

from nsim.checks import replaceable

ABANDONED = 86_400.0  # seconds after which what is unfinished belongs to no living process


def unfinished(path) -> Path:
    """A name beside `path` for a file or folder that is being written."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def sweep(folder, name=None):
    """Remove abandoned files and folders of `unfinished` from a folder: of one name, or all."""
    for old in folder.glob(f".{'*' if name is None else glob.escape(name)}.{'[0-9a-f]' * 12}.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > ABANDONED:
                shutil.rmtree(old) if old.is_dir() else old.unlink()


@contextlib.contextmanager
def atomic(path):
    """A path beside `path` to write to; `path` is at every moment the old file or the new one, whole.

    It is renamed to `path` when the block ends well and removed when it does not. DataError where a folder, device or
    pipe has that path; OSError as it comes, of a full disk for example.
    """
    path = Path(path)
    replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    partial = unfinished(path)
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    with contextlib.suppress(OSError):  # the rename itself is on the disk once the folder is; not all systems can
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
