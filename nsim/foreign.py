"""Arrays in files of other programs, by name: .npz, .safetensors, HDF5. `nsim.io.read_weights` chooses among them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from nsim.errors import DataError

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


# Run by a Python of its own: the HDF5 library can crash or loop for ever on a damaged file.
_CHILD = """
import json, sys, h5py, numpy as np
found = {}
with h5py.File(sys.argv[1], "r") as file:
    file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
for name, a in found.items():
    a = np.asarray(a)
    if a.dtype.kind not in "biuf":
        sys.exit(f"array {name!r} has dtype {a.dtype}, not numbers")
    header = json.dumps([name, a.dtype.str, a.shape]) + chr(10)
    sys.stdout.buffer.write(header.encode() + a.tobytes())
"""


def hdf5(path, seconds=120) -> dict:
    """All arrays of an HDF5 file by their path, read in a process of its own."""
    command = [sys.executable, "-P", "-c", _CHILD, os.fspath(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"{path}: damaged: reading it took more than {seconds} s") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise DataError(f"{path}: not readable: {reason[-1] if reason else 'the HDF5 library crashed on it'}")
    stream, arrays = io.BytesIO(done.stdout), {}
    while line := stream.readline():
        name, dtype, shape = json.loads(line)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        arrays[name] = np.frombuffer(stream.read(size), dtype).reshape(shape).copy()
    return arrays
