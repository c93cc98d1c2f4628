"""Pooling over windows of a picture, and flattening: layers without neurons or parameters."""

from __future__ import annotations

import numpy as np

from nsim import spatial
from nsim.events import Spikes
from nsim.nn.module import Stateless
from nsim.windows import Windows, pair, picture


class Pool2d(Stateless):
    """Base of the pooling layers; parameters in `SumPool2d`."""

    how = ""

    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__()
        self.kernel = pair(self.label, "kernel_size", kernel_size, 1)
        self.stride = self.kernel if stride is None else pair(self.label, "stride", stride, 1)
        self.padding = pair(self.label, "padding", padding, 0)

    def windows(self, space) -> Windows:
        return Windows(self.label, picture(self.label, space)[:2], self.kernel, self.stride, self.padding)

    def space_after(self, space):
        return (*self.windows(space).out, space[2])

    def __call__(self, spikes: Spikes) -> Spikes:
        self.check(spikes)
        return spatial.pool2d(spikes, self.windows(spikes.space), self.how)

    def describe(self):
        return {
            "layer": type(self).__name__, "kernel_size": list(self.kernel), "stride": list(self.stride),
            "padding": list(self.padding),
        }  # fmt: skip

    def __repr__(self):
        return f"{type(self).__name__}({self.kernel}, stride={self.stride}, padding={self.padding})"


class SumPool2d(Pool2d):
    """Sum over windows: each event stays an event, in every window that its place lies in.

    Parameters
    ----------
    kernel_size : int or (height, width)
    stride : int or (height, width), optional
        Default: kernel_size, windows beside one another.
    padding : int or (height, width)
        Outside of the picture nothing fires.

    Takes and gives Spikes of space (H, W, C), channels last; channels stay apart.

    Raises
    ------
    ParameterError, ShapeError
        If a number is impossible, or the events have no such space.
    """

    how = "sum"


class AvgPool2d(Pool2d):
    """Mean over windows, places outside of the picture counted as silent: graded events of size (sum) / (kh kw).

    Parameters and errors as for `SumPool2d`. Source: torch.nn.AvgPool2d with count_include_pad.
    """

    how = "mean"


class MaxPool2d(Pool2d):
    """Maximum over windows, step by step: for spikes, one event where any place of the window fired.

    Parameters and errors as for `SumPool2d`. The gradient goes to the first of the largest places (see
    `nsim.spatial.pool2d`); events of negative size are refused.
    """

    how = "max"


class Flatten(Stateless):
    """Space (H, W, C) to (N,): neuron n = (y W + x) C + c. The events stay what they are."""

    def space_after(self, space):
        return (int(np.prod(space)),)

    def __call__(self, spikes: Spikes) -> Spikes:
        self.check(spikes)
        return spatial.flatten(spikes)

    def describe(self):
        return {"layer": "Flatten"}

    def __repr__(self):
        return "Flatten()"
