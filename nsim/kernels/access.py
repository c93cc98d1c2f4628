"""Reading and writing the tuple of scalars that a model's equations take, from arrays [number of values, N].

Models with as many values share these functions, which then are compiled once in a process.
"""

from functools import cache

from nsim.kernels.jit import inlined


@cache
def reader(count):
    """A function read(a, n) -> (a[0, n], ..., a[count - 1, n])."""
    if count == 0:
        return inlined(lambda a, n: ())
    head, last = reader(count - 1), count - 1

    @inlined
    def read(a, n):
        return head(a, n) + (a[last, n],)

    return read


@cache
def writer(count):
    """A function write(a, n, values) with a[k, n] = values[k] for k below count."""
    if count == 0:
        return inlined(lambda a, n, values: None)
    head, last = writer(count - 1), count - 1

    @inlined
    def write(a, n, values):
        head(a, n, values)
        a[last, n] = values[last]

    return write


@cache
def adder(count):
    """A function add(a, n, values) with a[k, n] += values[k] for k below count."""
    if count == 0:
        return inlined(lambda a, n, values: None)
    head, last = adder(count - 1), count - 1

    @inlined
    def add(a, n, values):
        head(a, n, values)
        a[last, n] += values[last]

    return add
