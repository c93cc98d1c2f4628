"""Batches that are made on the device hold the bits of those made on the CPU."""

import warnings

import numpy as np
import pytest

import nsim
from nsim.datasets import latency_spikes
from nsim.datasets.recordings import EventData, Events
from nsim.datasets.transforms import DropEvents
from nsim_cuda import memory
from tests import cases


def recording(samples=5, n=7, events=30, end=9000, seed=0, dtype=np.int32):
    """Events in order of time, doubles among them, a sample without any, and times at the halves of steps."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, events, samples)
    sizes[1 % samples] = 0
    times = [np.sort(rng.integers(0, end // 500, size) * 500) for size in sizes]
    starts = np.concatenate(([0], np.cumsum(sizes)))
    units = rng.integers(0, n, starts[-1]).astype(np.uint16)
    given = Events(np.concatenate(times).astype(dtype), units, starts, (n,))
    return EventData(given, np.arange(samples) % 2, name="a recording", classes="ab")


def batches(data, device, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nsim.EventWarning)
        given = data.batches(2, dt=1e-3, device=device, **options)
        found = list(given)
    return [(spikes.to("cpu"), labels) for spikes, labels in found], (given.events, given.late, given.doubles)


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("binning", ["floor", "round"])
@pytest.mark.parametrize("steps", [1, 6, None])
def test_every_setting(clamp, binning, steps):
    data = recording()
    options = {"clamp": clamp, "binning": binning, "steps": steps, "shuffle": True, "seed": 3}
    (wanted, counts), (found, counts_there) = (batches(data, device, **options) for device in ("cpu", "cuda"))
    assert counts == counts_there and counts[2] > 0
    for (a, labels), (b, labels_there) in zip(wanted, found, strict=True):
        assert cases.same_events(a, b) and np.array_equal(labels, labels_there)
        assert (a.dt, a.space) == (b.dt, b.space)


def test_transforms_and_parts_of_a_data_set():
    data = recording(seed=4, dtype=np.int64).subset([4, 2, 1, 0])
    for transform in (None, DropEvents(0.3)):
        (wanted, counts), (found, counts_there) = (
            batches(data, device, steps=8, transform=transform) for device in ("cpu", "cuda")
        )
        assert counts == counts_there
        assert all(cases.same_events(a, b) for (a, _), (b, _) in zip(wanted, found, strict=True))
    assert len(data.resident) == 1


def test_events_are_copied_once_and_shared_with_parts():
    data = recording()
    batches(data, "cuda", steps=4)
    kept = data.resident["events"][1]
    batches(data.subset([0, 1]), "cuda", steps=4)
    assert data.resident["events"][1] is kept


@pytest.mark.parametrize("steps", [1, 30, 60])
def test_latency_coding_of_pictures(steps):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    images[1] = 0
    images[2] = 255
    wanted, found = (latency_spikes(images, dt=1e-3, steps=steps, device=device) for device in ("cpu", "cuda"))
    assert cases.same_events(found.to("cpu"), wanted) and found.space == wanted.space == (4, 5, 1)
    assert (wanted.n_events > 0) == (steps > 1)
    there = latency_spikes(memory.put(images), dt=1e-3, steps=steps, device="cuda")
    assert cases.same_events(there.to("cpu"), wanted)


def test_a_unit_out_of_range_is_refused():
    data = recording()
    data.events.units[3] = 7
    with pytest.raises(nsim.EventError, match="unit 7; expected 0 to 6"):
        batches(data, "cuda", steps=4)
