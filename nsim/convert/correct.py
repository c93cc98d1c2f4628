"""Bias correction: what quantisation takes from each channel on average is given back to its neurons as a bias.

Rounding sends activations below half a step to zero, and clipping cuts the largest: both make a layer send too little,
layer after layer. One pass over some calibration images, with and without quantisation side by side, measures by how
much the mean of each channel falls short, with all layers before it corrected already.

Source: after Li, Deng, Dong, Gong & Gu 2021, "A free lunch from ANN: towards efficient, accurate spiking neural
networks calibration", bias calibration, here on the quantised ReLU that a cycle of bistable neurons computes.
"""

from __future__ import annotations

import numpy as np

from nsim import ann
from nsim.ann.graph import Graph
from nsim.convert.neurons import Quantiser
from nsim.tape import Tensor, no_grad

MEMORY = 1 << 26  # bytes of the largest activation of the images that are looked at
MOST = 256  # images
TURNS = 2  # a shift changes what is rounded away; after two turns the rest is small


def enough(shapes: dict) -> int:
    """How many images to look at."""
    largest = 4 * max(int(np.prod(shape)) for shape in shapes.values())
    return max(1, min(MOST, MEMORY // largest))


def corrections(
    net: Graph, quantiser: Quantiser, scales: dict, floors: dict, images: np.ndarray
) -> dict[str, np.ndarray]:
    """{name of a ReLU: float64 [C], to be added to what its neurons take in}."""
    turned = images if images.ndim == 2 else np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    nodes, found = net.nodes, {}
    last = {source.name: node.name for node in nodes for source in node.inputs}
    exact, coarse = ({nodes[0].name: Tensor(turned)} for _ in range(2))
    with no_grad():
        for node in nodes[1:]:
            if isinstance(node.operation, ann.ReLU):
                a, z = (values[node.inputs[0].name].data for values in (exact, coarse))
                exact[node.name] = Tensor(np.maximum(a, 0))
                found[node.name] = _one(exact[node.name].data, z, scales[node.name], quantiser)
                sent = quantiser(z + found[node.name], scales[node.name])
                coarse[node.name] = Tensor(sent.astype(np.float32))
            else:
                for values in (exact, coarse):
                    values[node.name] = node.operation(*(values[i.name] for i in node.inputs), training=False)
                if node.name in floors:  # rounding rises, so that it may come behind the maximum
                    z, floor = coarse[node.name].data, floors[node.name]
                    sent = quantiser(z + floor, scales[node.name]) - floor
                    coarse[node.name] = Tensor(sent.astype(np.float32))
            for source in node.inputs:
                if last[source.name] == node.name:
                    exact.pop(source.name, None), coarse.pop(source.name, None)
    return found


def _one(a, z, scale, quantiser):
    """The shift of each channel of one layer."""
    shift, axes = np.zeros(a.shape[-1]), tuple(range(a.ndim - 1))
    for _ in range(TURNS):
        shift += (a - quantiser(z + shift, scale)).mean(axis=axes)
    return shift
