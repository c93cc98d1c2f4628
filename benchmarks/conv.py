"""Convolutions: time against the number of events, and whole training steps against dense torch.

    python benchmarks/conv.py
    python benchmarks/conv.py --tables density
    python benchmarks/conv.py --tables step --shapes fashion

The first table is one layer, forward and backward apart, on random events of rising density with the same weights, in
time of the processor: what others run meanwhile hardly changes it. It is fed from outside, and then with as many active
sites below as events, so that dL/ds is computed there too. The second is forward, readout, loss, backward and Adam of a
network with the same weights in nsim and in torch, where all steps go through one conv2d (see peers/conv_nets.py); each
in a process of its own, in turns.
"""

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nsim
from benchmarks.common import Report, Worker, interleaved, machine, table
from benchmarks.shapes import CONV_SHAPES, make_events
from nsim import nn
from nsim.active import Active
from nsim.sweeps import SpikesGrad

PEERS = {
    "nsim": ("conv_nets:Nsim", {"band": 0.2}),
    "nsim band=None": ("conv_nets:Nsim", {"band": None}),
    "torch": ("conv_nets:Torch", {}),
}
# (in_channels, out_channels, kernel, options) of the layers of the first table.
LAYERS = [
    (32, 32, 3, {"size": 28, "padding": 1}),
    (32, 64, 3, {"size": 14, "padding": 1}),
    (64, 64, 3, {"size": 28, "padding": 1, "groups": 64}),
    (2, 32, 3, {"size": 34, "padding": 1}),
    (1, 32, 5, {"size": 28, "stride": 2, "padding": 2}),
]
HIGHEST = 0.1


def random_events(space, density, batch, steps, seed=0):
    hit = np.random.default_rng(seed).random((batch, steps, int(np.prod(space))), np.float32) < density
    return nsim.Spikes.from_dense(hit, 1e-3, space=space)


def fed(space, density, batch, steps, sites):
    """Random events; with `sites` as a layer gives them, with as many active sites as events."""
    spikes = random_events(space, density, batch, steps)
    if sites:
        other = random_events(space, density, batch, steps, seed=1)
        spikes.active = Active(other.indptr, other.indices, np.zeros(other.n_events, np.float32), 0.2)
        spikes.requires_grad = True
    return spikes


def timed(layer, spikes, repeats):
    """Medians of forward and backward, in seconds that all threads compute, and the spikes."""
    found = []
    for _ in range(repeats + 1):
        start = time.process_time()
        out = layer(spikes)
        middle = time.process_time()
        grad = np.ones_like(out.active.u)
        before = time.process_time()
        out.node.vjp(SpikesGrad(grad))
        found.append((middle - start, time.process_time() - before))
    return *(statistics.median(column) for column in zip(*found[1:], strict=True)), out


def density_table(args, report):
    """One layer at rising densities of its input; the weights are those that answer the highest one with about it."""
    for c_in, c_out, kernel, options in LAYERS:
        layer = nn.Conv2d(c_in, c_out, kernel, nsim.LIF(tau_mem=10e-3), seed=0, **options)
        space = layer.space_in
        top = fed(space, HIGHEST, 4, args.steps, False)
        with nsim.no_grad():
            while layer(top).density < HIGHEST / 2:
                layer.weight.data *= 1.2
        for sites in (False, True):
            how = ", ".join(f"{k}={v}" for k, v in options.items() if k != "size")
            below = "as many active sites below" if sites else "no gradient below"
            report(f"\n#### {layer.kind} on {space}, {how}; B={args.layer_batch}, T={args.steps}; {below}\n")
            found = {}
            for density in args.densities:
                spikes = fed(space, density, args.layer_batch, args.steps, sites)
                found[density] = *timed(layer, spikes, args.repeats), spikes.n_events
            top_time = sum(found[max(found)][:2])
            rows = [
                [f"{density:.1%}", f"{n:,}", f"{out.density:.2%}", f"{out.active.u.size / np.prod(out.shape):.2%}",
                 f"{1e3 * forward:.1f}", f"{1e3 * backward:.1f}", f"{(forward + backward) / top_time:.2f}"]
                for density, (forward, backward, out, n) in found.items()
            ]  # fmt: skip
            head = ["density", "events", "fired", "active", "forward, ms", "backward, ms", f"of {max(found):.0%}'s"]
            report(table(head, rows))


def weights_of(shape, rate, samples=4):
    """Uniform weights of each layer, the convolutions enlarged until they fire at about `rate`."""
    rng, weights = np.random.default_rng(shape.seed + 1), []
    events = make_events(replace(shape, batch=samples))
    spikes = nsim.Spikes(events.indptr, events.indices, events.shape, dt=shape.dt, space=shape.space)
    for size, c_in, c_out, kernel, stride in shape.convolutions():
        options = {"size": size, "stride": stride, "padding": kernel // 2}
        layer = nn.Conv2d(c_in, c_out, kernel, nsim.LIF(tau_mem=shape.tau_mem), **options)
        layer.weight.data[...] = rng.uniform(-1, 1, layer.weight.shape) / np.sqrt(kernel * kernel * c_in)
        with nsim.no_grad():
            while (out := layer(spikes)).density < rate:
                layer.weight.data *= 1.1
        weights.append(layer.weight.data)
        spikes = out
    n = spikes.shape[2]
    return [*weights, rng.uniform(-1, 1, (n, shape.n_out)).astype(np.float32) / np.float32(np.sqrt(n))]


def step_table(args, report):
    """Time and peak memory of whole steps."""
    for key in args.shapes:
        shape = replace(CONV_SHAPES[key], **({} if args.batch is None else {"batch": args.batch}))
        weights = weights_of(shape, args.rate)
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(Worker(peer, shape, weights, args.threads, **options))
                for name, (peer, options) in PEERS.items()
            }
            losses = {name: worker.call("loss") for name, worker in workers.items()}
            times = interleaved(workers, "step", args.repeats, warm=1)
            spent = interleaved(workers, "processor_time", args.repeats, warm=0)
            peaks = {name: max(worker.call("peak") for _ in range(2)) for name, worker in workers.items()}
            rates = workers["nsim"].call("rates")
            args.seen.update({worker.versions: None for worker in workers.values()})
        fired, active = (" / ".join(f"{rate:.2%}" for rate in column) for column in zip(*rates, strict=True))
        report(f"\n#### Whole step: {shape}\n\nHidden spikes {fired}, active sites {active}.\n")
        rows = [
            [name, f"{1e3 * seconds:.0f}", f"{seconds / times['nsim']:.1f}x", f"{1e3 * spent[name]:.0f}",
             f"{spent[name] / spent['nsim']:.1f}x", f"{peaks[name] / 2**20:.0f}", f"{losses[name]:.5f}"]
            for name, seconds in times.items()
        ]  # fmt: skip
        header = ["framework", "ms", "of nsim's", "processor, ms", "of nsim's", "peak, MiB", "first loss"]
        report(table(header, rows))


TABLES = {"density": density_table, "step": step_table}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--shapes", nargs="+", choices=list(CONV_SHAPES), default=list(CONV_SHAPES))
    parser.add_argument("--densities", nargs="+", type=float, default=[0.003, 0.01, 0.03, HIGHEST])
    parser.add_argument("--rate", type=float, default=0.02, help="hidden spikes for each site of the networks")
    parser.add_argument("--batch", type=int, help="of the networks; default: each shape's own")
    parser.add_argument("--layer-batch", type=int, default=32, help="of the first table")
    parser.add_argument("--steps", type=int, default=25, help="of the first table")
    parser.add_argument("--threads", type=int, default=2, help="of the networks; the first table takes Numba's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", help="also write the tables to this file")
    args = parser.parse_args()
    args.seen = {}
    report = Report(args.out)
    report(f"{machine(args.threads)}. Medians of {args.repeats} repeats.")
    for name in args.tables:
        TABLES[name](args, report)
    if args.seen:
        report("\nVersions: " + "; ".join(args.seen))


if __name__ == "__main__":
    main()
