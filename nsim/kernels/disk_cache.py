"""Compiled kernels on disk, one file each, under a name that tells apart all that the code depends on.

Numba numbers the files of one function and keeps the numbers in an index. Two processes that compile the same sweep
for two models at the same moment both take the next number, and from then on one model runs with the equations of the
other. Nor does Numba notice a change in a helper of another file, be it one of ours or what a user's model calls. Here
the name is a digest of everything: the sources in this folder, and every function that the kernel reaches.

Inside a file, Numba tells the helpers that several models make of one function apart by a number, which each process
counts from 1. A process that loads what two others compiled may then have different helpers of one name, and the
linker takes the first for both models. Here that number is random.
"""

import hashlib
import secrets
from functools import partial
from inspect import isfunction, ismodule
from pathlib import Path
from types import CodeType

import numpy as np
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import FunctionCache, IndexDataCacheFile

FunctionIdentity._unique_ids = iter(partial(secrets.randbits, 62), None)

SOURCES = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()

PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


def _codes(code):
    """A code object and those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _fingerprint(function, seen):
    """What tells a function apart, with all that it calls: their code, and the numbers in it. Numba's and NumPy's own
    functions are left out."""
    if function in seen or (function.__module__ or "").partition(".")[0] in ("numba", "numpy"):
        return
    seen.add(function)
    codes = list(_codes(function.__code__))
    for code in codes:
        yield code.co_code, code.co_names, [c for c in code.co_consts if not isinstance(c, CodeType)]
    names = sorted({name for code in codes for name in code.co_names})
    values = [function.__globals__.get(name) for name in names]
    values += [getattr(module, name, None) for module in filter(ismodule, values) for name in names]
    values += [cell.cell_contents for cell in function.__closure__ or ()]
    for value in values:
        yield from _constant(value, seen)


def _constant(value, seen):
    """What tells a value apart that Numba may build into code."""
    value = getattr(value, "py_func", value)
    if isfunction(value):
        yield from _fingerprint(value, seen)
    elif isinstance(value, PLAIN):
        yield repr(value)
    elif isinstance(value, np.ndarray):
        yield value.dtype.descr, value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _constant(part, seen)


class _Files(IndexDataCacheFile):
    """Numba's files without their index: whoever comes second writes the same code under the same name."""

    def save(self, key, data):
        self._save_data(self._name(key), data)

    def load(self, key):
        try:
            return self._load_data(self._name(key))
        except FileNotFoundError:
            return None

    def _name(self, key):
        # The key holds the signature, the processor, and digests of the bytecode and of what the function closes over.
        everything = repr((self._version, self._source_stamp, key))
        return self._data_name_pattern.format(number=int(hashlib.sha256(everything.encode()).hexdigest()[:24], 16))


class _Cache(FunctionCache):
    def __init__(self, function):
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp(), SOURCES, list(_fingerprint(function, set()))
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, stamp)


def cached(compiled, function):
    """`compiled`, Numba's dispatcher or C function of `function`, which from now on keeps its code on disk."""
    compiled._cache = _Cache(function)
    return compiled
