"""Reading and writing the tuple of scalars that a model's equations take, from arrays [number of values, N].

Models with as many values share these functions, which then are compiled once in a process.
"""

from functools import cache

from numba import types
from numba.extending import intrinsic

from nsim.kernels.jit import inlined
from nsim.kernels.vectors import INDEX, Numbers, constant, spread


@cache
def reader(count):
    """A function read(a, n) -> (a[0, n], ..., a[count - 1, n])."""
    if count == 0:
        return inlined(lambda a, n: ())
    head, last = reader(count - 1), count - 1

    @inlined
    def read(a, n):
        return head(a, n) + (a[last, n],)

    return read


@cache
def _changer(count, change):
    """A function f(a, n, values) that calls change(a, k, n, values[k]) for k below count."""
    if count == 0:
        return inlined(lambda a, n, values: None)
    head, last = _changer(count - 1, change), count - 1

    @inlined
    def change_all(a, n, values):
        head(a, n, values)
        change(a, last, n, values[last])

    return change_all


@inlined
def put(a, k, n, value):
    """a[k, n] = value"""
    a[k, n] = value


@inlined
def add(a, k, n, value):
    """a[k, n] += value"""
    a[k, n] += value


@intrinsic
def _add_in_vector(typingctx, a, k, n, value):
    """See `add_in_vector`."""

    def codegen(context, builder, signature, args):
        _, k, n, value = args
        a = Numbers(context, builder, signature.args[0], args[0])
        lanes = 64 // a.size  # the vectors that LLVM takes where it chooses: others would wait again
        place = builder.add(builder.mul(k, a.width), builder.and_(n, n.type(-lanes)))
        lane = builder.trunc(builder.and_(n, n.type(lanes - 1)), INDEX)
        here = builder.icmp_unsigned("==", spread(builder, lane, lanes), constant(INDEX, list(range(lanes))))
        # 0 is added beside it: a choice of what is stored would become a store of that number alone.
        added = builder.select(here, spread(builder, value, lanes), constant(a.element, [0.0] * lanes))
        a.store(builder.fadd(a.load(place, lanes), added), place)
        return context.get_dummy_value()

    return types.none(a, types.intp, types.intp, a.dtype), codegen


@inlined
def add_in_vector(a, k, n, value):
    """a[k, n] += value, where the row is read as vectors next. A vector that is read right after one number of it was
    written waits for that to reach the cache, some twenty cycles; so a whole vector is written here. The rows of `a`
    are multiples of 16. (A plain function around the intrinsic for the disk cache: see bits.py.)"""
    _add_in_vector(a, k, n, value)


def writer(count):
    """A function write(a, n, values) with a[k, n] = values[k] for k below count."""
    return _changer(count, put)


def adder(count):
    """A function add(a, n, values) with a[k, n] += values[k] for k below count."""
    return _changer(count, add)


def vector_adder(count):
    """The same by `add_in_vector`."""
    return _changer(count, add_in_vector)
