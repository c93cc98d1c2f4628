"""Work on the rows of a weight matrix that a list of events names; several rows a pass load the other operand once.

`rows` are the events of one step, entries lo to hi of an index array; `values` are their sizes, or empty for 1 each.
The dense operand is row t of a matrix.
"""

from nsim.kernels.blocks import spread_row, sum_rows
from nsim.kernels.jit import inlined


@inlined
def add_rows(x, t, start, s, weight, rows, values, lo, hi):
    """x[t] = start[s] + sum of value * weight[row] over the events."""
    if values.shape[0] > 0:
        sum_rows(x, t, start, s, weight, rows, values, lo, hi)
    else:
        sum_rows(x, t, start, s, weight, rows, None, lo, hi)


@inlined
def add_to_rows(grad, x, t, rows, values, lo, hi):
    """grad[row] += value * x[t] for the events."""
    if values.shape[0] > 0:
        spread_row(grad, x, t, rows, values, lo, hi)
    else:
        spread_row(grad, x, t, rows, None, lo, hi)


@inlined
def dot_rows(out, start, weight, rows, lo, hi, x, t, zero):
    """out[start + j - lo] += weight[rows[j]] . x[t] for j from lo to hi."""
    n = x.shape[1]
    j = lo
    while j + 4 <= hi:
        r0, r1, r2, r3 = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        d0, d1, d2, d3 = zero, zero, zero, zero
        for k in range(n):
            d0 += weight[r0, k] * x[t, k]
            d1 += weight[r1, k] * x[t, k]
            d2 += weight[r2, k] * x[t, k]
            d3 += weight[r3, k] * x[t, k]
        at = start + j - lo
        out[at] += d0
        out[at + 1] += d1
        out[at + 2] += d2
        out[at + 3] += d3
        j += 4
    while j < hi:
        r0 = rows[j]
        d0 = zero
        for k in range(n):
            d0 += weight[r0, k] * x[t, k]
        out[start + j - lo] += d0
        j += 1


@inlined
def copy_row(target, t, source):
    """target[t] = source, as a plain loop: Numba's own assignment checks for overlap each time."""
    for k in range(target.shape[1]):
        target[t, k] = source[k]


@inlined
def fill(target, value):
    """Every entry of a matrix."""
    for t in range(target.shape[0]):
        for k in range(target.shape[1]):
            target[t, k] = value
