"""Events to compressed rows: binning, sorting and counting, in parallel over samples.

Each event becomes one key, (step << bits of a neuron) | neuron; the keys of a sample are radix-sorted and written
out as row pointers and indices. Nothing dense is made, and the same events give the same bits whatever their order.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import register_jitable

from nsim.errors import EventError, ShapeError
from nsim.kernels.jit import exact_kernel
from nsim.kernels.threads import over

DIGIT = 11  # bits of a radix digit: 2,048 counters stay in the first-level cache


def assemble(times, units, first, last, *, width, steps, n, nearest=False, clamp=False):
    """Bin and sort the events of some samples of a flat recording into compressed rows.

    Parameters
    ----------
    times : int32 or int64 [E], microseconds (or any unit of which `width` make a step), not negative
    units : uint16 or uint32 [E]
    first, last : int64 [B]
        Events first[b] to last[b] - 1 are those of sample b of the batch.
    width : int
        Length of a step. The step of an event is times // width.
    steps, n : int
        T and N.
    nearest : bool
        Take rint(times / width) instead, halves to even.
    clamp : bool
        Keep one event of those that share neuron and step.

    Returns
    -------
    indptr : int64 [B * steps + 1]
    indices : like units, ascending within a row
    late, doubles : int64 [B]
        Events left out because they lie at or after `steps`, and events that repeat another one's neuron and
        step (counted whether clamped or not).

    Raises
    ------
    EventError
        If a unit is not below n.
    ShapeError
        If `first` and `last` do not lie within the arrays, or steps or n are below 1.
    """
    first, last = np.ascontiguousarray(first, np.int64), np.ascontiguousarray(last, np.int64)
    batch, steps, n = len(first), int(steps), int(n)
    if steps < 1 or n < 1:
        raise ShapeError(f"{steps} steps of {n} neurons: at least one of each is needed")
    if len(times) != len(units) or len(first) != len(last):
        raise ShapeError(f"{len(times)} times for {len(units)} units, {len(first)} starts for {len(last)} ends")
    if batch and (first.min() < 0 or last.max() > len(times) or (last < first).any()):
        raise ShapeError(f"sample bounds {first.min()} to {last.max()} do not lie within {len(times)} events")

    times, units = _read_only(times), _read_only(units)
    sizes = last - first
    offsets = np.zeros(batch + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    unit_bits = max(1, (n - 1).bit_length())
    key_bits = unit_bits + (steps - 1).bit_length()
    if key_bits > 64:
        raise ShapeError(f"{steps} steps of {n} neurons: more sites than 64 bits can number")
    passes = -(-key_bits // DIGIT)
    chunks = max(1, min(batch, 4 * numba.get_num_threads()))
    key_type = np.uint32 if key_bits <= 32 else np.uint64
    keys = np.empty((chunks, 2, int(sizes.max(initial=0))), key_type)
    histogram = np.empty((chunks, passes, 1 << DIGIT), np.int32)
    indptr = np.zeros(batch * steps + 1, np.int64)
    indices = np.empty(int(offsets[-1]), units.dtype)
    late, doubles, stray = np.zeros((3, batch), np.int64)
    over(
        _sort_samples, chunks, times, units, first, last, int(width), nearest, steps, n, unit_bits, clamp,
        keys, histogram, offsets, indptr, indices, late, doubles, stray,
    )  # fmt: skip
    if stray.any():
        b = int(np.argmax(stray > 0))
        unit = units[first[b] : last[b]].max()
        raise EventError(f"sample {b} of the batch has an event of unit {unit}; expected 0 to {n - 1}")

    kept = np.zeros(batch + 1, np.int64)
    np.cumsum(indptr[steps::steps], out=kept[1:])
    packed = indices if kept[-1] == offsets[-1] else np.empty(int(kept[-1]), units.dtype)
    over(_pack_samples, batch, steps, offsets, kept, indptr, indices, packed)
    return indptr, packed, late, doubles


def _read_only(a):
    """Contiguous, int32 where the values allow it: one compiled signature for memory-mapped and other arrays."""
    a = np.ascontiguousarray(a)
    if a.dtype == np.int64 and (a.size == 0 or (a.min() >= 0 and a.max() < 2**31)):
        a = a.astype(np.int32)
    a = a.view()
    a.flags.writeable = False
    return a


@exact_kernel
def _sort_samples(
    chunk, last_chunk, times, units, first, last, width, nearest, steps, n, unit_bits, clamp,
    keys, histogram, offsets, indptr, indices, late, doubles, stray,
):  # fmt: skip
    """Sort each sample into its own stretch of `indices`; row pointers count from the start of the sample."""
    chunks = keys.shape[0]
    for c in range(chunk, last_chunk):
        for b in range(c * len(first) // chunks, (c + 1) * len(first) // chunks):
            a, z = first[b], last[b]
            kept, stray[b] = _make_keys(
                times[a:z], units[a:z], width, nearest, steps, n, unit_bits, keys[c], histogram[c]
            )
            late[b] = z - a - kept - stray[b]
            keys_b = keys[c, _radix_sort(keys[c], kept, histogram[c])]
            rows = indptr[b * steps + 1 : (b + 1) * steps + 1]
            doubles[b] = _write_rows(keys_b[:kept], unit_bits, clamp, rows, indices[offsets[b] : offsets[b + 1]])


@register_jitable
def _make_keys(times, units, width, nearest, steps, n, unit_bits, keys, histogram):
    """Keys of the events within `steps`, and the histogram of each radix digit; returns kept and stray events."""
    for p in range(histogram.shape[0]):
        for d in range(histogram.shape[1]):
            histogram[p, d] = 0
    kept = stray = 0
    for k in range(len(times)):
        q = times[k] / width  # float64 division: the floor of the quotient is exact below 2**52
        if nearest:
            q = np.rint(q)
        unit = np.uint64(units[k])
        if unit >= np.uint64(n):
            stray += 1
        elif 0.0 <= q < steps:
            key = (np.uint64(q) << np.uint64(unit_bits)) | unit
            keys[0, kept] = key
            for p in range(histogram.shape[0]):
                histogram[p, (key >> np.uint64(p * DIGIT)) & np.uint64((1 << DIGIT) - 1)] += 1
            kept += 1
    return kept, stray


@register_jitable
def _radix_sort(keys, kept, histogram):
    """Least significant digit first, between the two rows of `keys`; returns which row holds the result."""
    mask = np.uint64((1 << DIGIT) - 1)
    source, target = keys[0], keys[1]
    for p in range(histogram.shape[0]):
        counts = histogram[p]
        total = 0
        for d in range(len(counts)):
            count = counts[d]
            counts[d] = total
            total += count
        shift = np.uint64(p * DIGIT)
        for k in range(kept):
            key = source[k]
            d = (np.uint64(key) >> shift) & mask
            target[counts[d]] = key
            counts[d] += 1
        source, target = target, source
    return histogram.shape[0] % 2


@register_jitable
def _write_rows(keys, unit_bits, clamp, rows, indices):
    """Indices and cumulated row counts of one sample's sorted keys; returns the number of doubles."""
    mask = np.uint64((np.uint64(1) << np.uint64(unit_bits)) - np.uint64(1))
    doubles = written = row = 0
    for k in range(len(keys)):
        key = np.uint64(keys[k])
        if k > 0 and keys[k] == keys[k - 1]:
            doubles += 1
            if clamp:
                continue
        here = np.int64(key >> np.uint64(unit_bits))
        while row < here:
            rows[row] = written
            row += 1
        indices[written] = key & mask
        written += 1
    for rest in range(row, len(rows)):
        rows[rest] = written
    return doubles


@exact_kernel
def _pack_samples(first, last, steps, offsets, kept, indptr, indices, packed):
    """Close the gaps that late or clamped events left, and let row pointers count from the start of the batch."""
    for b in range(first, last):
        for row in range(b * steps + 1, (b + 1) * steps + 1):
            indptr[row] += kept[b]
        if packed.size != indices.size:
            for k in range(kept[b + 1] - kept[b]):
                packed[kept[b] + k] = indices[offsets[b] + k]
