"""The command `nsim`, or `python -m nsim`: `nsim info` says what this installation has and what it lacks."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from numba import config, get_num_threads
from threadpoolctl import ThreadpoolController

import nsim
from nsim import cuda
from nsim.datasets import cache

PACKAGES = ("numba", "llvmlite", "numpy", "scipy", "h5py", "numba-cuda", "cuda-toolkit", "nvidia-nvjitlink")
WIDTH = 20  # of the names in front


class Parser(argparse.ArgumentParser):
    """A parser that answers a wrong command with the whole help."""

    def error(self, message):
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: error: {message}\n")


def main(arguments=None) -> int:
    """Run a command; returns the exit status."""
    parser = Parser(prog="nsim", description="Spiking neural networks at the cost of their spikes.")
    parser.add_argument("--version", action="version", version=f"nsim {nsim.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    commands.add_parser("info", help="versions, threads, folders, GPU, and what is missing for one")
    parser.parse_args(arguments)
    for name, value in [*software(), *processor(), *folders(), *graphics()]:
        print(f"{name:{WIDTH}}{value}")
    return 0


def software():
    """nsim, Python and the packages that results and speed depend on."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "nsim", f"{nsim.__version__}, {Path(nsim.__file__).parent}"
    yield "Python", f"{platform.python_version()}, {system}"
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"


def processor():
    """The processor and who works on it with how many threads."""
    yield "CPU", f"{cpu_name()}, {os.cpu_count()} logical cores, {allowed_cores()} for this process"
    yield "threads", f"{get_num_threads()} of nsim's own pool (NUMBA_NUM_THREADS, numba.set_num_threads)"
    for library in ThreadpoolController().info():
        if library["user_api"] == "blas":
            name, release, file = library["internal_api"], library["version"], Path(library["filepath"]).name
            yield (
                "BLAS",
                f"{name} {release}, {library['num_threads']} threads outside of nsim's sweeps, 1 inside, {file}",
            )


def folders():
    """Where data are looked for and where nsim keeps what it made."""
    data = os.environ.get("NSIM_DATA")
    yield "data", "NSIM_DATA is not set: the cache, or a download" if not data else f"{data}{absent(data)}"
    yield "cache", f"{cache.folder()}{absent(cache.folder())}"


def graphics():
    """GPUs, their driver, and whether nsim can use them."""
    found = cuda.driver()
    if found is None:
        yield "driver", "none found"
    else:
        release = cuda.driver_release()
        yield "driver", f"{release or 'NVIDIA'}, CUDA up to {found.cuda[0]}.{found.cuda[1]}"
        for k, gpu in enumerate(found.gpus):
            yield f"GPU {k}", gpu
    if config.ENABLE_CUDASIM:
        yield "CUDA", "the simulator, since NUMBA_ENABLE_CUDASIM is set"
    missing = cuda.missing()
    yield 'device "cuda"', "available" if not missing else "not available"
    for sentence in missing:
        yield "", f"missing: {sentence}"


def cpu_name() -> str:
    """The processor as its maker calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def allowed_cores() -> int:
    """Cores that the system lets this process run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def absent(folder) -> str:
    """A remark for a folder that is not there."""
    return "" if Path(folder).expanduser().is_dir() else " (no such folder yet)"


if __name__ == "__main__":
    sys.exit(main())
