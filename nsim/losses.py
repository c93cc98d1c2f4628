"""Losses: cross-entropy on readouts and spike counts, squared error, and the spike-rate regularisers."""

from __future__ import annotations

import numpy as np

from nsim import ops
from nsim.backend import per_device
from nsim.checks import class_labels, number
from nsim.errors import ParameterError, ShapeError
from nsim.events import step_mask
from nsim.tape import Tensor, record


def cross_entropy(output, labels, *, label_smoothing=0.0, per_step=False, lengths=None) -> Tensor:
    """Softmax cross-entropy, the mean over the batch: -sum_c y_c log softmax(output)_c.

    Parameters
    ----------
    output : Tensor [B, C], Spikes [B, T, C] or Tensor [B, T, C]
        A reduced readout; spikes, of which the counts are the scores; or, with `per_step`, a readout at every step.
    labels : array [B] of whole numbers, 0 to C - 1
    label_smoothing : float, 0 to 1
        y is (1 - label_smoothing) at the label plus label_smoothing / C everywhere.
    per_step : bool
        Average the cross-entropy of every step of an output [B, T, C], first over the steps of a sample.
    lengths : int array [B], optional
        True number of steps of each sample; later steps are left out. Only `per_step` uses it. Default: those of the
        events that the readout was given, which its own output carries (`out.lengths`; what is computed from it does
        not), else all steps.

    Returns
    -------
    Tensor, a single number, in nats.

    Raises
    ------
    ShapeError, ParameterError
        If the output does not fit the labels, a label is out of range, or `per_step` does not fit the output.
    """
    number("cross_entropy", "label_smoothing", label_smoothing, least=0, most=1)
    scores = _scores("cross_entropy", output)
    if scores.ndim != (3 if per_step else 2):
        way_out = (
            "per_step=True wants a readout [B, T, C], from LI(reduce=None)"
            if per_step
            else 'expected [B, C]: reduce the readout over time, LI(..., reduce="sum"), or give per_step=True'
        )
        raise ShapeError(f"cross_entropy: output of shape {scores.shape}; {way_out}")
    labels = class_labels("cross_entropy", labels, scores.shape[-1], samples=len(scores))
    weight = np.full(len(scores), 1 / len(scores))
    if per_step:
        batch, steps, classes = scores.shape
        true = step_mask(scores.lengths if lengths is None else lengths, batch, steps)
        weight = np.where(true, 1 / (batch * np.maximum(true.sum(axis=1, keepdims=True), 1)), 0).ravel()
        scores, labels = ops.reshape(scores, (batch * steps, classes)), np.repeat(labels, steps)
    return _weighted_cross_entropy(scores, labels, weight, label_smoothing)


@per_device
def _weighted_cross_entropy(scores, labels, weight, smoothing):
    """Sum over rows of weight times cross-entropy; rows of weight 0 are not looked at, so they may hold anything."""
    used = np.flatnonzero(weight)
    logits, labels = scores.data[used], labels[used]
    weight = weight[used].astype(scores.dtype)
    with np.errstate(invalid="ignore"):  # infinite scores make a NaN loss, which the caller sees
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    row = np.arange(len(used))
    per_row = -(1 - smoothing) * log_p[row, labels]
    if smoothing:
        per_row -= smoothing * log_p.mean(axis=1)
    shape = scores.shape

    def vjp(g):
        part = np.exp(log_p)
        part -= smoothing / shape[1]
        part[row, labels] -= 1 - smoothing
        part *= (g * weight)[:, None]
        grad = np.zeros(shape, part.dtype)
        grad[used] = part
        return (grad,)

    return record("cross_entropy", Tensor(np.asarray((per_row * weight).sum())), (scores,), vjp)


def mse(output, target) -> Tensor:
    """Mean of (output - target)^2 over all entries.

    Parameters
    ----------
    output : Tensor of any shape, or Spikes [B, T, N], of which the counts [B, N] are taken
    target : array of the same shape; nothing is broadcast

    Raises
    ------
    ShapeError
        If the shapes differ.
    """
    scores = _scores("mse", output)
    target = np.asarray(getattr(target, "data", target) if isinstance(target, Tensor) else target)
    if target.shape != scores.shape:
        raise ShapeError(f"mse: output of shape {scores.shape}, target of shape {target.shape}; the two must be equal")
    difference = ops.subtract(scores, Tensor(target.astype(scores.dtype)))
    return ops.mean(ops.multiply(difference, difference))


def spike_rate_upper(spikes, limit, strength=0.06) -> Tensor:
    """Mean over the batch of strength * relu(mean_j count_j - limit), count_j the spikes of neuron j in the sample.

    Parameters
    ----------
    spikes : Spikes, or a list of them
        Hidden layers; the losses of several are added.
    limit : float, spikes for each neuron and sample
    strength : float

    Returns
    -------
    Tensor, a single number.

    Source: Perez-Nieves & Goodman 2021, supplement; limit 1 (MNIST kinds) or 10 (SHD).
    """
    layers = _layers("spike_rate_upper", spikes, limit, strength)
    return _added(_rate_upper(layer.counts(), limit, strength) for layer in layers)


@per_device
def _rate_upper(counts, limit, strength):
    return ops.mean(ops.relu(ops.mean(counts, axis=1) - limit)) * strength


def spike_rate_lower(spikes, limit=1e-3, strength=100.0) -> Tensor:
    """Mean over the batch of (strength / N) sum_j relu(limit - count_j)^2: the loss that wakes silent neurons.

    Where the surrogate of neuron j is 0 throughout a sample, outside its band or by itself, so is the gradient of its
    count; that of this loss alone then goes to the neuron's closest approach to the threshold, see
    `nsim.sweeps.counts`.

    Parameters
    ----------
    spikes : Spikes, or a list of them
        Hidden layers; the losses of several are added.
    limit : float, spikes for each neuron and sample
    strength : float

    Returns
    -------
    Tensor, a single number.

    Source: Perez-Nieves & Goodman 2021, supplement; the closest approach is nsim's own.
    """
    layers = _layers("spike_rate_lower", spikes, limit, strength)
    return _added(_rate_lower(layer.counts(wake=True), limit, strength) for layer in layers)


@per_device
def _rate_lower(counts, limit, strength):
    missing = ops.relu(limit - counts)
    return ops.mean(missing * missing) * strength


def _scores(name, output) -> Tensor:
    """A Tensor as it is; the counts of anything that can count its spikes."""
    if hasattr(output, "counts"):
        return output.counts()
    if not isinstance(output, Tensor):
        raise ParameterError(
            f"{name}: output is {type(output).__name__}, expected the Tensor or Spikes that a network gives, with "
            "their gradient; nsim.Tensor(a) makes one of an array"
        )
    return output


def _layers(name, spikes, limit, strength):
    several = hasattr(spikes, "__iter__") and not hasattr(spikes, "counts")
    layers = list(spikes) if several else [spikes]
    if wrong := [type(layer).__name__ for layer in layers if not hasattr(layer, "counts")]:
        raise ParameterError(f"{name}: spikes holds {wrong[0]}, expected Spikes or a list of them")
    if not layers:
        raise ParameterError(f"{name}: no layer given; the net has no hidden spiking layer to hold to a rate")
    number(name, "limit", limit, least=0)
    number(name, "strength", strength)
    return layers


def _added(parts) -> Tensor:
    first, *others = parts
    for part in others:
        first = first + part
    return first
