"""Pooling of listed events: from the lists of a step to those of pooled events, and from pooled sites back.

A block is one step of one sample, and no step waits for another. A thread is a window and finds the events of its
places by bisection; the maximum's gradient finds them again, so that nothing is kept for it.
"""

import numpy as np
from numba import int32

from nsim_cuda.jit import BLOCK, cuda, inlined, quotient
from nsim_cuda.lists import found, length
from nsim_cuda.windows import covered, place_of, windows_over


@inlined
def size_at(events, b, t, n):
    """Number of the events of a neuron, and their summed size."""
    j, hi = found(events, b, t, n)
    number, size = 0, np.float32(0)
    while j < hi and events.indices[j] == n:
        size += events.values[j] if events.values.shape[0] > 0 else np.float32(1)
        number += 1
        j += 1
    return number, size


@inlined
def collected(events, b, t, grid, m, largest):
    """Number of the events in window m, and the sum (or the largest) of the sizes of its places."""
    place = quotient(m, grid.channels)
    c, oy = m - place * grid.channels, quotient(place, grid.x.out)
    y0, y1, _ = covered(grid.y, oy)
    x0, x1, _ = covered(grid.x, place - oy * grid.x.out)
    events_there, amount = 0, np.float32(0)
    for y in range(y0, y1):
        for x in range(x0, x1):
            number, size = size_at(events, b, t, (y * grid.x.size + x) * grid.channels + c)
            events_there += number
            amount = max(amount, size) if largest else amount + size
    return events_there, amount


@cuda.jit
def pool(steps, counting, events, grid, largest, once, scale, ptr, indices, values):
    """Pooled events of each step. Counting, their number is added to ptr[b, t + 1]; else they are written from
    ptr[b, t] on: as many of 1 as the amount says, or, with `values` or `once`, one for each window."""
    b = cuda.blockIdx.x // steps
    t = cuda.blockIdx.x - b * steps
    tid, threads = cuda.threadIdx.x, cuda.blockDim.x
    copies = cuda.shared.array(BLOCK, int32)
    windows = grid.y.out * grid.x.out * grid.channels
    if length(events, b, t) == 0:
        return
    if counting:
        total = 0
        for m in range(tid, windows, threads):
            number, amount = collected(events, b, t, grid, m, largest)
            if number > 0:
                total += 1 if once else int(amount)
        cuda.atomic.add(ptr, (b, t + 1), np.int32(total))
        return
    k = ptr[b, t]
    for start in range(0, windows, threads):
        m = start + tid
        number, amount = 0, np.float32(0)
        if m < windows:
            number, amount = collected(events, b, t, grid, m, largest)
        own = 0
        if number > 0:
            own = 1 if once else int(amount)
        copies[tid] = own
        cuda.syncthreads()
        place = k
        for w in range(threads):
            if w < tid:
                place += copies[w]
            k += copies[w]
        for copy in range(own):
            indices[place + copy] = m
            if values.shape[0] > 0:
                values[place + copy] = amount * scale
        cuda.syncthreads()


@inlined
def wins(events, b, t, grid, n, oy, ox):
    """Whether neuron n is the first of the largest places of a window, row by row; the first of all where none
    fired."""
    _, _, c = place_of(grid, n)
    _, own = size_at(events, b, t, n)
    y0, y1, _ = covered(grid.y, oy)
    x0, x1, _ = covered(grid.x, ox)
    for y in range(y0, y1):
        for x in range(x0, x1):
            other = (y * grid.x.size + x) * grid.channels + c
            if other != n:
                _, size = size_at(events, b, t, other)
                if size > own or (size == own and other < n):
                    return False
    return True


def make_gathered(source):
    """dL/ds at a neuron from that of its windows, which source(above, grad, b, t, m) finds."""

    @inlined
    def gathered(events, b, t, grid, n, largest, scale, above, grad):
        y, x, c = place_of(grid, n)
        (oy, rows), (ox, columns) = windows_over(grid.y, y), windows_over(grid.x, x)
        total = scale - scale
        for wy in range(oy, oy + rows):
            for wx in range(ox, ox + columns):
                if not largest or wins(events, b, t, grid, n, wy, wx):
                    total += scale * source(above, grad, b, t, (wy * grid.x.out + wx) * grid.channels + c)
        return total

    return gathered


@inlined
def listed(above, grad, b, t, m):
    """dL/ds at a pooled site: every window of a site below is one."""
    return grad[found(above, b, t, m)[0]]


@inlined
def dense(above, grad, b, t, m):
    """The same where all sites have one."""
    return grad[b, m]


gathered, gathered_dense = make_gathered(listed), make_gathered(dense)


@cuda.jit
def pool_adjoint(steps, events, grid, largest, scale, above, grad, below, out):
    """out[j], dL/ds at the sites `below`, from grad[k] at the pooled sites `above`."""
    b = cuda.blockIdx.x // steps
    t = cuda.blockIdx.x - b * steps
    for row in range(b * below.tiles, (b + 1) * below.tiles):
        for j in range(below.ptr[row, t] + cuda.threadIdx.x, below.ptr[row, t + 1], cuda.blockDim.x):
            out[j] = gathered(events, b, t, grid, int(below.indices[j]), largest, scale, above, grad)


@cuda.jit
def pool_adjoint_dense(events, grid, largest, scale, grad, out):
    """The same where all sites are active, of one step: grad [B, N_out] to out [B, N_in]."""
    b, n = cuda.blockIdx.x, cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if n < out.shape[1]:
        out[b, n] = gathered_dense(events, b, 0, grid, n, largest, scale, events, grad)
