"""What each transform does to many events, and that no event of another sample is touched."""

import numpy as np
import pytest

from nsim.datasets import Events, Synthetic
from nsim.datasets import transforms as tf
from nsim.errors import ParameterError

COUNT = 20_000  # events a sample: a fraction has a standard deviation below 0.4 points


@pytest.fixture
def events():
    """Three samples with events between 0.4 and 0.6 s, of units 300 to 399 of 700."""
    rng = np.random.default_rng(0)
    times = rng.integers(400_000, 600_000, 3 * COUNT).astype(np.int32)
    units = rng.integers(300, 400, 3 * COUNT).astype(np.uint16)
    return Events(times, units, np.arange(4) * COUNT, (700,))


@pytest.fixture
def rng():
    return np.random.default_rng(1)


ALL = [
    tf.DropEvents(0.2), tf.TimeJitter(1e-3), tf.TimeScale(0.8, 1.2), tf.UnitJitter(2.0), tf.UnitShift(10),
    tf.UnitScale(0.9, 1.1), tf.PoolUnits(3), tf.Compose((tf.DropEvents(0.1), tf.PoolUnits(2))),
]  # fmt: skip


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_promises_of_every_transform(events, transform):
    before = [a.copy() for a in events[:3]]
    one, two = (transform(events, np.random.default_rng(7)) for _ in range(2))
    for a, b in zip(one[:3], two[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(events[:3], before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.times.dtype == np.int32 and one.units.dtype == np.uint16 and one.starts.dtype == np.int64
    assert one.starts[-1] == len(one.times) == len(one.units) and one.units.max() < one.n and one.times.min() >= 0
    empty = Events(events.times[:0], events.units[:0], np.zeros(4, np.int64), (700,))
    assert len(transform(empty, np.random.default_rng(0)).times) == 0


def test_drop(events, rng):
    out = tf.DropEvents(0.25)(events, rng)
    np.testing.assert_allclose(np.diff(out.starts) / COUNT, 0.75, atol=0.015)
    assert tf.DropEvents(0.0)(events, rng).starts[-1] == 3 * COUNT and tf.DropEvents(1.0)(events, rng).starts[-1] == 0


def test_time_jitter(events, rng):
    moved = tf.TimeJitter(5e-3)(events, rng).times.astype(float) - events.times
    assert abs(moved.mean()) < 100 and abs(moved.std() - 5000) < 100
    early = events._replace(times=np.full(3 * COUNT, 5000, np.int32))
    kept = tf.TimeJitter(5e-3)(early, rng)
    assert abs(len(kept.times) / (3 * COUNT) - 0.841) < 0.01  # one standard deviation before 0


def test_time_scale(events, rng):
    out = tf.TimeScale(0.5, 2.0)(events, rng)
    factors = (out.times / events.times).reshape(3, -1)
    assert np.ptp(factors, axis=1).max() < 1e-5 and np.ptp(factors[:, 0]) > 0.05
    assert factors.min() > 0.5 and factors.max() < 2.0


def test_unit_jitter(events, rng):
    moved = tf.UnitJitter(3.0)(events, rng).units.astype(float) - events.units
    assert abs(moved.mean()) < 0.1 and abs(moved.std() - np.sqrt(9 + 1 / 12)) < 0.1


def test_unit_shift(events, rng):
    shifts = []
    for _ in range(100):
        moved = (tf.UnitShift(4)(events, rng).units.astype(int) - events.units).reshape(3, -1)
        assert np.ptp(moved, axis=1).max() == 0
        shifts += moved[:, 0].tolist()
    assert set(shifts) == set(range(-4, 5))
    edge = events._replace(units=np.full(3 * COUNT, 699, np.uint16))
    assert set(np.diff(tf.UnitShift(4)(edge, np.random.default_rng(3)).starts)) <= {0, COUNT}


def test_unit_scale(events, rng):
    out = tf.UnitScale(1.5, 1.5)(events, rng)
    np.testing.assert_array_equal(out.units, np.rint(349.5 + (events.units - 349.5) * 1.5))
    wide = tf.UnitScale(10.0, 10.0)(events, rng)
    assert 0 < len(wide.units) < 3 * COUNT


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_axes_of_pictures(rng, axis):
    space = (6, 5, 2)
    units = np.arange(60).astype(np.uint16)
    events = Events(np.zeros(60, np.int32), units, np.array([0, 60]), space)
    pooled = tf.PoolUnits(2, axis)(events)
    at = list(np.unravel_index(units, space))
    at[axis] = at[axis] // 2
    np.testing.assert_array_equal(pooled.units, np.ravel_multi_index(at, pooled.space))
    assert pooled.space[axis] == (space[axis] + 1) // 2
    shifted = tf.UnitShift(1, axis)(events, np.random.default_rng(2))
    shift = np.random.default_rng(2).integers(-1, 1, 1, endpoint=True)[0]
    at = list(np.unravel_index(units, space))
    at[axis] = at[axis] + shift
    inside = (at[axis] >= 0) & (at[axis] < space[axis])
    np.testing.assert_array_equal(shifted.units, np.ravel_multi_index([a[inside] for a in at], space))


def test_pool(events):
    out = tf.PoolUnits(3)(events)
    assert out.n == 234
    np.testing.assert_array_equal(out.units, events.units // 3)


@pytest.mark.parametrize(
    "make",
    [
        (tf.DropEvents, 1.5), (tf.DropEvents, np.nan), (tf.TimeJitter, -1e-3), (tf.TimeScale, 2, 1),
        (tf.TimeScale, 0, 1), (tf.UnitJitter, -1), (tf.UnitShift, -1), (tf.UnitScale, 1, np.inf), (tf.PoolUnits, 0),
        (tf.PoolUnits, 1.5), (tf.UnitShift, 1.5), (tf.UnitShift, np.float32(2.5)), (tf.UnitShift, np.inf),
        (tf.UnitShift, 10**400), (tf.TimeJitter, np.inf), (tf.DropEvents, "0.5"), (tf.TimeJitter, "1e-3"),
        (tf.TimeScale, "1", 2), (tf.TimeScale, 1, "2"), (tf.UnitJitter, "2"), (tf.UnitShift, "2"),
        (tf.UnitScale, "1", 2), (tf.UnitScale, 1, "2"), (tf.PoolUnits, "2"), (tf.PoolUnits, None),
        (tf.UnitJitter, 1, 0.5), (tf.UnitShift, 1, "x"), (tf.UnitScale, 1, 2, None), (tf.PoolUnits, 2, 1.0),
        (tf.Compose, tf.DropEvents(0.5)), (tf.Compose, "drop"), (tf.Compose, (tf.DropEvents(0.5), 3)),
    ],
)  # fmt: skip
def test_impossible_parameters(make):
    kind, *values = make
    with pytest.raises(ParameterError, match=f"{kind.__name__}: "):
        kind(*values)


def test_numbers_of_other_types():
    tf.UnitShift(np.int64(3), axis=np.int32(0)), tf.UnitShift(2.0), tf.DropEvents(np.float32(0.5)), tf.PoolUnits(2.0)


def test_axis_that_is_not_there(events, rng):
    with pytest.raises(ParameterError, match=r"axis = 1: the neurons have space \(700,\)"):
        tf.UnitShift(3, axis=1)(events, rng)


def test_data_are_named_by_functions_and_not_by_their_addresses():
    """A checkpoint knows data by name, in every process."""

    def same(events, rng):
        return events

    data = Synthetic(samples=20, cache=False)
    assert data.transformed([tf.PoolUnits(2)]).name == f"{data.name}, {tf.PoolUnits(2)!r}"
    assert " at 0x" not in data.transformed(same).name
