"""Spoken digits: a spiking network on the Spiking Heidelberg Digits (SHD).

700-N-N-20 with LIF neurons and a summed leaky readout, trained by sparse surrogate gradients with the settings of
Perez-Nieves & Goodman, NeurIPS 2021, "Sparse Spiking Gradient Descent" (they report 77.5 %). SHD has no validation
part: the epoch is chosen on speakers that are held out of the training part, and the test part is looked at once.

    python examples/train_shd.py           the paper's settings, 200 epochs; goes on where it was stopped
    python examples/train_shd.py --demo    about a minute: quicker settings, and events from the built-in generator
                                           where the data cannot be had; fails below the floors in this file

Data: Cramer et al. 2022, IEEE TNNLS 33(7), CC BY 4.0.
"""

from _shared import command_line, load, run, settings, train_and_report, two_hidden_layers

import nsim
from nsim.datasets import SHD, Synthetic, transforms

PAPER = {
    "hidden": 200, "epochs": 200, "batch": 256, "lr": 1e-3, "dt": 2e-3, "steps": 500,
    "tau": 10e-3, "tau_out": 20e-3, "upper": 10,
}  # fmt: skip
# Longer steps and smaller batches learn in 6 epochs; moving samples along the cochlea stands in for more speakers.
DEMO = PAPER | {"epochs": 6, "batch": 64, "lr": 3e-3, "dt": 4e-3, "steps": 250, "tau": 20e-3, "cosine": True}
SHIFT = transforms.UnitShift(20)
# Accuracy on the test part below which the demo counts as failed; chance is 5 %.
FLOORS = {SHD: 0.50, Synthetic: 0.80}


def main():
    args = command_line(__doc__, "shd", training=True, demo="about a minute in all, with quicker settings")
    quick = args.demo or args.smoke
    parts = load(SHD, args, stand_in=quick)
    s = settings(args, DEMO if quick else PAPER)
    nsim.seed(args.seed)
    net = two_hidden_layers(parts[0], s, reduce="sum")
    accuracy = train_and_report(net, parts, s, args, transform=SHIFT if quick else None, resume=not quick)
    floor = FLOORS[type(parts[1])]
    if args.demo and not args.smoke and accuracy < floor:
        print(f"FAILED: {accuracy:.1%} is below the floor of {floor:.0%} for these data; the network did not learn")
        return 1
    return 0


if __name__ == "__main__":
    run(main)
