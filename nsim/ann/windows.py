"""The geometry of a window that slides over pictures [B, H, W, C]: sizes, padding, taps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nsim.errors import ParameterError, ShapeError
from nsim.windows import pair


class Windows(NamedTuple):
    """Kernel (height, width), stride (height, width) and padding ((top, bottom), (left, right))."""

    kernel: tuple
    stride: tuple
    padding: tuple

    def out_size(self, where, shape) -> tuple[int, int]:
        """Height and width of what comes out of a picture (H, W, C); ShapeError, named by `where`, if nothing does."""
        if len(shape) != 3:
            raise ShapeError(f"{where}: input has shape {shape}, expected a picture (height, width, channels)")
        padded = [n + sum(pad) for n, pad in zip(shape, self.padding, strict=False)]
        if padded[0] < self.kernel[0] or padded[1] < self.kernel[1]:
            raise ShapeError(
                f"{where}: a window of {self.kernel[0]} x {self.kernel[1]} does not fit into a picture of "
                f"{shape[0]} x {shape[1]}, padded {padded[0]} x {padded[1]}"
            )
        return tuple((n - k) // s + 1 for n, k, s in zip(padded, self.kernel, self.stride, strict=True))

    def patch(self, x, first, last, fill=0.0) -> np.ndarray:
        """What output rows first to last read of x: [B, rows, W + left + right, C], a view where nothing is padded."""
        inside, place, rows = self._rows(x.shape[1], first, last)
        left, right = self.padding[1]
        if left == right == 0 and place == slice(0, rows):
            return x[:, inside]
        batch, _, width, channels = x.shape
        patch = np.full((batch, rows, width + left + right, channels), fill, x.dtype)
        patch[:, place, left : left + width] = x[:, inside]
        return patch

    def add_patch(self, x, patch, first, last):
        """Add a patch to the pixels of x that it was taken from; what lay in the padding is left out."""
        inside, place, _ = self._rows(x.shape[1], first, last)
        left = self.padding[1][0]
        x[:, inside] += patch[:, place, left : left + x.shape[2]]

    def _rows(self, height, first, last):
        """The rows of the picture that a patch reads, their place in the patch, and the patch's height."""
        begin = first * self.stride[0] - self.padding[0][0]
        end = (last - 1) * self.stride[0] + self.kernel[0] - self.padding[0][0]
        inside = slice(min(max(begin, 0), height), min(max(end, 0), height))
        return inside, slice(inside.start - begin, inside.stop - begin), end - begin

    def taps(self, height, width):
        """For each place in the kernel (i, j): the slices of a patch that height x width windows have there."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                rows = slice(i, i + (height - 1) * self.stride[0] + 1, self.stride[0])
                yield i, j, rows, slice(j, j + (width - 1) * self.stride[1] + 1, self.stride[1])


def windows(where, kernel_size, stride, padding) -> Windows:
    """Windows from numbers, pairs (height, width), or, for padding, ((top, bottom), (left, right)).

    Raises ParameterError, named by `where`, for anything else, kernels or strides below 1 and negative padding.
    """
    if isinstance(padding, str):
        raise ParameterError(
            f"{where}: padding = {padding!r}: expected whole numbers; kernel_size // 2 keeps the size of pictures, if "
            "that is odd and the stride 1"
        )
    if not (isinstance(padding, (tuple, list)) and len(padding) == 2 and all(map(np.iterable, padding))):
        padding = [(side, side) for side in pair(where, "padding", padding, 0)]
    top, left = (pair(where, "padding", side, 0) for side in padding)
    return Windows(pair(where, "kernel_size", kernel_size, 1), pair(where, "stride", stride, 1), (top, left))
