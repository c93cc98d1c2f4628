"""Whether nsim can use a GPU here and, where it cannot, which piece is missing and how to get it.

Nothing is imported or loaded before it is asked for, so that nsim works on machines that never saw a GPU. Answers are
kept, since every batch that goes to a device asks.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from numba import config

from nsim.errors import DeviceError

INSTALL = 'pip install "nsim-snn[cuda]"'
OLDEST = (7, 5)  # compute capability: what CUDA 13 still compiles for
LIBRARIES = ("nvvm", "nvrtc", "nvJitLink")  # of the toolkit, that compile and link a kernel
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


class Answer(int):
    """Yes or no that tells why: True or False where it is tested, one sentence where it is printed."""

    def __new__(cls, yes: bool, why: str):
        answer = super().__new__(cls, yes)
        answer.why = why
        return answer

    def __repr__(self):
        return f"{bool(self)}: {self.why}"

    __str__ = __repr__


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver describes it; memory in bytes."""

    name: str
    compute_capability: tuple[int, int]
    memory: int

    def __str__(self):
        major, minor = self.compute_capability
        return f"{self.name}, compute capability {major}.{minor}, {self.memory / 2**30:.0f} GiB"


@dataclass(frozen=True)
class Driver:
    """What the NVIDIA driver says: the CUDA version that it runs up to, its GPUs, and why there are none."""

    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...] = ()
    complaint: str | None = None


def is_available() -> Answer:
    """Whether `net.to("cuda")` works here; printed, it says in one sentence why or why not.

    Returns
    -------
    Answer, True or False where it is tested. With NUMBA_ENABLE_CUDASIM=1 the simulator counts as a GPU.
    """
    reason = why_not()
    if reason is not None:
        return Answer(False, reason)
    if config.ENABLE_CUDASIM:
        return Answer(True, "simulated on the CPU, slowly, since NUMBA_ENABLE_CUDASIM is set")
    return Answer(True, str(driver().gpus[0]))


def why_not() -> str | None:
    """One sentence on the first piece that is missing and how to get it, or None where nothing is."""
    return next(iter(missing()), None)


def check():
    """Raise a DeviceError that names the missing piece and the install line, unless a GPU can be used."""
    reason = why_not()
    if reason is not None:
        raise DeviceError(f"device 'cuda': {reason}")


def missing() -> list[str]:
    """A sentence for each piece that is missing, in the order in which they are wanted."""
    found = [] if installed("nsim_cuda") else [f"nsim's own package nsim_cuda is missing: {INSTALL}"]
    if config.ENABLE_CUDASIM:
        lacking = [] if installed("greenlet") else ["the simulator needs the package greenlet: pip install greenlet"]
        return found + lacking
    found += missing_driver(driver())
    if not installed("numba_cuda"):
        return [*found, f"the package numba-cuda is not installed: {INSTALL}"]
    return found + missing_libraries()


@cache
def installed(package: str) -> bool:
    """Whether a package can be imported, without doing so."""
    return importlib.util.find_spec(package) is not None


def missing_driver(found: Driver | None) -> list[str]:
    """What is wanting about the driver and its GPUs."""
    if found is None:
        return [
            f"no NVIDIA driver was found ({library_name()}); install the driver of your GPU, version 580 or newer, "
            f"and then: {INSTALL}"
        ]
    if found.complaint:
        return [f"{found.complaint}; when the driver works: {INSTALL}"]
    wanted = toolkit_major()
    if wanted is not None and found.cuda[0] < wanted:
        return [
            f"the NVIDIA driver runs CUDA up to {found.cuda[0]}.{found.cuda[1]} and the installed toolkit is CUDA "
            f"{wanted}; install a newer driver (580 or newer for CUDA 13), and then: {INSTALL}"
        ]
    first = found.gpus[0]
    if first.compute_capability < OLDEST:
        return [f"{first} is too old: nsim needs 7.5 or more (Turing, 2018); on a newer GPU: {INSTALL}"]
    return []


def missing_libraries() -> list[str]:
    """Libraries of the toolkit that numba-cuda compiles with and cannot find."""
    pathfinder = importlib.import_module("cuda.pathfinder")
    absent = []
    for name in LIBRARIES:
        try:
            pathfinder.load_nvidia_dynamic_lib(name)
        except (RuntimeError, OSError):
            absent.append(name)
    return [f"the CUDA toolkit lacks {', '.join(absent)}: {INSTALL}"] if absent else []


@cache
def toolkit_major() -> int | None:
    """Major version of the CUDA toolkit that numba-cuda is installed for."""
    try:
        return int(version("cuda-bindings").split(".")[0])
    except PackageNotFoundError:
        return None


def library_name() -> str:
    """The file that a driver installs."""
    return "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@cache
def driver() -> Driver | None:
    """The driver of this machine, asked directly, so that it can be described where nothing else is installed.

    None where there is no driver. CUDA_VISIBLE_DEVICES is honoured.
    """
    try:
        library = ctypes.CDLL(library_name())
    except OSError:
        return None
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    cuda = number.value // 1000, number.value % 1000 // 10
    error = library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(number))
    if error == NO_DEVICE or (not error and not number.value):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        return Driver(cuda, complaint=f"the NVIDIA driver shows no GPU{hidden}")
    if error:
        return Driver(cuda, complaint=f"the NVIDIA driver does not start, error {error} ({_error(library, error)})")
    return Driver(cuda, tuple(_gpu(library, k) for k in range(number.value)))


def driver_release() -> str | None:
    """Version of the driver itself, such as 580.65.06; known on Linux only."""
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text().split() if path.is_file() else []
    return next((word for word in words if word[:1].isdigit() and "." in word), None)


def _gpu(library, index) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    library.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
    library.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
    return Gpu(name.value.decode(), (major.value, minor.value), memory.value)


def _error(library, code) -> str:
    text = ctypes.c_char_p()
    library.cuGetErrorString(code, ctypes.byref(text))
    return (text.value or b"unknown").decode()
