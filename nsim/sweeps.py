"""Operations on Spikes: a layer's sweep, the readout's sweep, counts; each with its gradient beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nsim import arrays
from nsim.backend import check_device, compiled, compiled_surrogate, operations, per_device, single_threaded_blas
from nsim.events import Spikes, index_dtype, step_mask
from nsim.kernels import batch, readout
from nsim.kernels.drive import Rows, Sites
from nsim.kernels.jit import SORTED_BYTES, n_groups, padded
from nsim.kernels.sweep import Sources
from nsim.kernels.threads import over
from nsim.launch import (
    PRODUCT_BACKWARD,
    band_of,
    by_input,
    chunk_of,
    discretised,
    drive_of,
    forward,
    frame_of,
    initial_state,
    matrices,
    no_trace,
    rows_of,
    summed,
    surrogate_at,
)  # fmt: skip
from nsim.surrogates import STAND_IN
from nsim.tape import Tensor, record, recording

MODES = {None: readout.TRACE, "sum": readout.SUM, "mean": readout.SUM, "max": readout.MAX, "last": readout.LAST}


@dataclass
class SpikesGrad:
    """Gradient of a layer's spikes: on its active set (listed [sites] or dense [B, T, N]), and dL/dcount [B, N] to be
    passed to the closest approach of the neurons that the first does not reach in a sample."""

    active: np.ndarray | None = None
    closest: np.ndarray | None = None

    def __add__(self, other):
        def plus(a, b):
            if a is None or b is None:
                return b if a is None else a
            if all(isinstance(c, np.ndarray) and c.ndim == 3 and c.strides[1] == 0 for c in (a, b)):
                return np.broadcast_to(a[:, :1] + b[:, :1], a.shape)  # the same at each step
            return a + b

        return SpikesGrad(plus(self.active, other.active), plus(self.closest, other.closest))


@per_device
def spiking(layer, spikes: Spikes) -> Spikes:
    """The sweep of a spiking layer (see `nsim.nn.Dense`): Spikes [B, T, N_in] to Spikes [B, T, N_out].

    Source: forward and backward of Perez-Nieves & Goodman 2021, equations 5-11; docs/design.md, section 1.
    """
    parents = (spikes, *layer.parameters())
    keep = recording(*parents)
    if keep:
        compiled_surrogate(layer.neuron.surrogate, layer.weight.dtype)  # says now what is wrong with it
    out, _ = forward(layer, spikes, keep=keep)
    return record(layer.label, out, parents, _SpikingBackward(layer, spikes, out)) if keep else out


def integrate(layer, spikes: Spikes) -> Tensor:
    """The sweep of a readout layer: Spikes [B, T, N_in] to Tensor [B, T, N_out], or [B, N_out] where it reduces."""
    result, vjp, _ = readout_forward(layer, spikes)
    out = Tensor(result)
    out.lengths = spikes.lengths if layer.neuron.reduce is None else None
    return record(layer.label, out, (spikes, *layer.parameters()), vjp)


@per_device
def readout_forward(layer, spikes, state=None, source=None, reduce="as the neuron says"):
    """The readout's sweep: its output, its vjp, and the state after the end (states, acc, steps summed).

    `state` and `source` as in `launch.forward`; `reduce=None` gives the trace, whatever the neuron says.
    """
    reduce = layer.neuron.reduce if reduce == "as the neuron says" else reduce
    size, steps, _ = spikes.shape
    weight, recurrent, bias = matrices(layer, spikes)
    n, dtype, mode = layer.n_out, layer.weight.dtype, MODES[reduce]
    product, rows = drive_of(layer, spikes, source)
    groups = n_groups(size, layer.weight.data.nbytes)
    chunk = chunk_of(layer, spikes, product)
    p = discretised(layer, spikes.dt)
    if state is None:
        start = -np.inf if mode == readout.MAX else 0
        state = initial_state(layer, size)[0], np.full((size, n), start, dtype), np.zeros(size, np.int64)
    states, acc, done = (a.copy() for a in state)
    out = np.empty((size, steps, n) if mode == readout.TRACE else (0, 0, 0), dtype)
    where = np.zeros((size, n) if mode == readout.MAX else (size, 0), np.int32)
    lengths = _lengths(spikes)
    with single_threaded_blas(product):
        over(
            compiled(layer, "forward"), groups, groups, mode, lengths, steps, rows, (weight, recurrent, bias, p),
            states, out, acc, where,
            scratch=lambda: (
                arrays.empty((n,), dtype), arrays.empty((chunk, bias.shape[1]), dtype),
                frame_of(layer, spikes, product, chunk),
            ),
        )  # fmt: skip
    done += lengths
    result = out if reduce is None else acc.copy()
    if reduce == "mean":
        result /= np.maximum(done, 1)[:, None].astype(dtype)  # a cut may begin past the end of a sample
    return result, _ReadoutBackward(layer, spikes, p, where), (states, acc, done)


def _lengths(spikes):
    return np.full(spikes.shape[0], spikes.shape[1], np.int64) if spikes.lengths is None else spikes.lengths


class Backward:
    """What the backward sweeps of all devices share: a layer, its input events, and what its equations use. A device
    adds `summed`, `weight_gradient` (from that of its kernels' weights) and `pulled_back` (of a learned parameter)."""

    def __init__(self, layer, spikes, p):
        self.layer, self.spikes, self.p = layer, spikes, p

    @property
    def goes_on(self) -> bool:
        """Whether the layer below wants a gradient."""
        return self.spikes.requires_grad and self.spikes.active is not None

    def gradients(self, below, grads):
        """One gradient for each parent, in the order of (spikes, *layer.parameters()), from that of the active set
        below and the partial sums of the weights, recurrent weights, bias and parameters."""
        layer, (weight, recurrent, bias, p) = self.layer, grads
        result = [SpikesGrad(below) if self.goes_on else None, self.weight_gradient(self.summed(weight))]
        if layer.weight_rec is not None:
            result.append(self.summed(recurrent))
        if layer.bias is not None:
            result.append(layer.bias_gradient(self.summed(bias)))
        learn, p = layer.neuron.learn, self.summed(p) if layer.neuron.learn else None
        return result + [self.pulled_back(q, p, k) for k, q in enumerate(layer.neuron.parameters) if q.name in learn]


class _Backward(Backward):
    """What both backward sweeps share: scratch, and gradients summed on the CPU."""

    def fed_back(self):
        """Events of the layer itself that its recurrent weights get a gradient from."""
        return []

    def summed(self, partial):
        """Sum over the groups, without the columns that widen the rows of weights."""
        n, out = self.layer.n_out, summed(partial)
        return np.ascontiguousarray(out[..., :n]) if self.bias.shape[1] > n else out

    def prepare(self):
        """Places for the gradients, and all that one thread needs besides as a function that makes it."""
        layer, spikes = self.layer, self.spikes
        self.weight, self.recurrent, self.bias = matrices(layer, spikes)
        self.rows = rows_of(spikes, layer.delay)
        n, width, dtype, steps = layer.n_out, self.bias.shape[1], layer.weight.dtype, spikes.shape[1]
        product, self.history = layer.products and spikes.density > PRODUCT_BACKWARD, layer.neuron.needs_history
        below = self.below(dtype)
        groups, n_states = n_groups(spikes.shape[0], layer.weight.data.nbytes), len(layer.neuron.states)
        self.blas = layer.products and (product or below.dense.size > 0)
        chunk = chunk_of(layer, spikes, self.blas)
        if layer.products and not product:
            chunk = min(steps, max(chunk, SORTED_BYTES // (width * dtype.itemsize)))
        grads = (
            arrays.empty((groups, *self.weight.shape), dtype),
            arrays.empty((groups, *self.recurrent.shape), dtype),
            arrays.empty((groups, 0 if layer.bias is None else width), dtype),
            arrays.empty((groups, *self.p.shape), dtype),
        )
        v_init = np.zeros((n_states, n), dtype)
        v_init[0] = layer.neuron.v_init

        def scratch():
            dx = arrays.empty((chunk, width), dtype)
            dx[:, n:] = 0
            return (
                arrays.empty((n_states, padded(n)), dtype),  # d: the adjoint of the state
                arrays.empty((n,), dtype),  # ds
                arrays.zeros((n,), dtype),  # s
                dx,
                frame_of(layer, spikes, product, chunk),
                by_input(layer, self.rows, *self.fed_back()),
                arrays.zeros((steps + 1 if self.history else 1, n_states, n), dtype),
                arrays.empty((steps if self.history else 0, width), dtype),  # x
                arrays.empty((n,), dtype),  # the recurrent part of ds
                arrays.empty((chunk * n,), dtype),  # g
            )

        return below, grads, scratch, v_init

    def below(self, dtype):
        """Where the gradient of the input goes: on the active set of the layer below, if it wants one."""
        none = np.empty(0, np.int64), np.empty(0, np.uint16), np.empty(0, dtype), np.empty((0, 0), dtype)
        active = self.spikes.active
        if not self.goes_on:
            return Sites(*none)
        if active.dense:
            size, steps, n = active.u.shape
            dense = arrays.empty((size, steps, n), dtype)
            dense[:, max(0, steps - self.layer.delay) :] = 0  # read by no step of this layer
            return Sites(*none[:3], dense.reshape(size * steps, n))
        return Sites(active.indptr, active.indices, np.zeros(len(active.indices), dtype), none[3])

    def gradients(self, below, grads):
        dense = below.dense.size > 0
        return super().gradients(below.dense.reshape(self.spikes.active.u.shape) if dense else below.grad, grads)

    def weight_gradient(self, grad):
        return self.layer.weight_gradient(grad)

    def pulled_back(self, parameter, p, k):
        """dL/draw of a learned parameter from row k of the discretised ones, in float64."""
        raw = self.layer.raw[parameter.name].data
        grad = parameter.pullback(raw.astype(np.float64), self.spikes.dt, p[k].astype(np.float64))
        return (grad if raw.ndim else grad.sum()).astype(raw.dtype).reshape(raw.shape)


class _SpikingBackward(_Backward):
    def __init__(self, layer, spikes, out):
        super().__init__(layer, spikes, discretised(layer, spikes.dt))
        self.own_rows = out.indptr, out.indices
        self.active = out.active

    def __call__(self, grad):
        below, grads, scratch, v_init = self.prepare()
        size, steps, _ = self.spikes.shape
        n, dtype = self.layer.n_out, self.layer.weight.dtype
        self.surrogate = compiled_surrogate(self.layer.neuron.surrogate, dtype)
        with single_threaded_blas(self.blas):
            over(
                compiled(self.layer, "backward", self.history), len(grads[0]), size, steps, self.rows,
                (self.weight, self.recurrent, self.bias, self.p),
                self.sources(grad, n, dtype), below, grads, np.arange(n, dtype=self.own_rows[1].dtype), v_init,
                scratch=scratch,
            )  # fmt: skip
        return self.gradients(below, grads)

    def fed_back(self):
        rows = Rows(*self.own_rows, np.empty(0, np.float32), self.spikes.shape[1], -1)
        return [] if self.layer.weight_rec is None else [rows]

    def sources(self, grad, n, dtype):
        """The sites that dL/ds enters at, and the surrogate that it enters through."""
        active, upstream = self.active, grad.active
        if upstream is None:
            upstream = np.zeros_like(active.u)
        g = self.surrogate.address, dtype.type(band_of(self.layer))
        closest = self.closest(grad.closest, dtype)
        if active.dense:
            rows = np.empty(0, np.int64), np.empty(0, index_dtype(n))
            dense = upstream.reshape(-1, n)
            return Sources(*self.own_rows, *rows, active.u.reshape(-1), np.empty(0, dtype), dense, *g, *closest)
        nothing = np.empty((0, 0), dtype)
        return Sources(*self.own_rows, active.indptr, active.indices, active.u, upstream, nothing, *g, *closest)

    def closest(self, grad, dtype):
        """Order, step and dL/du of closest approaches. They come from a second forward sweep, made only if wanted."""
        nothing = np.empty((0, 0), np.int64), np.empty((0, 0), np.int32), np.empty((0, 0), dtype)
        if grad is None or not grad.any():
            return nothing
        surrogate = self.layer.neuron.surrogate
        grad = np.where(self.reached(surrogate), 0, grad).astype(dtype)
        if not grad.any():
            return nothing
        best, step = np.full(grad.shape, -np.inf, dtype), np.full(grad.shape, -1, np.int32)
        trace = no_trace(dtype)._replace(ends=_lengths(self.spikes), best=best, step=step)
        forward(self.layer, self.spikes, keep=False, trace=trace)
        step[grad == 0] = -1
        g = np.fmax(*(surrogate_at(s, best, np.inf) for s in (surrogate, STAND_IN)))
        return np.argsort(-step, axis=1, kind="stable"), step, g * grad

    def reached(self, surrogate):
        """Whether g is not too small for a normal number at a true step of a sample, for each neuron: bool [B, N]."""
        active, size, n = self.active, self.spikes.shape[0], self.layer.n_out

        def there(u):
            return np.abs(surrogate_at(surrogate, u, active.band)) >= np.finfo(u.dtype).tiny

        if active.dense:
            ends = _lengths(self.spikes)
            return np.stack([there(u[:end]).any(axis=0) for u, end in zip(active.u, ends, strict=True)])
        number, entries = np.zeros((size, n), np.float32), _entries(active.indptr, self.spikes)
        over(batch.counts, size, *entries, active.indices, there(active.u).astype(np.float32), number)
        return number > 0


class _ReadoutBackward(_Backward):
    def __init__(self, layer, spikes, p, where):
        super().__init__(layer, spikes, p)
        self.where = where

    def __call__(self, grad):
        below, grads, scratch, v_init = self.prepare()
        lengths = _lengths(self.spikes)
        if self.layer.neuron.reduce == "mean":
            grad = grad / np.maximum(lengths, 1)[:, None].astype(grad.dtype)
        grad = np.ascontiguousarray(grad if grad.ndim == 3 else grad[:, None, :])
        with single_threaded_blas(self.blas):
            over(
                compiled(self.layer, "backward", self.history), len(grads[0]), MODES[self.layer.neuron.reduce],
                lengths, self.spikes.shape[1], self.rows,
                (self.weight, self.recurrent, self.bias, self.p), grad, self.where, below, grads, v_init,
                scratch=scratch,
            )  # fmt: skip
        return self.gradients(below, grads)


@per_device
def counts(spikes: Spikes, wake: bool = False) -> Tensor:
    """Events of each neuron in the true steps of each sample, Tensor [B, N]: in the layer's number type, and
    differentiable, where `spikes` comes from a layer; else float32.

    With `wake`, the gradient also reaches neurons whose surrogate is 0 throughout a sample, through their closest
    approach to the threshold (the true step of the largest u): such neurons lie outside the band, or outside of what a
    surrogate like Boxcar covers, and no other loss reaches them. The factor there is the surrogate without its band,
    or FastSigmoid(100) where that is larger, so that it is never 0. A deviation from Perez-Nieves & Goodman 2021,
    whose sparse runs died where a layer fell silent.
    """
    (size, steps, n), active = spikes.shape, spikes.active
    total = np.zeros((size, n), np.float32 if active is None else active.u.dtype)
    values = np.empty(0, np.float32) if spikes.values is None else spikes.values
    over(batch.counts, size, *_entries(spikes.indptr, spikes), spikes.indices, values, total)

    def vjp(grad):
        if active is None:
            return (None,)
        grad = grad.astype(active.u.dtype)
        if active.dense:
            out = np.broadcast_to(grad[:, None, :], (size, steps, n))
            if spikes.lengths is not None:
                out = np.where(step_mask(spikes.lengths, size, steps)[:, :, None], out, 0)
        else:
            out = np.zeros(len(active.indices), active.u.dtype)
            over(batch.spread_counts, size, *_entries(active.indptr, spikes), active.indices, grad, out)
        return (SpikesGrad(out, grad if wake else None),)

    return record("counts", Tensor(total), (spikes,), vjp)


def _entries(indptr, spikes):
    """First entry of each sample's list, and the end of those in its true steps: two arrays [B]."""
    size, steps, _ = spikes.shape
    begins = np.arange(size) * steps
    return indptr[begins], indptr[begins + (steps if spikes.lengths is None else spikes.lengths)]


def to(spikes: Spikes, device: str) -> Spikes:
    """These events on a device, without the tape; themselves where they are there already."""
    if spikes.device == device:
        return spikes
    spikes.check_values(f"to({device!r})")
    return spikes.to_cpu() if device == "cpu" else operations(check_device(device)).spikes_to_device(spikes)


def from_device(ptr, indices, shape, *, dt, values=None, space=None, lengths=None) -> Spikes:
    """Events that lie on the GPU already, in arrays of any library there, without a copy.

    Parameters
    ----------
    ptr : int32 [B, T + 1]
        Step t of sample b has indices[ptr[b, t]:ptr[b, t + 1]]; samples lie in their order. Trusted, like `indices`.
    indices : uint16 or uint32 [at least the number of events]
        Neurons, ascending within a step; uint16 below 65,536 neurons.
    shape : (B, T, N)
    dt : float, seconds
    values : float32, like indices, optional
    space, lengths
        As in Spikes.

    Raises
    ------
    DeviceError, ShapeError
        If there is no GPU here, or an array has the wrong shape or type.
    """
    return operations(check_device("cuda")).spikes_from(
        ptr, indices, shape, dt=dt, values=values, space=space, lengths=lengths
    )


Spikes.counts, Spikes.to, Spikes.from_device = counts, to, staticmethod(from_device)
