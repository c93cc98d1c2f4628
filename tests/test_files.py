"""Files that are whole or not there, and what a killed process leaves."""

import os
import subprocess
import sys
from pathlib import Path

from nsim.files import atomic, sweep, unfinished


def test_a_killed_process_leaves_what_git_ignores_and_a_later_run_removes(tmp_path):
    path = tmp_path / "net[1].h5"
    script = (
        "import os, sys\nfrom nsim.files import atomic\n"
        "with atomic(sys.argv[1]) as unfinished:\n    unfinished.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, path])
    assert killed.returncode != 0 and not path.exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".net[1].h5.") and left.suffix == ".tmp"
    assert "*.tmp" in (Path(__file__).parents[1] / ".gitignore").read_text().split()
    for late in (False, True):  # at first it may belong to a living process
        if late:
            os.utime(left, (1e9, 1e9))
        with atomic(path) as unfinished:
            unfinished.write_text("whole")
        assert path.read_text() == "whole" and left.exists() != late


def test_only_abandoned_files_of_this_name_are_removed(tmp_path):
    names = [".a.0123456789ab.tmp", ".b.0123456789ab.tmp", ".a.tmp", "a.0123456789ab.tmp"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9, 1e9))
    folder = unfinished(tmp_path / "a")
    folder.mkdir()
    sweep(tmp_path, "a")
    assert {p.name for p in tmp_path.iterdir()} == {folder.name, *names[1:]}
    os.utime(folder, (1e9, 1e9))
    sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(names[2:])
