"""What is wrong with a network in training: where the first number that is not finite stands, and which layer nothing
can reach any more."""

from __future__ import annotations

import numpy as np

from nsim.backend import moved
from nsim.checks import all_finite


def bad_parameter(net):
    """The first parameter that is not finite, in words, or None."""
    for name, p in net.named_parameters().items():
        if not np.isfinite(p.numpy()).all():
            return f"layer {name.rpartition('.')[0] or name!r}: parameter {name} holds {_first_bad(p.numpy())}"
    return None


def bad_gradient(net):
    """The gradient that is not finite and nearest to the loss, where the backward pass met it first, or None."""
    for name, p in reversed(net.named_parameters().items()):
        if p.grad is None:
            continue
        grad = moved(p.grad, "cpu")
        if not all_finite(grad):
            return f"layer {name.rpartition('.')[0] or name!r}: the gradient of {name} holds {_first_bad(grad)}"
    return None


def blame(net, spikes, hidden, output):
    """Where the first number that is not finite stands: input, parameters, hidden layers, readout, loss."""
    if spikes.values is not None and not np.isfinite(spikes.values).all():
        return f"the input holds {_first_bad(spikes.values)}"
    if bad := bad_parameter(net):
        return bad
    layers = [layer.name for layer in net.connections()]
    for name, layer in zip(layers, hidden, strict=False):
        if layer.active is not None and not np.isfinite(layer.active.u).all():
            return f"layer {name}: its output comes from a potential of {_first_bad(layer.active.u)}"
    if hasattr(output, "data") and not np.isfinite(output.numpy()).all():
        return f"layer {layers[-1]}: its output holds {_first_bad(output.numpy())}"
    return "all layers are finite, so the loss function made it"


def _first_bad(a):
    return a[~np.isfinite(a)].flat[0]


def unreachable(net, opt, entry) -> str | None:
    """The first silent layer, where nothing trained it in an epoch, from the epoch's entry in the history: no spike, no
    active site, and no gradient that came from elsewhere (`losses.spike_rate_lower`) in what `opt` moves.

    For a layer of which nothing is trained, those before it count; where nothing is trained at all, nothing is missed.
    Silent layers after the first have no input: they are its consequence.
    """
    trained, before = {id(p) for p in opt.params.values()}, []
    layers = [layer for layer in net.connections() if layer.neuron.spiking]
    for layer, density, active in zip(layers, entry["density"], entry["active_fraction"], strict=False):
        own = [p for p in layer.parameters() if id(p) in trained]
        concerned, before = own or before, before + own
        if density == active == 0 and concerned:
            return None if any(_has_gradient(p) for p in concerned) else layer.label
    return None


def _has_gradient(p):
    return p.grad is not None and moved(p.grad, "cpu").any()
