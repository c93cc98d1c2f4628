"""A list in the manner of nsim_cuda.registry with one sound kernel, which the compile check has to pass."""

from types import SimpleNamespace

from numba import float32, int32

from nsim_cuda.shim import cuda


@cuda.jit(device=True)
def decay(v, x):
    return float32(0.9) * v + x


@cuda.jit
def total(x, y, steps):
    """A decaying sum over neighbours, through shared memory."""
    near = cuda.shared.array(128, float32)
    i = cuda.grid(1)
    near[cuda.threadIdx.x] = x[i]
    cuda.syncthreads()
    v = float32(0)
    for t in range(steps):
        v = decay(v, near[(cuda.threadIdx.x + t) & 127])
    y[i] = v


def kernels():
    types = (float32[::1], float32[::1], int32)
    return [SimpleNamespace(name="total", kernel=total, types=types, threads=128, shared=0, stack=0)]
