"""What Numba's CUDA simulator needs to run kernels of many threads rightly and in bearable time. See `shim`."""

import sys
import threading

import numpy as np
from numba.cuda.simulator import kernel, kernelapi
from numba.np.numpy_support import as_dtype

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


class Block:
    """One simulated block. The simulator's own waits for its threads in a loop, which keeps them from running."""

    def __init__(self, function, grid_dim, block_dim, debug):
        self.function, self._grid_dim, self._block_dim, self.debug = function, grid_dim, block_dim, debug
        self.turn, self.failure = threading.Condition(), None
        self.live = self.waiting = self.round = 0

    def run(self, place, *args):
        """Run all threads of the block at `place` to their end; raises what one of them raised."""

        def body():
            try:
                self.function(*args)
            except BaseException as error:  # raised again below, in the thread that launched
                self.failure = self.failure or error
            finally:
                with self.turn:
                    self.live -= 1
                    self.pass_if_complete()

        threads = [kernel.BlockThread(body, self, place, k, self.debug) for k in np.ndindex(*self._block_dim)]
        self.live = len(threads)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def barrier(self):
        """Wait until every thread of the block that still runs has come here."""
        with self.turn:
            own = self.round
            self.waiting += 1
            self.pass_if_complete()
            while self.round == own and self.failure is None:
                self.turn.wait()
        if self.failure is not None:
            raise RuntimeError("another thread of the block failed")

    def pass_if_complete(self):
        if self.waiting == self.live or self.failure is not None:
            self.waiting, self.round = 0, self.round + 1
            self.turn.notify_all()


def small_blocks():
    """Blocks of 32 threads, for flat arrays of 4: each is a thread of the system here, and tiny layers then have
    several blocks. Call it before kernels are imported."""
    from nsim_cuda import jit

    jit.BLOCK, jit.TILE, jit.TILE_BACKWARD, jit.FLAT, jit.MOST_BLOCKS = 32, 32, 16, 4, 2


def prepare():
    """Put this in place, once, before a kernel runs."""
    kernelapi.FakeCUDAShared.array = shared_array
    kernel.BlockManager, kernel.BlockThread.syncthreads = Block, lambda thread: thread._manager.barrier()
