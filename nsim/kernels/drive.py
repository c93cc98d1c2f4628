"""The synaptic drive of a chunk of steps, x[t] = W^T s_in[t + offset] + b, and its adjoint.

Rows of W are added for listed events; where most inputs fire, the chunk is one matrix product instead. The launcher
chooses, and hands a `frame` [steps of a chunk, N_in] for the product or an empty one for rows. Rows of x and W may be
wider than there are neurons, by columns of 0.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from nsim.kernels.blocks import dot_rows
from nsim.kernels.product import add_product, add_product_of_transposed, product_with_transposed
from nsim.kernels.rows import add_rows, add_to_rows, copy_row, fill

ONE, TWO = np.uint64(1), np.uint64(2)
IN_L1 = 2**13  # numbers: what is read and written again and again in the first-level cache costs little
RECURRENT = True  # layers of this connection may have recurrent weights


class Rows(NamedTuple):
    """Events in compressed rows, `steps` a sample; step t of the layer reads row t + offset. `values` may be empty."""

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    steps: int
    offset: int


class Sites(NamedTuple):
    """Active sites below the layer that receive a gradient: listed with `grad` [sites], or `dense` [B*T, N_in].

    Both empty where nothing below wants one.
    """

    indptr: np.ndarray
    indices: np.ndarray
    grad: np.ndarray
    dense: np.ndarray


class ByInput(NamedTuple):
    """Scratch for the events of a chunk sorted by input: those of input i are steps[first[i]:first[i + 1]], counted in
    the chunk, and values there. `first` has two entries more than there are inputs."""

    first: np.ndarray
    steps: np.ndarray
    values: np.ndarray


@register_jitable
def fill_frame(frame, b, t0, t1, events, one):
    """Write the events of a chunk as dense rows."""
    fill(frame, one - one)
    for t in range(max(t0, -events.offset), t1):
        row = b * events.steps + t + events.offset
        for j in range(events.indptr[row], events.indptr[row + 1]):
            a = one * events.values[j] if events.values.shape[0] > 0 else one
            frame[t - t0, events.indices[j]] += a


@register_jitable
def drive(x, b, t0, t1, events, weight, bias, frame, one):
    """x[t - t0] for the steps t0 to t1 of sample b."""
    if frame.shape[0] > 0:
        fill_frame(frame, b, t0, t1, events, one)
        for t in range(t1 - t0):
            copy_row(x, t, bias[0])
        add_product(x[: t1 - t0], frame[: t1 - t0], weight)
        return
    for t in range(t0, t1):
        lo = hi = 0
        if t + events.offset >= 0:
            row = b * events.steps + t + events.offset
            lo, hi = events.indptr[row], events.indptr[row + 1]
        add_rows(x, t - t0, bias, 0, weight, events.indices, events.values, lo, hi)


@register_jitable
def sort_by_input(out, n_in, t0, start, t1, row, events):
    """Sort the events of the steps `start` to t1 of a chunk from t0 on; `row` is that of step 0. A counting sort: while
    it writes, first[i + 1] is the end of what is there of input i."""
    first = out.first
    for i in range(n_in + 2):
        first[i] = 0
    for j in range(np.uint64(events.indptr[row + start]), np.uint64(events.indptr[row + t1])):
        first[np.uint64(events.indices[j]) + TWO] += ONE
    for i in range(1, n_in + 1):
        first[i + 1] += first[i]
    for t in range(start, t1):
        for j in range(np.uint64(events.indptr[row + t]), np.uint64(events.indptr[row + t + 1])):
            i = np.uint64(events.indices[j]) + ONE
            at = first[i]
            out.steps[at] = t - t0
            if events.values.shape[0] > 0:
                out.values[at] = events.values[j]
            first[i] = at + ONE


@register_jitable
def weight_adjoint(grad, dx, b, t0, t1, events, by_input):
    """grad[i] += value * dx[t - t0] for the events of inputs i in the steps t0 to t1."""
    start, row = max(t0, -events.offset), b * events.steps + events.offset
    if start >= t1:
        return
    few = events.indptr[row + t1] - events.indptr[row + start] < grad.shape[0]
    if few or grad.size <= IN_L1:
        for t in range(start, t1):
            lo, hi = events.indptr[row + t], events.indptr[row + t + 1]
            add_to_rows(grad, dx, t - t0, events.indices, events.values, lo, hi)
        return
    # Each row of `grad` is read and written once in a chunk instead of once an event: half of the time.
    sort_by_input(by_input, grad.shape[0], t0, start, t1, row, events)
    values = by_input.values[: by_input.values.shape[0] if events.values.shape[0] > 0 else 0]
    for i in range(grad.shape[0]):
        lo, hi = by_input.first[i], by_input.first[i + 1]
        if lo < hi:
            add_rows(grad, i, grad, i, dx, by_input.steps, values, lo, hi)


@register_jitable
def drive_adjoint(dx, b, t0, t1, events, weight, sites, grad_w, grad_b, frame, by_input, one):
    """From dx = dL/dx of a chunk: add to grad_w, to grad_b if not empty, and to the gradient of active sites below."""
    m = t1 - t0
    if grad_b.shape[0] > 0:
        for t in range(m):
            for k in range(grad_b.shape[0]):
                grad_b[k] += dx[t, k]
    if frame.shape[0] > 0:
        fill_frame(frame, b, t0, t1, events, one)
        add_product_of_transposed(grad_w, frame[:m], dx[:m])
    else:
        weight_adjoint(grad_w, dx, b, t0, t1, events, by_input)
    first = max(t0, -events.offset)
    if sites.grad.shape[0] > 0:
        for t in range(first, t1):
            row = b * events.steps + t + events.offset
            lo, hi = sites.indptr[row], sites.indptr[row + 1]
            dot_rows(sites.grad, lo, weight, sites.indices, lo, hi, dx, t - t0)
    if sites.dense.shape[0] > 0 and first < t1:
        row = b * events.steps + events.offset
        product_with_transposed(sites.dense[row + first : row + t1], dx[first - t0 : m], weight)
