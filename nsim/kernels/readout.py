"""Sweeps of a readout layer (no spikes), with the reduction over time inside: nothing of size T is kept for it."""

from numba import njit
from numba.extending import register_jitable

from nsim.kernels.access import adder, reader, writer
from nsim.kernels.borrow import borrow
from nsim.kernels.denormals import flush_denormals, restore
from nsim.kernels.drive import drive, drive_adjoint
from nsim.kernels.jit import DIGEST, KERNEL, inlined
from nsim.kernels.rows import add_row, copy_row, fill_row

TRACE, SUM, MAX, LAST = 0, 1, 2, 3


def make_forward(equations, n_states, n_params, dtype):
    """Forward sweep. `out` [B, T, N] is filled for TRACE; else `acc` [B, N] goes on from what it holds, over the first
    `lengths[b]` steps, and `where` [B, N] keeps the step of the maximum."""
    step, _, potential, _ = equations
    read, write, read_p = reader(n_states), writer(n_states), reader(n_params)
    one, zero = dtype(1), dtype(0)
    digest = DIGEST

    @inlined
    def reduce(mode, t, o, acc, where):
        if mode == SUM:
            add_row(acc, o)
        elif mode == LAST:
            copy_row(acc, o)
        else:
            for n in range(o.shape[0]):
                # NaN must come through: it compares false with everything.
                if not (o[n] <= acc[n]):
                    acc[n] = o[n]
                    where[n] = t

    @register_jitable
    def sample(mode, b, length, steps, events, weight, bias, p, state, x, o, frame, out, acc, where):
        for t0 in range(0, steps, x.shape[0]):
            t1 = min(steps, t0 + x.shape[0])
            drive(x, b, t0, t1, events, weight, bias, frame, one)
            for t in range(t0, t1):
                for n in range(o.shape[0]):
                    values = read_p(p, n)
                    new = step(read(state, n), zero, x[t - t0, n], values)
                    write(state, n, new)
                    o[n] = potential(new, values)
                if mode == TRACE:
                    copy_row(out[b, t], o)
                elif t < length:
                    reduce(mode, t, o, acc, where)

    @njit(**KERNEL)
    def forward(first, last, mode, lengths, steps, events, weight, bias, p, state, x, o, frame, out, acc, where):
        digest  # noqa: B018  (captured for the disk cache, see jit.py)
        mode_before = flush_denormals()
        groups = x.shape[0]
        for group in range(first, last):
            for b in range(group, lengths.shape[0], groups):
                sample(
                    mode, b, lengths[b], steps, borrow(events), borrow(weight), borrow(bias), borrow(p),
                    borrow(state[b]), borrow(x[group]), borrow(o[group]), borrow(frame[group]), borrow(out),
                    borrow(acc[b]), borrow(where[b]),
                )  # fmt: skip
        restore(mode_before)

    return forward


def make_backward(equations, n_states, n_params, dtype, history):
    """Backward sweep from `grad`, dL/d(out) [B, T, N] for TRACE, else dL/d(acc) [B, N]."""
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
    def recompute(b, steps, v_init, events, weight, bias, p, states, x, frame):
        """states[t] is the state before step t; x[t] its drive."""
        for k in range(n_states):
            copy_row(states[0, k], v_init[k])
        chunk = frame.shape[0] if frame.shape[0] > 0 else steps
        for t0 in range(0, steps, chunk):
            drive(x[t0:], b, t0, min(steps, t0 + chunk), events, weight, bias, frame, one)
        for t in range(steps):
            for n in range(x.shape[1]):
                write(states[t + 1], n, step(read(states[t], n), zero, x[t, n], read_p(p, n)))

    @register_jitable
    def output_grad(mode, b, t, length, grad, where, row):
        """row[n] = dL/do[t, n]."""
        if mode == TRACE:
            copy_row(row, grad[b, t])
        elif mode == MAX:
            for n in range(row.shape[0]):
                row[n] = grad[b, 0, n] if where[b, n] == t else zero
        elif t < length and (mode == SUM or t == length - 1):
            copy_row(row, grad[b, 0])
        else:
            fill_row(row, zero)

    @inlined
    def row_back(do, d, dx, now, before, x, p, grad_p):
        for n in range(dx.shape[0]):
            values = read_p(p, n)
            dn, dp = potential_adjoint(do[n], read(now, n), values)
            add(d, n, dn)
            if history:
                add_p(grad_p, n, dp)
            dn, _, dx_n, dp = step_adjoint(read(d, n), read(before, n), zero, x[n], values)
            write(d, n, dn)
            dx[n] = dx_n
            if history:
                add_p(grad_p, n, dp)

    @register_jitable
    def sample(mode, b, length, steps, events, weight, p, grad, where, below, grads, scratch):
        grad_w, grad_b, grad_p = grads
        d, dx, frame, product, states, x, do = scratch
        for k in range(n_states):
            fill_row(d[k], zero)
        for t1 in range(steps, 0, -dx.shape[0]):
            t0 = max(0, t1 - dx.shape[0])
            for t in range(t1 - 1, t0 - 1, -1):
                now, before = (states[t + 1], states[t]) if history else (states[0], states[0])
                output_grad(mode, b, t, length, grad, where, do)
                row_back(do, d, dx[t - t0], now, before, x[t] if history else dx[t - t0], p, grad_p)
            drive_adjoint(dx, b, t0, t1, events, weight, below, grad_w, grad_b, frame, product, one)

    @njit(**KERNEL)
    def backward(
        first, last, mode, lengths, steps, events, weight, bias, p, grad, where, below, grads, scratch, v_init
    ):
        digest  # noqa: B018  (captured for the disk cache, see jit.py)
        mode_before = flush_denormals()
        grad_w, grad_b, grad_p = grads
        d, dx, frame, product, states, x, do = scratch
        groups = dx.shape[0]
        for group in range(first, last):
            for b in range(group, lengths.shape[0], groups):
                if history:
                    recompute(
                        b, steps, borrow(v_init), borrow(events), borrow(weight), borrow(bias), borrow(p),
                        borrow(states[group]), borrow(x[group]), borrow(frame[group]),
                    )  # fmt: skip
                sample(
                    mode, b, lengths[b], steps, borrow(events), borrow(weight), borrow(p), borrow(grad), borrow(where),
                    borrow(below), borrow((grad_w[group], grad_b[group], grad_p[group])),
                    borrow((d[group], dx[group], frame[group], product[group], states[group], x[group], do[group])),
                )  # fmt: skip
        restore(mode_before)

    return backward
