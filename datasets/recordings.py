"""Labelled recordings of events in flat arrays, and ways to choose among them."""

from __future__ import annotations

from numbers import Integral
from typing import NamedTuple

import numpy as np

from nsim.checks import functions, number, whole
from nsim.datasets.batches import Batches, changed, gathered
from nsim.datasets.labelled import Labelled
from nsim.errors import DataError, EventError, ParameterError, ShapeError
from nsim.events import index_dtype


class Events(NamedTuple):
    """Events of some samples, flat; what transforms take and give.

    times : int32 [E], microseconds, not negative; sample b has events starts[b] to starts[b + 1] - 1
    units : uint16 or uint32 [E]
    starts : int64 [B + 1]
    space : tuple, shape of the neurons, (N,) or (H, W, C)
    """

    times: np.ndarray
    units: np.ndarray
    starts: np.ndarray
    space: tuple

    @property
    def n(self) -> int:
        return int(np.prod(self.space))

    @property
    def samples(self) -> np.ndarray:
        """The sample of each event, int64 [E]."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def keep(self, which) -> Events:
        """Only the events where `which` (bool [E]) is true."""
        counts = np.concatenate(([0], np.cumsum(which)))
        return Events(self.times[which], self.units[which], counts[self.starts], self.space)

    def checked(self, name) -> Events:
        """The same events in order of time within each sample, in the types above.

        What is so already stays the array that it is, memory-mapped or not. Raises EventError for a negative time and
        for a unit outside of the space, with the number of the sample.
        """
        times, units, starts, last = self.times, self.units, self.starts, self.n - 1
        if times.min(initial=0) < 0:
            k = int(np.argmax(times < 0))
            where = f"{name}: sample {_sample_of(k, starts)}"
            raise EventError(f"{where} has an event at {times[k]} us; times start at 0, the begin of the recording")
        if units.min(initial=0) < 0 or units.max(initial=0) > last:
            k = int(np.argmax((units < 0) | (units > last)))
            where = f"{name}: sample {_sample_of(k, starts)}"
            raise EventError(f"{where} has an event of unit {units[k]}; the space {self.space} has units 0 to {last}")
        backwards = np.flatnonzero(times[1:] < times[:-1]) + 1
        if len(np.setdiff1d(backwards, starts)):  # from one sample to the next, time may go back
            order = np.lexsort((times, self.samples))
            times, units = times[order], units[order]
        if times.dtype != np.int32 and times.max(initial=0) < 2**31:
            times = times.astype(np.int32)
        return self._replace(times=times, units=units.astype(index_dtype(self.n), copy=False))


def _sample_of(event, starts):
    """Number of the sample that event number `event` belongs to; samples without events are passed over."""
    return int(np.searchsorted(starts, event, side="right")) - 1


class EventData(Labelled):
    """A data set of labelled event recordings.

    Parameters
    ----------
    events : Events
        All recordings. Where the times of a sample do not ascend, a sorted copy is kept.
    labels : int64 [S]
    name : str
        Says which data these are, as results on them should be quoted.
    classes : sequence of str
        Names of the classes; labels are 0 to len(classes) - 1.
    speakers : int64 [S], optional
    index : int64 [K], optional
        The samples that belong to this data set, in its order. Default all.

    Raises
    ------
    ShapeError
        If numbers of recordings, labels and speakers, or of times and units, disagree, or starts do not ascend from 0.
    ParameterError
        If a label is no whole number, or not one of the classes.
    EventError
        If times (microseconds) or units are no whole numbers, a time is negative, or a unit is not in the space.

    Attributes: `name`, `classes`, `n_classes`, `n` (neurons), `space`, `labels`, `speakers` (or None), `index`.
    """

    checks_events = True  # False in a class whose reader has checked and sorted them: large files open at once

    def __init__(self, events, labels, *, name, classes, speakers=None, index=None):
        if len(labels) != len(events.starts) - 1 or (speakers is not None and len(speakers) != len(labels)):
            people = "no" if speakers is None else len(speakers)
            raise ShapeError(f"{name}: {len(events.starts) - 1} recordings, {len(labels)} labels, {people} speakers")
        super().__init__(labels, name=name, classes=classes, index=index)
        kinds = {"times": (events.times, "i", "whole microseconds"), "units": (events.units, "iu", "whole numbers")}
        for what, (column, kind, wanted) in kinds.items():
            if column.dtype.kind not in kind:
                raise EventError(f"{name}: {what} of {column.dtype}; expected {wanted}")
        if not len(events.times) == len(events.units) == events.starts[-1]:
            raise ShapeError(
                f"{name}: {len(events.times)} times, {len(events.units)} units, starts up to {events.starts[-1]}"
            )
        if events.starts[0] != 0 or (np.diff(events.starts) < 0).any():
            raise ShapeError(f"{name}: starts {events.starts}; expected 0 at first, and no number below the one before")
        if self.checks_events:
            events = events.checked(name)
        self.events, self.n, self.space = events, events.n, events.space
        self._speakers, self.told = speakers, set()
        self.resident = {}  # what a device keeps of the events; shared with parts of this data set

    def __repr__(self):
        size = f"{len(self):,} samples of {self.n} units, {self.n_classes} classes, {self.n_events:,} events"
        return f"<{self.name}: {size}>"

    @property
    def speakers(self):
        """int64 [len(self)], or None where speakers are not known."""
        return None if self._speakers is None else np.asarray(self._speakers)[self.index]

    @property
    def sizes(self) -> np.ndarray:
        """Number of events of each sample, int64 [len(self)]."""
        starts = self.events.starts
        return starts[self.index + 1] - starts[self.index]

    @property
    def n_events(self) -> int:
        return int(self.sizes.sum())

    def __getitem__(self, i):
        """Times (float64, seconds), units and label of one sample."""
        if not isinstance(i, Integral):
            raise ParameterError(f"sample {i!r}: expected one whole number; subset([0, 1]) chooses several samples")
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i}: {self.name} has {len(self)} samples")
        first, last = self.events.starts[self.index[i]], self.events.starts[self.index[i] + 1]
        return self.events.times[first:last] * 1e-6, np.asarray(self.events.units[first:last]), int(self.labels[i])

    def split_by_speaker(self, held_out=0.1, seed=0) -> tuple[EventData, EventData]:
        """Two parts (rest, held out) without a common speaker.

        Parameters
        ----------
        held_out : float, or sequence of int
            Fraction of the speakers, at least one of them, drawn with `seed`; or the speakers themselves.

        Raises
        ------
        DataError
            If speakers are not known.
        ParameterError
            If the fraction is not within 0 and 1, a speaker is unknown, the seed is no whole number, or a part would be
            empty.
        """
        if self.speakers is None:
            raise DataError(f"{self.name} does not say who speaks; use split(fraction) instead")
        whole("split_by_speaker", seed=(seed, 0))
        known = np.unique(self.speakers)
        if np.ndim(held_out) == 0:
            number("split_by_speaker", "held_out", held_out, above=0, below=1)
            count = min(max(1, round(held_out * len(known))), len(known) - 1)
            held_out = np.random.default_rng([int(seed), len(known)]).permutation(known)[:count]
        strange = np.setdiff1d(held_out, known)
        if strange.size:
            raise ParameterError(f"speaker {strange[0]} is not in {self.name}; it has {known.tolist()}")
        held = np.isin(self.speakers, held_out)
        if held.all() or not held.any():
            raise ParameterError(f"holding out {list(held_out)} of speakers {known.tolist()} leaves a part empty")
        return self.subset(np.flatnonzero(~held)), self.subset(np.flatnonzero(held))

    def transformed(self, transform, seed=0) -> EventData:
        """These samples with their events changed once and kept in memory: for what all parts of the data must go
        through, such as `PoolUnits`. `batches(transform=...)` and `nsim.fit(transform=...)` change training data anew
        in each epoch, and validation data not at all.

        Parameters
        ----------
        transform : callable or list of them
            See nsim.datasets.transforms. Each draws once for all samples.
        seed : int
        """
        whole("transformed", seed=(seed, 0))
        first, last = self.events.starts[self.index], self.events.starts[self.index + 1]
        transforms, rng = functions("transformed", "transform", transform), np.random.default_rng(int(seed))
        events = changed(gathered(self.events, first, last), transforms, rng)
        # A function by its name, since its address is another in each process, and a checkpoint knows data by name.
        names = ", ".join(getattr(part, "__qualname__", None) or repr(part) for part in transforms)
        return EventData(
            events, self.labels, name=f"{self.name}, {names}", classes=self.classes,
            speakers=self.speakers,
        )  # fmt: skip

    def batches(
        self, batch, *, dt, steps=None, shuffle=False, seed=0, transform=None, drop_last=False,
        binning="floor", clamp=False, device="cpu", epoch=0,
    ) -> Batches:  # fmt: skip
        """Batches of events for one epoch: an iterable with a length, of (Spikes [B, T, N], labels int64 [B]).

        Parameters
        ----------
        batch : int
            B; the last batch may be smaller unless `drop_last`.
        dt : float, seconds
        steps : int, optional
            T. Default: enough for the last event of all samples.
        shuffle : bool
        seed, epoch : int
            The same pair gives the same batches, bit for bit.
        transform : callable or list of them, optional
            Applied to the events of each batch before binning; see nsim.datasets.transforms.
        binning : "floor" or "round"
            Step of an event: whole steps passed, or the nearest step as in Perez-Nieves & Goodman 2021.
        clamp : bool
            Keep one event of those that share neuron and step (the paper's setting for training).
        device : str
            "cuda": the events are copied to the device once and stay there, and batches are made from them there; with
            `transform`, the events of each batch are copied.

        The result counts as it goes: `.events` read, `.late` (at or after T, left out), `.doubles` (share neuron and
        step with another); on a device the latter two once the epoch is over. Their sums are told in one
        EventWarning the first time that all batches of these samples are read with a setting, and once before, of what
        was read, where only some of them are.

        Raises
        ------
        ParameterError
            If a number or option is impossible, or no sample is left.
        """
        return Batches(
            self, batch, dt=dt, steps=steps, shuffle=shuffle, seed=seed, transform=transform, drop_last=drop_last,
            binning=binning, clamp=clamp, device=device, epoch=epoch,
        )  # fmt: skip
