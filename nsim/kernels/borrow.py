"""Arrays without reference counts, for the inner loops.

Each view of a row counts one reference up and down on the whole array, with an atomic instruction; from two threads
these fight for one cache line and cost more than the row itself. A borrowed array carries no owner, so nothing is
counted. It must not outlive the array that it was borrowed from: kernels borrow their arguments, and return none.
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _without_owner(context, builder, kind, value):
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for k, part in enumerate(kind):
            own = _without_owner(context, builder, part, builder.extract_value(value, k))
            value = builder.insert_value(value, own, k)
    return value


@intrinsic
def borrow(typingctx, x):
    """x (an array, or a tuple of arrays and other things, at any depth) without reference counts."""

    def codegen(context, builder, signature, args):
        return _without_owner(context, builder, signature.args[0], args[0])

    return x(x), codegen
