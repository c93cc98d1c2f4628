"""The compile check passes what is sound and finds each fault that it is there for; the occupancy is NVIDIA's."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from nsim import cuda
from nsim_cuda import check, occupancy, report

ROOT = Path(__file__).parents[2]


def run(*arguments, simulator=False):
    """The check in a process of its own."""
    return start("-m", "nsim_cuda.check", *arguments, simulator=simulator)


def start(*arguments, simulator=False):
    """A fresh interpreter, which nobody has told to simulate."""
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"} | {"PYTHONPATH": str(ROOT)}
    if simulator:
        env["NUMBA_ENABLE_CUDASIM"] = "1"
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def tools():
    """The CUDA compile tools, which exist for Linux and Windows and are installed with the extras cuda and dev."""
    lacking = [cuda.INSTALL] if not cuda.installed("numba_cuda") else cuda.missing_libraries()
    if lacking:
        pytest.skip(f"compiling for a GPU needs the CUDA tools: {lacking[0]}")


@pytest.fixture(scope="module")
def faulty(tools):
    return run("--cc", "7.5", "9.0", "--list", "tests.cuda.kernels_faulty.registry:kernels")


def test_a_sound_kernel_passes_on_every_generation(tools, tmp_path):
    out = tmp_path / "kernels.md"
    done = run("--list", "tests.cuda.kernels_sound.registry:kernels", "--out", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    text = out.read_text()
    assert text in done.stdout
    (header, row) = (line for line in text.splitlines() if line.startswith(("| kernel", "| total")))
    assert header.split(" | ")[5:] == ["cc 7.5", "cc 8.0", "cc 9.0", "cc 10.0", "cc 12.0 |"]
    assert row.startswith("| total | 128 | 512 | 0 | 0 | ")  # 128 threads, 128 floats of shared memory
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("kernel", "fault", "forms"),
    [
        ("spilling", "spills", ("PTX", "LTO")),
        ("stack", "a stack frame of 1024 bytes, declared are 0", ("PTX", "LTO")),
        ("double", "float64 instructions, the first: cvt.f64.f32", ("PTX",)),
        ("crowded", "a block of 1024 threads with", ("PTX", "LTO")),
    ],
)
@pytest.mark.parametrize("cc", ["7.5", "9.0"])
def test_each_fault_is_found(faulty, kernel, fault, forms, cc):
    assert faulty.returncode == 1
    found = [
        line for line in faulty.stderr.splitlines() if line.startswith(f"FAILED {kernel}, compute capability {cc}")
    ]
    for form in forms:
        assert any(f", {form}: " in line and fault in line for line in found), faulty.stderr


def test_a_kernel_that_does_not_compile_is_named_once(faulty):
    found = [line for line in faulty.stderr.splitlines() if line.startswith("FAILED foreign")]
    assert len(found) == 1
    assert found[0].startswith("FAILED foreign: does not compile: TypingError: ")
    assert "| foreign | 128 | 0 | 0 | 0 | does not compile | does not compile |" in faulty.stdout


def test_a_declared_stack_is_no_fault(faulty):
    assert "| declared stack | 128 | 0 | 1024 | 0 |" in faulty.stdout
    assert "FAILED declared stack" not in faulty.stderr


def test_kernels_that_the_list_forgot_are_found(faulty):
    assert "FAILED registry.py: the kernel make_forgotten.<locals>.kernel is not in the list" in faulty.stderr
    assert "FAILED registry.py: the kernel <lambda> is not in the list" in faulty.stderr
    assert "FAILED the name twice stands twice in the list" in faulty.stderr


def test_the_page_in_docs_has_every_kernel():
    page = (ROOT / "docs" / "cuda-kernels.md").read_text()
    rows = [line.split(" | ")[0].removeprefix("| ").strip() for line in page.splitlines() if line.startswith("| ")]
    # In a process of its own: the tests register a neuron model more.
    program = "from nsim_cuda import registry; [print(entry.name.strip()) for entry in registry.kernels()]"
    done = start("-c", program)
    assert done.returncode == 0, done.stderr
    assert rows[2:] == done.stdout.splitlines(), "docs/cuda-kernels.md is out of date: make check-cuda"


def test_a_failed_check_writes_no_page(tools, tmp_path):
    out = tmp_path / "kernels.md"
    out.write_text("as it was")
    done = run("--cc", "9.0", "--list", "tests.cuda.kernels_faulty.registry:kernels", "--out", str(out))
    assert done.returncode == 1
    assert out.read_text() == "as it was"


def test_the_simulator_compiles_nothing_and_says_so():
    done = run("--list", "tests.cuda.kernels_sound.registry:kernels", simulator=True)
    assert done.returncode == 2
    assert "NUMBA_ENABLE_CUDASIM is set" in done.stderr


def test_an_unknown_compute_capability():
    done = run("--cc", "6.1")
    assert done.returncode == 2
    assert "'6.1': expected one of 7.5, 8.0, 9.0, 10.0, 12.0" in done.stderr


SOURCE = """
from nsim_cuda.shim import cuda
from nsim_cuda.jit import jit

@cuda.jit
def plain(x): ...

@cuda.jit(device=True)
def helper(x): ...

@jit(lineinfo=True)
def renamed(x): ...

def make_sweep(model):
    @inlined
    def inner(x): ...
    if model:
        @cuda.jit(device=False)
        def sweep(x): ...
    return sweep

class Holder:
    @jit
    def method(x): ...
"""


def test_kernels_are_found_in_a_source():
    assert check.kernels_in(SOURCE) == ["plain", "renamed", "make_sweep.<locals>.sweep", "Holder.method"]


def test_what_is_listed_is_not_forgotten(tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text(SOURCE)

    def listed(name):
        code = SimpleNamespace(co_filename=str(path))
        return SimpleNamespace(kernel=SimpleNamespace(py_func=SimpleNamespace(__code__=code, __qualname__=name)))

    names = check.kernels_in(SOURCE)
    assert check.forgotten([listed(name) for name in names], tmp_path) == []
    assert check.forgotten([listed(name) for name in names[1:]], tmp_path) == [
        "sweep.py: the kernel plain is not in the list"
    ]


# From the CUDA 13.0 toolkit's own cuda_occupancy.h, compiled and asked: blocks on one multiprocessor of compute
# capability 7.5, 8.0, 9.0, 10.0, 12.0 for (threads, registers, bytes of shared memory).
NVIDIA = {
    (32, 16, 0): (16, 32, 32, 32, 24),
    (64, 21, 1024): (16, 32, 32, 32, 24),
    (96, 40, 0): (10, 16, 16, 16, 16),
    (128, 64, 4096): (8, 8, 8, 8, 8),
    (224, 77, 3072): (3, 3, 3, 3, 3),
    (256, 32, 0): (4, 8, 8, 8, 6),
    (256, 134, 8192): (1, 1, 1, 1, 1),
    (672, 96, 2048): (0, 0, 0, 0, 0),
    (1024, 64, 0): (1, 1, 1, 1, 1),
    (1024, 65, 0): (0, 0, 0, 0, 0),
    (1024, 32, 40000): (1, 2, 2, 2, 1),
    (200, 255, 100): (1, 1, 1, 1, 1),
    (32, 24, 48000): (1, 3, 4, 4, 2),
    (160, 168, 12345): (2, 2, 2, 2, 2),
}


@pytest.mark.parametrize("sizes", NVIDIA)
def test_blocks_are_those_of_nvidias_calculator(sizes):
    assert tuple(occupancy.blocks(cc, *sizes) for cc in occupancy.LIMITS) == NVIDIA[sizes]


@given(
    some.sampled_from(list(occupancy.LIMITS)),
    some.integers(1, 1024),
    some.integers(1, 255),
    some.integers(0, 48 * 1024),
)
def test_more_of_anything_never_fits_more_blocks(cc, threads, registers, shared):
    fits = occupancy.blocks(cc, threads, registers, shared)
    assert fits >= occupancy.blocks(cc, threads, registers + 1, shared)
    assert fits >= occupancy.blocks(cc, threads, registers, shared + 1)
    assert fits >= occupancy.blocks(cc, threads + 1, registers, shared)
    assert 0 <= occupancy.occupancy(cc, threads, registers, shared) <= 1


# What nvJitLink 13.0 says of two kernels, names shortened: PTX on 9.0, with 1 KiB that the system reserves; LTO on 7.5.
PTX_LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'f' for 'sm_90'
ptxas info    : Function properties for f
ptxas         .     432 bytes stack frame, 1104 bytes spill stores, 1108 bytes spill loads
ptxas info    : Used 24 registers, used 1 barriers
info    : 16 bytes gmem
info    : Function properties for 'f':
info    : used 24 registers, used 1 barriers, 432 stack, 2048 bytes smem, 644 bytes cmem[0], 0 bytes lmem
"""
LTO_LOG = """\
ptxas info    : Compiling entry function 'f' for 'sm_75'
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 21 registers, used 1 barriers, 512 bytes smem
"""


@pytest.mark.parametrize(
    ("log", "found"),
    [
        (PTX_LOG, {"registers": 24, "shared": 1024, "stack": 432, "spills": 2212}),
        (LTO_LOG, {"registers": 21, "shared": 512, "stack": 0, "spills": 0}),
    ],
)
def test_the_linkers_log_is_read(log, found):
    assert check.resources(log) == found


def test_a_log_without_figures_is_an_error():
    with pytest.raises(ValueError, match="no registers"):
        check.resources("ptxas info    : 0 bytes gmem\n")


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("\tcvt.f64.f32 \t%fd1, %f1;", True),
        ("\tld.param.f64 \t%fd4, [p];", True),
        ("\t@%p1 add.rn.f64 \t%fd1, %fd2, %fd3;", True),
        ("\t.reg .f64 \t%fd<5>;", False),
        ("\tadd.rn.f32 \t%f1, %f2, %f3;", False),
        ("\tmov.b64 \t%rd1, 0;", False),
    ],
)
def test_what_counts_as_a_float64_instruction(line, is_one):
    assert bool(check.FLOAT64.search(f"{{\n{line}\n}}")) == is_one


def test_the_page_shows_both_forms_where_they_differ():
    one = check.Built("k", (9, 0), "ltoir", 256, 0, registers=64, shared=100)
    two = check.Built("k", (9, 0), "ptx", 256, 0, registers=70, shared=100, stack=8)
    assert report.cell(one, one) == "64, 50%"
    assert report.cell(one, two) == "64 / 70, 50%"
