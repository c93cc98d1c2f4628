"""Optimiser steps on the device; the twin of those in `nsim.optim`. None moves while a flag of the status is set."""

import math

from nsim_cuda import memory, status
from nsim_cuda.jit import FLAT, blocks, cuda, start
from nsim_cuda.status import BAD, FULL


@cuda.jit
def sgd_step(w, grad, buffer, lr, momentum, decay, nesterov, flags):
    """buffer <- momentum buffer + g; w <- w - lr (g + momentum buffer if nesterov else buffer). No buffer: w - lr g."""
    if flags[FULL] != 0 or flags[BAD] != 0:
        return
    for k in range(cuda.grid(1), w.shape[0], cuda.gridsize(1)):
        g = grad[k] + decay * w[k]
        if buffer.shape[0] > 0:
            buffer[k] = momentum * buffer[k] + g
            g = g + momentum * buffer[k] if nesterov else buffer[k]
        w[k] -= lr * g


@cuda.jit
def adam_step(w, grad, m, v, rest1, beta2, rest2, size, root, eps, keep, flags):
    """As in nsim.optim: rest = 1 - beta; size = lr / (1 - beta1^t); root = sqrt(1 - beta2^t); keep = 1 - lr decay."""
    if flags[FULL] != 0 or flags[BAD] != 0:
        return
    for k in range(cuda.grid(1), w.shape[0], cuda.gridsize(1)):
        g = grad[k]
        m[k] += rest1 * (g - m[k])
        v[k] = beta2 * v[k] + rest2 * g * g
        w[k] = keep * w[k] - size * (m[k] / (math.sqrt(v[k]) / root + eps))


@cuda.jit
def find_bad(values, flags):
    """Set a flag where a number is not finite."""
    for k in range(cuda.grid(1), values.shape[0], cuda.gridsize(1)):
        if values[k] - values[k] != 0:
            flags[BAD] = 1


@cuda.jit
def scaled(squares, largest, margin, grad, out):
    """out = grad, scaled down so that the joint norm sqrt(squares) is at most `largest`."""
    norm = math.sqrt(squares[0]) + margin
    for k in range(cuda.grid(1), out.shape[0], cuda.gridsize(1)):
        # So that NaN goes on: it compares false with everything.
        out[k] = grad[k] if norm <= largest else grad[k] * (largest / norm)


def sgd(w, grad, buffer, lr, momentum, decay, nesterov):
    start(
        sgd_step, blocks(w.size), FLAT, w.reshape(-1), grad.reshape(-1), buffer.reshape(-1), lr, momentum, decay,
        nesterov, status.flags(),
    )  # fmt: skip


def sgd_plain(w, grad, lr, decay):
    sgd(w, grad, memory.empty(0, w.dtype), lr, w.dtype.type(0), decay, False)


def adam(w, grad, m, v, *numbers):
    flat = (a.reshape(-1) for a in (w, grad, m, v))
    start(adam_step, blocks(w.size), FLAT, *flat, *numbers, status.flags())


def guard(arrays):
    """Let no optimiser move, and `status.take_bad` tell, where a number in these arrays is not finite."""
    for array in arrays:
        start(find_bad, blocks(array.size), FLAT, array.reshape(-1), status.flags())


def clipped(grads, max_norm):
    """The gradients scaled down to a joint norm of max_norm, and their squared norm, on the device."""
    squares = None
    for grad in grads:
        own = (grad * grad).sum()
        squares = own if squares is None else squares + own
    result = []
    for grad in grads:
        out, (largest, margin) = memory.empty(grad.shape, grad.dtype), map(grad.dtype.type, (max_norm, 1e-6))
        start(scaled, blocks(out.size), FLAT, squares.reshape(-1), largest, margin, grad.reshape(-1), out.reshape(-1))
        result.append(out)
    return result, squares
