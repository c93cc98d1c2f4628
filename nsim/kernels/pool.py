"""Pooling of listed events: from rows of events to rows of pooled events, and from pooled sites back.

What one step needs lies in scratch of the pooled picture's size, which is cleared by walking the lists again.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from nsim.kernels.bits import append_bits
from nsim.kernels.jit import LANES, inlined, kernel

ONE = np.uint64(1)


class Grid(NamedTuple):
    """Which windows each place lies in: reach_y, reach_x int32 [H or W, 2 or more] hold the first and their number."""

    reach_y: np.ndarray
    reach_x: np.ndarray
    channels: int
    width_out: int
    stride: tuple
    padding: tuple


class Scratch(NamedTuple):
    """Of one group of samples: amount and best [N_out], winner [N_out], mask [N_out / 64], places [N_out]."""

    amount: np.ndarray
    best: np.ndarray
    winner: np.ndarray
    mask: np.ndarray
    places: np.ndarray


@inlined
def of_group(scratch, k):
    return Scratch(scratch.amount[k], scratch.best[k], scratch.winner[k], scratch.mask[k], scratch.places[k])


@inlined
def place_of(grid, n):
    """Row, column and channel of a neuron."""
    place, c = n // grid.channels, n % grid.channels
    width = grid.reach_x.shape[0]
    return place // width, place % width, c


@inlined
def leads(grid, y, x, oy, ox):
    """Whether (y, x) is the first place of the window (oy, ox) that lies in the picture."""
    return y == max(0, oy * grid.stride[0] - grid.padding[0]) and x == max(0, ox * grid.stride[1] - grid.padding[1])


@inlined
def run_of_equals(events, j, end):
    """The end of the events that name the same neuron as event j, and their summed size."""
    total, k = np.float32(0), j
    while k < end and events.indices[k] == events.indices[j]:
        total += events.values[k] if events.values.shape[0] > 0 else np.float32(1)
        k += 1
    return k, total


@register_jitable
def collect(row, events, grid, largest, s):
    """Sum (or largest) of the events of a row in each window, in s.amount; s.mask names the windows that have one."""
    j, end = events.indptr[row], events.indptr[row + 1]
    while j < end:
        n = np.int64(events.indices[j])
        y, x, c = place_of(grid, n)
        j, size = run_of_equals(events, j, end)
        for oy in range(grid.reach_y[y, 0], grid.reach_y[y, 0] + grid.reach_y[y, 1]):
            for ox in range(grid.reach_x[x, 0], grid.reach_x[x, 0] + grid.reach_x[x, 1]):
                m = (oy * grid.width_out + ox) * grid.channels + c
                s.amount[m] = max(s.amount[m], size) if largest else s.amount[m] + size
                s.mask[m // LANES] |= ONE << np.uint64(m % LANES)


@register_jitable
def emptied(s):
    """The windows that s.mask names, ascending, in s.places; clears the mask and returns their number."""
    found = 0
    for word in range(s.mask.shape[0]):
        if s.mask[word] != 0:
            found = append_bits(s.mask[word], word * LANES, s.places, found)
            s.mask[word] = 0
    return found


@kernel
def pool(first, last, batch, steps, events, grid, largest, once, scale, scratch, indptr, indices, values):
    """Pooled events of each row. Without room in `indices` their number goes to indptr[row + 1]; with it they are
    written from indptr[row] on: as many of 1 as the amount says, or, with `values` or `once`, one for each window."""
    groups, counting, graded = scratch.amount.shape[0], indices.shape[0] == 0, values.shape[0] > 0
    for group in range(first, last):
        s = of_group(scratch, group)
        for b in range(group, batch, groups):
            for row in range(b * steps, (b + 1) * steps):
                collect(row, events, grid, largest, s)
                total = 0
                for k in range(emptied(s)):
                    m = s.places[k]
                    copies = 1 if once else int(s.amount[m])
                    if not counting:
                        at = indptr[row] + total
                        for copy in range(copies):
                            indices[at + copy] = m
                        if graded:
                            values[at] = s.amount[m] * scale
                    total += copies
                    s.amount[m] = 0
                if counting:
                    indptr[row + 1] = total


@register_jitable
def find_winners(row, events, grid, s, clear):
    """The first of the largest places of each window with an event in s.winner, its size in s.best; or clear these."""
    j, end = events.indptr[row], events.indptr[row + 1]
    while j < end:
        n = np.int64(events.indices[j])
        y, x, c = place_of(grid, n)
        j, size = run_of_equals(events, j, end)
        for oy in range(grid.reach_y[y, 0], grid.reach_y[y, 0] + grid.reach_y[y, 1]):
            for ox in range(grid.reach_x[x, 0], grid.reach_x[x, 0] + grid.reach_x[x, 1]):
                m = (oy * grid.width_out + ox) * grid.channels + c
                if clear:
                    s.best[m] = 0
                elif size > s.best[m]:
                    s.best[m], s.winner[m] = size, n


@inlined
def gathered(n, grid, largest, scale, source, s):
    """dL/ds at neuron n from that of its windows, `source` [N_out]."""
    y, x, c = place_of(grid, n)
    total = scale - scale
    for oy in range(grid.reach_y[y, 0], grid.reach_y[y, 0] + grid.reach_y[y, 1]):
        for ox in range(grid.reach_x[x, 0], grid.reach_x[x, 0] + grid.reach_x[x, 1]):
            m = (oy * grid.width_out + ox) * grid.channels + c
            if not largest or (s.winner[m] == n if s.best[m] > 0 else leads(grid, y, x, oy, ox)):
                total += scale * source[m]
    return total


@kernel
def pool_adjoint(first, last, batch, steps, events, grid, largest, scale, scratch, source, above, grad, below, out):
    """out[j], dL/ds at the sites `below` (indptr, indices), from grad[k] at the pooled sites `above`.

    Every window of a site below is a site above, so `source` [groups, N_out] need not be cleared between rows.
    """
    (above_ptr, above_places), (below_ptr, below_places) = above, below
    groups = source.shape[0]
    for group in range(first, last):
        s, own = of_group(scratch, group), source[group]
        for b in range(group, batch, groups):
            for row in range(b * steps, (b + 1) * steps):
                if largest:
                    find_winners(row, events, grid, s, False)
                for k in range(above_ptr[row], above_ptr[row + 1]):
                    own[above_places[k]] = grad[k]
                for j in range(below_ptr[row], below_ptr[row + 1]):
                    out[j] = gathered(np.int64(below_places[j]), grid, largest, scale, own, s)
                if largest:
                    find_winners(row, events, grid, s, True)


@kernel
def pool_adjoint_dense(first, last, batch, steps, events, grid, largest, scale, scratch, grad, out):
    """The same where all sites are active: grad [B * T, N_out] to out [B * T, N_in]."""
    groups = scratch.best.shape[0]
    for group in range(first, last):
        s = of_group(scratch, group)
        for b in range(group, batch, groups):
            for row in range(b * steps, (b + 1) * steps):
                if largest:
                    find_winners(row, events, grid, s, False)
                source = grad[row]
                for n in range(out.shape[1]):
                    out[row, n] = gathered(n, grid, largest, scale, source, s)
                if largest:
                    find_winners(row, events, grid, s, True)
