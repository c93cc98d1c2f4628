"""A list in the manner of nsim_cuda.registry of kernels with one fault each, which the compile check has to find."""

import math
from types import SimpleNamespace

from numba import float32, int32

from nsim_cuda.shim import cuda

LIVE = 48  # values that a thread holds at once
OWN = 256  # numbers of an array of its own


def many_live(x, y):
    """LIVE sums that are all needed to the end."""
    sums = cuda.local.array(LIVE, float32)
    i = cuda.grid(1)
    for k in range(LIVE):
        sums[k] = x[i + k]
    for _ in range(int32(x[0])):
        for k in range(LIVE):
            sums[k] = sums[k] * sums[(k + 7) % LIVE] + x[i]
    for k in range(LIVE):
        y[i + k] = sums[k]


@cuda.jit
def stack(x, y):
    """An array of a thread's own that is indexed by data, which registers are not."""
    own = cuda.local.array(OWN, float32)
    i = cuda.grid(1)
    for k in range(OWN):
        own[k] = x[i + k]
    y[i] = own[int32(x[i]) & (OWN - 1)]


@cuda.jit
def double(x, y):
    """A literal 1.0 is a float64 and takes the sum with it."""
    i = cuda.grid(1)
    y[i] = math.sqrt(1.0 + x[i])


@cuda.jit
def foreign(x, y):
    """No GPU has this method of an array."""
    y[0] = x.tolist()


def make_forgotten(factor):
    @cuda.jit
    def kernel(x, y):
        i = cuda.grid(1)
        y[i] = factor * x[i]

    return kernel


# A dispatcher without a decorator: no reading of the source finds this one.
unlisted = cuda.jit(lambda x, y: None)


def entry(name, kernel, threads=128, stack=0):
    return SimpleNamespace(
        name=name, kernel=kernel, types=(float32[::1], float32[::1]), threads=threads, shared=0, stack=stack
    )


def kernels():
    return [
        entry("spilling", cuda.jit(max_registers=24)(many_live)),
        entry("crowded", cuda.jit(many_live), threads=1024),
        entry("stack", stack),
        entry("declared stack", stack, stack=4 * OWN),
        entry("double", double),
        entry("foreign", foreign),
        entry("twice", stack, stack=4 * OWN),
        entry("twice", stack, stack=4 * OWN),
    ]
