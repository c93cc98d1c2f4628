"""What all benchmarks share: worker processes, interleaved repeats, memory, the machine, tables.

Every framework runs in a process of its own, which makes the same events and holds the same weights; the parent asks
the processes in turn, so that they see the same machine, and no thread pool or allocator meets another.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
import os
import platform
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.shapes import make_events


def resting_bytes():
    """Resident memory of this process now, from VmRSS."""
    return _status("VmRSS")


def peak_bytes(run):
    """Bytes by which `run()` raises the process's resident memory at its highest, above what it holds before.

    Writing 5 to clear_refs resets the high-water mark VmHWM (Linux, proc(5)). What an earlier run freed, and nsim or
    the C library still holds, is given back first: else it would count as resting and hide as much of the peak.
    """
    gc.collect()
    if "nsim.arrays" in sys.modules:
        sys.modules["nsim.arrays"].release()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
    rest = resting_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return max(0, _status("VmHWM") - rest)


def _status(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}: memory is measured on Linux only")


class Worker:
    """A process that holds one peer with its batch; `call(what)` runs one of its methods there.

    Parameters
    ----------
    peer : str, "module:Class" under benchmarks.peers
    shape, weights : as of make_weights
    threads : int
    options : keyword arguments of the peer
    """

    def __init__(self, peer, shape, weights, threads, **options):
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[name] = str(threads)
        self.pipe, theirs = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        self.process = spawn.Process(target=_serve, args=(theirs, peer, shape, weights, threads, options), daemon=True)
        self.process.start()
        theirs.close()
        self.versions = self._answer()

    def call(self, what, **arguments):
        return self._answer((what, arguments))

    def _answer(self, *asked):
        try:
            for question in asked:
                self.pipe.send(question)
            kind, value = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise RuntimeError(f"the process of a peer died with exit code {self.process.exitcode}") from None
        if kind == "error":
            raise RuntimeError(value)
        return value

    def close(self):
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.terminate()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _serve(pipe, peer, shape, weights, threads, options):
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        module, name = peer.split(":")
        net = getattr(importlib.import_module(f"benchmarks.peers.{module}"), name)(shape, weights, threads, **options)
        batch = net.prepare(make_events(shape))
        pipe.send(("ok", net.versions))
        while True:
            what, arguments = pipe.recv()
            pipe.send(("ok", _run(net, batch, what, **arguments)))
    except EOFError:
        pass
    except Exception as error:
        pipe.send(("error", f"{peer}: {type(error).__name__}: {error}"))


def _run(net, batch, what, **arguments):
    if what == "step":
        # Each turn begins with a step that is not timed: the others have just had the caches and the clock rate.
        net.step(batch)
        start = time.perf_counter()
        net.step(batch)
        return time.perf_counter() - start
    if what == "parts":
        start = time.perf_counter()
        loss = net.forward(batch)
        middle = time.perf_counter()
        net.backward(loss)
        return middle - start, time.perf_counter() - middle
    if what == "peak":
        return peak_bytes(lambda: net.step(batch))
    return getattr(net, what)(batch, **arguments)


def interleaved(workers, what="step", repeats=5, warm=2, failed=None):
    """Medians over `repeats` rounds in which every worker runs once, after `warm` rounds that are not counted.

    Returns a dict name -> median of seconds, or tuple of medians where a call returns several times. With a dict
    `failed`, name -> why, those in it are left out, and a worker that fails goes there; without one it is an error.
    """
    seen = {name: [] for name in workers}
    for round_ in range(warm + repeats):
        for name, worker in workers.items():
            if failed and name in failed:
                continue
            try:
                value = worker.call(what)
            except RuntimeError as error:
                if failed is None:
                    raise
                failed[name] = first_line(error)
                continue
            if round_ >= warm:
                seen[name].append(value if isinstance(value, tuple) else (value,))
    medians = {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True))
        for name, rows in seen.items()
        if not failed or name not in failed
    }
    return {name: m if len(m) > 1 else m[0] for name, m in medians.items()}


def first_line(error):
    return str(error).splitlines()[0]


def machine(threads):
    """One line: processor, cores, threads, memory, system."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {os.cpu_count()} cores, {threads} threads, {gib:.0f} GiB, {platform.system()} {platform.machine()}"


def versions(*packages):
    """Python's version and those of the packages that are installed, as one line."""
    found = [f"Python {platform.python_version()}"]
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def table(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


class Report:
    """Prints, and with a path also writes what was printed, so far complete after every line."""

    def __init__(self, path=None):
        self.path = None if path is None else Path(path)
        if self.path:
            self.path.write_text("")

    def __call__(self, text=""):
        print(text, flush=True)
        if self.path:
            with self.path.open("a") as file:
                file.write(text + "\n")
