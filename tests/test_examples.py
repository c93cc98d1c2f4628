"""The examples as a person meets them: help, errors, Ctrl-C and going on, the demo's floor; and the README's example.

`make smoke` runs every script; what is here is what that does not show.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import nsim
from nsim import Spikes
from nsim.datasets import SHD, Synthetic, write_shd
from nsim.errors import DataError, MissingDataError

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("[!_]*.py"))


def start(script, *args, **environment):
    """A script in a process of its own, in which Ctrl-C works whatever the shell of the tests has set."""
    restore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / script), *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"NUMBA_NUM_THREADS": "1"} | environment, **(restore if os.name == "posix" else {}),
    )  # fmt: skip


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert "Traceback" not in output, output
    return process.returncode, output


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_the_common_options(script):
    code, output = finish(start(script, "--help"))
    assert code == 0
    for option in ("--smoke", "--seed", "--data", "--out"):
        assert option in output


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_example_cites_its_source_and_stands_in_the_readme(script):
    docstring = (EXAMPLES / script).read_text().split('"""')[1]
    assert re.search(r"\b(19|20)\d\d\b", docstring), "no publication is named"
    assert f"`{script}`" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script.startswith("train_")])
def test_a_folder_without_the_data_is_an_error(script, tmp_path):
    code, output = finish(start(script, "--data", tmp_path / "nowhere", "--out", tmp_path / "out"))
    assert code == 1
    assert "was not found" in output and "no such folder" in output


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_in_the_place_of_the_results_is_an_error(script, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, output = finish(start(script, "--smoke", "--out", tmp_path / "file"))
    assert code == 1 and output.startswith(f"error: --out {tmp_path / 'file'}: ") and output.count("\n") == 1


@pytest.mark.parametrize(
    "script, options, words",
    [
        ("custom_neuron.py", ("--seed", -1), "--seed -1: expected a number from 0"),
        ("train_shd.py", ("--demo", "--data", "synthetic", "--epochs", 0), "--epochs 0: expected a number from 1"),
        ("train_shd.py", ("--demo", "--data", "synthetic", "--hidden", 0), "--hidden 0: expected a number from 1"),
    ],
)
def test_impossible_options_are_named(script, options, words, tmp_path):
    code, output = finish(start(script, "--out", tmp_path, *options))
    assert code == 2 and output.endswith(f"error: {words}\n")


def test_the_demo_ends_where_the_data_are_damaged(tmp_path):
    for split in ("train", "test"):
        write_shd(tmp_path / f"shd_{split}.h5", [[0.1]], [[5]], [0])
    path = tmp_path / "shd_train.h5"
    path.write_bytes(path.read_bytes()[:3000])
    process = start("train_shd.py", "--demo", "--out", tmp_path / "out", NSIM_DATA=tmp_path, NSIM_CACHE=tmp_path)
    code, output = finish(process)
    assert code == 1 and output.startswith(f"error: {path}: ") and output.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_ends_cleanly_and_a_second_run_goes_on(tmp_path):
    options = ("--data", "synthetic", "--out", tmp_path, "--hidden", 16)
    process = start("train_shd.py", *options, "--epochs", 100)
    while not (tmp_path / "last.h5").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130
    assert "training interrupted" in output and "last.h5" in output
    code, output = finish(start("train_shd.py", *options, "--epochs", 1))
    assert code == 0
    assert "Going on from" in output and "test samples right" in output
    assert {"raster.png", "training.png", "confusion.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "options, words",
    [
        (["--smoke", "--out"], r"last\.h5 is of an earlier run, which .*; give another --out, or --fresh$"),
        (["--demo", "--out"], r"last\.h5 is of an earlier run, which .*; give another --out, or --fresh$"),
        (
            ["--seed", "1", "--out"],
            r"last\.h5 is not a checkpoint .*; give another --out, or --fresh to overwrite it$",
        ),
        (["--smoke", "--fresh", "--out"], "it began"),
        (["--smoke"], "it began"),  # into the folder of smoke tests
    ],
)
def test_a_run_of_another_kind_is_not_overwritten(options, words, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    import train_shd

    def began(self):
        raise DataError("it began")

    out = tmp_path / "runs" / "shd-smoke-synthetic"
    out.mkdir(parents=True)
    nsim.save(out / "last.h5", nsim.nn.Sequential(nsim.nn.Dense(2, 1, nsim.LI(1e-2))))
    kept = (out / "last.h5").read_bytes()
    monkeypatch.setattr(nsim.train._Run, "epoch", began)
    arguments = [*options, out] if options[-1] == "--out" else options
    monkeypatch.setattr(sys, "argv", ["train_shd.py", "--data", "synthetic", "--hidden", "4", *map(str, arguments)])
    with pytest.raises(DataError, match=words):
        train_shd.main()
    assert (out / "last.h5").read_bytes() == kept


def test_the_closed_loop_balances_and_gives_the_same_bits(tmp_path):
    code, output = finish(start("embed_in_numpy_loop.py", "--smoke", "--out", tmp_path))
    assert code == 0, output
    assert "the same bits" in output and "4 of 4 stand" in output


@pytest.mark.parametrize("above", [True, False])
def test_the_demo_fails_below_its_floor(above, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    import train_shd

    floors = train_shd.FLOORS
    assert set(floors) == {SHD, Synthetic} and all(0.05 < floor < 1 for floor in floors.values())
    accuracy = floors[Synthetic] + (0.001 if above else -0.001)
    monkeypatch.setattr(train_shd, "train_and_report", lambda *args, **options: accuracy)
    monkeypatch.setattr(sys, "argv", ["train_shd.py", "--demo", "--data", "synthetic", "--out", str(tmp_path)])
    assert train_shd.main() == (0 if above else 1)


def test_the_demo_goes_on_with_the_generator_and_says_so(monkeypatch, tmp_path, capsys):
    """Only where no folder was asked for."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import _shared

    for name in ("NSIM_DATA", "NSIM_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    args = _shared.argparse.Namespace(data=None, smoke=True)
    train, test = _shared.load(SHD, args, stand_in=True)
    assert isinstance(train, Synthetic) and isinstance(test, Synthetic)
    said = capsys.readouterr().out
    assert "was not found" in said and "built-in generator instead" in said
    with pytest.raises(MissingDataError):
        _shared.load(SHD, args, stand_in=False)
    write_shd(tmp_path / "shd_train.h5", [[0.1]], [[5]], [0])
    with pytest.raises(MissingDataError, match=r"SHD \(test\) was not found"):
        _shared.load(SHD, args, stand_in=True)


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training, pictures, conventional, conversion = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert 'SHD(split="train")' in training
    training = training.replace("import SHD", "import Synthetic").replace(
        'SHD(split="train")', "Synthetic(samples=300, cache=False)"
    )
    names = {}
    exec(compile(training, "README.md", "exec"), names)
    assert 0 < names["loss"].item() < 10 and all(layer.weight.grad.any() for layer in names["net"])
    assert (tmp_path / "raster.png").stat().st_size > 0
    plt.close("all")
    exec(compile(pictures, "README.md", "exec"), names)
    empty = Spikes.from_dense(np.zeros((2, 3, 28, 28, 1)), 1e-3)
    assert names["net"](empty).shape == (2, 10)
    # These two want weights and pictures from files; what they import is there, and they are Python.
    for block in (conventional, conversion):
        compile(block, "README.md", "exec")
        exec("\n".join(line for line in block.splitlines() if line.startswith(("from ", "import "))), names)
    assert {"to_spiking", "Bistable", "IF"} <= set(dir(names["convert"])) and hasattr(names["ann"], "from_onnx")
