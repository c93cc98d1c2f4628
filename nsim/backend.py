"""Devices, and the compiled sweeps of each neuron model on them."""

from __future__ import annotations

import importlib
import threading
from contextlib import nullcontext
from functools import cache, lru_cache, wraps
from inspect import isfunction

import numba
import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload, register_jitable
from threadpoolctl import ThreadpoolController

from nsim import cuda
from nsim.errors import DeviceError, ParameterError
from nsim.kernels.surrogate import make_surrogate

PACKAGES = {"cpu": "nsim.kernels", "cuda": "nsim_cuda"}  # of kernels: a module has the same name in both
NUMBERS = types.Float, types.Integer, types.Boolean  # what a surrogate's g may give


def check_device(device: str) -> str:
    """The name of a device that this installation has, or a DeviceError that says what is missing."""
    if device not in PACKAGES:
        raise DeviceError(f"device {device!r}: expected one of {', '.join(PACKAGES)}")
    if device == "cuda":
        cuda.check()
    return device


@cache
def kernels_of(device: str, module: str):
    """A module of a device's kernels."""
    return importlib.import_module(f"{PACKAGES[device]}.{module}")


def operations(device: str):
    """The table of a device other than the CPU: a module with one function for each operation, under its name in nsim
    (which holds those of the CPU)."""
    return kernels_of(device, "operations")


def device_of(*things) -> str:
    """The device that arrays, tensors, events or layers lie on; DeviceError where they lie on several."""
    found = {thing.device for thing in things if hasattr(thing, "device")}
    if len(found) > 1:
        raise DeviceError(
            f'arguments lie on {" and ".join(sorted(found))}; bring them together with .to("cuda") or .to("cpu")'
        )
    return found.pop() if found else "cpu"


def per_device(function):
    """The function itself where the first argument lies on the CPU, else the operation of its name on that device.

    Raises
    ------
    DeviceError
        If the device has no such operation.
    """
    name = function.__name__.lstrip("_")

    @wraps(function)
    def dispatched(first, *args, **options):
        device = first.device
        there = function if device == "cpu" else getattr(operations(device), name, None)
        if there is None:
            raise DeviceError(f'{name} has no form on {device}; bring its arguments to the CPU with .to("cpu")')
        return there(first, *args, **options)

    return dispatched


def on_device(x) -> bool:
    """Whether an array of ours lies on another device than the CPU."""
    device = getattr(x, "device", "cpu")
    return isinstance(device, str) and device != "cpu"


def adopted(x):
    """An array of another library as one of ours, on the same memory where it lies on a device; else as it is."""
    if isinstance(x, np.ndarray) or on_device(x):  # ours first: to ask for their interface waits for the device
        return x
    if not (hasattr(type(x), "__cuda_array_interface__") or hasattr(x, "__dlpack__")):
        return x
    if cuda.is_available() and (table := operations("cuda")).is_foreign(x):
        return table.adopted(x)
    return np.asarray(x)


def moved(array, device: str):
    """An array on a device; itself where it is there already."""
    if device_of(array) == device:
        return array
    if device == "cpu":
        return operations(array.device).to_host(array)
    return operations(check_device(device)).to_device(array)


_compiled = {}


def compiled(layer, direction: str, history: bool = False):
    """The kernel of a layer's sweep where it lies, "forward" or "backward". Built once for each key below."""
    neuron, dtype, device = layer.neuron, layer.weight.dtype, layer.weight.device
    # The forward sweep is the same whatever the gradient leaves out.
    variant = neuron.variant if direction == "backward" else neuron.forward_variant
    key = (device, type(neuron), variant, dtype, direction, history, layer.connection)
    if key not in _compiled:
        module, scalar = kernels_of(device, "sweep" if neuron.spiking else "readout"), dtype.type
        make = module.make_forward if direction == "forward" else module.make_backward
        sizes, extra = (len(neuron.states), len(neuron.parameters)), () if direction == "forward" else (history,)
        connection = kernels_of(device, layer.connection)
        _compiled[key] = make(neuron.checked_equations(scalar(1)), *sizes, scalar, *extra, connection)
    return _compiled[key]


def kept_by_options(make):
    """make(surrogate, g, scalar), kept for the kind and the options that a surrogate has now, and a number type."""

    @lru_cache(maxsize=64)
    def made(kind, options, scalar):
        surrogate = object.__new__(kind)
        vars(surrogate).update(options)
        return make(surrogate, gradient_of(surrogate, scalar), scalar)

    @wraps(make)
    def of(surrogate, dtype):
        try:
            return made(type(surrogate), tuple(sorted(vars(surrogate).items())), np.dtype(dtype).type)
        except TypeError as error:
            if "unhashable" not in str(error):
                raise
            raise ParameterError(f"{surrogate!r}: {error}; the options of a surrogate are numbers or tuples") from error

    return of


@kept_by_options
def compiled_surrogate(surrogate, g, scalar):
    """C function of a surrogate, see `nsim.kernels.surrogate`."""

    @register_jitable
    def checked(u):
        return _only_number(g(u))

    try:
        return make_surrogate(checked, scalar)
    except Exception:
        refuse_uncompilable(surrogate, g, scalar)
        raise


def _only_number(x):
    """x, where Numba knows it to be a number; what may be None would be stored as if it were one."""
    return x


@overload(_only_number)
def _compiled_only_number(x):
    if not isinstance(x, NUMBERS):
        raise TypingError(f"{x} is no number")
    return lambda x: x


def gradient_of(surrogate, scalar):
    """g of a surrogate, as any kernel can call it."""
    g = surrogate.function(scalar(1))
    g = getattr(g, "py_func", g)  # of a function that is compiled already
    if not isfunction(g):
        raise ParameterError(f"{surrogate!r}: function(one) gives {g!r}, expected a function of u")
    return register_jitable(g)


def refuse_uncompilable(surrogate, g, scalar):
    """Raise ParameterError where Numba cannot compile a surrogate's g by itself, with its first words, or where g gives
    no number."""
    number = numba.from_dtype(np.dtype(scalar))
    try:
        alone = numba.njit(g)
        alone.compile((number,))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = [line for line in lines if not line.startswith("Failed in")]  # the name of a stage of the compiler
        why = (said or lines or [type(error).__name__])[0]
        raise ParameterError(f"{surrogate!r}: Numba cannot compile g(u): {why}") from error
    given = alone.overloads[number,].signature.return_type
    if not isinstance(given, NUMBERS):
        ends = isinstance(given, (types.Optional, types.NoneType))
        where = "where it ends without a return" if ends else f"but what Numba calls {given}"
        raise ParameterError(f"{surrogate!r}: g(u) gives no number {where}")


@cache
def _blas():
    import scipy.linalg.cython_blas  # noqa: F401  (kernels call it; a library that is not loaded yet is not limited)

    return ThreadpoolController()


class _SingleThreaded:
    """BLAS has one thread from the first that enters until the last has left: several threads of Python may sweep."""

    def __init__(self):
        self.lock, self.users, self.limit = threading.Lock(), 0, None

    def __enter__(self):
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.limit = _blas().limit(limits=1, user_api="blas")

    def __exit__(self, *_):
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self.limit.restore_original_limits()


_single_threaded = _SingleThreaded()


def single_threaded_blas(used: bool):
    """Context for a sweep that calls BLAS from its own threads: each call then runs on its caller alone."""
    return _single_threaded if used else nullcontext()
