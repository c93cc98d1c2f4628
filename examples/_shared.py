"""What the examples share: their command line, where data come from, training with a report, clean ends."""

import argparse
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("MPLBACKEND", "Agg")  # pictures go to files, also where there is no screen

import numpy as np
from tqdm import tqdm

import nsim
from nsim import losses, nn, optim, plot
from nsim.datasets import Synthetic
from nsim.errors import DataError, MissingDataError, NsimError, ParameterError

# A smoke test: enough samples and epochs to see that everything runs.
SMOKE = {"epochs": 2, "hidden": 64, "batch": 32}
SMOKE_SAMPLES = 96
DATA = (
    "folder of the data files, or 'synthetic' for the built-in generator (default: $NSIM_DATA, the cache, a download)"
)


def command_line(doc, name, *, data=DATA, training=False, hidden=True, files=(), **modes):
    """Parsed options of an example; `modes` are flags of its own, name = help, `files` pairs (name, help) of paths.

    The default folder for results is named after the mode, so that a smoke test never goes on from a real run.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="does it run? A few samples, in seconds")
    parser.add_argument(
        "--seed", type=int, default=0, help="of initial weights, order of samples, transforms (default 0)"
    )
    parser.add_argument("--data", metavar="FOLDER", help=data)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"for results (default: runs/{name}-<mode>)")
    for mode, text in modes.items():
        parser.add_argument(f"--{mode}", action="store_true", help=text)
    for option, text in files:
        parser.add_argument(f"--{option}", type=Path, metavar="FILE", help=text)
    if training:
        parser.add_argument("--epochs", type=int, help="in place of the script's setting")
        if hidden:
            parser.add_argument("--hidden", type=int, help="neurons of each hidden layer, likewise")
        parser.add_argument("--fresh", action="store_true", help="start anew where an earlier run could go on")
    args = parser.parse_args()
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: expected a number from 0")
    for option in ("epochs", "hidden"):
        value = getattr(args, option, None)
        if value is not None and value < 1:
            parser.error(f"--{option} {value}: expected a number from 1")
    args.chosen_out = args.out is not None
    if not args.chosen_out:
        on = [mode for mode in ("smoke", *modes) if getattr(args, mode)]
        args.out = Path("runs", "-".join([name, *on, *(["synthetic"] if args.data == "synthetic" else [])]))
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"--out {args.out}: {error.strerror}; name a folder for the results") from error
    return args


def settings(args, base, **changes):
    """The settings as attributes; over `base` go those of a smoke test, and over these what the user asked for."""
    asked = {key: getattr(args, key) for key in ("epochs", "hidden") if getattr(args, key, None) is not None}
    return SimpleNamespace(**{"cosine": False, **base, **changes, **(SMOKE if args.smoke else {}), **asked})


def load(kind, args, *, stand_in=False, generator=Synthetic, **options):
    """Training and test part of a data set; with `stand_in` of the generator where there are no files, saying so.

    A file that is there but damaged, or one part without the other, is an error also with `stand_in`.
    """
    parts = []
    try:
        for split in ("train", "test"):
            made = args.data == "synthetic"
            parts.append(generator(split) if made else kind(split, args.data, download=not args.smoke, **options))
    except MissingDataError as error:
        if not stand_in or args.data is not None or parts:
            raise
        parts = [generator("train"), generator("test")]
        print(f"{error}\n=> Going on with a built-in generator instead: {parts[0].name}.\n")
    if args.smoke:
        parts = [part.subset(np.arange(min(SMOKE_SAMPLES, len(part)))) for part in parts]
    print(f"training {parts[0]!r}\ntest     {parts[1]!r}")
    return parts


def two_hidden_layers(data, s, reduce):
    """The paper's network: two hidden layers of LIF and a leaky readout, a delay of one step each."""
    net = nn.Sequential(
        nn.Dense(data.n, s.hidden, nsim.LIF(tau_mem=s.tau), delay=1),
        nn.Dense(s.hidden, s.hidden, nsim.LIF(tau_mem=s.tau), delay=1),
        nn.Dense(s.hidden, data.n_classes, nsim.LI(tau_mem=s.tau_out, reduce=reduce), delay=1),
    )
    for layer in net[:2]:
        layer.weight.data /= 2  # U(-1/sqrt(n), 1/sqrt(n)), as in the paper's code
    return net


def train_and_report(net, parts, s, args, *, transform=None, resume=True, regularizers=None):
    """Train, evaluate on the test part, tell what it took, draw pictures; returns the accuracy.

    A tenth is held out for validation: of the speakers where these are known, else of each class. `regularizers`:
    default those of the paper, an upper and a lower spike rate.
    """
    if regularizers is None:
        regularizers = [partial(losses.spike_rate_upper, limit=s.upper), losses.spike_rate_lower]
    train, test = parts
    resume, last = resume and not args.fresh, args.out / "last.h5"
    if args.chosen_out and last.exists() and not (resume or args.fresh):  # the default folder holds such runs only
        raise DataError(f"{last} is of an earlier run, which this one would overwrite; give another --out, or --fresh")
    rest, val = train.split(0.1) if train.speakers is None else train.split_by_speaker(0.1)
    sizes = "-".join(str(n) for n in (train.n, *(layer.n_out for layer in net.connections())))
    print(f"{len(rest):,} samples to train on, {len(val):,} held out; network {sizes}, {s.epochs} epochs")
    if resume and last.exists():
        print(f"Going on from {last}; --fresh starts anew.")
    print(
        "The first batch waits until the kernels are compiled, some 15 s; they are kept for the next time.", flush=True
    )
    common = {"batch": s.batch, "dt": s.dt, "steps": s.steps, "binning": "round"}
    try:
        fitted = nsim.fit(
            net, rest, epochs=s.epochs, opt=optim.Adam(net.parameters(), lr=s.lr), val=val, seed=args.seed, clamp=True,
            regularizers=regularizers, schedule=optim.cosine_lr(s.lr, s.epochs) if s.cosine else None,
            transform=transform, out=args.out, resume=resume, **common,
        )  # fmt: skip
    except DataError as error:  # in the words of the command line
        raise DataError(str(error).replace("out=, or resume=False", "--out, or --fresh")) from error
    result, best = nsim.evaluate(net, test, **common), fitted.best_epoch
    chosen = f"the weights of epoch {best}, {fitted.history['val_accuracy'][best]:.1%} on held-out data"
    print(f"\n{test.name}: {result.accuracy:.1%} of {len(test):,} test samples right, with {chosen}")
    print("spikes per neuron and sample, by hidden layer:", ", ".join(f"{k:.2f}" for k in result.spikes_per_neuron))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what was left out of the batches has been told above
        _tell_memory(net, rest, common)
        _draw(net, test, result, fitted, args.out, common)
    return result.accuracy


def _tell_memory(net, data, common):
    """Peak of the process, and what one batch keeps for its backward pass."""
    net.train()
    spikes, labels = next(iter(data.batches(**common, clamp=True)))
    kept = nsim.saved_bytes(losses.cross_entropy(net(spikes), labels))
    sites = spikes.shape[0] * spikes.shape[1] * sum(layer.n_out for layer in net.connections())
    print(f"memory: {_peak()}; a batch of {len(labels)} keeps {kept / 2**20:.1f} MiB for its backward pass, "
          f"where the membrane potentials alone would be {4 * sites / 2**20:.1f} MiB")  # fmt: skip


def _peak():
    try:
        import resource
    except ImportError:  # Windows
        return "the peak is not known on this system"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"the process took {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB at its peak"


def _draw(net, test, result, fitted, out, common):
    """raster.png, a test sample on its way through the network; training.png; confusion.png."""
    import matplotlib.pyplot as plt

    right = np.flatnonzero(result.predictions == result.labels)
    chosen = right[0] if right.size else 0
    spikes, _ = next(iter(test.subset(np.array([chosen])).batches(**common)))
    layers = [spikes, *net.run(spikes).spikes]
    names = ["input", *(f"hidden {k + 1}" for k in range(len(layers) - 1))]
    ax = plot.raster(layers, ax=plt.subplots(figsize=(8, 6), layout="constrained")[1], names=names)
    true, taken = (test.classes[k[chosen]] for k in (result.labels, result.predictions))
    ax.set_title(f"{test.name}\ntest sample {chosen}, “{true}”, is taken for “{taken}”", fontsize="medium")
    save(ax, out / "raster.png")
    left, beside = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")[1]
    plot.learning_curves(fitted, left)
    plot.activity(fitted, beside, names=names[1:])
    save(left, out / "training.png")
    save(plot.confusion(result.labels, result.predictions, classes=test.classes), out / "confusion.png")


def save(ax, path):
    """Write the figure of `ax` and close it."""
    import matplotlib.pyplot as plt

    ax.figure.savefig(path, dpi=150)
    plt.close(ax.figure)
    print(f"picture: {path}")


def run(main):
    """Call main, whose return value is the exit status. nsim's errors and Ctrl-C end in a line, not in a traceback."""
    warnings.showwarning = lambda message, *where, **more: tqdm.write(f"note: {message}", file=sys.stderr)
    try:
        sys.exit(main())
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", None) or ["stopped"]
        print(f"\n{'; '.join(notes)}", file=sys.stderr)
        sys.exit(130)
    except NsimError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
