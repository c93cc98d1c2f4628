"""Sweeps of a spiking layer over whole sequences, one launch for all steps.

Forward, a block is one sample and one tile of neurons (all of them where the layer is recurrent); backward, one group
of samples and one tile. `make_forward` and `make_backward` build the kernels of one neuron model and number type, from
the same equations as `nsim.kernels.sweep`; the adjoint's order: docs/design.md, section 1.

Gradients of weights: each group of samples sums its own, and these are added in order afterwards. A thread owns a
column, or with several lanes an event of a column, so that no two threads of a block touch one number and none of
another block does: no atomics, and one result. Tiles of columns in shared memory would be read faster, but only few
inputs fit there.
"""

from typing import NamedTuple

import numpy as np
from numba import from_dtype, uint32

from nsim.kernels.access import adder, reader, writer
from nsim.kernels.sweep import probed
from nsim_cuda import bits
from nsim_cuda.drive import dot_rows
from nsim_cuda.jit import BLOCK, WORDS, cuda, inlined, quotient
from nsim_cuda.rows import add_rows, add_to_rows
from nsim_cuda.status import FULL, TIGHT


class Lists(NamedTuple):
    """Lists of a layer, one for each sample and tile: entries of step t are indices[ptr[row, t]:ptr[row, t + 1]], and u
    there; `room` entries for each row, 0 where nothing is to be kept."""

    ptr: object
    indices: object
    u: object
    room: int


class Trace(NamedTuple):
    """Closest approach: best u and its step, [B, N], looked for in the first wanted[b] steps of a sample. States to
    record: neurons watch [K], values [B, T, S, K]. Spikes before the first and of the last step: before, after [B, N].
    Or empty."""

    wanted: object
    best: object
    when: object
    watch: object
    values: object
    before: object
    after: object


class Own(NamedTuple):
    """What enters the backward sweep of a layer at its own sites: its spikes (spike_ptr, spikes; size 1 each), the
    active set with g(u) and dL/ds, and closest approaches: step (-1: none) and dL/du [B, N]."""

    spikes: object
    ptr: object
    indices: object
    g: object
    grad: object
    when: object
    du: object


class Gradients(NamedTuple):
    """Partial sums for each group of samples; empty where there is no such parameter."""

    w: object
    rec: object
    b: object
    p: object


class Scratch(NamedTuple):
    """For each group: adjoint of the state d [S, N], dx, ds, mark [N], and with history states [T + 1, S, N], x [T,
    N]."""

    d: object
    dx: object
    ds: object
    mark: object
    states: object
    x: object


def constant(count, value):
    """A function that gives the tuple of `value`, count times."""
    if count == 0:
        return inlined(lambda: ())
    rest = constant(count - 1, value)
    return inlined(lambda: rest() + (value,))


def make_forward(equations, n_states, n_params, dtype, connection):
    """Forward sweep. `state` [B, S, N] goes on from what it holds; `needs` [rows, 2] tells how long the lists are."""
    step, _, potential, _ = equations
    read, write, read_p = reader(n_states), writer(n_states), reader(n_params)
    one, zero = dtype(1), dtype(0)
    drive, recurrent = connection.drive, connection.RECURRENT

    @inlined
    def advance(b, t, n, m, before, words, events, weight, weight_rec, bias, p, state, fired):
        x = drive(bias[n], b, t, n, events, weight, one)
        if recurrent and weight_rec.shape[0] > 0:
            x = bits.add_set_rows(x, weight_rec, n, fired, before, words)
        s = one if bits.is_set(fired, before, m) else zero
        values = read_p(p, n)
        new = step(read(state, n), s, x, values)
        write(state, n, new)
        return potential(new, values)

    @inlined
    def track(b, t, n, u, trace):
        if u > trace.best[b, n] and t < trace.wanted[b]:
            trace.best[b, n] = u
            trace.when[b, n] = t

    @inlined
    def record(b, t, n, state, trace):
        for i in range(trace.watch.shape[0]):
            if trace.watch[i] == n:
                for j in range(n_states):
                    trace.values[b, t, j, i] = state[j, n]

    @inlined
    def close(row, k, lists, base, flags, needs, which):
        """Note what a list needed, and whether that was more than there was."""
        needs[row, which] = k - base
        if k - base > lists.room:
            flags[FULL] = 1
        if 2 * (k - base) > lists.room:
            flags[TIGHT] = 1

    @cuda.jit
    def forward(steps, tiles, width, events, layer, band, state, spikes, sites, needs, trace, flags):
        weight, weight_rec, bias, p = layer
        tid, threads, row = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
        b = row // tiles
        first = (row - b * tiles) * width
        last = min(bias.shape[0], first + width)
        words = (last - first + 31) >> 5
        fired = cuda.shared.array((3, WORDS), uint32)
        near = cuda.shared.array((3, WORDS), uint32)
        closest = trace.best.shape[0] > 0
        if closest and trace.wanted[b] == 0:
            return
        w = tid
        while w < words:
            for turn in range(3):
                fired[turn, w] = 0
                near[turn, w] = 0
            w += threads
        cuda.syncthreads()
        if trace.before.shape[0] > 0:
            n = first + tid
            while n < last:
                if trace.before[b, n] != 0:
                    bits.set_bit(fired, 2, n - first)
                n += threads
            cuda.syncthreads()
        spike_base, site_base = row * spikes.room, row * sites.room
        k, k_sites = spike_base, site_base
        if tid == 0:
            if spikes.room > 0:
                spikes.ptr[row, 0] = k
            if sites.room > 0:
                sites.ptr[row, 0] = k_sites
        for t in range(steps):
            now, before = t % 3, (t + 2) % 3
            n = first + tid
            while n < last:
                m = n - first
                u = advance(b, t, n, m, before, words, events, weight, weight_rec, bias, p, state[b], fired)
                if u > zero:
                    bits.set_bit(fired, now, m)
                if sites.room > 0 and abs(u) < band:
                    bits.set_bit(near, now, m)
                if closest:
                    track(b, t, n, u, trace)
                record(b, t, n, state[b], trace)
                n += threads
            cuda.syncthreads()
            w = tid
            while w < words:
                fired[before, w] = 0
                near[before, w] = 0
                w += threads
            if spikes.room > 0:
                n = first + tid
                while n < last:
                    if bits.is_set(fired, now, n - first):
                        place = k + bits.rank(fired, now, n - first)
                        if place < spike_base + spikes.room:
                            spikes.indices[place] = n
                    n += threads
                k += bits.number(fired, now, words)
                if tid == 0:
                    spikes.ptr[row, t + 1] = min(k, spike_base + spikes.room)
            if sites.room > 0:
                n = first + tid
                while n < last:
                    if bits.is_set(near, now, n - first):
                        place = k_sites + bits.rank(near, now, n - first)
                        if place < site_base + sites.room:
                            sites.indices[place] = n
                            sites.u[place] = potential(read(state[b], n), read_p(p, n))
                    n += threads
                k_sites += bits.number(near, now, words)
                if tid == 0:
                    sites.ptr[row, t + 1] = min(k_sites, site_base + sites.room)
        if trace.after.shape[0] > 0:
            n = first + tid
            while n < last:
                trace.after[b, n] = 1 if bits.is_set(fired, (steps - 1) % 3, n - first) else 0
                n += threads
        if tid == 0 and spikes.room > 0:
            close(row, k, spikes, spike_base, flags, needs, 0)
        if tid == 0 and sites.room > 0:
            close(row, k_sites, sites, site_base, flags, needs, 1)

    return forward


def make_backward(equations, n_states, n_params, dtype, history, connection):
    """Backward sweep. With `history` the states of each sample are computed again first, and the gradients of the
    parameters come out too."""
    step, step_adjoint, _, potential_adjoint = equations
    read, write, add = reader(n_states), writer(n_states), adder(n_states)
    read_p, add_p = reader(n_params), adder(n_params)
    one, zero = dtype(1), dtype(0)
    kind, rest = from_dtype(np.dtype(dtype)), constant(n_states, zero)
    feeds_back, asks_for_spikes = probed(step_adjoint, n_states, n_params, one)
    asks_for_spikes = asks_for_spikes or history
    drive, drive_adjoint, recurrent = connection.drive, connection.drive_adjoint, connection.RECURRENT

    @inlined
    def mark_spikes(b, t, first, last, tid, threads, spikes, mark):
        """mark[n] = t where neuron n of this block's columns fired at step t - 1; others are at another step."""
        if t > 0:
            for k in range(b * spikes.tiles, (b + 1) * spikes.tiles):
                j, hi = spikes.ptr[k, t - 1] + tid, spikes.ptr[k, t]
                while j < hi:
                    n = int(spikes.indices[j])
                    if first <= n and n < last:
                        mark[n] = t
                    j += threads

    @inlined
    def inject(n, du, d, states, t, p, grad_p):
        """Add du = dL/du of one site to the adjoint of its state."""
        if history:
            ds, dp = potential_adjoint(du, read(states[t + 1], n), read_p(p, n))
            add_p(grad_p, n, dp)
        else:
            ds, dp = potential_adjoint(du, rest(), read_p(p, n))
        add(d, n, ds)

    @inlined
    def inject_sites(b, t, first, last, tid, threads, own, d, ds, states, p, grad_p):
        """Surrogate at the sites of step t: from dL/ds (from above, and ds through the neuron itself) to the state."""
        tiles = own.spikes.tiles
        for k in range(b * tiles, (b + 1) * tiles):
            j, hi = own.ptr[k, t] + tid, own.ptr[k, t + 1]
            while j < hi:
                n = int(own.indices[j])
                if first <= n and n < last:
                    inject(n, own.g[j] * (own.grad[j] + ds[n]), d, states, t, p, grad_p)
                j += threads

    @inlined
    def step_back(b, t, n, d, ds, dx, mark, own, states, x, p, grad_p):
        """One step back for one neuron: d from t to t - 1, dL/dx[t], and dL/ds[t - 1] through the neuron itself."""
        if own.when.shape[0] > 0 and own.when[b, n] == t:
            inject(n, own.du[b, n], d, states, t, p, grad_p)
        s = zero
        if asks_for_spikes and mark[n] == t:
            s = one
        if history:
            dn, dsn, dxn, dp = step_adjoint(read(d, n), read(states[t], n), s, x[t, n], read_p(p, n))
            add_p(grad_p, n, dp)
        else:
            dn, dsn, dxn, dp = step_adjoint(read(d, n), rest(), s, zero, read_p(p, n))
        write(d, n, dn)
        ds[n] = dsn if feeds_back else zero
        dx[n] = dxn
        return dxn

    @inlined
    def recompute(b, steps, first, last, share, tid, threads, v_init, events, layer, own, mark, states, x):
        """states[t] is the state before step t; x[t] its drive. Of the threads' shares (drive.py) lane 0 counts."""
        weight, weight_rec, bias, p = layer
        start, _, stride, lane, _ = share
        owner = lane == 0
        if owner:
            n = start
            while n < last:
                write(states[0], n, rest())
                states[0, 0, n] = v_init[n]
                n += stride
        for t in range(steps):
            mark_spikes(b, t, first, last, tid, threads, own.spikes, mark)
            cuda.syncthreads()
            if owner:
                n = start
                while n < last:
                    drive_n = drive(bias[n], b, t, n, events, weight, one)
                    if recurrent and weight_rec.shape[0] > 0 and t > 0:
                        lo, hi = own.spikes.ptr[b, t - 1], own.spikes.ptr[b, t]
                        drive_n = add_rows(drive_n, weight_rec, n, own.spikes, lo, hi, 0, one)
                    x[t, n] = drive_n
                    s = one if mark[n] == t else zero
                    write(states[t + 1], n, step(read(states[t], n), s, drive_n, read_p(p, n)))
                    n += stride
            cuda.syncthreads()

    @cuda.jit
    def backward(batch, steps, width, events, layer, own, below, grads, scratch, v_init):
        weight, weight_rec, bias, p = layer
        tid, threads, group = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
        first = cuda.blockIdx.y * width
        last = min(bias.shape[0], first + width)
        stride = min(width, threads)
        lane, lanes = quotient(tid, stride), quotient(threads, stride)
        start = first + tid - lane * stride
        share, owner = (start, last, stride, lane, lanes), lane == 0
        partial = cuda.shared.array(BLOCK, kind)
        d, dx, ds, mark = scratch.d[group], scratch.dx[group], scratch.ds[group], scratch.mark[group]
        states, x = scratch.states[group], scratch.x[group]
        grad_w, grad_rec, grad_b, grad_p = grads.w[group], grads.rec[group], grads.b[group], grads.p[group]
        for b in range(group, batch, cuda.gridDim.x):
            if owner:
                n = start
                while n < last:
                    write(d, n, rest())
                    ds[n] = zero
                    mark[n] = -1
                    n += stride
            cuda.syncthreads()
            if history:
                recompute(b, steps, first, last, share, tid, threads, v_init, events, layer, own, mark, states, x)
            for t in range(steps - 1, -1, -1):
                inject_sites(b, t, first, last, tid, threads, own, d, ds, states, p, grad_p)
                if asks_for_spikes:
                    mark_spikes(b, t, first, last, tid, threads, own.spikes, mark)
                cuda.syncthreads()
                if owner:
                    n = start
                    while n < last:
                        dx_n = step_back(b, t, n, d, ds, dx, mark, own, states, x, p, grad_p)
                        if grad_b.shape[0] > 0:
                            grad_b[n] += dx_n
                        n += stride
                cuda.syncthreads()
                drive_adjoint(grad_w, dx, b, t, share, events, weight, below, partial, one)
                if recurrent and t > 0 and weight_rec.shape[0] > 0:
                    if lane < lanes:
                        spikes = own.spikes
                        lo, hi = spikes.ptr[b, t - 1], spikes.ptr[b, t]
                        n = start
                        while n < last:
                            add_to_rows(grad_rec, n, dx[n], spikes, lo, hi, lane, lanes, one)
                            n += stride
                    lo, hi = own.ptr[b, t - 1], own.ptr[b, t]
                    dot_rows(ds, True, weight_rec, own.indices, lo, hi, dx, last, partial, zero)

    return backward
