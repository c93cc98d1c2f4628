"""Windows that slide over a picture: what convolution and pooling share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nsim.checks import is_whole
from nsim.errors import ParameterError, ShapeError


def pair(label: str, name: str, value, least: int) -> tuple[int, int]:
    """A whole number, or one for each axis (height, width), as a pair."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2 or any(not is_whole(k) or k < least for k in values):
        raise ParameterError(
            f"{label}: {name} = {value!r}: expected a whole number of at least {least}, or a pair (height, width)"
        )
    return int(values[0]), int(values[1])


def picture(label: str, space: tuple) -> tuple[int, int, int]:
    """The space of events as (height, width, channels), or a ShapeError that says how to give it."""
    if len(space) != 3:
        raise ShapeError(
            f"{label}: input has space {space}, expected (height, width, channels); "
            "make the Spikes with space=(H, W, C), channels last"
        )
    return space


@dataclass(frozen=True)
class Windows:
    """Windows of `kernel` (height, width) every `stride` places, over a picture of `size` with `padding` around it.

    Window o of an axis covers the places o * stride - padding to o * stride - padding + kernel - 1.
    """

    label: str
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __post_init__(self):
        if min(self.count(0), self.count(1)) < 1:
            raise ShapeError(
                f"{self.label}: a kernel of {self.kernel} does not fit into a picture of {self.size} "
                f"with padding {self.padding}"
            )

    def count(self, axis: int) -> int:
        """Number of windows along an axis."""
        return (self.size[axis] + 2 * self.padding[axis] - self.kernel[axis]) // self.stride[axis] + 1

    @property
    def out(self) -> tuple[int, int]:
        return self.count(0), self.count(1)

    def taps(self, axis: int) -> np.ndarray:
        """Order of the taps of an axis in which those that one place meets in neighbouring windows are neighbours.

        From a window to the next the tap falls by `stride`: so by the rest of division by it, and falling.
        """
        every = np.arange(self.kernel[axis])
        return np.lexsort((-every, every % self.stride[axis]))

    def reach(self, axis: int) -> np.ndarray:
        """For each place of an axis its first window, their number, and where the first one's tap is in `taps`."""
        stride, kernel = self.stride[axis], self.kernel[axis]
        place = np.arange(self.size[axis]) + self.padding[axis]
        first = np.maximum(0, -(-(place - kernel + 1) // stride))
        last = np.minimum(self.count(axis) - 1, place // stride)
        number = np.maximum(0, last - first + 1)
        position = np.argsort(self.taps(axis))
        tap = np.where(number > 0, place - first * stride, 0)
        return np.stack([np.where(number > 0, first, 0), number, position[tap]], axis=1).astype(np.int32)


def packed(weight: np.ndarray, windows: Windows, groups: int) -> np.ndarray:
    """Weights [kh, kw, C_in / groups, C_out] in the rows that kernels read, [C_in * kh, kw * C_out / groups]."""
    height, width, inner, outer = weight.shape
    taps = weight[np.ix_(windows.taps(0), windows.taps(1))].reshape(height, width, inner, groups, outer // groups)
    return taps.transpose(3, 2, 0, 1, 4).reshape(groups * inner * height, width * outer // groups)


def unpacked(rows: np.ndarray, windows: Windows, groups: int) -> np.ndarray:
    """The inverse of `packed`."""
    height, width = windows.kernel
    taps = rows.reshape(groups, -1, height, width, rows.shape[1] // width).transpose(2, 3, 1, 0, 4)
    weight = np.empty((height, width, taps.shape[2], groups * taps.shape[4]), rows.dtype)
    weight[np.ix_(windows.taps(0), windows.taps(1))] = taps.reshape(weight.shape)
    return weight
