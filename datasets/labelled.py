"""What data sets of events and of pictures share: labelled samples, and ways to choose among them."""

from __future__ import annotations

import numpy as np

from nsim.checks import class_labels, flag, functions, number, whole
from nsim.errors import ParameterError


class Labelled:
    """Labelled samples.

    Parameters
    ----------
    labels : int64 [S]
    name : str
        Says which data these are, as results on them should be quoted.
    classes : sequence of str
        Names of the classes; labels are 0 to len(classes) - 1.
    index : int64 [K], optional
        The samples that belong to this data set, in its order. Default all.

    Raises ShapeError or ParameterError if labels are no such numbers; the first wrong one is named.
    """

    def __init__(self, labels, *, name, classes, index=None):
        self.name, self.classes = name, tuple(classes)
        self._labels = class_labels(name, labels, len(self.classes))
        count = len(self._labels)
        self.index = np.arange(count) if index is None else _numbers(name, "index", index, count)

    def __len__(self):
        return len(self.index)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def labels(self) -> np.ndarray:
        """int64 [len(self)]"""
        return self._labels[self.index]

    def subset(self, indices) -> Labelled:
        """The samples with these numbers (counted in this data set), in this order."""
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part.index = self.index[_numbers(self.name, "subset", indices, len(self))]
        return part

    def split(self, fraction, seed=0) -> tuple[Labelled, Labelled]:
        """Two parts (rest, held out), with `fraction` of each class held out at random.

        Raises ParameterError if one of the parts would be empty, or for a fraction or seed that is none.
        """
        number("split", "fraction", fraction, above=0, below=1)
        whole("split", seed=(seed, 0))
        rng = np.random.default_rng([int(seed), len(self)])
        held = np.zeros(len(self), bool)
        labels = self.labels
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            held[members[: round(fraction * len(members))]] = True
        if held.all() or not held.any():
            raise ParameterError(
                f"split: {fraction:g} of each class of {self.name} holds out {held.sum()} of {len(self)} samples; "
                "give another fraction"
            )
        return self.subset(np.flatnonzero(~held)), self.subset(np.flatnonzero(held))


def _numbers(data, what, indices, count):
    """Numbers of samples, int64 [K]; refused where they are none of `count`."""
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        way_out = "; np.flatnonzero makes them of a mask" if indices.dtype.kind == "b" else ""
        raise ParameterError(
            f"{what}: indices of type {indices.dtype} and shape {indices.shape}; expected whole numbers [K]{way_out}"
        )
    if indices.size and not (indices.min() >= 0 and indices.max() < count):
        raise ParameterError(f"{what}: indices {indices.min()} to {indices.max()}; {data} has {count} samples")
    return indices.astype(np.int64)


class Epoch:
    """The batches of one epoch of a data set: how many, which samples each has, and what its transforms draw from.

    Raises ParameterError if a number or a transform is impossible, or no sample is left.
    """

    def __init__(self, data, batch, *, shuffle, seed, epoch, drop_last, transform):
        whole("batches", batch=(batch, 1), seed=(seed, 0), epoch=(epoch, 0))
        if len(data) == 0:
            raise ParameterError(f"batches: no sample of {data.name} is left")
        drop_last = flag("batches", "drop_last", drop_last)
        if drop_last and batch > len(data):
            raise ParameterError(f"batch = {batch} with drop_last: {data.name} has only {len(data)} samples")
        self.data, self.batch = data, int(batch)
        self.shuffle, self.drop_last = flag("batches", "shuffle", shuffle), drop_last
        self.seed, self.epoch, self.transforms = int(seed), int(epoch), functions("batches", "transform", transform)

    def __len__(self):
        return len(self.data) // self.batch if self.drop_last else -(-len(self.data) // self.batch)

    def parts(self):
        """For each batch the numbers of its samples and a generator of its own: functions of (seed, epoch)."""
        order = np.arange(len(self.data))
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch, 0]).shuffle(order)  # batch k draws from [..., k + 1]
        for k in range(len(self)):
            rng = np.random.default_rng([self.seed, self.epoch, k + 1])
            yield order[k * self.batch : (k + 1) * self.batch], rng
