"""Peak memory of one whole training step, warm: nsim against other frameworks, each in a process of its own.

    python benchmarks/memory.py --shapes shd --out memory.md

The figure is the process's highest resident size during a step, less what it holds at rest before (program, weights,
optimiser, and the batch itself: a dense tensor for the dense frameworks, whose bytes are not counted against them).
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Report, Worker, machine, table
from benchmarks.peers import PEERS
from benchmarks.shapes import SHAPES, make_weights

USUAL = [name for name in PEERS if name != "torch, paper's loop"]


def measure(name, shape, weights, args):
    """The largest peak of `args.repeats` steps after the warm ones, in bytes; what nsim's tape keeps; versions."""
    peer, options = PEERS[name]
    with Worker(peer, shape, weights, args.threads, **options) as worker:
        for _ in range(args.warm):
            worker.call("step")
        peak = max(worker.call("peak") for _ in range(args.repeats))
        kept = worker.call("saved_bytes") if name.startswith("nsim") else None
        return peak, kept, worker.versions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=USUAL, metavar="PEER")
    parser.add_argument("--rate", type=float, default=0.01, help="hidden spikes for each site (default 0.01)")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, help="T; default: each shape's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--out", help="also write the tables to this file")
    args = parser.parse_args()
    report, seen = Report(args.out), {}
    report(f"{machine(args.threads)}. Largest of {args.repeats} steps after {args.warm} warm ones.")
    for key in args.shapes:
        shape = replace(SHAPES[key], batch=args.batch, steps=args.steps or SHAPES[key].steps)
        weights, rates = make_weights(shape, args.rate)
        found = {}
        for name in args.peers:
            *found[name], version = measure(name, shape, weights, args)
            seen[version] = None
        report(f"\n### Peak memory of a step: {shape}\n\nHidden spikes {' / '.join(f'{r:.2%}' for r in rates)}.\n")
        rows = []
        for name, (peak, kept) in found.items():
            of_torch = f"{peak / found['torch'][0]:.1%}" if "torch" in found else ""
            rows.append([name, f"{peak / 2**20:.1f}", of_torch, "" if kept is None else f"{kept / 2**20:.1f}"])
        report(table(["framework", "peak, MiB", "of torch's", "kept for backward, MiB"], rows))
    report("\nVersions: " + "; ".join(seen))


if __name__ == "__main__":
    main()
