"""Latency-coded pictures against the formula, pixel by pixel, and idx files that are not right."""

import gzip
import math
import struct
import warnings

import numpy as np
import pytest

from nsim.datasets import MNIST, FashionMNIST, first_spike, latency_events, latency_spikes
from nsim.datasets.archives import read_idx
from nsim.errors import DataError, EventWarning, ParameterError, ShapeError
from nsim.events import Spikes


def test_first_spike_is_when_a_charged_membrane_reaches_threshold():
    """tau dv/dt = x - v from v = 0, in small steps."""
    tau, threshold, dt = 20e-3, 0.2, 1e-6
    for x in (0.25, 0.5, 1.0):
        v, t = 0.0, 0.0
        while v < threshold:
            v += dt / tau * (x - v)
            t += dt
        assert abs(first_spike(x, tau, threshold) - t) < 5e-6
    assert np.isinf(first_spike(np.array([0.0, 0.2, 51 / 255]))).all()
    for wrong in ({"x": "1"}, {"x": [[1], [1, 2]]}, {"tau": "20 ms"}, {"tau": 0}, {"threshold": None}):
        with pytest.raises(ParameterError, match=rf"first_spike: {next(iter(wrong))} = .*: expected"):
            first_spike(**{"x": 0.5} | wrong)


def test_events_are_the_formula(idx_files):
    _, images, _ = idx_files
    events = latency_events(images, tau=10e-3, threshold=0.3)
    assert events.space == (28, 28, 1) and events.starts[-1] == len(events.times)
    for k, image in enumerate(images):
        expected = []
        for unit, value in enumerate(image.ravel()):
            x = value / 255
            if x > 0.3:
                expected.append((round(1e6 * 10e-3 * math.log(x / (x - 0.3))), unit))
        part = slice(events.starts[k], events.starts[k + 1])
        assert list(zip(events.times[part].tolist(), events.units[part].tolist(), strict=True)) == sorted(expected)


def test_pictures_straight_to_spikes():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    events = latency_events(images, tau=10e-3, threshold=0.3)
    wanted = Spikes.from_events(
        events.samples, events.times * 1e-6, events.units, batch=3, n=20, steps=40, dt=1e-3, space=(4, 5, 1)
    )
    found = latency_spikes(images, dt=1e-3, steps=40, tau=10e-3, threshold=0.3)
    assert found.space == (4, 5, 1) and np.array_equal(found.to_dense(), wanted.to_dense()) and found.n_events > 20
    for wrong in (images[0], images.astype(float), images[:0]):
        with pytest.raises(ShapeError, match=r"expected uint8 \[S, H, W\]"):
            latency_spikes(wrong, dt=1e-3, steps=40)
        with pytest.raises(ShapeError, match=r"latency_events: .* expected uint8 \[S, H, W\]"):
            latency_events(wrong)


@pytest.mark.parametrize(
    "options",
    [
        {"tau": "20ms"},
        {"tau": -1},
        {"tau": 0.0},
        {"tau": math.nan},
        {"tau": 1000.0},
        {"threshold": 2},
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"threshold": math.nan},
        {"threshold": None},
    ],
)
def test_impossible_codes(idx_files, options):
    folder, images, _ = idx_files
    ((name, value),) = options.items()
    for where, call in {
        "latency_spikes": lambda: latency_spikes(images, dt=1e-3, steps=40, **options),
        "latency_events": lambda: latency_events(images, **options),
        "MNIST": lambda: MNIST("train", folder, **options),
    }.items():
        with pytest.raises(ParameterError, match=rf"^{where}: .*{name} = {value!r}"):
            call()


@pytest.mark.parametrize("steps", [0, 10.5, "10", None])
def test_impossible_steps(steps):
    with pytest.raises(ParameterError, match=f"latency_spikes: steps = {steps!r}: expected a whole number"):
        latency_spikes(np.full((1, 2, 2), 255, np.uint8), dt=1e-3, steps=steps)


def test_late_pixels_are_told():
    images = np.array([[[0, 255, 52, 60]]], np.uint8)
    times = latency_events(images).times
    last = int(times.max()) // 1000
    with pytest.warns(EventWarning, match=f"1 of 3 events lie at or after {last} steps .* steps >= {last + 1} to"):
        assert latency_spikes(images, dt=1e-3, steps=last).n_events == 2
    with pytest.warns(EventWarning, match="3 of 3 events .* or a shorter tau"):
        assert latency_spikes(images, dt=1e-3, steps=100, tau=20.0).n_events == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert latency_spikes(images, dt=1e-3, steps=last + 1).n_events == 3


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_data_set(idx_files, kind):
    folder, images, labels = idx_files
    data = kind("train", folder)
    assert data.name == f"{kind.title} subset (8 of 60,000 train images)" and data.space == (28, 28, 1)
    np.testing.assert_array_equal(data.labels, labels)
    np.testing.assert_array_equal(data.subset([3, 1]).images, images[[3, 1]])
    spikes, _ = next(iter(data.batches(8, dt=1e-3, steps=100)))
    np.testing.assert_array_equal(spikes.to_dense().sum(axis=1) > 0, images.reshape(8, -1) > 51)
    assert spikes.to_dense().sum(axis=1).max() == 1
    slow = kind("train", folder, tau=40e-3)
    np.testing.assert_allclose(slow[0][0], 2 * data[0][0], atol=2e-6)


def test_unpacked_idx_files_do_as_well(idx_files, tmp_path):
    folder, images, _ = idx_files
    for path in folder.glob("*.gz"):
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    with pytest.warns(EventWarning, match="ubyte: it has no checksum and .* nothing shows whether") as said:
        np.testing.assert_array_equal(MNIST("train", tmp_path).images, images)
    assert len(said) == 2  # pictures and labels
    assert {one.filename for one in said} == {__file__}


def idx(shape, data, kind=8):
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape) + data


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "truncated"),
        (b"\x00\x00", "truncated"),
        (b"junk" * 40, "not an idx file"),
        (idx((2, 2), b"1234", kind=13), "not an idx file"),
        (idx((2, 2), b"123"), "holds 3 bytes, its header says 4"),
        (idx((2, 2), b"12345"), "holds more bytes"),
        (idx((2**31, 2**31, 2**31), b"1"), "more than the file can hold"),
    ],
)
def test_foreign_idx(tmp_path, content, words):
    for name, data in (("a", content), ("a.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=words):
            read_idx(tmp_path / name)


def test_pictures_and_labels_must_agree(idx_files):
    folder = idx_files[0]
    labels = folder / "train-labels-idx1-ubyte.gz"
    for content, words in (
        (idx((7,), bytes(7)), "expected"),
        (idx((8,), bytes([0, 0, 11, 0, 0, 0, 0, 0])), "sample 2 has label 11"),
    ):
        labels.write_bytes(gzip.compress(content))
        with pytest.raises(DataError, match=words):
            MNIST("train", folder)


def test_impossible_split():
    with pytest.raises(ParameterError, match="MNIST: split = 'valid'"):
        MNIST("valid")
