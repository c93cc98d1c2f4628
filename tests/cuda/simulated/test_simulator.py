"""The simulator itself: threads meet at barriers, a missing one shows, blocks may take turns, and an error ends all."""

from contextlib import nullcontext

import numpy as np
import pytest
from numba import types

from nsim_cuda import simulator
from nsim_cuda.shim import SIMULATED, cuda

THREADS = 8

pytestmark = pytest.mark.skipif(not SIMULATED, reason="a GPU is not the simulator")


def exchanged(step, barrier):
    """What each thread reads from the thread `step` further on, which writes in the round after a first barrier."""

    @cuda.jit
    def kernel(out):
        shared = cuda.shared.array(THREADS, types.float64)
        k = cuda.threadIdx.x
        shared[k] = -1
        cuda.syncthreads()
        shared[k] = k
        if barrier:
            cuda.syncthreads()
        out[k] = shared[(k + step) % THREADS]

    out = np.zeros(THREADS)
    kernel[1, THREADS](out)
    return out


@pytest.mark.parametrize("step", [1, THREADS - 1])
def test_a_missing_barrier_shows_whichever_way_the_value_goes(step):
    wanted = (np.arange(THREADS) + step) % THREADS
    np.testing.assert_array_equal(exchanged(step, barrier=True), wanted)
    assert (exchanged(step, barrier=False) == -1).any()


def test_blocks_take_turns_and_have_their_own_shared_memory():
    @cuda.jit
    def kernel(out, common):
        shared = cuda.shared.array(1, types.int64)
        for _ in range(9):
            if cuda.threadIdx.x == 0:
                shared[0] = common[0] = cuda.blockIdx.x
            cuda.syncthreads()
            out[cuda.blockIdx.x] += (common[0] != cuda.blockIdx.x) + 100 * (shared[0] != cuda.blockIdx.x)
            cuda.syncthreads()

    def disturbed():
        out = np.zeros(3, np.int64)
        kernel[3, 2](out, np.zeros(1, np.int64))
        return out

    assert not disturbed().any()
    with simulator.interleaved(0):
        assert 0 < disturbed().max() < 100
    assert not disturbed().any()


@pytest.mark.parametrize("blocks", [1, 3])
def test_threads_that_have_ended_are_not_waited_for(blocks):
    @cuda.jit
    def kernel(out):
        if cuda.threadIdx.x % 2:
            return
        cuda.syncthreads()
        out[cuda.threadIdx.x] = 1

    out = np.zeros(THREADS)
    with simulator.interleaved(0):
        kernel[blocks, THREADS](out)
    np.testing.assert_array_equal(out, np.arange(THREADS) % 2 == 0)


def test_an_error_in_one_thread_ends_the_block_and_the_next_launch_works():
    @cuda.jit
    def kernel(out):
        cuda.syncthreads()
        if cuda.threadIdx.x == 3:
            raise ArithmeticError("three")
        cuda.syncthreads()

    for taking_turns in (nullcontext(), simulator.interleaved(0)):
        with pytest.raises(ArithmeticError, match="three"), taking_turns:
            kernel[2, THREADS](np.zeros(1))
        test_threads_that_have_ended_are_not_waited_for(2)
