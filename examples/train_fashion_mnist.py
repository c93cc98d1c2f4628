"""Clothes by the time to the first spike: a spiking network on Fashion-MNIST.

784-200-200-10 with LIF neurons; each pixel fires once, the brighter the earlier, and the maximum of a leaky readout
over time decides. After Perez-Nieves & Goodman, NeurIPS 2021, "Sparse Spiking Gradient Descent" (they report 82.7 %).

    python examples/train_fashion_mnist.py            a larger learning rate that falls along a cosine, 30 epochs
    python examples/train_fashion_mnist.py --paper    the paper's settings, 100 epochs

The epoch is chosen on a tenth of the training part; the test part is looked at once. A run that is stopped goes on
when it is started again. Data: Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747, MIT licence.
"""

import numpy as np
from _shared import command_line, load, run, settings, train_and_report, two_hidden_layers

import nsim
from nsim.datasets import FashionMNIST

PAPER = {
    "hidden": 200, "epochs": 100, "batch": 256, "lr": 2e-4, "dt": 1e-3, "steps": 100,
    "tau": 10e-3, "tau_out": 10e-3, "upper": 1,
}  # fmt: skip
QUICK = PAPER | {"epochs": 30, "lr": 5e-3, "cosine": True}


def paper_weights(net, s, seed):
    """N(0, 20 (1 - beta) / sqrt(fan in)) in all layers, beta = exp(-dt / tau_mem), as in the paper's code."""
    rng = np.random.default_rng(seed)
    for layer in net:
        beta = np.exp(-s.dt / layer.value("tau_mem"))
        layer.weight.data[...] = rng.normal(0, 20 * (1 - beta) / np.sqrt(layer.n_in), layer.weight.shape)


def main():
    args = command_line(__doc__, "fashion", training=True, paper="the settings of the publication")
    parts = load(FashionMNIST, args, stand_in=args.smoke)
    s = settings(args, PAPER if args.paper else QUICK)
    nsim.seed(args.seed)
    net = two_hidden_layers(parts[0], s, reduce="max")
    if args.paper:
        paper_weights(net, s, args.seed)
    train_and_report(net, parts, s, args, resume=not args.smoke)
    return 0


if __name__ == "__main__":
    run(main)
