"""Random changes of event recordings for training, applied to flat events before they are binned.

A transform is called with `Events` and a numpy Generator and returns `Events`; `data.batches(transform=...)` takes one
or a list of them and hands each batch a generator of its own, so that (seed, epoch) fixes every draw. Amounts drawn
"for each sample" are the same for all events of a sample. Events that leave the range of times or units are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from nsim.checks import number, whole
from nsim.datasets.recordings import Events
from nsim.errors import ParameterError

LAST = 2**31 - 1  # microseconds that an int32 can hold
LARGEST = 1e9  # amount of any change, so that no place or time leaves int64


def _check_axis(name, axis):
    if not isinstance(axis, Integral):
        raise ParameterError(f"{name}: axis = {axis!r}: expected a whole number, of an axis of the neurons' space")


def _retimed(events, times):
    """Events at float times in microseconds, rounded; those before 0 are left out."""
    times = np.rint(times)
    inside = (times >= 0) & (times <= LAST)
    kept = events.keep(inside)
    return kept._replace(times=times[inside].astype(np.int32))


def _axis(events, axis):
    """Coordinate of each event along one axis of the space, its stride in unit numbers, and the axis' size."""
    if not -len(events.space) <= axis < len(events.space):
        raise ParameterError(f"axis = {axis}: the neurons have space {events.space}")
    axis %= len(events.space)
    stride = int(np.prod(events.space[axis + 1 :], dtype=np.int64))
    return events.units.astype(np.int64) // stride % events.space[axis], stride, events.space[axis]


def _moved(events, axis, shift):
    """Events moved by `shift` (int [E]) along an axis of the space; those that leave it are left out."""
    place, stride, size = _axis(events, axis)
    inside = (place + shift >= 0) & (place + shift < size)
    kept = events.keep(inside)
    units = events.units.astype(np.int64) + shift * stride
    return kept._replace(units=units[inside].astype(events.units.dtype))


@dataclass(frozen=True)
class Compose:
    """Several transforms, one after the other."""

    transforms: tuple

    def __post_init__(self):
        if not isinstance(self.transforms, (tuple, list)) or not all(callable(k) for k in self.transforms):
            raise ParameterError(f"Compose: transforms = {self.transforms!r}: expected a tuple of transforms")

    def __call__(self, events, rng):
        for transform in self.transforms:
            events = transform(events, rng)
        return events


@dataclass(frozen=True)
class DropEvents:
    """Leave out each event with probability p."""

    p: float

    def __post_init__(self):
        number("DropEvents", "p", self.p, least=0, most=1)

    def __call__(self, events, rng) -> Events:
        return events.keep(rng.random(len(events.times)) >= self.p)


@dataclass(frozen=True)
class TimeJitter:
    """Move each event by a normal amount of standard deviation `std` seconds."""

    std: float

    def __post_init__(self):
        number("TimeJitter", "std", self.std, least=0, most=LARGEST)

    def __call__(self, events, rng) -> Events:
        return _retimed(events, events.times + rng.normal(0.0, 1e6 * self.std, len(events.times)))


@dataclass(frozen=True)
class TimeScale:
    """Stretch the times of each sample by a factor that is uniform between `low` and `high`."""

    low: float
    high: float

    def __post_init__(self):
        number("TimeScale", "low", self.low, least=1e-3, most=1e3)
        number("TimeScale", "high", self.high, least=self.low, most=1e3)

    def __call__(self, events, rng) -> Events:
        factor = rng.uniform(self.low, self.high, len(events.starts) - 1)
        return _retimed(events, events.times * factor[events.samples])


@dataclass(frozen=True)
class UnitJitter:
    """Move each event by a normal amount of standard deviation `std` units, rounded, along one axis of the space."""

    std: float
    axis: int = 0

    def __post_init__(self):
        number("UnitJitter", "std", self.std, least=0, most=LARGEST)
        _check_axis("UnitJitter", self.axis)

    def __call__(self, events, rng) -> Events:
        shift = np.rint(rng.normal(0.0, self.std, len(events.units))).astype(np.int64)
        return _moved(events, self.axis, shift)


@dataclass(frozen=True)
class UnitShift:
    """Move each sample by a whole number of units, uniform from -most to most, along one axis of the space."""

    most: int
    axis: int = 0

    def __post_init__(self):
        whole("UnitShift", most=(self.most, 0))
        _check_axis("UnitShift", self.axis)

    def __call__(self, events, rng) -> Events:
        shift = rng.integers(-int(self.most), int(self.most), len(events.starts) - 1, endpoint=True)
        return _moved(events, self.axis, shift[events.samples])


@dataclass(frozen=True)
class UnitScale:
    """Stretch the units of each sample about the middle of one axis by a factor uniform between `low` and `high`.

    On a cochlear axis: another length of the vocal tract.
    """

    low: float
    high: float
    axis: int = 0

    def __post_init__(self):
        number("UnitScale", "low", self.low, least=1e-3, most=1e3)
        number("UnitScale", "high", self.high, least=self.low, most=1e3)
        _check_axis("UnitScale", self.axis)

    def __call__(self, events, rng) -> Events:
        place, _, size = _axis(events, self.axis)
        factor = rng.uniform(self.low, self.high, len(events.starts) - 1)[events.samples]
        middle = (size - 1) / 2
        return _moved(events, self.axis, np.rint(middle + (place - middle) * factor).astype(np.int64) - place)


@dataclass(frozen=True)
class PoolUnits:
    """Let each `k` neighbouring units along one axis be one: its size becomes ceil(size / k). Draws nothing.

    What is validated and tested must be pooled too: `train, test = (SHD(part).transformed(PoolUnits(2)) for part in
    ("train", "test"))`.
    """

    k: int
    axis: int = 0

    def __post_init__(self):
        whole("PoolUnits", k=(self.k, 1))
        _check_axis("PoolUnits", self.axis)

    def __call__(self, events, rng=None) -> Events:
        place, stride, size = _axis(events, self.axis)
        pooled = -(-size // int(self.k))
        units = events.units.astype(np.int64)
        outer, inner = units // (stride * size), units % stride
        space = list(events.space)
        space[self.axis] = pooled
        units = (outer * pooled + place // int(self.k)) * stride + inner
        return events._replace(units=units.astype(events.units.dtype), space=tuple(space))
