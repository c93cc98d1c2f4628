"""The synaptic drive of one neuron and step, x[t] = W^T s_in[t + offset] + b, and its adjoint.

Events and active sites lie in lists of samples and, in layers of many neurons, of their tiles: the entries of step t
are ptr[b * tiles + k, t] to ptr[b * tiles + k, t + 1] - 1, ascending over k and within.
"""

from typing import NamedTuple

from nsim_cuda.jit import WARP, cuda, inlined
from nsim_cuda.rows import add_rows, add_to_rows

TEAM_ROUNDS = 2  # rounds of teams after which a thread for each site is faster
RECURRENT = True  # layers of this connection may have recurrent weights
WHOLE = False  # a block of the backward sweep may have some of the columns only


class Rows(NamedTuple):
    """Events; step t of the layer reads their step t + offset. `values` may be empty; a tile has `width` neurons."""

    ptr: object
    indices: object
    values: object
    tiles: int
    width: int
    offset: int


class Sites(NamedTuple):
    """Active sites below the layer and where their gradient goes; `grad` is empty where nothing below wants one."""

    ptr: object
    indices: object
    grad: object
    tiles: int


def kernel_weight(layer):
    """The weights of a layer as kernels take them."""
    return layer.weight.data


@inlined
def drive(x, b, t, n, events, weight, one):
    """x plus what neuron n of sample b receives at step t."""
    s = t + events.offset
    if s >= 0:
        for k in range(b * events.tiles, (b + 1) * events.tiles):
            x = add_rows(x, weight, n, events, events.ptr[k, s], events.ptr[k, s + 1], 0, one)
    return x


def make_dot_rows(dot):
    """From the share of a lane in one site, dot(weight, row, dx, n, lane, lanes), that of all sites of a list."""

    @inlined
    def dot_rows(out, by_row, weight, rows, lo, hi, dx, n, partial, zero):
        """out[j] (or out[rows[j]]) += weight[rows[j]] . dx for j from lo to hi. Called by all threads of a block.

        A team of 32 threads takes a site, as the row then is read at once; where there are many sites, a thread does.
        """
        tid, threads = cuda.threadIdx.x, cuda.blockDim.x
        teams = threads // WARP
        if hi - lo > TEAM_ROUNDS * teams:
            j = lo + tid
            while j < hi:
                r = int(rows[j])
                out[r if by_row else j] += dot(weight, r, dx, n, 0, 1, zero)
                j += threads
            cuda.syncthreads()
            return
        team, lane = tid // WARP, tid % WARP
        start = lo
        while start < hi:
            j = start + team
            partial[tid] = dot(weight, int(rows[j]), dx, n, lane, WARP, zero) if j < hi else zero
            cuda.syncthreads()
            if j < hi and lane == 0:
                d = zero
                for k in range(tid, tid + WARP):
                    d += partial[k]
                out[int(rows[j]) if by_row else j] += d
            cuda.syncthreads()
            start += teams

    return dot_rows


@inlined
def dot_row(weight, r, dx, n, lane, lanes, zero):
    """weight[r] . dx over every so-many-th of n columns."""
    d = zero
    k = lane
    while k < n:
        d += weight[r, k] * dx[k]
        k += lanes
    return d


dot_rows = make_dot_rows(dot_row)


@inlined
def drive_adjoint(grad_w, dx, b, t, share, events, weight, below, partial, one):
    """From dL/dx of step t: add to the rows of the input events in grad_w, and to the gradient of active sites below.

    Called by all threads of a block; `share` of a thread: its columns (first, stop, stride), its lane, the lanes."""
    first, last, stride, lane, lanes = share
    s = t + events.offset
    if s < 0:
        return
    if lane < lanes:
        for k in range(b * events.tiles, (b + 1) * events.tiles):
            lo, hi = events.ptr[k, s], events.ptr[k, s + 1]
            n = first
            while n < last:
                add_to_rows(grad_w, n, dx[n], events, lo, hi, lane, lanes, one)
                n += stride
    if below.grad.shape[0] > 0:
        for k in range(b * below.tiles, (b + 1) * below.tiles):
            lo, hi = below.ptr[k, s], below.ptr[k, s + 1]
            dot_rows(below.grad, False, weight, below.indices, lo, hi, dx, last, partial, one - one)
