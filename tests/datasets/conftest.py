"""Small files of each format, made anew for each test session, and a cache of the tests' own."""

import gzip
import struct
import zipfile

import numpy as np
import pytest

from nsim.datasets import find, write_shd

FETCH = find._fetch


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or fills the user's cache or data, and none touches the network."""
    monkeypatch.delenv("NSIM_DATA", raising=False)
    monkeypatch.setenv("NSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("nsim.datasets.find._fetch", _no_network)
    return tmp_path / "cache"


def _no_network(name, address, md5, folder):
    raise OSError("no network in tests")


@pytest.fixture
def fetch():
    """The real download, for tests that serve files to themselves."""
    return FETCH


class Small:
    """Three short recordings with two events at one time, an empty record and events in no order."""

    times = (np.array([0.5, 0.125, 0.125, 0.0]), np.zeros(0), np.linspace(0.9, 0.1, 20))
    units = (np.array([3, 699, 2, 0]), np.zeros(0, int), np.arange(20) * 7)
    labels = (4, 0, 19)
    speakers = (1, 1, 7)


@pytest.fixture
def small():
    return Small


@pytest.fixture
def shd_file(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    path = folder / "shd_train.h5"
    write_shd(path, Small.times, Small.units, Small.labels, speakers=Small.speakers)
    return path


@pytest.fixture
def shd_archives(shd_file):
    """The same file as .h5.gz and .h5.zip."""
    packed = [shd_file.with_name(shd_file.name + end) for end in (".gz", ".zip")]
    packed[0].write_bytes(gzip.compress(shd_file.read_bytes()))
    with zipfile.ZipFile(packed[1], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(shd_file, shd_file.name)
    return packed


def nmnist_record(x, y, p, t):
    return bytes([x, y, (p << 7) | (t >> 16), (t >> 8) & 255, t & 255])


@pytest.fixture
def nmnist_zip(tmp_path):
    """Train.zip of four recordings; number 2 holds a timer overflow."""
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    records = {
        "Train/5/00001.bin": [(0, 0, 0, 10), (33, 33, 1, 4096), (1, 2, 1, 300_000)],
        "Train/0/00002.bin": [(2, 3, 1, 8000), (0, 240, 0, 0), (4, 5, 0, 7)],
        "Train/4/00003.bin": [],
        "Train/1/00004.bin": [(7, 9, 1, 50), (7, 9, 0, 20)],
    }
    with zipfile.ZipFile(folder / "Train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Train/", "")
        for name, events in records.items():
            archive.writestr(name, b"".join(nmnist_record(*event) for event in events))
    return folder / "Train.zip"


@pytest.fixture
def idx_files(tmp_path):
    """Eight pictures and their labels in the layout of MNIST, .gz."""
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(5)
    images = np.where(rng.random((8, 28, 28)) < 0.8, 0, rng.integers(0, 256, (8, 28, 28))).astype(np.uint8)
    labels = rng.integers(0, 10, 8).astype(np.uint8)
    for kind, a in (("images-idx3", images), ("labels-idx1", labels)):
        head = struct.pack(f">HBB{a.ndim}I", 0, 8, a.ndim, *a.shape)
        (folder / f"train-{kind}-ubyte.gz").write_bytes(gzip.compress(head + a.tobytes()))
    return folder, images, labels
