"""The kernels of nsim_cuda on tiny data, for `compute-sanitizer`, which finds stray accesses and races.

    python benchmarks/sanitize.py --under memcheck racecheck   # what `make gpu` runs
    python benchmarks/sanitize.py                              # the runs alone

Networks of every spiking model and readout, recurrent or convolutional or neither, with delays, biases and trained
parameters, at odd sizes and with several blocks, are trained for two steps with every optimiser, and their results read
back.
"""

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nsim
from nsim import losses, nn, optim
from nsim.errors import StepOverflow
from nsim.neurons import MODELS
from nsim_cuda.shim import SIMULATED

if SIMULATED:
    from nsim_cuda import simulator

    simulator.small_blocks()

SPIKING = [name for name, model in MODELS.items() if model.spiking]
REDUCED = ["sum", "mean", "max", "last", None]
DT = 1e-3
SIDE = 3  # of the picture that the events lie on


def events(batch, steps, n, density, seed):
    """Random counts on a square picture, repeated events among them, with one silent sample and samples of unequal
    length."""
    counts = np.random.default_rng(seed).poisson(density, (batch, steps, n))
    counts[0] = 0
    lengths = np.maximum(1, steps - np.arange(batch) % steps)
    return nsim.Spikes.from_dense(counts, DT, space=(SIDE, SIDE, 1), lengths=lengths).to("cuda")


def network(model, recurrent, delay, learn, band, reduce, pool, n):
    """9-n-11-3 with a bias in each layer, odd sizes throughout; or a convolutional network with that pooling."""
    options = {"band": band, "learn": [p.name for p in MODELS[model].parameters] if learn else ()}
    if pool:
        return convolutional(MODELS[model](**options), nsim.LI(reduce=reduce), delay, pool(2, 1)).to("cuda")
    hidden = [
        nn.Dense(n_in, n_out, MODELS[model](**options), recurrent=recurrent, delay=delay, bias=True, seed=k)
        for k, (n_in, n_out) in enumerate([(9, n), (n, 11)])
    ]
    for layer in hidden:
        layer.weight.data *= 4
    return nn.Sequential(*hidden, nn.Dense(11, 3, nsim.LI(reduce=reduce), bias=True, delay=delay, seed=2)).to("cuda")


def convolutional(neuron, readout, delay, pool):
    """3 x 3 places of 1, 13 and again 13 channels, these depthwise in a block with a shortcut; 2 x 2 after pooling."""
    options = {"size": SIDE, "padding": 1, "delay": delay, "bias": True}
    first = nn.Conv2d(1, 13, 3, neuron, **options, seed=0)
    block = nn.Residual(nn.Conv2d(13, 13, 3, neuron, **options, groups=13, seed=1))
    for layer in (first, *block.connections()):
        layer.weight.data *= 2
    last = nn.Conv2d(13, 3, 2, readout, size=SIDE - 1, bias=True, delay=delay, seed=2)
    return nn.Sequential(first, block, pool, nn.Dropout(0.2, per="event"), last)


def loss_of(net, batch, labels):
    """Cross-entropy, with both regularisers of the spike counts."""
    out, hidden = net(batch, hidden=True)
    total = losses.cross_entropy(out.sum(1) if out.ndim == 3 else out, labels)
    for spikes in hidden:
        total = total + losses.spike_rate_upper(spikes, limit=0.1) + losses.spike_rate_lower(spikes, limit=0.9)
    return total


def train(net, optimizer, batch, labels, steps=2):
    """Some steps, each made again where the lists on the device were too short for it."""
    done = 0
    while done < steps:
        try:
            loss = loss_of(net, batch, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not np.isfinite(loss.item()):
                raise ArithmeticError(f"loss {loss.item()}")
            done += 1
        except StepOverflow:
            continue


def cases():
    """Each model in all connections; each reduction, optimiser, and the dense active set with the first model."""
    for model, recurrent, delay in itertools.product(SPIKING, (False, True), (0, 2)):
        yield {"model": model, "recurrent": recurrent, "delay": delay}
    for reduce in REDUCED:
        yield {"model": SPIKING[0], "reduce": reduce}
    for optimizer in (optim.SGD, optim.Adam, optim.AdamW):
        yield {"model": SPIKING[0], "optimizer": optimizer}
    for model in SPIKING:
        yield {"model": model, "learn": True}
        yield {"model": model, "learn": True, "n": 71}  # more columns than a block of the backward sweep has
        yield {"model": model, "band": None}
        yield {"model": model, "pool": nn.MaxPool2d}
        yield {"model": model, "pool": nn.AvgPool2d, "learn": True, "delay": 1}
    for reduce in REDUCED:
        yield {"model": SPIKING[0], "pool": nn.SumPool2d, "reduce": reduce}


def sanitized(tool):
    """Exit status of this script under a tool of compute-sanitizer, not 0 where that finds anything."""
    from cuda.pathfinder import find_nvidia_binary_utility

    sanitizer = find_nvidia_binary_utility("compute-sanitizer")
    if sanitizer is None:
        sys.exit('compute-sanitizer was not found: pip install "nsim-snn[gpu]", or install the CUDA toolkit')
    # cuda-bindings and Numba ask the driver for what it may not have and take its refusal for an answer; memcheck would
    # report each as an error. Faults of kernels are reported all the same.
    quiet = ["--report-api-errors", "no"] if tool == "memcheck" else []
    command = [sanitizer, "--tool", tool, *quiet, "--error-exitcode", "1", sys.executable, __file__]
    print(*command, flush=True)
    return subprocess.run(command).returncode


def main(given=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--first", type=int, help="the first so many cases only")
    parser.add_argument("--under", nargs="+", metavar="TOOL", help="tools of compute-sanitizer to run this under")
    args = parser.parse_args(given)
    available = nsim.cuda.is_available()
    if not available:
        sys.exit(f"benchmarks/sanitize.py needs a GPU: {available.why}")
    if args.under:
        return max(sanitized(tool) for tool in args.under)
    for case in list(cases())[: args.first]:
        print(", ".join(f"{key} {getattr(value, '__name__', value)}" for key, value in case.items()), flush=True)
        options = {"recurrent": False, "delay": 0, "learn": False, "band": 0.2, "reduce": "sum", "pool": None, "n": 37}
        optimizer = case.pop("optimizer", optim.Adam)
        net = network(**(options | case))
        batch = events(args.batch, args.steps, SIDE**2, 0.3, seed=0)
        train(net, optimizer(net.parameters(), lr=1e-3), batch, np.arange(args.batch) % 3)
    return 0


if __name__ == "__main__":
    sys.exit(main())
