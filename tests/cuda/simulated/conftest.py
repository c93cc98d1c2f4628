"""These tests need a device: the simulator (see `tests/cuda/test_simulated.py`) or a GPU. Else they are not
collected."""

import sys
import threading

import numpy as np
from numba.np.numpy_support import as_dtype

from nsim import cuda
from nsim_cuda import jit
from nsim_cuda.shim import SIMULATED

collect_ignore_glob = [] if cuda.is_available() else ["test_*.py"]

if SIMULATED:
    from numba.cuda.simulator import kernel, kernelapi

    # Blocks so small that tiny layers have several of them. Set here, before the kernels are imported.
    jit.BLOCK, jit.TILE, jit.TILE_BACKWARD, jit.FLAT, jit.MOST_BLOCKS = 32, 32, 16, 4, 2
    lock = threading.Lock()

    def array(self, shape, dtype):
        """A shared array, by the line that asks for it. The simulator's own makes two where two threads ask at a time.

        It begins as garbage, as on a GPU.
        """
        frame = sys._getframe(1)
        place = frame.f_code.co_filename, frame.f_lineno
        with lock:
            if place not in self._allocations:
                dtype = as_dtype(dtype)
                self._allocations[place] = np.full(shape, np.nan if dtype.kind == "f" else 0xAAAA, dtype)
            return self._allocations[place]

    kernelapi.FakeCUDAShared.array = array

    class Block:
        """One simulated block. The simulator's own waits for its threads in a loop, which costs most of the time."""

        def __init__(self, function, grid_dim, block_dim, debug):
            self.function, self._grid_dim, self._block_dim = function, grid_dim, block_dim
            self.turn, self.failure = threading.Condition(), None
            self.live = self.waiting = self.round = 0

        def run(self, place, *args):
            def body():
                try:
                    self.function(*args)
                except BaseException as error:
                    self.failure = self.failure or error
                finally:
                    with self.turn:
                        self.live -= 1
                        self.pass_if_complete()

            threads = [kernel.BlockThread(body, self, place, k, False) for k in np.ndindex(*self._block_dim)]
            self.live = len(threads)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if self.failure is not None:
                raise self.failure

        def barrier(self):
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

    kernel.BlockManager, kernel.BlockThread.syncthreads = Block, lambda thread: thread._manager.barrier()


def pytest_configure(config):
    # The hash of dropout calculates modulo 2^64, of which the simulator's NumPy warns.
    config.addinivalue_line("filterwarnings", "ignore:overflow encountered in scalar:RuntimeWarning")
