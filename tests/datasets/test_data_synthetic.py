"""The built-in generator: deterministic, in the format of SHD, and of no use to a classifier that ignores time."""

import re

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from nsim.datasets import Synthetic, read_recordings, write_shd
from nsim.datasets.synthetic import channel, tracks, words
from nsim.errors import ParameterError


@pytest.fixture(scope="module")
def both():
    return Synthetic("train", cache=False), Synthetic("test", cache=False)


def counts(data, windows):
    """Square roots of counts in 70 bands and some windows of 0.8 s in all, [S, windows * 70]."""
    sample = np.repeat(np.arange(len(data)), data.sizes)
    events = data.events
    window = np.minimum(events.times.astype(np.int64) * windows // 800_000, windows - 1)
    place = (sample * windows + window) * 70 + events.units // 10
    return np.sqrt(np.bincount(place, minlength=len(data) * windows * 70).reshape(len(data), -1))


def linear_score(train, test, windows, decay):
    """Accuracy on unseen speakers of multinomial logistic regression with weight decay."""
    x, y = counts(train, windows), counts(test, windows)
    mean, spread = x.mean(axis=0), x.std(axis=0) + 0.3
    x, y = (x - mean) / spread, (y - mean) / spread
    target = np.eye(20)[train.labels]

    def loss(w):
        w = w.reshape(-1, 20)
        z = x @ w
        grad = x.T @ (softmax(z, axis=1) - target) / len(x) + decay * w
        return -(log_softmax(z, axis=1) * target).sum() / len(x) + decay / 2 * (w**2).sum(), grad.ravel()

    w = minimize(loss, np.zeros(x.shape[1] * 20), jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
    return ((y @ w.reshape(-1, 20)).argmax(axis=1) == test.labels).mean()


def test_counts_say_little_and_time_says_all(both):
    """A spiking network (2 x 200 LIF, sum readout) scores 97 % here after 12 epochs."""
    total = max(linear_score(*both, 1, decay) for decay in (1e-3, 1e-2, 1e-1))
    assert total <= 0.5
    assert linear_score(*both, 8, 1e-2) >= 0.95


def test_format(both):
    train, test = both
    assert len(train) == 2000 and len(test) == 500 and train.n == 700 and train.classes[10] == "null"
    assert np.bincount(train.labels).tolist() == [100] * 20
    assert set(train.speakers) == set(range(10)) and set(test.speakers) == {10, 11, 12, 13}
    assert 3000 < train.sizes.mean() < 8000 and train.sizes.min() > 500
    times = np.asarray(train.events.times)
    within = np.diff(times)[~np.isin(np.arange(1, len(times)), train.events.starts)]
    assert within.min() >= 0 and times.min() >= 0 and times.max() < 1_400_000
    held = train.split_by_speaker(0.2)[1]
    assert len(held) == 400 and "Synthetic" in held.name


def test_seed_fixes_the_events():
    one, two, other = (
        Synthetic("train", samples=300, seed=seed, cache=cache) for seed, cache in ((1, 0), (1, 1), (2, 0))
    )
    for a, b in zip(one.events[:3], two.events[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.events.starts, other.events.starts)
    assert isinstance(Synthetic("train", samples=300, seed=1).events.times, np.memmap)


def test_every_word_uses_the_same_vowel_heights_and_places():
    vowels, shares = words()
    for axis in (0, 1):
        np.testing.assert_array_equal(np.sort(vowels[..., axis]), np.tile(np.arange(3), (20, 1)))
    assert len({v.tobytes() for v in vowels}) == 20
    np.testing.assert_array_equal(vowels[10:], vowels[:10, ::-1])
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    np.testing.assert_allclose(tracks()[:10], tracks()[10:, :, ::-1], rtol=1e-6)


def test_channels():
    np.testing.assert_allclose(channel(np.array([80.0, 8000.0])), [0, 699], atol=1e-9)
    assert np.all(np.diff(channel(np.linspace(80, 8000, 50))) > 0)


def test_round_trip_through_the_format(tmp_path):
    data = Synthetic("test", samples=20, cache=False)
    columns = list(zip(*(data[i] for i in range(20)), strict=True))
    write_shd(tmp_path / "a.h5", *columns, speakers=data.speakers, dtype=np.float64)
    arrays, _ = read_recordings(tmp_path / "a.h5", n=700, classes=20)
    for name in ("times", "units", "starts"):
        np.testing.assert_array_equal(arrays[name], getattr(data.events, name))
    np.testing.assert_array_equal(arrays["labels"], data.labels)


@pytest.mark.parametrize(
    "options",
    [{"split": "valid"}, {"split": ["train"]}, {"samples": 0}, {"samples": 1.5}, {"samples": "a"}, {"seed": -1}],
)
def test_impossible_options(options):
    ((name, value),) = options.items()
    with pytest.raises(ParameterError, match=re.escape(f"Synthetic: {name} = {value!r}: expected ")):
        Synthetic(**options)
