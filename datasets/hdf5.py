"""Recordings in HDF5, one variable-length record a sample (the format of SHD): safe reading, and writing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np

from nsim.checks import class_labels, replaceable
from nsim.datasets.archives import enough_space, unpacked
from nsim.datasets.hdf5_child import BLOCK, Fingerprint, Refused, check_times, flatten
from nsim.errors import DataError
from nsim.files import atomic

CHILD = Path(__file__).with_name("hdf5_child.py")


class Reader:
    """A child process that reads HDF5 files, so that a damaged one can neither crash nor stall this process.

    Parameters
    ----------
    seconds : float, optional
        Time after which a file counts as damaged. Default: two minutes, and a second more for each 2 MB.

    Used as a context manager; one Reader may read many files, and starts a new child after a crash.
    """

    def __init__(self, seconds=None):
        self.seconds = seconds
        self.child = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None

    def read(self, path, n):
        """All arrays of one .h5 file; see `read_recordings`."""
        path = Path(path)
        if self.child is None:
            quiet = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self.child = subprocess.Popen(
                [sys.executable, "-P", str(CHILD)], env=quiet,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        seconds = 120 + path.stat().st_size / 2e6 if self.seconds is None else self.seconds
        late = threading.Event()
        timer = threading.Timer(seconds, lambda: (late.set(), self.child.kill()))
        timer.start()
        try:
            self.child.stdin.write(json.dumps({"path": str(path.resolve()), "n": n}).encode() + b"\n")
            self.child.stdin.flush()
            error, arrays, names = _collect(self.child.stdout)
        except (EOFError, BrokenPipeError):
            code = self.child.wait()
            self.close()
            why = f"took more than {seconds:.0f} s" if late.is_set() else f"crashed (exit status {code})"
            raise DataError(f"{path}: the HDF5 library {why} on this file: damaged; fetch or make it anew") from None
        except BaseException:
            self.close()  # half an answer may still be in the pipe
            raise
        finally:
            timer.cancel()
        if error:
            raise DataError(f"{path}: {error}")
        return arrays, names


def _collect(stream):
    """One answer of the child: (error or None, arrays, class names)."""
    blocks = []
    while True:
        header = json.loads(_whole(stream.readline(), b"\n"))
        if "block" not in header:
            break
        samples, events = header["block"]
        blocks.append([_array(stream, *of) for of in ((np.int64, samples), (np.int32, events), (np.uint16, events))])
    if "error" in header:
        return header["error"], None, None
    counts, times, units = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    labels, speakers = (_array(stream, np.int64, k) for k in header["end"])
    arrays = {"times": times, "units": units, "starts": row_starts(counts), "labels": labels}
    if len(speakers):
        arrays["speakers"] = speakers
    if header["fingerprint"]:
        arrays["fingerprint"] = np.frombuffer(bytes.fromhex(header["fingerprint"]), np.uint8)
    return None, arrays, header["names"]


def _whole(data, end):
    if not data.endswith(end):
        raise EOFError
    return data


def _array(stream, dtype, count):
    size = count * np.dtype(dtype).itemsize
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return np.frombuffer(data, dtype)


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
    reader : Reader, optional
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
    with unpacked(path, scratch) as plain:
        try:
            arrays, names = reader.read(plain, n)
        except DataError as error:
            raise DataError(str(error).replace(str(plain), str(path))) from None
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
    stamp = Fingerprint()
    try:
        for k, t in enumerate(times):  # before float16, which makes infinity of what is too late
            check_times(t, np.full(len(t), k))
        times = [t.astype(dtype, copy=False) for t in times]
        for k in range(0, len(times), BLOCK):
            stamp.add(*flatten(times[k : k + BLOCK], units[k : k + BLOCK], n, k))
    except Refused as error:
        raise DataError(f"{path}: {error}") from None
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
