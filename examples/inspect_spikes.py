"""Every picture that nsim draws, of one network and its data.

A network is trained for a few epochs on the Spiking Heidelberg Digits, or on the built-in generator where these cannot
be had, and looked at: rasters, membranes, rates, activity of the layers, learning curves, confusions.

    python examples/inspect_spikes.py
    python examples/inspect_spikes.py --net runs/shd-demo/last.h5     a network that train_shd.py made

Network and rule of learning: Perez-Nieves & Goodman, NeurIPS 2021. Data: Cramer et al. 2022, IEEE TNNLS 33(7).
"""

from functools import partial

import numpy as np
from _shared import command_line, load, run, save, settings, two_hidden_layers
from train_shd import DEMO, SHIFT

import nsim
from nsim import losses, optim, plot
from nsim.datasets import SHD
from nsim.errors import ShapeError


def trained(args, train, s):
    """A network after a few epochs on part of the training data, and its history."""
    nsim.seed(args.seed)
    net = two_hidden_layers(train, s, reduce="sum")
    rest, val = train.subset(np.arange(min(3000, len(train)))).split(0.1)
    fitted = nsim.fit(
        net, rest, epochs=s.epochs, batch=s.batch, dt=s.dt, steps=s.steps, opt=optim.Adam(net.parameters(), lr=s.lr),
        regularizers=[partial(losses.spike_rate_upper, limit=s.upper), losses.spike_rate_lower], val=val,
        transform=SHIFT, seed=args.seed, clamp=True, binning="round",
    )  # fmt: skip
    return net, fitted.history


def loaded(path, data, s):
    """A network from a file, and the history that `nsim.fit` left in it, or None; its dt and steps go into s."""
    net, _, meta = nsim.load(path)
    if net[0].n_in != data.n:
        raise ShapeError(f"{path} takes {net[0].n_in} inputs, {data.name} has {data.n}; give --net a network for SHD")
    for name in ("dt", "steps"):
        setattr(s, name, meta.get("settings", {}).get(name, getattr(s, name)))
    history = {
        key.removeprefix("history."): np.asarray(a).tolist() for key, a in meta.items() if key.startswith("history.")
    }
    return net, history or None


def busy(spikes, sample, count):
    """Neurons of a sample, from the busiest to one that fires now and then, in order of their numbers."""
    counts = np.bincount(spikes.sample(sample)[1], minlength=spikes.shape[2])
    order = np.argsort(-counts, kind="stable")[: max(count, np.count_nonzero(counts > 1))]
    return sorted(order[np.linspace(0, len(order) - 1, count).astype(int)].tolist())


def rasters(out, spikes, hidden, labels, classes, right):
    """One sample in all layers; the first hidden layer for one sample each of some classes."""
    names = ["input", *(f"hidden {k + 1}" for k in range(len(hidden)))]
    ax = plot.raster([spikes, *hidden], sample=right, names=names)
    ax.set_title(f"“{classes[labels[right]]}” on its way through the network", fontsize="medium")
    save(ax, out / "raster_layers.png")
    some = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)[:5]]
    ax = plot.raster(hidden[0], sample=some, labels=labels, names=[classes[labels[k]] for k in some])
    ax.set_title("first hidden layer, one sample a class", fontsize="medium")
    save(ax, out / "raster_classes.png")


def membranes(out, net, spikes, labels, classes, right):
    """Membranes of four neurons beside the raster, and the readout of the class and of its strongest rivals."""
    first, last = 0, len(net) - 1
    watched = busy(net.run(spikes).spikes[0], right, 4)
    seen = net.run(spikes, record={first: watched, last: list(range(len(classes)))})
    threshold = net[first].value("threshold")
    left, _ = plot.raster_and_membrane(seen.spikes[0], seen.recorded[first]["v"], watched, right, threshold=threshold)
    save(left, out / "membranes.png")
    readout = seen.recorded[last]["v"][right]
    strongest = np.argsort(-readout.sum(axis=0))[:4].tolist()
    ax = plot.membrane(readout, spikes.dt, neurons=strongest, stacked=False)
    for line, label in zip(ax.get_legend().get_texts(), strongest, strict=True):
        line.set_text(classes[label] + (" (true)" if label == labels[right] else ""))
    ax.set(ylabel="readout", title="the four classes of largest sum")
    save(ax, out / "readout.png")


def main():
    files = [("net", "look at this network, a file of nsim.save or last.h5 of a training run, instead of training one")]
    args = command_line(__doc__, "inspect", files=files)
    s = settings(args, DEMO | {"epochs": 5})
    train, test = load(SHD, args, stand_in=True)
    net, history = loaded(args.net, test, s) if args.net else trained(args, train, s)
    result = nsim.evaluate(net, test, batch=s.batch, dt=s.dt, steps=s.steps, binning="round")
    print(f"{test.name}: {result.accuracy:.1%} of {len(test):,} test samples right")
    few = test.subset(np.arange(min(128, len(test))))
    spikes, labels = next(iter(few.batches(128, dt=s.dt, steps=s.steps, binning="round")))
    hidden = net.run(spikes).spikes
    hits = np.flatnonzero(result.predictions[: len(labels)] == labels)
    right = int(hits[np.argmax(few.sizes[hits])]) if hits.size else 0  # of those recognised, the one of most events
    rasters(args.out, spikes, hidden, labels, test.classes, right)
    membranes(args.out, net, spikes, labels, test.classes, right)
    names = ["input", *(f"hidden {k + 1}" for k in range(len(hidden)))]
    ax = plot.population_rate([spikes, *hidden], window=20e-3, names=names)
    save(ax, args.out / "population_rate.png")
    save(plot.confusion(result.labels, result.predictions, classes=test.classes), args.out / "confusion.png")
    if history is None:
        print(f"{args.net} holds no history of training: no activity.png, no learning_curves.png")
        return 0
    save(plot.activity(history, names=names[1:]), args.out / "activity.png")
    save(plot.learning_curves(history), args.out / "learning_curves.png")
    return 0


if __name__ == "__main__":
    run(main)
