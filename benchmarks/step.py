"""Time of one whole training step (forward, readout, loss, backward, Adam): nsim against other frameworks.

    python benchmarks/step.py                              # all tables but the paper's own loop
    python benchmarks/step.py --tables shapes --shapes shd
    python benchmarks/step.py --tables grid --sizes 100 1000 --rates 0.01 0.2
    python benchmarks/step.py --tables parts               # forward and backward apart, the paper's own loop too: slow

Every framework computes the same network on the same events with the same weights (benchmarks/agree.py shows it), in a
process of its own; times are medians of repeats in which the frameworks take turns. The dense frameworks get their
input as a dense tensor that is ready before the clock starts. The weights of each hidden layer are scaled until it
fires at the wanted rate; nsim's own count of spikes and active sites is printed beside.
"""

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Report, Worker, interleaved, machine, table
from benchmarks.peers import PEERS
from benchmarks.shapes import SHAPES, make_weights

USUAL = [name for name in PEERS if name != "torch, paper's loop"]
FEW = ["nsim", "nsim band=None", "torch", "JAX scan", "JAX scan, drive inside"]


def measure(shape, rate, names, args, what="step"):
    """Medians by framework, and nsim's (spikes, active sites) for each site of each hidden layer, None without it."""
    weights, _ = make_weights(shape, rate)
    with ExitStack() as stack:
        workers = {}
        for name in names:
            peer, options = PEERS[name]
            workers[name] = stack.enter_context(Worker(peer, shape, weights, args.threads, **options))
        times = interleaved(workers, what, args.repeats, args.warm)
        counted = workers["nsim"].call("rates") if "nsim" in workers else None
        args.seen.update({worker.versions: None for worker in workers.values()})
    return times, counted


def percent(values):
    return " / ".join(f"{value:.2%}" for value in values)


def activity(counted):
    if counted is None:
        return "not counted", "not counted"
    return percent(spikes for spikes, _ in counted), percent(active for _, active in counted)


def milliseconds(seconds):
    return f"{1e3 * seconds:.1f}"


def ratio(times, name, base="nsim"):
    return f"{times[name] / times[base]:.1f}x" if name in times and base in times else ""


def shapes_table(args, report):
    """All frameworks at the shapes of the paper's data sets."""
    for key in args.shapes:
        shape = args.scaled(SHAPES[key])
        times, counted = measure(shape, args.rate, args.peers or USUAL, args)
        spikes, active = activity(counted)
        report(f"\n### Whole step: {shape}\n\nHidden spikes {spikes}, active sites at band 0.2 {active}.\n")
        rows = [[name, milliseconds(seconds), ratio(times, name)] for name, seconds in times.items()]
        report(table(["framework", "ms", "of nsim's"], rows))


def parts_table(args, report):
    """Forward and backward apart, without Adam, with the paper's own loop."""
    for key in args.shapes:
        shape = args.scaled(SHAPES[key])
        names = args.peers or [*FEW[:3], "torch, paper's loop"]
        times, counted = measure(shape, args.rate, names, args, what="parts")
        spikes, active = activity(counted)
        report(f"\n### Forward and backward: {shape}\n\nHidden spikes {spikes}, active sites {active}.\n")
        rows = []
        for name, both in times.items():
            of_nsim = (
                [f"{a / b:.1f}x" for a, b in zip(both, times["nsim"], strict=True)] if "nsim" in times else ["", ""]
            )
            rows.append([name, *map(milliseconds, both), *of_nsim])
        report(table(["framework", "forward, ms", "backward, ms", "forward, of nsim's", "backward, of nsim's"], rows))


def sweep_table(args, report, title, first, cases):
    """One row for each (label, shape, rate) of cases."""
    names = args.peers or FEW
    report(f"\n### Whole step: {title}\n")
    header = [first, "hidden spikes", "active sites", *(f"{name}, ms" for name in names)]
    ours = [name for name in names if name.startswith("nsim")]
    dense = [name for name in names if name not in ours]
    header += [f"{what} / {name}" for name in ours for what in ("torch", "fastest dense")]
    rows = []
    for label, shape, rate in cases:
        times, counted = measure(shape, rate, names, args)
        row = [label, *activity(counted), *(milliseconds(times[name]) for name in names)]
        fastest = min(dense, key=times.get, default=None)
        row += [ratio(times, name, base) for base in ours for name in ("torch", fastest)]
        rows.append(row)
        print("  ", *row, file=sys.stderr, flush=True)
    report(table(header, rows))


def grid_table(args, report):
    """Hidden sizes times hidden rates."""
    for key in args.shapes:
        shape = args.scaled(SHAPES[key])
        cases = [
            (f"{size}, {rate:.1%}", replace(shape, hidden=(size, size)), rate)
            for size in args.sizes
            for rate in args.rates
        ]
        sweep_table(args, report, f"hidden sizes and rates, {shape}", "hidden size, wanted rate", cases)


def density_table(args, report):
    """Input densities up to every input at every step."""
    for key in args.shapes[:1]:
        shape = args.scaled(SHAPES[key])
        cases = [(f"{density:.1%}", replace(shape, density=density), args.rate) for density in args.densities]
        sweep_table(args, report, f"input densities, {shape}", "input density", cases)


TABLES = {"shapes": shapes_table, "grid": grid_table, "density": density_table, "parts": parts_table}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=["shapes", "grid", "density"])
    parser.add_argument(
        "--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="density: only the first"
    )
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), metavar="PEER", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rate", type=float, default=0.01, help="hidden spikes for each site (default 0.01)")
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 200, 400, 1000], help="hidden sizes of the grid")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.005, 0.01, 0.05, 0.1, 0.2], help="of the grid")
    parser.add_argument("--densities", nargs="+", type=float, default=[0.022, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0])
    parser.add_argument("--hidden", type=int, help="neurons of each hidden layer (default 200; the grid has --sizes)")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, help="T; default: each shape's own")
    parser.add_argument("--delay", type=int, default=1, help="synaptic delay of each layer, in steps (default 1)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm", type=int, default=2, help="rounds before the clock counts")
    parser.add_argument("--out", help="also write the tables to this file")
    args = parser.parse_args()
    args.seen = {}
    args.scaled = lambda shape: replace(
        shape, batch=args.batch, delay=args.delay, steps=args.steps or shape.steps,
        hidden=(args.hidden, args.hidden) if args.hidden else shape.hidden,
    )  # fmt: skip
    return args


def main():
    args = arguments()
    report = Report(args.out)
    report(f"{machine(args.threads)}. Medians of {args.repeats} interleaved repeats after {args.warm} warm-up rounds.")
    for name in args.tables:
        TABLES[name](args, report)
    report("\nVersions: " + "; ".join(args.seen))


if __name__ == "__main__":
    main()
