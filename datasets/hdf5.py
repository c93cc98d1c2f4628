"""Recordings in HDF5, one variable-length record a sample (the format of SHD): safe reading, and writing."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import h5py
import numpy as np

from nsim.checks import class_labels, replaceable
from nsim.datasets.archives import enough_space, unpacked
from nsim.errors import DataError
from nsim.files import atomic
from nsim.hdf5 import Reader

BLOCK = 256  # samples read at a time; their number takes 8 bits of a sort key
TIME_BITS, UNIT_BITS = 31, 16  # microseconds up to 35 minutes, 65,536 units
LONGEST = 2**TIME_BITS * 1e-6 - 1  # seconds
# Kinds of NumPy's types, in words.
KINDS = {"f": "floats (seconds)", "iu": "whole numbers, of an integer type", "S": "names, as bytes"}


def sort_events(samples, us, units):
    """Times (int64 microseconds) and units (uint64) in order of (sample, time, unit); fewer than 2**17 samples."""
    key = (samples.astype(np.uint64) << np.uint64(TIME_BITS + UNIT_BITS)) | (
        us.astype(np.uint64) << np.uint64(UNIT_BITS)
    )
    key |= units.astype(np.uint64)
    key.sort()
    return (key >> np.uint64(UNIT_BITS)).astype(np.int64) & (2**TIME_BITS - 1), key & np.uint64(2**UNIT_BITS - 1)


def _check_times(path, seconds, samples):
    """Refuse times (float [E]) that no recording can have; `samples` [E] are the numbers of theirs."""
    bad = ~((seconds >= 0) & (seconds < LONGEST))  # NaN is neither
    if bad.any():
        k = int(np.argmax(bad))
        raise DataError(
            f"{path}: sample {samples[k]} has an event at {seconds[k]} s; times are seconds (of microseconds, "
            f"times * 1e-6), finite, not negative, < {LONGEST:.0f}"
        )


def _flat(path, times, units, n, first):
    """Times (seconds) and units of some samples, each as (counts, values), checked and in order.

    Returns
    -------
    counts int64 [samples], us int32 [E], units uint16 [E], in order of (sample, time, unit).

    Raises DataError, naming the sample (counted from `first`) and the value.
    """
    (counts, t), (others, u) = times, units
    if (counts != others).any():
        k = int(np.argmax(counts != others))
        raise DataError(f"{path}: sample {first + k} has {counts[k]} times and {others[k]} units")
    sample, t = np.repeat(np.arange(len(counts)), counts), t.astype(np.float64)  # float16 microseconds overflow
    _check_times(path, t, first + sample)
    bad = ~((u >= 0) & (u < n) & (u == np.floor(u)))
    if bad.any():
        k = int(np.argmax(bad))
        raise DataError(
            f"{path}: sample {first + sample[k]} has an event of unit {u[k]}; expected 0 to {n - 1}, whole numbers"
        )
    us, u = sort_events(sample, np.rint(t * 1e6), u)
    return counts, us.astype(np.int32), u.astype(np.uint16)


def _joined(records):
    """Counts and values of records, as `_flat` takes them."""
    return np.array([len(record) for record in records], np.int64), np.concatenate(records)


class _Fingerprint:
    """Running digest of recordings as they come out of `_flat`, of labels, speakers and class names."""

    def __init__(self):
        self.hash = hashlib.blake2b(digest_size=16)

    def add(self, *arrays):
        for a in arrays:
            self.hash.update(np.ascontiguousarray(a).data)

    def add_labels(self, labels, speakers, names):
        self.add(labels, speakers, np.frombuffer(json.dumps(names).encode(), np.uint8))

    def hex(self):
        return self.hash.hexdigest()


def _dataset(path, file, name, kinds):
    """Length and type of a dataset with one value or record a sample, its (base) type of the given kinds."""
    found, records = file.describe(name), name.startswith("spikes/")
    if "held" in found:
        raise DataError(f"{path}: no dataset {name!r}; the file holds {found['held']}")
    shape, dtype = found["shape"], np.dtype(found["dtype"])
    if shape is None or len(shape) != 1 or found["records"] != records or dtype.kind not in kinds:
        raise DataError(
            f"{path}: dataset {name!r} has shape {shape} and type {dtype}; expected "
            f"{'a record' if records else 'one'} of {KINDS[kinds]} for each sample"
        )
    return shape[0], dtype


def _recordings(path, file, size, n):
    """All of an open file of `size` bytes, block by block: nothing that is read is larger than the file."""
    times, time_type = _dataset(path, file, "spikes/times", "f")
    units, unit_type = _dataset(path, file, "spikes/units", "iu")
    total, _ = _dataset(path, file, "labels", "iu")
    if not 0 < total <= size or times != total or units != total:
        raise DataError(f"{path}: {times} records of times, {units} of units, {total} labels; expected as many of each")
    stamp, blocks, events = _Fingerprint(), [], 0
    for first in range(0, total, BLOCK):
        last = min(first + BLOCK, total)
        block = (file.read(f"spikes/{what}", first, last) for what in ("times", "units"))
        blocks.append(_flat(path, *block, n, first))
        stamp.add(*blocks[-1])
        events += len(blocks[-1][1])
        if events * (time_type.itemsize + unit_type.itemsize) > size:
            raise DataError(
                f"{path}: records overlap: the first {last} samples claim more events than the file has bytes"
            )
    counts, us, flat = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    arrays = {"times": us, "units": flat, "starts": row_starts(counts)}
    arrays["labels"], people, names = file.read("labels").astype(np.int64), np.zeros(0, np.int64), []
    if "held" not in file.describe("extra/speaker"):
        _dataset(path, file, "extra/speaker", "iu")
        arrays["speakers"] = people = file.read("extra/speaker").astype(np.int64)
        if len(people) != total:
            raise DataError(f"{path}: {len(people)} speakers for {total} samples")
    if "held" not in file.describe("extra/keys"):
        _dataset(path, file, "extra/keys", "S")
        names = [k.decode("utf-8", "replace") for k in file.read("extra/keys")]
    stamp.add_labels(arrays["labels"], people, names)
    stored = file.attribute("nsim_fingerprint")
    if stored not in (None, stamp.hex()):
        raise DataError(f"{path}: the recordings do not match the fingerprint stored with them: the file is damaged")
    if stored:
        arrays["fingerprint"] = np.frombuffer(bytes.fromhex(stored), np.uint8)
    return arrays, names


def row_starts(counts):
    """int64 [len(counts) + 1]: where the events of each sample start, and the end of the last."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def read_recordings(path, *, n, classes, reader=None, scratch=None):
    """Events, labels and speakers of a file in the format of SHD.

    Parameters
    ----------
    path : path of a .h5, .h5.gz or .h5.zip
        `spikes/times` (seconds, any float), `spikes/units`, `labels`; optionally `extra/speaker`, `extra/keys`.
    n, classes : int
        Units are 0 to n - 1 (n up to 65,536), labels 0 to classes - 1.
    reader : nsim.hdf5.Reader, optional
        Used for many files in a row.
    scratch : path, optional
        Folder to unpack into.

    Returns
    -------
    arrays : dict
        times int32 [E] (microseconds, ascending within a sample), units uint16 [E], starts int64 [S + 1],
        labels int64 [S] and, where the file has them, speakers int64 [S] and fingerprint uint8 [16].
    names : list of str
        Class names from `extra/keys`, or [].

    Raises
    ------
    DataError
        If the file is truncated, damaged or foreign, or a time, unit or label is out of range.

    Only of a file with a fingerprint, as `write_shd` makes it, is every damage seen. In any other, the published ones
    included, damage may change events to others that could be: the classes of data sets compare the whole file's MD5.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; expected recordings as .h5, .h5.gz or .h5.zip")
    if reader is None:
        with Reader() as reader:
            return read_recordings(path, n=n, classes=classes, reader=reader, scratch=scratch)
    with unpacked(path, scratch) as plain, reader.open(plain, path) as file:
        arrays, names = _recordings(path, file, plain.stat().st_size, n)
    class_labels(path, arrays["labels"], classes, error=DataError)
    return arrays, names


def write_shd(path, times, units, labels, *, n=700, speakers=None, names=None, dtype=np.float16):
    """Write recordings in the HDF5 format of SHD, with a fingerprint by which damage is seen when they are read.

    Parameters
    ----------
    path : path of the .h5 file, replaced if there is one.
    times, units : sequences of arrays, one a sample
        Seconds from the start, and units 0 to n - 1 (n up to 65,536), in any order.
    labels, speakers : int [S]
    names : sequence of str, optional
        Names of the classes.
    dtype : float type of the times in the file
        The format says float16, which rounds times near a second to 0.5 ms.

    Raises
    ------
    DataError
        If `path` is a folder, device or pipe, numbers of times, units, labels or speakers disagree, a value is out of
        range, or a unit, label or speaker is no whole number.

    Source: Cramer et al. 2022, The Heidelberg spiking data sets, section "Data format".
    """
    replaceable(path)
    times, units = (_records(path, *of) for of in (("times", times), ("units", units)))
    labels = class_labels(path, labels, 2**16, error=DataError)
    people = class_labels(path, [] if speakers is None else speakers, 2**16, what="speaker", error=DataError)
    names = [str(k) for k in names or []]
    if not len(times) == len(units) == len(labels) or len(people) not in (0, len(labels)) or len(labels) == 0:
        raise DataError(f"{len(times)} times, {len(units)} units, {len(labels)} labels, {len(people)} speakers")
    stamp = _Fingerprint()
    for k, t in enumerate(times):  # before float16, which makes infinity of what is too late
        _check_times(path, t, np.full(len(t), k))
    times = [t.astype(dtype, copy=False) for t in times]
    for k in range(0, len(times), BLOCK):
        part = slice(k, k + BLOCK)
        stamp.add(*_flat(path, _joined(times[part]), _joined(units[part]), n, k))
    stamp.add_labels(labels, people, names)
    image = io.BytesIO()  # a full disk under the HDF5 library ends in a crash; in memory 6 to 10 bytes an event
    with h5py.File(image, "w") as file:
        for key, records, kind in (("times", times, np.dtype(dtype)), ("units", units, np.dtype(np.uint16))):
            column = file.create_dataset(f"spikes/{key}", (len(records),), dtype=h5py.vlen_dtype(kind))
            for k, record in enumerate(records):
                column[k] = record.astype(kind)
        file["labels"] = labels.astype(np.uint16)
        if len(people):
            file["extra/speaker"] = people.astype(np.uint16)
        if names:
            file["extra/keys"] = np.array([k.encode() for k in names])
        file.attrs["nsim_fingerprint"] = stamp.hex()
    with enough_space(Path(path).parent, image.getbuffer().nbytes), atomic(path) as partial:
        partial.write_bytes(image.getbuffer())


def _records(path, what, records):
    """Arrays of numbers, one a sample, whatever these were."""
    records = [np.asarray(record) for record in records]
    for k, record in enumerate(records):
        if record.ndim != 1 or record.dtype.kind not in "iuf":
            raise DataError(
                f"{path}: {what} of sample {k} have shape {record.shape} and type {record.dtype}; expected numbers "
                "[events]: give one array for each sample"
            )
    return records
