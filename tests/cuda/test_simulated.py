"""The device path on the CUDA simulator: the files of `simulated/`, each in a process that is told to simulate."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.name for path in Path(__file__).with_name("simulated").glob("test_*.py"))


@pytest.mark.parametrize("file", FILES)
def test_on_the_simulator(file):
    env = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        f"tests/cuda/simulated/{file}",
    ]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    assert " passed" in done.stdout or "%]" in done.stdout
