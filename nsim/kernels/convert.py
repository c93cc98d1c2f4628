"""Converted networks: drive by events, integration and firing of one population of one sample over a chunk of steps.

The same kernels serve all codes. What a step does, and how large its spikes are, stands in `Steps`; sizes are in
units of the threshold, which is 1. Events are rows, one for each step of a chunk; a row need not be ascending.
"""

from typing import NamedTuple

import numpy as np

from nsim.kernels.bits import above, append_bits
from nsim.kernels.jit import LANES, inlined, kernel
from nsim.kernels.runs import add_run


class Events(NamedTuple):
    """What a population sent: indptr int64 [steps + 1], indices uint32; values float32, empty where all are alike."""

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray


class Taps(NamedTuple):
    """The weights of a convolution, as in `nsim.kernels.conv`, with what each place reaches worked out beforehand.

    rows [C_in * kh, kw * C_out / groups]. spots int32 [places, 4]: first neuron out, position of the first tap, number
    of rows and of places in a row. inverse: 2^40 / channels, rounded up: (n * inverse) >> 40 is the place of neuron n.
    """

    rows: np.ndarray
    spots: np.ndarray
    channels: int
    inverse: int
    height: int
    channels_out: int
    width_out: int
    groups: int


class Edge(NamedTuple):
    """Events and the weights that they meet: taps, or, where starts is not empty, compressed sparse rows."""

    events: Events
    taps: Taps
    starts: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


class Steps(NamedTuple):
    """What a population does in each step of a run, arrays [T].

    size: of this step's spikes, and what firing subtracts. into, out: membrane that takes input, that fires; -1 for
    none. clear: the membrane `into` is first set to `start`. share, picture: so much of that row of the analog drive
    is added. fresh: the spikes of a new value begin.
    """

    size: np.ndarray
    into: np.ndarray
    out: np.ndarray
    clear: np.ndarray
    start: np.ndarray
    share: np.ndarray
    picture: np.ndarray
    fresh: np.ndarray


class Pooling(NamedTuple):
    """A maximum pooling: for each place (y, x) of the source its first window and their number; the windows."""

    reach_y: np.ndarray
    reach_x: np.ndarray
    shape: tuple
    shape_out: tuple
    kernel: tuple
    stride: tuple
    before: tuple


@inlined
def split(taps, index):
    """Place and channel of a neuron."""
    place = np.int64((np.uint64(index) * np.uint64(taps.inverse)) >> np.uint64(40))
    return place, np.int64(index) - place * taps.channels


@inlined
def spread(x, row, taps, events, lo, hi, size):
    """x[row] += the weights of events of a convolution, in runs over all output channels of a row of places."""
    graded = events.values.shape[0] > 0
    stride, out = taps.rows.shape[1], taps.channels_out
    base, depth, down = row * x.shape[1], taps.height * stride, taps.width_out * out
    for j in range(lo, hi):
        place, c = split(taps, events.indices[j])
        at, tap = base + taps.spots[place, 0], c * depth + taps.spots[place, 1]
        length = np.int64(taps.spots[place, 3]) * out
        a = events.values[j] if graded else size
        for i in range(taps.spots[place, 2]):
            add_run(x, at + i * down, taps.rows, tap + i * stride, length, a)


@inlined
def spread_groups(x, row, taps, events, lo, hi, size):
    """The same with groups: in runs over the output channels of one group at one place."""
    graded = events.values.shape[0] > 0
    stride, inner = taps.rows.shape[1], taps.channels_out // taps.groups
    base, members = row * x.shape[1], taps.channels // taps.groups
    for j in range(lo, hi):
        place, c = split(taps, events.indices[j])
        at = base + taps.spots[place, 0] + c // members * inner
        tap = c * taps.height * stride + taps.spots[place, 1]
        a = events.values[j] if graded else size
        for i in range(taps.spots[place, 2]):
            for k in range(taps.spots[place, 3]):
                to = at + (i * taps.width_out + k) * taps.channels_out
                add_run(x, to, taps.rows, tap + i * stride + k * inner, inner, a)


@inlined
def spread_rows(x, row, edge, lo, hi, size):
    """x[row] += the rows of a sparse matrix."""
    events = edge.events
    graded = events.values.shape[0] > 0
    for j in range(lo, hi):
        index = events.indices[j]
        a = events.values[j] if graded else size
        for i in range(edge.starts[index], edge.starts[index + 1]):
            x[row, edge.targets[i]] += a * edge.weights[i]


@inlined
def deliver(x, row, edges, t, size):
    """x[row] += the drive of all events of row t of the edges, which are `size` large where they have no values."""
    for edge in edges:
        lo, hi = edge.events.indptr[t], edge.events.indptr[t + 1]
        if edge.starts.shape[0] > 0:
            spread_rows(x, row, edge, lo, hi, size)
        elif edge.taps.groups == 1:
            spread(x, row, edge.taps, edge.events, lo, hi, size)
        else:
            spread_groups(x, row, edge.taps, edge.events, lo, hi, size)


@inlined
def add_drive(x, row, drive, picture, share):
    """x[row] += share * one picture of the drive; a drive that does not depend on the images has a single one."""
    picture = min(picture, drive.shape[0] - 1)
    for n in range(x.shape[1]):
        x[row, n] += share * drive[picture, n]


@inlined
def take(v, edges, drive, steps, t, row):
    """Everything that comes in during step t, of which the events lie in this row of the chunk."""
    into = steps.into[t]
    if steps.clear[t]:
        for n in range(v.shape[1]):
            v[into, n] = steps.start[t]
    if steps.share[t] != 0:
        add_drive(v, into, drive, steps.picture[t], steps.share[t])
    deliver(v, into, edges, row, steps.size[t])


@inlined
def fire(v, row, size, u, indices, filled):
    """Spikes of all neurons with v >= size, which is subtracted; returns the new number of events."""
    below = np.nextafter(size, np.float32(0))  # v > below is v >= size
    for start in range(0, v.shape[1], LANES):
        part = v[row, start : start + LANES]
        for k in range(LANES):
            u[k] = part[k] - below
            part[k] = part[k] - size if part[k] > below else part[k]
        filled = append_bits(above(u, 0, 0), start, indices, filled)
    return filled


@inlined
def fire_valued(v, row, size, most, back, sent, u, events, filled):
    """Up to `most` spikes at once, or up to `back` negative ones for those sent too much; returns the new number."""
    for start in range(0, v.shape[1], LANES):
        part, before = v[row, start : start + LANES], sent[start : start + LANES]
        for k in range(LANES):
            count = max(min(np.floor(part[k] / size), most), -min(before[k], back))
            u[k] = abs(count)
            u[LANES + k] = count * size
            part[k] -= count * size
            before[k] += count
        first = filled
        filled = append_bits(above(u, 0, 0), start, events.indices, filled)
        for j in range(first, filled):
            events.values[j] = u[LANES + events.indices[j] - start]
    return filled


@kernel
def advance(v, edges, drive, steps, first, last, u, events):
    """Steps first to last of a population with membranes v [1 or 2, N]; `events` receives its spikes."""
    filled = 0
    events.indptr[0] = 0
    for t in range(first, last):
        if steps.into[t] >= 0:
            take(v, edges, drive, steps, t, t - first)
        if steps.out[t] >= 0:
            filled = fire(v, steps.out[t], steps.size[t], u, events.indices, filled)
        events.indptr[t - first + 1] = filled


@kernel
def advance_valued(v, edges, drive, steps, first, last, most, back, sent, u, events):
    """As `advance`, with negative spikes and bursts; sent [N] counts what each neuron has sent."""
    filled = 0
    events.indptr[0] = 0
    for t in range(first, last):
        if steps.into[t] >= 0:
            take(v, edges, drive, steps, t, t - first)
        if steps.out[t] >= 0:
            filled = fire_valued(v, steps.out[t], steps.size[t], most, back, sent, u, events, filled)
        events.indptr[t - first + 1] = filled


@kernel
def pass_on(x, edges, steps, first, last, events):
    """A linear node between two others: its value in each step, x [1, N], as graded events."""
    filled = 0
    events.indptr[0] = 0
    for t in range(first, last):
        came = False
        for edge in edges:
            came |= edge.events.indptr[t - first] < edge.events.indptr[t - first + 1]
        if came:
            deliver(x, 0, edges, t - first, steps.size[t])
            for n in range(x.shape[1]):
                if x[0, n] != 0:
                    events.indices[filled] = n
                    events.values[filled] = x[0, n]
                    filled += 1
                    x[0, n] = 0
        events.indptr[t - first + 1] = filled


@kernel
def read_out(x, edges, drive, steps, first, last):
    """x[t - first] = what comes in during step t."""
    for t in range(first, last):
        for n in range(x.shape[1]):
            x[t - first, n] = 0
        if steps.into[t] >= 0:
            if steps.share[t] != 0:
                add_drive(x, t - first, drive, steps.picture[t], steps.share[t])
            deliver(x, t - first, edges, t - first, steps.size[t])


@inlined
def largest(level, pooling, y, x, c):
    """Maximum of window (y, x) of channel c."""
    height, width, channels = pooling.shape
    top, left = y * pooling.stride[0] - pooling.before[0], x * pooling.stride[1] - pooling.before[1]
    best = np.float32(-np.inf)
    for i in range(max(top, 0), min(top + pooling.kernel[0], height)):
        for j in range(max(left, 0), min(left + pooling.kernel[1], width)):
            best = max(best, level[(i * width + j) * channels + c])
    return best


@kernel
def pool_maximum(level, best, source, pooling, steps, first, last, events):
    """Graded events of the largest value sent so far in each window; `level` and `best` hold source and windows."""
    _, width, channels = pooling.shape
    _, width_out, _ = pooling.shape_out
    filled, graded = 0, source.values.shape[0] > 0
    events.indptr[0] = 0
    for t in range(first, last):
        lo, hi = source.indptr[t - first], source.indptr[t - first + 1]
        if steps.fresh[t]:
            level[:] = 0
            best[:] = 0
        for j in range(lo, hi):
            level[source.indices[j]] += source.values[j] if graded else steps.size[t]
        for j in range(lo, hi):
            place, c = source.indices[j] // channels, source.indices[j] % channels
            down, across = pooling.reach_y[place // width], pooling.reach_x[place % width]
            for y in range(down[0], down[0] + down[1]):
                for x in range(across[0], across[0] + across[1]):
                    n = (y * width_out + x) * channels + c
                    now = largest(level, pooling, y, x, c)
                    if now != best[n]:
                        events.indices[filled] = n
                        events.values[filled] = now - best[n]
                        filled += 1
                        best[n] = now
        events.indptr[t - first + 1] = filled
