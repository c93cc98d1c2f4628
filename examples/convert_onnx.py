"""A network from an ONNX file becomes a spiking one: what became of each node, and how near its outputs are.

    python examples/convert_onnx.py --model network.onnx --images images.npy

`--images` holds images float32 [B, C, H, W], normalised as the network expects, on which the thresholds are set and the
outputs compared. Without options it takes a small residual network that torch exported for nsim's own tests, and noise.
Bistable neurons after Li, Zhao & Zeng 2021; the file is read with the package onnx (`pip install nsim-snn[onnx]`).
"""

from pathlib import Path

import numpy as np
from _shared import command_line, run, save

from nsim import ann, convert, plot
from nsim.errors import DataError

SMALL = Path(__file__).resolve().parents[1] / "tests" / "data" / "residual_b.onnx"


def given(path):
    """Images from a file; of 2 at least, as one half sets the thresholds."""
    try:
        images = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no array in NumPy's format: {error}") from error
    if images.ndim < 2 or len(images) < 2:
        raise DataError(f"{path}: an array of shape {images.shape}; expected 2 images or more, [B, C, H, W]")
    return images


def noise(args, net):
    count, (*pixels, channels) = 8 if args.smoke else 64, net.nodes[0].shape
    return np.random.default_rng(args.seed).normal(size=(count, channels, *pixels)).astype(np.float32)


def main():
    files = [("model", "the network, an ONNX file"), ("images", "images, a .npy file")]
    args = command_line(__doc__, "convert-onnx", files=files)
    images = None if args.images is None else given(args.images)
    net = ann.from_onnx(args.model or SMALL, input_shape=None if images is None else images.shape[1:])
    images = noise(args, net) if images is None else images
    calibration, tested = images[: len(images) // 2], images[len(images) // 2 :]
    output, _ = net.forward(tested)
    for phases in (4, 8):
        snn = convert.to_spiking(net, calibration, convert.Bistable(phases), percentile=99.9 if phases < 8 else 100)
        if phases == 4:
            for fate in convert.coverage(net, snn):
                print(f"{fate.name} ({fate.operation}): {fate.became}")
        logits = snn(tested, snn.first_answer)[:, -1]
        off = np.sqrt(np.mean((logits - output) ** 2) / np.mean(output**2))
        same = (logits.argmax(1) == output.argmax(1)).mean()
        print(f"\n{phases} phases, {snn.first_answer} steps: outputs off by {off:.1%}, {same:.0%} same classes")
    save(plot.error_split(convert.error_split(net, snn, tested, snn.first_answer)), args.out / "errors.png")
    return 0


if __name__ == "__main__":
    run(main)
