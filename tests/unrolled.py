"""A convolution as a matrix, in plain loops over every tap, which tests/reference.py takes as a dense weight."""

import itertools

import numpy as np


def taps(size, kernel, stride, padding, channels, channels_out, groups):
    """(input neuron, output neuron, index into a weight [kh, kw, C_in / groups, C_out]) of every connection."""
    out = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)]
    inner, outer = channels // groups, channels_out // groups
    for oy, ox, i, j in itertools.product(*map(range, (*out, *kernel))):
        y, x = oy * stride[0] - padding[0] + i, ox * stride[1] - padding[1] + j
        if 0 <= y < size[0] and 0 <= x < size[1]:
            for c, k in itertools.product(range(inner), range(channels_out)):
                source = (y * size[1] + x) * channels + k // outer * inner + c
                yield source, (oy * out[1] + ox) * channels_out + k, (i, j, c, k)


class Unrolled:
    """The connections of one `nn.Conv2d`."""

    def __init__(self, layer):
        w = layer.windows
        channels = layer.in_channels, layer.out_channels, layer.groups
        every = list(taps(w.size, w.kernel, w.stride, w.padding, *channels))
        self.source, self.target = (np.array([tap[k] for tap in every], int) for k in (0, 1))
        self.place = tuple(np.array([tap[2] for tap in every], int).reshape(-1, 4).T)
        self.sizes, self.shape = (layer.n_in, layer.n_out), layer.weight.shape

    def matrix(self, weight):
        """Weight as a matrix [N_in, N_out]."""
        matrix = np.zeros(self.sizes)
        matrix[self.source, self.target] = weight[self.place]
        return matrix

    def folded(self, grad):
        """Gradient of the weight from that of the matrix."""
        weight = np.zeros(self.shape)
        np.add.at(weight, self.place, grad[self.source, self.target])
        return weight
