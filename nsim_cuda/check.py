"""Compile every kernel for every GPU generation, on a machine without a GPU, and fail on what would make it slow.

    python -m nsim_cuda.check                      # what `make check-cuda` runs
    python -m nsim_cuda.check --cc 9.0 --jobs 1

Each kernel of `nsim_cuda.registry.kernels()` becomes PTX and LTO code for each compute capability, and both are linked
by nvJitLink, whose assembler says what the kernel takes. It fails where a kernel does not compile, spills registers,
has a stack frame larger than it declares, calculates in float64, does not fit into a multiprocessor, or stands in a
source beside the list but not in it.

The list is a function `module:function` that returns objects with `name`, `kernel` (the dispatcher), `types` (of the
arguments, as launched in float32), `threads` (of a block), `shared` (bytes of dynamic shared memory) and `stack` (bytes
of stack frame that are meant).
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import multiprocessing
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from nsim_cuda.occupancy import LIMITS, occupancy
from nsim_cuda.report import page
from nsim_cuda.shim import SIMULATED, cuda

FORMS = ("ptx", "ltoir")
FLOAT64 = re.compile(r"^\s*(?!\.reg)\S.*\.f64\b.*$", re.MULTILINE)


@dataclass(frozen=True)
class Built:
    """What one kernel takes on one compute capability, compiled to one form; sizes in bytes, registers of a thread."""

    name: str
    cc: tuple[int, int]
    form: str
    threads: int
    declared: int
    registers: int = 0
    shared: int = 0
    stack: int = 0
    spills: int = 0
    float64: tuple[str, ...] = ()
    failure: str = ""

    @property
    def where(self):
        return f"{self.name}, compute capability {self.cc[0]}.{self.cc[1]}, {'LTO' if self.form == 'ltoir' else 'PTX'}"

    @property
    def occupancy(self):
        return occupancy(self.cc, self.threads, self.registers, self.shared)


def complaints(built: Built):
    """What is wrong with a compiled kernel, in sentences."""
    if built.failure:
        yield built.failure
        return
    if built.spills:
        yield f"{built.where}: spills {built.spills} bytes of registers"
    if built.stack > built.declared:
        yield f"{built.where}: a stack frame of {built.stack} bytes, declared are {built.declared}"
    if built.float64:
        yield f"{built.where}: {len(built.float64)} float64 instructions, the first: {built.float64[0]}"
    if not built.occupancy:
        yield (
            f"{built.where}: a block of {built.threads} threads with {built.registers} registers each and "
            f"{built.shared} bytes of shared memory does not fit into a multiprocessor"
        )


def build_share(source: str, ccs, share: int, shares: int) -> list[Built]:
    """Every `shares`-th kernel of a list, in all forms and for all compute capabilities."""
    pretend(min(LIMITS))
    return [one for entry in listed(source)[share::shares] for one in build(entry, ccs)]


def build(entry, ccs) -> list[Built]:
    """Compile and link one kernel.

    What numba makes before NVVM is the same from compute capability 7.5 on (only its atomics of 6.0 and its tanh of 7.5
    ask for one), and takes longest: it is made once, for the lowest.
    """
    options = entry.kernel.targetoptions
    blanks = [Built(entry.name, cc, form, entry.threads, entry.stack) for cc in ccs for form in FORMS]
    kept = {key: options[key] for key in ("fastmath", "opt", "lineinfo", "launch_bounds") if options.get(key)}
    try:
        library, _ = importlib.import_module(f"{cuda.__name__}.compiler")._compile_pyfunc_with_fixup(
            entry.kernel.py_func, tuple(entry.types), device=False, abi="numba", cc=min(LIMITS), **kept
        )
    except Exception as error:  # whatever numba raises is the finding
        failure = f"{entry.name}: does not compile: {shortened(error)}"
        return [replace(blank, failure=failure) for blank in blanks]
    return [finished(blank, library, entry.shared, options.get("max_registers")) for blank in blanks]


def finished(blank: Built, library, dynamic: int, max_registers) -> Built:
    """The figures of one form of a kernel on one compute capability."""
    try:
        code = library.get_ltoir(blank.cc) if blank.form == "ltoir" else library.get_asm_str(blank.cc)
        sizes = resources(link(code, blank.form, blank.cc, max_registers))
    except Exception as error:  # whatever NVVM or the linker raise is the finding
        return replace(blank, failure=f"{blank.where}: does not compile: {shortened(error)}")
    double = tuple(line.strip() for line in FLOAT64.findall(code)) if blank.form == "ptx" else ()
    return replace(blank, float64=double, **sizes | {"shared": sizes["shared"] + dynamic})


def shortened(error) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' / '.join(lines[:3])}"


def link(code, form, cc, max_registers=None) -> str:
    """Make machine code of it; returns the linker's log with the assembler's figures."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    lto = form == "ltoir"
    options = LinkerOptions(
        arch=f"sm_{cc[0]}{cc[1]}",
        verbose=True,
        ptxas_options=["-v"],
        max_register_count=max_registers,
        link_time_optimization=lto or None,
    )
    linker = Linker(ObjectCode.from_ltoir(code) if lto else ObjectCode.from_ptx(code.encode()), options=options)
    linker.link("cubin")
    return linker.get_info_log()


def resources(log: str) -> dict:
    """Registers, static shared memory, stack frame and spills from the log of one kernel.

    The linker of PTX counts the shared memory that the system reserves from compute capability 8.0 on; ptxas, which
    prints its figure for LTO code only, does not. No kernel of ours calls a function that is not inlined, so that the
    largest frame in the log is the kernel's.
    """

    def largest(pattern):
        return max((int(number) for number in re.findall(pattern, log)), default=0)

    registers = largest(r"[Uu]sed (\d+) registers")
    if not registers:
        raise ValueError(f"no registers in the linker's log: {log!r}")
    reserved = re.search(r"'sm_(\d+)", log)
    shared = largest(r"registers.*?(\d+) bytes smem")
    if "cmem[0]" in log and shared and reserved and int(reserved[1]) >= 80:
        shared -= 1024
    return {
        "registers": registers,
        "shared": shared,
        "stack": largest(r"(\d+) bytes stack frame"),
        "spills": largest(r"(\d+) bytes spill stores") + largest(r"(\d+) bytes spill loads"),
    }


def pretend(cc):
    """Tell numba that the current GPU has this compute capability: there is none to ask."""

    class Device:
        compute_capability = cc

    for part in ("dispatcher", "compiler"):
        importlib.import_module(f"{cuda.__name__}.{part}").get_current_device = Device


def listed(source: str) -> list:
    """The kernels that `module:function` returns."""
    module, function = source.split(":")
    return list(getattr(importlib.import_module(module), function)())


def forgotten(entries, folder) -> list[str]:
    """Kernels in the sources of `folder`, or made by them, that the list has not."""
    known = {place(entry.kernel.py_func) for entry in entries}
    written = {(path.name, name) for path in sorted(folder.glob("*.py")) for name in kernels_in(path.read_text())}
    made = {
        place(thing.py_func)
        for thing in gc.get_objects()
        if type(thing).__name__ == "CUDADispatcher"
        and not thing.targetoptions.get("device")
        and Path(thing.py_func.__code__.co_filename).parent == folder
    }
    return [f"{file}: the kernel {name} is not in the list" for file, name in sorted((written | made) - known)]


def place(function) -> tuple[str, str]:
    """File and qualified name of a function."""
    return Path(function.__code__.co_filename).name, function.__qualname__


def kernels_in(source: str) -> list[str]:
    """Qualified names of the functions in a source that are decorated with `jit`, but not as device functions."""
    found = []

    def walk(node, path):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                if any(makes_kernel(decorator) for decorator in child.decorator_list):
                    found.append(".".join([*path, child.name]))
                inside = [child.name] if isinstance(child, ast.ClassDef) else [child.name, "<locals>"]
                walk(child, [*path, *inside])
            else:
                walk(child, path)

    walk(ast.parse(source), [])
    return found


def makes_kernel(decorator) -> bool:
    """Whether a decorator is jit, cuda.jit, or a call of these without device=True."""
    call = decorator if isinstance(decorator, ast.Call) else None
    function = call.func if call else decorator
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    device = call and any(k.arg == "device" and getattr(k.value, "value", None) is True for k in call.keywords)
    return name == "jit" and not device


def check(source: str, ccs, jobs: int) -> tuple[list[Built], list[str]]:
    """Build a list for all compute capabilities, and everything that is wrong with it."""
    entries = listed(source)
    wrong = forgotten(entries, Path(importlib.import_module(source.split(":")[0]).__file__).parent)
    names = [entry.name for entry in entries]
    wrong += [f"the name {name} stands twice in the list" for name in sorted({n for n in names if names.count(n) > 1})]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        shares = [pool.submit(build_share, source, ccs, share, jobs) for share in range(jobs)]
        built = [one for share in shares for one in share.result()]
    built.sort(key=lambda one: names.index(one.name))
    return built, list(dict.fromkeys(wrong + [sentence for one in built for sentence in complaints(one)]))


def capability(text: str) -> tuple[int, int]:
    """9.0 as (9, 0), of those that are checked."""
    found = {f"{major}.{minor}": (major, minor) for major, minor in LIMITS}
    if text not in found:
        raise argparse.ArgumentTypeError(f"{text!r}: expected one of {', '.join(found)}")
    return found[text]


def main(arguments=None) -> int:
    """Print the table and what is wrong; 0 where nothing is, 1 where something is, 2 where it cannot be checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cc", nargs="+", type=capability, default=list(LIMITS), help="compute capabilities")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--list", default="nsim_cuda.registry:kernels", help="the kernels, module:function")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args(arguments)
    absent = tools_missing()
    if absent:
        print(f"The kernels cannot be compiled here: {absent}", file=sys.stderr)
        return 2
    built, wrong = check(args.list, args.cc, args.jobs)
    text = page(built)
    print(text)
    for sentence in wrong:
        print(f"FAILED {sentence}", file=sys.stderr)
    if wrong:
        return 1
    if args.out:
        partial = args.out.with_suffix(".tmp")
        partial.write_text(text)
        partial.replace(args.out)
    return 0


def tools_missing() -> str | None:
    """Why nothing can be compiled here, in one sentence, or None."""
    from nsim import cuda as ours

    if SIMULATED:
        return "NUMBA_ENABLE_CUDASIM is set, and the simulator compiles nothing; unset it."
    if not ours.installed("numba_cuda"):
        return f"the package numba-cuda is not installed: {ours.INSTALL}"
    return next(iter(ours.missing_libraries()), None)


if __name__ == "__main__":
    sys.exit(main())
