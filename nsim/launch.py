"""Launching the CPU sweeps: choices made from counts, scratch, and lists that grow until everything fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nsim import arrays
from nsim.active import Active
from nsim.backend import compiled, compiled_surrogate, single_threaded_blas
from nsim.events import Spikes, index_dtype
from nsim.kernels import batch
from nsim.kernels.drive import ByInput, Rows
from nsim.kernels.jit import CHUNK, CHUNK_BYTES, LONG_CHUNK, ROW, n_groups, padded
from nsim.kernels.surrogate import surrogate_of_blocks
from nsim.kernels.sweep import Slots, Trace
from nsim.kernels.threads import over

# Input density from which a matrix product is cheaper than adding rows, forward and for the weight gradient; share of
# active sites from which the active set is kept dense. Functions of counts alone, so that bits never depend on history.
PRODUCT_FORWARD = 0.4
PRODUCT_BACKWARD = 0.3
DENSE_ACTIVE = 0.3


@dataclass
class Room:
    """Sizes that the last sweep of a layer needed: a hint for the next one, without effect on results."""

    spikes: int = 0
    active: int = 0
    dense: bool = False
    on_device: object = None  # what another device keeps of the layer


def no_trace(dtype) -> Trace:
    """A Trace that records nothing."""
    recorded = np.empty(0, np.int64), np.empty((0, 0, 0, 0), dtype)
    return Trace(*recorded, np.empty(0, np.int64), np.empty((0, 0), dtype), np.empty((0, 0), np.int32))


def rows_of(spikes: Spikes, delay: int = 0) -> Rows:
    """The events as kernels take them."""
    values = np.empty(0, np.float32) if spikes.values is None else spikes.values
    return Rows(spikes.indptr, spikes.indices, values, spikes.shape[1], -delay)


def drive_of(layer, spikes, source=None) -> tuple[bool, Rows]:
    """Whether the drive is a matrix product, and the events that it is taken from. Those of a `source` (a run) are
    added as rows: so any cutting of time gives the same bits."""
    if source is not None:
        return False, rows_of(source)
    return layer.products and spikes.density > PRODUCT_FORWARD, rows_of(spikes, layer.delay)


def chunk_of(layer, spikes, product) -> int:
    """Steps of drive that are computed at once."""
    short = max(1, min(CHUNK, CHUNK_BYTES // (layer.n_out * layer.weight.dtype.itemsize)))
    return min(LONG_CHUNK if product else short, spikes.shape[1])


def frame_of(layer, spikes, product, chunk):
    """Scratch for the matrix-product form of the drive, or an empty one."""
    return arrays.empty((chunk, spikes.shape[2]) if product else (0, 0), layer.weight.dtype)


def by_input(layer, *lists) -> ByInput:
    """Scratch for the backward sweep: room for the events of any sample of these lists, sorted by input."""
    most = max(int(np.diff(rows.indptr[:: rows.steps]).max()) for rows in lists)
    graded = any(rows.values.size for rows in lists)
    sizes = (max(layer.n_in, layer.n_out) + 2, most, most if graded else 0) if layer.products else (0, 0, 0)
    return ByInput(*map(np.empty, sizes, (np.uint32, np.int32, np.float32)))


def initial_state(layer, batch_size):
    """States [B, S, N padded] and u [B, N padded] at rest: v = v_init, everything else 0, no spike before t = 0."""
    n, dtype = layer.n_out, layer.weight.dtype
    state = arrays.zeros((batch_size, len(layer.neuron.states), padded(n)), dtype)
    state[:, 0, :n] = layer.neuron.v_init
    return state, np.full((batch_size, padded(n)), -np.inf, dtype)


def discretised(layer, dt) -> np.ndarray:
    """What the equations use, [number of parameters, N], from the layer's raw parameters."""
    p = arrays.empty((len(layer.neuron.parameters), layer.n_out), layer.weight.dtype)
    for row, parameter in zip(p, layer.neuron.parameters, strict=True):
        row[:] = parameter.discretise(layer.raw[parameter.name].data.astype(np.float64), dt)
    return p


def matrices(layer, spikes):
    """Weight, recurrent weight (empty for none) and bias [1, N] (zeros for none) as kernels take them: their rows with
    zeros behind up to whole cache lines, where enough rows are read for the copy to pay. All have the width of the
    bias, as have the rows of the drive."""
    n, dtype = layer.n_out, layer.weight.dtype
    recurrent = np.empty((0, n), dtype) if layer.weight_rec is None else layer.weight_rec.data
    bias = np.zeros(n, dtype) if layer.bias is None else layer.kernel_bias()
    found = layer.kernel_weight(), recurrent, bias[None]
    if n % ROW == 0 or ROW % n == 0 or not layer.products or spikes.n_events < layer.n_in + len(recurrent):
        return found
    wider = [arrays.zeros((len(rows), padded(n, ROW)), dtype) for rows in found]
    for out, rows in zip(wider, found, strict=True):
        out[:, :n] = rows
    return tuple(wider)


def forward(layer, spikes, *, keep, state=None, trace=None, source=None) -> tuple[Spikes, tuple]:
    """Sweep a spiking layer over `spikes`.

    `keep` says whether the active set is wanted; `state` = (states, u) to go on from; `trace` is what to record;
    `source` replaces the events that the drive is taken from. Returns the spikes and the state after the end.
    """
    size, steps, _ = spikes.shape
    n, room = layer.n_out, layer.room
    product, rows = drive_of(layer, spikes, source)
    start = initial_state(layer, size) if state is None else state
    active = None
    if not keep:
        lists, _, _, state = _sweep(layer, spikes, "none", start, product, trace, rows)
    else:
        form = "dense" if layer.neuron.band is None or room.dense else "listed"
        lists, sites, dense, state = _sweep(layer, spikes, form, start, product, trace, rows)
        if form == "listed" and sites is not None and sites.ptr[:, -1].sum() <= DENSE_ACTIVE * size * steps * n:
            active = Active(*_packed(sites), band_of(layer))
            room.active = _next_room(sites, n)
        else:
            if form == "listed":
                lists, _, dense, state = _sweep(layer, spikes, "dense", start, product, trace, rows)
            active = _thinned(dense, band_of(layer), n)
        room.dense = active.dense
    room.spikes = _next_room(lists, n)
    indptr, indices, _ = _packed(lists)
    shape, true = (size, steps, n), spikes.lengths
    return Spikes(indptr, indices, shape, dt=spikes.dt, space=layer.space, lengths=true, active=active), state


def _sweep(layer, spikes, form, start, product, trace, rows):
    """Run the kernel, doubling lists and redoing samples until everything fits.

    `form` is "none", "listed" or "dense", the wanted form of the active set; the listed one is None where the sites are
    too many for it.
    """
    size, steps, _ = spikes.shape
    weight, recurrent, bias = matrices(layer, spikes)
    n, dtype = layer.n_out, layer.weight.dtype
    groups = n_groups(size, layer.weight.data.nbytes)
    chunk = chunk_of(layer, spikes, product)
    lists = _slots(size, steps, n, layer.room.spikes, dtype, False)
    sites = (
        _slots(size, steps, n, layer.room.active, dtype, True) if form == "listed" else _no_slots(size, steps, n, dtype)
    )
    dense = arrays.empty((size, steps, n) if form == "dense" else (0, 0, 0), dtype)
    state, u = (arrays.copied(a, dtype) for a in start)
    kernel = compiled(layer, "forward")
    p = discretised(layer, spikes.dt)
    full, todo = np.zeros(size, np.uint8), np.arange(size)
    while todo.size:
        with single_threaded_blas(product):
            over(
                kernel, groups, groups, todo, steps, rows, (weight, recurrent, bias, p), dtype.type(band_of(layer)),
                (state, u), lists, sites, dense, trace or no_trace(dtype), full,
                scratch=lambda: (arrays.empty((chunk, bias.shape[1]), dtype), frame_of(layer, spikes, product, chunk)),
            )  # fmt: skip
        todo = np.flatnonzero(full)
        if todo.size:
            lists, sites = _grown(lists, steps, n), _grown(sites, steps, n)
            state[todo], u[todo], full[:] = start[0][todo], start[1][todo], 0
            if form == "listed" and sites.indices.shape[1] > 2 * DENSE_ACTIVE * steps * n + 4 * padded(n):
                return lists, None, dense, (state, u)
    return lists, sites, dense, (state, u)


def band_of(layer) -> float:
    return np.inf if layer.neuron.band is None else layer.neuron.band


def surrogate_at(surrogate, u, band):
    """g(u) where |u| < band, else 0, of the shape of u."""
    out = arrays.empty(u.shape, u.dtype)
    g = compiled_surrogate(surrogate, u.dtype)
    over(surrogate_of_blocks, batch.n_blocks(u.size), g.address, u.reshape(-1), u.dtype.type(band), out.reshape(-1))
    return out


def summed(partial):
    """Sum over the groups, in their order."""
    out = arrays.empty(partial.shape[1:], partial.dtype)
    over(batch.sum_groups, batch.n_blocks(out.size), partial.reshape(len(partial), -1), out.reshape(-1))
    return out


def _slots(size, steps, n, room, dtype, with_u):
    """Lists of `room` entries a sample, as far as these steps can need them; the first guess is one site in 32."""
    width = min(max(room, steps * n // 32 + 2 * padded(n)), (steps + 1) * padded(n))
    return Slots(
        np.zeros((size, steps + 1), np.int32),
        np.empty((size, width), index_dtype(n)),
        np.empty((size, width if with_u else 0), dtype),
    )


def _no_slots(size, steps, n, dtype):
    return Slots(np.zeros((size, steps + 1), np.int32), np.empty((size, 0), index_dtype(n)), np.empty((size, 0), dtype))


def _grown(slots, steps, n):
    """The same lists with room for twice as many entries, what is there kept."""
    width = min(2 * slots.indices.shape[1], (steps + 1) * padded(n))

    def widened(old):
        new = np.empty((len(old), width if old.shape[1] else 0), old.dtype)
        new[:, : old.shape[1]] = old
        return new

    return Slots(slots.ptr, widened(slots.indices), widened(slots.u))


def _next_room(slots, n):
    return int(1.25 * slots.ptr[:, -1].max()) + 2 * padded(n)


def _packed(slots):
    """Row pointers, indices and u of lists, without the gaps between samples."""
    size, steps = slots.ptr.shape[0], slots.ptr.shape[1] - 1
    base = np.zeros(size + 1, np.int64)
    np.cumsum(slots.ptr[:, -1], out=base[1:])
    indptr, indices = np.empty(size * steps + 1, np.int64), np.empty(base[-1], slots.indices.dtype)
    u = np.empty(base[-1] if slots.u.shape[1] else 0, slots.u.dtype)
    over(batch.pack, size, slots, base, indptr, indices, u)
    return indptr, indices, u


def _thinned(u, band, n):
    """A dense active set, or its list where few sites are inside the band after all."""
    if np.isinf(band):
        return Active(None, None, u, band)
    found = np.empty(len(u), np.int64)
    over(batch.count_inside, len(u), u.reshape(len(u), -1), u.dtype.type(band), found)
    if found.sum() > DENSE_ACTIVE * u.size:
        return Active(None, None, u, band)
    rows, sites = np.nonzero(np.abs(u.reshape(-1, n)) < u.dtype.type(band))
    indptr = np.zeros(u.shape[0] * u.shape[1] + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(indptr) - 1), out=indptr[1:])
    return Active(indptr, sites.astype(index_dtype(n)), u.reshape(-1, n)[rows, sites], band)
