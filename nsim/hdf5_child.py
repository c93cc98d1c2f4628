"""Reads HDF5 files for `nsim.hdf5`, in a process of its own.

The HDF5 library can crash or loop for ever on a damaged file; here that costs a child process and not the user's
session. Run as a script: each line on standard input is a JSON request [operation, arguments...], each answer a JSON
line followed by raw arrays. Imports numpy and h5py only, so that it starts quickly.
"""

import json
import os
import sys

import h5py
import numpy as np


def names(file):
    """Paths of all datasets."""
    found = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found, ()


def describe(file, name):
    """Shape, type and whether it is of records of several lengths; of what is no dataset only what the file holds."""
    item = file.get(name)
    if not isinstance(item, h5py.Dataset):
        return {"held": sorted(file)[:8]}, ()
    base = record_type(item)
    return {"shape": item.shape, "dtype": (base or item.dtype).str, "records": base is not None}, ()


def record_type(item):
    """Type of the numbers in a dataset of records, or None; texts are no records."""
    base = h5py.check_vlen_dtype(item.dtype)
    return base if isinstance(base, np.dtype) else None


def read(file, name, first, last):
    """A dataset, from `first` to before `last` or all; of records their lengths and them one behind the other."""
    values, base = file[name][()] if last is None else file[name][first:last], record_type(file[name])
    if base is None:
        return None, (np.asarray(values),)
    records = [np.zeros(0, base), *values]
    return None, (np.array([len(record) for record in records[1:]], np.int64), np.concatenate(records))


def attribute(file, name):
    """An attribute of the whole file as text, or None."""
    value = file.attrs.get(name)
    return value if value is None else str(value), ()


OPERATIONS = {operation.__name__: operation for operation in (names, describe, read, attribute)}


def opened(path):
    """A file, in no more memory than it can fill: a damaged length must not take the machine's."""
    limit_memory(os.path.getsize(path))
    return h5py.File(path, "r", locking=False)


def limit_memory(size):
    """Not every system can limit it."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = 4 * 2**30 + 4 * size
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def main():
    out, file = os.fdopen(os.dup(1), "wb", 1 << 20), None
    os.dup2(2, 1)  # what a library prints must not get between the answers
    for line in sys.stdin.buffer:
        operation, *arguments = json.loads(line)
        value, arrays, error = None, (), None
        try:
            if operation == "open":
                file = opened(*arguments)
            else:
                value, arrays = OPERATIONS[operation](file, *arguments)
        except MemoryError:
            error = "it claims more data than the memory holds: truncated or damaged"
        except Exception as caught:  # whatever h5py makes of a damaged file belongs to the user as text
            error = f"not a readable HDF5 file ({type(caught).__name__}: {caught})"
        kinds = [[a.dtype.str, a.shape] for a in arrays]
        out.write(json.dumps({"value": value, "error": error, "arrays": kinds}).encode() + b"\n")
        for a in arrays:
            out.write(np.ascontiguousarray(a).data)
        out.flush()


if __name__ == "__main__":
    main()
