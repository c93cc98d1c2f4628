"""Surrogates behind an address. A sweep calls whichever it is handed, so that what is compiled is the sum of models and
surrogates and not their product, and g needs room for a few steps only."""

from llvmlite import ir
from numba import carray, types
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic

from nsim.kernels.batch import BLOCK
from nsim.kernels.disk_cache import cached
from nsim.kernels.jit import FASTMATH, inlined, kernel


def make_surrogate(g, dtype):
    """C function (u, out, n, band): out[i] = g(u[i]) where |u[i]| < band, else 0. Kernels take its `address`."""
    zero = dtype(0)
    number = types.float32 if zero.itemsize == 4 else types.float64
    pointer = types.CPointer(number)

    def surrogate(u, out, n, band):
        u, out = carray(u, n), carray(out, n)
        for i in range(n):
            out[i] = g(u[i]) if abs(u[i]) < band else zero

    signature = normalize_signature(types.void(pointer, pointer, types.intp, number))
    # What numba.cfunc does, but for the cache.
    options = {"error_model": "numpy", "fastmath": FASTMATH}
    compiled = cached(CFunc(surrogate, signature, locals={}, options=options), surrogate)
    compiled.compile()
    return compiled


@intrinsic
def _evaluate(typingctx, address, u, start, out, at, n, band):
    """See `evaluate`."""

    def codegen(context, builder, signature, args):
        pointers = []
        for k in (1, 3):
            array = context.make_array(signature.args[k])(context, builder, args[k])
            pointers.append(builder.gep(array.data, [args[k + 1]]))
        kinds = [pointers[0].type, pointers[1].type, args[5].type, args[6].type]
        function = ir.FunctionType(ir.VoidType(), kinds).as_pointer()
        builder.call(builder.inttoptr(args[0], function), [*pointers, args[5], args[6]])
        return context.get_dummy_value()

    intp = types.intp
    return types.none(types.int64, u, intp, out, intp, intp, band), codegen


# A plain function around the intrinsic, for the disk cache: see bits.py.
@inlined
def evaluate(address, u, start, out, at, n, band):
    """out[at + i] = g(u[start + i]) for i below n, with the surrogate at `address`. The arrays are flat."""
    _evaluate(address, u, start, out, at, n, band)


@kernel
def surrogate_of_blocks(first, last, address, u, band, out):
    """out = g(u) for blocks of flat arrays."""
    for block in range(first, last):
        start = block * BLOCK
        evaluate(address, u, start, out, start, min(BLOCK, u.shape[0] - start), band)
