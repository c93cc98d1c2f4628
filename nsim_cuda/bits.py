"""Ordered lists without ballots: neurons set their bit in a mask that the block shares; after one barrier each knows
its rank from the bits below its own. Three masks take turns, so that one barrier a step is enough: the mask of step t
is read in step t + 1, as the spikes that come back, and cleared in t + 1 after the barrier."""

import numpy as np

from nsim_cuda.jit import cuda, inlined

ONE = np.uint32(1)


@inlined
def set_bit(mask, turn, m):
    """Set bit m of a mask."""
    cuda.atomic.or_(mask, (turn, m >> 5), ONE << np.uint32(m & 31))


@inlined
def is_set(mask, turn, m):
    """Whether bit m of a mask is set."""
    return (mask[turn, m >> 5] >> np.uint32(m & 31)) & ONE != 0


@inlined
def number(mask, turn, words):
    """Set bits of a mask."""
    total = 0
    for w in range(words):
        total += cuda.popc(mask[turn, w])
    return total


@inlined
def rank(mask, turn, m):
    """Set bits below bit m."""
    total = 0
    for w in range(m >> 5):
        total += cuda.popc(mask[turn, w])
    return total + cuda.popc(np.uint32(mask[turn, m >> 5] & ((ONE << np.uint32(m & 31)) - ONE)))


@inlined
def add_set_rows(x, weight, n, mask, turn, words):
    """x + sum of weight[m, n] over the set bits m, ascending."""
    for w in range(words):
        rest = np.uint32(mask[turn, w])
        while rest != 0:
            x += weight[32 * w + cuda.ffs(rest) - 1, n]
            rest = np.uint32(rest & (rest - ONE))
    return x
