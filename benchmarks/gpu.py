"""Forward, backward and whole training step on a GPU: nsim against dense frameworks and against the floor.

    python benchmarks/gpu.py                                # all cases; writes benchmarks/results/gpu-<name>.md
    python benchmarks/gpu.py --shapes shd --sizes 200 1000
    NUMBA_ENABLE_CUDASIM=1 python benchmarks/gpu.py --tiny  # without a GPU: whether all runs; no figure counts

The cases are those of Perez-Nieves & Goodman 2021: SHD, N-MNIST and Fashion-MNIST, two hidden layers of 200 to 1000,
a batch of 256. As in benchmarks/step.py all compute the same network on the same events with the same weights (but for
SpikingJelly, whose reset is another), each in a process of its own, and take turns; times are medians from device
events. The dense frameworks get a dense tensor that is on the GPU before. A whole step is timed with the reading of its
loss, for all of them: nsim waits for the device once between two steps, there or, where the loss is not read, at the
start of the next one (docs/cuda.md).

The floor (benchmarks/floor.py) is the larger of bytes that must move over the bandwidth of a copy, and T times the step
of an empty sweep with the same barriers, both measured in the same run.
"""

import argparse
import re
import sys
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import floor
from benchmarks.common import Report, Worker, first_line, interleaved, machine, table
from benchmarks.peers import nsim_net
from benchmarks.shapes import SHAPES, make_events, make_weights
from nsim import cuda

# name in the table: module:class in benchmarks/peers
PEERS = {
    "nsim": "on_gpu:Nsim",
    "torch, paper's loop": "on_gpu:PaperLoop",
    "torch, unbind": "on_gpu:Fair",
    "torch, unbind, CUDA graph": "on_gpu:Graphed",
    "torch, compiled step, CUDA graph": "on_gpu:Compiled",
    "SpikingJelly, fused": "spikingjelly_on_gpu:Net",
}
SIZES = [200, 400, 600, 800, 1000]
PAPER, JELLY = "torch, paper's loop", "SpikingJelly, fused"
TINY = ["nsim", PAPER, "torch, unbind"] + ([JELLY] if find_spec("spikingjelly") else [])  # what runs without a GPU

NOTE = """
The paper's own sparse kernels are not run here: they are an extension for PyTorch 1.7 and CUDA 11. What Perez-Nieves &
Goodman 2021 publish of them, on one card of the RTX 6000 class and against the loop that stands above as "paper's
loop", is for the second hidden layer alone:

| data set, neurons | backward, dense, ms | backward, sparse, ms | whole layer |
| --- | --- | --- | --- |
| Fashion-MNIST, 200 | 31 | 5.1 | 1.45x faster |
| Fashion-MNIST, 1000 | 135 | 23 | 2.4x faster |
| N-MNIST, 200 | 236 | 6.8 | 2.1x faster |
| N-MNIST, 1000 | 1151 | 44 | 5.2x faster |
| SHD, 200 (forward: dense 248 ms, sparse 300 ms) | 644 | 15 | 2.9x faster |
| SHD, 1000 | 3162 | 89 | 7.8x faster |

Their best ratio of backward passes, 150, is at B_th = 0.05 (nsim's band; 0.2 above). The time of their dense loop grows
with T^2. Their 85 % less memory is of the transient peak of the backward pass, and is dense / sparse - 1.
"""


def measure(shape, args):
    """What was found for each peer, why a peer did not run, and nsim's (spikes, active sites) of each layer."""
    weights, _ = make_weights(shape, args.rate)
    found, failed = {}, {}
    with ExitStack() as stack:
        workers = {}
        for name in args.peers:
            try:
                workers[name] = stack.enter_context(Worker(PEERS[name], shape, weights, args.threads))
                found[name] = {"loss": workers[name].call("device_loss"), "peak": workers[name].call("device_peak")}
            except RuntimeError as error:
                workers.pop(name, None)
                failed[name] = first_line(error)
        steps = interleaved(workers, "device_step", args.repeats, args.warm, failed)
        parts = interleaved(workers, "device_parts", args.repeats, args.warm, failed)
        args.seen.update({worker.versions: None for worker in workers.values()})
    for name in parts:
        found[name] |= {"step": steps[name], "forward": parts[name][0], "backward": parts[name][1]}
    host = nsim_net.Net(shape, weights, args.threads)
    rates = host.rates(host.prepare(make_events(shape)))
    return {name: found[name] for name in parts}, failed, rates


def rows_of(shape, found, failed, rates):
    """Lines of the table for one case."""
    least = dict(zip(("forward", "backward", "step"), floor.floor(shape, rates), strict=True))
    activity = " / ".join(f"{s:.1%}, {a:.1%}" for s, a in rates)
    case = f"{shape.name} {shape.hidden[0]} ({activity})"
    ours = found.get("nsim")
    rows = [[case, "floor", *(milliseconds(least[what]) for what in least), "", "", "", "", ""]]
    for name, one in found.items():
        against = [f"{one[what] / ours[what]:.1f}x" if ours else "" for what in ("backward", "step")]
        share = f"{one['step'] / least['step']:.1f}" if name == "nsim" else ""
        peak = f"{one['peak'] / 2**20:.1f}"
        times = [milliseconds(one[what]) for what in least]
        rows.append([case, name, *times, *against, share, peak, f"{one['loss']:.4f}"])
    return rows + [[case, name, f"did not run: {why}", *[""] * 7] for name, why in failed.items()]


HEADER = [
    "case (spikes, active sites of the hidden layers)", "framework", "forward, ms", "backward, ms", "step, ms",
    "backward, of nsim's", "step, of nsim's", "step, of the floor", "peak, MiB", "loss",
]  # fmt: skip


def targets(shape, found, rates):
    """What was aimed at and what came of it, in one line, where all that it takes has run."""
    dense = {name: one for name, one in found.items() if name != "nsim"}
    if "nsim" not in found or not dense:
        return
    ours, least = found["nsim"], floor.floor(shape, rates)
    best = min(dense, key=lambda name: dense[name]["step"])
    small = min(dense, key=lambda name: dense[name]["peak"])
    said = [
        f"forward {ours['forward'] / least[0]:.1f}, backward {ours['backward'] / least[1]:.1f} of the floor (aim: 3)",
        f"step {dense[best]['step'] / ours['step']:.1f}x faster than {best} (aim: 20)",
    ]
    if PAPER in dense:
        said.insert(1, f"backward {dense[PAPER]['backward'] / ours['backward']:.0f}x faster than {PAPER} (aim: 150)")
    if dense[small]["peak"]:
        said.append(f"peak {ours['peak'] / dense[small]['peak']:.1%} of that of {small} (aim: 5 %)")
    return f"- {shape.name} {shape.hidden[0]}: {'; '.join(said)}."


def milliseconds(seconds):
    return f"{1e3 * seconds:.3f}"


def device_line():
    """The GPU and its driver, in one line. In the simulator no driver is asked, though there may be one."""
    if floor.SIMULATED:
        return "No GPU: nsim in the CUDA simulator, PyTorch on the CPU. No figure below says anything of a GPU."
    found = cuda.driver()
    return f"{found.gpus[0]}, driver {cuda.driver_release() or 'unknown'}, CUDA up to {'.'.join(map(str, found.cuda))}."


def results_file():
    """benchmarks/results/gpu-<name of the GPU>.md"""
    name = re.sub(r"[^a-z0-9]+", "-", cuda.driver().gpus[0].name.lower()).strip("-")
    return Path(__file__).parent / "results" / f"gpu-{name}.md"


def arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="hidden neurons of a layer")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), metavar="PEER", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rate", type=float, default=0.01, help="hidden spikes for each site (default 0.01)")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, help="T; default: each shape's own")
    parser.add_argument("--threads", type=int, default=2, help="of the host")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--warm", type=int, default=2, help="rounds before the clock counts")
    parser.add_argument("--tiny", action="store_true", help="a few neurons and steps, for the simulator")
    parser.add_argument(
        "--out", type=Path, help="file to write; default: benchmarks/results/gpu-<name>.md, none if tiny"
    )
    args = parser.parse_args(given)
    args.peers = args.peers or (TINY if args.tiny else list(PEERS))
    args.seen = {}
    return args


def shape_of(key, size, args):
    """The case of a data set and a hidden size."""
    whole = SHAPES[key]
    if args.tiny:
        return replace(whole, n_in=40, hidden=(8, 8), n_out=3, steps=6, batch=3, density=0.2, delay=1)
    return replace(whole, hidden=(size, size), batch=args.batch, steps=args.steps or whole.steps)


def main(given=None):
    args = arguments(given)
    if not cuda.is_available():
        sys.exit(f"benchmarks/gpu.py needs a GPU, or NUMBA_ENABLE_CUDASIM=1 and --tiny: {cuda.why_not()}")
    if floor.SIMULATED and not args.tiny:
        sys.exit("benchmarks/gpu.py: the simulator takes --tiny only; unset NUMBA_ENABLE_CUDASIM to measure a GPU")
    out = args.out or (None if args.tiny else results_file())
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".tmp") if out else None
    report = Report(partial)
    report(f"# Training steps on a GPU\n\n{device_line()} Host: {machine(args.threads)}.")
    report(f"Medians of {args.repeats} interleaved repeats after {args.warm} warm-up rounds.")
    report(f"A copy on the device moves {floor.copy_bandwidth() / 1e9:,.0f} GB/s.\n")
    rows, lines, ours_failed = [], [], False
    for key in args.shapes:
        for size in args.sizes[:1] if args.tiny else args.sizes:
            shape = shape_of(key, size, args)
            print(f"{shape} ...", file=sys.stderr, flush=True)
            found, failed, rates = measure(shape, args)
            rows += rows_of(shape, found, failed, rates)
            lines.append(targets(shape, found, rates))
            ours_failed = ours_failed or "nsim" in failed
    report(table(HEADER, rows))
    report("\n" + "\n".join(line for line in lines if line))
    report(NOTE)
    report("Versions: " + "; ".join(args.seen))
    if out:
        partial.replace(out)
        print(f"written to {out}", file=sys.stderr)
    return int(ours_failed)


if __name__ == "__main__":
    sys.exit(main())
