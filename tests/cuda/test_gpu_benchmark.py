"""benchmarks/gpu.py and benchmarks/sanitize.py run in the simulator, say so where they cannot, and count bytes."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import agree_gpu, common, floor, gpu
from benchmarks.shapes import Shape
from nsim import cuda
from nsim.neurons import MODELS
from nsim_cuda import drive, readout, sweep
from nsim_cuda import jit as jit_of_nsim

ROOT = Path(__file__).parents[2]
SHAPE = Shape("Test", 700, (200, 300), 20, 500, 1e-3, 0.02, batch=256)
ROWS = 500 * 256


def run(script, *arguments, simulator=True):
    """A script of benchmarks/ in a process of its own, which sees no GPU where there is one."""
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"} | {"CUDA_VISIBLE_DEVICES": ""}
    if simulator:
        env["NUMBA_ENABLE_CUDASIM"] = "1"
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "new" / "tiny.md"
    done = run("gpu.py", "--tiny", "--shapes", "fashion", "--repeats", "1", "--warm", "0", "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out.read_text(), done.stdout


def test_the_benchmark_runs_in_the_simulator(tiny):
    text, printed = tiny
    assert text in printed
    measured, note = text.split("The paper's own")
    lines = [line for line in measured.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0][1:5] == ["framework", "forward, ms", "backward, ms", "step, ms"]
    assert [row[1] for row in rows[2:]] == ["floor", *gpu.TINY]
    assert all(float(row[2]) > 0 for row in rows[2:])
    losses = {row[-1] for row in rows[3:] if row[1] != gpu.JELLY}  # whose reset is another
    assert len(losses) == 1, f"losses differ: {text}"  # the same network on the same events
    assert "No GPU" in text
    assert "| SHD, 1000 | 3162 | 89 | 7.8x faster |" in note


@pytest.mark.parametrize("arguments", [("gpu.py",), ("gpu.py", "--tiny"), ("agree_gpu.py",), ("sanitize.py",)])
def test_without_a_gpu_they_say_so(arguments):
    done = run(*arguments, simulator=False)
    assert done.returncode == 1
    assert f"benchmarks/{arguments[0]} needs a GPU" in done.stderr


@pytest.mark.parametrize("script", ["gpu.py", "agree_gpu.py"])
def test_the_simulator_takes_nothing_large(script):
    done = run(script)
    assert done.returncode == 1
    assert "the simulator takes --tiny only" in done.stderr


def test_cpu_and_simulator_train_alike():
    done = run("agree_gpu.py", "--tiny")
    assert done.returncode == 0, done.stderr
    lines = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    rows = [[float(cell) for cell in line] for line in lines[2:]]
    assert [row[0] for row in rows] == [0, 10]
    for _, cpu, simulated, gap in rows:
        assert simulated == pytest.approx(cpu, rel=1e-4)
        assert gap < 1e-4
    assert rows[0][1] != rows[1][1]  # it trains
    assert "Test accuracy: CPU " in done.stdout


@pytest.mark.parametrize(("there", "said", "status"), [(1.09, "0.90%", 0), (0.89, "1.10%", 1), (np.nan, "nan%", 1)])
def test_losses_that_part_are_told(monkeypatch, capsys, there, said, status):
    curves = np.ones((20, 2))
    curves[13, 1] = there
    monkeypatch.setattr(cuda, "is_available", lambda: cuda.Answer(True, "a GPU"))
    monkeypatch.setattr(agree_gpu, "SIMULATED", False)
    monkeypatch.setattr(agree_gpu, "train", lambda *_: (curves, (0.5, 0.5)))
    assert agree_gpu.main(["--tiny"]) == status
    assert f"Largest difference: {said} (at most 1%)" in capsys.readouterr().out


def test_sanitize_runs_in_the_simulator():
    done = run("sanitize.py", "--first", "1", "--batch", "2", "--steps", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"model {next(iter(MODELS))}, recurrent False, delay 0")


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_memcheck_passes_over_what_the_driver_refuses(monkeypatch, tool):
    pathfinder = pytest.importorskip("cuda.pathfinder", reason="comes with the cuda extra")
    from benchmarks import sanitize

    monkeypatch.setattr(pathfinder, "find_nvidia_binary_utility", lambda name: f"/bin/{name}")
    seen = []
    monkeypatch.setattr(
        sanitize.subprocess, "run", lambda command: seen.append(command) or SimpleNamespace(returncode=3)
    )
    assert sanitize.sanitized(tool) == 3
    assert seen[0][:3] == ["/bin/compute-sanitizer", "--tool", tool]
    assert ("--report-api-errors no" in " ".join(seen[0])) == (tool == "memcheck")


def test_sanitize_meets_every_model_and_form():
    from benchmarks import sanitize

    cases = list(sanitize.cases())
    assert {case["model"] for case in cases} == {name for name, model in MODELS.items() if model.spiking}
    assert {case.get("reduce", "sum") for case in cases} == {"sum", "mean", "max", "last", None}
    assert len({case["optimizer"] for case in cases if "optimizer" in case}) == 3
    for model in sanitize.SPIKING:
        of_it = [case for case in cases if case["model"] == model]
        assert any(case.get("recurrent") for case in of_it)
        assert any(case.get("learn") for case in of_it)
        assert any("band" in case for case in of_it)
        assert {case["pool"].how for case in of_it if "pool" in case} >= {"max", "mean"}


def test_layers_count_what_their_sweeps_touch():
    first, second, last = floor.layers(SHAPE, [(0.01, 0.03), (0.02, 0.04)])
    events = int(0.02 * ROWS * 700)
    assert first == floor.Layer(700, 200, events, 0, int(0.01 * ROWS * 200), int(0.03 * ROWS * 200))
    assert second == floor.Layer(
        200, 300, first.events_out, first.active_out, int(0.02 * ROWS * 300), int(0.04 * ROWS * 300)
    )
    assert last == floor.Layer(300, 20, second.events_out, second.active_out)


def test_bytes_of_a_first_layer():
    layer = floor.Layer(10, 4, events_in=7, active_in=0, events_out=3, active_out=5)
    # Events 2 bytes each, active sites 2 and u 4, weights 4, a pointer of 4 for each row of each list.
    assert layer.forward_bytes(rows=6) == 7 * 2 + 3 * 2 + 5 * 6 + 40 * 4 + 6 * 4 * 3
    # Events, sites with u and gradient, dW; nothing for inputs that want no gradient.
    assert layer.backward_bytes(rows=6) == 7 * 2 + 5 * 10 + 40 * 4 + 6 * 4 * 2


def test_bytes_of_a_readout():
    layer = floor.Layer(10, 4, events_in=7, active_in=5)
    assert layer.forward_bytes(rows=6) == 7 * 2 + 40 * 4 + 6 * 4 * 2
    # The weights are read for dL/ds below, whose sites are read and whose gradient is written.
    assert layer.backward_bytes(rows=6) == 7 * 2 + 5 * 6 + 2 * 40 * 4 + 6 * 4 * 2


@pytest.mark.parametrize(("speed", "step", "wanted"), [(1e12, 1e-6, "steps"), (1e6, 1e-12, "bytes")])
def test_the_floor_is_the_larger_of_both(monkeypatch, speed, step, wanted):
    monkeypatch.setattr(floor, "copy_bandwidth", lambda: speed)
    monkeypatch.setattr(floor, "empty_step", lambda count, blocks, threads: step * count)
    rates = [(0.01, 0.03), (0.02, 0.04)]
    forward, backward, whole = floor.floor(SHAPE, rates)
    layers = floor.layers(SHAPE, rates)
    weights = 700 * 200 + 200 * 300 + 300 * 20
    assert whole == pytest.approx(forward + backward + weights * 28 / speed)
    if wanted == "bytes":
        assert forward == pytest.approx(sum(layer.forward_bytes(ROWS) for layer in layers) / speed)
        assert backward == pytest.approx(sum(layer.backward_bytes(ROWS) for layer in layers) / speed)
    else:
        readout_bytes = layers[-1].forward_bytes(ROWS) / speed  # it waits nowhere
        assert forward == pytest.approx(500 * step * 2 + readout_bytes)
        count = 2 * floor.barriers(sweep.make_backward) + floor.barriers(readout.make_backward)
        count += 2 + 2 * 2  # to 6 sites of 200 neurons, and to 6 in each of two tiles of 150
        assert backward == pytest.approx(500 * step * count)


def test_empty_sweeps_have_the_threads_of_the_kernels(monkeypatch):
    asked = []
    monkeypatch.setattr(floor, "copy_bandwidth", lambda: 1e12)
    monkeypatch.setattr(floor, "empty_step", lambda count, blocks, threads: asked.append((blocks, threads)) or 0.0)
    floor.floor(SHAPE, [(0.01, 0.03), (0.02, 0.04)])
    back = (256, jit_of_nsim.BLOCK)
    assert asked == [(256, 224), back, (512, 160), back, (256, 32), back]


@pytest.mark.parametrize("sites", [0, 1, 8, 9, 16, 17, 100])
def test_barriers_on_the_way_to_the_sites_below(monkeypatch, sites):
    """As many as one thread of a block of the kernel comes by."""
    seen, x = [], SimpleNamespace
    block = x(threadIdx=x(x=0), blockDim=x(x=jit_of_nsim.BLOCK), syncthreads=lambda: seen.append(1))
    monkeypatch.setattr(drive, "cuda", block)
    zeros = np.zeros(256)
    drive.dot_rows(zeros, False, np.zeros((200, 4)), np.arange(sites), 0, sites, zeros, 4, zeros, 0.0)
    for n_in, tiles in ((200, 1), (1000, 4)):
        layer = floor.Layer(n_in, 4, events_in=0, active_in=tiles * sites * ROWS)
        assert floor.team_barriers(layer, ROWS) == tiles * len(seen)


def jit(kernel):
    return kernel


def make_waiting(cuda):
    def helper():
        for t in range(3):
            cuda.syncthreads()
            print(t)

    @jit
    def kernel(steps):
        cuda.syncthreads()
        for t in range(steps):
            if t:
                cuda.syncthreads()
            for n in range(4):
                print(n)
            cuda.syncthreads()

    return kernel, helper


def make_without_steps():
    @jit
    def kernel(n):
        return n

    return kernel


def test_barriers_are_counted_in_the_loop_over_steps():
    assert floor.barriers(make_waiting) == 2
    with pytest.raises(ValueError, match="no kernel with a loop over steps"):
        floor.barriers(make_without_steps)


def test_a_torch_without_cuda_is_refused(monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is part of the dev extra: make test installs it")
    from benchmarks.peers import on_gpu

    monkeypatch.setattr(on_gpu, "DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"^PyTorch \S+ sees no GPU .*; pip install -e"):
        on_gpu.Fair(SHAPE, [], threads=torch.get_num_threads())


class Peer:
    """Stands in for a worker: one call fails."""

    versions = "1.0"

    def __init__(self, fails=None):
        self.fails, self.asked = fails, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def call(self, what):
        self.asked.append(what)
        if what == self.fails:
            raise RuntimeError("CUDA out of memory\nand more")
        return (1.0, 2.0) if what == "device_parts" else float(len(self.asked))


def test_a_peer_that_fails_on_its_turn_costs_only_itself(monkeypatch):
    fails = [None, "device_loss", "device_step", "device_parts"]
    peers = {name: Peer(what) for name, what in zip(gpu.PEERS, fails, strict=False)}
    monkeypatch.setattr(gpu, "Worker", lambda peer, *_: peers[next(k for k, v in gpu.PEERS.items() if v == peer)])
    args = gpu.arguments(["--tiny", "--repeats", "2", "--warm", "1", "--peers", *peers])
    found, failed, _ = gpu.measure(gpu.shape_of("fashion", 8, args), args)
    assert found == {"nsim": {"loss": 1.0, "peak": 2.0, "step": 4.5, "forward": 1.0, "backward": 2.0}}
    assert failed == dict.fromkeys(list(peers)[1:], "CUDA out of memory")
    assert peers["torch, unbind"].asked.count("device_step") == 1
    with pytest.raises(RuntimeError, match="out of memory"):  # where all are wanted
        common.interleaved({"one": Peer("step")})


def test_a_worker_that_was_killed_says_so():
    worker = common.Worker.__new__(common.Worker)
    worker.pipe, theirs = multiprocessing.Pipe()
    worker.process = SimpleNamespace(join=lambda: None, exitcode=-9)
    theirs.close()
    with pytest.raises(RuntimeError, match="died with exit code -9"):
        worker.call("step")


FOUND = {
    "nsim": {"forward": 1e-3, "backward": 2e-3, "step": 4e-3, "peak": 2**20, "loss": 1.25},
    gpu.PAPER: {"forward": 1e-2, "backward": 4e-1, "step": 5e-1, "peak": 2**30, "loss": 1.25},
    "torch, unbind": {"forward": 1e-2, "backward": 5e-2, "step": 8e-2, "peak": 2**29, "loss": 1.25},
}


def test_rows_and_targets(monkeypatch):
    monkeypatch.setattr(gpu.floor, "floor", lambda shape, rates: (5e-4, 1e-3, 2e-3))
    rates = [(0.01, 0.02), (0.03, 0.04)]
    rows = gpu.rows_of(SHAPE, FOUND, {"SpikingJelly, fused": "no module"}, rates)
    assert all(len(row) == len(gpu.HEADER) for row in rows)
    assert {row[0] for row in rows} == {"Test 200 (1.0%, 2.0% / 3.0%, 4.0%)"}
    assert [row[1] for row in rows] == ["floor", *FOUND, "SpikingJelly, fused"]
    assert rows[1][2:] == ["1.000", "2.000", "4.000", "1.0x", "1.0x", "2.0", "1.0", "1.2500"]
    assert rows[2][5:7] == ["200.0x", "125.0x"]
    assert rows[-1][2] == "did not run: no module"
    line = gpu.targets(SHAPE, FOUND, rates)
    assert "forward 2.0, backward 2.0 of the floor" in line
    assert f"backward 200x faster than {gpu.PAPER}" in line
    assert "step 20.0x faster than torch, unbind" in line
    assert "peak 0.2% of that of torch, unbind" in line
    assert gpu.targets(SHAPE, {"nsim": FOUND["nsim"]}, rates) is None


def test_results_are_named_after_the_gpu(monkeypatch):
    found = cuda.Driver((13, 0), (cuda.Gpu("NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30),))
    monkeypatch.setattr(cuda, "driver", lambda: found)
    monkeypatch.setattr(floor, "SIMULATED", False)
    assert gpu.results_file() == ROOT / "benchmarks" / "results" / "gpu-nvidia-h100-80gb-hbm3.md"
    assert gpu.device_line().startswith("NVIDIA H100 80GB HBM3, compute capability 9.0, 80 GiB, driver ")
    monkeypatch.setattr(floor, "SIMULATED", True)  # on the same machine
    assert gpu.device_line().startswith("No GPU")
