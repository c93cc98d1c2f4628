"""From flat event arrays to sorted `Spikes`, batch by batch, without a dense frame."""

from __future__ import annotations

import warnings

import numpy as np

from nsim.backend import check_device, moved, operations
from nsim.checks import flag, whole
from nsim.datasets.labelled import Epoch
from nsim.errors import EventError, EventWarning
from nsim.events import Spikes, index_dtype
from nsim.kernels.assemble import assemble
from nsim.times import bins, step_width


class Batches(Epoch):
    """One epoch of batches; see `EventData.batches`."""

    def __init__(
        self, data, batch, *, dt, steps, shuffle, seed, transform, drop_last, binning, clamp, device, epoch
    ):  # fmt: skip
        super().__init__(data, batch, shuffle=shuffle, seed=seed, epoch=epoch, drop_last=drop_last, transform=transform)
        if steps is not None:
            whole("batches", steps=(steps, 1))
        bins(np.zeros(1, np.int64), dt, binning)  # checks both
        self.dt, self.width, self.binning = float(dt), step_width(dt), binning
        self.clamp, self.device = flag("batches", "clamp", clamp), check_device(device)
        self.steps = self._needed_steps() if steps is None else int(steps)
        self.events = self.late = self.doubles = 0

    def _needed_steps(self):
        first, last = self._bounds(np.arange(len(self.data)))
        ends = np.asarray(self.data.events.times)[(last - 1)[last > first]]
        return int(bins(np.asarray([ends.max(initial=0)], np.int64), self.dt, self.binning)[0]) + 1

    def _bounds(self, chosen):
        index, starts = self.data.index[chosen], self.data.events.starts
        return starts[index], starts[index + 1]

    def __iter__(self):
        labels = self.data.labels
        self.events = self.late = self.doubles = 0
        tally, complete = None if self.device == "cpu" else operations(self.device).new_tally(), False
        try:
            for k, (chosen, rng) in enumerate(self.parts(), 1):
                spikes, complete = self._assemble(chosen, rng, tally), k == len(self)
                yield spikes, labels[chosen]
        finally:
            if tally is not None:
                self.late, self.doubles = (int(count) for count in moved(tally, "cpu"))
            self._tell(complete)

    def _assemble(self, chosen, rng, tally):
        events = self.data.events
        first, last = self._bounds(chosen)
        if self.transforms:
            events = changed(gathered(events, first, last), self.transforms, rng)
            first, last = events.starts[:-1], events.starts[1:]
        self.events += int((last - first).sum())
        if tally is not None:
            return operations(self.device).assemble(
                events, first, last, width=self.width, steps=self.steps, dt=self.dt, nearest=self.binning == "round",
                clamp=self.clamp, tally=tally, kept=None if self.transforms else self.data.resident,
            )  # fmt: skip
        indptr, indices, late, doubles = assemble(
            events.times, events.units, first, last,
            width=self.width, steps=self.steps, n=events.n, nearest=self.binning == "round", clamp=self.clamp,
        )  # fmt: skip
        self.late += int(late.sum())
        self.doubles += int(doubles.sum())
        return Spikes(indptr, indices, (len(chosen), self.steps, events.n), dt=self.dt, space=events.space)

    def _tell(self, complete):
        """Once for each choice of samples and setting, of a part of an epoch and of a whole one: a warning an epoch
        would not be read."""
        samples = hash(self.data.index.tobytes())
        setting = (samples, self.dt, self.steps, self.binning, self.clamp, bool(self.transforms))
        told = self.data.told  # shared with the parts of the data: they may be made anew for each epoch
        if not (self.late or self.doubles) or (setting, True) in told or (setting, complete) in told:
            return
        told.add((setting, complete))
        fate = "only one of each is kept" if self.clamp else "each is counted"
        warnings.warn(
            f"{self.data.name}, {self.steps} steps of {self.dt:g} s: of {self.events:,} events {self.late:,} "
            f"({self.late / self.events:.2%}) lie past the end and were left out; {self.doubles:,} "
            f"({self.doubles / self.events:.2%}) share neuron and step with another, and {fate}",
            EventWarning,
            stacklevel=3,
        )


def gathered(events, first, last):
    """The events first[b] to last[b] - 1 of each sample b, one sample behind the other."""
    starts = np.concatenate(([0], np.cumsum(last - first)))
    pieces = [slice(a, z) for a, z in zip(first, last, strict=True)]
    times = np.concatenate([events.times[piece] for piece in pieces])
    units = np.concatenate([events.units[piece] for piece in pieces])
    return events._replace(times=times, units=units, starts=starts)


def changed(events, transforms, rng):
    """Events that went through transforms, which is checked."""
    samples = len(events.starts)
    for transform in transforms:
        events = transform(events, rng)
    times, units, size = np.asarray(events.times), np.asarray(events.units), int(events.starts[-1])
    if len(events.starts) != samples or not len(times) == len(units) == size:
        raise EventError(f"transform {transform}: {len(times)} times, {len(units)} units, starts up to {size}")
    if times.dtype.kind != "i" or times.min(initial=0) < 0:
        raise EventError(
            f"transform {transform}: times of {times.dtype} from {times.min(initial=0)}; expected int >= 0"
        )
    if units.max(initial=0) >= events.n or units.min(initial=0) < 0:
        raise EventError(f"transform {transform}: a unit lies outside 0 to {events.n - 1}")
    return events._replace(units=units.astype(index_dtype(events.n), copy=False))
