"""Operations on Spikes that have no neurons: dropout, flattening, pooling, addition; each with its gradient beside it.

What they give carries an active set of its own (the pooled or united sites of those below), so that a gradient exists
only where it can go on. Nothing of size [B, T, N] is made unless the active set below is dense already.
"""

from __future__ import annotations

import numpy as np

from nsim.active import Active
from nsim.backend import device_of, per_device
from nsim.errors import EventError, ShapeError
from nsim.events import Spikes, index_dtype
from nsim.kernels import batch, merge
from nsim.kernels import pool as kernels
from nsim.kernels.drive import Rows
from nsim.kernels.jit import padded
from nsim.kernels.threads import over
from nsim.launch import rows_of
from nsim.sweeps import SpikesGrad
from nsim.tape import record, recording
from nsim.windows import Windows

GROUPS = 16  # of samples, each with scratch of its own


def derived(indptr, indices, shape, dtype) -> Active:
    """An active set that follows from others: it has sites, and no u of its own. Dense without `indptr`."""
    if indptr is None:
        return Active(None, None, np.broadcast_to(np.zeros((), dtype), shape))
    return Active(indptr, indices, np.empty(0, dtype))


@per_device
def dropout(spikes: Spikes, p: float, seed: int, per_event: bool) -> Spikes:
    """Leave out events with probability p and scale the others by 1 / (1 - p).

    The choice is a hash of (seed, sample, neuron), and of the step too with `per_event`: the same at an event and at
    the active site under it, so that the gradient is exact and nothing has to be kept for it.
    """
    size, steps, n = spikes.shape
    scale = np.float32(1 / (1 - p))
    kept = np.empty(spikes.n_events, np.bool_)
    over(batch.keep_mask, size * steps, spikes.indptr, spikes.indices, steps, seed, p, per_event, kept)
    ends = np.concatenate(([0], np.cumsum(kept)))
    values = np.full(int(ends[-1]), scale) if spikes.values is None else spikes.values[kept] * scale
    out, active = spikes._like(indptr=ends[spikes.indptr], indices=spikes.indices[kept], values=values), spikes.active

    def masked(grad, steps, lists=None):
        """A gradient at the neurons of lists, one for each sample and step; without lists at every neuron."""
        if lists is None:
            number = size * steps
            lists = np.arange(number + 1) * n, np.tile(np.arange(n, dtype=index_dtype(n)), number)
        mask = np.empty(grad.size, np.bool_)
        over(batch.keep_mask, size * steps, *lists, steps, seed, p, per_event, mask)
        return grad * (mask.reshape(grad.shape) * scale)

    def vjp(grad):
        closest = grad.closest
        if closest is not None and not per_event:  # the factors of the events of a neuron are 1 on average
            closest = masked(closest, 1)
        return (
            SpikesGrad(masked(grad.active, steps, None if active.dense else (active.indptr, active.indices)), closest),
        )

    return record("dropout", out, (spikes,), vjp)


def flatten(spikes: Spikes) -> Spikes:
    """The same events with space (N,)."""
    return record("flatten", spikes._like(space=None), (spikes,), lambda grad: (grad,))


@per_device
def pool2d(spikes: Spikes, windows: Windows, how: str) -> Spikes:
    """Events of each window, step by step: how = "sum", "mean" (the sum over kh kw) or "max" of its places.

    Sum: each event stays one, in each window that it lies in. Mean: one graded event for each window that has events.
    Max: of the amounts of the places, 0 where there is no event: for spikes, whether any fired. Its gradient goes to
    the first of the largest places of a window, row by row, the first of all where none fired.

    Source: the rule for equals is that of torch.nn.MaxPool2d, with which spiking networks are commonly trained (Fang et
    al. 2021, ICCV, "Incorporating Learnable Membrane Time Constant"). Deviation: as every gradient of spikes it exists
    at active sites only.
    """
    if how == "max" and spikes.values is not None:
        check_sizes(windows, spikes.values)
    grid, scratch, n_out = _grid(windows, spikes)
    size, steps, _ = spikes.shape
    scale = np.float32(1 / np.prod(windows.kernel)) if how == "mean" else np.float32(1)
    graded, largest = how == "mean" or spikes.values is not None, how == "max"
    indptr, indices, values = _pooled(rows_of(spikes), size, grid, largest, graded, graded, scale, scratch, n_out)
    active, shape = spikes.active, (size, steps, n_out)
    sites = None
    if recording(spikes) and active is not None:
        sites = derived(None, None, shape, active.u.dtype)
        if not active.dense:
            below = Rows(active.indptr, active.indices, np.empty(0, np.float32), steps, 0)
            found = _pooled(below, size, grid, False, True, False, scale, scratch, n_out)
            sites = derived(*found[:2], shape, active.u.dtype)
    out = spikes._like(
        indptr=indptr, indices=indices, shape=shape, values=values if graded else None,
        space=(*windows.out, grid.channels), active=sites,
    )  # fmt: skip
    return record(f"{how} pooling", out, (spikes,), _PoolBackward(spikes, windows, sites, largest, scale))


def check_sizes(windows, values):
    """Refuse events that a maximum with nothing would leave out."""
    if (values < 0).any():
        raise EventError(f"{windows.label}: an event of size {values.min()}: sizes must not be negative")


def _grid(windows, spikes):
    """What the kernels need to know of the windows, their scratch, and the number of neurons after them."""
    channels, groups = spikes.space[2], min(GROUPS, spikes.shape[0])
    n_out = windows.out[0] * windows.out[1] * channels
    grid = kernels.Grid(windows.reach(0), windows.reach(1), channels, windows.out[1], windows.stride, windows.padding)
    shape = groups, n_out
    scratch = kernels.Scratch(
        np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.empty(shape, np.int64),
        np.zeros((groups, padded(n_out) // 64), np.uint64), np.empty(shape, np.int64),
    )  # fmt: skip
    return grid, scratch, n_out


def _pooled(rows, size, grid, largest, once, graded, scale, scratch, n_out):
    """Rows of pooled events or sites: counted first, then written."""
    indptr, groups = np.zeros(size * rows.steps + 1, np.int64), len(scratch.amount)
    indices, values = np.empty(0, index_dtype(n_out)), np.empty(0, np.float32)
    common = groups, size, rows.steps, rows, grid, largest, once, scale, scratch, indptr
    over(kernels.pool, *common, indices, values)
    np.cumsum(indptr, out=indptr)
    if indptr[-1]:
        indices, values = np.empty(indptr[-1], indices.dtype), np.empty(indptr[-1] if graded else 0, np.float32)
        over(kernels.pool, *common, indices, values)
    return indptr, indices, values


class _PoolBackward:
    def __init__(self, spikes, windows, sites, largest, scale):
        self.windows, self.sites, self.largest, self.scale = windows, sites, largest, scale
        self.active = spikes.active
        # Only the maximum looks at the events again.
        self.spikes = spikes if largest else None
        self.shape, self.space = spikes.shape, spikes.space

    def __call__(self, grad):
        size, steps, n = self.shape
        events = rows_of(self.spikes) if self.largest else _nothing(size, steps)
        active = None if grad.active is None else self.spread(events, grad.active, size, steps, n)
        closest = None
        if grad.closest is not None:
            closest = self.dense(_nothing(size, 1), grad.closest, size, 1, n)
        return (SpikesGrad(active, closest),)

    def spread(self, events, grad, size, steps, n):
        if self.active.dense:
            return self.dense(events, grad.reshape(size * steps, -1), size, steps, n).reshape(self.shape)
        grid, scratch, n_out = _grid(self.windows, self)
        groups, scale = len(scratch.best), grad.dtype.type(self.scale)
        out, source = np.empty(len(self.active.indices), grad.dtype), np.empty((groups, n_out), grad.dtype)
        over(
            kernels.pool_adjoint, groups, size, steps, events, grid, self.largest, scale, scratch, source,
            (self.sites.indptr, self.sites.indices), grad, (self.active.indptr, self.active.indices), out,
        )  # fmt: skip
        return out

    def dense(self, events, grad, size, steps, n):
        grid, scratch, _ = _grid(self.windows, self)
        out = np.empty((size * steps, n), grad.dtype)
        scale = grad.dtype.type(self.scale)
        over(
            kernels.pool_adjoint_dense, len(scratch.best), size, steps, events, grid, self.largest, scale, scratch,
            np.ascontiguousarray(grad), out,
        )  # fmt: skip
        return out


def _nothing(size, steps):
    """Rows without events."""
    return Rows(np.zeros(size * steps + 1, np.int64), np.empty(0, np.uint16), np.empty(0, np.float32), steps, 0)


@per_device
def add(a: Spikes, b: Spikes) -> Spikes:
    """All events of both: one that both have counts twice. The gradient goes to both, to each on its own active set.

    Raises
    ------
    ShapeError
        If batch, steps, neurons, their space, dt or the true lengths differ.
    """
    check_alike(a, b)
    n_rows, indptr = a.shape[0] * a.shape[1], a.indptr + b.indptr
    graded = a.values is not None or b.values is not None
    indices, values = np.empty(indptr[-1], a.indices.dtype), np.empty(indptr[-1] if graded else 0, np.float32)
    parts = [(s.indptr, s.indices, np.empty(0, np.float32) if s.values is None else s.values) for s in (a, b)]
    over(merge.merge, n_rows, *parts, indptr, indices, values)
    sites = _united(a, b) if recording(a, b) else None
    out = a._like(indptr=indptr, indices=indices, values=values if graded else None, active=sites)
    first, second = a.active, b.active

    def vjp(grad):
        return tuple(_part(grad, sites, own) for own in (first, second))

    return record("add", out, (a, b), vjp)


def check_alike(a, b):
    """Refuse to add what does not lie on the same sites."""
    device_of(a, b)
    for name in ("shape", "space", "dt"):
        if getattr(a, name) != getattr(b, name):
            raise ShapeError(f"add: {name} {getattr(a, name)} and {getattr(b, name)} differ: {a!r} and {b!r}")
    if (a.lengths is None) != (b.lengths is None) or (a.lengths is not None and (a.lengths != b.lengths).any()):
        raise ShapeError("add: the samples have other true lengths in one than in the other")


def _united(a, b):
    """The active sites of both; those of one where the other has none, because no gradient goes there."""
    both = [s.active for s in (a, b) if s.active is not None]
    if len(both) < 2:
        return both[0] if both else None
    first, second = both
    if first.dense or second.dense:
        return derived(None, None, a.shape, first.u.dtype)
    n_rows, indptr = len(first.indptr) - 1, np.zeros_like(first.indptr)
    lists = [(active.indptr, active.indices) for active in both]
    over(merge.union, n_rows, *lists, indptr, np.empty(0, first.indices.dtype))
    np.cumsum(indptr, out=indptr)
    indices = np.empty(indptr[-1], first.indices.dtype)
    if indices.size:
        over(merge.union, n_rows, *lists, indptr, indices)
    return derived(indptr, indices, a.shape, first.u.dtype)


def _part(grad, sites, own):
    """What of a gradient on `sites` lies on the sites `own`."""
    if own is None:
        return None
    if grad.active is None or own is sites or own.dense:
        return grad
    out, n_rows = np.empty(len(own.indices), grad.active.dtype), len(own.indptr) - 1
    if sites.dense:
        over(merge.pick_dense, n_rows, (own.indptr, own.indices), grad.active.reshape(n_rows, -1), out)
    else:
        over(merge.pick, n_rows, (own.indptr, own.indices), (sites.indptr, sites.indices), grad.active, out)
    return SpikesGrad(out, grad.closest)


Spikes.__add__ = add
