"""What Numba's CUDA simulator needs to run kernels of many threads rightly and in bearable time. See `shim`."""

import random
import sys
import threading
from contextlib import contextmanager

import numpy as np
from numba.cuda.simulator import kernel, kernelapi
from numba.np.numpy_support import as_dtype


def shared_array(self, shape, dtype):
    """A shared array of a block, by the line that asks for it; it begins as garbage, as on a GPU."""
    frame, block = sys._getframe(1), threading.current_thread().block
    place = frame.f_code.co_filename, frame.f_lineno
    if place not in block.shared:
        dtype = as_dtype(dtype)
        block.shared[place] = np.full(shape, np.nan if dtype.kind == "f" else 0xAAAA, dtype)
    return block.shared[place]


_idle = []  # workers between two blocks
_order = None  # a random generator while the blocks of a launch take turns


class Worker(threading.Thread):
    """A thread of one block after the other: starting a thread costs more than most of them compute."""

    def __init__(self):
        super().__init__(daemon=True)
        self.turn = threading.Lock()
        self.turn.acquire()
        self.start()

    def run(self):
        while True:
            self.turn.acquire()
            self.block.work()

    def syncthreads(self):
        self.block.barrier(self)


class Block:
    """One simulated block, whose threads run one at a time: each as far as the next barrier, where the next goes on.

    From barrier to barrier their order is turned round, so that a value which one thread writes and another reads
    without a barrier between is missed in one order or the other. The simulator's own start anew for each block, run
    all at once, and are waited for in a loop, which keeps them from running.
    """

    def __init__(self, function, grid_dim, block_dim, debug):
        self.function, self._grid_dim, self._block_dim, self.shared = function, grid_dim, block_dim, {}

    def run(self, place, *args):
        """Run all threads of the block at `place` to their end; raises what one of them raised. Where blocks take
        turns, the first of a launch runs them all."""
        if _order is None:
            blocks = [self.begin(place, args)]
        elif any(place):
            return
        else:
            parts = self.function, self._grid_dim, self._block_dim, False
            blocks = [Block(*parts).begin(place, args) for place in np.ndindex(*self._grid_dim)]
        running = blocks[:]
        while running:
            block = _order.choice(running) if _order else running[0]
            block.go_on()
            if not block.waiting:
                running.remove(block)
        for block in blocks:
            if block.failure is not None:
                raise block.failure

    def begin(self, place, args):
        """Give each thread a worker."""
        self.args, self.failure, self.arrived, self.waiting = args, None, [], []
        self.done = threading.Lock()
        self.done.acquire()
        for index in np.ndindex(*self._block_dim):
            worker = _idle.pop() if _idle else Worker()
            worker.block, worker.blockIdx, worker.threadIdx = self, kernel.Dim3(*place), kernel.Dim3(*index)
            self.waiting.append(worker)
        return self

    def go_on(self):
        """Run to the end, or, where blocks take turns, as far as the next barrier."""
        self.pass_on()
        self.done.acquire()
        self.waiting, self.arrived = self.arrived, []

    def work(self):
        """What one thread does, in its turn."""
        try:
            if self.failure is None:
                self.function(*self.args)
        except BaseException as error:  # raised again in the thread that launched
            self.failure = self.failure or error
        _idle.append(threading.current_thread())
        self.pass_on()

    def barrier(self, worker):
        """Wait until every thread of the block that still runs has come here."""
        self.arrived.append(worker)
        self.pass_on()
        worker.turn.acquire()
        if self.failure is not None:
            raise RuntimeError("another thread of the block failed")

    def pass_on(self):
        """Let a thread go on that has not come to the barrier; where all have, the last that came, or a block."""
        if not self.waiting and _order is None:
            self.waiting, self.arrived = self.arrived, []
        (self.waiting.pop().turn if self.waiting else self.done).release()


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
    """Blocks of 32 threads, for flat arrays of 4: each is a thread of the system here, and tiny layers then have
    several blocks. Call it before kernels are imported."""
    from nsim_cuda import jit

    jit.BLOCK, jit.TILE, jit.TILE_BACKWARD, jit.FLAT, jit.MOST_BLOCKS = 32, 32, 16, 4, 2


def prepare():
    """Put this in place, once, before a kernel runs."""
    kernelapi.FakeCUDAShared.array = shared_array
    kernel.BlockManager = Block
