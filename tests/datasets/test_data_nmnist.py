"""N-MNIST: decoding of 5-byte records, the HDF5 layout, polarity, and what damaged archives get."""

import zipfile

import h5py
import numpy as np
import pytest

from nsim.datasets import NMNIST, convert_nmnist
from nsim.errors import DataError, ParameterError


def test_conversion_writes_the_layout_of_the_paper(nmnist_zip, tmp_path):
    path = convert_nmnist(nmnist_zip, tmp_path / "out.h5")
    with h5py.File(path) as file:
        assert h5py.check_vlen_dtype(file["spikes/times"].dtype) == np.float32
        np.testing.assert_array_equal(file["labels"][:], [5, 0, 4, 1])  # in the order of the numbers
        np.testing.assert_array_equal(file["spikes/units"][0], [0, 33 + 34 * 33 + 1156, 1 + 34 * 2 + 1156])
        np.testing.assert_array_equal(file["spikes/times"][0], np.float32([10e-6, 4096e-6, 0.3]))
        # the record of y = 240 adds 2**13 microseconds to what follows and is no event itself
        np.testing.assert_array_equal(file["spikes/times"][1], np.float32([8000e-6, (7 + 8192) * 1e-6]))
        np.testing.assert_array_equal(file["spikes/units"][1], [2 + 34 * 3 + 1156, 4 + 34 * 5])
        assert len(file["spikes/times"][2]) == 0


@pytest.mark.parametrize("converted", [False, True])
def test_polarity(nmnist_zip, tmp_path, converted):
    root = nmnist_zip.parent
    if converted:
        root = tmp_path / "converted"
        convert_nmnist(nmnist_zip, root / "nmnist_train.h5")
    kept, merged = NMNIST("train", root), NMNIST("train", root, polarity="merge")
    assert kept.name == "N-MNIST subset (4 of 60,000 train recordings)" and len(kept) == 4
    assert (kept.n, kept.space, merged.n, merged.space) == (2312, (34, 34, 2), 1156, (34, 34, 1))
    times, units, label = kept[0]
    assert label == 5 and np.rint(times * 1e6).tolist() == [10, 4096, 300_000]
    assert np.unravel_index(units, kept.space)[1].tolist() == [0, 33, 1]  # x
    assert np.unravel_index(units, kept.space)[0].tolist() == [0, 33, 2]  # y
    assert np.unravel_index(units, kept.space)[2].tolist() == [0, 1, 1]
    np.testing.assert_array_equal(merged[0][1], units // 2)
    assert np.rint(kept[3][0] * 1e6).tolist() == [20, 50]  # unsorted in the file
    spikes, _ = next(iter(kept.batches(4, dt=1e-3, steps=301)))
    assert spikes.space == (34, 34, 2) and spikes.n_events == 7


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"Train/3/00001.bin": b"1234"}, "entry Train/3/00001.bin .*4 bytes"),
        ({"Train/3/00001.bin": bytes([34, 0, 0, 0, 1])}, "event 0 at x = 34"),
        ({"Train/3/00001.bin": bytes([0, 241, 0, 0, 1])}, "y = 241"),
        ({"Train/3/00001.bin": bytes([0, 240, 0, 0, 1]) * 1100 + bytes(5)}, "lasts 9.011 s"),
        ({"Train/11/00001.bin": bytes(5)}, "expected Train/<label>/<number>.bin"),
        ({"readme.txt": b"x"}, "no N-MNIST recording"),
    ],
)
def test_foreign_archives(tmp_path, entries, words):
    with zipfile.ZipFile(tmp_path / "Train.zip", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match=words):
        NMNIST("train", tmp_path)
    assert not list(tmp_path.glob("*.h5"))


def test_an_entry_cut_short_by_a_damaged_length(nmnist_zip):
    """zipfile itself reads such an entry without a word."""
    data = bytearray(nmnist_zip.read_bytes())
    last = data.rindex(b"PK\x01\x02")
    data[last + 16 : last + 24] = bytes(8)  # checksum and packed length
    nmnist_zip.write_bytes(data)
    with pytest.raises(DataError, match=r"length or checksum of entry Train/1/00004\.bin"):
        NMNIST("train", nmnist_zip.parent)


def test_other_methods_and_options(nmnist_zip, tmp_path):
    with zipfile.ZipFile(tmp_path / "Train.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("Train/3/00001.bin", bytes(500))
    with pytest.raises(DataError, match="compression method 12"):
        NMNIST("train", tmp_path)
    with pytest.raises(ParameterError, match="polarity = 'both'"):
        NMNIST("train", nmnist_zip.parent, polarity="both")
    with pytest.raises(ParameterError, match="split = 'valid'"):
        NMNIST("valid", nmnist_zip.parent)
    with pytest.raises(DataError, match=r"Test\.zip"):
        NMNIST("test", nmnist_zip.parent)
