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
UNSEEN = (
    "cannot be verified: damage may have changed events or labels unseen. Fetch it anew if it should be published data"
)
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
                if _is_file(place / name):
                    return place / name
    tried = []
    if root is None and download:
        for name, address, md5 in source.downloads:
            try:
                return _fetch(name, address, md5, store / source.folders[0])
            except (OSError, ValueError) as error:
                tried.append(f"{address}: {error}")
    raise MissingDataError(_missing(source, roots, store, root, tried))


def named(title, files, published, *, part="", fingerprint=False) -> str:
    """What data are called: their title alone only where all their files are the published ones.

    Of files that nothing shows to be whole it warns, once in a process.

    Parameters
    ----------
    title : str
    files : dict {path: its digests, blake2b and MD5}
    published : dict {file name: MD5}
    part : str
        What the title gets of files that are a part of the published data, or made anew.
    fingerprint : bool
        Whether one that lies in the file was compared, so that damage would be seen.
    """
    strange = {path: md5 for path, (_, md5) in files.items() if published.get(path.name) != md5}
    if not strange:
        return title
    for path, md5 in strange.items():
        if fingerprint or (part and path.suffix in (".gz", ".zip")):  # a packed file has a checksum of its own
            continue
        if part:
            why = "it has no checksum and is no published file, so that nothing shows whether it is damaged"
        elif path.name in published:
            why = f"its content (MD5 {md5}) is not that of the published file of {title}, so that it {UNSEEN}"
        else:
            why = f"of this file no checksum is published, and an archive's vouches for nothing unpacked: it {UNSEEN}"
        if path.resolve() not in _told:
            _told.add(path.resolve())
            warnings.warn(f"{path}: {why}", EventWarning, stacklevel=3)  # the line that makes the data set
    return f"{title} {part or '(unverified copy: ' + ', '.join(path.name for path in strange) + ')'}"


def subset(count, official, what) -> str:
    """What the title of data gets where they are fewer than the official ones: for `named`."""
    return f"subset ({count:,} of {official:,} {what})" if count < official else ""


def _is_file(path):
    try:
        return path.is_file()
    except OSError:  # a folder that may not be entered
        return False


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
