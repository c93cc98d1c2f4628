"""Arithmetic on device arrays: what NumPy's functions do when they meet one. `nsim.ops` runs on both without knowing.

Anything that is not here raises a DeviceError that names it; nothing is copied to the host behind the user's back.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import from_dtype

from nsim.backend import adopted
from nsim.errors import DeviceError
from nsim_cuda import memory
from nsim_cuda.jit import BLOCK, FLAT, block_for, blocks, cuda, inlined, start
from nsim_cuda.memory import DeviceArray

ADD, SUBTRACT, MULTIPLY, DIVIDE, POWER, GREATER, MINIMUM, MAXIMUM = range(8)
EXP, LOG, ABSOLUTE, SIGN, SQRT = range(10, 15)
BINARY = {
    np.add: ADD, np.subtract: SUBTRACT, np.multiply: MULTIPLY, np.divide: DIVIDE, np.power: POWER,
    np.greater: GREATER, np.minimum: MINIMUM, np.maximum: MAXIMUM,
}  # fmt: skip
UNARY = {np.exp: EXP, np.log: LOG, np.absolute: ABSOLUTE, np.sign: SIGN, np.sqrt: SQRT}
DIMS = 3  # axes that broadcasting knows
WAY_OUT = "is not there on the device; move the tensor with .to('cpu'), or use the CPU for this part"


@cuda.jit
def filled(out, value):
    """Every entry of a flat array."""
    for i in range(cuda.grid(1), out.shape[0], cuda.gridsize(1)):
        out[i] = value


@cuda.jit
def repeated(source, out):
    """A flat array over and over again."""
    for i in range(cuda.grid(1), out.shape[0], cuda.gridsize(1)):
        out[i] = source[i % source.shape[0]]


@inlined
def store(out, i, op, x, y):
    """out[i] = x op y."""
    if op == ADD:
        out[i] = x + y
    elif op == SUBTRACT:
        out[i] = x - y
    elif op == MULTIPLY:
        out[i] = x * y
    elif op == DIVIDE:
        out[i] = x / y
    elif op == GREATER:
        out[i] = x > y
    elif op == MINIMUM:
        out[i] = x if x <= y or x != x else y
    elif op == MAXIMUM:
        out[i] = x if x >= y or x != x else y
    else:
        out[i] = x**y


@cuda.jit
def binary(op, a, b, shape, strides_a, strides_b, out):
    """out = a op b, all flat, out of `shape`; a stride is 0 along an axis that is broadcast."""
    for i in range(cuda.grid(1), out.shape[0], cuda.gridsize(1)):
        k, rest = i % shape[2], i // shape[2]
        j, h = rest % shape[1], rest // shape[1]
        x = a[h * strides_a[0] + j * strides_a[1] + k * strides_a[2]]
        y = b[h * strides_b[0] + j * strides_b[1] + k * strides_b[2]]
        store(out, i, op, x, y)


@cuda.jit
def with_number(op, a, value, number_first, out):
    """out = a op value, or value op a; a number travels with the launch, where an array would have to be copied."""
    for i in range(cuda.grid(1), out.shape[0], cuda.gridsize(1)):
        if number_first:
            store(out, i, op, value, a[i])
        else:
            store(out, i, op, a[i], value)


@cuda.jit
def unary(op, a, out):
    """out = op(a), both flat."""
    for i in range(cuda.grid(1), out.shape[0], cuda.gridsize(1)):
        x = a[i]
        if op == EXP:
            out[i] = math.exp(x)
        elif op == LOG:
            out[i] = math.log(x)
        elif op == SQRT:
            out[i] = math.sqrt(x)
        elif op == ABSOLUTE:
            out[i] = abs(x)
        else:
            out[i] = int(x > 0) - int(x < 0)


def make_total(dtype):
    """Kernel out[i, k] = sum over j of a[i, j, k]: a block for each, its threads' parts added in two rounds."""
    kind, zero = from_dtype(np.dtype(dtype)), dtype(0)

    @cuda.jit
    def total(a, out):
        part = cuda.shared.array(BLOCK, kind)
        tid, threads = cuda.threadIdx.x, cuda.blockDim.x
        i, k = cuda.blockIdx.x // a.shape[2], cuda.blockIdx.x % a.shape[2]
        part[tid] = zero
        for j in range(tid, a.shape[1], threads):
            part[tid] += a[i, j, k]
        cuda.syncthreads()
        if tid < 16:
            own = zero
            for j in range(tid, threads, 16):
                own += part[j]
            part[tid] = own
        cuda.syncthreads()
        if tid == 0:
            own = zero
            for j in range(16):
                own += part[j]
            out[i, k] = own

    return total


_totals = {}


def total_kernel(dtype):
    if dtype not in _totals:
        _totals[dtype] = make_total(np.dtype(dtype).type)
    return _totals[dtype]


def fill(out: DeviceArray, value):
    """Overwrite with a number, or with an array of the same size or of size 1."""
    if out.size == 0:
        return
    flat, count = out.reshape(-1), blocks(out.size)
    if isinstance(value, DeviceArray):
        start(repeated, count, FLAT, value.reshape(-1), flat)
    else:
        start(filled, count, FLAT, flat, out.dtype.type(np.asarray(value)))


def copied(a: DeviceArray) -> DeviceArray:
    return full(a.shape, a.dtype, a)


def as_type(a: DeviceArray, dtype) -> DeviceArray:
    return a if a.dtype == dtype else full(a.shape, dtype, a)


def full(shape, dtype, value) -> DeviceArray:
    out = memory.empty(shape, dtype)
    fill(out, value)
    return out


def broadcast_to(a: DeviceArray, shape) -> DeviceArray:
    """A copy of that shape."""
    if a.size == 1:
        return full(shape, a.dtype, a)
    return broadcast(ADD, a, kept_zero(a.dtype), tuple(shape))


@cache
def kept_zero(dtype):
    return full((), dtype, 0)


def sum_over(a: DeviceArray, axis=None, keepdims=False) -> DeviceArray:
    """Sum over all axes, one, or neighbouring ones; in the same order each time."""
    axes = range(a.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = sorted(k % max(1, a.ndim) for k in axes)
    if not axes:
        return a
    if axes != list(range(axes[0], axes[-1] + 1)):
        raise DeviceError(f"sum over the axes {tuple(axes)} {WAY_OUT}")
    before, after = math.prod(a.shape[: axes[0]]), math.prod(a.shape[axes[-1] + 1 :])
    shape = tuple(1 if k in axes else size for k, size in enumerate(a.shape) if keepdims or k not in axes)
    out = memory.empty(shape, a.dtype)
    within = a.size // (before * after)
    kernel = total_kernel(a.dtype)
    start(kernel, before * after, block_for(within), a.reshape(before, within, after), out.reshape(before, after))
    return out


def arithmetic(op, a, b) -> DeviceArray:
    """a op b, broadcast; one of them may be a number or a host array."""
    array, other = (a, b) if isinstance(a, DeviceArray) else (b, a)
    other = adopted(other)
    if not isinstance(other, DeviceArray):
        other = np.asarray(other)
        if other.ndim == 0:
            out = memory.empty(array.shape, array.dtype)
            value, flat = array.dtype.type(other), array.reshape(-1)
            start(with_number, blocks(out.size), FLAT, op, flat, value, array is b, out.reshape(-1))
            return out
        other = memory.put(other, array.dtype)
        a, b = (array, other) if array is a else (other, array)
    return broadcast(op, a, b, np.broadcast_shapes(a.shape, b.shape))


def broadcast(op, a, b, shape):
    out = memory.empty(shape, np.result_type(a.dtype, b.dtype))
    if a.shape == b.shape:
        a, b, shape = a.reshape(-1), b.reshape(-1), (out.size,)
    if len(shape) > DIMS:
        raise DeviceError(f"broadcasting over {len(shape)} axes {WAY_OUT}")
    whole = (1,) * (DIMS - len(shape)) + tuple(int(k) for k in shape)
    strides = strides_of(a, DIMS), strides_of(b, DIMS)
    start(binary, blocks(out.size), FLAT, op, a.reshape(-1), b.reshape(-1), whole, *strides, out.reshape(-1))
    return out


def strides_of(a, dims):
    """Strides in entries, 0 along axes of size 1."""
    shape = (1,) * (dims - a.ndim) + a.shape
    return tuple(0 if size == 1 else math.prod(shape[k + 1 :]) for k, size in enumerate(shape))


def array_ufunc(self, ufunc, method, *inputs, **options):
    """NumPy's functions on a device array, as far as losses need them."""
    if method == "__call__" and not options:
        if ufunc in BINARY:
            return arithmetic(BINARY[ufunc], *inputs)
        if ufunc in UNARY:
            out = memory.empty(self.shape, self.dtype)
            start(unary, blocks(out.size), FLAT, UNARY[ufunc], self.reshape(-1), out.reshape(-1))
            return out
        if ufunc is np.negative:
            return arithmetic(MULTIPLY, self, -1.0)
    raise DeviceError(f"numpy.{ufunc.__name__} {WAY_OUT}")


def array_function(self, function, types, args, options):
    if function is np.broadcast_to:
        return broadcast_to(*args, **options)
    if function is np.expand_dims:
        axis = args[1] % (self.ndim + 1)
        return self.reshape(self.shape[:axis] + (1,) + self.shape[axis:])
    if function in (np.ones_like, np.zeros_like):
        return full(self.shape, self.dtype, int(function is np.ones_like))
    raise DeviceError(f"numpy.{function.__name__} {WAY_OUT}")


def refused(self, *args, **options):
    raise DeviceError(f"this use of an array as one of NumPy's {WAY_OUT}")


def assigned(self, index, values):
    """array[...] = values, of the host or of the device."""
    if index is not Ellipsis and not (isinstance(index, slice) and index == slice(None)):
        raise DeviceError(f"assignment to a part of an array {WAY_OUT}")
    self.set(adopted(values))


def other_attribute(self, name):
    """What a NumPy array has and this one does not."""
    if hasattr(np.ndarray, name) and not name.startswith("__"):
        raise DeviceError(f"numpy.ndarray.{name} {WAY_OUT}")
    raise AttributeError(name)


def _install():
    operators = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "pow": np.power}
    for name, ufunc in operators.items():
        setattr(DeviceArray, f"__{name}__", lambda a, b, ufunc=ufunc: arithmetic(BINARY[ufunc], a, b))
        setattr(DeviceArray, f"__r{name}__", lambda a, b, ufunc=ufunc: arithmetic(BINARY[ufunc], b, a))
    DeviceArray.__neg__ = lambda a: arithmetic(MULTIPLY, a, -1.0)
    DeviceArray.__gt__ = lambda a, b: arithmetic(GREATER, a, b)
    DeviceArray.__array_ufunc__, DeviceArray.__array_function__ = array_ufunc, array_function
    DeviceArray.__array__ = DeviceArray.__getitem__ = DeviceArray.__matmul__ = DeviceArray.__rmatmul__ = refused
    DeviceArray.__getattr__, DeviceArray.__setitem__ = other_attribute, assigned
    DeviceArray.sum, DeviceArray.copy, DeviceArray.astype = sum_over, copied, as_type


_install()
