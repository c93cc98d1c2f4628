"""Launching the sweeps: scratch, lists and their growth; the twin of `nsim.launch`."""

from __future__ import annotations

from functools import cache

import numpy as np

from nsim.backend import compiled, kept_by_options, kernels_of, refuse_uncompilable
from nsim.errors import DeviceError, StepOverflow
from nsim.events import index_dtype
from nsim.launch import band_of
from nsim_cuda import batch as kernels
from nsim_cuda import jit, memory
from nsim_cuda.drive import Rows
from nsim_cuda.elementwise import fill
from nsim_cuda.events import DeviceActive, DeviceSpikes
from nsim_cuda.status import status
from nsim_cuda.sweep import Lists, Trace


class Room:
    """Entries of the lists of a layer for each row, spikes and active sites: twice what was ever needed. A hint,
    without effect on results. Also what a layer keeps on the device between calls."""

    def __init__(self):
        self.sizes, self.learned, self.kept = [0, 0], False, {}

    def learn(self, needs):
        """needs : int [rows, 2], how long the lists of a sweep would have been."""
        self.sizes = [max(old, 2 * int(new)) for old, new in zip(self.sizes, needs.max(axis=0), strict=True)]

    def entries(self, which, steps, width):
        """Entries of a row now; at first one site in 32."""
        return min(steps * width, max(self.sizes[which], steps * width // 32) + 2 * width)


def check_layer(layer):
    """Refuse a layer that is too large: indices of neurons have 16 bits, and masks of a recurrent layer stay in a
    block."""
    recurrent, n = layer.weight_rec is not None, layer.n_out
    if max(layer.n_in, n) > jit.MAX_NEURONS or (recurrent and n > jit.MAX_RECURRENT):
        raise DeviceError(
            f"{layer.label}: the device takes recurrent layers of up to {jit.MAX_RECURRENT:,} neurons and others of "
            f"up to {jit.MAX_NEURONS:,} inputs and neurons; split the layer, or leave the network on the CPU"
        )


def room_of(layer) -> Room:
    """What a layer has on the device."""
    if layer.room.on_device is None:
        layer.room.on_device = Room()
    return layer.room.on_device


@kept_by_options
def compiled_surrogate(surrogate, g, scalar):
    """The kernels of a surrogate."""
    refuse_uncompilable(surrogate, g, scalar)
    return kernels.make_surrogate(g, scalar)


@cache
def nothing(dtype, ndim):
    """An empty array, which tells a kernel that something is not wanted."""
    return memory.empty((0,) * ndim, dtype)


def rows_of(spikes, delay=0) -> Rows:
    """The events as kernels take them."""
    values = nothing(np.float32, 1) if spikes.values is None else spikes.values
    return Rows(spikes.ptr, spikes.indices, values, spikes.tiles, spikes.width, -delay)


def drive_of(layer, spikes, source=None) -> Rows:
    """The events that the drive is taken from: those of a `source` (a run), where there is one."""
    return rows_of(spikes, layer.delay) if source is None else rows_of(source)


def kept(layer, name, key, make):
    """Something on the device that stays the same from call to call, made anew when `key` changes."""
    store = room_of(layer).kept
    if name not in store or store[name][0] != key:
        store[name] = key, make()
    return store[name][1]


def v_init(layer):
    """v before the first step, [N]."""
    n, dtype = layer.n_out, layer.weight.dtype
    values = layer.neuron.v_init
    return kept(layer, "v_init", values.tobytes(), lambda: memory.put(np.broadcast_to(values, n), dtype))


def discretised(layer, dt):
    """What the equations use, [number of parameters, N]. Trained parameters are discretised on the device."""
    n, dtype, neuron = layer.n_out, layer.weight.dtype, layer.neuron

    def on_host():
        p = np.zeros((len(neuron.parameters), n), dtype)
        for row, parameter in zip(p, neuron.parameters, strict=True):
            if parameter.name not in neuron.learn:
                row[:] = parameter.discretise(layer.raw[parameter.name].data.astype(np.float64), dt)
        return memory.put(p)

    fixed = tuple(layer.raw[p.name].data.tobytes() for p in neuron.parameters if p.name not in neuron.learn)
    p = kept(layer, "p", (dt, fixed), on_host)
    if not neuron.learn:
        return p
    result = memory.empty(p.shape, dtype)
    for k, parameter in enumerate(neuron.parameters):
        learned = parameter.name in neuron.learn
        fill(result.row(k), parameter.discretise(layer.raw[parameter.name].data, dt) if learned else p.row(k))
    return result


def matrices(layer):
    """Weight, recurrent weight (empty for none) and bias (zeros for none) as kernels take them."""
    n, dtype = layer.n_out, layer.weight.dtype
    recurrent = nothing(dtype, 2) if layer.weight_rec is None else layer.weight_rec.data
    if layer.bias is None:
        bias = kept(layer, "bias", None, lambda: memory.put(np.zeros(n, dtype)))
    elif layer.bias.shape == (n,):
        bias = layer.bias.data
    else:  # one for each channel, and channels are the innermost axis of the neurons
        bias = memory.empty(n, dtype)
        fill(bias, layer.bias.data)
    return kernels_of("cuda", layer.connection).kernel_weight(layer), recurrent, bias


def at_rest(layer, size):
    """States [B, S, N] at rest."""
    state = memory.empty((size, len(layer.neuron.states), layer.n_out), layer.weight.dtype)
    jit.start(kernels.fill_states, size, jit.block_for(state.shape[2]), state, v_init(layer))
    return state


def no_trace(dtype) -> Trace:
    """A Trace that records nothing."""
    whole = nothing(np.int32, 1), nothing(dtype, 2), nothing(np.int32, 2)
    return Trace(*whole, nothing(np.int32, 1), nothing(dtype, 4), nothing(np.int32, 2), nothing(np.int32, 2))


def _lists(rows, steps, n, entries, dtype, with_u):
    if not entries:
        return Lists(nothing(np.int32, 2), nothing(index_dtype(n), 1), nothing(dtype, 1), 0)
    if rows * entries >= 2**31:
        raise DeviceError(
            f"a batch of {rows} lists of {entries:,} spikes or active sites each has more than 2^31; "
            "take smaller batches"
        )
    u = memory.empty(rows * entries, dtype) if with_u else nothing(dtype, 1)
    ptr = memory.empty((rows, steps + 1), np.int32)
    return Lists(ptr, memory.empty(rows * entries, index_dtype(n)), u, entries)


def forward(layer, spikes, *, keep, state=None, trace=None, source=None) -> tuple[DeviceSpikes, memory.DeviceArray]:
    """Sweep a spiking layer over `spikes`; returns the spikes and the states after the end.

    Where a tape records and the layer has run before, nothing waits for the device: lists that prove too short are told
    of by a flag. Else the sweep is repeated here until everything fits.
    """
    size, steps, _ = spikes.shape
    n, room, told = layer.n_out, room_of(layer), status()
    tiles, width = jit.tiles(n, layer.weight_rec is not None)
    waits = not (keep and room.learned)
    if waits or told.undo:
        told.settle()
    while True:
        fired = _lists(size * tiles, steps, n, room.entries(0, steps, width), layer.weight.dtype, False)
        sites = _lists(size * tiles, steps, n, room.entries(1, steps, width) if keep else 0, layer.weight.dtype, True)
        needs, after = _sweep(layer, spikes, fired, sites, state, trace, source)
        told.sweeps.append((room, needs))
        if not waits:
            break
        try:
            told.settle()
            break
        except StepOverflow:  # only this sweep can have set the flag: it was clear before
            continue
    room.learned = room.learned or keep
    active = DeviceActive(sites.ptr, sites.indices, sites.u, band_of(layer), tiles, width) if keep else None
    out = DeviceSpikes(
        fired.ptr, fired.indices, (size, steps, n), dt=spikes.dt, space=layer.space, lengths=spikes.lengths,
        active=active, tiles=tiles, width=width, needs=needs,
    )  # fmt: skip
    return out, after


def _sweep(layer, spikes, fired, sites, state, trace, source=None):
    size, steps, _ = spikes.shape
    n, dtype = layer.n_out, layer.weight.dtype
    tiles, width = jit.tiles(n, layer.weight_rec is not None)
    if state is None:
        state = at_rest(layer, size)
    else:
        before, state = state, memory.empty(state.shape, dtype)
        fill(state, before)
    needs = memory.empty((size * tiles, 2), np.int32)
    fill(needs, 0)
    jit.start(
        compiled(layer, "forward"), size * tiles, jit.block_for(width), steps, tiles, width,
        drive_of(layer, spikes, source), (*matrices(layer), discretised(layer, spikes.dt)),
        dtype.type(band_of(layer)), state, fired, sites, needs, no_trace(dtype) if trace is None else trace,
        status().flags,
    )  # fmt: skip
    return needs, state


def closest(layer, spikes, active, g, asked):
    """Step and dL/du of closest approaches where `asked` [B, N] asks for them and `g`, at the active sites, is 0
    throughout: by a second forward sweep of the samples that want it; nothing is listed."""
    size, steps, _ = spikes.shape
    n, dtype = asked.shape[1], layer.weight.dtype
    grad, wanted = memory.empty(asked.shape, dtype), memory.empty(size, np.int32)
    jit.start(
        kernels.unreached, size, jit.BLOCK, active.ptr, active.indices, g, np.finfo(dtype).tiny,
        spikes.lengths_on_device(), active.tiles, asked, grad, wanted,
    )  # fmt: skip
    best, when = memory.empty(grad.shape, dtype), memory.empty(grad.shape, np.int32)
    fill(best, -np.inf)
    fill(when, -1)
    none = _lists(0, steps, n, 0, dtype, False)
    trace = no_trace(dtype)._replace(wanted=wanted, best=best, when=when)
    _sweep(layer, spikes, none, none, None, trace)
    _, at_closest = compiled_surrogate(layer.neuron.surrogate, dtype)
    jit.start(at_closest, size, jit.block_for(n), wanted, best, when, grad)
    return when, best


def surrogate_at(layer, active):
    """g(u) at the listed sites."""
    out = memory.empty(active.u.shape, active.u.dtype)
    at_sites, _ = compiled_surrogate(layer.neuron.surrogate, active.u.dtype)
    jit.start(at_sites, active.ptr.shape[0], jit.BLOCK, active.ptr, active.u, out)
    return out


def summed(partial):
    """Sum over the groups, in their order."""
    out = memory.empty(partial.shape[1:], partial.dtype)
    if len(partial) == 1 or not out.size:
        return partial.reshape(out.shape)
    flat = partial.reshape(len(partial), -1)
    jit.start(kernels.sum_groups, jit.blocks(out.size), jit.FLAT, flat, out.reshape(-1))
    return out
