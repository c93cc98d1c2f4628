"""Arrays on the device, from a pool of freed ones. Nothing else in nsim allocates there.

A training step asks for the same shapes again and again, so a freed array waits for the next request of its shape and
type. Work on the device runs in the order in which it was launched, so an array may be handed out again while kernels
that read its old contents are still waiting: they come first.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from nsim.errors import DeviceError, ShapeError
from nsim_cuda.shim import SIMULATED, cuda

LARGE = 64 << 20  # bytes from which a copy waits for the device rather than for host memory to be set aside


class Pool:
    """Freed arrays by shape and type, those unused for longest first."""

    def __init__(self):
        self.free: dict[tuple, list] = {}
        self.in_use = self.peak = self.idle = 0
        self.lock = threading.RLock()

    def take(self, shape, dtype):
        size = math.prod(shape) * dtype.itemsize
        with self.lock:
            waiting = self.free.get((shape, dtype))
            if waiting:
                array = waiting.pop()
                self.idle -= size
                if not waiting:
                    del self.free[shape, dtype]
            else:
                array = self._allocated(shape, dtype, size)
            self.in_use += size
            self.peak = max(self.peak, self.in_use)
        return array

    def _allocated(self, shape, dtype, size):
        try:
            return allocated(shape or (1,), dtype)
        except Exception as error:
            if "OUT_OF_MEMORY" not in str(error).upper():
                raise
        self.release()
        try:
            return allocated(shape or (1,), dtype)
        except Exception as error:
            raise DeviceError(
                f"the device has no room for {size:,} bytes more, nsim holds {self.in_use:,} there; "
                "take smaller batches, or free what other programs hold"
            ) from error

    def give(self, array, shape, dtype):
        """Take an array back. Once more is idle than was ever in use at a time, the longest idle is freed."""
        size = math.prod(shape) * dtype.itemsize
        with self.lock:
            waiting = self.free.pop((shape, dtype), [])
            waiting.append(array)
            self.free[shape, dtype] = waiting
            self.in_use -= size
            self.idle += size
            while self.idle > self.peak:
                oldest = next(iter(self.free))
                self.idle -= math.prod(oldest[0]) * oldest[1].itemsize
                self.free[oldest].pop()
                if not self.free[oldest]:
                    del self.free[oldest]

    def release(self):
        """Free all idle arrays."""
        with self.lock:
            self.free.clear()
            self.idle = 0

    def reset_peak(self):
        self.peak = self.in_use


def allocated(shape, dtype):
    """A plain allocation of device memory."""
    return cuda.device_array(shape, dtype)


class Staging:
    """Host memory that the device reads by itself. From ordinary memory, each copy would wait for all work before it.

    A buffer is free again once the host has waited for the device, see `landed`.
    """

    def __init__(self):
        self.free: dict[tuple, list] = {}
        self.flying = []

    def send(self, values, target):
        if values.nbytes > LARGE:
            target.copy_to_device(np.ascontiguousarray(values))
            return
        key = values.shape, values.dtype
        waiting = self.free.get(key)
        buffer = waiting.pop() if waiting else cuda.pinned_array(values.shape, values.dtype)
        buffer[...] = values
        # The simulator knows no streams.
        target.copy_to_device(buffer, stream=0 if SIMULATED else cuda.default_stream())
        self.flying.append((key, buffer))

    def landed(self):
        """All copies so far are made: the host has just read a result that was asked for after them."""
        for key, buffer in self.flying:
            waiting = self.free.setdefault(key, [])
            if len(waiting) < 4:
                waiting.append(buffer)
        self.flying.clear()


POOL, STAGING = Pool(), Staging()


class DeviceArray:
    """An array on the device, with the arithmetic that losses need (see `nsim_cuda.elementwise`).

    `array` is Numba's device array, as kernels take it; `base` is whoever owns the memory, None where it goes back to
    `pool`.
    """

    __slots__ = ("__weakref__", "array", "base", "dtype", "pool", "shape")
    __array_priority__ = 2000  # array + device array is ours
    device = "cuda"

    def __init__(self, array, shape, dtype, base=None, pool=None):
        self.array, self.shape, self.dtype, self.base, self.pool = array, shape, dtype, base, pool

    def __del__(self):
        if self.pool is not None:
            self.pool.give(self.array, self.shape, self.dtype)

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return math.prod(self.shape)

    @property
    def nbytes(self):
        return self.size * self.dtype.itemsize

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"DeviceArray({self.shape}, {self.dtype})"

    def view(self, array, shape):
        """Another array on this one's memory."""
        return DeviceArray(array, shape, self.dtype, self if self.base is None else self.base)

    def reshape(self, *shape):
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        if -1 in shape:
            rest = math.prod(k for k in shape if k != -1)
            shape = tuple(self.size // max(1, rest) if k == -1 else k for k in shape)
        if math.prod(shape) != self.size:
            raise ValueError(f"cannot reshape {self.shape} to {tuple(shape)}")
        shape = tuple(int(k) for k in shape)
        if not self.size:
            return empty(shape, self.dtype)
        return self.view(self.array.reshape(*(shape or (1,))), shape)

    def row(self, k: int):
        """Entry k of the first axis, on the same memory."""
        shape = self.shape[1:]
        return self.view(self.array[k], shape)

    def set(self, values):
        """Overwrite with values from the host, of this shape or a number, or with a device array of this shape."""
        if isinstance(values, DeviceArray):
            if (values.shape, values.dtype) != (self.shape, self.dtype):
                raise ShapeError(
                    f"a device array of {self.dtype} {self.shape} cannot take one of {values.dtype} {values.shape}"
                )
            self.array.copy_to_device(values.array)
        elif self.size:
            STAGING.send(np.broadcast_to(np.asarray(values, self.dtype), self.shape or (1,)), self.array)


def empty(shape, dtype) -> DeviceArray:
    """An array of a shape, its contents whatever was there."""
    shape = tuple(int(k) for k in (shape if isinstance(shape, (tuple, list)) else (shape,)))
    dtype = np.dtype(dtype)
    return DeviceArray(POOL.take(shape, dtype), shape, dtype, pool=POOL)


def put(values, dtype=None) -> DeviceArray:
    """A host array on the device."""
    values = np.asarray(values, dtype)
    result = empty(values.shape, values.dtype)
    result.set(values)
    return result


def roomy(size: int) -> int:
    """Size rounded up to the next sixteenth of a power of two: of changing sizes the pool then meets few."""
    size = max(1, size)
    grain = max(1, 1 << max(0, size.bit_length() - 4))
    return -(-size // grain) * grain


def put_roomy(values, dtype) -> DeviceArray:
    """A host array of one axis on the device, with roomy size."""
    padded = np.zeros(roomy(values.size), dtype)
    padded[: values.size] = values
    return put(padded)


def fetch(array: DeviceArray) -> np.ndarray:
    """A copy on the host, once all that was launched before has run. Says nothing of overflow; see `status.read`."""
    if not array.size:
        return np.empty(array.shape, array.dtype)
    values = array.array.copy_to_host().reshape(array.shape)
    STAGING.landed()
    return values
