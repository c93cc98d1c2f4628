"""Saved nets and weights: HDF5 without pickle, written whole or not at all, and checked before it is read.

A file of `save` is an HDF5 file (any HDF5 tool reads it) behind a block of 512 bytes, which holds the format's version
and the SHA-256 of all that follows. It is checked first, so that a damaged file never reaches the HDF5 library.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from nsim import foreign, nn, optim
from nsim.checks import real_array, replaceable
from nsim.errors import DataError, NsimError, ParameterError
from nsim.files import atomic
from nsim.nn.connection import generator_kept

VERSION = 1
BLOCK = 512
MAGIC = b"nsim file, version "
HDF5 = b"\x89HDF\r\n\x1a\n"


def save(path, net, opt=None, **meta):
    """Write a net, an optimiser's state and anything else to one file.

    The file is written under a temporary name beside `path`, brought to the disk and renamed, so that `path` is at
    every moment the old file or the new one, whole.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    net : nsim.nn.Module, or nsim.ann.Graph
    opt : nsim.optim.Optimizer, optional
        Its parameters must be the net's.
    meta
        Arrays of numbers, or anything that JSON can hold (tuples come back as lists).

    Raises
    ------
    ParameterError
        If `net` is no module of `nsim.nn` or `nsim.ann`, an entry of `meta` is neither, or `opt` moves a parameter that
        `net` does not have.
    DataError
        If `path` names no file, or a device or pipe, its folder does not exist, or the file cannot be written; `path`
        is then as it was.
    """
    if not isinstance(net, nn.Module):
        raise ParameterError(
            f"save: net is a {type(net).__name__}; expected a network of nsim.nn or nsim.ann. Of a converted network "
            "keep the one that it came from, and convert it again"
        )
    path = _target(path)
    names = None if opt is None else shared_names(net, opt)
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=BLOCK) as file:
        file["net"] = json.dumps(net.describe())
        _write_arrays(file.create_group("parameters"), net.state_dict())
        if opt is not None:
            group = file.create_group("optimizer")
            group["description"] = json.dumps(opt.describe())
            group["names"] = json.dumps(names)
            _write_arrays(group.create_group("state"), opt.state_dict())
        _write_meta(file, meta)
    body = image.getvalue()[BLOCK:]
    try:
        with atomic(path) as unfinished, open(unfinished, "wb") as file:
            file.write(_header(body) + body)
    except OSError as error:
        kept = "; what was there before is kept" if path.exists() else ""
        raise DataError(f"{path} could not be written: {error.strerror or error}{kept}") from error


def load(path):
    """Read a file of `save`.

    Returns
    -------
    net : nsim.nn.Module, built anew
    opt : nsim.optim.Optimizer or None, on the parameters of `net`
    meta : dict

    Raises
    ------
    DataError
        If the file is missing, truncated, damaged, foreign, of a later version, or does not fit its own description.
    """
    with _opened(path) as file:
        description, opt = _json(file, "net", path), None
        with _fitting(path, "its net"), generator_kept():
            net = nn.build(description)
            net.load_state_dict(_arrays(file["parameters"]))
        if "optimizer" in file:
            group, named = file["optimizer"], net.named_parameters()
            names, description = _json(group, "names", path), _json(group, "description", path)
            with _fitting(path, "its optimiser"):
                opt = optim.build(description, {own: named[name] for own, name in names.items()})
                opt.load_state_dict(_arrays(group["state"]))
        return net, opt, _read_meta(file, path)


def restore(path, net, opt=None) -> dict:
    """Read a file of `save` into a net, and an optimiser, that exist already.

    Returns
    -------
    dict, the file's meta.

    Raises
    ------
    DataError
        As `load`; and if the file holds another net, or another optimiser, than the ones given.
    """
    with _opened(path) as file:
        theirs, ours = _json(file, "net", path), json.loads(json.dumps(net.describe()))
        if theirs != ours:
            raise DataError(f"{path} holds another net: {_difference(theirs, ours)}")
        if opt is not None:
            if "optimizer" not in file:
                raise DataError(f"{path} holds no optimiser; load it with nsim.load, or save it with opt")
            names = _json(file["optimizer"], "names", path)
            kind = _json(file["optimizer"], "description", path)["kind"]
            if kind != type(opt).__name__ or names != shared_names(net, opt):
                raise DataError(
                    f"{path} holds the state of {kind} over {len(names)} parameters; the optimiser here is {opt}"
                )
        with _fitting(path, "its net"):
            net.load_state_dict(_arrays(file["parameters"]))
        if opt is not None:
            with _fitting(path, "its optimiser"):
                opt.load_state_dict(_arrays(file["optimizer"]["state"]))
        return _read_meta(file, path)


def read_meta(path) -> dict:
    """The meta of a file of `save`, without its net. Raises DataError as `load` does."""
    with _opened(path) as file:
        return _read_meta(file, path)


def read_weights(path) -> dict[str, np.ndarray]:
    """Arrays by name from a file of `save` (its parameters), any HDF5, .npz or .safetensors file.

    Arrays in groups of a foreign HDF5 file are named by their path, "group/name". bfloat16 becomes float32. Nothing is
    unpickled.

    Raises
    ------
    DataError
        If the file is missing, damaged, of another kind (torch's own, which are pickles, too), or holds arrays that are
        not numbers.
    """
    head = _read(path, BLOCK + len(HDF5))
    try:
        if head.startswith(MAGIC):
            with _opened(path) as file:
                return _arrays(file["parameters"])
        if HDF5 in (head[:8], head[BLOCK : BLOCK + 8]):
            arrays = foreign.hdf5(path)
        elif head.startswith(b"PK"):
            arrays = foreign.npz(path)
        elif Path(path).suffix == ".safetensors":
            arrays = foreign.safetensors(path)
        elif head.startswith(b"\x80"):
            raise foreign.pickled(path)
        else:
            raise DataError(f"{path}: neither HDF5, nor .npz, nor .safetensors")
    except DataError:
        raise
    except Exception as error:  # what a damaged file makes these readers raise is not theirs to promise
        raise DataError(f"{path}: damaged or not readable: {type(error).__name__}: {error}") from error
    for name, a in arrays.items():
        if a.dtype.kind not in "biuf":
            raise DataError(f"{path}: array {name!r} has dtype {a.dtype}, not numbers")
    return arrays


def named(thing):
    """What a checkpoint notes of a function, a transform or a data set, to tell it from another: names and options.

    Of data also a digest of what is cheap to read: which samples of the whole these are, their labels and sizes.
    """
    if isinstance(thing, partial):
        options = [*map(_option, thing.args), *(f"{key}={_option(value)}" for key, value in thing.keywords.items())]
        return f"{named(thing.func)}({', '.join(options)})"
    if isinstance(thing, (list, tuple)):
        return [named(part) for part in thing]
    if hasattr(thing, "batches"):
        size = f", {len(thing)} samples" if hasattr(thing, "__len__") else ""
        content = hashlib.blake2b(digest_size=8)
        for column in map(real_array, (getattr(thing, what, None) for what in ("index", "labels", "sizes"))):
            content.update(b"" if column is None else column.tobytes())
        return f"{getattr(thing, 'name', type(thing).__name__)}{size} of digest {content.hexdigest()}"
    if thing is None or hasattr(thing, "__qualname__"):
        return getattr(thing, "__qualname__", None)
    return type(thing).__qualname__ if " at 0x" in repr(thing) else repr(thing)


def _option(value):
    """An option of a partial: functions by name, since their address is another in each process."""
    return named(value) if callable(value) else repr(value)


def shared_names(net, opt) -> dict[str, str]:
    """The optimiser's name of each of its parameters -> the net's name of it; ParameterError if the net has it not."""
    if not isinstance(opt, optim.Optimizer):
        raise ParameterError(f"opt = {opt!r}; expected one such as optim.Adam(net.parameters(), lr=1e-3)")
    names = {id(p): name for name, p in net.named_parameters().items()}
    strange = [own for own, p in opt.params.items() if id(p) not in names]
    if strange:
        raise ParameterError(
            f"the optimiser moves {', '.join(strange)}, which the net does not have; make it from net.parameters()"
        )
    return {own: names[id(p)] for own, p in opt.params.items()}


def _header(body):
    text = MAGIC + b"%d\nsha256 %s of %d bytes\n" % (VERSION, hashlib.sha256(body).hexdigest().encode(), len(body))
    return text.ljust(BLOCK, b"\0")


def _target(path) -> Path:
    """The path of a file that can be written where it is."""
    if not isinstance(path, (str, os.PathLike)) or not Path(path).name or Path(path).is_dir():
        raise DataError(f'path = {path!r} names no file; give one such as "net.h5"')
    if not Path(path).parent.is_dir():
        raise DataError(f"{path} could not be written: there is no folder {Path(path).parent}; make it first")
    replaceable(path)  # before anything is computed
    return Path(path)


def _read(path, size=-1):
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _opened(path):
    """The HDF5 part of a file of `save`, checked against its digest."""
    content = _read(path)
    if not content.startswith(MAGIC):
        kind = (
            "an HDF5 file of another program (read_weights may read it)"
            if content.startswith(HDF5)
            else "another format"
        )
        raise DataError(f"{path}: not a file of nsim.save but {kind}")
    version = content[len(MAGIC) : len(MAGIC) + 20].split(b"\n")[0]
    if version.isdigit() and int(version) > VERSION:
        raise DataError(f"{path}: has format version {int(version)}, this nsim reads up to {VERSION}; update nsim")
    body = content[BLOCK:]
    if content[:BLOCK] != _header(body):
        raise DataError(
            f"{path}: truncated or damaged ({len(content)} bytes do not match their SHA-256); use an older copy"
        )
    return h5py.File(io.BytesIO(content), "r")


def _write_arrays(group, arrays):
    for name, a in arrays.items():
        group.create_dataset(name, data=np.asarray(a), track_times=False)


def _arrays(group) -> dict:
    """All datasets under a group by their path; single numbers as NumPy scalars."""
    found = {}
    group.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def _write_meta(file, meta):
    plain, arrays = {}, file.create_group("meta_arrays")
    for key, value in meta.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and "/" not in key:
            arrays.create_dataset(key, data=value, track_times=False)
            continue
        value = value.item() if isinstance(value, np.generic) else value
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"save: meta {key!r} can be neither an array of numbers nor JSON: {error}") from error
        plain[key] = value
    file["meta"] = json.dumps(plain)


def _read_meta(file, path):
    return _json(file, "meta", path) | _arrays(file["meta_arrays"])


def _json(group, key, path):
    if key not in group:
        raise DataError(f"{path}: has no {group.name.rstrip('/')}/{key}; it was not written by nsim.save")
    return json.loads(group[key].asstr()[()])


@contextlib.contextmanager
def _fitting(path, what):
    """Say what of a file cannot be built. Descriptions become arguments, so that Python's own errors come from there
    too: a TypeError of an option that this nsim does not know, a KeyError of an entry that is not there."""
    try:
        yield
    except (NsimError, TypeError, ValueError, LookupError, AttributeError) as error:
        kind = "" if isinstance(error, NsimError) else f"{type(error).__name__}: "
        raise DataError(f"{path}: {what} cannot be built: {kind}{error}") from error


def _difference(theirs, ours, where="net"):
    """The first place where two JSON values differ, in words."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in [*ours, *(k for k in theirs if k not in ours)]:
            if theirs.get(key) != ours.get(key) or (key in theirs) != (key in ours):
                return _difference(theirs.get(key), ours.get(key), f"{where}.{key}")
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for k, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            if a != b:
                return _difference(a, b, f"{where}[{k}]")
    return f"{where} is {json.dumps(theirs)[:80]} in the file, {json.dumps(ours)[:80]} here"
