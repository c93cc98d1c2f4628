"""Calibration of converted networks: how much a quantised ReLU errs on a histogram of activations."""

import numpy as np

from nsim.kernels.jit import exact_kernel, inlined


@inlined
def square_error(x, h, most):
    """The integral of (a - q(a))^2 from 0 to x, q(a) = h clip(round(a / h), 0, most): h^3 / 12 for each whole level,
    and what is left of the last."""
    level = min(np.floor(x / h + 0.5), most)
    return level * h**3 / 12 + (x - level * h) ** 3 / 3


@exact_kernel
def least_error(first, last, counts, edges, largest, tried, levels, most, best):
    """best[c]: of the thresholds tried * largest[c] the one with the least error for counts [C, bins] of activations
    that are evenly spread between edges [bins + 1]; 0 for a channel that never was active."""
    for c in range(first, last):
        least, best[c] = np.inf, 0
        if largest[c] == 0:
            continue
        # What every threshold rounds to zero makes no difference.
        start = np.searchsorted(edges, tried[0] * largest[c] / levels / 2) - 1
        for k in range(tried.size):
            h, error = tried[k] * largest[c] / levels, 0.0
            for i in range(max(start, 0), counts.shape[1]):
                if counts[c, i] > 0:
                    a, b = edges[i], edges[i + 1]
                    error += counts[c, i] * (square_error(b, h, most) - square_error(a, h, most)) / (b - a)
            if error < least:
                least, best[c] = error, h * levels
