"""Two lists of a step as one: all events of both, or each site once. A block is one step of one sample.

Both ascend, so an entry's place follows from its place in its own list and a bisection of the other.
"""

import numpy as np
from numba import uint32

from nsim_cuda import bits
from nsim_cuda.batch import WORDS
from nsim_cuda.jit import cuda, inlined
from nsim_cuda.lists import found, length, number_below


@inlined
def is_listed(rows, b, t, n):
    """Whether neuron n has an entry."""
    j, hi = found(rows, b, t, n)
    return j < hi and rows.indices[j] == n


@inlined
def write_events(mine, other, b, t, after, k, indices, values):
    """The events of `mine` to their places from k on: after those of `other` below them, or, with after = 1, not
    above."""
    for row in range(b * mine.tiles, (b + 1) * mine.tiles):
        lo, hi = mine.ptr[row, t], mine.ptr[row, t + 1]
        for j in range(lo + cuda.threadIdx.x, hi, cuda.blockDim.x):
            n = int(mine.indices[j])
            place = k + j - lo + number_below(other, b, t, n + after)
            indices[place] = n
            if values.shape[0] > 0:
                values[place] = mine.values[j] if mine.values.shape[0] > 0 else np.float32(1)
        k += hi - lo


@cuda.jit
def merge(steps, counting, a, b, ptr, indices, values):
    """The events of both, those of `a` first among equals. Counting, their number goes to ptr[sample, t + 1]; else they
    are written from ptr[sample, t] on."""
    sample = cuda.blockIdx.x // steps
    t = cuda.blockIdx.x - sample * steps
    if counting:
        if cuda.threadIdx.x == 0:
            ptr[sample, t + 1] = length(a, sample, t) + length(b, sample, t)
        return
    write_events(a, b, sample, t, 0, ptr[sample, t], indices, values)
    write_events(b, a, sample, t, 1, ptr[sample, t], indices, values)


@inlined
def write_sites(mine, other, b, t, all_of_mine, k, common, indices):
    """The sites of `mine` to their places from k on, those that `other` has too only with `all_of_mine`. `common` is a
    mask of the threads whose site is in both."""
    tid, threads = cuda.threadIdx.x, cuda.blockDim.x
    turn = 0
    if tid < WORDS:
        common[0, tid] = 0
        common[1, tid] = 0
    cuda.syncthreads()
    for row in range(b * mine.tiles, (b + 1) * mine.tiles):
        lo, hi = mine.ptr[row, t], mine.ptr[row, t + 1]
        for start in range(lo, hi, threads):
            j = start + tid
            n = int(mine.indices[j]) if j < hi else 0
            double = j < hi and is_listed(other, b, t, n)
            if double:
                bits.set_bit(common, turn, tid)
            cuda.syncthreads()
            if j < hi and (all_of_mine or not double):
                indices[k + j - lo + number_below(other, b, t, n) - bits.rank(common, turn, tid)] = n
            k -= bits.number(common, turn, WORDS)
            cuda.syncthreads()
            if tid < WORDS:
                common[turn, tid] = 0
            turn = 1 - turn
        k += hi - lo
    cuda.syncthreads()


@cuda.jit
def union(steps, counting, a, b, ptr, indices, values):
    """Each site of `a` or `b` once. Counting, their number is added to ptr[sample, t + 1]; else they are written from
    ptr[sample, t] on. Sites have no `values`."""
    sample = cuda.blockIdx.x // steps
    t = cuda.blockIdx.x - sample * steps
    common = cuda.shared.array((2, WORDS), uint32)
    if not counting:
        write_sites(a, b, sample, t, True, ptr[sample, t], common, indices)
        write_sites(b, a, sample, t, False, ptr[sample, t], common, indices)
        return
    total = length(a, sample, t) if cuda.threadIdx.x == 0 else 0
    for row in range(sample * b.tiles, (sample + 1) * b.tiles):
        for j in range(b.ptr[row, t] + cuda.threadIdx.x, b.ptr[row, t + 1], cuda.blockDim.x):
            if not is_listed(a, sample, t, int(b.indices[j])):
                total += 1
    cuda.atomic.add(ptr, (sample, t + 1), np.int32(total))


@cuda.jit
def pick(steps, sites, whole, grad, out):
    """out[j] = the entry of grad, which lies on the sites `whole`, at each of the sites in it."""
    b = cuda.blockIdx.x // steps
    t = cuda.blockIdx.x - b * steps
    for row in range(b * sites.tiles, (b + 1) * sites.tiles):
        for j in range(sites.ptr[row, t] + cuda.threadIdx.x, sites.ptr[row, t + 1], cuda.blockDim.x):
            out[j] = grad[found(whole, b, t, int(sites.indices[j]))[0]]
