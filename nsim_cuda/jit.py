"""Sizes that kernels share, and `cuda` as every file of kernels and device functions takes it."""

import warnings

import numpy as np
from numba.extending import register_jitable

from nsim_cuda import shim

# Numba warns of each launch of few blocks. The sum of a loss is one block, and meant to be.
warnings.filterwarnings("ignore", message="Grid size .* low occupancy")

# Threads of a block. 256 leaves each of them 255 registers, the most that there are: a launch cannot fail for want of
# registers, and the sweeps are bound by the latency of their steps rather than by the number of resident threads.
BLOCK = 256
TILE = 256  # neurons of a block where a layer is not recurrent
TILE_BACKWARD = 64  # columns of a block of the backward sweep where nothing below wants a gradient
# Groups of samples in a backward sweep. A block takes the samples of its group one after the other, and one block of
# these kernels fills a multiprocessor of an H100 (8 warps of 130 to 240 registers), which has 132, a B200 148. A
# group more costs one more partial sum of the weight gradient, written and read once: 80 MiB, at 3 TB/s, are 0.06 ms. A
# sample costs the latency of its steps, by estimate a millisecond and more for 500. So only memory bounds the groups.
#
# Dense training in torch keeps 12 traces B x T x N of float32 for two hidden layers (measured, benchmarks/RESULTS.md).
# Of 5 % of that, 0.6 traces, lists with room to spare take 0.3: a quarter of a trace is left for partial sums, and as
# much for the history of layers that learn. That is 24, 15 and 5 MiB at 200 neurons (SHD, N-MNIST, Fashion-MNIST),
# which may leave three quarters of a card idle for the sake of a few MiB, and 122, 73 and 24 MiB at 1000, where a group
# takes 3.8: hence the floor of 80 MiB, with which layers of 400 fill a card. With batches of 256, in MiB and as a share
# of what torch keeps:
#
#                                              input -> 200   200 -> 200   input -> 1000   1000 -> 1000
#     SHD            700 inputs, 500 steps     17, 1.5 %      20, 1.7 %    21, 0.4 %       122, 2.1 %
#     N-MNIST       1156 inputs, 300 steps     28, 4.0 %      20, 2.8 %    35, 1.0 %        76, 2.2 %
#     Fashion-MNIST  784 inputs, 100 steps     19, 8.2 %      20, 8.3 %    24, 2.0 %        76, 6.5 %
#
# Layers go one after the other, so that the largest number of a network counts, not their sum.
FILLING = 132  # blocks beyond which groups take memory and save little time
PARTIAL_BYTES = 80 << 20  # for partial sums, and for history, or a quarter of a trace where that is more
FREE_BYTES = 8 << 20  # less than this is never saved: each sample is a group
FLAT = 256  # threads of a block that goes over a flat array
MOST_BLOCKS = 4096  # of such blocks
MAX_RECURRENT = 4096
MAX_NEURONS = 65536

WARP = 32
WORDS = MAX_RECURRENT // WARP  # of one mask of the neurons of a block

inlined = register_jitable


@inlined
def quotient(a, b):
    """a // b of whole numbers from 0 to 2^32 - 1: a division of 64 bits takes several times as many instructions.

    A `range` with a stride makes one when it begins, so that loops within a step count with `while`."""
    return np.int64(np.uint32(a) // np.uint32(b))


if shim.SIMULATED:

    def quotient(a, b):  # NumPy's numbers take thirty times as long
        assert a >= 0 and b > 0
        return a // b


class _Simulated:
    """What a device function sees as `cuda` in the simulator, which swaps the name in the file of the kernel only."""

    def __getattr__(self, name):
        from numba.cuda.simulator.kernel import _get_kernel_context

        return getattr(_get_kernel_context() or shim.cuda, name)


cuda = _Simulated() if shim.SIMULATED else shim.cuda


def padded(n: int) -> int:
    """n rounded up to whole warps."""
    return -(-n // WARP) * WARP


def block_for(n: int) -> int:
    """Threads of a block that works on n things."""
    return min(BLOCK, padded(n))


def blocks(size: int) -> int:
    """Blocks that go over a flat array, a few entries for each thread where there are many."""
    return max(1, min(-(-size // FLAT), MOST_BLOCKS))


def tiles(n: int, recurrent: bool) -> tuple[int, int]:
    """Number of tiles of a layer of n neurons and neurons of a tile; a recurrent layer is one tile."""
    count = 1 if recurrent else -(-n // TILE)
    return count, padded(-(-n // count))


def backward_grid(shape, itemsize, partial_bytes, history, whole) -> tuple[int, int, int]:
    """Groups of samples whose weight gradients are summed apart, tiles of columns, and columns of a tile.

    Of a layer's `shape` [B, T, N], bytes of its weights, and arrays [T, N] of its history that a group keeps: the same
    on every card, as sums are. A `whole` layer is one tile.
    """
    batch, steps, n = shape
    count = 1 if whole else -(-n // TILE_BACKWARD)
    trace = batch * steps * n * itemsize
    history_bytes = history * (steps + 1) * n * itemsize
    most = batch
    if batch * (partial_bytes + history_bytes) > FREE_BYTES:
        room = max(PARTIAL_BYTES, trace // 4)
        most = min(batch, FILLING // count, *(room // size for size in (partial_bytes, history_bytes) if size))
    return -(-batch // -(-batch // max(1, most))), count, padded(-(-n // count))


def bare(x):
    """Arguments as kernels take them: device arrays without their wrapper, in tuples too."""
    if isinstance(x, tuple):
        parts = map(bare, x)
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return getattr(x, "array", x)


def start(kernel, grid, block, *args):
    """Launch a kernel. Everything that runs on the device begins here. `grid` is a number of blocks, or a tuple."""
    # The launch of a real device refuses NumPy's integers, the simulator's takes them.
    grid = tuple(map(int, grid)) if isinstance(grid, tuple) else int(grid)
    launched(kernel, grid, int(block), bare(args))


def launched(kernel, grid, block, args):
    kernel[grid, block](*args)
