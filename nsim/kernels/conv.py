"""The synaptic drive of a convolution and its adjoint: the twins of `nsim/kernels/drive.py`.

An event of input channel c at place (y, x) reaches a rectangle of output places. For each row of the rectangle the
weights lie side by side in memory, as do the neurons that they go to: an event is a few additions of long vectors.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from nsim.kernels.jit import inlined
from nsim.kernels.rows import copy_row

RECURRENT = False


class Taps(NamedTuple):
    """The weights of a convolution, and what each input place reaches.

    rows [C_in * kh, kw * C_out / groups]: row c * kh + i holds taps of input channel c, channels out innermost. Along
    each axis the taps stand in the order in which neighbouring places use them (see `nsim.windows`).
    reach_y, reach_x int32 [H or W, 3]: first output place, number of places, position of the first tap.
    """

    rows: np.ndarray
    reach_y: np.ndarray
    reach_x: np.ndarray
    channels: int
    channels_out: int
    groups: int
    width_out: int

    @property
    def shape(self):
        return self.rows.shape


@inlined
def reached(taps, index):
    """What an event of a neuron reaches: row and column of its first tap, number of rows, first neuron out, and the
    number and length of the runs in each row: one long run, or, with groups, one for each place."""
    n, channels = np.uint64(index), np.uint64(taps.channels)  # unsigned: no correction of the sign in a division
    place, c = n // channels, np.int64(n % channels)
    width = np.uint64(taps.reach_x.shape[0])
    y, x = taps.reach_y[place // width], taps.reach_x[place % width]
    inner = taps.channels_out // taps.groups
    kernel_height = taps.rows.shape[0] // taps.channels
    group = c // (taps.channels // taps.groups)
    first = (np.int64(y[0]) * taps.width_out + x[0]) * taps.channels_out + group * inner
    runs, length = (1, x[1] * inner) if taps.groups == 1 else (np.int64(x[1]), inner)
    return c * kernel_height + y[2], x[2] * inner, np.int64(y[1]), first, runs, length


@inlined
def add_run(to, i, start, source, j, begin, length, a):
    """Add to row i of `to` from `start` on a times row j of `source` from `begin` on."""
    if length == 1:  # depthwise; unsigned, since a signed index is first corrected for counting from the end
        to[i, np.uint64(start)] += a * source[j, np.uint64(begin)]
        return
    # Slices, since a signed index that is computed keeps the loop from being vectorised.
    target, values = to[i, start : start + length], source[j, begin : begin + length]
    for k in range(length):
        target[k] += a * values[k]


@inlined
def scatter(x, t, taps, index, a):
    """x[t] += a times the weights of one event."""
    row, column, rows, first, runs, length = reached(taps, index)
    for i in range(rows):
        for run in range(runs):
            start, tap = first + run * taps.channels_out, column + run * length
            add_run(x, t, start, taps.rows, row + i, tap, length, a)
        first += taps.width_out * taps.channels_out


@inlined
def scatter_adjoint(grad_rows, dx, t, taps, index, a):
    """grad_rows += a times what dx[t] holds where the event reaches."""
    row, column, rows, first, runs, length = reached(taps, index)
    for i in range(rows):
        for run in range(runs):
            start, tap = first + run * taps.channels_out, column + run * length
            add_run(grad_rows, row + i, tap, dx, t, start, length, a)
        first += taps.width_out * taps.channels_out


@inlined
def gather(dx, t, taps, index, zero):
    """The weights of one event times dx[t] where it reaches: dL/ds at its site."""
    row, column, rows, first, runs, length = reached(taps, index)
    total = zero
    for i in range(rows):
        for run in range(runs):
            start, tap = first + run * taps.channels_out, column + run * length
            if length == 1:
                total += taps.rows[row + i, np.uint64(tap)] * dx[t, np.uint64(start)]
            else:
                source, weight = dx[t, start : start + length], taps.rows[row + i, tap : tap + length]
                for k in range(length):
                    total += weight[k] * source[k]
        first += taps.width_out * taps.channels_out
    return total


@inlined
def scatter_events(x, t, taps, indices, values, lo, hi, one, graded):
    """x[t] += the drive of the events lo to hi of one step; `values` are their sizes where `graded`, else 1."""
    for j in range(lo, hi):
        scatter(x, t, taps, indices[j], one * values[j] if graded else one)


@register_jitable
def drive(x, b, t0, t1, events, weight, bias, frame, one):
    """x[t - t0] for the steps t0 to t1 of sample b. `weight` is Taps; `frame` is for the dense twin and empty."""
    for t in range(t0, t1):
        copy_row(x, t - t0, bias[0])
        if t + events.offset >= 0:
            row = b * events.steps + t + events.offset
            lo, hi = events.indptr[row], events.indptr[row + 1]
            scatter_events(x, t - t0, weight, events.indices, events.values, lo, hi, one, events.values.shape[0] > 0)


@register_jitable
def drive_adjoint(dx, b, t0, t1, events, weight, sites, grad_w, grad_b, frame, by_input, one):
    """From dx = dL/dx of a chunk: add to grad_w (rows as in Taps), to grad_b if not empty, and to the gradient of
    active sites below. `frame` and `by_input` are for the dense twin and empty."""
    for t in range(t1 - t0):
        for k in range(grad_b.shape[0]):
            grad_b[k] += dx[t, k]
    graded = events.values.shape[0] > 0
    for t in range(max(t0, -events.offset), t1):
        row = b * events.steps + t + events.offset
        for j in range(events.indptr[row], events.indptr[row + 1]):
            scatter_adjoint(grad_w, dx, t - t0, weight, events.indices[j], one * events.values[j] if graded else one)
        if sites.grad.shape[0] > 0:
            for j in range(sites.indptr[row], sites.indptr[row + 1]):
                sites.grad[j] += gather(dx, t - t0, weight, sites.indices[j], one - one)
        for n in range(sites.dense.shape[1]):
            sites.dense[row, n] = gather(dx, t - t0, weight, n, one - one)
