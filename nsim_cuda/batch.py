"""Passes over whole arrays: sums over groups, counts, surrogates, dropout. A block is a row of lists, or a stretch."""

import numpy as np
from numba import uint32

from nsim.surrogates import STAND_IN
from nsim_cuda import bits
from nsim_cuda.jit import BLOCK, WARP, cuda, inlined

WORDS = BLOCK // WARP  # of a mask of the threads of a block


@cuda.jit
def fill_states(state, v_init):
    """States at rest, [B, S, N]: v = v_init, everything else 0."""
    b = cuda.blockIdx.x
    for n in range(cuda.threadIdx.x, state.shape[2], cuda.blockDim.x):
        for k in range(state.shape[1]):
            state[b, k, n] = 0
        state[b, 0, n] = v_init[n]


@cuda.jit
def sum_groups(partial, out):
    """out[i] = sum of partial[group, i], in order of the groups."""
    for i in range(cuda.grid(1), out.shape[0], cuda.gridsize(1)):
        total = partial[0, i]
        for group in range(1, partial.shape[0]):
            total += partial[group, i]
        out[i] = total


@cuda.jit
def accumulate(factor, first, second, ptr):
    """From the lengths of lists in ptr[b, 1:] to where each step begins. The lists of a sample begin at `factor` times
    the place where its own in `first` do and, if there is a `second`, in that one: they cannot run into each other."""
    for b in range(cuda.grid(1), ptr.shape[0], cuda.gridsize(1)):
        k = first.ptr[b * first.tiles, 0]
        if second.ptr.shape[0] > 0:
            k += second.ptr[b * second.tiles, 0]
        k *= factor
        ptr[b, 0] = k
        for t in range(1, ptr.shape[1]):
            k += ptr[b, t]
            ptr[b, t] = k


@inlined
def end_of(ptr, row, lengths, b):
    """Where the entries of the true steps of sample b end in its list."""
    return ptr[row, lengths[b] if lengths.shape[0] > 0 else ptr.shape[1] - 1]


@cuda.jit
def counts(ptr, indices, values, lengths, tiles, width, out):
    """out[b, n]: events (or sums of their values) of neuron n in the true steps of sample b; no lengths mean all steps.
    A thread is a neuron, so that the sum has one order; it looks at the list of its own tile."""
    b, k = cuda.blockIdx.x, cuda.blockIdx.y
    n = k * cuda.blockDim.x + cuda.threadIdx.x
    if n >= out.shape[1]:
        return
    row = b * tiles + n // width
    total = out.dtype.type(0)
    for j in range(ptr[row, 0], end_of(ptr, row, lengths, b)):
        if indices[j] == n:
            total += values[j] if values.shape[0] > 0 else out.dtype.type(1)
    out[b, n] = total


@cuda.jit
def spread_counts(ptr, indices, lengths, tiles, grad, out):
    """out[j] = grad[b, n] at each listed site j of sample b and neuron n, 0 beyond the true steps."""
    row = cuda.blockIdx.x
    b = row // tiles
    end = end_of(ptr, row, lengths, b)
    for j in range(ptr[row, 0] + cuda.threadIdx.x, ptr[row, ptr.shape[1] - 1], cuda.blockDim.x):
        if j < end:
            out[j] = grad[b, int(indices[j])]
        else:
            out[j] = 0


@cuda.jit
def unreached(ptr, indices, g, tiny, lengths, tiles, grad, out, wanted):
    """out = grad where |g| is below `tiny` at every listed site of a neuron in the true steps of a sample, else 0;
    wanted[b] is the number of these steps, or 0 where nothing is left."""
    b, tid, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    for n in range(tid, out.shape[1], threads):
        out[b, n] = grad[b, n]
    if tid == 0:
        wanted[b] = 0
    cuda.syncthreads()
    for row in range(b * tiles, (b + 1) * tiles):
        for j in range(ptr[row, 0] + tid, end_of(ptr, row, lengths, b), threads):
            if abs(g[j]) >= tiny:
                out[b, int(indices[j])] = 0
    cuda.syncthreads()
    for n in range(tid, out.shape[1], threads):
        if out[b, n] != 0:
            wanted[b] = lengths[b] if lengths.shape[0] > 0 else ptr.shape[1] - 1


def make_surrogate(g, dtype):
    """Two kernels of one surrogate: out[j] = g(u[j]) at the listed sites; and du = g(best) grad for closest approaches,
    with no step where the gradient is zero, and with the stand-in for a smaller g."""
    zero = dtype(0)
    stand_in = inlined(STAND_IN.function(dtype(1)))

    @cuda.jit
    def at_sites(ptr, u, out):
        row = cuda.blockIdx.x
        for j in range(ptr[row, 0] + cuda.threadIdx.x, ptr[row, ptr.shape[1] - 1], cuda.blockDim.x):
            out[j] = g(u[j])

    @cuda.jit
    def at_closest(wanted, best, when, grad):
        b = cuda.blockIdx.x
        for n in range(cuda.threadIdx.x, grad.shape[1], cuda.blockDim.x):
            if wanted[b] == 0 or grad[b, n] == zero:
                when[b, n] = -1
            if when[b, n] >= 0:
                here, least = g(best[b, n]), stand_in(best[b, n])
                best[b, n] = (here if here > least else least) * grad[b, n]

    return at_sites, at_closest


@cuda.jit
def keep_mask(ptr, indices, tiles, steps, seed, threshold, per_event, out):
    """out[j] : 1 where entry j of a list survives dropout, else 0. The hash of nsim.kernels.batch.keep_mask;
    `threshold` is p 2^53, so that no floating-point number is needed."""
    row = cuda.blockIdx.x
    for t in range(steps):
        where = (row // tiles) * steps + t if per_event else row // tiles
        for j in range(ptr[row, t] + cuda.threadIdx.x, ptr[row, t + 1], cuda.blockDim.x):
            z = seed + (np.uint64(where) << np.uint64(32) | np.uint64(indices[j])) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            out[j] = 1 if (z ^ (z >> np.uint64(31))) >> np.uint64(11) >= threshold else 0


@cuda.jit
def thin(ptr, indices, values, keep, scale, out_ptr, out_indices, out_values):
    """Copy the entries to keep, with their values scaled, into lists with the same room."""
    row, tid, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    mask = cuda.shared.array((2, WORDS), uint32)
    steps, turn = ptr.shape[1] - 1, 0
    k = ptr[row, 0]
    if tid == 0:
        out_ptr[row, 0] = k
    if tid < WORDS:
        mask[0, tid] = 0
        mask[1, tid] = 0
    cuda.syncthreads()
    for t in range(steps):
        for start in range(ptr[row, t], ptr[row, t + 1], threads):
            j = start + tid
            kept = j < ptr[row, t + 1] and keep[j] != 0
            if kept:
                bits.set_bit(mask, turn, tid)
            cuda.syncthreads()
            if kept:
                place = k + bits.rank(mask, turn, tid)
                out_indices[place] = indices[j]
                out_values[place] = scale * values[j] if values.shape[0] > 0 else scale
            k += bits.number(mask, turn, WORDS)
            cuda.syncthreads()
            if tid < WORDS:
                mask[turn, tid] = 0
            turn = 1 - turn
        if tid == 0:
            out_ptr[row, t + 1] = k


@cuda.jit
def mask_grad(ptr, keep, scale, grad, out):
    """out[j] = grad[j] * scale where entry j is kept, else 0."""
    row = cuda.blockIdx.x
    for j in range(ptr[row, 0] + cuda.threadIdx.x, ptr[row, ptr.shape[1] - 1], cuda.blockDim.x):
        if keep[j] != 0:
            out[j] = grad[j] * scale
        else:
            out[j] = 0
