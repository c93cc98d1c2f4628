"""Reads one HDF5 file of event recordings for `nsim.datasets.hdf5`, in a process of its own.

The HDF5 library can crash or loop for ever on a damaged file; here that costs a child process and not the user's
session. Run as a script: each line on standard input is a JSON request, each answer a JSON line followed by raw arrays.
Imports numpy and h5py only, so that it starts quickly.
"""

import hashlib
import json
import os
import sys

import h5py
import numpy as np

BLOCK = 256  # samples read at a time; their number takes 8 bits of a sort key
TIME_BITS, UNIT_BITS = 31, 16  # microseconds up to 35 minutes, 65,536 units
LONGEST = 2**TIME_BITS * 1e-6 - 1  # seconds
# Kinds of NumPy's types, in words.
KINDS = {"f": "floats (seconds)", "iu": "whole numbers, of an integer type", "S": "names, as bytes"}


class Refused(Exception):
    """The file is not what it should be; the text goes to the user."""


def sort_events(samples, us, units):
    """Times (int32 microseconds) and units (uint16) in order of (sample, time, unit); fewer than 2**17 samples."""
    key = (samples.astype(np.uint64) << np.uint64(TIME_BITS + UNIT_BITS)) | (
        us.astype(np.uint64) << np.uint64(UNIT_BITS)
    )
    key |= units.astype(np.uint64)
    key.sort()
    return (key >> np.uint64(UNIT_BITS)).astype(np.int64) & (2**TIME_BITS - 1), key & np.uint64(2**UNIT_BITS - 1)


def check_times(seconds, samples):
    """Refuse times (float [E]) that no recording can have; `samples` [E] are the numbers of theirs."""
    bad = ~((seconds >= 0) & (seconds < LONGEST))  # NaN is neither
    if bad.any():
        k = int(np.argmax(bad))
        raise Refused(
            f"sample {samples[k]} has an event at {seconds[k]} s; times are seconds (of microseconds, times * 1e-6), "
            f"finite, not negative, < {LONGEST:.0f}"
        )


def flatten(times, units, n, first=0):
    """Lists of times (float seconds) and units of some samples as checked flat arrays.

    Returns
    -------
    counts int64 [samples], us int32 [E], units uint16 [E], in order of (sample, time, unit).

    Raises Refused, naming the sample (counted from `first`) and the value.
    """
    counts = np.array([len(t) for t in times], np.int64)
    for k, u in enumerate(units):
        if len(u) != counts[k]:
            raise Refused(f"sample {first + k} has {counts[k]} times and {len(u)} units")
    if counts.sum() == 0:
        return counts, np.zeros(0, np.int32), np.zeros(0, np.uint16)
    sample = np.repeat(np.arange(len(counts)), counts)
    t = np.concatenate(times).astype(np.float64)  # widened before scaling: float16 microseconds overflow
    u = np.concatenate(units)
    check_times(t, first + sample)
    bad = ~((u >= 0) & (u < n) & (u == np.floor(u)))
    if bad.any():
        k = int(np.argmax(bad))
        raise Refused(f"sample {first + sample[k]} has an event of unit {u[k]}; expected 0 to {n - 1}, whole numbers")
    us, u = sort_events(sample, np.rint(t * 1e6), u)
    return counts, us.astype(np.int32), u.astype(np.uint16)


class Fingerprint:
    """Running digest of recordings as they come out of `flatten`, of labels, speakers and class names."""

    def __init__(self):
        self.hash = hashlib.blake2b(digest_size=16)

    def add(self, *arrays):
        for a in arrays:
            self.hash.update(np.ascontiguousarray(a).data)

    def add_labels(self, labels, speakers, names):
        self.add(labels, speakers, np.frombuffer(json.dumps(names).encode(), np.uint8))

    def hex(self):
        return self.hash.hexdigest()


def dataset(file, name, kind):
    """The dataset `name` of `file`, one value or record a sample, its (base) type of the given kind."""
    item = file.get(name)
    if not isinstance(item, h5py.Dataset):
        raise Refused(f"no dataset {name!r}; the file holds {sorted(file)[:8]}")
    base = h5py.check_vlen_dtype(item.dtype) if name.startswith("spikes/") else item.dtype
    if item.ndim != 1 or base is None or base.kind not in kind:
        raise Refused(
            f"dataset {name!r} has shape {item.shape} and type {base or item.dtype}; expected "
            f"{'a record' if name.startswith('spikes/') else 'one'} of {KINDS[kind]} for each sample"
        )
    return item, base


def read(file, size, n):
    """Yield (header, arrays) for blocks of recordings, then for labels and the rest. Nothing larger than the file."""
    times, time_type = dataset(file, "spikes/times", "f")
    units, unit_type = dataset(file, "spikes/units", "iu")
    labels, _ = dataset(file, "labels", "iu")
    total = len(labels)
    if not 0 < total <= size or len(times) != total or len(units) != total:
        raise Refused(f"{len(times)} records of times, {len(units)} of units, {total} labels; expected as many of each")
    stamp, events = Fingerprint(), 0
    for first in range(0, total, BLOCK):
        part = slice(first, min(first + BLOCK, total))
        counts, us, flat = flatten(list(times[part]), list(units[part]), n, first)
        events += len(us)
        if events * (time_type.itemsize + unit_type.itemsize) > size:
            raise Refused(f"records overlap: the first {part.stop} samples claim more events than the file has bytes")
        stamp.add(counts, us, flat)
        yield {"block": [len(counts), len(us)]}, (counts, us, flat)
    labels = labels[:].astype(np.int64)
    speakers = np.zeros(0, np.int64)
    if "extra/speaker" in file:
        speakers = dataset(file, "extra/speaker", "iu")[0][:].astype(np.int64)
        if len(speakers) != total:
            raise Refused(f"{len(speakers)} speakers for {total} samples")
    names = []
    if "extra/keys" in file:
        names = [k.decode("utf-8", "replace") for k in np.asarray(dataset(file, "extra/keys", "S")[0][:])]
    stamp.add_labels(labels, speakers, names)
    stored = file.attrs.get("nsim_fingerprint")
    if stored is not None and stored != stamp.hex():
        raise Refused("the recordings do not match the fingerprint that was stored with them: the file is damaged")
    yield {"end": [total, len(speakers)], "names": names, "fingerprint": stored}, (labels, speakers)


def answer(request, out):
    """Send all arrays of one file, or one line that says what is wrong with it."""
    try:
        size = os.path.getsize(request["path"])
        with h5py.File(request["path"], "r", locking=False) as file:
            for header, arrays in read(file, size, request["n"]):
                send(out, header, arrays)
    except Refused as error:
        send(out, {"error": str(error)})
    except MemoryError:
        send(out, {"error": "it claims more data than the memory holds: truncated or damaged"})
    except Exception as error:  # whatever h5py makes of a damaged file belongs to the user as text
        send(out, {"error": f"not a readable HDF5 file ({type(error).__name__}: {error})"})


def send(out, header, arrays=()):
    out.write(json.dumps(header).encode() + b"\n")
    for a in arrays:
        out.write(a.data)
    out.flush()


def limit_memory(size):
    """A damaged length field must not take the machine's memory; not every system can limit it."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = 4 * 2**30 + 4 * size
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def main():
    out = os.fdopen(os.dup(1), "wb", 1 << 20)
    os.dup2(2, 1)  # what a library prints must not get between the answers
    for line in sys.stdin.buffer:
        request = json.loads(line)
        limit_memory(os.path.getsize(request["path"]))
        answer(request, out)


if __name__ == "__main__":
    main()
