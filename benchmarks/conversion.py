"""Conversion of trained networks: accuracy over time, speed beside SpikingJelly, size.

    python benchmarks/conversion.py accuracy --network resnet20 [--weights resnet20.safetensors] [--out results.md]
    python benchmarks/conversion.py speed [--images 64]     # ResNet-20, T = 64, in turn with SpikingJelly's
    python benchmarks/conversion.py stream [--network resnet56]    # a new image every K steps, pipelined
    python benchmarks/conversion.py size                    # ResNet-34 and VGG-16 at 224 x 224, through ONNX files

Data: CIFAR-10 as `nsim.datasets.CIFAR10` finds it, or the part of it that is there; its name is printed. Thresholds
come from training images, the codes and their options were compared on other training images. The test images of the
kept table were looked at more than once: benchmarks/RESULTS.md says where that touched a choice.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nsim
from benchmarks.common import Report, machine, peak_bytes, resting_bytes, table, versions
from nsim import ann, convert
from nsim.datasets import CIFAR10

CALIBRATION = 1024  # training images
COUNTS = {"resnet20": 128, "resnet56": 256}  # steps of the codes that have no length of their own
COLUMNS = (4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 192, 224, 256, 280)


def codes(depth, steps):
    """(name, code, options of to_spiking, steps); `depth` is the number of layers."""
    layer, percentile, corrected = {"per_channel": False}, {"percentile": 99.9}, {"correct_bias": True}
    return [
        ("bistable, K = 4", convert.Bistable(4), {}, (depth + 1) * 4),
        ("bistable, K = 5", convert.Bistable(5), {}, (depth + 1) * 5),
        ("bistable, K = 4, 99.9 percentile", convert.Bistable(4), percentile, (depth + 1) * 4),
        ("bistable, K = 5, 99.9 percentile", convert.Bistable(5), percentile, (depth + 1) * 5),
        ("bistable, K = 4, bias corrected", convert.Bistable(4), corrected, (depth + 1) * 4),
        ("bistable, K = 5, bias corrected", convert.Bistable(5), corrected, (depth + 1) * 5),
        ("IF, signed, bursts of 2", convert.IF(signed=True, burst=2), {}, steps // 2),
        ("IF, signed", convert.IF(signed=True), {}, steps // 2),
        ("IF, start at half", convert.IF(), {}, steps),
        ("bistable, K = 4, bursts of 2", convert.Bistable(4, burst=2), {}, (depth + 1) * 4),
        ("bistable, K = 5, bursts of 2", convert.Bistable(5, burst=2), {}, (depth + 1) * 5),
        ("bistable, K = 4, bursts of 4", convert.Bistable(4, burst=4), {}, (depth + 1) * 4),
        ("bistable, K = 5, bursts of 4", convert.Bistable(5, burst=4), {}, (depth + 1) * 5),
        ("bistable, K = 4, layer-wise", convert.Bistable(4), layer, (depth + 1) * 4),
        ("bistable, K = 5, layer-wise", convert.Bistable(5), layer, (depth + 1) * 5),
        ("IF, start at half, layer-wise", convert.IF(), layer, steps),
        ("IF, start at zero, layer-wise, maximum", convert.IF("zero"), layer | {"percentile": 100}, steps),
        ("plain phase, K = 8, layer-wise, maximum", convert.Phase(8), layer | {"percentile": 100}, steps),
        ("bistable, pipelined, K = 4", convert.Bistable(4, pipelined=True), {}, (depth + 1) * 4),
        ("bistable, pipelined, K = 5", convert.Bistable(5, pipelined=True), {}, (depth + 1) * 5),
    ]


def chosen_of(rows, names):
    """The rows of these names; what is no row's name stands for all that contain it."""
    titles = {row[0] for row in rows}
    return [row for row in rows if any(name == row[0] if name in titles else name in row[0] for name in names)]


def network(name, weights):
    net = getattr(ann, name)()
    net.load_state_dict(nsim.read_weights(weights))
    return net


def images_of(split, args, count=None):
    data = CIFAR10(split, args.data)
    pictures, labels = zip(*data.batches(500), strict=True)
    return data.name, np.concatenate(pictures)[:count], np.concatenate(labels)[:count]


def stays_within(accuracy, best, points):
    """The first step from which on the accuracy stays within so many points of the network's; "-" if none."""
    below = np.flatnonzero(accuracy < best - points / 100 - 1e-9)
    step = 1 if len(below) == 0 else below[-1] + 2
    return step if step <= len(accuracy) else "-"


def accuracy(args, say):
    net = network(args.network, args.weights or args.data / f"{args.network}.safetensors")
    _, calibration, _ = images_of("train", args, CALIBRATION)
    name, images, labels = images_of("test", args)
    if args.mirror:
        name, images = f"{name}, mirrored", images[..., ::-1].copy()
    output, _ = net.forward(images)
    best = (output.argmax(1) == labels).mean()
    say(f"#### {args.network}, {name}, the network itself {best:.1%}\n")
    depth = sum(isinstance(node.operation, ann.ReLU) for node in net)
    rows = []
    for title, code, options, steps in chosen_of(codes(depth, COUNTS[args.network]), args.codes):
        snn = convert.to_spiking(net, calibration, code, **options)
        logits = np.concatenate([snn(images[k : k + 50], steps) for k in range(0, len(images), 50)])
        chosen = logits.argmax(2)
        right, same = (chosen == labels[:, None]).mean(0), (chosen[:, -1] == output.argmax(1)).mean()
        right[: snn.first_answer - 1] = 0  # all readouts are zero: no answer
        shown = [f"{right[t - 1]:.1%}" if snn.first_answer <= t <= steps else "" for t in COLUMNS if t <= args.last]
        rows.append(
            [
                title,
                *shown,
                f"{right[-1]:.1%} ({steps})",
                f"{same:.1%}",
                *(stays_within(right, best, p) for p in (2, 1)),
            ]
        )
        print("   ", rows[-1], flush=True)
    columns = [f"T = {t}" for t in COLUMNS if t <= args.last]
    say(
        table(
            [
                "code",
                *columns,
                "at the end (T)",
                "same class as the network",
                "within 2 points from T",
                "within 1 point",
            ],
            rows,
        )
    )
    say()


def speed(args, say):
    """Images a second over T steps; SpikingJelly's conversion is nsim's first: IF, layer-wise, 99.9 percentile."""
    from benchmarks.peers.spikingjelly_conversion import Converted

    net = network("resnet20", args.weights or args.data / "resnet20.safetensors")
    _, calibration, _ = images_of("train", args, CALIBRATION)
    name, images, labels = images_of("test", args, args.images)
    peer = Converted(net, calibration, args.threads)
    runs = {"SpikingJelly's converter, torch": lambda: peer(images, args.steps)}
    for title, code, by_channel in (
        ("nsim, IF, start at zero", convert.IF("zero"), False), ("nsim, IF, start at half", convert.IF(), True),
        ("nsim, IF, signed, bursts of 2", convert.IF(signed=True, burst=2), True),
        ("nsim, bistable, K = 4", convert.Bistable(4), True),
    ):  # fmt: skip
        snn = convert.to_spiking(net, calibration, code, per_channel=by_channel)
        runs[title] = lambda snn=snn: snn(images, args.steps)[:, -1]
    seen, right = {title: [] for title in runs}, {}
    for turn in range(args.repeats + 1):
        for title, run in runs.items():
            start = time.perf_counter()
            output = run()
            if turn:  # the first turn compiles and warms up
                seen[title].append(time.perf_counter() - start)
            right[title] = (output.argmax(1) == labels).mean()
    first = np.median(next(iter(seen.values())))
    say(f"#### ResNet-20, T = {args.steps}, {len(images)} images of {name}, medians of {args.repeats} turns\n")
    rows = [
        [title, f"{len(images) / np.median(times):.1f}", f"{first / np.median(times):.1f}x", f"{right[title]:.1%}"]
        for title, times in seen.items()
    ]
    say(table(["simulator", "images a second", "of SpikingJelly's", "right"], rows))
    say(f"\n{versions('numba', 'torch', 'spikingjelly')}\n")


def stream(args, say):
    """Images a second where one enters every K steps, and so often leaves with an answer; beside one at a time."""
    net = network(args.network, args.weights or args.data / f"{args.network}.safetensors")
    _, calibration, _ = images_of("train", args, CALIBRATION)
    name, images, labels = images_of("test", args, args.images)
    own, rows = net.forward(images)[0].argmax(1), []
    for phases in (4, 5):
        both, plain = (
            convert.to_spiking(net, calibration, convert.Bistable(phases, pipelined=pipelined))
            for pipelined in (True, False)
        )
        steps = both.first_answer
        for title, run, each in (
            ("pipelined, stream", lambda snn=both: snn.stream(images), phases),
            ("pipelined, one at a time", lambda snn=both, steps=steps: snn(images, steps)[:, -1], steps),
            ("one at a time", lambda snn=plain, steps=steps: snn(images, steps)[:, -1], steps),
        ):
            seen = []
            for _ in range(args.repeats + 1):
                start = time.perf_counter()
                output = run()
                seen.append(time.perf_counter() - start)
            classes, rate = output.argmax(1), len(images) / np.median(seen[1:])  # the first compiles and warms up
            found = f"{(classes == labels).mean():.1%}", f"{(classes == own).mean():.1%}"
            rows.append([f"K = {phases}, {title}", steps, each, f"{1 / each:.4f}", f"{rate:.1f}", *found])
            print("   ", rows[-1], flush=True)
    say(f"#### {args.network}, {len(images)} images of {name}, medians of {args.repeats} turns\n")
    header = ["bistable", "steps to the first answer", "steps between answers", "images a step", "images a second",
              "right", "same class as the network"]  # fmt: skip
    say(table(header, rows))
    say()


def size(args, say):
    """Time and memory of one image of 224 x 224 through ONNX, with random weights."""
    from benchmarks.peers.export import export

    rows = []
    for name, phases in (("resnet34", 4), ("vgg16", 4)):
        rest = resting_bytes()
        with tempfile.TemporaryDirectory() as folder:
            net = ann.from_onnx(export(name, Path(folder)))
        images = np.random.default_rng(0).normal(size=(4, 3, 224, 224)).astype(np.float32)
        start = time.perf_counter()
        snn = convert.to_spiking(net, images[:2], convert.Bistable(phases))
        made, steps = time.perf_counter() - start, snn.first_answer
        held = resting_bytes() - rest
        snn(images[:1], steps)
        start = time.perf_counter()
        logits = snn(images, steps)
        each = (time.perf_counter() - start) / len(images)
        peak = peak_bytes(lambda snn=snn, images=images, steps=steps: snn(images, steps))
        same = (logits[:, -1].argmax(1) == net.forward(images)[0].argmax(1)).mean()
        weights = snn.engine.weight_bytes
        rows.append([
            name, steps, f"{made:.1f} s", f"{each:.2f} s", f"{weights / 2**20:.0f} MiB", f"{held / 2**20:.0f} MiB",
            f"{peak / 2**20:.0f} MiB", f"{same:.0%}",
        ])  # fmt: skip
        del net, snn
    say("#### 224 x 224, weights at random, through ONNX files; first complete answer of bistable neurons, K = 4\n")
    header = ["network", "steps", "conversion", "an image", "weights", "held by both", "peak of a run above that",
              "same class as the network"]  # fmt: skip
    say(table(header, rows))
    say()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("accuracy", "speed", "stream", "size"))
    parser.add_argument("--network", choices=COUNTS, default="resnet20")
    parser.add_argument("--weights", type=Path, help="trained weights (default: <network>.safetensors beside the data)")
    parser.add_argument("--data", type=Path, required=False, help="folder of CIFAR-10")
    parser.add_argument(
        "--codes", nargs="+", default=[""], help="only rows of these names, or with these parts of a name"
    )
    parser.add_argument("--mirror", action="store_true", help="accuracy: on the mirror images of the test images")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--last", type=int, default=128, help="last column of the table")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.data = CIFAR10("test").path.parent if args.data is None else args.data
    say = Report(args.out)
    say(f"{machine(args.threads)}; {versions('numpy', 'numba')}\n")
    {"accuracy": accuracy, "speed": speed, "stream": stream, "size": size}[args.part](args, say)


if __name__ == "__main__":
    main()
