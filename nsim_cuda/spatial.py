"""Operations on Spikes that have no neurons; the twin of `nsim.spatial`.

The host does not know how long their lists become, but a bound: of pooled events as many as events times the windows
that a place lies in, of two lists the sum of both. So there is always room, and no flag to look at.
"""

from __future__ import annotations

import numpy as np

from nsim.errors import DeviceError
from nsim.events import index_dtype
from nsim.spatial import check_alike, check_sizes
from nsim.sweeps import SpikesGrad
from nsim.tape import record, recording
from nsim_cuda import batch, jit, memory, merge, pool
from nsim_cuda.drive import Rows
from nsim_cuda.elementwise import full
from nsim_cuda.events import DeviceActive, DeviceSpikes
from nsim_cuda.launch import nothing, rows_of
from nsim_cuda.windows import grid_of


def pool2d(spikes: DeviceSpikes, windows, how: str) -> DeviceSpikes:
    """See `nsim.spatial.pool2d`. Before a maximum, sizes are looked at only where nobody knows their sign."""
    graded, largest, active = how == "mean" or spikes.values is not None, how == "max", spikes.active
    if largest and not spikes.positive:
        check_sizes(windows, spikes.to_cpu().values)
    grid, (size, steps, _) = grid_of(windows, spikes.space[2]), spikes.shape
    shape = size, steps, windows.out[0] * windows.out[1] * grid.channels
    most = max(1, int(windows.reach(0)[:, 1].max() * windows.reach(1)[:, 1].max()))  # windows that a place lies in
    scale = np.float32(1 / np.prod(windows.kernel)) if how == "mean" else np.float32(1)

    def pooled(rows, largest, once, graded):
        given, source = (rows, grid, largest, once, scale), (most, rows, no_rows(size, 0))
        return listed(pool.pool, shape, most * rows.indices.size, graded, given, source)

    ptr, indices, values = pooled(rows_of(spikes), largest, graded, graded)
    sites = None
    if recording(spikes) and active is not None:
        sites = derived(*pooled(rows_of_sites(active), False, True, False)[:2], shape[2], active.u.dtype)
    out = DeviceSpikes(
        ptr, indices, shape, dt=spikes.dt, values=values if graded else None, space=(*windows.out, grid.channels),
        lengths=spikes.lengths, active=sites, positive=spikes.positive or largest,
    )  # fmt: skip
    return record(f"{how} pooling", out, (spikes,), _PoolBackward(spikes, grid, sites, largest, scale))


class _PoolBackward:
    def __init__(self, spikes, grid, sites, largest, scale):
        self.grid, self.sites, self.largest, self.scale = grid, sites, largest, scale
        self.active, self.shape = spikes.active, spikes.shape
        # Only the maximum looks at the events again.
        self.spikes = spikes if largest else None

    def __call__(self, grad):
        active = None if grad.active is None else self.spread(grad.active)
        closest = None if grad.closest is None else self.dense(grad.closest)
        return (SpikesGrad(active, closest),)

    def spread(self, grad):
        size, steps, _ = self.shape
        events = rows_of(self.spikes) if self.largest else no_rows(size, steps)
        out = memory.empty(self.active.indices.shape, grad.dtype)
        jit.start(
            pool.pool_adjoint, size * steps, jit.BLOCK, steps, events, self.grid, self.largest,
            grad.dtype.type(self.scale), rows_of_sites(self.sites), grad, rows_of_sites(self.active), out,
        )  # fmt: skip
        return out

    def dense(self, grad):
        size, _, n = self.shape
        out, threads = memory.empty((size, n), grad.dtype), jit.block_for(n)
        jit.start(
            pool.pool_adjoint_dense, (size, -(-n // threads)), threads, no_rows(size, 1), self.grid, self.largest,
            grad.dtype.type(self.scale), grad, out,
        )  # fmt: skip
        return out


def add(a: DeviceSpikes, b: DeviceSpikes) -> DeviceSpikes:
    """See `nsim.spatial.add`."""
    check_alike(a, b)
    graded = a.values is not None or b.values is not None
    ptr, indices, values = joined(merge.merge, a.shape, graded, rows_of(a), rows_of(b))
    sites = united(a, b) if recording(a, b) else None
    out = DeviceSpikes(
        ptr, indices, a.shape, dt=a.dt, values=values if graded else None, space=a.space, lengths=a.lengths,
        active=sites, positive=a.positive and b.positive,
    )  # fmt: skip
    (size, steps, _), first, second = a.shape, a.active, b.active

    def vjp(grad):
        return tuple(part(grad, sites, own, size, steps) for own in (first, second))

    return record("add", out, (a, b), vjp)


def united(a, b):
    """The active sites of both; those of one where the other has none, because no gradient goes there."""
    both = [s.active for s in (a, b) if s.active is not None]
    if len(both) < 2:
        return both[0] if both else None
    ptr, indices, _ = joined(merge.union, a.shape, False, *map(rows_of_sites, both))
    return derived(ptr, indices, a.shape[2], both[0].u.dtype)


def part(grad, sites, own, size, steps):
    """What of a gradient on `sites` lies on the sites `own`."""
    if own is None:
        return None
    if grad.active is None or own is sites:
        return grad
    out, whole = memory.empty(own.indices.shape, grad.active.dtype), rows_of_sites(sites)
    jit.start(merge.pick, size * steps, jit.BLOCK, steps, rows_of_sites(own), whole, grad.active, out)
    return SpikesGrad(out, grad.closest)


def joined(kernel, shape, graded, first, second):
    """Lists with the entries of two others."""
    room = first.indices.size + second.indices.size
    return listed(kernel, shape, room, graded, (first, second), (1, first, second))


def listed(kernel, shape, room, graded, given, source):
    """Row pointers, entries and values of the lists, one for each sample, that a kernel makes in two passes: it counts,
    then it writes. `source` tells where they begin, see `batch.accumulate`."""
    size, steps, n = shape
    if room >= 2**31:
        raise DeviceError(f"lists for {room:,} events or active sites: the most are 2^31; take smaller batches")
    ptr, indices = full((size, steps + 1), np.int32, 0), memory.empty(room, index_dtype(n))
    values = memory.empty(room, np.float32) if graded else nothing(np.float32, 1)
    jit.start(kernel, size * steps, jit.BLOCK, steps, True, *given, ptr, indices, values)
    jit.start(batch.accumulate, jit.blocks(size), jit.FLAT, *source, ptr)
    jit.start(kernel, size * steps, jit.BLOCK, steps, False, *given, ptr, indices, values)
    return ptr, indices, values


def derived(ptr, indices, n, dtype) -> DeviceActive:
    """An active set that follows from others: it has sites, and no u of its own."""
    return DeviceActive(ptr, indices, nothing(dtype, 1), np.inf, 1, n)


def rows_of_sites(active) -> Rows:
    """Active sites as kernels take events."""
    return Rows(active.ptr, active.indices, nothing(np.float32, 1), active.tiles, active.width, 0)


def no_rows(size, steps) -> Rows:
    """Lists without entries; without steps, no lists at all."""
    ptr = full((size, steps + 1), np.int32, 0) if steps else nothing(np.int32, 2)
    return Rows(ptr, nothing(np.uint16, 1), nothing(np.float32, 1), 1, jit.MAX_NEURONS, 0)
