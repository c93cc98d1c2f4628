"""Numbers below the smallest normal one are taken as zero while a sweep runs.

States and adjoints decay by exp(-dt / tau) a step and reach such numbers after some hundred quiet steps; each
operation on one costs an x86 core about a hundred cycles. On other processors nothing is changed.
"""

import platform

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nsim.kernels.jit import inlined

X86 = platform.machine() in ("x86_64", "AMD64")
FLUSH_AND_ZERO = 0x8040  # bits "flush to zero" and "denormals are zero" of the register MXCSR


def _mxcsr(builder, access, pointer):
    """Store the register to a pointer, or load it from there."""
    kind = ir.FunctionType(ir.VoidType(), [pointer.type])
    builder.call(builder.module.declare_intrinsic(f"llvm.x86.sse.{access}", (), kind), [pointer])


@intrinsic
def _flush(typingctx):
    def codegen(context, builder, signature, args):
        place = builder.alloca(ir.IntType(32))
        if not X86:
            return ir.Constant(ir.IntType(32), 0)
        _mxcsr(builder, "stmxcsr", place)
        old = builder.load(place)
        builder.store(builder.or_(old, ir.Constant(ir.IntType(32), FLUSH_AND_ZERO)), place)
        _mxcsr(builder, "ldmxcsr", place)
        return old

    return types.int32(), codegen


@intrinsic
def _restore(typingctx, old):
    def codegen(context, builder, signature, args):
        if X86:
            place = builder.alloca(ir.IntType(32))
            builder.store(args[0], place)
            _mxcsr(builder, "ldmxcsr", place)
        return context.get_dummy_value()

    return types.void(types.int32), codegen


@inlined
def flush_denormals():
    """Begin; returns what `restore` needs to end it on this thread."""
    return _flush()


@inlined
def restore(old):
    _restore(old)
