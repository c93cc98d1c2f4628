"""What a conversion did and what it costs: the fate of each node, parts of the error, spikes, operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nsim import ann
from nsim.ann.graph import Graph
from nsim.checks import whole
from nsim.convert.network import SpikingNetwork
from nsim.errors import ParameterError

FOLDED = {
    ann.Conv2d: "weights of", ann.Linear: "weights of", ann.Affine: "folded into the weights of",
    ann.Add: "summed by", ann.AvgPool: "average, in the drive of", ann.GlobalAvgPool: "average, in the drive of",
    ann.Flatten: "order of the weights of", ann.MaxPool: "maximum, in the drive of",
}  # fmt: skip


class Fate(NamedTuple):
    """name, operation : of a node of the network; became : what it is in the spiking one, in words; spiking : bool"""

    name: str
    operation: str
    became: str
    spiking: bool


def coverage(net: Graph, snn: SpikingNetwork) -> list[Fate]:
    """What became of each node of the network that was converted, one entry each, in order; then the populations that
    no node stands for: relays, and neurons that send what a maximum is taken of.

    Every ReLU stands there as a layer of spiking neurons: `to_spiking` refuses what it cannot convert, by name. What
    does not spike is named so. Analog are what is computed from the images before the first neurons, and the readout.
    Graded is a linear node whose values a convolution, a matrix or an average reads without a ReLU between, such as the
    average before a classifier: in each step it sends on, as real numbers, the weighted spikes that came in.

    Raises
    ------
    ParameterError
        If `snn` was made from another network, or from this one before its weights changed.
    """
    _check(net, snn, "coverage")
    made = {p.name: p for p in snn.populations if p.kind != "readout"}
    analog, found = snn.analog_nodes(), []
    for node in net:
        p = made.pop(node.name, None)
        if p is not None:
            words = f"{'analog and ' * (node.name in analog)}{_words(snn, p)}"
        elif not node.inputs:
            seen = sorted(p.name for p in snn.populations_of_images)
            words = f"analog: constant drive of {', '.join(seen) or 'nothing'}"
        else:
            readers = ", ".join(_readers(net, node, snn)) or "the readout, an analog sum"
            words = f"{'analog: ' * (node.name in analog)}{_folded(node.operation)} {readers}"
        found.append(Fate(node.name, type(node.operation).__name__, words, p is not None and p.kind != "sum"))
    return found + [Fate(p.name, p.kind, _words(snn, p), p.kind != "sum") for p in made.values()]


def _check(net, snn, what):
    if not (isinstance(net, Graph) and isinstance(snn, SpikingNetwork)):
        given = " and ".join(type(value).__name__ for value in (net, snn))
        raise ParameterError(f"{what}: of {given}; expected an nsim.ann.Graph, then what to_spiking made of it")
    if difference := snn.origin.differs(net):
        raise ParameterError(f"{what}: this is not the network that was converted: {difference}")


def _words(snn, p):
    if p.kind == "pool":
        return f"gate that passes the largest of each window, depth {p.depth}"
    if p.kind == "relay":
        return f"{p.size:,} synchronous neurons, depth {p.depth}"
    if p.kind == "sum":
        readers = (q for q in snn.populations if any(source is p for source, _ in q.edges))
        names = ", ".join("the readout" if q.kind == "readout" else q.name for q in readers)
        return f"graded: passes on real values, sums of weighted spikes, in each step; read by {names}"
    return f"{snn.code}, {p.size:,} neurons, depth {p.depth}, threshold {_span(p.scale)}"


def _folded(operation):
    return next(words for kind, words in FOLDED.items() if isinstance(operation, kind))


def _readers(net, node, snn):
    """Names of the nodes that spike, or are graded, and whose sum a node is part of."""
    made = {p.name for p in snn.populations if p.kind in ("neuron", "pool", "sum")}
    found, stack, seen = [], [node], set()
    while stack:
        for reader in net.consumers(stack.pop()):
            if reader.name in made:
                found.append(reader.name)
            elif reader.name not in seen:
                seen.add(reader.name)
                stack.append(reader)
    return list(dict.fromkeys(found))


def _span(scale):
    low, high = scale.min(), scale.max()
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


@dataclass(frozen=True)
class ErrorSplit:
    """Root mean square errors of each layer's decoded values, in units of the root mean square activation; arrays [L].

    The error of a neuron is the sum of four parts: clipping, min(a, top) - a, where top is the largest value that can
    be sent; quantisation, the rounding of what is left; inactivated, what neurons sent whose activation is 0; and
    passed, the rest: what came with the input, and in rate codes from its timing.

    names : of the layers; inactivated_share : what neurons sent whose activation is 0, of all that the layer sent, [L]
    """

    names: tuple
    clipping: np.ndarray
    quantisation: np.ndarray
    inactivated: np.ndarray
    passed: np.ndarray
    total: np.ndarray
    inactivated_share: np.ndarray


def error_split(net: Graph, snn: SpikingNetwork, images, steps: int) -> ErrorSplit:
    """Where each layer's values differ from the network's, and why; see `ErrorSplit`.

    Parameters
    ----------
    net : the Graph that was converted
    images : float32 [B, C, H, W]
    steps : int, at least so many that each layer has sent a whole value

    Raises
    ------
    ParameterError
        If steps is below `snn.first_answer`, or `snn` was made from another network, or from this one before its
        weights changed.
    """
    _check(net, snn, "error_split")
    whole("error_split", steps=(steps, 1))
    steps = int(steps)
    if steps < snn.first_answer:
        raise ParameterError(f"error_split: steps = {steps}; the first complete answer comes after {snn.first_answer}")
    layers = [p for p in snn.populations if p.kind == "neuron"]
    ends = [p.gate or p for p in layers]  # where a gate is behind them, its values are those that the network knows
    sent = snn.activity(images, steps).values
    _, kept = net.forward(images, keep={end.holds for end in ends})
    rows = []
    for p, end in zip(layers, ends, strict=True):
        a, b = (values.astype(np.float64) + p.floor for values in (kept[end.holds], sent[end.name]))
        quantiser = snn.code.quantiser(snn.code.sent(steps, p.depth))
        clipped = np.minimum(a, p.scale * quantiser.most / quantiser.levels)
        rounded = quantiser(clipped, p.scale)
        silent = a <= 0
        parts = (clipped - a, rounded - clipped, np.where(silent, b, 0), np.where(silent, 0, b - rounded), b - a)
        size = max(np.sqrt(np.mean(a**2)), np.finfo(float).tiny)
        share = b[silent].sum() / max(b.sum(), np.finfo(float).tiny)
        rows.append([*(np.sqrt(np.mean(part**2)) / size for part in parts), share])
    return ErrorSplit(tuple(p.name for p in layers), *np.array(rows).T)


class Cost(NamedTuple):
    """Means for one image.

    spikes : of all neurons, relays and gates
    synops : synaptic operations, weights added because of a spike
    analog_macs : multiply-adds of the analog drive, computed once for an image
    ann_macs : multiply-adds of the network that was converted
    rate : spikes of a neuron and step
    by_layer : {name: (spikes, synops, graded_macs)}
    graded_macs : multiply-adds behind graded nodes (see `coverage`), real numbers times a weight in each step
    """

    spikes: float
    synops: float
    analog_macs: int
    ann_macs: int
    rate: float
    by_layer: dict
    graded_macs: float


def cost(net: Graph, snn: SpikingNetwork, images, steps: int) -> Cost:
    """Spikes and operations of an image, beside the multiply-adds of the network that was converted; see `Cost`.

    Raises
    ------
    ParameterError
        If `snn` was made from another network, or from this one before its weights changed.
    """
    _check(net, snn, "cost")
    whole("cost", steps=(steps, 1))
    steps = int(steps)
    found = snn.activity(images, steps)
    by_layer = {name: (count.mean(), found.synops[name].mean(), 0) for name, count in found.spikes.items()}
    by_layer |= {name: (0, 0, count.mean()) for name, count in found.graded_macs.items()}
    spikes, synops, graded = map(sum, zip(*by_layer.values(), strict=True))
    every = {node.name: _multiply_adds(node, snn.shapes) for node in net}
    analog = sum(every[name] for name in snn.analog_nodes())
    neurons = {p.name: p.size for p in snn.populations if p.kind in ("neuron", "relay")}
    rate = sum(by_layer[name][0] for name in neurons) / sum(neurons.values()) / steps
    return Cost(spikes, synops, analog, sum(every.values()), rate, by_layer, graded)


def _multiply_adds(node, shapes):
    """Products of weights and values that a convolution or a matrix computes; 0 for everything else."""
    weight = getattr(node.operation, "weight", None)
    if weight is None or weight.ndim < 2 or not node.operation.parameters():
        return 0
    places = int(np.prod(shapes[node.name])) // weight.shape[0]
    return int(weight.size) * places
