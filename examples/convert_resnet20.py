"""A trained ResNet-20 becomes a spiking network: accuracy after each step, where the error comes from, what it costs.

Bistable neurons with relays on the shortcuts, after Li, Zhao & Zeng 2021, "BSNN: Towards Faster and Better Conversion
of Artificial Neural Networks to Spiking Neural Networks with Bistable Neurons", beside integrate-and-fire with bursts
and negative spikes. Thresholds come from training images.

    python examples/convert_resnet20.py --weights resnet20.safetensors --data FOLDER_OF_CIFAR10

The weights are those of Yerlan Idelbayev's pytorch_resnet_cifar10 as safetensors, npz or HDF5. Data: Krizhevsky 2009.
"""

import numpy as np
from _shared import command_line, run, save

import nsim
from nsim import ann, convert, plot
from nsim.datasets import CIFAR10
from nsim.errors import MissingDataError, ParameterError

CODES = {"bistable, K = 4": convert.Bistable(phases=4), "IF, signed, bursts of 2": convert.IF(signed=True, burst=2)}

PARTS = ("clipping", "quantisation", "inactivated", "passed")


def pictures(args):
    """Images to calibrate with, images to test with, labels, and what the data are called."""
    try:
        parts = [CIFAR10(split, args.data, download=not args.smoke) for split in ("train", "test")]
    except MissingDataError as error:
        if not args.smoke or args.data is not None:
            raise
        print(f"{error}\n=> Going on with noise, to see that everything runs.\n")
        noise = np.random.default_rng(args.seed).normal(size=(24, 3, 32, 32)).astype(np.float32)
        return noise[:16], noise[16:], None, "noise"
    count, tested = (32, 8) if args.smoke else (1024, 500)
    calibration, _ = next(iter(parts[0].batches(count)))
    images, labels = next(iter(parts[1].batches(tested)))
    return calibration, images, labels, parts[1].name


def network(args):
    net = ann.resnet20(seed=args.seed)
    if args.weights is not None:
        net.load_state_dict(nsim.read_weights(args.weights))
    elif args.smoke:
        print("no --weights: the network is untrained, and its answers say nothing")
    else:
        raise ParameterError("convert_resnet20.py needs --weights, a file of trained weights; --smoke goes without")
    return net


def tell(net, snn, images, steps):
    """Print what an image costs and where the error comes from; returns the error's parts."""
    cost, split = convert.cost(net, snn, images, steps), convert.error_split(net, snn, images, steps)
    print(f"  an image: {cost.spikes / 1e6:.2f} M spikes, {cost.synops / 1e6:.0f} M additions of a weight, and")
    analog, graded = cost.analog_macs / 1e6, cost.graded_macs / 1e6
    print(f"  {analog:.1f} M multiply-adds in the first layer, {graded:.3f} M behind the last")
    print(f"  average, which sends real numbers; the network itself: {cost.ann_macs / 1e6:.1f} M multiply-adds")
    parts = ", ".join(f"{name} {getattr(split, name)[-1]:.1%}" for name in PARTS)
    print(f"  error of the last layer {split.total[-1]:.1%}: {parts}")
    return split


def main():
    args = command_line(__doc__, "convert-resnet20", files=[("weights", "trained weights of the network")])
    net = network(args)
    calibration, images, labels, name = pictures(args)
    output, _ = net.forward(images)
    answers = output.argmax(1) if labels is None else labels
    own = (output.argmax(1) == answers).mean()
    print(f"{name}: {len(images)} images, the network itself {own:.1%} right")
    runs = {}
    for title, code in CODES.items():
        snn = convert.to_spiking(net, calibration, code)
        steps = snn.first_answer if code.staged else 32
        runs[title] = logits = snn(images, steps)
        last = logits[:, -1].argmax(1)
        right, same = (last == answers).mean(), (last == output.argmax(1)).mean()
        print(f"\n{title}: {snn}\n  {right:.1%} right after {steps} steps, {same:.1%} as the network")
        split = tell(net, snn, images[:8], steps)
        if code.staged:
            save(plot.error_split(split), args.out / "errors.png")
            for fate in convert.coverage(net, snn)[:6]:
                print(f"  {fate.name} ({fate.operation}): {fate.became}")
    save(plot.accuracy_over_steps(runs, answers, reference=own), args.out / "accuracy.png")
    return 0


if __name__ == "__main__":
    run(main)
