"""Sweeps of a readout layer (no spikes), with the reduction over time inside: nothing of size T is kept for it."""

import numpy as np
from numba import from_dtype

from nsim.kernels.access import adder, reader, writer
from nsim.kernels.readout import LAST, MAX, SUM, TRACE
from nsim_cuda.jit import BLOCK, cuda, inlined, quotient
from nsim_cuda.sweep import constant


def make_forward(equations, n_states, n_params, dtype, connection):
    """Forward sweep. `out` [B, T, N] is filled for TRACE; else `acc` [B, N] goes on from what it holds, over the first
    `lengths[b]` steps (all where it is empty), and `where` [B, N] keeps the step of the maximum. A thread is a
    neuron."""
    step, _, potential, _ = equations
    read, write, read_p = reader(n_states), writer(n_states), reader(n_params)
    one, zero = dtype(1), dtype(0)
    drive = connection.drive

    @inlined
    def reduce(mode, b, t, n, o, acc, where):
        if mode == SUM:
            acc[b, n] += o
        elif mode == LAST:
            acc[b, n] = o
        # NaN must come through: it compares false with everything.
        elif not (o <= acc[b, n]):
            acc[b, n] = o
            where[b, n] = t

    @cuda.jit
    def forward(mode, steps, lengths, events, layer, state, out, acc, where):
        weight, _, bias, p = layer
        b = cuda.blockIdx.x
        n = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        if n >= bias.shape[0]:
            return
        length = lengths[b] if lengths.shape[0] > 0 else steps
        values = read_p(p, n)
        now = read(state[b], n)
        for t in range(steps):
            now = step(now, zero, drive(bias[n], b, t, n, events, weight, one), values)
            o = potential(now, values)
            if mode == TRACE:
                out[b, t, n] = o
            elif t < length:
                reduce(mode, b, t, n, o, acc, where)
        write(state[b], n, now)

    return forward


def make_backward(equations, n_states, n_params, dtype, history, connection):
    """Backward sweep from `grad`, dL/d(out) [B, T, N] for TRACE, else dL/d(acc) [B, 1, N]. Blocks as in sweep.py."""
    step, step_adjoint, _, potential_adjoint = equations
    read, write, add = reader(n_states), writer(n_states), adder(n_states)
    read_p, add_p = reader(n_params), adder(n_params)
    one, zero = dtype(1), dtype(0)
    kind, rest = from_dtype(np.dtype(dtype)), constant(n_states, zero)
    drive, drive_adjoint = connection.drive, connection.drive_adjoint

    @inlined
    def recompute(b, steps, n, v_init, events, layer, states, x):
        """states[t] is the state before step t; x[t] its drive."""
        weight, _, bias, p = layer
        write(states[0], n, rest())
        states[0, 0, n] = v_init[n]
        for t in range(steps):
            x[t, n] = drive(bias[n], b, t, n, events, weight, one)
            write(states[t + 1], n, step(read(states[t], n), zero, x[t, n], read_p(p, n)))

    @inlined
    def output_grad(mode, b, t, n, length, grad, where):
        """dL/do[t, n]."""
        if mode == TRACE:
            return grad[b, t, n]
        if mode == MAX:
            return grad[b, 0, n] if where[b, n] == t else zero
        return grad[b, 0, n] if t < length and (mode == SUM or t == length - 1) else zero

    @inlined
    def step_back(t, n, do, d, states, x, p, grad_p):
        """One step back for one neuron: d from t to t - 1; gives dL/dx[t]."""
        values = read_p(p, n)
        if history:
            dn, dp = potential_adjoint(do, read(states[t + 1], n), values)
            add(d, n, dn)
            add_p(grad_p, n, dp)
            dn, _, dxn, dp = step_adjoint(read(d, n), read(states[t], n), zero, x[t, n], values)
            add_p(grad_p, n, dp)
        else:
            dn, dp = potential_adjoint(do, rest(), values)
            add(d, n, dn)
            dn, _, dxn, dp = step_adjoint(read(d, n), rest(), zero, zero, values)
        write(d, n, dn)
        return dxn

    @cuda.jit
    def backward(mode, batch, steps, lengths, width, events, layer, grad, where, below, grads, scratch, v_init):
        weight, _, bias, p = layer
        tid, threads, group = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
        first = cuda.blockIdx.y * width
        last = min(bias.shape[0], first + width)
        stride = min(width, threads)
        lane, lanes = quotient(tid, stride), quotient(threads, stride)
        start = first + tid - lane * stride
        partial = cuda.shared.array(BLOCK, kind)
        d, dx = scratch.d[group], scratch.dx[group]
        states, x = scratch.states[group], scratch.x[group]
        grad_w, grad_b, grad_p = grads.w[group], grads.b[group], grads.p[group]
        for b in range(group, batch, cuda.gridDim.x):
            length = lengths[b] if lengths.shape[0] > 0 else steps
            if lane == 0:
                n = start
                while n < last:
                    write(d, n, rest())
                    if history:
                        recompute(b, steps, n, v_init, events, layer, states, x)
                    n += stride
            for t in range(steps - 1, -1, -1):
                if lane == 0:
                    n = start
                    while n < last:
                        do = output_grad(mode, b, t, n, length, grad, where)
                        dx[n] = step_back(t, n, do, d, states, x, p, grad_p)
                        if grad_b.shape[0] > 0:
                            grad_b[n] += dx[n]
                        n += stride
                cuda.syncthreads()
                share = start, last, stride, lane, lanes
                drive_adjoint(grad_w, dx, b, t, share, events, weight, below, partial, one)
                cuda.syncthreads()

    return backward
