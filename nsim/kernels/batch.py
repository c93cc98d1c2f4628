"""Passes over whole arrays: packing lists into rows, sums over groups, counts, dropout. See threads.py."""

import numpy as np

from nsim.kernels.jit import kernel

# Elementwise kernels run over whole blocks, so that which entries fall into a vector never depends on the threads.
BLOCK = 4096


def n_blocks(size: int) -> int:
    return -(-size // BLOCK)


@kernel
def pack(first, last, slots, base, indptr, indices, u):
    """Copy the lists of each sample to indices[base[b]:] (and u, if the slots have it), and make the row pointers."""
    ptr, with_u = slots.ptr, slots.u.shape[1] > 0
    steps = ptr.shape[1] - 1
    for b in range(first, last):
        start, end = base[b], base[b + 1]
        # Slices, since a signed place that is computed keeps a loop from taking vectors.
        rows, listed = indptr[b * steps : (b + 1) * steps + 1], indices[start:end]
        for t in range(rows.shape[0]):
            rows[t] = start + ptr[b, t]
        for j in range(listed.shape[0]):
            listed[j] = slots.indices[b, j]
        if with_u:
            listed_u = u[start:end]
            for j in range(listed_u.shape[0]):
                listed_u[j] = slots.u[b, j]


@kernel
def sum_groups(first, last, partial, out):
    """out[i] = sum of partial[group, i], in order of the groups, for blocks of i."""
    for block in range(first, last):
        part = out[block * BLOCK : (block + 1) * BLOCK]
        for group in range(partial.shape[0]):
            add = partial[group, block * BLOCK : (block + 1) * BLOCK]
            for i in range(part.shape[0]):
                part[i] = part[i] + add[i] if group > 0 else add[i]


@kernel
def counts(first, last, begins, ends, indices, values, out):
    """out[b, n]: events (or sums of their values) of neuron n in entries begins[b] to ends[b]."""
    for b in range(first, last):
        for j in range(begins[b], ends[b]):
            if values.shape[0] > 0:
                out[b, indices[j]] += values[j]
            else:
                out[b, indices[j]] += 1


@kernel
def spread_counts(first, last, begins, ends, indices, grad, out):
    """out[j] = grad[b, n] at each site j of neuron n from begins[b] to ends[b]."""
    for b in range(first, last):
        for j in range(begins[b], ends[b]):
            out[j] = grad[b, indices[j]]


@kernel
def count_inside(first, last, u, band, out):
    """out[b]: number of |u[b]| < band in a dense array [B, sites]."""
    for b in range(first, last):
        total = 0
        for j in range(u.shape[1]):
            if abs(u[b, j]) < band:
                total += 1
        out[b] = total


@kernel
def keep_mask(first, last, indptr, indices, steps, seed, p, per_event, out):
    """out[j]: whether entry j survives dropout. splitmix64 of (seed, row or sample, neuron) as a uniform number."""
    for row in range(first, last):
        where = row if per_event else row // steps
        for j in range(indptr[row], indptr[row + 1]):
            z = np.uint64(seed) + (np.uint64(where) << np.uint64(32) | np.uint64(indices[j])) * np.uint64(
                0x9E3779B97F4A7C15
            )
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            out[j] = np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53 >= p
