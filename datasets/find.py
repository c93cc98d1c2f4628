"""Where data files lie: a folder that the user names, $NSIM_DATA, the cache, or else a checked download."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import pooch

from nsim.datasets import cache
from nsim.errors import EventWarning, MissingDataError

TIMEOUT = 30  # seconds without an answer after which a server counts as unreachable
_told = set()  # files that were warned of in this process


@dataclass(frozen=True)
class Source:
    """One file of a data set.

    Parameters
    ----------
    what : str
        For messages, for example "SHD (train)".
    names : tuple of str
        File names that will do, best first.
    folders : tuple of str
        Sub-folders to look in, besides the root itself; the first is where a download goes.
    downloads : tuple of (file name, address, MD5)
    instead : str
        What to use where there is no file.
    """

    what: str
    names: tuple
    folders: tuple
    downloads: tuple = ()
    instead: str = "nsim.datasets.Synthetic(), speech-like events, needs no file"


def find(source, root=None, download=True) -> Path:
    """Path of a file of `source`.

    Parameters
    ----------
    source : Source
    root : path, optional
        Look here and nowhere else. Default: $NSIM_DATA, then the cache, then a download into the cache.
    download : bool
        False never uses the Internet connection.

    Raises
    ------
    MissingDataError
        If the file is not to be had; the message says where it was looked for and what can be done.
    """
    store = cache.folder() / "downloads"
    if root is not None:
        roots = [Path(root).expanduser()]
    else:
        roots = [Path(os.environ["NSIM_DATA"]).expanduser()] if os.environ.get("NSIM_DATA") else []
        roots.append(store)
    for top in roots:
        for place in [top, *(top / folder for folder in source.folders)]:
            for name in source.names:
                if (place / name).is_file():
                    return place / name
    tried = []
    if root is None and download:
        for name, address, md5 in source.downloads:
            try:
                return _fetch(name, address, md5, store / source.folders[0])
            except (OSError, ValueError) as error:
                tried.append(f"{address}: {error}")
    raise MissingDataError(_missing(source, roots, store, root, tried))


def unverified(title, files, *, fingerprint=False) -> str:
    """The name of data from files under published names that are not the published ones, {path: MD5}.

    Without a `fingerprint` that was checked it warns of each file, once in a process.
    """
    for path, md5 in files.items():
        if not fingerprint:
            _tell(
                path,
                f"its content (MD5 {md5}) is not that of a published file of {title}, so that it cannot be verified: "
                "damage may have changed events or labels unseen. Fetch it anew if it should be published data",
            )
    return f"{title} (unverified copy: {', '.join(path.name for path in files)})"


def unchecked(files, *, fingerprint=False):
    """Of files that are a part of the published data, or made anew, and are named so: warn, once in a process, where
    neither a packed file's checksum nor a `fingerprint` would show damage."""
    for path in files:
        if not fingerprint and path.suffix not in (".gz", ".zip"):
            _tell(path, "it has no checksum and is no published file, so that nothing shows whether it is damaged")


def _tell(path, what):
    if path.resolve() not in _told:
        _told.add(path.resolve())
        warnings.warn(f"{path}: {what}", EventWarning, stacklevel=5)  # the line that makes the data set


def _fetch(name, address, md5, folder):
    folder.mkdir(parents=True, exist_ok=True)
    loader = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=True)
    path = pooch.retrieve(address, known_hash=f"md5:{md5}", fname=name, path=folder, downloader=loader)
    return Path(path)


def _missing(source, roots, store, root, tried):
    looked = ", ".join(f"{top}{'' if top.is_dir() else ' (no such folder)'}" for top in roots)
    lines = [
        f"{source.what} was not found.",
        f"  looked for: {', '.join(source.names)}",
        f"  in: {looked}; there and in the sub-folders {', '.join(source.folders)}",
        *(f"  download failed: {line}" for line in tried),
    ]
    if root is not None:
        lines.append("  way out: correct root, or leave it off to search NSIM_DATA, the cache and the Internet")
    else:
        address = source.downloads[0][1] if source.downloads else "its publisher"
        lines.append(
            f"  way out: put one of these files into {store / source.folders[0]}, or let NSIM_DATA name the folder "
            f"that holds it (it comes from {address}); {source.instead}"
        )
    return "\n".join(lines)
