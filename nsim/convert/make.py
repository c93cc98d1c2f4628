"""to_spiking: calibration, folding and the choice of a code put together."""

from __future__ import annotations

import numpy as np

from nsim.ann.graph import Graph
from nsim.checks import all_finite, flag
from nsim.convert.calibrate import batches, thresholds
from nsim.convert.correct import MOST, corrections, enough
from nsim.convert.lower import lower, pools
from nsim.convert.network import SpikingNetwork
from nsim.convert.neurons import Bistable, Code
from nsim.convert.origin import Origin
from nsim.errors import ParameterError


def to_spiking(
    net: Graph, calibration, neuron: Code | None = None, *, percentile: float | None = None,
    per_channel: bool = True, correct_bias: bool = False,
) -> SpikingNetwork:  # fmt: skip
    """A spiking network with nearly the outputs of a trained conventional one.

    Every ReLU becomes a layer of spiking neurons; batch norm and thresholds are folded into the weights between them;
    average pooling and additions become part of what the neurons sum; a maximum pooling passes the spikes of the
    largest value, and gets neurons of its own where it is of values that may be negative and that are no ReLU's. The
    images enter as a constant drive of the first layer, and the output is a sum without spikes.

    Parameters
    ----------
    net : nsim.ann.Graph, trained
    calibration : float32 [B, C, H, W], or batches of such (of images, or of pairs (images, labels))
        Images that the network was trained on, which set the thresholds. Batches are read once, one at a time. A layer
        that none of them makes active converts too, with an EventWarning that names it.
    neuron : convert.Bistable, default phases=4; convert.IF or convert.Phase
    percentile : float, optional
        Threshold of a layer: this percentile of its activations; 100 is their maximum. Found from a histogram, to
        0.03 % (layer-wise) or 0.8 % (channel-wise; less exactly, to 12 % at worst, where a layer has more than 2,048
        channels, such as the neurons of a vector); the maximum is exact. A channel of which it is 0 takes its own
        maximum. Default: 99.9, or, for bistable neurons, the threshold with the least squared error of what a cycle
        sends, which rises with K.
    per_channel : bool
        One threshold for each channel, or, with False, one for each layer. Channels differ: with thresholds of their
        own the readout of a ResNet-20 at 4 phases is off by a tenth less.
    correct_bias : bool
        Whether what quantisation takes from each channel on average is given back as a bias, measured on the first
        images of the calibration data; for bistable neurons. See `nsim.convert.correct`.

    Returns
    -------
    SpikingNetwork

    Raises
    ------
    ParameterError, ShapeError
        If an operation cannot be converted, or what it gives is not finite (it is named), or the images do not fit.

    Source: Li, Zhao & Zeng 2021 (see `Bistable`); percentile: Rueckauer et al. 2017, "Conversion of continuous-valued
    deep networks to efficient event-driven networks for image classification", section 2.2.
    """
    neuron = Bistable() if neuron is None else neuron
    if not isinstance(neuron, Code):
        raise ParameterError(
            f"to_spiking: neuron = {neuron!r}; expected convert.Bistable(), convert.IF() or convert.Phase()"
        )
    if not isinstance(net, Graph):
        raise ParameterError(f"to_spiking: net is a {type(net).__name__}; expected an nsim.ann.Graph")
    if net.dtype != np.float32:
        raise ParameterError(f"to_spiking: this network computes in {net.dtype}; spiking ones in float32")
    per_channel = flag("to_spiking", "per_channel", per_channel)
    correct_bias = flag("to_spiking", "correct_bias", correct_bias)
    for name, array in net.arrays().items():
        if not all_finite(array):
            raise ParameterError(f"to_spiking: {name} holds NaN or infinity; load or train the network anew")
    if correct_bias and not neuron.staged:
        raise ParameterError(
            f"to_spiking: correct_bias is for convert.Bistable; how {neuron} rounds depends on the steps"
        )
    if percentile is None and not neuron.staged:
        percentile = 99.9
    raised = [name for name, kind in pools(net).items() if kind == "raised"]
    first, quantiser = [], neuron.quantiser(1) if neuron.staged else None
    parts = batches(calibration)
    if correct_bias:
        parts = _watched(parts, first)
    scales, floors, shape = thresholds(net, parts, percentile, per_channel, quantiser, raised)
    shapes = net.shapes(shape)
    shifts = {}
    if correct_bias:
        shifts = corrections(net, quantiser, scales, floors, np.concatenate(first)[: enough(shapes)])
    return assemble(net, neuron, scales, shapes, shifts, floors)


def _watched(parts, first):
    """The same batches; the first of them are kept."""
    for images in parts:
        if sum(map(len, first)) < MOST:
            first.append(np.array(images))
        yield images


def assemble(net: Graph, neuron: Code, scales: dict, shapes: dict, shifts=None, floors=None) -> SpikingNetwork:
    """The same from known thresholds {name of a ReLU or of a raised pool: float64 [1] or [C]}, shapes {name of a node:
    shape}, corrections of the biases {name of a ReLU: float64 [C]}, and floors {name of a raised pool: as scales}."""
    populations = lower(net, shapes, scales, floors or {}, neuron.staged)
    return SpikingNetwork(populations, neuron, scales, shapes, shifts or {}, Origin.of(net))
