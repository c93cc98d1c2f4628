"""The page of what kernels take on each GPU generation, as Markdown."""

from __future__ import annotations

from importlib.metadata import version

HEAD = """\
# What the CUDA kernels take

Written by `make check-cuda`, which compiles every kernel for each compute capability on a machine without a GPU and
fails on a register spill, a stack frame that is not declared, a float64 instruction, or a kernel that is not listed.

Registers are those of a thread, of the kernel linked from LTO code, as numba does, and behind the stroke from PTX
where that differs. The percentage is the occupancy: the share of a multiprocessor's warps that blocks of this kernel
can fill, from registers, shared memory and threads of a block. Shared memory, stack and spills are bytes, the largest
of all columns.
"""


def page(built) -> str:
    """The table of all kernels, one line each."""
    names = list(dict.fromkeys(one.name for one in built))
    ccs = sorted({one.cc for one in built})
    found = {(one.name, one.cc, one.form): one for one in built}
    lines = [["kernel", "threads", "shared", "stack", "spills", *(f"cc {major}.{minor}" for major, minor in ccs)]]
    lines.append(["---"] * len(lines[0]))
    for name in names:
        of_it = [one for one in built if one.name == name]
        sizes = [max(getattr(one, what) for one in of_it) for what in ("threads", "shared", "stack", "spills")]
        lines.append([name, *sizes, *(cell(found[name, cc, "ltoir"], found[name, cc, "ptx"]) for cc in ccs)])
    tools = ", ".join(f"{name} {version(name)}" for name in ("numba-cuda", "cuda-toolkit", "nvidia-nvjitlink"))
    rows = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return f"{HEAD}\n{len(names)} kernels; {tools}.\n\n{rows}\n"


def cell(lto, ptx) -> str:
    """Registers and occupancy of one kernel on one compute capability."""
    if lto.failure or ptx.failure:
        return "does not compile"
    other = f" / {ptx.registers}" if ptx.registers != lto.registers else ""
    return f"{lto.registers}{other}, {lto.occupancy:.0%}"
