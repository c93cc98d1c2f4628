"""Digits before an event camera: a spiking network on N-MNIST.

1156-N-N-10 with LIF neurons, polarities merged, and the maximum of a leaky readout over time, after Perez-Nieves &
Goodman, NeurIPS 2021, "Sparse Spiking Gradient Descent" (they report 92.7 % on all of N-MNIST).

    python examples/train_nmnist.py            smaller steps of more size: for a subset of the recordings, too
    python examples/train_nmnist.py --paper    the paper's settings

The epoch is chosen on a tenth of the training part; the test part is looked at once. A run that is stopped goes on
when it is started again. Data: Orchard et al. 2015, Frontiers in Neuroscience 9:437, CC BY-SA 4.0.
"""

from _shared import command_line, load, run, settings, train_and_report, two_hidden_layers

import nsim
from nsim.datasets import NMNIST, transforms

PAPER = {
    "hidden": 200, "epochs": 100, "batch": 256, "lr": 2e-4, "dt": 1e-3, "steps": 300,
    "tau": 10e-3, "tau_out": 10e-3, "upper": 1,
}  # fmt: skip
# Small batches give 1,000 recordings enough updates; moving the picture by up to two pixels makes more of them.
QUICK = PAPER | {"epochs": 40, "batch": 32, "lr": 2e-3, "upper": 3, "cosine": True}
SHIFT = [transforms.UnitShift(2, axis=0), transforms.UnitShift(2, axis=1)]


def main():
    args = command_line(__doc__, "nmnist", training=True, paper="the settings of the publication")
    parts = load(NMNIST, args, stand_in=args.smoke, polarity="merge")
    s = settings(args, PAPER if args.paper else QUICK)
    nsim.seed(args.seed)
    net = two_hidden_layers(parts[0], s, reduce="max")
    pictures = len(parts[0].space) == 3 and not args.paper
    train_and_report(net, parts, s, args, transform=SHIFT if pictures else None, resume=not args.smoke)
    return 0


if __name__ == "__main__":
    run(main)
