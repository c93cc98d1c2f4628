"""How fast a sweep could be at best on the GPU at hand, from two things that are measured there.

A sweep of T steps takes at least the larger of

- the bytes that must move, once each, over the bandwidth of a copy on the device: events and active sites in and out,
  the weights read, their gradient written;
- T times the step of an empty sweep: a block for each sample (forward, for each of its tiles of neurons), of as many
  threads as the kernel's, and as many barriers in a step as the kernel's: `barriers` counts those in its source,
  `team_barriers` those at which the gradient on its way to the layer below waits.

The floor of a pass is the sum over its sweeps; Adam reads and writes 28 bytes for each weight.
"""

import ast
import importlib
import inspect
import statistics
import time
from dataclasses import dataclass
from functools import cache

import numpy as np

from nsim_cuda import jit
from nsim_cuda.drive import TEAM_ROUNDS
from nsim_cuda.shim import SIMULATED, cuda

if SIMULATED:
    from nsim_cuda import simulator

    simulator.small_blocks()

INDEX, U, POINTER, FLOAT = 2, 4, 4, 4  # bytes of an event's index, of u or a gradient at a site, of a row, of a weight
ADAM = 7 * FLOAT  # weight, two moments read and written, gradient read


@dataclass(frozen=True)
class Layer:
    """What a sweep works through in one batch: events and active sites, in and out; 0 where there are none."""

    n_in: int
    n_out: int
    events_in: int
    active_in: int
    events_out: int = 0
    active_out: int = 0

    @property
    def weights(self):
        return self.n_in * self.n_out * FLOAT

    def forward_bytes(self, rows):
        """Events and weights in, spikes and active sites out; `rows` = B T."""
        listed = self.events_in * INDEX + self.events_out * INDEX + self.active_out * (INDEX + U)
        return listed + self.weights + rows * POINTER * (2 + bool(self.active_out))

    def backward_bytes(self, rows):
        """Events and active sites with u and dL/ds in, dW out; with a layer below weights in and dL/ds there out."""
        listed = self.events_in * INDEX + self.active_out * (INDEX + 2 * U) + self.active_in * (INDEX + U)
        below = self.weights if self.active_in else 0
        return listed + self.weights + below + rows * POINTER * (1 + bool(self.active_out) + bool(self.active_in))


def layers(shape, rates):
    """The layers of a network from the (spikes, active sites) for each site of its hidden layers."""
    rows = shape.batch * shape.steps
    counted = [(shape.density * rows * shape.n_in, 0)]
    counted += [(s * rows * n, a * rows * n) for (s, a), n in zip(rates, shape.hidden, strict=True)]
    counted.append((0, 0))
    return [
        Layer(n_in, n_out, int(events_in), int(active_in), int(events_out), int(active_out))
        for n_in, n_out, (events_in, active_in), (events_out, active_out) in zip(
            shape.sizes, shape.sizes[1:], counted, counted[1:], strict=False
        )
    ]


def floor(shape, rates):
    """Seconds of forward, backward and whole step that no sweep of this network can beat here."""
    rows, speed = shape.batch * shape.steps, copy_bandwidth()
    forward = backward = 0.0
    found = layers(shape, rates)
    for layer in found:
        module = importlib.import_module("nsim_cuda." + ("sweep" if layer is not found[-1] else "readout"))
        tiles, width = jit.tiles(layer.n_out, False)
        there = empty_step(barriers(module.make_forward), shape.batch * tiles, jit.block_for(width))
        waits = barriers(module.make_backward) + team_barriers(layer, rows)
        back = empty_step(waits, shape.batch, jit.BLOCK)
        forward += max(layer.forward_bytes(rows) / speed, shape.steps * there)
        backward += max(layer.backward_bytes(rows) / speed, shape.steps * back)
    adam = sum(layer.n_in * layer.n_out for layer in found) * ADAM / speed
    return forward, backward, forward + backward + adam


@cache
def barriers(make) -> int:
    """Barriers in one step of the kernel that `make` builds: calls of syncthreads in its loop over the steps."""
    kernels = [node for node in ast.walk(ast.parse(inspect.getsource(make))) if decorated(node)]
    loops = [loop for kernel in kernels for loop in ast.walk(kernel) if over_steps(loop)]
    if not loops:
        raise ValueError(f"{make.__module__}.{make.__name__} has no kernel with a loop over steps, for t in ...")
    calls = [node for loop in loops for node in ast.walk(loop) if isinstance(node, ast.Call)]
    return sum(getattr(call.func, "attr", "") == "syncthreads" for call in calls)


def team_barriers(layer, rows) -> int:
    """Barriers of one backward step in `dot_rows` (drive.py), once for each tile of the layer below, where its active
    sites in a tile and step are as many as on average."""
    tiles, _ = jit.tiles(layer.n_in, False)
    sites, teams = round(layer.active_in / rows / tiles), jit.BLOCK // jit.WARP
    return tiles * (1 if sites > TEAM_ROUNDS * teams else 2 * -(-sites // teams))


def decorated(node):
    """Whether this is a function that is compiled as a kernel."""
    return isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list)


def over_steps(node):
    return isinstance(node, ast.For) and getattr(node.target, "id", "") == "t"


@cache
def make_empty(count):
    """A sweep that does nothing but wait `count` times a step for the threads of its block."""

    @cuda.jit
    def empty(steps, out):
        for t in range(steps):
            for _ in range(count):
                cuda.syncthreads()
            if t == steps - 1:
                out[cuda.blockIdx.x] = t

    return empty


@cache
def empty_step(count, blocks, threads, steps=4 if SIMULATED else 20_000):
    """Seconds of one step of an empty sweep."""
    kernel, out = make_empty(count), cuda.device_array(blocks, np.int32)
    return seconds(lambda: kernel[blocks, threads](steps, out)) / steps


@cache
def copy_bandwidth(size=1 << 12 if SIMULATED else 1 << 30):
    """Bytes a second, read and written, of a copy of 1 GiB on the device."""
    source = cuda.to_device(np.zeros(size, np.uint8))
    target = cuda.device_array(size, np.uint8)
    return 2 * size / seconds(lambda: target.copy_to_device(source))


def seconds(run, repeats=5):
    """Median time of run() on the device, warm, from device events; in the simulator, which has none, by the clock."""
    run()
    times = []
    for _ in range(repeats):
        if SIMULATED:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
            continue
        first, last = cuda.event(), cuda.event()
        first.record()
        run()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1e3)
    return statistics.median(times)
