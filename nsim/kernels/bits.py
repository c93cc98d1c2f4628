"""64 comparisons at once: the bit mask of the neurons that fire or may be active, and lists made of it."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.cpython.unsafe.numbers import trailing_zeros
from numba.extending import intrinsic

from nsim.kernels.jit import LANES, inlined
from nsim.kernels.vectors import Numbers, constant, spread

ONE = np.uint64(1)
LAST = np.uint64(LANES - 1)


def _masks(test):
    """An intrinsic f(u, start, level): bit k of 64 is set where test(u[start + k], level) holds."""

    def f(typingctx, u, start, level):
        def codegen(context, builder, signature, args):
            values = Numbers(context, builder, signature.args[0], args[0])
            found = test(builder, values.load(args[1], LANES), spread(builder, args[2], LANES), 8 * values.size)
            return builder.bitcast(found, ir.IntType(LANES))

        return types.uint64(u, types.intp, u.dtype), codegen

    return intrinsic(f)


def _size_below(builder, values, level, width):
    without_sign = constant(ir.IntType(width), [2 ** (width - 1) - 1] * LANES)
    size = builder.and_(builder.bitcast(values, without_sign.type), without_sign)
    return builder.fcmp_ordered("<", builder.bitcast(size, values.type), level)


_above = _masks(lambda builder, values, level, width: builder.fcmp_ordered(">", values, level))
_inside = _masks(_size_below)


@intrinsic
def _popcount(typingctx, mask):
    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


# Plain functions around the intrinsics: an intrinsic is pickled with a random number, and a kernel that closes over a
# function that names one would never be found in the disk cache.
@inlined
def above(u, start, level):
    """Bit k is set where u[start + k] > level."""
    return _above(u, start, level)


@inlined
def inside(u, start, level):
    """Bit k is set where |u[start + k]| < level."""
    return _inside(u, start, level)


@inlined
def popcount(mask):
    """Number of bits that are set."""
    return _popcount(mask)


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


# How many bits are set cannot be predicted, and a branch taken wrongly costs as much as some twenty operations. So the
# first few are written unseen, and the list grows by their number: what is behind its end is overwritten or never read.
@inlined
def take(mask, start, out, at):
    """Write the neuron of the lowest bit, whatever that is without one, and go on to the next."""
    n = start + (trailing_zeros(mask) & LAST)
    out[at] = n
    return mask & (mask - ONE), at + ONE, n


@inlined
def append_spikes(mask, start, out, count):
    """append_bits for lists with room for 64 more."""
    start, at, end = np.uint64(start), np.uint64(count), np.uint64(count) + popcount(mask)
    mask, at, _ = take(mask, start, out, at)
    mask, at, _ = take(mask, start, out, at)
    while mask != 0:
        mask, at, _ = take(mask, start, out, at)
    return np.int64(end)


@inlined
def take_site(mask, start, u, sites, site_u, at):
    mask, after, n = take(mask, start, sites, at)
    site_u[at] = u[n]
    return mask, after


@inlined
def append_sites(mask, start, u, sites, site_u, count):
    """The same, with u of each neuron."""
    start, at, end = np.uint64(start), np.uint64(count), np.uint64(count) + popcount(mask)
    mask, at = take_site(mask, start, u, sites, site_u, at)
    mask, at = take_site(mask, start, u, sites, site_u, at)
    mask, at = take_site(mask, start, u, sites, site_u, at)
    mask, at = take_site(mask, start, u, sites, site_u, at)
    while mask != 0:
        mask, at = take_site(mask, start, u, sites, site_u, at)
    return np.int64(end)
