"""What nsim says about a GPU: with none, with a driver of every sort (a stand-in for its library), in the simulator."""

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import nsim
from nsim import LIF, cuda, nn
from nsim.__main__ import main

ROOT = Path(__file__).parents[1]
GIB = 2**30
H100 = cuda.Gpu("NVIDIA H100", (9, 0), 80 * GIB)
WORKING = cuda.Driver((13, 0), (H100,))


class Library:
    """The functions of libcuda that nsim calls; a reference is ctypes.byref(number), whose number is `_obj`."""

    def __init__(self, gpus=(H100,), cuda=13000, error=0):
        self.gpus, self.cuda, self.error = gpus, cuda, error

    def cuDriverGetVersion(self, number):
        number._obj.value = self.cuda
        return 0

    def cuInit(self, flags):
        return self.error

    def cuGetErrorString(self, code, text):
        text._obj.value = {803: b"system has unsupported display driver"}.get(code)
        return 0

    def cuDeviceGetCount(self, number):
        number._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device, index):
        device._obj.value = 7 + index  # a handle need not be the index
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = self.gpus[device.value - 7].name.encode()[: size - 1]
        return 0

    def cuDeviceTotalMem_v2(self, memory, device):
        memory._obj.value = self.gpus[device.value - 7].memory
        return 0

    def cuDeviceGetAttribute(self, number, attribute, device):
        number._obj.value = self.gpus[device.value - 7].compute_capability[{75: 0, 76: 1}[attribute]]
        return 0


@pytest.fixture
def real(monkeypatch):
    """As without the simulator."""
    monkeypatch.setattr(cuda.config, "ENABLE_CUDASIM", 0)


def python(*arguments, **environment):
    """Output of a fresh interpreter; NUMBA_ENABLE_CUDASIM is read at its start."""
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"} | environment
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120)


def driver_of(monkeypatch, library):
    def load(name):
        assert name == cuda.library_name()
        if library is None:
            raise OSError(name)
        return library

    monkeypatch.setattr(cuda.ctypes, "CDLL", load)
    return cuda.driver.__wrapped__()  # not the answer that is kept


def test_every_gpu_is_described(monkeypatch):
    gpus = (H100, cuda.Gpu("NVIDIA T4", (7, 5), 15 * GIB))
    assert driver_of(monkeypatch, Library(gpus)) == cuda.Driver((13, 0), gpus)
    assert str(gpus[1]) == "NVIDIA T4, compute capability 7.5, 15 GiB"


def test_no_driver(monkeypatch):
    assert driver_of(monkeypatch, None) is None
    (sentence,) = cuda.missing_driver(None)
    assert sentence.startswith(f"no NVIDIA driver was found ({cuda.library_name()})")


@pytest.mark.parametrize(("count", "error"), [(0, 0), (1, cuda.NO_DEVICE)])
def test_no_gpu(monkeypatch, count, error):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = driver_of(monkeypatch, Library((H100,) * count, error=error))
    assert not found.gpus
    assert cuda.missing_driver(found)[0].startswith("the NVIDIA driver shows no GPU (CUDA_VISIBLE_DEVICES is '')")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert driver_of(monkeypatch, Library((), error=error)).complaint == "the NVIDIA driver shows no GPU"


@pytest.mark.parametrize(("error", "text"), [(803, "system has unsupported display driver"), (999, "unknown")])
def test_a_driver_that_does_not_start(monkeypatch, error, text):
    found = driver_of(monkeypatch, Library(error=error))
    assert found.complaint == f"the NVIDIA driver does not start, error {error} ({text})"
    assert cuda.missing_driver(found)[0].startswith(found.complaint)


def test_a_driver_older_than_the_toolkit(monkeypatch):
    old = driver_of(monkeypatch, Library(cuda=12080))
    monkeypatch.setattr(cuda, "toolkit_major", lambda: 13)
    assert cuda.missing_driver(old)[0].startswith("the NVIDIA driver runs CUDA up to 12.8 and the installed toolkit is")
    monkeypatch.setattr(cuda, "toolkit_major", lambda: 12)
    assert cuda.missing_driver(old) == []


def test_a_gpu_that_is_too_old():
    old = cuda.Gpu("NVIDIA GTX 1060", (6, 1), 6 * GIB)
    assert (
        "NVIDIA GTX 1060, compute capability 6.1, 6 GiB is too old"
        in cuda.missing_driver(cuda.Driver((13, 0), (old, H100)))[0]
    )


def present(monkeypatch, *packages):
    """As if of the optional packages these alone were installed."""
    monkeypatch.setattr(cuda, "installed", lambda package: package in packages)


def test_no_numba_cuda(monkeypatch, real):
    present(monkeypatch, "nsim_cuda")
    monkeypatch.setattr(cuda, "driver", lambda: WORKING)
    assert cuda.missing() == [f"the package numba-cuda is not installed: {cuda.INSTALL}"]


def test_no_package_of_our_own(monkeypatch, real):
    present(monkeypatch)
    assert cuda.why_not() == f"nsim's own package nsim_cuda is missing: {cuda.INSTALL}"


class Pathfinder:
    """Stands in for cuda.pathfinder: finds all libraries but some."""

    def __init__(self, *absent):
        self.absent, self.asked = absent, []

    def load_nvidia_dynamic_lib(self, name):
        self.asked.append(name)
        if name in self.absent:
            raise RuntimeError(name)


@pytest.mark.parametrize("absent", [(), ("nvvm",), ("nvrtc", "nvJitLink")])
def test_the_toolkit(monkeypatch, real, absent):
    present(monkeypatch, "nsim_cuda", "numba_cuda")
    finder = Pathfinder(*absent)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", finder)
    monkeypatch.setattr(cuda, "driver", lambda: WORKING)
    assert cuda.missing() == ([f"the CUDA toolkit lacks {', '.join(absent)}: {cuda.INSTALL}"] if absent else [])
    assert finder.asked == list(cuda.LIBRARIES)
    available = cuda.is_available()
    assert available == (not absent)
    if not absent:
        assert str(available) == "True: NVIDIA H100, compute capability 9.0, 80 GiB"


@pytest.mark.parametrize("numba_cuda", [True, False])
def test_a_call_that_needs_a_gpu_says_what_is_missing(monkeypatch, real, numba_cuda):
    present(monkeypatch, "nsim_cuda", *(["numba_cuda"] if numba_cuda else []))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", Pathfinder())
    monkeypatch.setattr(cuda, "driver", lambda: None)
    available = cuda.is_available()
    assert not available
    assert available == False  # noqa: E712 - the answer is a number and equals it
    assert repr(available) == f"False: {cuda.why_not()}"
    with pytest.raises(nsim.DeviceError) as raised:
        nn.Dense(3, 2, LIF(tau_mem=10e-3)).to("cuda")
    assert str(raised.value) == f"device 'cuda': {cuda.why_not()}"
    assert 'pip install "nsim-snn[cuda]"' in str(raised.value)
    assert "no NVIDIA driver" in str(raised.value)


def test_the_simulator_counts(monkeypatch):
    monkeypatch.setattr(cuda.config, "ENABLE_CUDASIM", 1)
    monkeypatch.setattr(cuda, "driver", lambda: None)
    assert cuda.why_not() is None
    assert cuda.is_available()
    assert "NUMBA_ENABLE_CUDASIM" in str(cuda.is_available())
    cuda.check()
    present(monkeypatch, "nsim_cuda")
    assert cuda.missing() == ["the simulator needs the package greenlet: pip install greenlet"]


def test_import_asks_for_nothing_of_cuda():
    run = python("-c", "import nsim, sys; print(*(name for name in sys.modules if name.startswith('nsim_cuda')))")
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr


def table(text):
    """The lines of `nsim info` as (name, value), continued lines under the name above them."""
    rows, name = [], ""
    for line in text.splitlines():
        name = line[:20].strip() or name
        rows.append((name, line[20:].strip()))
    return rows


def test_info_names_everything(monkeypatch, capsys, tmp_path, real):
    monkeypatch.setenv("NSIM_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("NSIM_DATA", str(tmp_path))
    present(monkeypatch, "nsim_cuda")
    monkeypatch.setattr(cuda, "driver", lambda: cuda.Driver((12, 4), (H100,)))
    monkeypatch.setattr(cuda, "driver_release", lambda: "550.54.15")
    monkeypatch.setattr(cuda, "toolkit_major", lambda: 13)
    assert main(["info"]) == 0
    rows = table(capsys.readouterr().out)
    found = dict(rows)
    assert found["nsim"].startswith(nsim.__version__)
    assert found["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert {"numba", "numpy", "scipy", "h5py", "numba-cuda", "CPU", "threads", "BLAS"} <= set(found)
    assert found["data"] == str(tmp_path)
    assert found["cache"] == f"{tmp_path / 'none'} (no such folder yet)"
    assert found["driver"] == "550.54.15, CUDA up to 12.4"
    assert found["GPU 0"] == str(H100)
    assert ('device "cuda"', "not available") in rows
    assert [value for name, value in rows if value.startswith("missing")] == [f"missing: {s}" for s in cuda.missing()]
    assert len(cuda.missing()) == 2


def test_the_console_script_is_this_command():
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["scripts"] == {"nsim": f"{main.__module__}:{main.__name__}"}


def test_asking_for_every_batch_costs_little(monkeypatch, real):
    """A step on a GPU takes a millisecond or two."""
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", Pathfinder())
    cuda.why_not()
    start = time.perf_counter()
    for _ in range(100):
        cuda.why_not()
    assert time.perf_counter() - start < 100 * 1e-3


def test_info_runs_as_a_module_and_in_the_simulator():
    run = python("-m", "nsim", "info", NUMBA_ENABLE_CUDASIM="1")
    assert run.returncode == 0, run.stderr
    assert ('device "cuda"', "available") in table(run.stdout)
    assert dict(table(run.stdout))["CUDA"].startswith("the simulator")


@pytest.mark.parametrize("arguments", [[], ["inf"], ["info", "more"]])
def test_a_wrong_command_prints_the_help_and_fails(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert "usage: nsim" in shown
    assert "error: " in shown
    assert "GPU" in shown or arguments[:1] == ["info"]
