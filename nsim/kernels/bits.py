"""64 comparisons at once: the bit mask of the neurons that fire or are active, and its lowest set bit."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.cpython.unsafe.numbers import trailing_zeros
from numba.extending import intrinsic

from nsim.kernels.jit import LANES, inlined

ONE = np.uint64(1)


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
def _positive(typingctx, u, start):
    """Bit k is set where u[start + k] > 0."""

    def codegen(context, builder, signature, args):
        lanes, vector, element = _load_lanes(context, builder, signature, args)
        mask = builder.fcmp_ordered(">", lanes, ir.Constant(vector, [ir.Constant(element, 0.0)] * LANES))
        return builder.bitcast(mask, ir.IntType(LANES))

    return types.uint64(u, types.intp), codegen


@intrinsic
def _inside(typingctx, u, start, band):
    """Bit k is set where |u[start + k]| < band."""

    def codegen(context, builder, signature, args):
        lanes, vector, _ = _load_lanes(context, builder, signature, args)
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), args[2], ir.Constant(ir.IntType(32), 0))
        spread = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        upper = builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), spread)
        lower = builder.fneg(upper)
        mask = builder.and_(builder.fcmp_ordered("<", lanes, upper), builder.fcmp_ordered(">", lanes, lower))
        return builder.bitcast(mask, ir.IntType(LANES))

    return types.uint64(u, types.intp, u.dtype), codegen


# Plain functions around the intrinsics: an intrinsic is pickled with a random number, and a kernel that closes over a
# function that names one would never be found in the disk cache.
@inlined
def positive(u, start):
    """Bit k is set where u[start + k] > 0."""
    return _positive(u, start)


@inlined
def inside(u, start, band):
    """Bit k is set where |u[start + k]| < band."""
    return _inside(u, start, band)


@inlined
def append_bits(mask, start, out, count):
    """Write start + k for each set bit k to out[count:], ascending; returns the new count."""
    while mask != 0:
        out[count] = start + trailing_zeros(mask)
        count += 1
        mask &= mask - ONE
    return count


@inlined
def append_sites(mask, start, u, out, out_u, count):
    """The same, with u[start + k] beside it in out_u."""
    while mask != 0:
        n = start + trailing_zeros(mask)
        out[count] = n
        out_u[count] = u[n]
        count += 1
        mask &= mask - ONE
    return count
