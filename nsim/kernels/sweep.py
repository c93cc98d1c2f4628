"""Sweeps of a spiking layer over whole sequences: one sample after the other inside a group, groups over threads.

`make_forward` and `make_backward` build the kernels of one neuron model, number type and connection (the module of its
`drive` and `drive_adjoint`). Time is the outer loop and neurons the inner one, over contiguous rows. Equations:
`nsim/neurons/`; the adjoint's order: docs/design.md, section 1.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from nsim.kernels.access import adder, reader, vector_adder, writer
from nsim.kernels.bits import above, append_sites, append_spikes, inside
from nsim.kernels.blocks import dot_rows, sum_rows
from nsim.kernels.denormals import flush_denormals, restore
from nsim.kernels.drive import Rows, weight_adjoint
from nsim.kernels.jit import LANES, inlined, kernel
from nsim.kernels.rows import clear, copy_row, fill
from nsim.kernels.surrogate import evaluate


class Slots(NamedTuple):
    """Growing lists, one for each sample: entries of step t are indices[b, ptr[b, t]:ptr[b, t + 1]] (and u there)."""

    ptr: np.ndarray
    indices: np.ndarray
    u: np.ndarray


class Trace(NamedTuple):
    """States to record: watch [K], values [B, T, S, K]. Closest approach before step ends [B]: best [B, N], step
    [B, N]. Or empty."""

    watch: np.ndarray
    values: np.ndarray
    ends: np.ndarray
    best: np.ndarray
    step: np.ndarray


class Sources(NamedTuple):
    """What enters the backward sweep of a layer at its own sites.

    Own spikes as rows (spike_ptr, spikes); the active set listed (ptr, indices, u, grad [sites]) or dense (u
    [B*T*N], dense_grad [B*T, N]); the address of the surrogate, and the band; closest approaches: order [B, N] neurons
    by falling step, step [B, N] (-1: none), du [B, N].
    """

    spike_ptr: np.ndarray
    spikes: np.ndarray
    ptr: np.ndarray
    indices: np.ndarray
    u: np.ndarray
    grad: np.ndarray
    dense_grad: np.ndarray
    surrogate: int
    band: float
    closest_order: np.ndarray
    closest_step: np.ndarray
    closest_du: np.ndarray


@register_jitable
def track(u, t, best, when):
    """Closest approaches so far, and their steps."""
    for n in range(best.shape[0]):
        closer = u[n] > best[n]
        best[n] = u[n] if closer else best[n]
        when[n] = t if closer else when[n]


@inlined
def compact(u, band, fired, k, sites, site_u, m, listed):
    """Append the spikes of a step and, where `listed`, its active sites; returns the new lengths of both lists."""
    for start in range(0, u.shape[0], LANES):
        k = append_spikes(above(u, start, 0), start, fired, k)
        if listed:
            m = append_sites(inside(u, start, band), start, u, sites, site_u, m)
    return k, m


def make_forward(equations, n_states, n_params, dtype, connection):
    """Forward sweep of the samples `todo`; `full[b]` is set where a list proved too small and b must be redone."""
    step, _, potential, _ = equations
    drive, recurrent = connection.drive, connection.RECURRENT
    read, write, read_p = reader(n_states), writer(n_states), reader(n_params)
    one, zero = dtype(1), dtype(0)

    @inlined
    def advance(state, u, x, r, p):
        for n in range(p.shape[1]):
            s = one if u[n] > zero else zero
            values = read_p(p, n)
            new = step(read(state, n), s, x[r, n], values)
            write(state, n, new)
            u[n] = potential(new, values)

    @register_jitable
    def sample(b, steps, events, weight, weight_rec, bias, p, band, state, u, x, frame, lists, dense, trace):
        fired, fired_ptr, sites, site_u, site_ptr = lists
        n, width, listed = p.shape[1], u.shape[0], sites.shape[0] > 0
        k = m = 0
        for t0 in range(0, steps, x.shape[0]):
            t1 = min(steps, t0 + x.shape[0])
            drive(x, b, t0, t1, events, weight, bias, frame, one)
            for t in range(t0, t1):
                if k + width > fired.shape[0] or (listed and m + width > sites.shape[0]):
                    return True
                if recurrent and weight_rec.shape[0] > 0:
                    if t > 0:
                        sum_rows(x, t - t0, x, t - t0, weight_rec, fired, None, fired_ptr[t - 1], k)
                    else:
                        # Those before the first step, listed like those of a step: a run that goes on sums them alike.
                        k, _ = compact(u, band, fired, 0, sites, site_u, 0, False)
                        sum_rows(x, 0, x, 0, weight_rec, fired, None, 0, k)
                        k = 0
                advance(state, u, x, t - t0, p)
                k, m = compact(u, band, fired, k, sites, site_u, m, listed)
                fired_ptr[t + 1] = k
                site_ptr[t + 1] = m
                if dense.shape[0] > 0:
                    for i in range(n):
                        dense[b, t, i] = u[i]
                if trace.best.shape[0] > 0 and t < trace.ends[b]:
                    track(u, t, trace.best[b], trace.step[b])
                for i in range(trace.watch.shape[0]):
                    for j in range(n_states):
                        trace.values[b, t, j, i] = state[j, trace.watch[i]]
        return False

    @kernel
    def forward(
        first, last, scratch, groups, todo, steps, events, layer, band, states, spikes, active, dense, trace, full
    ):
        mode_before = flush_denormals()
        weight, weight_rec, bias, p = layer
        x, frame = scratch
        state, u = states
        for group in range(first, last):
            for i in range(group, todo.shape[0], groups):
                b = todo[i]
                lists = spikes.indices[b], spikes.ptr[b], active.indices[b], active.u[b], active.ptr[b]
                full[b] = sample(
                    b, steps, events, weight, weight_rec, bias, p, band, state[b], u[b], x, frame,
                    lists, dense, trace,
                )  # fmt: skip
        restore(mode_before)

    return forward


def probed(step_adjoint, n_states, n_params, one):
    """Two things that the sweep may leave out, asked of the model itself: whether a spike acts on its own neuron's next
    step (a detached reset does not), and whether the adjoint depends on a spike (that of a subtraction does not)."""
    d, state = (tuple(one * 0.7549 ** (k + j) for k in range(1, n_states + 1)) for j in (0, 0.5))
    p = tuple(one * 0.5698 ** (k + 0.3) for k in range(n_params))
    with_spike, without = (step_adjoint(d, state, s, one, p) for s in (one, one - one))
    return with_spike[1] != 0, with_spike[:3] != without[:3]


@inlined
def own_spikes(b, t, steps, own):
    """Place of the layer's own spikes at step t - 1."""
    row = b * steps + t
    return (own.spike_ptr[row - 1], own.spike_ptr[row]) if t > 0 else (0, 0)


def make_backward(equations, n_states, n_params, dtype, history, connection):
    """Backward sweep. With `history` the states of each sample are computed again first, and the gradients of the
    parameters come out too."""
    step, step_adjoint, _, potential_adjoint = equations
    drive, drive_adjoint, recurrent = connection.drive, connection.drive_adjoint, connection.RECURRENT
    read, write = reader(n_states), writer(n_states)
    add_row, add_site = adder(n_states), vector_adder(n_states)
    read_p, add_p = reader(n_params), adder(n_params)
    one, zero = dtype(1), dtype(0)
    feeds_back, asks_for_spikes = probed(step_adjoint, n_states, n_params, one)
    asks_for_spikes = asks_for_spikes or history

    @register_jitable
    def recompute(b, steps, v_init, events, weight, weight_rec, bias, p, own, states, x, frame, s):
        """states[t] is the state before step t; x[t] its drive."""
        for k in range(n_states):
            copy_row(states[0], k, v_init[k])
        chunk = frame.shape[0] if frame.shape[0] > 0 else steps
        for t0 in range(0, steps, chunk):
            drive(x[t0:], b, t0, min(steps, t0 + chunk), events, weight, bias, frame, one)
        for t in range(steps):
            lo, hi = own_spikes(b, t, steps, own)
            if recurrent and weight_rec.shape[0] > 0:
                sum_rows(x, t, x, t, weight_rec, own.spikes, None, lo, hi)
            for j in range(lo, hi):
                s[own.spikes[j]] = one
            for n in range(p.shape[1]):
                write(states[t + 1], n, step(read(states[t], n), s[n], x[t, n], read_p(p, n)))
            for j in range(lo, hi):
                s[own.spikes[j]] = zero

    @inlined
    def inject(n, du, d, now, p, grad_p, add):
        """Add du = dL/du of one site to the adjoint of its state."""
        ds, dp = potential_adjoint(du, read(now, n), read_p(p, n))
        add(d, n, ds)
        if history:
            add_p(grad_p, n, dp)

    @inlined
    def inject_all(row, own, d, ds, now, p, grad_p, g):
        """Every neuron of a step: from dL/ds (from above, and ds through the neuron itself) to the state."""
        evaluate(own.surrogate, own.u, row * ds.shape[0], g, 0, ds.shape[0], own.band)
        grad = own.dense_grad[row]
        for n in range(ds.shape[0]):
            inject(n, g[n] * (grad[n] + ds[n]), d, now, p, grad_p, add_row)

    @inlined
    def inject_sites(row, own, d, ds, now, p, grad_p, g, first):
        """The same for the listed sites of a step; g[j - first] is the surrogate at site j (unsigned: see bits.py)."""
        for j in range(np.uint64(own.ptr[row]), np.uint64(own.ptr[row + 1])):
            n = own.indices[j]
            inject(n, g[j - first] * (own.grad[j] + ds[n]), d, now, p, grad_p, add_site)

    @inlined
    def recurrent_row(b, t, steps, own, weight_rec, ds, dx, r, scratch):
        """Recurrent part of step t: the active sites of step t - 1. `places` names every neuron."""
        rows_grad, places = scratch
        row = b * steps + t - 1
        sites, lo, hi = places, 0, ds.shape[0]
        if own.dense_grad.shape[0] == 0:
            sites, lo, hi = own.indices, own.ptr[row], own.ptr[row + 1]
        for n in range(rows_grad.shape[0]):
            rows_grad[n] = zero
            if not feeds_back:
                ds[n] = zero
        dot_rows(rows_grad, 0, weight_rec, sites, lo, hi, dx, r)
        for j in range(lo, hi):
            ds[sites[j]] += rows_grad[j - lo]

    @inlined
    def adjoint_row(d, ds, dx, r, s, before, x, rx, p, grad_p):
        """One step back for all neurons: d from t to t - 1, dL/dx[t], and dL/ds[t - 1] through the neuron itself."""
        for n in range(p.shape[1]):
            dn, dsn, dxn, dp = step_adjoint(read(d, n), read(before, n), s[n], x[rx, n], read_p(p, n))
            write(d, n, dn)
            if feeds_back:
                ds[n] = dsn
            dx[r, n] = dxn
            if history:
                add_p(grad_p, n, dp)

    @register_jitable
    def sample(b, steps, events, weight, weight_rec, p, own, below, grads, scratch):
        grad_w, grad_rec, grad_b, grad_p = grads
        d, ds, s, dx, frame, by_input, states, x, rows_grad, g, places = scratch
        fill(d, zero)
        for n in range(ds.shape[0]):
            ds[n] = zero
        now = before = states[0]
        nth, site = 0, np.uint64(0)
        listed = own.dense_grad.shape[0] == 0
        for t1 in range(steps, 0, -dx.shape[0]):
            t0 = max(0, t1 - dx.shape[0])
            if listed:
                site = np.uint64(own.ptr[b * steps + t0])
                evaluate(own.surrogate, own.u, np.int64(site), g, 0, own.ptr[b * steps + t1] - np.int64(site), own.band)
            for t in range(t1 - 1, t0 - 1, -1):
                if history:
                    now, before = states[t + 1], states[t]
                if listed:
                    inject_sites(b * steps + t, own, d, ds, now, p, grad_p, g, site)
                else:
                    inject_all(b * steps + t, own, d, ds, now, p, grad_p, g)
                if own.closest_order.shape[0] > 0:
                    while nth < ds.shape[0] and own.closest_step[b, own.closest_order[b, nth]] == t:
                        n = own.closest_order[b, nth]
                        inject(n, own.closest_du[b, n], d, now, p, grad_p, add_site)
                        nth += 1
                lo, hi = own_spikes(b, t, steps, own) if asks_for_spikes else (0, 0)
                for j in range(lo, hi):
                    s[own.spikes[j]] = one
                if history:
                    adjoint_row(d, ds, dx, t - t0, s, before, x, t, p, grad_p)
                else:
                    adjoint_row(d, ds, dx, t - t0, s, before, dx, t - t0, p, grad_p)
                for j in range(lo, hi):
                    s[own.spikes[j]] = zero
                if recurrent and t > 0 and weight_rec.shape[0] > 0:
                    recurrent_row(b, t, steps, own, weight_rec, ds, dx, t - t0, (rows_grad, places))
            if recurrent and weight_rec.shape[0] > 0:
                fed_back = Rows(own.spike_ptr, own.spikes, events.values[:0], steps, -1)
                weight_adjoint(grad_rec, dx, b, t0, t1, fed_back, by_input)
            drive_adjoint(dx, b, t0, t1, events, weight, below, grad_w, grad_b, frame, by_input, one)

    @kernel
    def backward(first, last, scratch, batch, steps, events, layer, own, below, grads, places, v_init):
        mode_before = flush_denormals()
        weight, weight_rec, bias, p = layer
        grad_w, grad_rec, grad_b, grad_p = grads
        d, ds, s, dx, frame, by_input, states, x, rows_grad, g = scratch
        groups = grad_w.shape[0]
        for group in range(first, last):
            clear(grad_w[group], grad_rec[group], grad_b[group], grad_p[group], zero)
            for b in range(group, batch, groups):
                if history:
                    recompute(b, steps, v_init, events, weight, weight_rec, bias, p, own, states, x, frame, s)
                sample(
                    b, steps, events, weight, weight_rec, p, own, below,
                    (grad_w[group], grad_rec[group], grad_b[group], grad_p[group]),
                    (d, ds, s, dx, frame, by_input, states, x, rows_grad, g, places),
                )  # fmt: skip
        restore(mode_before)

    return backward
