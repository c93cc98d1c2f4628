"""The synaptic drive of a chunk of steps, x[t] = W^T s_in[t + offset] + b, and its adjoint.

Rows of W are added for listed events; where most inputs fire, the chunk is one matrix product instead. The launcher
chooses, and hands a `frame` [steps of a chunk, N_in] for the product or an empty one for rows.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from nsim.kernels.product import add_product, add_product_of_transposed, product_with_transposed
from nsim.kernels.rows import add_rows, add_to_rows, copy_row, dot_rows, fill

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
def drive_adjoint(dx, b, t0, t1, events, weight, sites, grad_w, grad_b, frame, one):
    """From dx = dL/dx of a chunk: add to grad_w, to grad_b if not empty, and to the gradient of active sites below."""
    m = t1 - t0
    if grad_b.shape[0] > 0:
        for t in range(m):
            for k in range(grad_b.shape[0]):
                grad_b[k] += dx[t, k]
    if frame.shape[0] > 0:
        fill_frame(frame, b, t0, t1, events, one)
        add_product_of_transposed(grad_w, frame[:m], dx[:m])
    first = max(t0, -events.offset)
    for t in range(first, t1):
        row = b * events.steps + t + events.offset
        if frame.shape[0] == 0:
            lo, hi = events.indptr[row], events.indptr[row + 1]
            add_to_rows(grad_w, dx, t - t0, events.indices, events.values, lo, hi)
        if sites.grad.shape[0] > 0:
            lo, hi = sites.indptr[row], sites.indptr[row + 1]
            dot_rows(sites.grad, lo, weight, sites.indices, lo, hi, dx, t - t0, one - one)
    if sites.dense.shape[0] > 0 and first < t1:
        row = b * events.steps + events.offset
        product_with_transposed(sites.dense[row + first : row + t1], dx[first - t0 : m], weight)
