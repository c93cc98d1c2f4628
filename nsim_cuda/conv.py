"""The synaptic drive of one neuron and step of a convolution, and its adjoint: the twins of `nsim_cuda/drive.py`.

A neuron's window is a few runs of neighbouring inputs, and the events of a step ascend: bisection finds those of a run,
which are the only ones that are read. Of 3 x 3 x 32 inputs at 2 % these are 6 of the 500 events that a 28 x 28 picture
has in a step, for 6 bisections of 3 to 9 reads each; a walk over all events would be 500 reads for each neuron. All
channels of a place read the same entries at once, and neighbouring weights of one row. Scattering events into shared
memory would take adds that two threads may make to one neuron: atomics on floats.

The weights are [kh * kw * C_in / groups, C_out], the order in which the layer keeps them: there is nothing to pack.
"""

from typing import NamedTuple

from nsim_cuda.drive import make_dot_rows
from nsim_cuda.jit import cuda, inlined, quotient
from nsim_cuda.lists import first_from
from nsim_cuda.rows import add_rows
from nsim_cuda.windows import Grid, covered, grid_of, place_of, window_with, windows_over

RECURRENT = False
WHOLE = True  # neurons of all places share their weights: a block of the backward sweep has them all


class Taps(NamedTuple):
    """The weights of a convolution, rows [kh * kw * C_in / groups, C_out], and what they connect."""

    rows: object
    grid: Grid
    channels_out: int
    groups: int


def kernel_weight(layer) -> Taps:
    """The weights of a layer as kernels take them."""
    rows = layer.weight.data.reshape(-1, layer.out_channels)
    return Taps(rows, grid_of(layer.windows, layer.in_channels), layer.out_channels, layer.groups)


@inlined
def of_a_group(weight):
    """Input and output channels of a group."""
    return quotient(weight.grid.channels, weight.groups), quotient(weight.channels_out, weight.groups)


@inlined
def add_run(x, weight, k, events, b, s, start, stop, shift, one):
    """x + sum of value * weight[n + shift, k] over the events at step s of the neurons n from start to stop - 1."""
    if start < stop:
        for tile in range(quotient(start, events.width), quotient(stop - 1, events.width) + 1):
            row = b * events.tiles + tile
            end = events.ptr[row, s + 1]
            lo = first_from(events.indices, events.ptr[row, s], end, start)
            x = add_rows(x, weight, k, events, lo, first_from(events.indices, lo, end, stop), shift, one)
    return x


@inlined
def drive(x, b, t, n, events, weight, one):
    """x plus what neuron n of sample b receives at step t."""
    s = t + events.offset
    if s < 0:
        return x
    grid, (inner, outer) = weight.grid, of_a_group(weight)
    place = quotient(n, weight.channels_out)
    k = n - place * weight.channels_out
    oy = quotient(place, grid.x.out)
    y0, y1, i = covered(grid.y, oy)
    x0, x1, j = covered(grid.x, place - oy * grid.x.out)
    group = quotient(k, outer)
    # One long run for each row of the window, or, with groups, one for each place.
    runs, size = (1, (x1 - x0) * inner) if weight.groups == 1 else (x1 - x0, inner)
    for y in range(y0, y1):
        for run in range(runs):
            start = (y * grid.x.size + x0 + run) * grid.channels + group * inner
            row = ((i + y - y0) * grid.x.kernel + j + run) * inner
            x = add_run(x, weight.rows, k, events, b, s, start, start + size, row - start, one)
    return x


@inlined
def split(lane, lanes, columns):
    """Threads as columns, and crews of threads for each: first column and their stride, own crew and the crews. A crew
    beyond the last has nothing to do."""
    stride = min(columns, lanes)
    own = quotient(lane, stride)
    return lane - own * stride, stride, own, quotient(lanes, stride)


@inlined
def add_to_taps(grad, dx, events, lo, hi, weight, one):
    """grad += value * dx where an event reaches, for the events lo to hi - 1 in their order.

    A weight has one owner, by its tap, its output channel within the group and, where that leaves threads, its input
    channel: no two threads add to one number, each sum has one order, and 32 threads write 32 neighbouring weights.
    """
    grid, (inner, outer) = weight.grid, of_a_group(weight)
    first, stride, crew, crews = split(cuda.threadIdx.x, cuda.blockDim.x, outer)
    taps = grid.y.kernel * grid.x.kernel
    tap0, tap_stride, crew, crews = split(crew, crews, taps)
    if crew >= crews:
        return
    for e in range(lo, hi):
        y, x, c = place_of(grid, int(events.indices[e]))
        if c - quotient(c, crews) * crews == crew:
            a = one * events.values[e] if events.values.shape[0] > 0 else one
            group = quotient(c, inner)
            tap = tap0
            while tap < taps:
                i = quotient(tap, grid.x.kernel)
                oy, ox = window_with(grid.y, y, i), window_with(grid.x, x, tap - i * grid.x.kernel)
                if oy >= 0 and ox >= 0:
                    source = (oy * grid.x.out + ox) * weight.channels_out
                    row = tap * inner + c - group * inner
                    k = group * outer + first
                    while k < (group + 1) * outer:
                        grad[row, k] += a * dx[source + k]
                        k += stride
                tap += tap_stride


@inlined
def dot_taps(weight, n, dx, _, lane, lanes, zero):
    """What a lane adds to the weights of an input neuron times dx where they reach."""
    grid, (inner, outer) = weight.grid, of_a_group(weight)
    first, stride, crew, crews = split(lane, lanes, outer)
    d = zero
    if crew < crews:
        y, x, c = place_of(grid, n)
        (oy, rows), (ox, columns) = windows_over(grid.y, y), windows_over(grid.x, x)
        group = quotient(c, inner)
        window = crew
        while window < rows * columns:
            down = quotient(window, columns)
            wy, wx = oy + down, ox + window - down * columns
            i, j = y + grid.y.padding - wy * grid.y.stride, x + grid.x.padding - wx * grid.x.stride
            row, source = (i * grid.x.kernel + j) * inner + c - group * inner, wy * grid.x.out + wx
            k = group * outer + first
            while k < (group + 1) * outer:
                d += weight.rows[row, k] * dx[source * weight.channels_out + k]
                k += stride
            window += crews
    return d


dot_sites = make_dot_rows(dot_taps)


@inlined
def drive_adjoint(grad_w, dx, b, t, share, events, weight, below, partial, one):
    """From dL/dx of step t: add to grad_w (rows as in Taps), and to the gradient of active sites below. Called by all
    threads of a block; `share` is for the dense twin."""
    s = t + events.offset
    if s < 0:
        return
    for k in range(b * events.tiles, (b + 1) * events.tiles):
        add_to_taps(grad_w, dx, events, events.ptr[k, s], events.ptr[k, s + 1], weight, one)
    if below.grad.shape[0] > 0:
        for k in range(b * below.tiles, (b + 1) * below.tiles):
            lo, hi = below.ptr[k, s], below.ptr[k, s + 1]
            dot_sites(below.grad, False, weight, below.indices, lo, hi, dx, 0, partial, one - one)
