"""x[at:] += a * w[place:] over a short run, as explicit vectors.

LLVM's own loop checks each time whether the two overlap, and takes what is left after 32 numbers one by one; runs of
16 to 192 numbers, the weights that one event of a convolution meets, spend half of their time there.
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nsim.kernels.jit import inlined
from nsim.kernels.vectors import FLAGS, Numbers, spread

BLOCK = 16  # numbers in one step; channels are multiples of it in most networks


@intrinsic
def _add_run(typingctx, x, at, w, place, length, a):
    def codegen(context, builder, signature, args):
        x, w = (Numbers(context, builder, signature.args[k], args[k]) for k in (0, 2))
        _, at, _, place, length, a = args

        def block(start, lanes):
            part = builder.fmul(spread(builder, a, lanes), w.load(builder.add(place, start), lanes), flags=FLAGS)
            to = builder.add(at, start)
            x.store(builder.fadd(x.load(to, lanes), part, flags=FLAGS), to)

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
