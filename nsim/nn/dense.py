"""The all-to-all layer."""

from __future__ import annotations

import numpy as np

from nsim.checks import flag, whole
from nsim.errors import ShapeError
from nsim.nn.connection import Connection


class Dense(Connection):
    """All-to-all connection onto a layer of neurons: x[t] = W^T s_in[t - delay] + W_rec^T s[t-1] + b.

    Parameters
    ----------
    n_in, n_out : int
    neuron : nsim.neurons.Neuron
        A description: LIF, IF, CubaLIF, ALIF (spiking; a call gives Spikes), LI (readout; a call gives a Tensor), ...
    recurrent : bool
        Whether the layer's own spikes come back through `weight_rec` a step later.
    delay : int, whole steps
        Delay of the input; the layers of Perez-Nieves & Goodman 2021 have 1.
    bias : bool
    dtype : np.float32, or np.float64 for checks; no other
    seed : int, optional
        Seed of the initial weights; default: the generator that `nsim.seed` starts.

    Attributes
    ----------
    weight : Tensor [n_in, n_out], weight_rec : Tensor [n_out, n_out] or None, bias : Tensor [n_out] or None
        Start as U(-g/sqrt(n), g/sqrt(n)), n the number of inputs (n_out for weight_rec), bias 0; g = 2 for the weights
        of spiking neurons, so that a second layer behind sparse events fires from the start, and 1 for the others (and
        for all in Perez-Nieves & Goodman 2021, who wake silent layers with `losses.spike_rate_lower`). `.data` may be
        written in place, not between a forward pass and its backward pass.
    """

    def __init__(self, n_in, n_out, neuron, *, recurrent=False, delay=0, bias=False, dtype=np.float32, seed=None):
        whole("nn.Dense", n_in=(n_in, 1), n_out=(n_out, 1), delay=(delay, 0))
        n_in, n_out = int(n_in), int(n_out)
        shapes = {"weight": (n_in, n_out)}
        shapes |= {"weight_rec": (n_out, n_out)} if flag("nn.Dense", "recurrent", recurrent) else {}
        shapes |= {"bias": (n_out,)} if flag("nn.Dense", "bias", bias) else {}
        super().__init__(neuron, n_in, (n_out,), shapes, n_in, delay, dtype, seed)

    @property
    def kind(self):
        return f"nn.Dense({self.n_in}, {self.n_out})"

    def space_after(self, space):
        if int(np.prod(space)) != self.n_in:
            raise ShapeError(f"{self.label}: input has {int(np.prod(space))} neurons, expected {self.n_in}")
        return self.space

    def describe(self):
        return {
            "layer": "Dense", "n_in": self.n_in, "n_out": self.n_out, "neuron": self.neuron.describe(),
            "recurrent": self.weight_rec is not None, "delay": self.delay, "bias": self.bias is not None,
            "dtype": str(self.weight.dtype),
        }  # fmt: skip

    def __repr__(self):
        given = {"recurrent": self.weight_rec is not None, "delay": self.delay, "bias": self.bias is not None}
        options = "".join(f", {k}={v}" for k, v in given.items() if v)
        return f"Dense({self.n_in}, {self.n_out}, {self.neuron!r}{options})"
