"""Imports point one way, from the errors up to training and plots; read from the source, nothing is imported."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the ground up. A module imports from lower lines only, or from its own where no circle comes about.
ORDER = [
    ["nsim.errors", "nsim.checks", "nsim.arrays", "nsim.files", "nsim.cuda"],
    ["nsim.surrogates"],
    ["nsim.neurons", "nsim.kernels"],
    ["nsim.active", "nsim.events", "nsim.times", "nsim.windows"],
    ["nsim.backend"],
    ["nsim.launch"],
    ["nsim.tape", "nsim.ops", "nsim.sweeps", "nsim.spatial"],
    ["nsim.nn", "nsim.losses", "nsim.optim"],
    ["nsim.ann"],
    ["nsim.convert"],
    ["nsim.hdf5", "nsim.hdf5_child", "nsim.foreign"],
    ["nsim.io", "nsim.evaluation", "nsim.blame", "nsim.train", "nsim.plot", "nsim.datasets"],
    ["nsim"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def module_name(path):
    """nsim/kernels/sweep.py as nsim.kernels.sweep; the folder datasets is nsim.datasets."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("nsim", *parts) if parts[0] == "datasets" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for top in ("nsim", "datasets") for path in sorted((ROOT / top).rglob("*.py"))}


def imported(module):
    """Modules that a module imports anywhere in its source, inside functions too: (name, line)."""
    path = SOURCES[module]
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.append((whole if whole in SOURCES else base, node.lineno))
    return found


def part(module):
    """The entry of ORDER that a module belongs to: itself, or the package it lies in."""
    return module if module in RANK else module.rpartition(".")[0]


def own(module):
    """The imports of a module that are of this project."""
    return [(name, line) for name, line in imported(module) if name.split(".")[0] == "nsim"]


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_has_its_place(module):
    assert part(module) in RANK, f"{module} stands nowhere in ORDER: say what it may import"


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_downwards(module):
    for name, line in own(module):
        assert RANK[part(name)] <= RANK[part(module)], f"{SOURCES[module]}:{line} imports {name}, which is above it"


def test_there_is_no_circle():
    left = {module: {name for name, _ in own(module)} for module in SOURCES}
    while left:
        free = [module for module, names in left.items() if not names & left.keys()]
        assert free, f"circle among {sorted(left)}"
        for module in free:
            del left[module]


@pytest.mark.parametrize("module", SOURCES)
def test_the_cuda_twin_is_never_imported_statically(module):
    assert not [line for name, line in imported(module) if name.split(".")[0] == "nsim_cuda"]


def test_the_kernels_know_no_model():
    for module in SOURCES:
        if module.startswith("nsim.kernels"):
            assert not [name for name, _ in own(module) if part(name) == "nsim.neurons"], module


def test_the_oracle_imports_nothing_of_ours():
    tree = ast.parse((ROOT / "tests" / "reference.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= {"__future__", "collections.abc", "dataclasses", "numpy"}


def test_the_reader_of_imports_sees_every_kind(tmp_path, monkeypatch):
    """What the tests above rest on."""
    source = tmp_path / "m.py"
    source.write_text(
        "import nsim_cuda.sweep\nfrom nsim import errors, Spikes\nfrom .base import x\nfrom . import jit\n"
        "def f():\n    import nsim.nn as n\n"
    )
    monkeypatch.setitem(SOURCES, "nsim.kernels.m", source)
    names = [name for name, _ in imported("nsim.kernels.m")]
    assert sorted(names) == sorted(
        ["nsim_cuda.sweep", "nsim.errors", "nsim", "nsim.kernels.base", "nsim.kernels.jit", "nsim.nn"]
    )
