"""Work on the rows of a weight matrix that a list of events names; several rows a pass load the other operand once.

`rows` are the events of one step, entries lo to hi of an index array; `values` are their sizes where `graded`, else 1.
The dense operand is row t of a matrix: a view of it would count references, see borrow.py.
"""

from nsim.kernels.jit import inlined


@inlined
def add_rows(x, t, weight, rows, values, lo, hi, one, graded):
    """x[t] += sum of value * weight[row] over the events."""
    n = x.shape[1]
    a0, a1, a2, a3 = one, one, one, one
    j = lo
    while j + 4 <= hi:
        r0, r1, r2, r3 = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        if graded:
            a0, a1, a2, a3 = one * values[j], one * values[j + 1], one * values[j + 2], one * values[j + 3]
        for k in range(n):
            x[t, k] += (a0 * weight[r0, k] + a1 * weight[r1, k]) + (a2 * weight[r2, k] + a3 * weight[r3, k])
        j += 4
    while j < hi:
        r0 = rows[j]
        if graded:
            a0 = one * values[j]
        for k in range(n):
            x[t, k] += a0 * weight[r0, k]
        j += 1


@inlined
def add_to_rows(grad, x, t, rows, values, lo, hi, one, graded):
    """grad[row] += value * x[t] for the events. Two rows a pass; equal ones (a repeated event) are taken together."""
    n = x.shape[1]
    j = lo
    while j + 2 <= hi:
        r0, r1 = rows[j], rows[j + 1]
        a0, a1 = one, one
        if graded:
            a0, a1 = one * values[j], one * values[j + 1]
        if r0 == r1:
            for k in range(n):
                grad[r0, k] += (a0 + a1) * x[t, k]
        else:
            for k in range(n):
                grad[r0, k] += a0 * x[t, k]
                grad[r1, k] += a1 * x[t, k]
        j += 2
    if j < hi:
        r0 = rows[j]
        a0 = one * values[j] if graded else one
        for k in range(n):
            grad[r0, k] += a0 * x[t, k]


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
