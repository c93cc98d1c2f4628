"""Finding entries in lists: those of a sample and step ascend, over its tiles and within each. See `drive.Rows`."""

from nsim_cuda.jit import inlined, quotient


@inlined
def first_from(indices, lo, hi, n):
    """The first of the entries lo to hi - 1 that is n or above, hi where all are below; by bisection."""
    lo, hi = int(lo), int(hi)
    while lo < hi:
        middle = (lo + hi) >> 1
        if indices[middle] < n:
            lo = middle + 1
        else:
            hi = middle
    return lo


@inlined
def found(rows, b, s, n):
    """Where the entries for neuron n at step s of sample b begin, and where the list of its tile ends."""
    row = b * rows.tiles + quotient(n, rows.width)
    hi = rows.ptr[row, s + 1]
    return first_from(rows.indices, rows.ptr[row, s], hi, n), int(hi)


@inlined
def length(rows, b, s):
    """Number of entries at step s of sample b."""
    total = 0
    for row in range(b * rows.tiles, (b + 1) * rows.tiles):
        total += rows.ptr[row, s + 1] - rows.ptr[row, s]
    return total


@inlined
def number_below(rows, b, s, n):
    """Number of entries at step s of sample b for neurons below n."""
    first = b * rows.tiles
    last = first + min(rows.tiles - 1, quotient(n, rows.width))
    total = 0
    for row in range(first, last):
        total += rows.ptr[row, s + 1] - rows.ptr[row, s]
    lo = rows.ptr[last, s]
    return total + first_from(rows.indices, lo, rows.ptr[last, s + 1], n) - lo
