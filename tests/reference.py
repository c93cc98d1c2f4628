"""The oracle: spiking networks in plain loops over dense float64 arrays, written from the equations. Imports no nsim.

A neuron model is one function, `step(state, s, r, x, p) -> (state, u)`, elementwise over [B, N]. `s` is the spike of
the previous step and `r` is the same spike where the reset reads it: the two differ only in the backward pass, where
a detached reset makes `r` a constant. No adjoint is written by hand: the backward loop takes every partial derivative
of `step` by a complex step (h = 1e-30, exact to rounding), so that it can only be wrong where the model itself is.

Times are in seconds; a parameter is a number or an array [N]. Gradients of time constants (names that begin with
"tau") are with respect to log tau, all others with respect to the parameter itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

H = 1e-30


def _decay(p, name):
    return np.exp(-p["dt"] / p[name])


def _membrane(v, r, decay, drive, p):
    """decay v + drive with the reset of the previous spike r: minus threshold, or v to zero before it decays."""
    if p["reset"] == "zero":
        return decay * v * (1 - r) + drive
    return decay * v + drive - p["threshold"] * r


def lif(state, s, r, x, p):
    (v,) = state
    v = _membrane(v, r, _decay(p, "tau_mem"), x, p)
    return (v,), v - p["threshold"]


def integrate_and_fire(state, s, r, x, p):
    (v,) = state
    v = _membrane(v, r, 1.0, x, p)
    return (v,), v - p["threshold"]


def cuba_lif(state, s, r, x, p):
    v, i = state
    i = _decay(p, "tau_syn") * i + x
    v = _membrane(v, r, _decay(p, "tau_mem"), i, p)
    return (v, i), v - p["threshold"]


def alif(state, s, r, x, p):
    v, a = state
    rho = _decay(p, "tau_adapt")
    a = rho * a + (1 - rho) * s
    v = _membrane(v, r, _decay(p, "tau_mem"), x, p)
    return (v, a), v - p["threshold"] - p["adaptation"] * a


def ad_lif(state, s, r, x, p):
    v, w = state
    beta, rho = _decay(p, "tau_mem"), _decay(p, "tau_adapt")
    v_new = _membrane(v, r, beta, (1 - beta) * (x - w), p)
    w_new = rho * w + (1 - rho) * p["a"] * v + p["b"] * s
    return (v_new, w_new), v_new - p["threshold"]


def leaky_integrator(state, s, r, x, p):
    (o,) = state
    beta = _decay(p, "tau_mem")
    o = beta * o + (1 - beta) * x
    return (o,), o


# name: (step, number of states, names of the parameters that have a gradient). The first state is v.
MODELS = {
    "LIF": (lif, 1, ("tau_mem", "threshold")),
    "IF": (integrate_and_fire, 1, ("threshold",)),
    "CubaLIF": (cuba_lif, 2, ("tau_mem", "tau_syn", "threshold")),
    "ALIF": (alif, 2, ("tau_mem", "tau_adapt", "adaptation", "threshold")),
    "AdLIF": (ad_lif, 2, ("tau_mem", "tau_adapt", "a", "b", "threshold")),
    "LI": (leaky_integrator, 1, ("tau_mem",)),
}
SPIKING = tuple(name for name in MODELS if name != "LI")


def fast_sigmoid(u, slope=100.0):
    return 1 / (slope * np.abs(u) + 1) ** 2


def atan(u, alpha=2.0):
    return alpha / 2 / (1 + (np.pi / 2 * alpha * u) ** 2)


def triangular(u, slope=1.0):
    return np.maximum(0.0, 1 - slope * np.abs(u))


def boxcar(u, width=0.5):
    return np.where(np.abs(u) < width, 1 / (2 * width), 0.0)


def sigmoid(u, slope=25.0):
    e = np.exp(-slope * np.abs(u))  # even in u: no overflow
    return slope * e / (1 + e) ** 2


SURROGATES = {"FastSigmoid": fast_sigmoid, "ATan": atan, "Triangular": triangular, "Boxcar": boxcar, "Sigmoid": sigmoid}


def heaviside(u):
    return (u > 0).astype(np.float64)


@dataclass
class Layer:
    """Weights, neuron and options of one layer, all in float64.

    `params` holds the time constants in seconds, `threshold` (spiking models) and the model's own constants;
    `spike` may be a smooth function of u whose derivative is `surrogate`, for checks by finite differences.
    """

    model: str
    weight: np.ndarray  # [n_in, n_out]
    params: dict
    dt: float
    weight_rec: np.ndarray | None = None  # [n_out, n_out]
    bias: np.ndarray | None = None  # [n_out]
    delay: int = 0
    reset: str = "subtract"
    surrogate: Callable = fast_sigmoid
    band: float | None = 0.2
    detach_reset: bool = True
    v_init: float | np.ndarray = 0.0
    reduce: str | None = None  # LI only: sum, mean, max, last
    spike: Callable = heaviside

    def __post_init__(self):
        if self.model not in MODELS:
            raise ValueError(f"model {self.model!r}: expected one of {sorted(MODELS)}")
        if self.reset not in ("subtract", "zero"):
            raise ValueError(f"reset {self.reset!r}: expected 'subtract' or 'zero'")
        if self.reduce not in (None, "sum", "mean", "max", "last"):
            raise ValueError(f"reduce {self.reduce!r}: expected None, 'sum', 'mean', 'max' or 'last'")
        n_out = self.weight.shape[1]
        self.p = {"dt": self.dt, "reset": self.reset}
        self.p |= {k: np.broadcast_to(np.asarray(a, np.float64), n_out) for k, a in self.params.items()}

    @property
    def spiking(self):
        return self.model in SPIKING


@dataclass
class Record:
    """Everything of one layer's forward pass: `states[k]` [B, T+1, N] with the initial state first (`states[0]` is v),
    `x`, `u`, `s` [B, T, N], and `out`: s for a spiking layer, the readout [B, T, N] or [B, N] for LI."""

    inputs: np.ndarray
    states: np.ndarray
    x: np.ndarray
    u: np.ndarray
    s: np.ndarray
    out: np.ndarray
    lengths: np.ndarray

    @property
    def v(self):
        return self.states[0][:, 1:]


@dataclass
class Gradients:
    """Output of a network, its loss gradients and its records: `layers[l]` maps weight, weight_rec, bias and parameter
    names to gradients, `ds[l]` [B, T, N] is dL/ds of layer l as the layers above and the losses give it, `inputs` is
    dL/ds of the network's input."""

    out: np.ndarray
    layers: list = field(default_factory=list)
    ds: list = field(default_factory=list)
    inputs: np.ndarray | None = None
    records: list = field(default_factory=list)


def layer_forward(layer, inputs, lengths=None):
    """Run one layer over dense input counts [B, T, n_in], at rest (v = v_init, all else 0) before the first step."""
    step, n_states, _ = MODELS[layer.model]
    batch, steps, _ = inputs.shape
    n_out = layer.weight.shape[1]
    states = np.zeros((n_states, batch, steps + 1, n_out))
    states[0, :, 0] = layer.v_init
    x, u, s = (np.zeros((batch, steps, n_out)) for _ in range(3))
    s_last = np.zeros((batch, n_out))
    for t in range(steps):
        if t >= layer.delay:
            x[:, t] += inputs[:, t - layer.delay] @ layer.weight
        if layer.weight_rec is not None:
            x[:, t] += s_last @ layer.weight_rec
        if layer.bias is not None:
            x[:, t] += layer.bias
        states[:, :, t + 1], u[:, t] = step(tuple(states[:, :, t]), s_last, s_last, x[:, t], layer.p)
        if layer.spiking:
            s[:, t] = s_last = layer.spike(u[:, t])
    lengths = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    out = s if layer.spiking else reduced(states[0][:, 1:], lengths, layer.reduce)
    return Record(inputs, states, x, u, s, out, lengths)


def reduced(o, lengths, how):
    """[B, T, N] to [B, N]: sum, mean, max or last over the first lengths[b] steps; None leaves o as it is."""
    if how is None:
        return o
    rows = {"sum": lambda a: a.sum(0), "mean": lambda a: a.mean(0), "max": lambda a: a.max(0), "last": lambda a: a[-1]}
    return np.stack([rows[how](o[b, :length]) for b, length in enumerate(lengths)])


def reduced_backward(grad, o, lengths, how):
    """dL/do [B, T, N] from the gradient of `reduced`; of equal maxima the first takes it all."""
    if how is None:
        return grad
    grad_o = np.zeros_like(o)
    for b, length in enumerate(lengths):
        if how == "max":
            grad_o[b, np.argmax(o[b, :length], axis=0), np.arange(o.shape[2])] = grad[b]
        elif how == "last":
            grad_o[b, length - 1] = grad[b]
        else:
            grad_o[b, :length] = grad[b] / (length if how == "mean" else 1)
    return grad_o


def partials(layer, state, s, x):
    """Partial derivatives of (state, u) of one step with respect to each of its inputs, each [B, N].

    Returns a dict: key ("state", k), "s", "r", "x" or a parameter's name -> (list over states, of u).
    """
    step, _, learnable = MODELS[layer.model]

    def along(state=state, s=s, r=s, x=x, p=layer.p):
        new, u = step(state, s, r, x, p)
        return [np.imag(a) / H for a in new], np.imag(u) / H

    found = {"s": along(s=s + 1j * H), "r": along(r=s + 1j * H), "x": along(x=x + 1j * H)}
    for k in range(len(state)):
        found["state", k] = along(state=tuple(a + 1j * H if j == k else a for j, a in enumerate(state)))
    for name in learnable:
        scale = layer.p[name] if name.startswith("tau") else 1.0  # d/d log tau = tau d/d tau
        found[name] = along(p=layer.p | {name: layer.p[name] + 1j * H * scale})
    return found


def layer_backward(layer, record, grad_out):
    """Gradients of one layer from dL/ds (spiking, [B, T, N]) or dL/d out (LI): (dict by name, dL/d inputs)."""
    learnable = MODELS[layer.model][2]
    batch, steps, n_out = record.u.shape
    if layer.spiking:
        active = np.ones_like(record.u, bool) if layer.band is None else np.abs(record.u) < layer.band
        surrogate = np.where(active, layer.surrogate(record.u), 0.0)
    else:
        surrogate = np.ones_like(record.u)
        grad_out = reduced_backward(grad_out, record.v, record.lengths, layer.reduce)
    grads = {"weight": np.zeros_like(layer.weight)}
    grads |= {name: np.zeros_like(a) for name in ("weight_rec", "bias") if (a := getattr(layer, name)) is not None}
    grads |= {name: np.zeros(n_out) for name in learnable}
    grad_in = np.zeros_like(record.inputs)
    grad_state = [np.zeros((batch, n_out)) for _ in record.states]
    grad_s = np.zeros((batch, n_out))  # what step t+1 asks of s[t]: recurrence, adaptation, and the reset if kept
    for t in reversed(range(steps)):
        grad_u = surrogate[:, t] * (grad_out[:, t] + grad_s)
        s_last = record.s[:, t - 1] if t > 0 else np.zeros((batch, n_out))
        partial = partials(layer, tuple(record.states[:, :, t]), s_last, record.x[:, t])

        def pulled_back(key, partial=partial, grad_state=grad_state, grad_u=grad_u):
            of_states, of_u = partial[key]
            return sum(g * d for g, d in zip(grad_state, of_states, strict=True)) + grad_u * of_u

        grad_x = pulled_back("x")
        for name in learnable:
            grads[name] += pulled_back(name).sum(0)
        if t >= layer.delay:
            grads["weight"] += record.inputs[:, t - layer.delay].T @ grad_x
            grad_in[:, t - layer.delay] += grad_x @ layer.weight.T
        if layer.bias is not None:
            grads["bias"] += grad_x.sum(0)
        grad_s = pulled_back("s") if layer.detach_reset else pulled_back("s") + pulled_back("r")
        if layer.weight_rec is not None:
            grads["weight_rec"] += s_last.T @ grad_x
            grad_s = grad_s + grad_x @ layer.weight_rec.T
        grad_state = [pulled_back(("state", k)) for k in range(len(grad_state))]
    for name in learnable:
        if np.ndim(layer.params[name]) == 0:
            grads[name] = grads[name].sum()
    return grads, grad_in


def net_forward(layers, inputs, lengths=None):
    """Records of a stack of layers; the last one's `.out` is the output."""
    records = []
    for layer in layers:
        records.append(layer_forward(layer, inputs, lengths))
        inputs = records[-1].out
    return records


def net_gradients(layers, inputs, loss_grad, lengths=None, hidden_grads=None):
    """Forward and backward through a stack of layers.

    Parameters
    ----------
    layers : list of Layer
    inputs : float64 [B, T, N], counts or graded events
    loss_grad : function of the output, returning dL/d output, or that array itself
    lengths : int [B], optional; true steps of each sample, for the readout's reduction
    hidden_grads : dict layer number -> [B, T, N], optional; dL/ds of losses on hidden spikes
    """
    records = net_forward(layers, np.asarray(inputs, np.float64), lengths)
    out = records[-1].out
    grad = loss_grad(out) if callable(loss_grad) else np.asarray(loss_grad, np.float64)
    result = Gradients(out, [None] * len(layers), [None] * len(layers), records=records)
    for k in reversed(range(len(layers))):
        if hidden_grads and k in hidden_grads:
            grad = grad + hidden_grads[k]
        if layers[k].spiking:
            result.ds[k] = grad
        result.layers[k], grad = layer_backward(layers[k], records[k], grad)
    result.inputs = grad
    return result


def cross_entropy(logits, labels):
    """Mean over the batch of -log softmax(logits)[label], and its gradient [B, C]."""
    z = logits - logits.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    grad = np.exp(log_p)
    grad[rows, labels] -= 1
    return -log_p[rows, labels].mean(), grad / len(labels)
