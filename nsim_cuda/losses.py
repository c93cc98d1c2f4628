"""Losses on the device: cross-entropy, and the spike-rate regularisers in one pass over the counts."""

import math

import numpy as np
from numba import from_dtype

from nsim_cuda import memory
from nsim_cuda.jit import BLOCK, block_for, cuda, start

UPPER, LOWER = 0, 1


def make_cross_entropy(dtype):
    """Kernels of one number type: cross-entropy and its gradient, a block for each row; rate losses, one for a
    sample."""
    kind, one, zero = from_dtype(np.dtype(dtype)), dtype(1), dtype(0)

    @cuda.jit
    def cross_entropy(scores, labels, weight, smoothing, loss, grad):
        """loss[row] and dL/dscores of -sum y log softmax(scores), weighted; rows of weight 0 are not looked at."""
        row, tid, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
        classes = scores.shape[1]
        shared = cuda.shared.array(2, kind)
        if weight[row] == zero:
            for c in range(tid, classes, threads):
                grad[row, c] = zero
            if tid == 0:
                loss[row] = zero
            return
        if tid == 0:
            top = scores[row, 0]
            for c in range(1, classes):
                # NaN must come through: it compares false with everything.
                if not (scores[row, c] <= top):
                    top = scores[row, c]
            total, mean = zero, zero
            for c in range(classes):
                total += math.exp(scores[row, c] - top)
                mean += scores[row, c] - top
            log_total = math.log(total)
            at_label = scores[row, labels[row]] - top - log_total
            smooth = mean / dtype(classes) - log_total
            loss[row] = -weight[row] * ((one - smoothing) * at_label + smoothing * smooth)
            shared[0] = top
            shared[1] = log_total
        cuda.syncthreads()
        for c in range(tid, classes, threads):
            part = math.exp(scores[row, c] - shared[0] - shared[1]) - smoothing / dtype(classes)
            if c == labels[row]:
                part -= one - smoothing
            grad[row, c] = weight[row] * part

    @cuda.jit
    def rate(which, counts, limit, strength, loss, grad):
        """Rate loss of one sample and dL/dcounts: strength relu(mean - limit), or strength / N sum relu(limit -
        c)^2."""
        b, tid, threads, n = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x, counts.shape[1]
        part = cuda.shared.array(BLOCK, kind)
        own = zero
        for k in range(tid, n, threads):
            missing = max(zero, limit - counts[b, k])
            own += counts[b, k] if which == UPPER else missing * missing
        part[tid] = own
        cuda.syncthreads()
        total = zero
        for k in range(threads):
            total += part[k]
        share = strength / dtype(counts.shape[0])
        excess = max(zero, total / dtype(n) - limit)
        for k in range(tid, n, threads):
            if which == UPPER:
                grad[b, k] = share / dtype(n) if excess > zero else zero
            else:
                grad[b, k] = -(one + one) * share / dtype(n) * max(zero, limit - counts[b, k])
        if tid == 0:
            loss[b] = share * excess if which == UPPER else share * total / dtype(n)

    return cross_entropy, rate


_kernels = {}


def kernels(dtype):
    if dtype not in _kernels:
        _kernels[dtype] = make_cross_entropy(np.dtype(dtype).type)
    return _kernels[dtype]


def cross_entropy(scores, labels, weight, smoothing):
    """Sum over rows of weight times cross-entropy, and its gradient [rows, classes]."""
    dtype = scores.dtype
    loss, grad = memory.empty(scores.shape[0], dtype), memory.empty(scores.shape, dtype)
    kernel, _ = kernels(dtype)
    start(
        kernel, scores.shape[0], block_for(scores.shape[1]), scores, memory.put(labels, np.int64),
        memory.put(weight, dtype), dtype.type(smoothing), loss, grad,
    )  # fmt: skip
    return loss.sum(), grad


def rate(which, counts, limit, strength):
    """A rate loss of counts [B, N], the mean over the batch, and its gradient."""
    dtype = counts.dtype
    loss, grad = memory.empty(counts.shape[0], dtype), memory.empty(counts.shape, dtype)
    _, kernel = kernels(dtype)
    start(
        kernel, counts.shape[0], block_for(counts.shape[1]), which, counts, dtype.type(limit), dtype.type(strength),
        loss, grad,
    )  # fmt: skip
    return loss.sum(), grad
