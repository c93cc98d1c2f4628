"""Does the sparse gradient learn what the dense one learns? Paired runs, several seeds, the settings of the paper.

    python benchmarks/learning.py losses                       # nsim band=None and torch: 20 losses and gradients
    python benchmarks/learning.py shd --epochs 30 --seeds 5    # band 0.2 against band=None, same seed and data order
    python benchmarks/learning.py nmnist --epochs 100 --seeds 5

A run reports its accuracy on test data in the epoch that was best on held-out training data (SHD: held-out speakers),
never the best on test data, and after the last epoch, where nothing was chosen; it is dead if it ends near chance. Each
finished run is one line of JSON in --out, and runs that are there already are not made again. Settings: Perez-Nieves &
Goodman 2021, their code's values; on the N-MNIST subset, with 900 recordings to train on, smaller batches, a larger
learning rate and a larger rate limit.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the other benchmarks, when run as a script

import nsim
from nsim import losses, nn, optim
from nsim.datasets import NMNIST, SHD

TASKS = {
    "shd": {
        "n": 700, "classes": 20, "dt": 2e-3, "steps": 500, "tau_out": 20e-3, "reduce": "sum", "lr": 1e-3, "limit": 10,
        "batch": 256,
    },
    "nmnist": {
        "n": 1156, "classes": 10, "dt": 1e-3, "steps": 300, "tau_out": 10e-3, "reduce": "max", "lr": 2e-3, "limit": 3,
        "batch": 32,
    },
}  # fmt: skip


def data_of(task, seed, share):
    """Training, held-out and test parts; `share` of the speakers (N-MNIST: of the recordings) is held out."""
    if task == "shd":
        whole, test = SHD(split="train"), SHD(split="test")
        train, val = whole.split_by_speaker(share, seed=seed)
    else:
        whole, test = NMNIST(split="train", polarity="merge"), NMNIST(split="test", polarity="merge")
        train, val = whole.split(share, seed=seed)
    return train, val, test


def network(task, hidden, band, seed, dtype=np.float32):
    """input-N-N-classes with a delay of one step on each connection, and the weights of the paper's code."""
    nsim.seed(seed)
    setting = TASKS[task]
    sizes = (setting["n"], hidden, hidden)
    readout = nsim.LI(tau_mem=setting["tau_out"], reduce=setting["reduce"])
    net = nn.Sequential(
        *(nn.Dense(a, b, nsim.LIF(tau_mem=10e-3, band=band), delay=1, dtype=dtype) for a, b in pairwise(sizes)),
        nn.Dense(hidden, setting["classes"], readout, delay=1, dtype=dtype),
    )
    for layer in net[:2]:
        layer.weight.data /= 2  # U(-1/sqrt(n), 1/sqrt(n))
    return net


def train(task, band, seed, args):
    """One run; returns what is reported of it."""
    setting = TASKS[task]
    parts = data_of(task, seed, args.held_out)
    net = network(task, args.hidden, band, seed)
    last = []

    def accuracy():
        return float(nsim.evaluate(net, parts[2], dt=setting["dt"], steps=setting["steps"], binning="round").accuracy)

    def at_the_end(_, history):
        if len(history["epoch"]) == args.epochs:
            last.append(accuracy())

    start = time.perf_counter()
    history = nsim.fit(
        net, parts[0], epochs=args.epochs, opt=optim.Adam(net.parameters(), lr=setting["lr"]), batch=setting["batch"],
        dt=setting["dt"], steps=setting["steps"], val=parts[1], binning="round", clamp=True, seed=seed, progress=False,
        regularizers=regularizers(setting), callbacks=[at_the_end],
    )  # fmt: skip
    chance = 1 / setting["classes"]
    return {
        "task": parts[2].name, "band": band, "seed": seed, "epochs": args.epochs, "hidden": args.hidden,
        "held_out": args.held_out,
        "test_accuracy": accuracy(), "last_test_accuracy": last[0],
        "val_accuracy": max(history.history["val_accuracy"]), "best_epoch": int(history.best_epoch),
        "dead": bool(history.history["accuracy"][-1] < 2 * chance),
        "minutes": round((time.perf_counter() - start) / 60, 2),
    }  # fmt: skip


def compare(task, args):
    """All runs that are missing, and the paired difference of those that are there."""
    done, same = {}, (args.epochs, args.hidden, args.held_out)
    if args.out.exists():
        for line in args.out.read_text().splitlines():
            run = json.loads(line)
            done[run["band"], run["seed"], run["epochs"], run["hidden"], run.get("held_out", 0.1)] = run
    for seed in range(args.seeds):
        for band in (0.2, None):
            if (band, seed, *same) not in done:
                run = done[band, seed, *same] = train(task, band, seed, args)
                with args.out.open("a") as file:
                    file.write(json.dumps(run) + "\n")
                print(json.dumps(run), flush=True)
    for name, key in (("best epoch on held-out data", "test_accuracy"), ("last epoch", "last_test_accuracy")):
        pairs = [[done[b, s, *same][key] for b in (0.2, None)] for s in range(args.seeds)]
        sparse, dense = 100 * np.array(pairs).T
        print(f"{task}, {args.seeds} seeds, {args.epochs} epochs, {name}, accuracy in %:")
        for label, x in (("band 0.2", sparse), ("band=None", dense), ("paired difference", sparse - dense)):
            print(f"  {label}: {x.mean():.2f} (sd {x.std(ddof=1) if len(x) > 1 else np.nan:.1f})")
    dead = sum(done[b, s, *same]["dead"] for b in (0.2, None) for s in range(args.seeds))
    print(f"dead runs: {dead}")


def regularizers(setting):
    """The paper's limits on the spikes of a hidden layer."""
    return [partial(losses.spike_rate_upper, limit=setting["limit"]), partial(losses.spike_rate_lower, limit=1e-3)]


def first_losses(args):
    """The first 20 losses of nsim (band=None) and of a dense torch network, in float64, each trained by itself from the
    same weights on the same batches; and, on the way, their gradients.

    After each step both round their weights to multiples of 2^-grid. At 2^-32, finer than float32 for a weight above
    2^-9, this changes nothing that could be learned, but keeps two programs together that sum in another order: else
    their first 1e-16 grows about tenfold a step, through the surrogate, Adam and spikes at the threshold, and after a
    dozen steps they are two trainings (`--grid none`).
    """
    import torch

    from benchmarks.peers.torch_net import Fair
    from benchmarks.shapes import SHAPES, Events

    class Theirs(Fair):
        """With the paper's limits on the spikes of each hidden layer, written once more in torch."""

        def hidden(self, drive):
            spikes = super().hidden(drive)
            self.counts.append(spikes.sum(0))
            return spikes

        def forward(self, batch):
            self.counts = []
            loss = super().forward(batch)
            for counts in self.counts:
                many = torch.relu(counts.mean(1) - setting["limit"]).mean()
                few = (torch.relu(1e-3 - counts) ** 2).sum(1).mean() / counts.shape[1]
                loss = loss + 0.06 * many + 100 * few
            return loss

    setting = TASKS["shd"]
    part, _, _ = data_of("shd", args.seed, args.held_out)
    ours = network("shd", args.hidden, None, args.seed, np.float64)
    arrays = [layer.weight.data for layer in ours]
    to_grid(arrays, args.grid)
    opt = optim.Adam(ours.parameters(), lr=setting["lr"])
    shape = replace(SHAPES["shd"], hidden=(args.hidden, args.hidden), batch=args.batch)
    theirs = Theirs(shape, arrays, threads=2)
    their_opt = torch.optim.Adam(theirs.weights, lr=setting["lr"])
    their_arrays = [w.detach().numpy() for w in theirs.weights]
    batches = part.batches(
        args.batch, dt=setting["dt"], steps=setting["steps"], shuffle=True, binning="round", clamp=True
    )
    gaps = []
    print("step        nsim   difference   gradient, of its largest entry   weights that differ after it")
    for step, (spikes, labels) in zip(range(20), batches, strict=False):
        x, targets = theirs.prepare(Events(spikes.indptr, spikes.indices, labels, spikes.shape))
        their_loss, their_grads = theirs.gradients((x.to(torch.float64), targets))
        their_opt.step()
        logits, hidden = ours(spikes, hidden=True)
        loss = losses.cross_entropy(logits, labels)
        for regularizer in regularizers(setting):
            loss = loss + regularizer(hidden)
        opt.zero_grad()
        loss.backward()
        apart = max(
            np.abs(layer.weight.grad - g).max() / max(np.abs(g).max(), 1e-300)
            for layer, g in zip(ours, their_grads, strict=True)
        )
        opt.step()
        to_grid(arrays + their_arrays, args.grid)
        differ = sum(int((a != b).sum()) for a, b in zip(arrays, their_arrays, strict=True))
        gaps.append((abs(loss.item() - their_loss), apart, differ))
        print(f"{step:4d}  {loss.item():10.6f}   {gaps[-1][0]:10.1e}   {apart:30.1e}   {differ:28d}", flush=True)
    gap, apart, differ = np.max(gaps, axis=0)
    print(
        f"largest difference: losses {gap:.1e}, gradients {apart:.1e} of the largest entry; {differ:.0f} weights differ"
    )
    return gap < 1e-3


def to_grid(arrays, grid):
    """Round arrays in place to multiples of 2^-grid; None: leave them."""
    if grid is not None:
        for a in arrays:
            np.rint(a * 2.0**grid, out=a)
            a /= 2.0**grid


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["losses", *TASKS])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="losses: of weights and of the speakers held out")
    parser.add_argument("--hidden", type=int, default=400)
    parser.add_argument(
        "--held-out", type=float, default=0.1,
        help="share of the speakers (N-MNIST: of the recordings) that choose the epoch (default 0.1)",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--grid",
        type=lambda text: None if text == "none" else int(text),
        default=32,
        help="losses: both round their weights to multiples of 2^-GRID after each step; none: not at all (default 32)",
    )
    parser.add_argument("--out", type=Path, default=None, help="lines of JSON (default: learning_<task>.jsonl)")
    args = parser.parse_args()
    args.out = args.out or Path(f"learning_{args.task}.jsonl")
    if args.task == "losses":
        raise SystemExit(0 if first_losses(args) else 1)
    compare(args.task, args)


if __name__ == "__main__":
    main()
