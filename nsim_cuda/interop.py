"""Arrays of other libraries (CuPy, PyTorch, JAX) on the device, in and out without a copy.

Both ways go through `__cuda_array_interface__` or DLPack, of which the struct is filled and read here with ctypes.
Memory is shared: an optimiser that moves a weight moves it for the other library too.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p, py_object, pythonapi

import numpy as np

from nsim.errors import DeviceError
from nsim_cuda.memory import DeviceArray
from nsim_cuda.shim import SIMULATED, cuda
from nsim_cuda.status import status

CPU, CUDA = 1, 2  # DLDeviceType
KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLDataTypeCode
LEGACY = 1  # the default stream in __cuda_array_interface__; all our work runs on it
LEGACY_STREAMS = (None, -1, 0, LEGACY)  # in DLPack, or no wish
NAME = b"dltensor"


class DLTensor(ctypes.Structure):
    """The header's DLTensor, its device and data type written out."""

    _fields_ = (
        ("data", c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32), ("code", c_uint8),
        ("bits", c_uint8), ("lanes", c_uint16), ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)), ("byte_offset", c_uint64),
    )  # fmt: skip


class DLManagedTensor(ctypes.Structure):
    """A DLTensor and how its memory is given back."""


DELETER = ctypes.CFUNCTYPE(None, c_void_p)
DLManagedTensor._fields_ = (("tensor", DLTensor), ("context", c_void_p), ("deleter", DELETER))

pythonapi.PyCapsule_New.restype, pythonapi.PyCapsule_New.argtypes = py_object, (c_void_p, c_char_p, c_void_p)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", pythonapi))
_pointer = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", pythonapi))
_pointer_of = ctypes.PYFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", pythonapi))

_lent = {}  # address of a DLManagedTensor -> what must live as long as it does


@DELETER
def _given_back(address):
    _lent.pop(address, None)


@ctypes.PYFUNCTYPE(None, c_void_p)
def _dropped(capsule):
    """The end of a capsule: nobody took what it holds if it still has its name."""
    if _is_valid(capsule, NAME):
        _given_back(_pointer(capsule, NAME))


def address_of(array: DeviceArray) -> int:
    if SIMULATED:
        return array.array.ctypes.data
    return array.array.__cuda_array_interface__["data"][0]


def dlpack_device(array: DeviceArray) -> tuple[int, int]:
    return (CPU, 0) if SIMULATED else (CUDA, cuda.get_current_device().id)


def dlpack(array: DeviceArray, *, stream=None, max_version=None, dl_device=None, copy=None):
    """The array as a DLPack capsule. Work on it is done, or ordered before anything on the default stream."""
    if copy:
        raise BufferError("an array on the device is lent, not copied: use .copy() and lend that")
    if dl_device is not None and tuple(dl_device) != dlpack_device(array):
        raise BufferError(f"the array lies on device {dlpack_device(array)}, not on {tuple(dl_device)}")
    status().settle()
    if stream not in LEGACY_STREAMS:
        cuda.synchronize()
    axes = c_int64 * max(1, array.ndim)
    strides = [int(np.prod(array.shape[k + 1 :], dtype=np.int64)) for k in range(array.ndim)]
    shape, strides = axes(*array.shape), axes(*strides)
    kind = KINDS[array.dtype.kind], 8 * array.dtype.itemsize, 1
    tensor = DLTensor(address_of(array), *dlpack_device(array), array.ndim, *kind, shape, strides, 0)
    managed = DLManagedTensor(tensor, None, _given_back)
    address = ctypes.addressof(managed)
    _lent[address] = managed, shape, strides, array
    return pythonapi.PyCapsule_New(address, NAME, ctypes.cast(_dropped, c_void_p))


def cuda_array_interface(array: DeviceArray) -> dict:
    """See numba's documentation; raises AttributeError in the simulator, whose memory no GPU can read.

    Even to ask for it waits for the device, in the simulator too, where tests count what waits.
    """
    status().settle()
    if SIMULATED:
        raise AttributeError("__cuda_array_interface__")
    return array.array.__cuda_array_interface__ | {"shape": array.shape, "strides": None, "stream": LEGACY}


def is_foreign(x) -> bool:
    """Whether this is an array of another library that lies on the device."""
    if isinstance(x, (DeviceArray, np.ndarray, np.generic)):
        return False
    if hasattr(type(x), "__cuda_array_interface__") and not SIMULATED:
        try:
            return x.__cuda_array_interface__ is not None
        except (AttributeError, RuntimeError, TypeError):  # such as a tensor on the CPU, or one that records
            return False
    return hasattr(x, "__dlpack_device__") and x.__dlpack_device__()[0] == (CPU if SIMULATED else CUDA)


def adopted(x) -> DeviceArray:
    """An array of another library as one of ours, on the same memory.

    Raises
    ------
    DeviceError
        If it is not contiguous, or of a type that nsim has no use for.
    """
    if hasattr(type(x), "__cuda_array_interface__") and not SIMULATED:
        found = x.__cuda_array_interface__
        shape, kind, strides = tuple(found["shape"]), np.dtype(found["typestr"]), found.get("strides")
        pointer, owner, stream = found["data"][0], x, found.get("stream")
        if stream not in (None, LEGACY):
            cuda.external_stream(stream).synchronize()
    else:
        # Never renamed, the capsule gives the memory back itself when it is dropped.
        owner = x.__dlpack__()
        tensor = DLManagedTensor.from_address(_pointer_of(owner, NAME)).tensor
        kinds = {code: kind for kind, code in KINDS.items()}
        if tensor.code not in kinds or tensor.lanes != 1:
            raise DeviceError(f"an array of DLPack type {tensor.code} cannot be adopted; convert it to float32 first")
        kind = np.dtype(f"{kinds[tensor.code]}{tensor.bits // 8}" if kinds[tensor.code] != "b" else bool)
        shape = tuple(tensor.shape[k] for k in range(tensor.ndim))
        strides = tuple(tensor.strides[k] * kind.itemsize for k in range(tensor.ndim)) if tensor.strides else None
        pointer = tensor.data + tensor.byte_offset if tensor.data else 0
    if strides is not None and not _contiguous(shape, tuple(strides), kind.itemsize):
        raise DeviceError(
            f"an array of shape {shape} and strides {tuple(strides)} is not contiguous; make a copy of it first"
        )
    return DeviceArray(_wrapped(pointer, shape, kind), shape, kind, base=owner)


def _contiguous(shape, strides, itemsize):
    wanted = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size == 0:
            return True
        if size != 1 and stride != wanted:
            return False
        wanted *= size
    return True


class _Described:
    """Memory as `__cuda_array_interface__` tells of it."""

    def __init__(self, pointer, shape, kind):
        self.__cuda_array_interface__ = {
            "shape": shape or (1,), "typestr": kind.str, "data": (pointer, False), "strides": None, "version": 3,
        }  # fmt: skip


def _wrapped(pointer, shape, kind):
    if not SIMULATED:
        return cuda.as_cuda_array(_Described(pointer, shape, kind), sync=False)
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    raw = np.ctypeslib.as_array((c_uint8 * size).from_address(pointer)) if size else np.empty(0, np.uint8)
    return FakeCUDAArray(raw.view(kind).reshape(shape or (1,)))


DeviceArray.__dlpack__, DeviceArray.__dlpack_device__ = dlpack, dlpack_device
DeviceArray.__cuda_array_interface__ = property(cuda_array_interface)
