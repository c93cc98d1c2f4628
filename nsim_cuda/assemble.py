"""Events that lie on the device to sorted lists, a block for each sample; the twin of `nsim.kernels.assemble`.

Events are counted by step, dropped into their rows in any order, and then each finds its place in its row by counting
the smaller ones. Equal events cannot be told apart, so the result is the same whatever the order was.
"""

from __future__ import annotations

import numpy as np

from nsim.errors import EventError
from nsim.events import index_dtype
from nsim_cuda import jit, memory
from nsim_cuda.elementwise import full
from nsim_cuda.events import DeviceSpikes, check_size
from nsim_cuda.jit import cuda, inlined

LATE, DOUBLE = 0, 1


@inlined
def step_of(time, width, nearest):
    """Whole steps passed, or the nearest step, halves to even."""
    time = int(time)
    q = time // width
    if nearest:
        rest = 2 * (time - q * width)
        if rest > width or (rest == width and q % 2 == 1):
            q += 1
    return q


@inlined
def row_of(ptr, b, steps, j):
    """The step whose row holds entry j: the last one that begins at or before it and is not empty."""
    low, high = 0, steps
    while high - low > 1:
        middle = (low + high) // 2
        if ptr[b, middle] <= j:
            low = middle
        else:
            high = middle
    return low


@inlined
def is_first(indices, lo, j):
    """Whether a sorted entry is the first of its equals."""
    return j == lo or indices[j - 1] != indices[j]


@inlined
def cumulated(count, ptr, b, base, steps):
    """Row pointers from the entries of each step, which become the place of each row's first entry."""
    total = base
    for t in range(steps):
        own = count[b, t]
        ptr[b, t] = total
        count[b, t] = total
        total += own
    ptr[b, steps] = total


@cuda.jit
def sort(times, units, bounds, width, nearest, clamp, count, ptr, loose, indices, clamped, tally):
    """bounds [B, 3]: first and last event of a sample and the place of its first entry. The result is in ptr and
    indices, or with `clamp`, which keeps one event of equal ones, in clamped and loose."""
    b, tid, threads, steps = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x, count.shape[1]
    first, last, base = bounds[b, 0], bounds[b, 1], bounds[b, 2]
    for t in range(tid, steps, threads):
        count[b, t] = 0
    cuda.syncthreads()
    for j in range(first + tid, last, threads):
        q = step_of(times[j], width, nearest)
        if q >= 0 and q < steps:
            cuda.atomic.add(count, (b, q), 1)
        else:
            cuda.atomic.add(tally, LATE, 1)
    cuda.syncthreads()
    if tid == 0:
        cumulated(count, ptr, b, base, steps)
    cuda.syncthreads()
    for j in range(first + tid, last, threads):
        q = step_of(times[j], width, nearest)
        if q >= 0 and q < steps:
            loose[cuda.atomic.add(count, (b, q), 1)] = units[j]
    cuda.syncthreads()
    for j in range(ptr[b, 0] + tid, ptr[b, steps], threads):
        t = row_of(ptr, b, steps, j)
        place = ptr[b, t]
        for k in range(ptr[b, t], ptr[b, t + 1]):
            if loose[k] < loose[j] or (loose[k] == loose[j] and k < j):
                place += 1
        indices[place] = loose[j]
    for t in range(tid, steps, threads):
        count[b, t] = 0
    cuda.syncthreads()
    for j in range(ptr[b, 0] + tid, ptr[b, steps], threads):
        t = row_of(ptr, b, steps, j)
        if is_first(indices, ptr[b, t], j):
            if clamp:
                cuda.atomic.add(count, (b, t), 1)
        else:
            cuda.atomic.add(tally, DOUBLE, 1)
    if not clamp:
        return
    cuda.syncthreads()
    if tid == 0:
        cumulated(count, clamped, b, base, steps)
    cuda.syncthreads()
    for j in range(ptr[b, 0] + tid, ptr[b, steps], threads):
        t = row_of(ptr, b, steps, j)
        if is_first(indices, ptr[b, t], j):
            place = clamped[b, t]
            for k in range(ptr[b, t], j):
                if is_first(indices, ptr[b, t], k):
                    place += 1
            loose[place] = indices[j]


def resident(events, kept):
    """Times and units of a recording on the device; `kept` (a dict or None) remembers them for the next batch."""
    if kept is not None and "events" in kept and kept["events"][0] is events.times:
        return kept["events"][1]
    times, units = np.asarray(events.times), np.asarray(events.units)
    if units.size and int(units.max()) >= events.n:
        raise EventError(f"the recording has an event of unit {int(units.max())}; expected 0 to {events.n - 1}")
    narrow = times.dtype.itemsize <= 4 or (times.size == 0 or (times.min() >= 0 and times.max() < 2**31))
    found = (
        memory.put(times if times.size else np.zeros(1), np.int32 if narrow else np.int64),
        memory.put(units if units.size else np.zeros(1), index_dtype(events.n)),
    )
    if kept is not None:
        kept["events"] = events.times, found
    return found


def new_tally() -> memory.DeviceArray:
    """Counters of late events and of doubles, which `assemble` adds to: int32 [2]."""
    return full(2, np.int32, 0)


def assemble(events, first, last, *, width, steps, dt, nearest, clamp, tally, kept=None) -> DeviceSpikes:
    """Events first[b] to last[b] - 1 of a recording as a batch; see `nsim.kernels.assemble.assemble`."""
    first, last = np.asarray(first, np.int64), np.asarray(last, np.int64)
    return _sorted(
        *resident(events, kept), first, last, width=width, nearest=nearest, clamp=clamp, tally=tally, dt=dt,
        shape=(len(first), steps, events.n), space=events.space,
    )  # fmt: skip


def _sorted(times, units, first, last, *, width, nearest, clamp, tally, shape, dt, space):
    batch, steps, n = shape
    ends = np.cumsum(last - first)
    total = int(ends[-1])
    check_size(shape, total)
    bounds = memory.put(np.stack([first, last, ends - (last - first)], axis=1), np.int64)
    count, ptr = memory.empty((batch, steps), np.int32), memory.empty((batch, steps + 1), np.int32)
    clamped = memory.empty(ptr.shape if clamp else (1, 1), np.int32)
    loose, indices = (memory.empty(memory.roomy(total), index_dtype(n)) for _ in range(2))
    jit.start(
        sort, batch, jit.BLOCK, times, units, bounds, width, nearest, clamp, count, ptr, loose, indices, clamped, tally
    )
    rows = (clamped, loose) if clamp else (ptr, indices)
    return DeviceSpikes(*rows, shape, dt=dt, space=space)


@cuda.jit
def first_spikes(pixels, table, size, times, units):
    """Time and unit of the first spike of each pixel of all pictures."""
    for i in range(cuda.grid(1), times.shape[0], cuda.gridsize(1)):
        times[i] = table[int(pixels[i])]
        units[i] = i % size


def latency(images, table, *, width, steps, dt) -> DeviceSpikes:
    """Pictures [S, H, W] of bytes to spikes; table [256] has the time of the first spike of each value, in
    microseconds.

    See `nsim.datasets.latency_spikes`.
    """
    images = images if isinstance(images, memory.DeviceArray) else memory.put(images, np.uint8)
    count, height, across = images.shape
    size = height * across
    times, units = memory.empty(images.size, np.int32), memory.empty(images.size, index_dtype(size))
    jit.start(
        first_spikes,
        jit.blocks(times.size),
        jit.FLAT,
        images.reshape(-1),
        memory.put(table, np.int32),
        size,
        times,
        units,
    )
    first = np.arange(count, dtype=np.int64) * size
    return _sorted(
        times, units, first, first + size, width=width, nearest=False, clamp=False, tally=new_tally(), dt=dt,
        shape=(count, steps, size), space=(height, across, 1),
    )  # fmt: skip
