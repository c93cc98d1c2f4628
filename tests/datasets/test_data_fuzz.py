"""A thousand mutated files of each format: a clear error or a right read, never a crash, a hang or a wrong one."""

import h5py
import numpy as np
import pytest

from nsim.datasets.archives import read_idx
from nsim.datasets.hdf5 import read_recordings
from nsim.datasets.images import _read as read_images
from nsim.datasets.nmnist import NMNIST
from nsim.errors import NsimError
from nsim.hdf5 import Reader

MUTATIONS = 1000
SECONDS = 10  # after which the reading of a file of some kilobytes counts as a hang


def mutated(data, rng):
    """A copy with one damage: some neighbouring bytes changed, cut out, put in or zeroed, or the end cut off."""
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 9))
    kind = rng.integers(6)
    noise = rng.bytes(size)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + noise + data[at:]
    if kind == 2:
        return data[:at] + data[at + size :]
    if kind == 3:
        return data[:at] + bytes(size) + data[at + size :]
    if kind == 4:
        return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
    return (data[:at] + noise + data[at + size :])[: len(data)]


def survive(data, path, read, check, seed):
    """Counts of errors and of right reads over all mutations of a file."""
    rng, refused = np.random.default_rng(seed), 0
    for k in range(MUTATIONS):
        path.write_bytes(mutated(data, rng))
        try:
            result = read(path)
        except NsimError as error:
            assert str(path.parent) in str(error) and len(str(error)) > len(str(path)) + 10
            refused += 1
        else:
            check(result, f"mutation {k}")
    return refused


def same_as(expected):
    def check(result, which):
        for name in expected[0].keys() - {"fingerprint"}:  # a damage may hide it: then the file counts as unverified
            a = expected[0][name]
            np.testing.assert_array_equal(result[0][name], a, which)

    return check


def sound(result, which):
    """What a file without a fingerprint can promise: every value within its range, every length in agreement."""
    a = result[0]
    starts = a["starts"]
    assert starts[0] == 0 and (np.diff(starts) >= 0).all() and starts[-1] == len(a["times"]) == len(a["units"]), which
    assert len(a["labels"]) == len(starts) - 1 and len(a.get("speakers", a["labels"])) == len(a["labels"]), which
    assert a["times"].min(initial=0) >= 0 and a["units"].max(initial=0) < 700, which
    assert ((a["labels"] >= 0) & (a["labels"] < 20)).all(), which


@pytest.mark.parametrize("ending", ["", ".gz", ".zip"])
def test_shd(shd_file, shd_archives, ending, tmp_path):
    source = shd_file.with_name(shd_file.name + ending)
    with Reader(SECONDS) as reader:

        def read(path):
            return read_recordings(path, n=700, classes=20, reader=reader, scratch=tmp_path)

        refused = survive(source.read_bytes(), tmp_path / source.name, read, same_as(read(source)), seed=1)
    assert 0 < refused < MUTATIONS


def test_shd_of_others(shd_file, tmp_path):
    """Without the fingerprint that nsim writes, as in the published files."""
    with h5py.File(shd_file, "a") as file:
        del file.attrs["nsim_fingerprint"]
    with Reader(SECONDS) as reader:

        def read(path):
            return read_recordings(path, n=700, classes=20, reader=reader)

        refused = survive(shd_file.read_bytes(), tmp_path / "foreign.h5", read, sound, seed=2)
    assert 0 < refused < MUTATIONS


def test_nmnist(nmnist_zip, tmp_path, monkeypatch):
    expected = {k: NMNIST("train", nmnist_zip.parent)[k] for k in range(4)}
    with Reader(SECONDS) as reader:
        monkeypatch.setattr(
            "nsim.datasets.nmnist.read_recordings", lambda path, **kw: read_recordings(path, **kw, reader=reader)
        )

        def check(data, which):
            assert len(data) == 4, which
            for k, (times, units, label) in expected.items():
                np.testing.assert_array_equal(data[k][0], times, which)
                np.testing.assert_array_equal(data[k][1], units, which)
                assert data[k][2] == label, which

        def read(path):
            return NMNIST("train", path.parent, cache=False)

        folder = tmp_path / "mutated"
        folder.mkdir()
        refused = survive(nmnist_zip.read_bytes(), folder / "Train.zip", read, check, seed=3)
    assert 0 < refused < MUTATIONS


@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_idx(idx_files, tmp_path, kind):
    folder, images, labels = idx_files
    paths = {k: folder / f"train-{k}-ubyte.gz" for k in ("images-idx3", "labels-idx1")}
    np.testing.assert_array_equal(read_idx(paths["images-idx3"]), images)

    def read(path):
        both = paths | {kind: path}
        return read_images(both["images-idx3"], both["labels-idx1"], 20e-3, 0.2)

    def check(result, which):
        np.testing.assert_array_equal(result["images"], images, which)
        np.testing.assert_array_equal(result["labels"], labels, which)

    data = paths[kind].read_bytes()
    refused = survive(data, tmp_path / paths[kind].name, read, check, seed=4)
    assert 0 < refused < MUTATIONS
