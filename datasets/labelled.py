"""What data sets of events and of pictures share: labelled samples, and ways to choose among them."""

from __future__ import annotations

import numpy as np

from nsim.checks import is_number, whole
from nsim.errors import ParameterError, ShapeError


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
        self._labels = whole_labels(name, labels, len(self.classes))
        self.index = np.arange(len(self._labels)) if index is None else np.asarray(index, np.int64)

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
        indices = np.asarray(indices)
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise ParameterError(
                f"subset: indices of type {indices.dtype} and shape {indices.shape}; expected whole numbers [K]"
            )
        if indices.size and not (indices.min() >= 0 and indices.max() < len(self)):
            raise ParameterError(
                f"subset: indices {indices.min()} to {indices.max()}; {self.name} has {len(self)} samples"
            )
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part.index = self.index[indices]
        return part

    def split(self, fraction, seed=0) -> tuple[Labelled, Labelled]:
        """Two parts (rest, held out), with `fraction` of each class held out at random.

        Raises ParameterError if one of the parts would be empty, or for a fraction or seed that is none.
        """
        check_fraction(fraction)
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


def whole_labels(where, labels, count, what="label") -> np.ndarray:
    """Labels, or other numbers one for each sample, as int64 [S]; refuses any but whole ones from 0 to count - 1."""
    try:
        labels = np.asarray(labels)
    except ValueError:  # rows of different lengths
        labels = np.asarray(labels, object)
    if labels.size and labels.dtype.kind not in "biuf":
        strange = next((value for value in labels.ravel().tolist() if not is_number(value)), labels.dtype)
        raise ParameterError(
            f"{where}: {what}s such as {strange!r}; expected whole numbers, 0 to {count - 1} (of names, their "
            "places in the list of classes)"
        )
    if labels.ndim != 1:
        raise ShapeError(
            f"{where}: {what}s of shape {labels.shape}; expected one number for each sample (of one-hot rows, "
            ".argmax(axis=1))"
        )
    wrong = ~((labels >= 0) & (labels < count) & (labels == np.floor(labels)))  # NaN is neither
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ParameterError(f"{where}: sample {k} has {what} {labels[k]}; expected 0 to {count - 1:,}, whole numbers")
    return labels.astype(np.int64)


def check_fraction(fraction):
    if not (is_number(fraction) and 0 < fraction < 1):
        raise ParameterError(f"fraction {fraction!r}: expected a number, more than 0 and less than 1")


def check_batching(data, batch, seed, epoch, drop_last):
    """ParameterError if these cannot make batches of a data set."""
    whole("batches", batch=(batch, 1), seed=(seed, 0), epoch=(epoch, 0))
    if len(data) == 0:
        raise ParameterError(f"batches: no sample of {data.name} is left")
    if drop_last and batch > len(data):
        raise ParameterError(f"batch = {batch} with drop_last: {data.name} has only {len(data)} samples")


def epoch_order(data, shuffle, seed, epoch) -> np.ndarray:
    """Numbers of the samples in the order of one epoch: a function of (seed, epoch) where it is shuffled."""
    order = np.arange(len(data))
    if shuffle:
        np.random.default_rng([seed, epoch, 0]).shuffle(order)  # batch k draws from [..., k + 1]
    return order
