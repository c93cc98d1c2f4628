"""One column of a weight matrix at the rows that a list of events names. A warp reads consecutive columns of one row.

`lo` to `hi` are the entries of one step in the lists of `events`; `values` are sizes where the array is not empty, else
1.
"""

from nsim_cuda.jit import inlined


@inlined
def add_rows(x, weight, n, events, lo, hi, shift, one):
    """x + sum of value * weight[row + shift, n] over the events. Four loads at a time: the sum waits for memory, not
    for adds."""
    rows, values = events.indices, events.values
    graded = values.shape[0] > 0
    j = lo
    while j + 4 <= hi:
        w0, w1 = weight[int(rows[j]) + shift, n], weight[int(rows[j + 1]) + shift, n]
        w2, w3 = weight[int(rows[j + 2]) + shift, n], weight[int(rows[j + 3]) + shift, n]
        if graded:
            w0, w1 = w0 * (one * values[j]), w1 * (one * values[j + 1])
            w2, w3 = w2 * (one * values[j + 2]), w3 * (one * values[j + 3])
        x += (w0 + w1) + (w2 + w3)
        j += 4
    while j < hi:
        w0 = weight[int(rows[j]) + shift, n]
        if graded:
            w0 *= one * values[j]
        x += w0
        j += 1
    return x


@inlined
def amount(events, j, lo, hi, one):
    """Summed size of the events that repeat the one at j, if it is the first of them; else 0."""
    rows, values = events.indices, events.values
    if j >= hi or (j > lo and rows[j - 1] == rows[j]):
        return one - one
    total, k = one - one, j
    while k < hi and rows[k] == rows[j]:
        total += one * values[k] if values.shape[0] > 0 else one
        k += 1
    return total


@inlined
def add_to_rows(grad, n, a, events, lo, hi, lane, lanes, one):
    """grad[row, n] += value * a. Of several lanes each takes every so-many-th event; no row is touched by two of them,
    as the first of equal events takes all. Four rows at a time: their loads do not wait for one another's stores."""
    rows, zero, last = events.indices, one - one, hi - 1
    j = lo + lane
    while j < hi:
        a0, a1 = amount(events, j, lo, hi, one), amount(events, j + lanes, lo, hi, one)
        a2, a3 = amount(events, j + 2 * lanes, lo, hi, one), amount(events, j + 3 * lanes, lo, hi, one)
        r0, r1 = int(rows[j]), int(rows[min(j + lanes, last)])
        r2, r3 = int(rows[min(j + 2 * lanes, last)]), int(rows[min(j + 3 * lanes, last)])
        g0, g1, g2, g3 = grad[r0, n], grad[r1, n], grad[r2, n], grad[r3, n]
        if a0 != zero:
            grad[r0, n] = g0 + a0 * a
        if a1 != zero:
            grad[r1, n] = g1 + a1 * a
        if a2 != zero:
            grad[r2, n] = g2 + a2 * a
        if a3 != zero:
            grad[r3, n] = g3 + a3 * a
        j += 4 * lanes
