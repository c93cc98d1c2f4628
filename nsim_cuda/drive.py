"""The synaptic drive of one neuron and step, x[t] = W^T s_in[t + offset] + b, and its adjoint.

Events and active sites lie in lists of samples and, in layers of many neurons, of their tiles: the entries of step t
are ptr[b * tiles + k, t] to ptr[b * tiles + k, t + 1] - 1, ascending over k and within.
"""

from typing import NamedTuple

from nsim_cuda.jit import WARP, cuda, inlined
from nsim_cuda.rows import add_rows, add_to_rows

TEAM_ROUNDS = 2  # rounds of teams after which a thread for each site is faster


class Rows(NamedTuple):
    """Events; step t of the layer reads their step t + offset. `values` may be empty."""

    ptr: object
    indices: object
    values: object
    tiles: int
    offset: int


class Sites(NamedTuple):
    """Active sites below the layer and where their gradient goes; `grad` is empty where nothing below wants one."""

    ptr: object
    indices: object
    grad: object
    tiles: int


@inlined
def drive(x, b, t, n, events, weight, one):
    """x plus what neuron n of sample b receives at step t."""
    s = t + events.offset
    if s >= 0:
        for k in range(b * events.tiles, (b + 1) * events.tiles):
            x = add_rows(x, weight, n, events, events.ptr[k, s], events.ptr[k, s + 1], one)
    return x


@inlined
def drive_adjoint(grad_w, dx, b, t, columns, lane, lanes, events, one):
    """Add dL/dx of step t, at the columns (start, stop, stride) of this thread, to the rows of the input events."""
    s = t + events.offset
    if s >= 0:
        for k in range(b * events.tiles, (b + 1) * events.tiles):
            lo, hi = events.ptr[k, s], events.ptr[k, s + 1]
            for n in range(columns[0], columns[1], columns[2]):
                add_to_rows(grad_w, n, dx[n], events, lo, hi, lane, lanes, one)


@inlined
def dot_rows(out, by_row, weight, rows, lo, hi, dx, n, partial, zero):
    """out[j] (or out[rows[j]]) += weight[rows[j]] . dx for j from lo to hi. Called by all threads of a block.

    A team of 32 threads takes a site, as the row then is read at once; where there are many sites, a thread does.
    """
    tid, threads = cuda.threadIdx.x, cuda.blockDim.x
    teams = threads // WARP
    if hi - lo > TEAM_ROUNDS * teams:
        for j in range(lo + tid, hi, threads):
            r = int(rows[j])
            d = zero
            for k in range(n):
                d += weight[r, k] * dx[k]
            out[r if by_row else j] += d
        cuda.syncthreads()
        return
    team, lane = tid // WARP, tid % WARP
    for start in range(lo, hi, teams):
        j = start + team
        d = zero
        if j < hi:
            r = int(rows[j])
            for k in range(lane, n, WARP):
                d += weight[r, k] * dx[k]
        partial[tid] = d
        cuda.syncthreads()
        if j < hi and lane == 0:
            d = zero
            for k in range(tid, tid + WARP):
                d += partial[k]
            out[int(rows[j]) if by_row else j] += d
        cuda.syncthreads()
