"""What Numba's CUDA simulator needs to run kernels of many threads rightly and in bearable time. See `shim`."""

import random
import sys
import threading
from contextlib import contextmanager
from functools import partial

import greenlet
import numpy as np
from numba.cuda.simulator import kernel, kernelapi
from numba.np.numpy_support import as_dtype


def shared_array(self, shape, dtype):
    """A shared array of a block, by the line that asks for it; it begins as garbage, as on a GPU."""
    frame, shared = sys._getframe(1), threading.current_thread().shared
    place = frame.f_code.co_filename, frame.f_lineno
    if place not in shared:
        dtype = as_dtype(dtype)
        shared[place] = np.full(shape, np.nan if dtype.kind == "f" else 0xAAAA, dtype)
    return shared[place]


def syncthreads():
    greenlet.getcurrent().parent.switch()


_order = None  # a random generator while the blocks of a launch take turns


class Block:
    """One simulated block. Its threads run one at a time, each as far as the next barrier, where the next goes on.

    From barrier to barrier their order is turned round, so that a value which one thread writes and another reads
    without a barrier between is missed in one order or the other. The simulator's own threads are those of the
    operating system, start anew for each block, run all at once, and are waited for in a loop, which keeps them from
    running. Here they are greenlets, whose turns cost little more than a call.
    """

    def __init__(self, function, grid_dim, block_dim, debug):
        self.function, self._grid_dim, self._block_dim = function, grid_dim, block_dim

    def run(self, place, *args):
        """Run all threads of the block at `place` to their end; raises what one of them raises. Where blocks take
        turns, the first of a launch runs them all."""
        if _order is None:
            running = [self.begin(place, args)]
        elif any(place):
            return
        else:
            parts = self.function, self._grid_dim, self._block_dim, False
            running = [Block(*parts).begin(place, args) for place in np.ndindex(*self._grid_dim)]
        while running:
            block = _order.choice(running) if _order else running[0]
            block.go_on()
            if not block.threads:
                running.remove(block)

    def begin(self, place, args):
        """Make a greenlet of each thread."""
        self.place, self.shared = kernel.Dim3(*place), {}
        call = partial(self.function, *args)
        self.threads = [(kernel.Dim3(*index), greenlet.greenlet(call)) for index in np.ndindex(*self._block_dim)]
        return self

    def go_on(self):
        """Every thread as far as the next barrier, or to its end. Numba looks up the place of a thread on the current
        thread of the operating system, so it is put there before each turn."""
        current = threading.current_thread()
        current.blockIdx, current.shared, current.syncthreads = self.place, self.shared, syncthreads
        for index, thread in reversed(self.threads):
            current.threadIdx = index
            thread.switch()
        self.threads = [one for one in reversed(self.threads) if one[1]]


@contextmanager
def interleaved(seed):
    """Within it, the blocks of a launch run by turns, from barrier to barrier in random order: one that reads or writes
    what is another's goes wrong."""
    global _order
    _order = random.Random(seed)
    try:
        yield
    finally:
        _order = None


def small_blocks():
    """Blocks of 32 threads, for flat arrays of 4: each of them is simulated, and tiny layers then have several
    blocks. Call it before kernels are imported."""
    from nsim_cuda import jit

    jit.BLOCK, jit.TILE, jit.TILE_BACKWARD, jit.FLAT, jit.MOST_BLOCKS = 32, 32, 16, 4, 2


def prepare():
    """Put this in place, once, before a kernel runs."""
    kernelapi.FakeCUDAShared.array = shared_array
    kernel.BlockManager = Block
