"""The frame: what is installed is all there is, and versions agree."""

import re
import tomllib
from pathlib import Path

import pytest

import nsim

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_installed():
    listed = {name: name.replace(".", "/") for name in PROJECT["tool"]["setuptools"]["packages"]}
    folders = set((listed | PROJECT["tool"]["setuptools"]["package-dir"]).values())
    tops = [top for top in ("nsim", "nsim_cuda", "datasets") if (ROOT / top).exists()]
    found = {str(k.parent.relative_to(ROOT)) for top in tops for k in (ROOT / top).rglob("*.py")}
    assert folders == found


def test_versions_agree():
    version = PROJECT["project"]["version"]
    assert nsim.__version__ == version
    assert re.search(rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("extra", ["dev", "bench"])
def test_the_torch_of_the_tests_is_that_of_the_benchmarks(extra):
    assert "torch==2.13.0" in PROJECT["project"]["optional-dependencies"][extra]


def test_make_demo_runs_a_script_that_exists():
    script = re.search(r"^DEMO +\?= (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert (ROOT / script).exists()
