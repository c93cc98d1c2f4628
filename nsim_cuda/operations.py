"""The table that `nsim.backend.operations("cuda")` gives: one function for each operation, under its name in nsim.

The sweeps hold what their backward pass needs in objects, so that `nsim.saved_bytes` can read it.
"""

from __future__ import annotations

import math

import numpy as np

from nsim.backend import compiled, kernels_of
from nsim.events import index_dtype
from nsim.sweeps import MODES, Backward, SpikesGrad
from nsim.tape import Tensor, record, recording
from nsim_cuda import assemble as assembling
from nsim_cuda import batch as kernels
from nsim_cuda import interop, jit, launch, losses, memory, optim, readout, spatial, status, sweep
from nsim_cuda.drive import Rows, Sites
from nsim_cuda.elementwise import full
from nsim_cuda.events import DeviceSpikes, given, put
from nsim_cuda.launch import nothing

spikes_to_device, spikes_from, to_host = put, given, status.read
check_layer = launch.check_layer
pool2d, add = spatial.pool2d, spatial.add
adopted, is_foreign = interop.adopted, interop.is_foreign
assemble, latency, new_tally = assembling.assemble, assembling.latency, assembling.new_tally
adam, sgd, sgd_plain, guard, clipped = optim.adam, optim.sgd, optim.sgd_plain, optim.guard, optim.clipped


def when_not_made(take_back):
    """Have `take_back` called if the steps that were launched since the last look at the device turn out not made."""
    status.status().undo.append(take_back)


def take_bad() -> bool:
    """Whether a number that `guard` was given was not finite."""
    return status.status().take_bad()


def to_device(array):
    """A NumPy array on the device."""
    return memory.put(array)


def spiking(layer, spikes: DeviceSpikes) -> DeviceSpikes:
    """See `nsim.sweeps.spiking`."""
    parents = (spikes, *layer.parameters())
    keep = recording(*parents)
    if keep:
        launch.compiled_surrogate(layer.neuron.surrogate, layer.weight.dtype)  # says now what is wrong with it
    out, _ = launch.forward(layer, spikes, keep=keep)
    return record(layer.label, out, parents, _SpikingBackward(layer, spikes, out)) if keep else out


def readout_forward(layer, spikes, state=None, source=None, reduce="as the neuron says"):
    """See `nsim.sweeps.readout_forward`."""
    reduce = layer.neuron.reduce if reduce == "as the neuron says" else reduce
    size, steps, _ = spikes.shape
    n, dtype, mode = layer.n_out, layer.weight.dtype, MODES[reduce]
    if state is None:
        done, states = np.zeros(size, np.int64), launch.at_rest(layer, size)
        acc = full((size, n), dtype, -np.inf if mode == readout.MAX else 0)
    else:
        (states, acc), done = (part.copy() for part in state[:2]), state[2]
    out = memory.empty((size, steps, n), dtype) if reduce is None else nothing(dtype, 3)
    where = full((size, n), np.int32, 0) if mode == readout.MAX else nothing(np.int32, 2)
    threads, p = jit.block_for(n), launch.discretised(layer, spikes.dt)
    jit.start(
        compiled(layer, "forward"), (size, -(-n // threads)), threads, mode, steps,
        spikes.lengths_on_device(), launch.drive_of(layer, spikes, source),
        (*launch.matrices(layer), p), states, out, acc, where,
    )  # fmt: skip
    done = done + (steps if spikes.lengths is None else spikes.lengths)
    result = out if reduce is None else acc / _divisor(done, dtype) if reduce == "mean" else acc
    return result, _ReadoutBackward(layer, spikes, p, where), (states, acc, done)


def run_spiking(layer, spikes, source, inner, watch):
    """See `nsim.nn.Dense.run`; the state is that of the neurons and who fired last."""
    (size, steps, _), n, dtype = spikes.shape, layer.n_out, layer.weight.dtype
    names, changes = layer.neuron.states, {"after": memory.empty((size, n), np.int32)}
    if inner is not None:
        changes["before"] = inner[1]
    if watch.size:
        values = memory.empty((size, steps, len(names), len(watch)), dtype)
        changes |= {"watch": memory.put(watch, np.int32), "values": values}
    out, states = launch.forward(
        layer, spikes, keep=False, state=None if inner is None else inner[0], source=source,
        trace=launch.no_trace(dtype)._replace(**changes),
    )  # fmt: skip
    traced = status.read(changes["values"]) if watch.size else None
    recorded = {name: traced[:, :, k] for k, name in enumerate(names)} if watch.size else {}
    return out, recorded, (states, changes["after"])


def _divisor(done, dtype):
    """Steps of each sample as numbers [B, 1], to divide by; one number where all are equal. A cut may begin past the
    end of a sample, which then has none."""
    done = np.maximum(done, 1)
    return float(done[0]) if (done == done[0]).all() else np.asarray(done, dtype)[:, None]


class _Backward(Backward):
    """What both backward sweeps share: scratch, and gradients summed on the device."""

    summed = staticmethod(launch.summed)

    def prepare(self):
        layer, spikes = self.layer, self.spikes
        self.weight, self.recurrent, self.bias = launch.matrices(layer)
        shape = layer.weight.data.reshape(-1, layer.weight.shape[-1]).shape  # of the weights as a matrix
        n, dtype, (size, steps, _) = layer.n_out, layer.weight.dtype, spikes.shape
        self.history, n_states = layer.neuron.needs_history, len(layer.neuron.states)
        self.below = self.sites_below(dtype)
        shared = kernels_of("cuda", layer.connection).WHOLE
        whole = self.below.grad.size > 0 or layer.weight_rec is not None or shared
        groups, tiles, self.width = jit.backward_grid(
            (size, steps, n), dtype.itemsize, layer.weight.data.nbytes + self.recurrent.nbytes,
            n_states + 1 if self.history else 0, whole,
        )  # fmt: skip
        self.grid, self.threads = (groups, tiles), jit.BLOCK
        self.grads = sweep.Gradients(
            full((groups, *shape), dtype, 0),
            full((groups, *self.recurrent.shape), dtype, 0),
            full((groups, 0 if layer.bias is None else n), dtype, 0),
            full((groups, *self.p.shape), dtype, 0),
        )
        self.scratch = sweep.Scratch(
            memory.empty((groups, n_states, n), dtype),
            memory.empty((groups, n), dtype),
            memory.empty((groups, n), dtype),
            memory.empty((groups, n), np.int32),
            memory.empty((groups, steps + 1, n_states, n) if self.history else (groups, 1, n_states, 0), dtype),
            memory.empty((groups, steps, n) if self.history else (groups, 1, 0), dtype),
        )

    def sites_below(self, dtype):
        """Where the gradient of the input goes: on the active set of the layer below, if it wants one."""
        active = self.spikes.active
        if not self.goes_on:
            return Sites(nothing(np.int32, 2), nothing(np.uint16, 1), nothing(dtype, 1), 1)
        return Sites(active.ptr, active.indices, full(active.indices.shape, dtype, 0), active.tiles)

    def weight_gradient(self, grad):
        return grad.reshape(self.layer.weight.shape)

    def pulled_back(self, parameter, p, k):
        raw = self.layer.raw[parameter.name].data
        grad = parameter.pullback(raw, self.spikes.dt, p.row(k))
        return grad if raw.ndim else grad.sum()


class _SpikingBackward(_Backward):
    def __init__(self, layer, spikes, out):
        super().__init__(layer, spikes, launch.discretised(layer, spikes.dt))
        self.own_rows, self.active = launch.rows_of(out), out.active

    def __call__(self, grad):
        self.prepare()
        size, steps, _ = self.spikes.shape
        active, dtype = self.active, self.layer.weight.dtype
        upstream = full(active.u.shape, dtype, 0) if grad.active is None else grad.active
        g = launch.surrogate_at(self.layer, active)
        when, du = nothing(np.int32, 2), nothing(dtype, 2)
        if grad.closest is not None:
            when, du = launch.closest(self.layer, self.spikes, active, g, grad.closest)
        own = sweep.Own(self.own_rows, active.ptr, active.indices, g, upstream, when, du)
        jit.start(
            compiled(self.layer, "backward", self.history), self.grid, self.threads, size, steps,
            self.width, launch.rows_of(self.spikes, self.layer.delay),
            (self.weight, self.recurrent, self.bias, self.p), own, self.below, self.grads, self.scratch,
            launch.v_init(self.layer),
        )  # fmt: skip
        return self.gradients(self.below.grad, self.grads)


class _ReadoutBackward(_Backward):
    def __init__(self, layer, spikes, p, where):
        super().__init__(layer, spikes, p)
        self.where = where

    def __call__(self, grad):
        self.prepare()
        size, steps, _ = self.spikes.shape
        if self.layer.neuron.reduce == "mean":
            lengths = np.full(size, steps) if self.spikes.lengths is None else self.spikes.lengths
            grad = grad / _divisor(lengths, grad.dtype)
        grad = grad if grad.ndim == 3 else grad.reshape(size, 1, -1)
        jit.start(
            compiled(self.layer, "backward", self.history), self.grid, self.threads,
            MODES[self.layer.neuron.reduce], size, steps, self.spikes.lengths_on_device(), self.width,
            launch.rows_of(self.spikes, self.layer.delay), (self.weight, self.recurrent, self.bias, self.p), grad,
            self.where, self.below, self.grads, self.scratch, launch.v_init(self.layer),
        )  # fmt: skip
        return self.gradients(self.below.grad, self.grads)


def counts(spikes: DeviceSpikes, wake: bool = False) -> Tensor:
    """See `nsim.sweeps.counts`."""
    (size, _, n), active = spikes.shape, spikes.active
    total = memory.empty((size, n), np.float32 if active is None else active.u.dtype)
    values = nothing(np.float32, 1) if spikes.values is None else spikes.values
    threads, lengths = jit.block_for(n), spikes.lengths_on_device()
    jit.start(
        kernels.counts, (size, -(-n // threads)), threads, spikes.ptr, spikes.indices, values, lengths, spikes.tiles,
        spikes.width, total,
    )  # fmt: skip

    def vjp(grad):
        if active is None:
            return (None,)
        grad = grad.astype(active.u.dtype)
        out = memory.empty(active.indices.shape, grad.dtype)
        rows = active.ptr.shape[0]
        jit.start(
            kernels.spread_counts, rows, jit.BLOCK, active.ptr, active.indices, lengths, active.tiles, grad, out,
        )  # fmt: skip
        return (SpikesGrad(out, grad if wake else None),)

    return record("counts", Tensor(total), (spikes,), vjp)


def dropout(spikes: DeviceSpikes, p: float, seed, per_event: bool) -> DeviceSpikes:
    """See `nsim.spatial.dropout`; the same choice, by the same hash."""
    (size, steps, n), rows = spikes.shape, spikes.ptr.shape[0]
    scale, active = np.float32(1 / (1 - p)), spikes.active

    def kept(lists, steps=steps):
        mask, threshold = memory.empty(lists.indices.shape, np.uint8), np.uint64(math.ceil(p * 2.0**53))
        jit.start(
            kernels.keep_mask, lists.ptr.shape[0], jit.BLOCK, lists.ptr, lists.indices, lists.tiles, steps,
            np.uint64(seed), threshold, per_event, mask,
        )  # fmt: skip
        return mask

    ptr, indices = memory.empty(spikes.ptr.shape, np.int32), memory.empty(spikes.indices.shape, spikes.indices.dtype)
    values = memory.empty(indices.shape, np.float32)
    jit.start(
        kernels.thin, rows, jit.BLOCK, spikes.ptr, spikes.indices, launch.rows_of(spikes).values,
        kept(spikes), scale, ptr, indices, values,
    )  # fmt: skip
    out = spikes._like(ptr=ptr, indices=indices, values=values, needs=None)

    def masked(grad, lists, keep):
        part, grad_scale = memory.empty(grad.shape, grad.dtype), grad.dtype.type(scale)
        jit.start(
            kernels.mask_grad, lists.ptr.shape[0], jit.BLOCK, lists.ptr, keep, grad_scale, grad.reshape(-1),
            part.reshape(-1),
        )  # fmt: skip
        return part

    def vjp(grad):
        closest = grad.closest
        if closest is not None and not per_event:  # the factors of the events of a neuron are 1 on average
            ptr = np.arange(size)[:, None] * n + [0, n]  # every neuron of each sample
            every = np.tile(np.arange(n, dtype=index_dtype(n)), size)
            lists = Rows(memory.put(ptr, np.int32), memory.put(every), nothing(np.float32, 1), 1, n, 0)
            closest = masked(closest, lists, kept(lists, 1))
        return (SpikesGrad(masked(grad.active, active, kept(active)), closest),)

    return record("dropout", out, (spikes,), vjp)


def weighted_cross_entropy(scores: Tensor, labels, weight, smoothing) -> Tensor:
    """See `nsim.losses.cross_entropy`."""
    loss, grad = losses.cross_entropy(scores.data, labels, weight, smoothing)
    return record("cross_entropy", Tensor(loss), (scores,), lambda g: (grad * g,))


def rate_upper(counted: Tensor, limit, strength) -> Tensor:
    """See `nsim.losses.spike_rate_upper`."""
    loss, grad = losses.rate(losses.UPPER, counted.data, limit, strength)
    return record("spike_rate_upper", Tensor(loss), (counted,), lambda g: (grad * g,))


def rate_lower(counted: Tensor, limit, strength) -> Tensor:
    """See `nsim.losses.spike_rate_lower`."""
    loss, grad = losses.rate(losses.LOWER, counted.data, limit, strength)
    return record("spike_rate_lower", Tensor(loss), (counted,), lambda g: (grad * g,))
