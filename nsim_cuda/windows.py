"""Windows that slide over a picture, for kernels: what convolution and pooling share; the twin of `nsim.windows`."""

from typing import NamedTuple

from nsim_cuda.jit import inlined, quotient


class Axis(NamedTuple):
    """One axis of a picture and its windows: places, and windows of `kernel` places every `stride`, `out` of them."""

    size: int
    kernel: int
    stride: int
    padding: int
    out: int


class Grid(NamedTuple):
    """Both axes, and the channels of the picture."""

    y: Axis
    x: Axis
    channels: int


def grid_of(windows, channels) -> Grid:
    """A `nsim.windows.Windows` as kernels take it."""
    axes = (
        Axis(windows.size[k], windows.kernel[k], windows.stride[k], windows.padding[k], windows.out[k]) for k in (0, 1)
    )
    return Grid(*axes, channels)


@inlined
def place_of(grid, n):
    """Row, column and channel of a neuron of the picture."""
    place = quotient(n, grid.channels)
    y = quotient(place, grid.x.size)
    return y, place - y * grid.x.size, n - place * grid.channels


@inlined
def covered(axis, window):
    """The places of the picture under a window, first to stop - 1, and the tap that lies on the first."""
    start = window * axis.stride - axis.padding
    first = max(0, start)
    return first, max(first, min(axis.size, start + axis.kernel)), first - start


@inlined
def windows_over(axis, place):
    """The first window over a place, and their number."""
    at = place + axis.padding
    first = quotient(max(0, at - axis.kernel + axis.stride), axis.stride)
    return first, max(0, min(axis.out - 1, quotient(at, axis.stride)) - first + 1)


@inlined
def window_with(axis, place, tap):
    """The window whose tap lies on a place, or -1."""
    distance = place + axis.padding - tap
    window = quotient(max(0, distance), axis.stride)
    return window if window * axis.stride == distance and window < axis.out else -1
