"""64 comparisons at once: the bit mask of the neurons that fire or may be active, and lists made of it."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.cpython.unsafe.numbers import trailing_zeros
from numba.extending import intrinsic

from nsim.kernels.jit import LANES, inlined

ONE = np.uint64(1)
LAST = np.uint64(LANES - 1)


def _load_lanes(context, builder, signature, args):
    """The LANES consecutive floats of a 1-d array from an index on, as one vector value."""
    array_type = signature.args[0]
    array = context.make_array(array_type)(context, builder, args[0])
    element = context.get_value_type(array_type.dtype)
    vector = ir.VectorType(element, LANES)
    start = builder.gep(array.data, [args[1]])
    load = builder.load(builder.bitcast(start, vector.as_pointer()))
    load.align = context.get_abi_sizeof(element)
    return load, vector, element


@intrinsic
def _above(typingctx, u, start, level):
    """Bit k is set where u[start + k] > level."""

    def codegen(context, builder, signature, args):
        lanes, vector, _ = _load_lanes(context, builder, signature, args)
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), args[2], ir.Constant(ir.IntType(32), 0))
        spread = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        mask = builder.fcmp_ordered(">", lanes, builder.shuffle_vector(one, one, spread))
        return builder.bitcast(mask, ir.IntType(LANES))

    return types.uint64(u, types.intp, u.dtype), codegen


# Plain functions around the intrinsics: an intrinsic is pickled with a random number, and a kernel that closes over a
# function that names one would never be found in the disk cache.
@inlined
def above(u, start, level):
    """Bit k is set where u[start + k] > level."""
    return _above(u, start, level)


# Places in the lists are unsigned here: a signed index is asked each time whether it counts from the end.
@inlined
def append_bits(mask, start, out, count):
    """Write start + k for each set bit k to out[count:], ascending; returns the new count."""
    start, count = np.uint64(start), np.uint64(count)
    while mask != 0:
        out[count] = start + trailing_zeros(mask)
        count += ONE
        mask &= mask - ONE
    return np.int64(count)


@inlined
def append_sorted(mask, start, u, band, fired, k, sites, site_u, m):
    """Of the neurons start + bit, those with u > 0 go to fired[k:], those with |u| < band to sites[m:] and site_u[m:].

    `mask` is above(u, start, -band). Returns the new k and m. What is written behind them is overwritten or never read.
    """
    start, k, m = np.uint64(start), np.uint64(k), np.uint64(m)
    # The first is taken unseen, since whether there is one cannot be predicted: with none, `start` enters no list.
    n = start + (trailing_zeros(mask) & LAST)
    while True:
        fired[k] = sites[m] = n
        site_u[m] = u[n]
        k += np.uint64(u[n] > 0)
        m += np.uint64(abs(u[n]) < band)
        mask &= mask - ONE
        if mask == 0:
            return np.int64(k), np.int64(m)
        n = start + trailing_zeros(mask)
