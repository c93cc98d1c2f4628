"""Weights in files of other programs: npz, safetensors, HDF5, and what is refused."""

import json
import pickle
import struct
import sys
import zipfile

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from nsim import hdf5, io
from nsim.errors import DataError


def test_weights_from_npz_and_safetensors(tmp_path):
    arrays = {"a": np.arange(4, dtype=np.float32), "b.c": np.eye(3), "i": np.arange(3)}
    np.savez(tmp_path / "w.npz", **arrays)
    np.savez_compressed(tmp_path / "z.npz", **arrays)
    save_file(arrays, tmp_path / "w.safetensors")
    for name in ("w.npz", "z.npz", "w.safetensors"):
        np.testing.assert_equal(io.read_weights(tmp_path / name), arrays)
    np.savez(tmp_path / "o.npz", a=np.array([{}], object))
    with pytest.raises(DataError, match="damaged or not readable"):
        io.read_weights(tmp_path / "o.npz")


def test_half_precision_in_safetensors_is_widened(tmp_path):
    values = np.array([1.5, -3.140625, 2.0**100], np.float32)  # of which bfloat16 loses nothing
    halves = values[None, :2].astype(np.float16)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()

    def write(**parts):  # NumPy has no such types, so that the package cannot write them from arrays
        header, body = {}, b""
        for name, (dtype, shape, data) in parts.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
            body += data
        text = json.dumps(header).encode()
        (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)

    write(a=("BF16", [3], upper), b=("F16", [1, 2], halves.tobytes()))
    np.testing.assert_equal(io.read_weights(tmp_path / "w.safetensors"), {"a": values, "b": halves})
    write(a=("F8_E5M2", [3], b"abc"))
    with pytest.raises(DataError, match=r"array 'a' has dtype F8_E5M2; known are BOOL.* save it as F32"):
        io.read_weights(tmp_path / "w.safetensors")


def test_pickles_are_refused_with_the_way_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as file:  # what torch.save has written since torch 1.6
        file.writestr("w/data.pkl", pickle.dumps({}))
        file.writestr("w/data/0", bytes(16))
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"w": 1}, 2))
    for name in ("w.pth", "old.pt"):
        with pytest.raises(DataError, match=rf"{name}: a pickle, .*safetensors\.torch\.save_file"):
            io.read_weights(tmp_path / name)


def test_damaged_foreign_hdf5_costs_no_crash(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["w"] = np.arange(50.0)
    content, rng = bytearray((tmp_path / "w.h5").read_bytes()), np.random.default_rng(1)
    for k in range(8):
        mutant = content[: 300 * k] if k % 2 else bytearray(content)
        for place in rng.integers(8, 800, 20) if not k % 2 else ():
            mutant[place] ^= 0xFF
        (tmp_path / "bad.h5").write_bytes(mutant)
        try:
            io.read_weights(tmp_path / "bad.h5")
        except DataError as error:
            assert "bad.h5" in str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_foreign_hdf5_file_that_claims_more_than_it_holds(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("w", (2**31,), "f4", chunks=(2**20,))  # 8 GB, of which none was written
    assert (tmp_path / "w.h5").stat().st_size < 10_000
    with pytest.raises(DataError, match=r"w\.h5: it claims more data than the memory holds"):
        io.read_weights(tmp_path / "w.h5")


def test_a_crash_of_the_hdf5_library_on_foreign_weights(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["w"] = np.arange(5)
    (tmp_path / "child.py").write_text("import os; os.abort()")
    monkeypatch.setattr(hdf5, "CHILD", tmp_path / "child.py")
    with pytest.raises(DataError, match=r"w\.h5: the HDF5 library crashed \(exit status -?\d+\) on this file: damaged"):
        io.read_weights(tmp_path / "w.h5")
