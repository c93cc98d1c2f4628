"""Arrays in files of other programs, by name: .npz, .safetensors, HDF5. `nsim.io.read_weights` chooses among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nsim.errors import DataError
from nsim.hdf5 import Reader

# Of numbers in .safetensors files. NumPy has no BF16, the upper half of a float32: it is widened, without loss.
SAFETENSORS = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


def npz(path) -> dict:
    """All arrays of an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        if any(name.endswith("data.pkl") for name in file.files):
            raise pickled(path)
        return {name: file[name] for name in file.files}


def pickled(path) -> DataError:
    """What is said of a pickle, which is not read."""
    return DataError(
        f"{path}: a pickle, as torch.save writes; reading one can run any code, so nsim does not. In torch: "
        "safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors'), where the file holds "
        "a state dict"
    )


def safetensors(path) -> dict:
    """All arrays of a .safetensors file."""
    from safetensors import deserialize

    arrays = {}
    for name, entry in deserialize(Path(path).read_bytes()):
        if entry["dtype"] not in SAFETENSORS:
            raise DataError(
                f"{path}: array {name!r} has dtype {entry['dtype']}; known are {', '.join(SAFETENSORS)}; save it as F32"
            )
        a = np.frombuffer(entry["data"], SAFETENSORS[entry["dtype"]])
        if entry["dtype"] == "BF16":
            a = (a.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = a.reshape(entry["shape"])
    return arrays


def hdf5(path) -> dict:
    """All arrays of an HDF5 file by their path, read in a process of its own."""
    with Reader() as reader, reader.open(path) as file:
        arrays = {}
        for name in file.names():
            found = file.describe(name)
            if found["records"] or np.dtype(found["dtype"]).kind not in "biuf":
                raise DataError(f"{path}: array {name!r} has dtype {found['dtype']}, not numbers")
            arrays[name] = file.read(name)
        return arrays
