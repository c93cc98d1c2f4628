"""HDF5 files of others, read in a process of its own: a damaged one cannot crash or stall this one, or fill memory."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from nsim.errors import DataError, NsimError

CHILD = Path(__file__).with_name("hdf5_child.py")


class Reader:
    """A child process that reads HDF5 files.

    Parameters
    ----------
    seconds : float, optional
        Time after which a file counts as damaged. Default: two minutes, and a second more for each 2 MB.

    Used as a context manager; one Reader may read many files, one after the other, and starts a new child after a
    crash. While a file is open, these tell what is in it; they raise DataError for what cannot be read:

    - `names()`: paths of all datasets
    - `describe(name)`: dict with "shape", "dtype" and "records" (whether it has records of several lengths, of this
      type), or, where there is no such dataset, with what the file "held"
    - `read(name, first=0, last=None)`: its array; of records their lengths, int64 [K], and them one behind the other
    - `attribute(name)`: an attribute of the file as text, or None
    """

    def __init__(self, seconds=None):
        self.seconds, self.child, self.where = seconds, None, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None

    @contextlib.contextmanager
    def open(self, path, where=None):
        """Open a file for as long as the block lasts; errors call it `where`. DataError if it is not readable."""
        self.where, path = where or path, Path(path)
        seconds = 120 + path.stat().st_size / 2e6 if self.seconds is None else self.seconds
        if self.child is None:
            quiet = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self.child = subprocess.Popen(
                [sys.executable, "-P", str(CHILD)], env=quiet,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        child, late = self.child, threading.Event()
        timer = threading.Timer(seconds, lambda: (late.set(), child.kill()))
        timer.start()
        try:
            self._ask("open", str(path.resolve()))
            yield self
        except (EOFError, BrokenPipeError):
            code = child.wait()
            self.close()
            why = f"took more than {seconds:.0f} s" if late.is_set() else f"crashed (exit status {code})"
            raise DataError(f"{self.where}: the HDF5 library {why} on this file: damaged; get a new copy") from None
        except NsimError:  # between two answers
            raise
        except BaseException:
            self.close()  # half an answer may still be in the pipe
            raise
        finally:
            timer.cancel()

    def names(self) -> list[str]:
        return self._ask("names")[0]

    def describe(self, name) -> dict:
        return self._ask("describe", name)[0]

    def read(self, name, first=0, last=None):
        arrays = self._ask("read", name, first, last)[1]
        return arrays[0] if len(arrays) == 1 else arrays

    def attribute(self, name) -> str | None:
        return self._ask("attribute", name)[0]

    def _ask(self, *request):
        self.child.stdin.write(json.dumps(request).encode() + b"\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer = json.loads(line)
        if answer["error"]:
            raise DataError(f"{self.where}: {answer['error']}")
        return answer["value"], [self._array(*kind) for kind in answer["arrays"]]

    def _array(self, dtype, shape):
        raw = np.empty(math.prod(shape) * np.dtype(dtype).itemsize, np.uint8)
        if self.child.stdout.readinto(raw.data) != raw.size:
            raise EOFError
        return raw.view(dtype).reshape(shape)
