"""Work on the rows of a weight matrix that a list of events names, and plain loops over the rows of others.

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
def copy_row(target, t, source):
    """target[t] = source, as a plain loop: Numba's own assignment checks for overlap each time."""
    for k in range(target.shape[1]):
        target[t, k] = source[k]


@inlined
def clear(grad_w, grad_rec, grad_b, grad_p, zero):
    """The sums of one group, by the thread that adds to them next: then they lie in its cache."""
    fill(grad_w, zero)
    fill(grad_rec, zero)
    fill(grad_p, zero)
    for k in range(grad_b.shape[0]):
        grad_b[k] = zero


@inlined
def fill(target, value):
    """Every entry of a matrix."""
    for t in range(target.shape[0]):
        for k in range(target.shape[1]):
            target[t, k] = value
