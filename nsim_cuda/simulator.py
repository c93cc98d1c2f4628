"""What Numba's CUDA simulator needs to run kernels of many threads rightly and in bearable time. See `shim`."""

import sys
import threading

import numpy as np
from numba.cuda.simulator import kernelapi
from numba.np.numpy_support import as_dtype

SWITCH = 1e-4  # seconds; the thread that waits for a block does so in a loop, which would hold the others up for 5 ms
_lock = threading.Lock()


def shared_array(self, shape, dtype):
    """A shared array, by the line that asks for it: the simulator's own makes two where two threads ask at a time.

    It begins as garbage, as on a GPU.
    """
    frame = sys._getframe(1)
    place = frame.f_code.co_filename, frame.f_lineno
    with _lock:
        if place not in self._allocations:
            dtype = as_dtype(dtype)
            self._allocations[place] = np.full(shape, np.nan if dtype.kind == "f" else 0xAAAA, dtype)
        return self._allocations[place]


def small_blocks():
    """Blocks of 32 threads: each is a thread of the system here. Call it before kernels are imported."""
    from nsim_cuda import jit

    jit.BLOCK = jit.TILE = jit.TILE_BACKWARD = 32


def prepare():
    """Put this in place, once, before a kernel runs."""
    kernelapi.FakeCUDAShared.array = shared_array
    sys.setswitchinterval(SWITCH)
