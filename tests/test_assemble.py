"""Events to compressed rows, against counting in plain loops."""

from itertools import pairwise

import numba
import numpy as np
import pytest

from nsim.errors import EventError, ShapeError
from nsim.events import Spikes, index_dtype
from nsim.kernels.assemble import assemble
from nsim.times import bins


def counted(starts, steps_of, units, steps, n):
    """Dense counts and the number of late events of each sample, by plain loops."""
    dense, late = np.zeros((len(starts) - 1, steps, n), np.int64), np.zeros(len(starts) - 1, np.int64)
    for b in range(len(starts) - 1):
        for k in range(starts[b], starts[b + 1]):
            if steps_of[k] < steps:
                dense[b, steps_of[k], units[k]] += 1
            else:
                late[b] += 1
    return dense, late


def drawn(rng, batch, events, last, n):
    starts = np.concatenate(([0], np.sort(rng.integers(0, events + 1, batch - 1)), [events])).astype(np.int64)
    return starts, rng.integers(0, last, events), rng.integers(0, n, events).astype(index_dtype(n))


@pytest.mark.parametrize("n", [1, 2, 33, 700, 2312, 70_000])
@pytest.mark.parametrize("batch, steps, events", [(1, 1, 5), (3, 40, 400), (7, 13, 0), (5, 3000, 50)])
def test_rows_are_the_counts(n, batch, steps, events):
    starts, at, units = drawn(np.random.default_rng(n + steps), batch, events, steps + 3, n)
    indptr, indices, late, _ = assemble(at, units, starts[:-1], starts[1:], width=1, steps=steps, n=n)
    if n <= 2312:
        expected, lost = counted(starts, at, units, steps, n)
        np.testing.assert_array_equal(late, lost)
        np.testing.assert_array_equal(Spikes(indptr, indices, (batch, steps, n), dt=1e-3).to_dense(), expected)
    assert indices.dtype == index_dtype(n) and indptr.dtype == np.int64 and indptr[0] == 0
    rows = np.repeat(np.arange(batch * steps), np.diff(indptr))
    np.testing.assert_array_equal(np.lexsort((indices, rows)), np.arange(len(indices)))


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("width", [1, 500, 1000, 2000, 7])
def test_bins_agree_with_integer_arithmetic(width, nearest):
    """At every edge of a step, where a float quotient off by one bit would show."""
    rng = np.random.default_rng(width)
    times = rng.integers(0, 2**31 - 1, 2000)
    edges = times // width * width
    times = np.sort(np.concatenate([times, edges, edges - 1, edges + width // 2, [0, 1, width]]).clip(0)).astype(
        np.int32
    )
    steps = int(times.max()) // width + 2
    units = np.zeros(len(times), np.uint16)
    expected = bins(times.astype(np.int64), width * 1e-6, "round" if nearest else "floor")
    if steps > 2_000_000:
        steps = 2_000_000
    indptr, _, late, _ = assemble(times, units, [0], [len(times)], width=width, steps=steps, n=1, nearest=nearest)
    np.testing.assert_array_equal(np.diff(indptr), np.bincount(expected[expected < steps], minlength=steps))
    assert late[0] == np.count_nonzero(expected >= steps)


def test_clamp_keeps_one_of_each_and_counts_doubles():
    starts, at, units = drawn(np.random.default_rng(1), 4, 600, 8, 9)
    dense, _ = counted(starts, at, units, 6, 9)
    for clamp in (False, True):
        indptr, indices, late, doubles = assemble(
            at, units, starts[:-1], starts[1:], width=1, steps=6, n=9, clamp=clamp
        )
        expected = np.minimum(dense, 1) if clamp else dense
        np.testing.assert_array_equal(Spikes(indptr, indices, (4, 6, 9), dt=1e-3).to_dense(), expected)
        np.testing.assert_array_equal(doubles, (dense - np.minimum(dense, 1)).sum(axis=(1, 2)))
        assert late.sum() == np.count_nonzero(at >= 6)


def test_any_order_and_any_threads_give_the_same_bits():
    rng = np.random.default_rng(2)
    starts, at, units = drawn(rng, 9, 3000, 50, 300)
    mixed = np.concatenate([a + rng.permutation(z - a) for a, z in pairwise(starts)])
    bounds = {"first": starts[:-1], "last": starts[1:], "width": 1, "steps": 48, "n": 300}
    expected = assemble(at, units, **bounds)
    threads = numba.get_num_threads()
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            for got, want in zip(assemble(at[mixed], units[mixed], **bounds), expected, strict=True):
                np.testing.assert_array_equal(got, want)
    finally:
        numba.set_num_threads(threads)


def test_chosen_samples_in_any_order_and_twice():
    starts, at, units = drawn(np.random.default_rng(3), 5, 100, 10, 4)
    dense, _ = counted(starts, at, units, 10, 4)
    chosen = np.array([3, 0, 3])
    indptr, indices, _, _ = assemble(at, units, starts[chosen], starts[chosen + 1], width=1, steps=10, n=4)
    np.testing.assert_array_equal(Spikes(indptr, indices, (3, 10, 4), dt=1e-3).to_dense(), dense[chosen])


def test_times_beyond_int32():
    times, units = np.array([5, 3_000_000_000, 2**62]), np.zeros(3, np.uint16)
    indptr, _, late, _ = assemble(times, units, [0], [3], width=1_000_000, steps=3001, n=1)
    assert late[0] == 1 and indptr[1] == 1 and indptr[3000] == 1 and indptr[3001] == 2


@pytest.mark.parametrize(
    "error, words, change",
    [
        (EventError, "unit 7; expected 0 to 4", {"n": 5}),
        (ShapeError, "0 steps", {"steps": 0}),
        (ShapeError, "do not lie within 3 events", {"last": [4]}),
        (ShapeError, "1 starts for 2 ends", {"last": [1, 3]}),
        (ShapeError, "3 times for 2 units", {"units": np.zeros(2, np.uint16)}),
    ],
)
def test_errors(error, words, change):
    good = {"times": np.arange(3), "units": np.array([1, 7, 2], np.uint16), "first": [0], "last": [3]}
    arguments = good | {"width": 1, "steps": 4, "n": 8} | change
    with pytest.raises(error, match=words):
        assemble(**arguments)
