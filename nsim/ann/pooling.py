"""AvgPool, MaxPool and GlobalAvgPool over pictures [B, H, W, C]: one pass for each place in the window."""

from __future__ import annotations

import numpy as np

from nsim.ann.operation import Operation
from nsim.ann.windows import windows
from nsim.checks import flag
from nsim.errors import ParameterError, ShapeError
from nsim.tape import Tensor, record


class Pool(Operation):
    """What average and maximum pooling share: their windows.

    Parameters
    ----------
    kernel_size : int or (height, width)
    stride : int or (height, width), default: kernel_size
    padding : int, (height, width) or ((top, bottom), (left, right)), less than kernel_size
    """

    def __init__(self, kernel_size, *, stride=None, padding=0):
        self.label = f"{type(self).__name__}({kernel_size})"
        self.windows = windows(self.where, kernel_size, kernel_size if stride is None else stride, padding)
        for side, size in zip(self.windows.padding, self.windows.kernel, strict=True):
            if max(side) >= size:
                raise ParameterError(f"{self.where}: padding = {padding}: must be less than kernel_size")

    def options(self):
        kernel, stride, padding = self.windows
        return {"kernel_size": list(kernel), "stride": list(stride), "padding": [list(side) for side in padding]}

    def out_shape(self, shape):
        return (*self.windows.out_size(self.where, shape), shape[2])


class AvgPool(Pool):
    """Mean over windows.

    Parameters
    ----------
    kernel_size, stride, padding
        See `Pool`; the padding is of zeros.
    count_include_pad : bool
        Whether the zeros count in the mean; False divides by the pixels inside of the picture.
    """

    def __init__(self, kernel_size, *, stride=None, padding=0, count_include_pad=True):
        super().__init__(kernel_size, stride=stride, padding=padding)
        self.count_include_pad = flag(self.where, "count_include_pad", count_include_pad)

    def options(self):
        return super().options() | {"count_include_pad": self.count_include_pad}

    def share(self, shape) -> np.ndarray:
        """One over the number of pixels that each window's mean is of: array [H_out, W_out, 1]."""
        height, width, _ = self.out_shape(shape)
        if self.count_include_pad:
            return np.full((height, width, 1), 1 / np.prod(self.windows.kernel))
        ones = self.windows.patch(np.ones((1, *shape[:2], 1)), 0, height)
        return 1 / sum(ones[0, down, across] for _, _, down, across in self.windows.taps(height, width))

    def __call__(self, x, training=False):
        shape = x.shape
        height, width, _ = self.out_shape(shape[1:])
        share = self.share(shape[1:]).astype(x.dtype)
        taps = list(self.windows.taps(height, width))
        patch = self.windows.patch(x.data, 0, height)
        y = np.zeros((shape[0], height, width, shape[3]), x.dtype)
        for _, _, down, across in taps:
            y += patch[:, down, across]
        y *= share
        size = patch.shape

        def vjp(g):
            spread, g = np.zeros(size, g.dtype), g * share
            for _, _, down, across in taps:
                spread[:, down, across] += g
            dx = np.zeros(shape, g.dtype)
            self.windows.add_patch(dx, spread, 0, height)
            return (dx,)

        return record("avg_pool", Tensor(y), (x,), vjp)


class MaxPool(Pool):
    """Maximum over windows; the gradient goes to the first of equals. See `Pool`; padding never wins."""

    def __call__(self, x, training=False):
        shape = x.shape
        height, width, _ = self.out_shape(shape[1:])
        taps = list(self.windows.taps(height, width))
        patch = self.windows.patch(x.data, 0, height, fill=-np.inf)
        y = patch[:, taps[0][2], taps[0][3]].copy()
        for _, _, down, across in taps[1:]:
            np.maximum(y, patch[:, down, across], out=y)

        def vjp(g):
            spread, left = np.zeros(patch.shape, g.dtype), np.ones(y.shape, bool)
            for _, _, down, across in taps:
                first = left & (patch[:, down, across] == y)
                spread[:, down, across] += g * first
                left &= ~first
            dx = np.zeros(shape, g.dtype)
            self.windows.add_patch(dx, spread, 0, height)
            return (dx,)

        return record("max_pool", Tensor(y), (x,), vjp)


class GlobalAvgPool(Operation):
    """Mean over all pixels of a picture: (H, W, C) to (1, 1, C)."""

    def out_shape(self, shape):
        if len(shape) != 3:
            raise ShapeError(f"{self.where}: input has shape {shape}, expected a picture (height, width, channels)")
        return (1, 1, shape[2])

    def __call__(self, x, training=False):
        shape = x.shape
        pixels = shape[1] * shape[2]

        def vjp(g):
            return (np.broadcast_to(g / g.dtype.type(pixels), shape).copy(),)

        return record("global_avg_pool", Tensor(x.data.mean(axis=(1, 2), keepdims=True)), (x,), vjp)
