"""Matrix products inside kernels: SciPy's BLAS through the symbol that Numba's own np.dot calls.

np.dot returns an array, which a kernel without reference counts cannot hold, and it cannot add to what is there.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.linalg import ensure_blas, get_blas_kind


def _matrix_product(left_transposed, right_transposed, adds):
    """An intrinsic f(out, a, b): out = (or +=) a b, with a or b transposed. All are C-contiguous."""

    def f(typingctx, out, a, b):
        ensure_blas()

        def codegen(context, builder, signature, args):
            out, a, b = (context.make_array(k)(context, builder, v) for k, v in zip(signature.args, args, strict=True))
            char, pointer, size = ir.IntType(8), ir.IntType(8).as_pointer(), context.get_value_type(types.intp)
            element = context.get_value_type(signature.args[0].dtype)

            def number(value):
                return builder.bitcast(cgutils.alloca_once_value(builder, ir.Constant(element, value)), pointer)

            def data(array):
                return builder.bitcast(array.data, pointer)

            def width(array):
                return builder.extract_value(array.shape, 1)

            def how(transposed):
                return char(ord("t" if transposed else "n"))

            kinds = [char] * 3 + [size] * 3 + [pointer] * 2 + [size, pointer, size] + [pointer] * 2 + [size]
            gemm = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.IntType(32), kinds), "numba_xxgemm"
            )
            inner = builder.extract_value(a.shape, 0 if left_transposed else 1)
            # BLAS counts by columns: rows of ours are columns of its, and it multiplies in the other order.
            builder.call(gemm, (
                char(ord(get_blas_kind(signature.args[0].dtype))), how(right_transposed), how(left_transposed),
                width(out), builder.extract_value(out.shape, 0), inner, number(1.0), data(b), width(b),
                data(a), width(a), number(float(adds)), data(out), width(out),
            ))  # fmt: skip
            return context.get_dummy_value()

        return types.none(out, a, b), codegen

    return intrinsic(f)


add_product = _matrix_product(False, False, True)  # out += a b
add_product_of_transposed = _matrix_product(True, False, True)  # out += a^T b
product_with_transposed = _matrix_product(False, True, False)  # out = a b^T
