"""The one place for compiler flags and sizes that kernels share."""

from numba import njit
from numba.extending import register_jitable

from nsim.kernels.compiler import KernelCompiler
from nsim.kernels.disk_cache import cached

# 'contract' allows fused multiply-adds; 'reassoc' and 'nsz' let dot products vectorise. NaN and infinity keep their
# meaning, so that a diverging network is seen.
FASTMATH = {"contract", "reassoc", "nsz"}
# Without Numba's run time (_nrt) nothing in a kernel counts references: each view of a row would count one up and down,
# with an atomic instruction that two threads fight over. So kernels allocate nothing and return no array.
KERNEL = {
    "nogil": True, "error_model": "numpy", "fastmath": FASTMATH, "_nrt": False, "no_cfunc_wrapper": True,
    "pipeline_class": KernelCompiler,
}  # fmt: skip

LANES = 64  # neurons that one compare turns into one 64-bit mask
ROW = 16  # rows of weights are made multiples of so many numbers: vectors then never lie across two cache lines
CHUNK = 16  # steps of drive that are computed before the neurons take them: 16 rows of 200 floats stay in L1
CHUNK_BYTES = 2**17  # fewer steps where they would take more than this: a chunk shares L2 with weights and states
LONG_CHUNK = 256  # the same where the drive is a matrix product
SORTED_BYTES = 2**21  # of dL/dx in a chunk whose events are sorted by input: the more steps, the more events an input


def padded(n: int, to: int = LANES) -> int:
    """n rounded up to whole masks (or to a multiple of another number)."""
    return -(-n // to) * to


def n_groups(batch: int, partial_bytes: int) -> int:
    """Groups of samples whose weight gradients are summed apart; a function of shapes only, so that bits never depend
    on the number of threads. 16, or 8 where the partial sums would pass 32 MB."""
    return min(batch, 16 if 16 * partial_bytes <= 32e6 else 8)


def kernel(function):
    """`function` compiled, and kept on disk."""
    return cached(njit(**KERNEL)(function), function)


def exact_kernel(function):
    """The same, without fused or reordered arithmetic: every operation is rounded by itself."""
    return cached(njit(**KERNEL | {"fastmath": False})(function), function)


# For helpers called once a step: a call would pass each array as seven words on the stack. Nobody calls them from C.
inlined = register_jitable(forceinline=True, no_cfunc_wrapper=True)
