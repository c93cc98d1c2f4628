"""Conv2d: windows written out as rows of a matrix (im2col) block by block, times the weights, channels last.

A block is some whole samples, or some rows of one sample, of a size that stays in the cache; nothing of the size of all
windows ever exists. The backward pass writes them out again instead of keeping them.
"""

from __future__ import annotations

import numpy as np

from nsim.ann import parallel
from nsim.ann.operation import UNSET, Weighted, channel_sums, count, he_normal
from nsim.ann.windows import windows
from nsim.checks import flag, float_type, is_whole
from nsim.errors import ParameterError, ShapeError
from nsim.kernels.jit import n_groups
from nsim.tape import Tensor, record

BLOCK = 1 << 21  # bytes of written-out windows at a time


class Conv2d(Weighted):
    """Two-dimensional convolution (cross-correlation, as everywhere in the field).

    y[h, w, o] = b[o] + sum_{i, j, c} W[o, c, i, j] x[s h + i - p, s w + j - p, c], c over the channels of o's group.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (height, width)
    stride : int or (height, width)
    padding : int, (height, width) or ((top, bottom), (left, right)), of zeros
    groups : int
        Divides both numbers of channels; equal to in_channels: a depthwise convolution.
    bias : bool
    dtype : float32 or float64
    rng : numpy Generator, optional, of the initial weights

    Attributes
    ----------
    weight : Tensor [out_channels, in_channels / groups, height, width], bias : Tensor [out_channels] or None
    windows : nsim.ann.windows.Windows, with kernel, stride, padding
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, *, stride=1, padding=0, groups=1, bias=True, dtype=np.float32,
        rng=None,
    ):  # fmt: skip
        self.label = where = f"Conv2d({in_channels}, {out_channels}, {kernel_size})"
        self.in_channels = count(where, "in_channels", in_channels)
        self.out_channels = count(where, "out_channels", out_channels)
        self.groups = count(where, "groups", groups)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ParameterError(f"{where}: groups = {groups} must divide both numbers of channels")
        self.windows = windows(where, kernel_size, stride, padding)
        bias, dtype = flag(where, "bias", bias), float_type(where, dtype)
        shape = (self.out_channels, self.in_channels // self.groups, *self.windows.kernel)
        self.weight = he_normal(rng, shape, np.prod(shape[1:]), dtype)
        self.bias = Tensor(np.zeros(self.out_channels, dtype), requires_grad=True) if bias else None

    def parameters(self):
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def options(self):
        kernel, stride, padding = self.windows
        return {
            "in_channels": self.in_channels, "out_channels": self.out_channels, "kernel_size": list(kernel),
            "stride": list(stride), "padding": [list(side) for side in padding], "groups": self.groups,
            "bias": self.bias is not None,
        }  # fmt: skip

    def out_shape(self, shape):
        size = self.windows.out_size(self.where, shape)
        if shape[2] != self.in_channels:
            raise ShapeError(
                f"{self.where}: input has {shape[2]} channels (shape {shape}), expected {self.in_channels}"
            )
        return (*size, self.out_channels)

    def matrix(self) -> np.ndarray:
        """The weights as matrices [groups, height width in_channels / groups, out_channels / groups]."""
        out, depth, height, width = self.weight.shape
        split = self.weight.data.reshape(self.groups, out // self.groups, depth, height, width)
        return split.transpose(0, 3, 4, 2, 1).reshape(self.groups, height * width * depth, -1)

    def _columns(self, x, first, last):
        """The windows of output rows first to last, written out: [groups, B rows width, kernel channels / groups]."""
        patch, (kernel, stride, _) = self.windows.patch(x, first, last), self.windows
        view = np.lib.stride_tricks.sliding_window_view(patch, kernel, axis=(1, 2))
        view = view[:, :: stride[0], :: stride[1]].transpose(0, 1, 2, 4, 5, 3)
        view = view.reshape(*view.shape[:5], self.groups, -1) if self.groups > 1 else view[..., None, :]
        return view.transpose(5, 0, 1, 2, 3, 4, 6).reshape(self.groups, -1, self.weight.size // self.out_channels)

    def __call__(self, x, training=False):
        a, matrix, parents = x.data, self.matrix(), (x, *self.parameters().values())
        height, width, channels = self.out_shape(a.shape[1:])
        y = np.empty((len(a), height, width, channels), a.dtype)
        blocks = self._blocks(0, len(a), height, width)

        def work(k):
            samples, first, last = blocks[k]
            part = y[samples, first:last]
            split = part.reshape(-1, self.groups, channels // self.groups).transpose(1, 0, 2)
            np.matmul(self._columns(a[samples], first, last), matrix, out=split)
            if self.bias is not None:
                part += self.bias.data

        parallel.each(work, len(blocks))
        need = (x.requires_grad, self.weight.requires_grad)

        def vjp(g):
            found = (*self._gradients(a, g, *need), channel_sums(g))
            return found[: len(parents)]

        return record("conv2d", Tensor(y), parents, vjp)

    def _blocks(self, begin, end, height, width):
        """(samples, first row, last row) that cover samples begin to end: whole samples, or rows of one of them."""
        row = width * self.weight.size // self.out_channels * self.groups * self.weight.dtype.itemsize
        samples, rows = max(1, BLOCK // (row * height)), min(height, max(1, BLOCK // row))
        return [
            (slice(b, min(b + samples, end)), h, min(h + rows, height))
            for b in range(begin, end, samples)
            for h in range(0, height, rows)
        ]

    def _gradients(self, a, g, need_x, need_w):
        """Of the input and of the weights; the latter summed over groups of samples, these added in order."""
        matrix, (height, width, channels) = self.matrix(), g.shape[1:]
        parts = n_groups(len(a), matrix.nbytes)
        dx = np.zeros_like(a) if need_x else None
        sums = np.zeros((parts, *matrix.shape), a.dtype) if need_w else None

        def work(k):
            for samples, first, last in self._blocks(len(a) * k // parts, len(a) * (k + 1) // parts, height, width):
                part = g[samples, first:last].reshape(-1, self.groups, channels // self.groups).transpose(1, 0, 2)
                if need_w:
                    sums[k] += self._columns(a[samples], first, last).transpose(0, 2, 1) @ part
                if need_x:
                    self._scatter(dx[samples], part @ matrix.transpose(0, 2, 1), first, last, width)

        parallel.each(work, parts)
        if not need_w:
            return dx, None
        out, depth, high, wide = self.weight.shape
        total = sums.sum(axis=0).reshape(self.groups, high, wide, depth, -1)
        return dx, np.ascontiguousarray(total.transpose(0, 4, 3, 1, 2)).reshape(out, depth, high, wide)

    def _scatter(self, dx, columns, first, last, width):
        """Add the gradients of written-out windows to the pixels that they were written out from."""
        batch, rows = len(dx), last - first
        kernel, stride, padding = self.windows
        columns = columns.reshape(self.groups, batch, rows, width, *kernel, -1)
        size = (rows - 1) * stride[0] + kernel[0], dx.shape[2] + sum(padding[1])
        patch = np.zeros((batch, *size, self.groups, columns.shape[-1]), dx.dtype)
        for i, j, down, across in self.windows.taps(rows, width):
            patch[:, down, across] += columns[:, :, :, :, i, j].transpose(1, 2, 3, 0, 4)
        self.windows.add_patch(dx, patch.reshape(batch, *size, -1), first, last)


class IdentityShortcut(Conv2d):
    """Every stride-th pixel, with channels (and pixels) of zeros around: the shortcut without parameters, "option A".

    A convolution with a kernel of 1 and fixed weights 0 and 1; it has no parameters and nothing in a state dict.

    Parameters
    ----------
    in_channels, out_channels : int
    stride : int or (height, width)
    before : int, optional
        Channels of zeros before those of the input. Default: half of the new ones.
    padding : int, (height, width) or ((top, bottom), (left, right)), pixels of zeros
    dtype : float32 or float64

    Source: He, Zhang, Ren & Sun 2016, "Deep Residual Learning for Image Recognition", section 3.3, option A.
    """

    def __init__(self, in_channels, out_channels, *, stride=1, before=None, padding=0, dtype=np.float32):
        super().__init__(
            in_channels, out_channels, 1, stride=stride, padding=padding, bias=False, dtype=dtype, rng=UNSET
        )
        self.label = f"IdentityShortcut({in_channels}, {out_channels})"
        new = self.out_channels - self.in_channels
        if new < 0:
            raise ParameterError(f"{self.where}: out_channels must be at least in_channels: it adds channels of zeros")
        if before is not None and not (is_whole(before) and 0 <= before <= new):
            raise ParameterError(f"{self.where}: before = {before!r}: expected 0 to {new} channels of zeros")
        self.before = new // 2 if before is None else int(before)
        own = np.arange(self.in_channels)
        self.weight.data[own + self.before, own] = 1
        self.weight.requires_grad = False

    @property
    def only_pads(self) -> bool:
        """Whether pixels of zeros are all that it adds and none is left out."""
        return self.in_channels == self.out_channels and self.windows.stride == (1, 1)

    def parameters(self):
        return {}

    def options(self):
        _, stride, padding = self.windows
        return {
            "in_channels": self.in_channels, "out_channels": self.out_channels, "stride": list(stride),
            "before": self.before, "padding": [list(side) for side in padding],
        }  # fmt: skip
