"""The oracle for nsim.convert: a conventional network with quantised ReLUs, in float64, which imports nothing of nsim.

Beside each value go its magnitude (the same sum of absolute values) and the number of spikes that it is a sum of: with
these the error of a sum in float32 is at most (number + a few) 2^-24 times the magnitude.
"""

from typing import NamedTuple

import numpy as np


class Sum(NamedTuple):
    value: np.ndarray
    size: np.ndarray
    terms: np.ndarray


def quantised(z, threshold, phases, burst=1):
    """(lambda / (m 2^K)) clip(floor(z m 2^K / lambda + 1/2), 0, m (2^K - 1)) for bursts of m: values, and the level of
    each. Written as the sum of m neurons of which each sends one spike a step, with their starts a level apart."""
    shift = (np.arange(burst) + 0.5) / burst
    levels = sum(np.clip(np.floor(z * 2.0**phases / threshold + s), 0, 2**phases - 1) for s in shift)
    return levels * threshold / (burst * 2.0**phases), levels


def bits(levels):
    """Spikes that a level is sent as, at most."""
    return np.array([bin(int(n)).count("1") for n in levels.ravel()], float).reshape(levels.shape)


def padded(x, padding, fill=0.0):
    return np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)


def taps(x, windows, fill=0.0):
    """For each place in the window what all windows see there."""
    kernel, stride, padding = windows
    x = padded(x, padding, fill)
    high, wide = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:3], kernel, stride, strict=True))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            yield (
                i,
                j,
                x[:, i : i + (high - 1) * stride[0] + 1 : stride[0], j : j + (wide - 1) * stride[1] + 1 : stride[1]],
            )


def convolution(x, weight, windows, groups):
    out, inner = weight.shape[:2]
    total = 0
    for i, j, seen in taps(x, windows):
        parts = [
            seen[..., g * inner : (g + 1) * inner] @ weight[g * out // groups : (g + 1) * out // groups, :, i, j].T
            for g in range(groups)
        ]
        total = total + np.concatenate(parts, axis=-1)
    return total


def affine(x, apply, weight, bias):
    """A linear operation on values, magnitudes and numbers of terms."""
    bias = np.zeros(1) if bias is None else bias
    terms = apply(x.terms, (weight != 0) * 1.0)
    return Sum(apply(x.value, weight) + bias, apply(x.size, np.abs(weight)) + np.abs(bias), terms + 1)


def _conv2d(op, x):
    bias = None if op.bias is None else op.bias.data.astype(float)
    return affine(x, lambda a, w: convolution(a, w, op.windows, op.groups), op.weight.data.astype(float), bias)


def _linear(op, x):
    bias = None if op.bias is None else op.bias.data.astype(float)
    return affine(x, lambda a, w: a @ w.T, op.weight.data.astype(float), bias)


def _norm(op, x):
    scale = op.weight.data.astype(float) / np.sqrt(op.running_var.astype(float) + op.eps)
    mean, bias = op.running_mean.astype(float), op.bias.data.astype(float)
    size = np.abs(scale) * (x.size + np.abs(mean)) + np.abs(bias)
    return Sum(scale * (x.value - mean) + bias, size, x.terms + 4)


def _affine(op, x):
    weight, bias = op.weight.data.astype(float), op.bias.data.astype(float)
    return Sum(weight * x.value + bias, np.abs(weight) * x.size + np.abs(bias), x.terms + 2)


def _add(op, x, y):
    return Sum(*(a + b for a, b in zip(x, y, strict=True)))


def _max(op, x):
    return Sum(*(np.max([seen for _, _, seen in taps(a, op.windows, -np.inf)], axis=0) for a in x))


def _mean(op, x):
    if getattr(op, "count_include_pad", True):
        pixels = np.prod(op.windows.kernel)
    else:
        pixels = sum(seen for _, _, seen in taps(np.ones_like(x.value), op.windows))
    sums = [sum(seen for _, _, seen in taps(a, op.windows)) for a in x]
    return Sum(sums[0] / pixels, sums[1] / pixels, sums[2])


def _global_mean(op, x):
    mean = [a.mean(axis=(1, 2), keepdims=True) for a in x]
    return Sum(mean[0], mean[1], mean[2] * np.prod(x.value.shape[1:3]))


def _flatten(op, x):
    return Sum(*(a.transpose(0, 3, 1, 2).reshape(len(a), -1) if a.ndim == 4 else a for a in x))


RULES = {
    "Conv2d": _conv2d, "IdentityShortcut": _conv2d, "Linear": _linear, "Affine": _affine, "BatchNorm": _norm,
    "Add": _add, "MaxPool": _max, "AvgPool": _mean, "GlobalAvgPool": _global_mean, "Flatten": _flatten,
}  # fmt: skip


def forward(net, images, thresholds, phases, forced=None, floors=(), burst=1):
    """Values of all nodes {name: Sum}, those of ReLUs quantised; what stands in `forced` {name: array} is taken from
    there instead, so that each layer can be checked on its own (single spikes only). What a maximum in `floors`
    {name: floor} is of is quantised so much above zero."""
    found = {}
    for node in net:
        kind = type(node.operation).__name__
        if kind == "Input":
            x = images.transpose(0, 2, 3, 1).astype(float) if images.ndim == 4 else images.astype(float)
            found[node.name] = Sum(x, np.abs(x), np.ones_like(x))
        elif kind == "ReLU":
            z = found[node.inputs[0].name].value
            value, levels = quantised(z, thresholds[node.name], phases, burst)
            if forced is not None:
                value = forced[node.name].astype(float)
                levels = np.rint(value * 2.0**phases / thresholds[node.name])
            found[node.name] = Sum(value, value, bits(levels))
        elif node.name in floors:
            below, floor = found[node.inputs[0].name], floors[node.name]
            value, levels = quantised(below.value + floor, thresholds[node.name], phases, burst)
            found[node.name] = _max(node.operation, Sum(value - floor, value + floor, bits(levels) + 1))
        else:
            found[node.name] = RULES[kind](node.operation, *(found[i.name] for i in node.inputs))
    return found
