"""Do CPU and GPU train alike? One network from one seed, trained on both with the same batches, each by itself.

    python benchmarks/agree_gpu.py                                # 100 steps on Fashion-MNIST
    NUMBA_ENABLE_CUDASIM=1 python benchmarks/agree_gpu.py --tiny  # in the simulator, on made events

784-200-200-10 with the settings and weights of `examples/train_fashion_mnist.py --paper`. Exits with 1 where the mean
loss of ten steps differs by more than 1 % of the CPU's. Single steps differ more: the two sum in another order, and
through spikes at the threshold that grows from step to step. On the CPU alone, weights changed by 1e-7 of themselves
change the loss of a step by up to 1.1 % within 100 steps and the mean of ten by up to 0.6 % (seven seeds; the medians
are 0.6 % and 0.3 %). With a learning rate of 5e-3, as in the example without --paper, a step differs by up to 40 %.
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nsim
from benchmarks.common import Report, machine, table, versions
from nsim import losses, nn, optim
from nsim.datasets import EventData, Events, FashionMNIST
from nsim.errors import StepOverflow
from nsim_cuda.shim import SIMULATED

if SIMULATED:
    from nsim_cuda import simulator

    simulator.small_blocks()

DT, TAU, LIMIT, MEAN = 1e-3, 10e-3, 0.01, 10
DEVICES = ("cpu", "cuda")
WHOLE = {"steps": 100, "hidden": 200, "batch": 256, "time": 100}
TINY = {"steps": 12, "hidden": 8, "batch": 3, "time": 12}


def made(samples, seed, n=20, classes=3):
    """Events of no meaning, one of each neuron, for the simulator."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, 11_000, (samples, n)))
    units = rng.permuted(np.tile(np.arange(n), (samples, 1)), axis=1)
    events = Events(times.ravel(), units.ravel(), n * np.arange(samples + 1), (n,))
    return EventData(events, np.arange(samples) % classes, name="made events", classes=tuple("abc"))


def network(data, hidden, seed):
    """Two hidden layers and weights N(0, 20 (1 - beta) / sqrt(fan in)), as in the example."""
    sizes = (data.n, hidden, hidden, data.n_classes)
    neurons = [nsim.LIF(tau_mem=TAU), nsim.LIF(tau_mem=TAU), nsim.LI(tau_mem=TAU, reduce="max")]
    net = nn.Sequential(*(nn.Dense(a, b, m, delay=1) for (a, b), m in zip(pairwise(sizes), neurons, strict=True)))
    rng = np.random.default_rng(seed)
    for layer in net:
        layer.weight.data[...] = rng.normal(0, 20 * (1 - np.exp(-DT / TAU)) / np.sqrt(layer.n_in), layer.weight.shape)
    return net


def step(net, opt, spikes, labels):
    """The loss of a training step, made again where the lists on the device were too short for it."""
    while True:
        try:
            output, hidden = net(spikes, hidden=True)
            loss = losses.cross_entropy(output, labels)
            opt.zero_grad()
            (loss + losses.spike_rate_upper(hidden, limit=1) + losses.spike_rate_lower(hidden)).backward()
            opt.step()
            return loss.item()
        except StepOverflow:
            continue


def train(parts, size, seed):
    """Losses [steps, 2] and test accuracies, CPU and GPU."""
    nets = [network(parts[0], size["hidden"], seed).to(device) for device in DEVICES]
    opts = [optim.Adam(net.parameters(), lr=2e-4) for net in nets]
    common = {"dt": DT, "steps": size["time"], "binning": "round", "clamp": True}
    batches = parts[0].batches(size["batch"], shuffle=True, seed=seed, **common)
    curves = [
        [step(net, opt, spikes.to(net.device), labels) for net, opt in zip(nets, opts, strict=True)]
        for _, (spikes, labels) in zip(range(size["steps"]), batches, strict=False)
    ]
    return np.array(curves), [nsim.evaluate(net, parts[1], batch=size["batch"], **common).accuracy for net in nets]


def apart(pairs):
    """Differences as parts of what the CPU has."""
    return np.abs(pairs[:, 1] - pairs[:, 0]) / pairs[:, 0]


def main(given=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    parser.add_argument(
        "--data", metavar="FOLDER", help="of Fashion-MNIST (default: $NSIM_DATA, the cache, a download)"
    )
    parser.add_argument("--tiny", action="store_true", help="a few neurons, samples and steps, for the simulator")
    args = parser.parse_args(given)
    available = nsim.cuda.is_available()
    if not available:
        sys.exit(f"benchmarks/agree_gpu.py needs a GPU, or NUMBA_ENABLE_CUDASIM=1 and --tiny: {available.why}")
    if SIMULATED and not args.tiny:
        sys.exit("benchmarks/agree_gpu.py: the simulator takes --tiny only; unset NUMBA_ENABLE_CUDASIM to use a GPU")
    if args.tiny:
        size, parts = TINY, [made(36, args.seed), made(4, args.seed + 1)]
    else:
        size, parts = WHOLE, [FashionMNIST(split, args.data) for split in ("train", "test")]
    report = Report()
    report(f"{parts[0].name}, seed {args.seed}. GPU: {available.why}. Host: {machine(numba.get_num_threads())}.\n")
    curves, accuracies = train(parts, size, args.seed)
    first = range(0, len(curves), MEAN)
    means = np.array([curves[k : k + MEAN].mean(0) for k in first])
    single, gaps = apart(curves), apart(means)
    rows = [[k, *(f"{x:.6f}" for x in mean), f"{gap:.1e}"] for k, mean, gap in zip(first, means, gaps, strict=True)]
    report(table([f"{MEAN} steps from", "mean loss, CPU", "GPU", "difference"], rows))
    report(f"\nLargest difference: {gaps.max():.2%} (at most {LIMIT:.0%}); of a single step: {single.max():.2%}.")
    cpu, gpu = accuracies
    chance = np.sqrt(cpu * (1 - cpu) / len(parts[1]))
    report(f"Test accuracy: CPU {cpu:.2%}, GPU {gpu:.2%}, standard error {chance:.2%}.")
    report(f"Versions: {versions('nsim-snn', 'numba', 'numba-cuda', 'cuda-toolkit', 'numpy')}")
    return int(not gaps.max() <= LIMIT)  # NaN too is a difference


if __name__ == "__main__":
    sys.exit(main())
