"""x[at:] += a * w[place:] over a short run, as explicit vectors.

LLVM's own loop checks each time whether the two overlap, and takes what is left after 32 numbers one by one; runs of
16 to 192 numbers, the weights that one event of a convolution meets, spend half of their time there.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nsim.kernels.jit import FASTMATH, inlined

FLAGS = tuple(sorted(FASTMATH))
BLOCK = 16  # numbers in one step; channels are multiples of it in most networks


@intrinsic
def _add_run(typingctx, x, at, w, place, length, a):
    def codegen(context, builder, signature, args):
        x, w = (context.make_array(signature.args[k])(context, builder, args[k]) for k in (0, 2))
        _, at, _, place, length, a = args
        element, index = context.get_value_type(signature.args[0].dtype), ir.IntType(32)
        align = context.get_abi_sizeof(element)

        def block(start, lanes):
            vector = ir.VectorType(element, lanes)
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), a, index(0))
            factor = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(index, lanes), [0] * lanes))
            sums, weights = (
                builder.bitcast(builder.gep(array.data, [builder.add(first, start)]), vector.as_pointer())
                for array, first in ((x, at), (w, place))
            )
            old, weight = builder.load(sums), builder.load(weights)
            old.align = weight.align = align
            new = builder.fadd(old, builder.fmul(factor, weight, flags=FLAGS), flags=FLAGS)
            builder.store(new, sums).align = align

        whole = builder.and_(length, length.type(-BLOCK))
        with cgutils.for_range_slice(builder, length.type(0), whole, length.type(BLOCK), length.type) as (k, _):
            block(k, BLOCK)
        with builder.if_then(builder.icmp_signed("<", whole, length), likely=False):
            lanes = BLOCK // 2
            while lanes:
                with builder.if_then(cgutils.is_not_null(builder, builder.and_(length, length.type(lanes)))):
                    block(builder.and_(length, length.type(-2 * lanes)), lanes)
                lanes //= 2
        return context.get_dummy_value()

    intp = types.intp
    return types.none(x, intp, w, intp, intp, x.dtype), codegen


# A plain function around the intrinsic, for the disk cache (see bits.py).
@inlined
def add_run(x, at, w, place, length, a):
    """x[at : at + length] += a * w[place : place + length]; positions in the arrays as if these were flat."""
    _add_run(x, at, w, place, length, a)
