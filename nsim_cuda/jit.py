"""Sizes that kernels share, and `cuda` as every file of kernels and device functions takes it."""

import warnings

from numba.extending import register_jitable

from nsim_cuda import shim

# Numba warns of each launch of few blocks. The sum of a loss is one block, and meant to be.
warnings.filterwarnings("ignore", message="Grid size .* low occupancy")

# Threads of a block. 256 leaves each of them 255 registers, the most that there are: a launch cannot fail for want of
# registers, and the sweeps are bound by the latency of their steps rather than by the number of resident threads.
BLOCK = 256
TILE = 256  # neurons of a block where a layer is not recurrent
TILE_BACKWARD = 64  # columns of a block of the backward sweep where nothing below wants a gradient
PARTIAL_BYTES = 24 << 20  # partial sums of a weight gradient, over all groups of samples
FLAT = 256  # threads of a block that goes over a flat array
MOST_BLOCKS = 4096  # of such blocks
MAX_RECURRENT = 4096
MAX_NEURONS = 65536

WARP = 32
WORDS = MAX_RECURRENT // WARP  # of one mask of the neurons of a block

inlined = register_jitable


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


def groups(batch: int, partial_bytes: int) -> int:
    """Groups of samples whose weight gradients are summed apart; a function of shapes only."""
    most = max(1, min(batch, PARTIAL_BYTES // max(1, partial_bytes)))
    return -(-batch // -(-batch // most))


def bare(x):
    """Arguments as kernels take them: device arrays without their wrapper, in tuples too."""
    if isinstance(x, tuple):
        parts = map(bare, x)
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return getattr(x, "array", x)


def start(kernel, grid, block, *args):
    """Launch a kernel. Everything that runs on the device begins here."""
    launched(kernel, grid, block, bare(args))


def launched(kernel, grid, block, args):
    kernel[grid, block](*args)
