"""The convolutional layer, event by event."""

from __future__ import annotations

import numpy as np

from nsim import arrays
from nsim.checks import flag, whole
from nsim.errors import ParameterError, ShapeError
from nsim.kernels.conv import Taps
from nsim.nn.connection import Connection
from nsim.windows import Windows, packed, pair, unpacked


class Conv2d(Connection):
    """Convolution onto a layer of neurons of shape (H_out, W_out, C_out).

        x[t, y, x, k] = bias[k] + sum over i, j, c of
                        weight[i, j, c, k] s_in[t - delay, stride y + i - padding, stride x + j - padding, c]
        H_out = floor((H + 2 padding - kernel_size) / stride) + 1, W_out likewise

    An event touches the weights of its own channel only, and no picture is ever built.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (height, width)
    neuron : nsim.neurons.Neuron
        As for `nn.Dense`; its parameters are numbers or one value for each neuron [n_out]. A readout gives a Tensor
        over all neurons, channels last: n = (y W_out + x) C_out + k.
    size : int or (H, W)
        Of the incoming picture; the events have space (H, W, in_channels).
    stride, padding : int or (height, width)
        Outside of the picture nothing fires.
    groups : int
        Output channels of group q see the input channels of group q only; groups=in_channels is the depthwise form.
    delay, dtype, seed
        As for `nn.Dense`.
    bias : bool
        One for each output channel.

    Attributes
    ----------
    weight : Tensor [kh, kw, in_channels / groups, out_channels], bias : Tensor [out_channels] or None
        Start as those of `nn.Dense`, with n = kh kw in_channels / groups inputs; bias 0.
    space : (H_out, W_out, out_channels)

    Raises
    ------
    ParameterError, ShapeError
        If a number is impossible, channels do not divide into groups, or the kernel does not fit into the picture.

    Source: the gradient is that of Perez-Nieves & Goodman 2021 (docs/design.md, section 1), the sums over inputs taken
    over the taps of a convolution; options as in torch.nn.Conv2d, whose weight is [C_out, C_in / groups, kh, kw].
    """

    connection, products = "conv", False

    def __init__(
        self, in_channels, out_channels, kernel_size, neuron, *, size, stride=1, padding=0, groups=1, delay=0,
        bias=False, dtype=np.float32, seed=None,
    ):  # fmt: skip
        kind = "nn.Conv2d"
        whole(kind, in_channels=(in_channels, 1), out_channels=(out_channels, 1), groups=(groups, 1), delay=(delay, 0))
        self.in_channels, self.out_channels, self.groups = int(in_channels), int(out_channels), int(groups)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ParameterError(
                f"{kind}: groups = {groups}: expected a divisor of in_channels = {in_channels} and "
                f"out_channels = {out_channels}"
            )
        self.windows = Windows(
            kind, pair(kind, "size", size, 1), pair(kind, "kernel_size", kernel_size, 1),
            pair(kind, "stride", stride, 1), pair(kind, "padding", padding, 0),
        )  # fmt: skip
        self.space_in = (*self.windows.size, self.in_channels)
        (height, width), inner = self.windows.kernel, self.in_channels // self.groups
        shapes = {"weight": (height, width, inner, self.out_channels)}
        shapes |= {"bias": (self.out_channels,)} if flag(kind, "bias", bias) else {}
        space, n_in = (*self.windows.out, self.out_channels), int(np.prod(self.space_in))
        super().__init__(neuron, n_in, space, shapes, height * width * inner, delay, dtype, seed)
        self._reach = self.windows.reach(0), self.windows.reach(1)

    @property
    def kind(self):
        return f"nn.Conv2d({self.in_channels}, {self.out_channels}, {self.windows.kernel})"

    def space_after(self, space):
        if tuple(space) != self.space_in:
            raise ShapeError(
                f"{self.label}: input has space {tuple(space)}, expected (height, width, channels) {self.space_in}; "
                "give size= to the layer, or space= to the Spikes"
            )
        return self.space

    def kernel_weight(self):
        rows = arrays.copied(packed(self.weight.data, self.windows, self.groups), self.weight.dtype)
        return Taps(rows, *self._reach, self.in_channels, self.out_channels, self.groups, self.space[1])

    def kernel_bias(self):
        return np.tile(self.bias.data, self.n_out // self.out_channels)

    def weight_gradient(self, grad):
        return unpacked(grad, self.windows, self.groups)

    def bias_gradient(self, grad):
        return grad.reshape(-1, self.out_channels).sum(axis=0)

    def describe(self):
        w = self.windows
        return {
            "layer": "Conv2d", "in_channels": self.in_channels, "out_channels": self.out_channels,
            "kernel_size": list(w.kernel), "neuron": self.neuron.describe(), "size": list(w.size),
            "stride": list(w.stride), "padding": list(w.padding), "groups": self.groups, "delay": self.delay,
            "bias": self.bias is not None, "dtype": str(self.weight.dtype),
        }  # fmt: skip

    def __repr__(self):
        w = self.windows
        options = f", size={w.size}, stride={w.stride}, padding={w.padding}"
        options += "".join(f", {k}={v}" for k, v in (("delay", self.delay), ("bias", self.bias is not None)) if v)
        options += f", groups={self.groups}" if self.groups > 1 else ""
        return f"Conv2d({self.in_channels}, {self.out_channels}, {w.kernel}, {self.neuron!r}{options})"
