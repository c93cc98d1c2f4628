"""Sweeps of a readout layer (no spikes), with the reduction over time inside: nothing of size T is kept for it."""

from numba.extending import register_jitable

from nsim.kernels.access import adder, reader, writer
from nsim.kernels.denormals import flush_denormals, restore
from nsim.kernels.jit import inlined, kernel
from nsim.kernels.rows import clear, copy_row, fill

TRACE, SUM, MAX, LAST = 0, 1, 2, 3


def make_forward(equations, n_states, n_params, dtype, connection):
    """Forward sweep. `out` [B, T, N] is filled for TRACE; else `acc` [B, N] goes on from what it holds, over the first
    `lengths[b]` steps, and `where` [B, N] keeps the step of the maximum."""
    step, _, potential, _ = equations
    drive = connection.drive
    read, write, read_p = reader(n_states), writer(n_states), reader(n_params)
    one, zero = dtype(1), dtype(0)

    @inlined
    def reduce(mode, t, o, acc, where, b):
        for n in range(o.shape[0]):
            if mode == SUM:
                acc[b, n] += o[n]
            elif mode == LAST:
                acc[b, n] = o[n]
            # NaN must come through: it compares false with everything.
            elif not (o[n] <= acc[b, n]):
                acc[b, n] = o[n]
                where[b, n] = t

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
                    for n in range(o.shape[0]):
                        out[b, t, n] = o[n]
                elif t < length:
                    reduce(mode, t, o, acc, where, b)

    @kernel
    def forward(first, last, scratch, groups, mode, lengths, steps, events, layer, state, out, acc, where):
        mode_before = flush_denormals()
        weight, _, bias, p = layer
        o, x, frame = scratch
        for group in range(first, last):
            for b in range(group, lengths.shape[0], groups):
                sample(
                    mode, b, lengths[b], steps, events, weight, bias, p, state[b], x, o, frame, out, acc, where,
                )  # fmt: skip
        restore(mode_before)

    return forward


def make_backward(equations, n_states, n_params, dtype, history, connection):
    """Backward sweep from `grad`, dL/d(out) [B, T, N] for TRACE, else dL/d(acc) [B, 1, N]."""
    step, step_adjoint, _, potential_adjoint = equations
    drive, drive_adjoint = connection.drive, connection.drive_adjoint
    read, write, add = reader(n_states), writer(n_states), adder(n_states)
    read_p, add_p = reader(n_params), adder(n_params)
    one, zero = dtype(1), dtype(0)

    @register_jitable
    def recompute(b, steps, v_init, events, weight, bias, p, states, x, frame):
        """states[t] is the state before step t; x[t] its drive."""
        for k in range(n_states):
            copy_row(states[0], k, v_init[k])
        chunk = frame.shape[0] if frame.shape[0] > 0 else steps
        for t0 in range(0, steps, chunk):
            drive(x[t0:], b, t0, min(steps, t0 + chunk), events, weight, bias, frame, one)
        for t in range(steps):
            for n in range(p.shape[1]):
                write(states[t + 1], n, step(read(states[t], n), zero, x[t, n], read_p(p, n)))

    @inlined
    def output_grad(mode, b, t, length, grad, where, do):
        """do[n] = dL/do[t, n]."""
        row = t if mode == TRACE else 0
        if mode == MAX:
            for n in range(do.shape[0]):
                do[n] = grad[b, 0, n] if where[b, n] == t else zero
        elif mode == TRACE or (t < length and (mode == SUM or t == length - 1)):
            for n in range(do.shape[0]):
                do[n] = grad[b, row, n]
        else:
            for n in range(do.shape[0]):
                do[n] = zero

    @inlined
    def row_back(do, d, dx, r, now, before, x, rx, p, grad_p):
        for n in range(do.shape[0]):
            values = read_p(p, n)
            dn, dp = potential_adjoint(do[n], read(now, n), values)
            add(d, n, dn)
            if history:
                add_p(grad_p, n, dp)
            dn, _, dx_n, dp = step_adjoint(read(d, n), read(before, n), zero, x[rx, n], values)
            write(d, n, dn)
            dx[r, n] = dx_n
            if history:
                add_p(grad_p, n, dp)

    @register_jitable
    def sample(mode, b, length, steps, events, weight, p, grad, where, below, grads, scratch):
        grad_w, grad_b, grad_p = grads
        d, do, dx, frame, by_input, states, x = scratch
        fill(d, zero)
        now = before = states[0]
        for t1 in range(steps, 0, -dx.shape[0]):
            t0 = max(0, t1 - dx.shape[0])
            for t in range(t1 - 1, t0 - 1, -1):
                output_grad(mode, b, t, length, grad, where, do)
                if history:
                    row_back(do, d, dx, t - t0, states[t + 1], states[t], x, t, p, grad_p)
                else:
                    row_back(do, d, dx, t - t0, now, before, dx, t - t0, p, grad_p)
            drive_adjoint(dx, b, t0, t1, events, weight, below, grad_w, grad_b, frame, by_input, one)

    @kernel
    def backward(first, last, scratch, mode, lengths, steps, events, layer, grad, where, below, grads, v_init):
        mode_before = flush_denormals()
        weight, _, bias, p = layer
        grad_w, grad_rec, grad_b, grad_p = grads
        d, do, _, dx, frame, by_input, states, x, _, _ = scratch
        groups = grad_w.shape[0]
        for group in range(first, last):
            clear(grad_w[group], grad_rec[group], grad_b[group], grad_p[group], zero)
            for b in range(group, lengths.shape[0], groups):
                if history:
                    recompute(b, steps, v_init, events, weight, bias, p, states, x, frame)
                sample(
                    mode, b, lengths[b], steps, events, weight, p, grad, where, below,
                    (grad_w[group], grad_b[group], grad_p[group]),
                    (d, do, dx, frame, by_input, states, x),
                )  # fmt: skip
        restore(mode_before)

    return backward
