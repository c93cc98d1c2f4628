"""Reading and writing the tuple of scalars that a model's equations take, from arrays [number of values, N].

Models with as many values share these functions, which then are compiled once in a process.
"""

from functools import cache

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nsim.kernels.jit import inlined


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
def writer(count):
    """A function write(a, n, values) with a[k, n] = values[k] for k below count."""
    if count == 0:
        return inlined(lambda a, n, values: None)
    head, last = writer(count - 1), count - 1

    @inlined
    def write(a, n, values):
        head(a, n, values)
        a[last, n] = values[last]

    return write


@cache
def adder(count):
    """A function add(a, n, values) with a[k, n] += values[k] for k below count."""
    if count == 0:
        return inlined(lambda a, n, values: None)
    head, last = adder(count - 1), count - 1

    @inlined
    def add(a, n, values):
        head(a, n, values)
        a[last, n] += values[last]

    return add


@intrinsic
def _add_at(typingctx, a, k, n, value):
    """See `adder_at`."""

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        _, k, n, value = args
        index, element = ir.IntType(32), context.get_value_type(signature.args[0].dtype)
        align = context.get_abi_sizeof(element)
        lanes = 64 // align  # the vectors that LLVM takes where it chooses: others would wait again
        vector, width = ir.VectorType(element, lanes), builder.extract_value(array.shape, 1)
        block = builder.add(builder.mul(k, width), builder.and_(n, n.type(-lanes)))
        pointer = builder.bitcast(builder.gep(array.data, [block]), vector.as_pointer())
        old = builder.load(pointer)
        old.align = align
        spread = ir.Constant(ir.VectorType(index, lanes), [0] * lanes)

        def splat(scalar):
            one = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
            return builder.shuffle_vector(builder.insert_element(one, scalar, index(0)), one, spread)

        lane = builder.trunc(builder.and_(n, n.type(lanes - 1)), index)
        here = builder.icmp_unsigned("==", splat(lane), ir.Constant(ir.VectorType(index, lanes), list(range(lanes))))
        # 0 is added beside it: a choice of what is stored would become a store of that number alone.
        nothing = ir.Constant(vector, [0.0] * lanes)
        builder.store(builder.fadd(old, builder.select(here, splat(value), nothing)), pointer).align = align
        return context.get_dummy_value()

    return types.none(a, types.intp, types.intp, a.dtype), codegen


@inlined
def add_at(a, k, n, value):
    """a[k, n] += value, a plain function around the intrinsic for the disk cache (see bits.py)."""
    _add_at(a, k, n, value)


@cache
def adder_at(count):
    """The same as `adder`, where the row is read as vectors next. A vector that is read right after one number of it
    was written waits for that to reach the cache, some twenty cycles; so a whole vector is written here. The rows of
    `a` are multiples of 16."""
    if count == 0:
        return inlined(lambda a, n, values: None)
    head, last = adder_at(count - 1), count - 1

    @inlined
    def add(a, n, values):
        head(a, n, values)
        add_at(a, last, n, values[last])

    return add
