"""Choosing samples, and batches of Spikes against a plain count of the file's events."""

import itertools
import warnings
from functools import partial

import numpy as np
import pytest

from nsim.datasets import SHD, EventData, Events, ImageData, Normalize
from nsim.datasets.transforms import DropEvents, PoolUnits
from nsim.errors import DataError, EventError, EventWarning, ParameterError, ShapeError
from tests import cases


def made(samples=60, n=12, seed=0, speakers=True):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, samples)
    starts = np.concatenate(([0], np.cumsum(counts)))
    times = np.concatenate([np.sort(rng.integers(0, 50_000, c)) for c in counts]).astype(np.int32)
    events = Events(times, rng.integers(0, n, starts[-1]).astype(np.uint16), starts, (n,))
    labels = np.arange(samples) % 5
    people = rng.integers(0, 6, samples) if speakers else None
    return EventData(events, labels, name="made", classes="abcde", speakers=people)


def dense(data, indices, dt, steps):
    out = np.zeros((len(indices), steps, data.n))
    for b, i in enumerate(indices):
        times, units, _ = data[i]
        for t, u in zip(np.rint(times * 1e6).astype(int) // round(dt * 1e6), units, strict=True):
            if t < steps:
                out[b, t, u] += 1
    return out


@pytest.mark.filterwarnings("ignore::nsim.errors.EventWarning")
@pytest.mark.parametrize("steps", [50, 20, None])
def test_batches_are_the_events(steps):
    data = made()
    batches = data.batches(16, dt=1e-3, steps=steps)
    seen = 0
    for spikes, labels in batches:
        chosen = np.arange(seen, seen + len(labels))
        np.testing.assert_array_equal(spikes.to_dense(), dense(data, chosen, 1e-3, spikes.shape[1]))
        np.testing.assert_array_equal(labels, data.labels[chosen])
        assert labels.dtype == np.int64 and spikes.dt == 1e-3 and spikes.space == (12,)
        seen += len(labels)
    assert seen == 60 and len(batches) == 4 and batches.events == data.n_events
    times = np.concatenate([data[i][0] for i in range(60)])
    late = 0 if steps is None else np.count_nonzero(np.rint(times * 1e6) >= steps * 1000)
    assert batches.late == late


@pytest.mark.filterwarnings("ignore::nsim.errors.EventWarning")
def test_seed_and_epoch_fix_the_bits():
    data = made()

    def run(**options):
        found = data.batches(7, dt=1e-3, steps=50, **({"shuffle": True, "transform": DropEvents(0.3)} | options))
        return [(s.indptr, s.indices, y) for s, y in found]

    def same(a, b):
        return all(np.array_equal(x, y) for u, v in zip(a, b, strict=True) for x, y in zip(u, v, strict=True))

    assert same(run(seed=3, epoch=2), run(seed=3, epoch=2))
    assert not same(run(seed=3, epoch=2), run(seed=3, epoch=1))
    assert not same(run(seed=3), run(seed=4))
    assert not same(run(seed=3, shuffle=False), run(seed=4, shuffle=False))
    labels = np.concatenate([y for *_, y in run(seed=3)])
    assert not np.array_equal(labels, data.labels) and np.array_equal(np.sort(labels), np.sort(data.labels))
    assert len(run(drop_last=True)) == 8 and len(run()) == 9


def test_late_and_double_events_are_told_once():
    data = made()
    batches = data.batches(16, dt=10e-3, steps=3)
    with pytest.warns(EventWarning, match="lie past the end and were left out"):
        list(batches)
    whole = dense(data, range(60), 10e-3, 3)
    assert batches.doubles == (whole - np.minimum(whole, 1)).sum() and batches.late > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = data.batches(16, dt=10e-3, steps=3, epoch=1)
        list(again)
        list(data.subset(np.arange(60)).batches(16, dt=10e-3, steps=3))
        next(iter(data.batches(16, dt=10e-3, steps=3)))
    assert again.late == batches.late
    clamped = data.batches(60, dt=10e-3, steps=3, clamp=True)
    with pytest.warns(EventWarning, match="only one of each is kept"):
        spikes, _ = next(iter(clamped))
    np.testing.assert_array_equal(spikes.to_dense(), np.minimum(whole, 1))


def test_a_part_of_the_samples_does_not_silence_the_whole():
    data = made()

    def told(part, batches=None, epoch=0):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            found = part.batches(10, dt=10e-3, steps=3, epoch=epoch)
            list(itertools.islice(found, batches))
        return [f"of {found.events:,} events {found.late:,} (" in str(w.message) for w in seen]

    assert told(data, 1) == [True] and told(data, 2) == []  # one batch, and two
    assert told(data.subset(np.arange(20))) == [True]
    assert told(data) == [True] and told(data, epoch=1) == told(data, 1) == []
    assert told(data.subset(np.arange(20)), epoch=1) == []


@pytest.mark.filterwarnings("ignore::nsim.errors.EventWarning")
def test_round_binning():
    events = Events(np.array([0, 499, 500, 1500, 2499], np.int32), np.zeros(5, np.uint16), np.array([0, 5]), (1,))
    data = EventData(events, [0], name="edges", classes="a")
    for binning, expected in (("floor", [3, 1, 1]), ("round", [3, 0, 2])):
        spikes, _ = next(iter(data.batches(1, dt=1e-3, binning=binning)))
        np.testing.assert_array_equal(spikes.to_dense()[0, :, 0], expected)


@pytest.mark.filterwarnings("ignore::nsim.errors.EventWarning")
def test_transformed_once_for_all_parts():
    """As a transform in `batches` gives, but kept: every part of the data has the new neurons."""
    data = made().subset(np.arange(40)[::-1])
    pooled = data.transformed(PoolUnits(5))
    assert pooled.space == (3,) and pooled.name == "made, PoolUnits(k=5, axis=0)" and pooled.classes == data.classes
    np.testing.assert_array_equal(pooled.speakers, data.speakers)
    for (one, labels), (other, same) in zip(
        pooled.batches(16, dt=1e-3, steps=40), data.batches(16, dt=1e-3, steps=40, transform=PoolUnits(5)), strict=True
    ):
        np.testing.assert_array_equal(one.to_dense(), other.to_dense())
        np.testing.assert_array_equal(labels, same)
    rest, held = pooled.split_by_speaker(0.3)
    assert rest.space == held.space == (3,) and len(rest) + len(held) == 40
    some = [data.transformed([DropEvents(0.5), PoolUnits(5)], seed=seed) for seed in (0, 0, 1)]
    assert some[0].n_events == some[1].n_events != some[2].n_events
    with pytest.raises(ParameterError, match="transformed: transform = 3: expected a function"):
        data.transformed(3)
    with pytest.raises(EventError, match="a unit lies outside 0 to 11"):
        data.transformed(lambda events, rng: events._replace(units=events.units + 12))


@pytest.mark.filterwarnings("ignore::nsim.errors.EventWarning")
def test_pooling_changes_n():
    spikes, _ = next(iter(made().batches(8, dt=1e-3, steps=50, transform=[PoolUnits(5), DropEvents(0.1)])))
    assert spikes.shape == (8, 50, 3) and spikes.space == (3,)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"batch": 0}, "batch = 0"),
        ({"dt": 0.0}, "dt = 0.0"),
        ({"dt": -1e-3}, "dt = -0.001"),
        ({"dt": 2.5e-6}, "dt = 2.5e-06 s is no whole number of microseconds"),
        ({"steps": 0}, "steps = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"binning": "ceil"}, "binning = 'ceil'"),
        ({"batch": "8"}, "batch = '8'"),
        ({"steps": "50"}, "steps = '50'"),
        ({"steps": np.inf}, "steps = inf"),
        ({"seed": None}, "seed = None"),
        ({"transform": "drop"}, "transform = 'drop'"),
        ({"transform": [DropEvents(0.1), 3]}, "transform = .*3"),
        ({"transform": [PoolUnits]}, r"transform is the class PoolUnits; make one: PoolUnits\(...\)"),
        ({"batch": 100, "drop_last": True}, "has only 60 samples"),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(ParameterError, match=words):
        made().batches(**({"batch": 8, "dt": 1e-3, "steps": 50} | options))
    with pytest.raises(ParameterError, match="no sample of made is left"):
        made().subset(np.zeros(0, int)).batches(8, dt=1e-3)


@pytest.mark.parametrize(
    "broken, words",
    [
        (lambda e: e._replace(times=e.times - 60_000), "expected int >= 0"),
        (lambda e: e._replace(times=e.times[1:]), "times, "),
        (lambda e: e._replace(units=e.units + np.uint16(9)), "outside 0 to 11"),
        (lambda e: e._replace(times=e.times * 1e-6), "expected int"),
    ],
)
def test_a_transform_that_breaks_events_is_named(broken, words):
    with pytest.raises(EventError, match=words):
        list(made().batches(8, dt=1e-3, steps=50, transform=lambda events, rng: broken(events)))


def test_split_keeps_the_classes():
    data = made(samples=100)
    rest, held = data.split(0.2, seed=1)
    assert len(rest) == 80 and np.bincount(held.labels).tolist() == [4] * 5
    assert np.array_equal(np.sort(np.concatenate([rest.index, held.index])), np.arange(100))
    assert np.array_equal(held.index, data.split(0.2, seed=1)[1].index)
    assert not np.array_equal(held.index, data.split(0.2, seed=2)[1].index)


@pytest.mark.parametrize("seed", ["a", -1, 1.5, None])
def test_seeds_that_are_none(seed):
    data = made(samples=20)
    for name, call in (
        ("split", partial(data.split, 0.2)),
        ("split_by_speaker", data.split_by_speaker),
        ("transformed", partial(data.transformed, DropEvents(0.1))),
    ):
        with pytest.raises(ParameterError, match=rf"{name}: seed = {seed!r}: expected a whole number"):
            call(seed=seed)


def test_split_by_speaker():
    data = made(samples=100)
    for held_out in (0.3, [2, 5]):
        rest, held = data.split_by_speaker(held_out, seed=4)
        assert not np.intersect1d(rest.speakers, held.speakers).size and len(rest) + len(held) == 100
    assert set(held.speakers) == {2, 5}
    assert held[3][2] == data[int(held.index[3])][2]
    inner, _ = rest.split_by_speaker([0])
    assert 0 not in inner.speakers and 2 not in inner.speakers
    for bad in (0.0, 1.0, [9], [0, 1, 2, 3, 4, 5]):
        with pytest.raises(ParameterError):
            data.split_by_speaker(bad)
    with pytest.raises(DataError, match="does not say who speaks"):
        made(speakers=False).split_by_speaker(0.1)


def test_subset_and_items():
    data = made()
    part = data.subset([5, 1])
    assert len(part) == 2 and part.n_events == data.sizes[[5, 1]].sum() and part[-1][2] == data[1][2]
    for bad in ([60], [-1], [0.5], [[1]]):
        with pytest.raises(ParameterError, match="subset"):
            data.subset(bad)
    with pytest.raises(IndexError):
        part[2]
    with pytest.raises(ShapeError, match="60 recordings, 3 labels"):
        EventData(data.events, [0, 1, 2], name="wrong", classes="abc")
    seconds = data.events._replace(times=data.events.times * 1e-6)
    with pytest.raises(EventError, match="times of float64; expected whole microseconds"):
        EventData(seconds, data.labels, name="wrong", classes="abcde")
    with pytest.raises(ShapeError, match="units, starts up to"):
        EventData(data.events._replace(units=data.events.units[:-1]), data.labels, name="wrong", classes="abcde")
    with pytest.raises(ParameterError, match="holds out 0 of 60 samples"):
        data.split(0.01)
    for fraction in ("0.2", None, np.nan):
        with pytest.raises(ParameterError, match=f"split: fraction = {fraction!r}: expected a number above 0 and"):
            data.split(fraction)
    for several in (slice(0, 2), [0, 1], 1.0, "0"):
        with pytest.raises(ParameterError, match=r"expected one whole number; subset\(\[0, 1\]\) chooses several"):
            data[several]


@pytest.mark.parametrize("kind", ["events", "pictures"])
@pytest.mark.parametrize(
    "labels, error, words",
    [
        ([0, 1, 2.7, 1, 1], ParameterError, "own: sample 2 has label 2.7; expected 0 to 2, whole numbers"),
        ([0, 1, 3, 1, -1], ParameterError, "own: sample 2 has label 3; expected 0 to 2"),
        ([0, 1, 2, 1, -1], ParameterError, "own: sample 4 has label -1"),
        ([0, 1, np.nan, 1, 1], ParameterError, "own: sample 2 has label nan"),
        ([0, 1, 1e300, 1, 1], ParameterError, r"own: sample 2 has label 1e\+300"),
        (np.eye(5), ShapeError, r"own: labels of shape \(5, 5\); .*one-hot rows, .argmax"),
        ([0, None, 1, 2, 0], ParameterError, "own: labels such as None"),
        (list("abcab"), ParameterError, "own: labels such as 'a'; expected whole numbers, 0 to 2"),
        ([[0], [1, 2], [0], [1], [1]], ParameterError, r"own: labels such as \[0\]"),
    ],
)
def test_labels_that_are_no_classes(kind, labels, error, words):
    options = {"name": "own", "classes": "abc"}
    with pytest.raises(error, match=words):
        if kind == "events":
            EventData(Events(np.arange(5), np.zeros(5, int), np.arange(6), (12,)), labels, **options)
        else:
            ImageData(np.zeros((5, 1, 2, 2), np.uint8), labels, normalize=Normalize((0,), (1,)), **options)


@pytest.mark.parametrize("labels", [[0.0, 2.0], np.array([0, 2], np.uint8), (0, np.int32(2))])
def test_labels_of_any_type_of_number(labels):
    data = EventData(Events(np.arange(2), np.zeros(2, int), np.arange(3), (1,)), labels, name="own", classes="abc")
    assert data.labels.tolist() == [0, 2] and data.labels.dtype == np.int64


def owned(times, units, starts, n=12):
    """A user's own data set."""
    events = Events(np.array(times), np.array(units), np.array(starts), (n,))
    return EventData(events, np.zeros(len(starts) - 1, int), name="own", classes="a")


def test_own_events_are_sorted_and_of_the_smallest_type():
    data = owned([30_000, 1000, 40, 2000, 500], [1, 2, 3, 4, 5], [0, 2, 2, 3, 5])
    spikes, _ = next(iter(data.batches(4, dt=1e-3)))
    assert spikes.shape == (4, 31, 12) and spikes.n_events == 5 and spikes.indices.dtype == np.uint16
    assert data.events.times.dtype == np.int32 and data.events.units.dtype == np.uint16
    assert data[0][0].tolist() == [1e-3, 30e-3] and data[0][1].tolist() == [2, 1] and data[3][1].tolist() == [5, 4]
    assert owned([0], [70_000], [0, 1], n=70_001).events.units.dtype == np.uint32
    assert owned([2**31], [0], [0, 1]).events.times[0] == 2**31


def test_sorted_events_stay_in_their_file(tmp_path):
    for name, column in (("times", np.array([5, 9, 0, 7], np.int32)), ("units", np.array([3, 2, 1, 0], np.uint16))):
        np.save(tmp_path / f"{name}.npy", column)
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("times", "units")]
    data = EventData(Events(*maps, np.array([0, 2, 4]), (4,)), [0, 0], name="own", classes="a")
    assert data.events.times is maps[0] and np.shares_memory(data.events.units, maps[1])


@pytest.mark.parametrize(
    "times, units, starts, error, words",
    [
        ([0, 7, -300], [0, 0, 0], [0, 1, 1, 3], EventError, "own: sample 2 has an event at -300 us"),
        ([0, 7, 9], [0, 0, -1], [0, 3, 3], EventError, r"own: sample 0 has an event of unit -1; .* units 0 to 11"),
        ([0, 7, 9], [0, 0, 12], [0, 2, 2, 3], EventError, r"own: sample 2 has an event of unit 12; .* units 0 to 11"),
        ([0, 7, 9], [0, 0, 0], [0, 3, 2, 3], ShapeError, r"own: starts \[0 3 2 3\]"),
        ([0, 7, 9], [0, 0, 0], [1, 3], ShapeError, r"own: starts \[1 3\]"),
    ],
)
def test_own_events_that_cannot_be(times, units, starts, error, words):
    with pytest.raises(error, match=words):
        owned(times, units, starts)


def test_shd_from_a_file(shd_file, small):
    data = SHD("train", shd_file.parent)
    assert data.name == "SHD (unverified copy: shd_train.h5)" and len(data) == 3 and data.n == 700
    assert data.n_classes == 20 and data.classes[0] == "zero" and data.classes[19] == "neun"
    np.testing.assert_array_equal(data.labels, small.labels)
    np.testing.assert_array_equal(data.speakers, small.speakers)
    spikes, _ = next(iter(data.batches(3, dt=2e-3)))
    np.testing.assert_array_equal(spikes.to_dense(), dense(data, range(3), 2e-3, spikes.shape[1]))


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ([True, False, True], "indices of type bool .* np.flatnonzero"), ([1.7], "of type float64"),
        ([-1], "indices -1 to -1; few has 3 samples"), ([3], "indices 3 to 3"), ([[1]], r"shape \(1, 1\)"),
    ],
)  # fmt: skip
def test_numbers_of_samples_are_checked(index, words):
    data = cases.recordings([0, 1, 1])
    for choose in (data.subset, lambda k: EventData(data.events, [0, 1, 1], name="few", classes="ab", index=k)):
        with pytest.raises(ParameterError, match=words):
            choose(index)
    assert len(data.subset([])) == 0


@pytest.mark.parametrize("name", ["shuffle", "clamp", "drop_last"])
def test_words_are_no_switches(name):
    with pytest.raises(ParameterError, match=f"batches: {name} = 'no': expected True or False"):
        cases.recordings([0, 1]).batches(2, dt=1e-3, steps=10, **{name: "no"})
