"""Spikes: making, binning, cutting, joining, and everything that is refused."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nsim import LI, EventError, EventWarning, ParameterError, ShapeError, Spikes, nn
from nsim.events import index_dtype, join
from nsim.times import microseconds, step_width
from tests import cases

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 40))
COUNTS = SIZES.flatmap(lambda shape: arrays.arrays(np.int64, shape, elements=st.integers(0, 3), fill=st.just(0)))
GRADED = SIZES.flatmap(
    lambda shape: arrays.arrays(
        np.float32, shape, elements=st.floats(-2, 2, width=32, allow_subnormal=False), fill=st.just(0)
    )
)
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def listed(dense):
    """Samples, steps and units of counts [B, T, N], an entry for each event."""
    place = np.argwhere(dense)
    return np.repeat(place, dense[tuple(place.T)], axis=0).T


def check_form(spikes):
    """The invariants of compressed rows."""
    batch, steps, n = spikes.shape
    assert spikes.indptr.dtype == np.int64 and spikes.indptr.shape == (batch * steps + 1,)
    assert spikes.indptr[0] == 0 and spikes.indptr[-1] == spikes.n_events == len(spikes.indices)
    assert (np.diff(spikes.indptr) >= 0).all()
    assert spikes.indices.dtype == index_dtype(n) and (spikes.indices < n).all()
    place = spikes.rows() * n + spikes.indices
    assert (np.diff(place) >= 0).all(), "indices ascend within a row"


@quick
@given(COUNTS)
def test_counts_come_back(dense):
    spikes = Spikes.from_dense(dense, cases.DT)
    check_form(spikes)
    np.testing.assert_array_equal(spikes.to_dense(), dense)
    np.testing.assert_array_equal(spikes.counts().data, dense.sum(1))
    assert spikes.values is None and spikes.density == dense.sum() / dense.size


@quick
@given(GRADED)
def test_graded_events_come_back(dense):
    spikes = Spikes.from_dense(dense, cases.DT)
    check_form(spikes)
    np.testing.assert_array_equal(spikes.to_dense(), dense)
    np.testing.assert_allclose(spikes.counts().data, dense.sum(1), rtol=1e-5, atol=1e-5)


@quick
@given(COUNTS, st.randoms(use_true_random=False), st.sampled_from([1e-3, 2e-3, 1e-6, 0.5]))
def test_events_in_any_order_give_the_same_bits(dense, random, dt):
    batch, steps, n = dense.shape
    samples, bins, units = listed(dense)
    order = np.arange(len(samples))
    random.shuffle(order)
    times = (bins + 0.5) * dt if dt > 1e-6 else bins * dt
    made = Spikes.from_events(samples[order], times[order], units[order], batch=batch, n=n, steps=steps, dt=dt)
    check_form(made)
    assert cases.same_events(made, Spikes.from_dense(dense, dt))


@quick
@given(COUNTS, st.data())
def test_cut_and_join_undo_each_other(dense, data):
    steps = dense.shape[1]
    whole = Spikes.from_dense(dense, cases.DT)
    assert cases.same_events(whole.cut(0, steps), whole)
    if steps > 1:
        at = data.draw(st.integers(1, steps - 1))
        first, second = whole.cut(0, at), whole.cut(at, steps)
        np.testing.assert_array_equal(first.to_dense(), dense[:, :at])
        np.testing.assert_array_equal(second.to_dense(), dense[:, at:])
        assert cases.same_events(join(first, second), whole)


@quick
@given(GRADED)
def test_cut_and_join_carry_sizes_of_events(dense):
    whole = Spikes.from_dense(dense, cases.DT)
    plain = Spikes.from_dense(np.ones(dense.shape, int), cases.DT)
    both = join(whole, plain)
    np.testing.assert_array_equal(both.to_dense(), np.concatenate([dense, np.ones(dense.shape)], axis=1))
    assert cases.same_events(both.cut(0, dense.shape[1]), whole) or whole.values is None


def test_samples_are_read_in_order_of_time():
    dense = cases.counts()
    spikes = Spikes.from_dense(dense, cases.DT)
    for b in range(3):
        steps, units = spikes.sample(b)
        _, wanted_steps, wanted_units = listed(dense[b : b + 1])
        np.testing.assert_array_equal(steps, wanted_steps)
        np.testing.assert_array_equal(units, wanted_units)


@pytest.mark.parametrize("n, dtype", [(1, np.uint16), (65_535, np.uint16), (65_536, np.uint32), (100_000, np.uint32)])
def test_indices_take_the_smallest_type(n, dtype):
    made = Spikes.from_events([0, 0], [0.0, 0.0], [n - 1, 0], batch=1, n=n, steps=1, dt=cases.DT)
    assert made.indices.dtype == dtype and made.indices.tolist() == ([0, n - 1] if n > 1 else [0, 0])


def test_images_are_channels_last():
    images = np.zeros((2, 3, 4, 5, 2), int)
    images[1, 2, 3, 4, 1] = 2
    spikes = Spikes.from_dense(images, cases.DT)
    assert spikes.shape == (2, 3, 40) and spikes.space == (4, 5, 2)
    assert spikes.indices.tolist() == [39, 39] and spikes.cut(1, 3).space == (4, 5, 2)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_counts_of_every_number_type(kind):
    dense = cases.counts().clip(0, 1).astype(kind)
    assert cases.same_events(Spikes.from_dense(dense, cases.DT), Spikes.from_dense(dense.astype(int), cases.DT))


def test_memory_is_that_of_the_arrays():
    spikes = cases.spikes(lengths=[12, 3, 1])
    assert spikes.nbytes == 8 * (3 * 12 + 1) + 2 * spikes.n_events + 3 * 8
    assert spikes.detach().nbytes == spikes.nbytes


# Binning


def bin_of(time, width):
    """Step of a time in seconds, width in whole microseconds, in Python's own integers."""
    return round(float(time) * 1e6) // width


@pytest.mark.parametrize("dt", [1e-3, 2e-3, 0.5e-3, 1.4e-3, 1e-6])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_steps_are_whole_microseconds_divided(kind, dt):
    width = round(1e6 * dt)
    times = np.random.default_rng(0).uniform(0, 1.4 if dt > 1e-6 else 1e-3, 500).astype(kind)
    steps = 1500 if dt > 1e-6 else 1001
    steps = max(steps, max(bin_of(t, width) for t in times) + 1)
    made = Spikes.from_events(np.zeros(500, int), times, np.arange(500), batch=1, n=500, steps=steps, dt=dt)
    found = np.empty(500, int)
    found[made.indices] = made.rows()
    assert found.tolist() == [bin_of(t, width) for t in times]


def test_steps_near_whole_microseconds_bin_events_and_any_may_be_simulated():
    assert step_width(1 / 7000) == 143 and step_width(1e-3) == 1000
    assert Spikes.from_dense(np.zeros((1, 2, 3)), dt=1 / 30_000).dt == 1 / 30_000


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("dt", [1e-3, 2e-3, 3e-3])
def test_whole_milliseconds_fall_into_their_own_step(kind, dt):
    """Floor in float32 seconds puts many of these a step too early."""
    ms = np.arange(2000)
    times = (ms * 1e-3).astype(kind)
    made = Spikes.from_events(np.zeros(2000, int), times, np.zeros(2000, int), batch=1, n=1, steps=2000, dt=dt)
    assert made.rows().tolist() == (ms // round(1e3 * dt)).tolist()


def test_float16_seconds_are_widened_before_scaling():
    assert microseconds(np.array([1.0, 0.5, 1.4], np.float16)).tolist() == [1_000_000, 500_000, 1_400_391]


@quick
@given(st.lists(st.floats(0, 5), min_size=1, max_size=30), st.sampled_from([1, 7, 1000, 2000]))
def test_both_binnings_agree_with_plain_arithmetic(times, width):
    dt, n = width * 1e-6, len(times)
    units, samples = np.arange(n), np.zeros(n, int)
    for binning, rule in [("floor", lambda us: us // width), ("round", lambda us: round(us / width))]:
        wanted = [rule(round(t * 1e6)) for t in times]
        options = {"batch": 1, "n": n, "steps": 100, "dt": dt, "binning": binning}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EventWarning)
            made = Spikes.from_events(samples, np.array(times), units, **options)
        found = dict(zip(made.indices.tolist(), made.rows().tolist(), strict=True))
        assert found == {k: step for k, step in enumerate(wanted) if step < 100}


def test_events_past_the_end_are_counted_and_told():
    times = np.array([0.0, 3.9e-3, 4e-3, 7.5e-3])
    with pytest.warns(EventWarning, match=r"2 of 4 events lie at or after 4 steps of 0.001 s .* steps >= 8"):
        made = Spikes.from_events([0, 0, 0, 1], times, [0, 1, 2, 0], batch=2, n=3, steps=4, dt=1e-3)
    assert made.rows().tolist() == [0, 3] and made.indices.tolist() == [0, 1]


def test_no_event_at_all():
    none = np.array([], int)
    made = Spikes.from_events(none, none.astype(float), none, batch=2, n=3, steps=4, dt=1e-3)
    assert made.n_events == 0 and made.density == 0
    assert cases.same_events(made, Spikes.from_dense(np.zeros((2, 4, 3)), 1e-3))
    assert not made.to_dense().any() and not made.counts().data.any()


# Errors

GOOD = {"samples": [0, 1], "times": [0.0, 1e-3], "units": [2, 0], "batch": 2, "n": 3, "steps": 4, "dt": 1e-3}


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"units": [3, 0]}, EventError, "event 0 has unit 3; expected 0 to 2"),
        ({"units": [0, -1]}, EventError, "event 1 has unit -1; expected 0 to 2"),
        ({"units": [0.0, 1.0]}, EventError, "units have dtype float64"),
        ({"samples": [0, 2]}, EventError, "event 1 has sample 2; expected 0 to 1"),
        ({"samples": [-1, 0]}, EventError, "event 0 has sample -1"),
        ({"times": [0.0, -1e-3]}, EventError, "event 1 has time -0.001: times must be finite and not negative"),
        ({"times": [np.nan, 0.0]}, EventError, "event 0 has time nan"),
        ({"times": [0.0, np.inf]}, EventError, "event 1 has time inf"),
        ({"times": [0, 1000]}, EventError, "give seconds as floats"),
        ({"times": [0.0]}, ShapeError, r"times \(1,\).*expected three \[E\]"),
        ({"samples": [[0, 1]], "times": [[0.0, 0.0]], "units": [[0, 1]]}, ShapeError, r"expected three \[E\]"),
        ({"dt": 0.0}, ParameterError, "dt = 0.0: a step must be positive"),
        ({"dt": -1e-3}, ParameterError, "dt = -0.001"),
        ({"dt": np.nan}, ParameterError, "dt = nan"),
        ({"dt": 1e-7}, ParameterError, "shorter than a microsecond"),
        (
            {"dt": 2.5e-6},
            ParameterError,
            "dt = 2.5e-06 s is no whole number of microseconds, .*; give 2e-6 or 3e-6 to bin",
        ),
        ({"dt": 0.9e-6}, ParameterError, "dt = 9e-07 s is no whole number of microseconds, .*; give 1e-6 to bin"),
        ({"binning": "ceil"}, ParameterError, 'binning = \'ceil\': expected "floor" or "round"'),
        ({"samples": [], "times": [], "units": [], "batch": 0}, ShapeError, "at least one of each"),
        ({"samples": [], "times": [], "units": [], "n": 0}, ShapeError, "at least one of each"),
        ({"samples": [], "times": [], "units": [], "steps": 0}, ShapeError, "at least one of each"),
        ({"times": [0.0, 1e20]}, EventError, r"event 1 has time 1e\+20: times must be below 4.5e\+09 s"),
        ({"steps": 2.5}, ShapeError, r"shape \(2, 2.5, 3\): expected \[B, T, N\], whole numbers"),
        ({"batch": 2.5}, ShapeError, "whole numbers"),
        ({"n": "3"}, ShapeError, "whole numbers"),
        ({"dt": "1ms"}, ParameterError, "dt = '1ms': a step must be positive"),
        ({"dt": None}, ParameterError, "dt = None"),
        ({"lengths": [2.7, 4]}, ShapeError, r"lengths \[2.7, 4.0\]: expected whole numbers of steps"),
        ({"lengths": ["a", "b"]}, ShapeError, "expected whole numbers of steps"),
        ({"lengths": [4]}, ShapeError, r"lengths of shape \(1,\)"),
        ({"lengths": [0, 4]}, ShapeError, "lengths from 0 to 4: expected 1 to 4 steps"),
        ({"lengths": [1, 5]}, ShapeError, "lengths from 1 to 5: expected 1 to 4 steps"),
        ({"space": (2, 2)}, ShapeError, r"space \(2, 2\) has 4 neurons, the events have 3"),
    ],
    ids=str,
)
def test_from_events_refuses(change, error, text):
    Spikes.from_events(**GOOD)
    with pytest.raises(error, match=text):
        Spikes.from_events(**GOOD | change)


@pytest.mark.parametrize(
    "dense, error, text",
    [
        (np.zeros((4, 3)), ShapeError, r"shape \(4, 3\); expected counts \[B, T, N\]"),
        (np.zeros((1, 4, 3, 2)), ShapeError, r"shape \(1, 4, 3, 2\)"),
        (np.zeros((0, 4, 3)), ShapeError, "not empty"),
        (np.zeros((2, 0, 3)), ShapeError, "not empty"),
        (3, ShapeError, r"shape \(\)"),
        ([[[None, 1]]], EventError, r"from_dense: \[\[\[None, 1\]\]\]: expected an array of real numbers"),
        ([[["2", "1"]]], EventError, "expected an array of real numbers"),
        ([[[1, 2j]]], EventError, "expected an array of real numbers"),
        ([[[1, 2], [1]]], EventError, "expected an array of real numbers"),
        ([[[0, 1], [np.nan, 0]]], EventError, "nan at sample 0, step 1, neuron 0; counts must be finite"),
        ([[[0, np.inf]]], EventError, "inf at sample 0, step 0, neuron 1"),
        ([[[-np.inf, 0]]], EventError, "-inf at sample 0, step 0, neuron 0"),
        ([[[0.5, 0]], [[0, -1e39]]], EventError, r"-1e\+39 at sample 1, step 0, neuron 1; .* up to 3.4e38: scale"),
        ([[[0, 0], [0, 1e300]]], EventError, r"1e\+300 at sample 0, step 1, neuron 1; .* below 2,147,483,648: scale"),
    ],
)
def test_from_dense_refuses(dense, error, text):
    with pytest.raises(error, match=text):
        Spikes.from_dense(dense, cases.DT)
    with pytest.raises(ParameterError, match="dt = 0"):
        Spikes.from_dense(np.zeros((1, 1, 1)), 0)


def test_cut_sample_and_join_refuse():
    spikes = cases.spikes()
    for start, stop in [(-1, 3), (3, 3), (5, 2), (0, 13)]:
        with pytest.raises(ShapeError, match=rf"cut\({start}, {stop}\): expected 0 <= start < stop <= 12 steps"):
            spikes.cut(start, stop)
    for b in (-1, 3):
        with pytest.raises(EventError, match=f"sample {b}: this batch has samples 0 to 2"):
            spikes.sample(b)
    for other in (cases.spikes(batch=2), cases.spikes(n=8), cases.spikes(dt=2e-3)):
        with pytest.raises(ShapeError, match="differ in more than their steps"):
            join(spikes, other)


def test_rows_that_do_not_fit_their_shape_are_refused():
    with pytest.raises(ShapeError, match=r"indptr has 3 entries, not B\*T \+ 1"):
        Spikes(np.zeros(3, np.int64), np.empty(0, np.uint16), (1, 3, 2), dt=cases.DT)
    with pytest.raises(ShapeError, match=r"expected \[B, T, N\]"):
        Spikes(np.zeros(3, np.int64), np.empty(0, np.uint16), (2, 3), dt=cases.DT)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    "name, value, error, text",
    [
        ("values", np.ones(3), ShapeError, r"values of shape \(3,\): expected one size for each of 2 events"),
        ("values", np.ones((2, 1), np.float32), ShapeError, r"values of shape \(2, 1\)"),
        ("values", 1.0, ShapeError, r"values of shape \(\)"),
        ("values", ["a", "b"], EventError, r"values = \['a', 'b'\]: expected a size for each event"),
        ("values", [1j, 1], EventError, "values = "),
        ("lengths", [1, 2, 3], ShapeError, r"lengths of shape \(3,\): .* each of 2 samples"),
        ("lengths", [1, 9], ShapeError, r"lengths from 1 to 9: expected 0 to 4 steps"),
        ("lengths", [-1, 2], ShapeError, "lengths from -1"),
        ("lengths", [1.5, 2], ShapeError, r"lengths \[1.5, 2.0\]: expected whole numbers"),
        ("lengths", 3, ShapeError, r"lengths of shape \(\)"),
        ("lengths", "long", ShapeError, "lengths long: expected whole numbers"),
    ],
)
def test_sizes_and_lengths_that_do_not_fit_are_refused(name, value, error, text, later):
    spikes = Spikes.from_dense(np.eye(2, 12).reshape(2, 4, 3), cases.DT)
    with pytest.raises(error, match=text):
        if later:
            setattr(spikes, name, value)
        else:
            Spikes(spikes.indptr, spikes.indices, spikes.shape, dt=cases.DT, **{name: value})
    assert spikes.values is None and spikes.lengths is None
    spikes.values, spikes.lengths = [2, 0.5], [4, 0.0]
    assert spikes.values.dtype == np.float32 and spikes.values.tolist() == [2, 0.5]
    assert spikes.lengths.dtype == np.int64 and spikes.lengths.tolist() == [4, 0]


def test_arrays_with_gaps_between_their_numbers():
    """Every second entry of an array: kernels read entries side by side."""
    plain = cases.spikes(2, 5, 40, density=0.1)
    sizes = np.random.default_rng(0).uniform(size=plain.n_events).astype(np.float32)

    def spaced(a):
        return np.stack([a, np.zeros_like(a)], axis=1)[:, 0]

    layer = nn.Dense(40, 3, LI(), seed=0)
    wanted = layer(Spikes(plain.indptr, plain.indices, plain.shape, dt=cases.DT, values=sizes)).data
    indptr, indices, values = (spaced(a) for a in (plain.indptr, plain.indices, sizes))
    assert not any(a.flags.c_contiguous for a in (indptr, indices, values))
    found = layer(Spikes(indptr, indices, plain.shape, dt=cases.DT, values=values)).data
    assert cases.same_bits(found, wanted)


@pytest.mark.parametrize("space", [(5.5, 6, 1), (-5, -6, 1), 30, "30", (0, 30), (None, 30)])
def test_spaces_of_no_whole_numbers_are_refused(space):
    text = rf"space = {re.escape(repr(space))}: expected \(N,\) or \(H, W, C\)"
    with pytest.raises(ShapeError, match=text):
        Spikes.from_dense(np.ones((1, 2, 30)), cases.DT, space=space)
    with pytest.raises(ShapeError, match=text):
        Spikes.from_events([0], [0.0], [0], batch=1, n=30, steps=2, dt=cases.DT, space=space)
