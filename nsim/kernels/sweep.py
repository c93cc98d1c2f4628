"""Sweeps of a spiking layer over whole sequences: one sample after the other inside a group, groups over threads.

`make_forward` and `make_backward` build the kernels of one neuron model and number type. Time is the outer loop and
neurons the inner one, over contiguous rows. Equations: `nsim/neurons/`; the adjoint's order: docs/design.md, section 1.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable

from nsim.kernels.access import adder, reader, writer
from nsim.kernels.bits import append_bits, append_sites, inside, positive
from nsim.kernels.borrow import borrow
from nsim.kernels.denormals import flush_denormals, restore
from nsim.kernels.drive import drive, drive_adjoint
from nsim.kernels.jit import DIGEST, KERNEL, LANES, inlined
from nsim.kernels.rows import add_row, add_rows, add_to_rows, copy_row, dot_rows, fill_row


class Slots(NamedTuple):
    """Growing lists, one for each sample: entries of step t are indices[b, ptr[b, t]:ptr[b, t + 1]] (and u there)."""

    ptr: np.ndarray
    indices: np.ndarray
    u: np.ndarray


class Trace(NamedTuple):
    """States to record: watch [K], values [B, T, S, K]. Closest approach: best [B, N], step [B, N]. Or empty."""

    watch: np.ndarray
    values: np.ndarray
    best: np.ndarray
    step: np.ndarray


class Sources(NamedTuple):
    """What enters the backward sweep of a layer at its own sites.

    Own spikes as rows (spike_ptr, spikes); the active set listed (ptr, indices, g, grad [sites]) or dense (dense_g,
    dense_grad [B, T, N]); closest approaches: order [B, N] neurons by falling step, step [B, N] (-1: none), du [B, N].
    """

    spike_ptr: np.ndarray
    spikes: np.ndarray
    ptr: np.ndarray
    indices: np.ndarray
    g: np.ndarray
    grad: np.ndarray
    dense_g: np.ndarray
    dense_grad: np.ndarray
    closest_order: np.ndarray
    closest_step: np.ndarray
    closest_du: np.ndarray


def make_forward(equations, n_states, n_params, dtype):
    """Forward sweep of the samples `todo`; `full[b]` is set where a list proved too small and b must be redone."""
    step, _, potential, _ = equations
    read, write, read_p = reader(n_states), writer(n_states), reader(n_params)
    one, zero = dtype(1), dtype(0)
    digest = DIGEST

    @inlined
    def advance(state, u, x, p):
        for n in range(x.shape[0]):
            s = one if u[n] > zero else zero
            values = read_p(p, n)
            new = step(read(state, n), s, x[n], values)
            write(state, n, new)
            u[n] = potential(new, values)

    @register_jitable
    def track(u, t, best, when):
        for n in range(best.shape[0]):
            closer = u[n] > best[n]
            best[n] = u[n] if closer else best[n]
            when[n] = t if closer else when[n]

    @inlined
    def compact(u, width, band, spikes, k, sites, site_u, m, listed):
        for start in range(0, width, LANES):
            k = append_bits(positive(u, start), start, spikes, k)
            if listed:
                m = append_sites(inside(u, start, band), start, u, sites, site_u, m)
        return k, m

    @register_jitable
    def sample(b, steps, events, weight, weight_rec, bias, p, band, state, u, x, frame, spikes, active, dense, trace):
        n, width = x.shape[1], u.shape[0]
        listed = active.indices.shape[1] > 0
        k = m = 0
        for t0 in range(0, steps, x.shape[0]):
            t1 = min(steps, t0 + x.shape[0])
            drive(x, b, t0, t1, events, weight, bias, frame, one)
            for t in range(t0, t1):
                row = x[t - t0]
                if k + width > spikes.indices.shape[1] or (listed and m + width > active.indices.shape[1]):
                    return True
                if weight_rec.shape[0] > 0:
                    if t > 0:
                        add_rows(row, weight_rec, spikes.indices[b], bias, spikes.ptr[b, t - 1], k, one, False)
                    else:
                        for i in range(n):
                            if u[i] > zero:
                                add_row(row, weight_rec[i])
                advance(state, u, row, p)
                k, m = compact(u, width, band, spikes.indices[b], k, active.indices[b], active.u[b], m, listed)
                spikes.ptr[b, t + 1] = k
                active.ptr[b, t + 1] = m
                if dense.shape[0] > 0:
                    copy_row(dense[b, t], u)
                if trace.best.shape[0] > 0:
                    track(u, t, trace.best[b], trace.step[b])
                for i in range(trace.watch.shape[0]):
                    for j in range(n_states):
                        trace.values[b, t, j, i] = state[j, trace.watch[i]]
        return False

    @njit(**KERNEL)
    def forward(
        first,
        last,
        todo,
        steps,
        events,
        weight,
        weight_rec,
        bias,
        p,
        band,
        state,
        u,
        x,
        frame,
        spikes,
        active,
        dense,
        trace,
        full,
    ):
        digest  # noqa: B018  (captured for the disk cache, see jit.py)
        mode_before = flush_denormals()
        groups = x.shape[0]
        for group in range(first, last):
            for i in range(group, todo.shape[0], groups):
                b = todo[i]
                full[b] = sample(
                    b, steps, borrow(events), borrow(weight), borrow(weight_rec), borrow(bias), borrow(p), band,
                    borrow(state[b]), borrow(u[b]), borrow(x[group]), borrow(frame[group]), borrow(spikes),
                    borrow(active), borrow(dense), borrow(trace),
                )  # fmt: skip
        restore(mode_before)

    return forward


def make_backward(equations, n_states, n_params, dtype, history):
    """Backward sweep. With `history` the states of each sample are computed again first, and the gradients of the
    parameters come out too."""
    step, step_adjoint, _, potential_adjoint = equations
    read, write, add, read_p, add_p = (
        reader(n_states),
        writer(n_states),
        adder(n_states),
        reader(n_params),
        adder(n_params),
    )
    one, zero = dtype(1), dtype(0)
    digest = DIGEST

    @register_jitable
    def recompute(b, steps, v_init, events, weight, weight_rec, bias, p, own, states, x, frame, s):
        """states[t] is the state before step t; x[t] its drive."""
        for k in range(n_states):
            copy_row(states[0, k], v_init[k])
        chunk = frame.shape[0] if frame.shape[0] > 0 else steps
        for t0 in range(0, steps, chunk):
            drive(x[t0:], b, t0, min(steps, t0 + chunk), events, weight, bias, frame, one)
        for t in range(steps):
            lo, hi = (own.spike_ptr[b * steps + t - 1], own.spike_ptr[b * steps + t]) if t > 0 else (0, 0)
            if weight_rec.shape[0] > 0:
                add_rows(x[t], weight_rec, own.spikes, bias, lo, hi, one, False)
            for j in range(lo, hi):
                s[own.spikes[j]] = one
            for n in range(x.shape[1]):
                write(states[t + 1], n, step(read(states[t], n), s[n], x[t, n], read_p(p, n)))
            for j in range(lo, hi):
                s[own.spikes[j]] = zero

    @inlined
    def inject(n, du, d, now, p, grad_p):
        """Add du = dL/du of one site to the adjoint of its state."""
        ds, dp = potential_adjoint(du, read(now, n), read_p(p, n))
        add(d, n, ds)
        if history:
            add_p(grad_p, n, dp)

    @inlined
    def sites(b, t, steps, own, d, ds, now, p, grad_p):
        """Surrogate at the sites of step t: from dL/ds (from above, and ds through the neuron itself) to the state."""
        if own.dense_g.shape[0] > 0:
            g, grad = own.dense_g[b, t], own.dense_grad[b, t]
            for n in range(g.shape[0]):
                inject(n, g[n] * (grad[n] + ds[n]), d, now, p, grad_p)
            return
        row = b * steps + t
        for j in range(own.ptr[row], own.ptr[row + 1]):
            n = own.indices[j]
            inject(n, own.g[j] * (own.grad[j] + ds[n]), d, now, p, grad_p)

    @inlined
    def own_row(b, t, steps, own, weight_rec, grad_rec, ds, dx, rows_grad, places):
        """Recurrent part of step t: own spikes at t - 1 and their active sites. `places` names every neuron."""
        row = b * steps + t - 1
        add_to_rows(grad_rec, dx, own.spikes, own.grad, own.spike_ptr[row], own.spike_ptr[row + 1], one, False)
        sites, lo, hi = (
            (places, 0, ds.shape[0]) if own.dense_g.shape[0] > 0 else (own.indices, own.ptr[row], own.ptr[row + 1])
        )
        fill_row(rows_grad, zero)
        dot_rows(rows_grad, weight_rec, sites, lo, hi, dx, zero)
        for j in range(lo, hi):
            ds[sites[j]] += rows_grad[j - lo]

    @inlined
    def adjoint_row(d, ds, dx, s, before, x, p, grad_p):
        """One step back for all neurons: d from t to t - 1, dL/dx[t], and dL/ds[t - 1] through the neuron itself."""
        for n in range(dx.shape[0]):
            dn, dsn, dxn, dp = step_adjoint(read(d, n), read(before, n), s[n], x[n], read_p(p, n))
            write(d, n, dn)
            ds[n] = dsn
            dx[n] = dxn
            if history:
                add_p(grad_p, n, dp)

    @register_jitable
    def sample(b, steps, events, weight, weight_rec, p, own, below, grads, scratch):
        grad_w, grad_rec, grad_b, grad_p = grads
        d, ds, s, dx, frame, product, states, x, rows_grad, places = scratch
        for k in range(n_states):
            fill_row(d[k], zero)
        fill_row(ds, zero)
        nth = 0
        for t1 in range(steps, 0, -dx.shape[0]):
            t0 = max(0, t1 - dx.shape[0])
            for t in range(t1 - 1, t0 - 1, -1):
                now, before = (states[t + 1], states[t]) if history else (states[0], states[0])
                row_x = x[t] if history else dx[t - t0]
                sites(b, t, steps, own, d, ds, now, p, grad_p)
                if own.closest_order.shape[0] > 0:
                    while nth < ds.shape[0] and own.closest_step[b, own.closest_order[b, nth]] == t:
                        n = own.closest_order[b, nth]
                        inject(n, own.closest_du[b, n], d, now, p, grad_p)
                        nth += 1
                lo, hi = (own.spike_ptr[b * steps + t - 1], own.spike_ptr[b * steps + t]) if t > 0 else (0, 0)
                for j in range(lo, hi):
                    s[own.spikes[j]] = one
                adjoint_row(d, ds, dx[t - t0], s, before, row_x, p, grad_p)
                for j in range(lo, hi):
                    s[own.spikes[j]] = zero
                if t > 0 and weight_rec.shape[0] > 0:
                    own_row(b, t, steps, own, weight_rec, grad_rec, ds, dx[t - t0], rows_grad, places)
            drive_adjoint(dx, b, t0, t1, events, weight, below, grad_w, grad_b, frame, product, one)

    @njit(**KERNEL)
    def backward(first, last, batch, steps, events, weight, weight_rec, bias, p, own, below, grads, scratch, v_init):
        digest  # noqa: B018  (captured for the disk cache, see jit.py)
        mode_before = flush_denormals()
        grad_w, grad_rec, grad_b, grad_p = grads
        d, ds, s, dx, frame, product, states, x, rows_grad, places = scratch
        groups = d.shape[0]
        for group in range(first, last):
            for b in range(group, batch, groups):
                if history:
                    recompute(
                        b, steps, borrow(v_init), borrow(events), borrow(weight), borrow(weight_rec), borrow(bias),
                        borrow(p), borrow(own), borrow(states[group]), borrow(x[group]), borrow(frame[group]),
                        borrow(s[group]),
                    )  # fmt: skip
                sample(
                    b, steps, borrow(events), borrow(weight), borrow(weight_rec), borrow(p), borrow(own), borrow(below),
                    borrow((grad_w[group], grad_rec[group], grad_b[group], grad_p[group])),
                    borrow((d[group], ds[group], s[group], dx[group], frame[group], product[group], states[group],
                            x[group], rows_grad[group], places)),
                )  # fmt: skip
        restore(mode_before)

    return backward
