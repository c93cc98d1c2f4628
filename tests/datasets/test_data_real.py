"""The recordings under NSIM_DATA, where there are any: their published sizes, and batches against a plain count."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from nsim.datasets import NMNIST, SHD, FashionMNIST

ROOT = Path(os.environ.get("NSIM_DATA") or "nowhere")


def needs(pattern):
    return pytest.mark.skipif(not list(ROOT.glob(pattern)), reason=f"needs NSIM_DATA with {pattern}")


@pytest.mark.filterwarnings("ignore::nsim.errors.EventWarning")
@needs("shd-regenerated/shd_test.h5")
def test_regenerated_shd():
    root = ROOT / "shd-regenerated"
    data = SHD("test", root)
    assert data.name == "SHD (regenerated)" and len(data) == 1500 and data.speakers is not None
    with h5py.File(root / "shd_test.h5") as file:
        np.testing.assert_array_equal(data.labels, file["labels"][:])
        for i in (0, 700, 1499):
            us = np.rint(file["spikes/times"][i].astype(np.float64) * 1e6).astype(int)
            expected = np.zeros((500, 700))
            np.add.at(expected, ((us // 2000)[us < 10**6], file["spikes/units"][i][us < 10**6]), 1)
            spikes, _ = next(iter(data.subset([i]).batches(1, dt=2e-3, steps=500)))
            np.testing.assert_array_equal(spikes.to_dense()[0], expected)


@needs("nmnist-subset/Test.zip")
@pytest.mark.filterwarnings("ignore::nsim.errors.EventWarning")
def test_nmnist_subset():
    data = NMNIST("test", ROOT / "nmnist-subset", polarity="merge")
    assert data.name == "N-MNIST subset (100 of 10,000 test recordings)" and len(data) == 100
    assert data.sizes.min() >= 1069 and data.sizes.max() <= 7152 and data.labels[:5].tolist() == [7, 2, 1, 0, 4]
    spikes, _ = next(iter(data.batches(100, dt=1e-3, clamp=True)))
    # pixels of the digit spike more than the border: the events are on the right places
    activity = spikes.to_dense().sum(axis=1).reshape(100, 34, 34)
    assert activity[:, 10:24, 10:24].mean() > 5 * activity[:, :3].mean()


@needs("fashion-mnist/t10k-images-idx3-ubyte.gz")
def test_official_fashion_mnist():
    data = FashionMNIST("test", ROOT / "fashion-mnist")
    assert data.name == "Fashion-MNIST" and len(data) == 10_000 and np.bincount(data.labels).tolist() == [1000] * 10
    assert data.n_events == np.count_nonzero(data.images > 51)
