"""Speech-like event data from formant synthesis, in the format of SHD: no file and no Internet connection needed.

A word is three vowels between a hissed onset and a nasal end. Each word uses each of three openings (first formant)
and each of three places (second formant) once, so that all words excite the same channels about equally often: what
tells them apart is which formants sound together, and in which order. A linear classifier on spike counts is lost
here, one on counts in eight windows of time is not.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from nsim.checks import one_of, whole
from nsim.datasets import cache as store
from nsim.datasets.hdf5 import row_starts, sort_events
from nsim.datasets.recordings import EventData, Events
from nsim.datasets.shd import ENGLISH, GERMAN, UNITS

VERSION = 1  # of the recipe: a change makes other events
BLOCK = 250  # samples drawn from one generator
LOWEST, HIGHEST = 80.0, 8000.0  # Hz, the first and the last channel
OPENINGS = np.array([300.0, 470.0, 720.0])  # Hz, first formant
PLACES = np.array([950.0, 1450.0, 2200.0])  # Hz, second formant
ONSET, NASAL = 5200.0, 230.0  # Hz, the noise of the onset and the murmur at the end
FRAMES = 128  # of a formant track, per word
SPEAKERS = {"train": range(10), "test": range(10, 14)}
SPLIT_SEED = {"train": 1, "test": 2}


def channel(hertz):
    """Place of a frequency on the cochlea, 0 to 699, on the ERB-rate scale.

    Source: Glasberg & Moore 1990, equation 4.
    """
    rate = [np.log10(1 + 4.37e-3 * np.asarray(f)) for f in (hertz, LOWEST, HIGHEST)]
    return (UNITS - 1) * (rate[0] - rate[1]) / (rate[2] - rate[1])


def words():
    """Vowels of the 20 words, int [20, 3, 2] (opening, place), and the share of time of each vowel, [20, 3].

    English digit d pairs openings with places in one of five ways, in one of two orders; the German word for it is
    the English one backwards.
    """
    pairings = [np.array(p) for p in permutations(range(3))][:5]
    orders = [np.array([0, 1, 2]), np.array([1, 0, 2])]
    english = np.array([[(k, pairing[k]) for k in order] for order in orders for pairing in pairings])
    rng = np.random.default_rng(20)
    shares = rng.dirichlet([25.0] * 3, len(english))
    return np.concatenate([english, english[:, ::-1]]), np.concatenate([shares, shares[:, ::-1]])


def tracks():
    """First and second formant of each word over normalised time, in Hz, float [20, 2, FRAMES]."""
    vowels, shares = words()
    ends = np.cumsum(shares, axis=1)
    middles = ends - shares / 2
    grid = (np.arange(FRAMES) + 0.5) / FRAMES
    # each vowel is held for 60 % of its time; the rest is a glide to the next
    knots = np.stack([middles - 0.3 * shares, middles + 0.3 * shares], axis=2).reshape(len(shares), 6)
    levels = np.stack([OPENINGS[vowels[..., 0]], PLACES[vowels[..., 1]]], axis=1)
    return np.array(
        [[np.interp(grid, k, np.repeat(f, 2)) for f in level] for k, level in zip(knots, levels, strict=True)]
    )


class Synthetic(EventData):
    """Built-in speech-like digits: 20 words, 700 cochlear channels, several speakers.

    Parameters
    ----------
    split : "train" (speakers 0-9) or "test" (speakers 10-13)
    samples : int, optional
        Default 2,000 for training and 500 for the test.
    seed : int
        The same seed gives the same events.
    cache : bool
        Keep the events in the cache, from which they are memory-mapped.

    Raises
    ------
    ParameterError
        If split, samples or seed are impossible.

    Source: nsim's own recipe; formant ranges after Peterson & Barney 1952, ERB scale of Glasberg & Moore 1990. Not
    recorded speech: quote results on it as "Synthetic speech".
    """

    checks_events = False

    def __init__(self, split="train", samples=None, seed=0, *, cache=True):
        one_of("Synthetic", "split", split, SPEAKERS)
        samples = {"train": 2000, "test": 500}[split] if samples is None else samples
        whole("Synthetic", samples=(samples, 1), seed=(seed, 0))
        key = store.key("synthetic", VERSION, split, int(samples), int(seed))
        arrays = store.arrays(key, lambda: generate(split, int(samples), int(seed)), cache)
        events = Events(arrays["times"], arrays["units"], arrays["starts"], (UNITS,))
        super().__init__(
            events, arrays["labels"], name="Synthetic speech (built-in generator)", classes=ENGLISH + GERMAN,
            speakers=arrays["speakers"],
        )  # fmt: skip


def generate(split, samples, seed) -> dict:
    """Flat arrays (times, units, starts, labels, speakers) of `Synthetic`; see there."""
    rng = np.random.default_rng([seed, SPLIT_SEED[split], 0])
    people = np.array(SPEAKERS[split])
    labels, speakers = np.arange(samples) % 20, people[(np.arange(samples) // 20) % len(people)]
    order = rng.permutation(samples)
    labels, speakers = labels[order], speakers[order]
    table = tracks()
    counts, times, units = [], [], []
    for block in range(0, samples, BLOCK):
        part = slice(block, block + BLOCK)
        drawn = _speak(table, labels[part], speakers[part], np.random.default_rng([seed, SPLIT_SEED[split], 1 + block]))
        for column, piece in zip((counts, times, units), drawn, strict=True):
            column.append(piece)
    return {
        "times": np.concatenate(times), "units": np.concatenate(units), "starts": row_starts(np.concatenate(counts)),
        "labels": labels, "speakers": speakers,
    }  # fmt: skip


def _voices():
    """Vocal tract and formant factors, pitch in Hz, rate and tilt of each speaker; the same for all seeds."""
    rng = np.random.default_rng(14)
    count = 14
    tract = np.linspace(0.9, 1.12, count)[rng.permutation(count)]
    return {
        "tract": tract,
        "formants": tract[:, None] * rng.normal(1.0, 0.02, (count, 2)),
        "pitch": 80.0 * (tract / 0.9) ** 4.5 * rng.uniform(0.9, 1.1, count),
        "rate": rng.uniform(0.85, 1.15, count),
        "tilt": rng.normal(0.0, 0.25, count),
    }


def _speak(table, labels, speakers, rng):
    """Counts, times (int32 microseconds) and units (uint16) of some samples, drawn from a Poisson mixture.

    Each event first chooses its source (two formants, onset, nasal, background), then its time, then its channel:
    together an inhomogeneous Poisson process over 700 channels.
    """
    voices, count = _voices(), len(labels)
    length = 0.62 * voices["rate"][speakers] * rng.normal(1.0, 0.08, count).clip(0.75, 1.25)  # seconds of voice
    start = rng.uniform(0.02, 0.1, count)
    gain = rng.lognormal(0.0, 0.2, count)
    first = 0.5 + 0.5 * np.tanh(voices["tilt"][speakers] + rng.normal(0.0, 0.15, count))
    shares = np.stack(
        [0.72 * first, 0.72 * (1 - first), np.full(count, 0.1), np.full(count, 0.08), np.full(count, 0.1)]
    )
    sizes = rng.poisson(5600 * gain * shares).ravel()  # source by source, so that each is one stretch of the arrays
    sample = np.repeat(np.tile(np.arange(count), 5), sizes)
    ends = np.cumsum(sizes.reshape(5, count).sum(axis=1))
    f1f2, onset, nasal, noise = (slice(a, z) for a, z in zip((0, *ends[1:4]), ends[1:], strict=True))

    phase = rng.random(len(sample))
    phase[onset] = 0.16 * rng.beta(1.2, 2.5, ends[2] - ends[1]) - 0.03  # overlaps the first vowel
    phase[nasal] = 0.86 + 0.16 * rng.beta(2.5, 1.5, ends[3] - ends[2])  # overlaps the last
    times = start[sample] + phase * length[sample]
    times[noise] = rng.random(len(sample) - ends[3]) * 1.2 * length[sample[noise]]

    who = speakers[sample]
    formant = (np.arange(ends[1]) >= ends[0]).astype(np.int64)
    frame = (phase[f1f2] * FRAMES).astype(np.int64)
    own = rng.normal(1.0, 0.015, (2, count))  # no word is said twice in the same way
    hertz = np.empty(len(sample))
    hertz[f1f2] = table[labels[sample[f1f2]], formant, frame] * voices["formants"][who[f1f2], formant]
    hertz[f1f2] *= own[formant, sample[f1f2]]
    hertz[onset] = ONSET * voices["tract"][who[onset]]
    hertz[nasal] = NASAL * voices["tract"][who[nasal]]
    hertz[noise] = 1000.0
    width = np.full(len(sample), 14.0)
    width[onset] = 45.0
    place = channel(hertz) + width * rng.standard_normal(len(sample))
    place[noise] = rng.uniform(0, UNITS, len(sample) - ends[3])

    _lock_to_pitch(times, voices["pitch"][who], f1f2, rng)
    units, us = np.rint(place).astype(np.int64), np.rint(1e6 * times).astype(np.int64)
    heard = (units >= 0) & (units < UNITS) & (us >= 0)
    us, units = sort_events(sample[heard], us[heard], units[heard])
    return np.bincount(sample[heard], minlength=count), us.astype(np.int32), units.astype(np.uint16)


def _lock_to_pitch(times, pitch, voiced, rng):
    """Draw two thirds of the voiced events to the closures of the glottis, within a sixth of its period."""
    period = 1.0 / pitch[voiced]
    locked = rng.random(len(period)) < 2 / 3
    pulse = (np.floor(times[voiced] / period) + 0.5 + rng.normal(0.0, 1 / 6, len(period))) * period
    times[voiced] = np.where(locked, pulse, times[voiced])
