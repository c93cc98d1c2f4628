"""The simulator itself: threads meet at barriers, a missing one shows, and an error in one thread ends them all."""

import numpy as np
import pytest
from numba import types

from nsim_cuda.shim import cuda

THREADS = 8


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


def test_threads_that_have_ended_are_not_waited_for():
    @cuda.jit
    def kernel(out):
        if cuda.threadIdx.x % 2:
            return
        cuda.syncthreads()
        out[cuda.threadIdx.x] = 1

    out = np.zeros(THREADS)
    kernel[2, THREADS](out)
    np.testing.assert_array_equal(out, np.arange(THREADS) % 2 == 0)


def test_an_error_in_one_thread_ends_the_block_and_the_next_launch_works():
    @cuda.jit
    def kernel(out):
        cuda.syncthreads()
        if cuda.threadIdx.x == 3:
            raise ArithmeticError("three")
        cuda.syncthreads()

    with pytest.raises(ArithmeticError, match="three"):
        kernel[2, THREADS](np.zeros(1))
    test_threads_that_have_ended_are_not_waited_for()
