"""MNIST and Fashion-MNIST as latency-coded events: the brighter a pixel, the earlier its one spike."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np

from nsim.backend import adopted, check_device, on_device, operations
from nsim.checks import class_labels, number, one_of, real_array, whole
from nsim.datasets import cache as store
from nsim.datasets.archives import read_idx
from nsim.datasets.find import Source, find, named, subset
from nsim.datasets.hdf5 import row_starts
from nsim.datasets.pictures import UNIT, ImageData
from nsim.datasets.recordings import EventData, Events
from nsim.errors import DataError, EventWarning, ParameterError, ShapeError
from nsim.events import Spikes, index_dtype
from nsim.kernels.assemble import assemble
from nsim.times import step_width

ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
OSSCI = "https://ossci-datasets.s3.amazonaws.com/mnist/"
PARTS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}


class FashionMNIST(EventData):
    """Fashion-MNIST, latency-coded: 28 x 28 pixels, at most one spike each.

    t = tau ln(x / (x - threshold)) for x > threshold, never otherwise: the time at which a leaky integrator of time
    constant tau, charged by the constant current x in [0, 1], reaches the threshold.

    Parameters
    ----------
    split : "train" or "test"
    root : path, optional
        Folder of the idx files (as published, .gz, or unpacked). Default: $NSIM_DATA, the cache, or a download.
    tau : float, seconds
    threshold : float
        Between 0 and 1.
    download, cache : bool
        See `SHD`.

    `images` holds the pictures, uint8 [S, 28, 28]; the neurons have space (28, 28, 1). `name` is the data set's own
    only for the published files, known by their MD5, as they come or unpacked. It says when there are fewer pictures;
    an EventWarning names each file of another content which cannot be verified: where there are as many, and of
    fewer those that are unpacked. They have no checksum, so that other pixels or labels in them would not be seen.

    Raises
    ------
    DataError
        If no file can be had, or it is damaged or foreign.

    Source: Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747 (MIT licence); the code is that of Perez-Nieves & Goodman
    2021, section 4, which adds a spike after the end of the run for pixels at or below the threshold: here they
    have none.
    """

    checks_events = False
    title, site = "Fashion-MNIST", ZALANDO
    folders = ("FashionMNIST", "fashion-mnist", "fashion_mnist", "FashionMNIST/raw")
    names = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    # Of the packed file, as torchvision states it, and of the plain file in it.
    md5: ClassVar[dict] = {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }

    def __init__(self, split="train", root=None, *, tau=20e-3, threshold=0.2, download=True, cache=True):
        one_of(self.title, "split", split, PARTS)
        _check(self.title, tau, threshold)
        stem, official = PARTS[split]
        paths = [find(self._file(f"{stem}-{kind}-ubyte"), root, download) for kind in ("images-idx3", "labels-idx1")]
        digests = {path: store.file_digests(path, cache) for path in paths}
        fast = [fast for fast, _ in digests.values()]
        arrays = store.arrays(store.key("latency", *fast, tau, threshold), lambda: _read(*paths, tau, threshold), cache)
        events = Events(arrays["times"], arrays["units"], arrays["starts"], (28, 28, 1))
        part = subset(len(arrays["labels"]), official, f"{split} images")
        name = named(self.title, digests, self.md5, part=part)
        super().__init__(events, arrays["labels"], name=name, classes=self.names)
        self.path, self._images = paths[0], arrays["images"]

    @property
    def images(self) -> np.ndarray:
        """uint8 [len(self), 28, 28]"""
        return np.asarray(self._images)[self.index]

    def pictures(self) -> ImageData:
        """The pictures themselves, for conventional networks: [S, 1, 28, 28], grey values from 0 to 1."""
        return ImageData(self.images[:, None], self.labels, name=self.name, classes=self.classes, normalize=UNIT)

    def _file(self, stem):
        return Source(
            what=f"{self.title} ({stem})",
            names=(f"{stem}.gz", stem),
            folders=self.folders,
            downloads=((f"{stem}.gz", f"{self.site}{stem}.gz", self.md5[f"{stem}.gz"]),),
        )


class MNIST(FashionMNIST):
    """MNIST, latency-coded; see `FashionMNIST`.

    Source: LeCun, Bottou, Bengio & Haffner 1998, Proceedings of the IEEE 86(11).
    """

    title, site = "MNIST", OSSCI
    folders = ("MNIST", "mnist", "MNIST/raw")
    names = tuple(str(k) for k in range(10))
    md5: ClassVar[dict] = {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }


def first_spike(x, tau=20e-3, threshold=0.2) -> np.ndarray:
    """Time to first spike in seconds, tau ln(x / (x - threshold)), infinite where x <= threshold.

    Parameters
    ----------
    x : array, current in units of the threshold's scale
    tau : float, seconds
    threshold : float

    Raises
    ------
    ParameterError
        If x holds anything but numbers, tau is not positive, or threshold is no number.
    """
    current = real_array(x)
    if current is None:
        raise ParameterError(f"first_spike: x = {x!r:.60}: expected numbers")
    number("first_spike", "tau", tau, above=0, hint=" seconds")
    number("first_spike", "threshold", threshold)
    above = current > threshold
    ratio = np.divide(current, current - threshold, where=above, out=np.ones_like(current))
    return np.where(above, tau * np.log(ratio), np.inf)


def latency_events(images, tau=20e-3, threshold=0.2) -> Events:
    """Events of latency-coded pictures; see `FashionMNIST`.

    Parameters
    ----------
    images : uint8 [S, H, W]
        The current is pixel / 255.
    tau : float, seconds
    threshold : float

    Returns
    -------
    Events of space (H, W, 1), a sample's in order of time and unit.

    Raises
    ------
    ShapeError, ParameterError
        If the pictures are not bytes [S, H, W], or tau or threshold is impossible.
    """
    images = np.asarray(images)
    _check("latency_events", tau, threshold, images)
    count, height, width = images.shape
    table, bright = _table(tau, threshold)
    flat = images.reshape(count, height * width)
    order = np.argsort(255 - flat, axis=1, kind="stable")  # brightest first; equal pixels in order of unit
    pixels = np.take_along_axis(flat, order, axis=1)
    keep = bright[pixels]
    times, units = table[pixels[keep]], order[keep].astype(index_dtype(height * width))
    return Events(times, units, row_starts(keep.sum(axis=1)), (height, width, 1))


def _check(where, tau, threshold, images=None):
    """Refuse a code, and pictures, from which no events can be made."""
    if images is not None and (len(images.shape) != 3 or images.dtype != np.uint8 or 0 in images.shape):
        raise ShapeError(f"{where}: pictures of {images.dtype} {tuple(images.shape)}; expected uint8 [S, H, W]")
    number(where, "tau", tau, above=0, hint=" seconds")
    number(where, "threshold", threshold, above=0, below=1)
    seconds = first_spike(np.arange(256) / 255, tau, threshold)
    latest = seconds[np.isfinite(seconds)].max()
    if latest * 1e6 >= 2**31:
        raise ParameterError(
            f"{where}: tau = {tau!r} seconds: the last spike comes after {latest:.0f} s; times end at 2147 s"
        )


def _table(tau, threshold):
    """First spike of each value of a pixel in whole microseconds, int32 [256], and whether it has one."""
    seconds = first_spike(np.arange(256) / 255.0, tau, threshold)
    bright = np.isfinite(seconds)
    table = np.zeros(256, np.int32)
    table[bright] = np.rint(seconds[bright] * 1e6)
    return table, bright


def latency_spikes(images, *, dt, steps, tau=20e-3, threshold=0.2, device="cpu") -> Spikes:
    """Latency-coded pictures as a batch of events, [S, T, H W]; see `FashionMNIST`.

    Parameters
    ----------
    images : uint8 [S, H, W]
        The current is pixel / 255. With device="cuda" also an array of any library on the GPU.
    dt : float, seconds; steps : int
        T; later spikes are left out, with an `EventWarning` that counts them (not in pictures that lie on the GPU, for
        which it would have to wait).
    tau : float, seconds
    threshold : float
    device : "cpu" or "cuda"
        Where to encode them.

    Raises
    ------
    ShapeError, ParameterError
        If the pictures are not bytes [S, H, W], or dt, steps, tau or threshold are impossible.
    """
    images = adopted(images) if device != "cpu" else images
    images = images if on_device(images) else np.asarray(images)
    _check("latency_spikes", tau, threshold, images)
    whole("latency_spikes", steps=(steps, 1))
    width = step_width(dt)
    table, bright = _table(tau, threshold)
    if not on_device(images):
        _tell_late(images, np.where(bright, table // width, -1), int(steps), dt)
    if device != "cpu":
        never = np.iinfo(np.int32).max
        table = np.where(bright, table, never).astype(np.int32)
        return operations(check_device(device)).latency(images, table, width=width, steps=int(steps), dt=float(dt))
    events = latency_events(images, tau, threshold)
    indptr, indices, _, _ = assemble(
        events.times, events.units, events.starts[:-1], events.starts[1:], width=width, steps=int(steps), n=events.n
    )
    return Spikes(indptr, indices, (len(images), int(steps), events.n), dt=dt, space=events.space)


def _tell_late(images, step, steps, dt):
    """Warn of pixels that spike after the last step; `step` [256] is that of each value, -1 for no spike."""
    counts = np.bincount(images.ravel(), minlength=256)
    late, last = counts[step >= steps].sum(), step[counts > 0].max()
    if late:
        warnings.warn(
            f"latency_spikes: {late} of {counts[step >= 0].sum()} events lie at or after {steps} steps of {dt} s and "
            f"were left out; give steps >= {last + 1} to keep them, or a shorter tau (seconds)",
            EventWarning,
            stacklevel=3,
        )


def _read(images_path, labels_path, tau, threshold):
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or len(labels) == 0:
        raise DataError(
            f"{images_path}: pictures {images.shape} and labels {labels.shape}; expected [S, 28, 28] and [S]"
        )
    labels = class_labels(labels_path, labels, 10, error=DataError)
    events = latency_events(images, tau, threshold)
    return {
        "times": events.times, "units": events.units, "starts": events.starts,
        "labels": labels, "images": images,
    }  # fmt: skip
