"""N-MNIST: MNIST digits before a moving event camera, 34 x 34 pixels, two polarities."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np

from nsim.checks import one_of, replaceable
from nsim.datasets import cache as store
from nsim.datasets.archives import damaged, entry_contents, open_zip
from nsim.datasets.find import Source, find, named, subset
from nsim.datasets.hdf5 import read_recordings, write_shd
from nsim.datasets.recordings import EventData, Events
from nsim.errors import DataError

SIDE, PIXELS = 34, 34 * 34
OVERFLOW_ROW, OVERFLOW = 240, 2**13  # a record of y = 240 adds 2**13 microseconds to the times that follow
LONGEST = 2**23  # microseconds: float32 seconds hold whole microseconds up to here
OFFICIAL = {"train": 60_000, "test": 10_000}
MENDELEY = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files/"
DOWNLOADS = {
    "train": ("39c25547-014b-4137-a934-9d29fa53c7a0", "20959b8e626244a1b502305a9e6e2031"),
    "test": ("05a4d654-7e03-4c15-bdfa-9bb2bcbea494", "69ca8762b2fe404d9b9bad1103e97832"),
}


class NMNIST(EventData):
    """Neuromorphic MNIST.

    Parameters
    ----------
    split : "train" or "test"
    root : path, optional
        Folder of Train.zip or Test.zip (the official archives), or of nmnist_train.h5 or nmnist_test.h5 as
        `convert_nmnist` writes them. Default: $NSIM_DATA, the cache, or a download.
    polarity : "keep" or "merge"
        2,312 neurons of space (34, 34, 2) (index (34 y + x) 2 + p), or 1,156 of space (34, 34, 1).
    download, cache : bool
        See `SHD`.

    `name` says when there are fewer recordings than the official 60,000 and 10,000. Where there are as many, in an
    archive of another content than the published one, an EventWarning says that it cannot be verified; where there are
    fewer, in an HDF5 file without the fingerprint of `convert_nmnist`, that damage in it would not be seen.

    Raises
    ------
    DataError
        If no file can be had, or it is damaged or foreign.

    Source: Orchard et al. 2015, Frontiers in Neuroscience 9:437, "Converting static image datasets to spiking
    neuromorphic datasets using saccades". CC BY-SA 4.0.
    """

    checks_events = False

    def __init__(self, split="train", root=None, *, polarity="keep", download=True, cache=True):
        one_of("N-MNIST", "split", split, OFFICIAL)
        one_of("N-MNIST", "polarity", polarity, ("keep", "merge"))
        source = _source(split)
        path = find(source, root, download)
        fast, md5 = store.file_digests(path, cache)
        arrays = store.arrays(store.key("nmnist 2", fast, polarity), lambda: _read(path, polarity, cache), cache)
        space = (SIDE, SIDE, 2 if polarity == "keep" else 1)
        events = Events(arrays["times"], arrays["units"], arrays["starts"], space)
        part = subset(len(arrays["labels"]), OFFICIAL[split], f"{split} recordings")
        published = {name: md5 for name, _, md5 in source.downloads}
        name = named("N-MNIST", {path: (fast, md5)}, published, part=part, fingerprint="fingerprint" in arrays)
        super().__init__(events, arrays["labels"], name=name, classes=[str(k) for k in range(10)])
        self.path = path


def _source(split):
    file, md5 = DOWNLOADS[split]
    return Source(
        what=f"N-MNIST ({split})",
        names=(f"nmnist_{split}.h5", f"{split.capitalize()}.zip"),
        folders=("NMNIST", "N-MNIST", "nmnist", "nmnist-subset"),
        downloads=((f"{split.capitalize()}.zip", f"{MENDELEY}{file}/file_downloaded", md5),),
    )


def _read(path, polarity, cache):
    if path.suffix == ".zip":
        with tempfile.TemporaryDirectory(prefix="nsim-nmnist-", dir=store.scratch(cache)) as scratch:
            arrays = _read(convert_nmnist(path, Path(scratch) / "nmnist.h5"), polarity, cache)
            del arrays["fingerprint"]  # that of the conversion: it says nothing of the archive
            return arrays
    arrays, _ = read_recordings(path, n=2 * PIXELS, classes=10)
    p, pixel = np.divmod(arrays["units"], np.uint16(PIXELS))
    units = pixel * np.uint16(2) + p if polarity == "keep" else pixel
    return arrays | {"units": units}


def convert_nmnist(archive, target) -> Path:
    """Write an official N-MNIST zip as HDF5, in the layout that the code of Perez-Nieves & Goodman 2021 reads.

    Parameters
    ----------
    archive : path of Train.zip or Test.zip
        Entries <label>/<number>.bin of 5-byte records: x, y, then bit 7 polarity and 23 bits of microseconds.
    target : path of the HDF5 file to write
        `/spikes/times` (float32 seconds), `/spikes/units` (x + 34 y + 1156 p), `/labels`; one record a sample, in
        the order of the numbers, which is MNIST's.

    Returns
    -------
    Path of the file written.

    Raises
    ------
    DataError
        If the archive is damaged or an entry is no N-MNIST recording; names the entry. If `target` is a folder,
        device or pipe.
    """
    replaceable(target)
    archive, target = Path(archive), Path(target)
    times, units, labels = [], [], []  # 6 bytes an event, 1.6 GB of the training part; its file takes as much again
    with damaged(archive, "a zip of N-MNIST recordings"), open_zip(archive) as opened:
        for number, label, entry in _entries(archive, opened):
            t, u = _decode(b"".join(entry_contents(opened, entry)), f"{archive}: entry {entry} (number {number})")
            times.append((t * 1e-6).astype(np.float32))
            units.append(u.astype(np.uint16))
            labels.append(label)
    write_shd(target, times, units, labels, n=2 * PIXELS, dtype=np.float32)
    return target


def _entries(archive, opened):
    found = []
    for entry in opened.namelist():
        match = re.fullmatch(r"(?:.*/)?(\d)/(\d+)\.bin", entry)
        if match:
            found.append((int(match[2]), int(match[1]), entry))
        elif entry.endswith(".bin"):
            raise DataError(f"{archive}: entry {entry}; expected Train/<label>/<number>.bin")
        else:
            all(
                entry_contents(opened, entry)
            )  # a recording whose name is damaged is told from a stray file by its second name
    if not found:
        raise DataError(f"{archive}: no N-MNIST recording (<label>/<number>.bin); entries {opened.namelist()[:3]}")
    return sorted(found)


def _decode(data, where):
    """Times (int64 microseconds) and units x + 34 y + 1156 p of one recording."""
    if len(data) % 5:
        raise DataError(f"{where}: {len(data)} bytes, not a multiple of the 5 bytes of a record")
    x, y, high, middle, low = np.frombuffer(data, np.uint8).reshape(-1, 5).astype(np.int64).T
    times = ((high & 127) << 16) | (middle << 8) | low
    overflow = y == OVERFLOW_ROW
    times += OVERFLOW * (np.cumsum(overflow) - overflow)
    x, y, times, p = x[~overflow], y[~overflow], times[~overflow], (high >> 7)[~overflow]
    wrong = (x >= SIDE) | (y >= SIDE)
    if wrong.any():
        k = int(np.argmax(wrong))
        raise DataError(f"{where}: event {k} at x = {x[k]}, y = {y[k]}; expected 0 to {SIDE - 1}")
    if times.max(initial=0) >= LONGEST:
        raise DataError(f"{where}: lasts {times.max() * 1e-6:.3f} s; N-MNIST recordings last 0.3 s")
    return times, x + SIDE * y + PIXELS * p
