"""Spiking Heidelberg Digits and Spiking Speech Commands."""

from __future__ import annotations

import numpy as np

from nsim.checks import one_of
from nsim.datasets import cache as store
from nsim.datasets.find import Source, find, named
from nsim.datasets.hdf5 import read_recordings
from nsim.datasets.recordings import EventData, Events

UNITS = 700
ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GERMAN = ("null", "eins", "zwei", "drei", "vier", "fuenf", "sechs", "sieben", "acht", "neun")
ZENKE, COMPNEURO = "https://zenkelab.org/datasets/", "https://compneuro.net/datasets/"
# MD5 of the official files. SHD: both publishers; SSC: as the loaders of Tonic and SpikingJelly state them.
MD5 = {
    "shd_train.h5.zip": "f3252aeb598ac776c1b526422d90eecb",
    "shd_test.h5.zip": "1503a5064faa34311c398fb0a1ed0a6f",
    "shd_train.h5.gz": "d47c9825dee33347913e8ce0f2be08b0",
    "shd_test.h5.gz": "3062a80ec0c5719404d5b02e166543b1",
    "shd_train.h5": "8e9877c85f29a28dd353ea6a54402667",
    "shd_test.h5": "207ad1295a0ab611e22d1734989c254e",
    "ssc_train.h5.zip": "d102be95e7144fcc0553d1f45ba94170",
    "ssc_valid.h5.zip": "b4eee3516a4a90dd0c71a6ac23a8ae43",
    "ssc_test.h5.zip": "a35ff1e9cffdd02a20eb850c17c37748",
}


class SHD(EventData):
    """Spiking Heidelberg Digits: spoken digits in English (labels 0-9) and German (10-19), 700 cochlear channels.

    Parameters
    ----------
    split : "train" or "test"
        There is no official validation set: use `split_by_speaker` on the training part.
    root : path, optional
        Folder of shd_train.h5 (.h5.gz, .h5.zip). Default: $NSIM_DATA, the cache, or a download.
    download : bool
    cache : bool
        False reads the file anew and keeps the events in memory.

    `name` is "SHD" only for the official files, known by their MD5. Of a file with another content, and without the
    fingerprint that `write_shd` gives, an EventWarning says that it cannot be verified: its values are in range and
    its lengths agree, but damage within them would not be seen. A folder called "...-regenerated" says that its files
    are not the official ones; for these the warning says only that damage cannot be detected.

    Raises
    ------
    DataError
        If no file can be had, or it is damaged or foreign.

    Source: Cramer et al. 2022, IEEE TNNLS 33(7), "The Heidelberg spiking data sets for the systematic evaluation of
    spiking neural networks". CC BY 4.0.
    """

    checks_events = False
    title, stem, splits, n_labels, names = "SHD", "shd", ("train", "test"), 20, ENGLISH + GERMAN

    def __init__(self, split="train", root=None, *, download=True, cache=True):
        path, fast, md5 = _file(type(self), split, root, download, cache)
        arrays = store.arrays(
            store.key("shd format 2", fast, UNITS, self.n_labels), lambda: self._read(path, cache), cache
        )
        events = Events(arrays["times"], arrays["units"], arrays["starts"], (UNITS,))
        names = self.names or [k.decode("utf-8", "replace") for k in arrays["names"]]
        if len(names) != self.n_labels:
            names = [str(k) for k in range(self.n_labels)]
        part = "(regenerated)" if "regenerated" in path.parent.name.lower() else ""
        name = named(self.title, {path: (fast, md5)}, MD5, part=part, fingerprint="fingerprint" in arrays)
        super().__init__(events, arrays["labels"], name=name, classes=names, speakers=arrays.get("speakers"))
        self.path = path

    def _read(self, path, cache):
        arrays, names = read_recordings(path, n=UNITS, classes=self.n_labels, scratch=store.scratch(cache))
        return arrays | {"names": np.array([k.encode() for k in names], "S64")}


class SSC(SHD):
    """Spiking Speech Commands: 35 spoken words, in the format of SHD; see there.

    Parameters
    ----------
    split : "train", "valid" or "test"

    The training part needs some 8 GB of memory the first time that it is read.
    """

    title, stem, splits, n_labels, names = "SSC", "ssc", ("train", "valid", "test"), 35, ()


def _file(kind, split, root, download, cache):
    one_of(kind.title, "split", split, kind.splits)
    names = tuple(f"{kind.stem}_{split}.h5{ending}" for ending in ("", ".gz", ".zip"))
    downloads = [(names[2], ZENKE + names[2], MD5.get(names[2])), (names[1], COMPNEURO + names[1], MD5.get(names[1]))]
    source = Source(
        what=f"{kind.title} ({split})",
        names=names,
        folders=(kind.title, kind.stem, "hdspikes", f"{kind.stem}-regenerated"),
        downloads=tuple(d for d in downloads if d[2]),
    )
    path = find(source, root, download)
    return path, *store.file_digests(path, cache)
