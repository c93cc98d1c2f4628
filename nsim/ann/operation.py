"""What a node computes: Input, Linear, Affine, BatchNorm, ReLU, Add and Flatten, each with its gradient beside it.

An operation is called on Tensors [B, *shape] and gives one; pictures are [B, H, W, C] inside of a graph. Convolutions
and pooling have files of their own.
"""

from __future__ import annotations

import math

import numpy as np

from nsim.ann import parallel
from nsim.checks import flag, float_type, number, whole
from nsim.errors import ShapeError
from nsim.tape import Tensor, record


class Operation:
    """Base of all operations.

    `parameters` (trained) and `buffers` (running statistics) are by the names that follow the node's in a state dict;
    `options` rebuild the operation. `where` names it in messages, with the node's name once it stands in a graph.
    """

    arity = 1
    name = label = ""  # of the node; of the operation and its sizes

    @property
    def where(self) -> str:
        label = self.label or type(self).__name__
        return f"{self.name}: {label}" if self.name else label

    def parameters(self) -> dict[str, Tensor]:
        return {}

    def buffers(self) -> dict[str, np.ndarray]:
        return {}

    def options(self) -> dict:
        """JSON-able keyword arguments that make the same operation, but for its parameters and their dtype."""
        return {}

    @classmethod
    def build(cls, options, dtype) -> Operation:
        """The operation of these `options`, in a graph that computes in `dtype`."""
        return cls(**options)

    def out_shape(self, *shapes) -> tuple:
        """Shape of one sample's output, (H, W, C) or (N,), for those of its inputs; ShapeError if they do not fit."""
        return shapes[0]

    def __call__(self, *inputs: Tensor, training: bool = False) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define __call__")

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in self.options().items())})"


class Weighted(Operation):
    """An operation with parameters, and hence a dtype."""

    @classmethod
    def build(cls, options, dtype):
        return cls(**options, dtype=dtype)


def count(where, name, value) -> int:
    """A number of channels or neurons."""
    whole(where, **{name: (value, 1)})
    return int(value)


UNSET = object()  # in the place of a generator of initial weights: zeros, for weights that are filled in at once


def he_normal(rng, shape, fan_in, dtype) -> Tensor:
    """Initial weights for layers before a ReLU, N(0, 2 / fan_in). Source: He et al. 2015, equation 10."""
    if rng is UNSET:
        return Tensor(np.zeros(shape, dtype), requires_grad=True)
    rng = np.random.default_rng(0) if rng is None else rng
    values = rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_in))
    return Tensor(values.astype(dtype, copy=False), requires_grad=True)


def channel_sums(a, b=None) -> np.ndarray:
    """Sum of a, or of a * b, over samples and pixels: [C]. First over a sample's pixels, so that float32 will do.

    As a product with ones: `a.sum(axis=1)` takes twenty times as long with 16 channels.
    """
    a = a.reshape(len(a), -1, a.shape[-1])
    b = None if b is None else b.reshape(a.shape)
    sums, ones = np.empty((len(a), a.shape[-1]), a.dtype), np.ones(a.shape[1], a.dtype)
    parts = min(len(a), 16)

    def work(k):
        part = slice(len(a) * k // parts, len(a) * (k + 1) // parts)
        if b is None:
            np.matmul(ones, a[part], out=sums[part])
        else:
            np.einsum("bpc,bpc->bc", a[part], b[part], out=sums[part])

    parallel.each(work, parts)
    return sums.sum(axis=0)


class Input(Operation):
    """The images, [B, H, W, C], or vectors, [B, N]. Made by `Graph.input`."""

    arity = 0

    def __init__(self, shape):
        self.shape = tuple(int(n) for n in shape)

    def options(self):
        return {"shape": list(self.shape)}

    def out_shape(self):
        return self.shape


class Linear(Weighted):
    """y = x W^T + b, on vectors.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : float32 or float64
    rng : numpy Generator, optional, of the initial weights

    Attributes
    ----------
    weight : Tensor [out_features, in_features], bias : Tensor [out_features] or None
    """

    def __init__(self, in_features, out_features, *, bias=True, dtype=np.float32, rng=None):
        self.label = f"Linear({in_features}, {out_features})"
        self.in_features = count(self.where, "in_features", in_features)
        self.out_features = count(self.where, "out_features", out_features)
        bias, dtype = flag(self.where, "bias", bias), float_type(self.where, dtype)
        self.weight = he_normal(rng, (self.out_features, self.in_features), self.in_features, dtype)
        self.bias = Tensor(np.zeros(self.out_features, dtype), requires_grad=True) if bias else None

    def parameters(self):
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def options(self):
        return {"in_features": self.in_features, "out_features": self.out_features, "bias": self.bias is not None}

    def out_shape(self, shape):
        if shape != (self.in_features,):
            hint = "; put a flatten before it" if len(shape) == 3 else ""
            raise ShapeError(f"{self.where}: input has shape {shape}, expected ({self.in_features},){hint}")
        return (self.out_features,)

    def __call__(self, x, training=False):
        weight, parents = self.weight, (x, *self.parameters().values())
        a, w, needs_x = x.data, weight.data, x.requires_grad
        y = _product(a, w.T)
        if self.bias is not None:
            y += self.bias.data

        def vjp(g):
            found = (_product(g, w) if needs_x else None, _product(g.T, a), g.sum(axis=0))
            return found[: len(parents)]

        return record("linear", Tensor(y), parents, vjp)


def _product(a, b):
    """a @ b by single-threaded BLAS, over blocks of columns: the weights are the large part and are read once."""
    out = np.empty((a.shape[0], b.shape[1]), np.result_type(a, b))
    width = max(64, -(-b.shape[1] // 16))

    def work(k):
        part = slice(k * width, (k + 1) * width)
        np.matmul(a, b[:, part], out=out[:, part])

    parallel.each(work, -(-b.shape[1] // width))
    return out


class Affine(Weighted):
    """y = weight x + bias, with one weight and one bias for each channel.

    Such as the normalisation of images that was exported as a part of the network.

    Parameters
    ----------
    channels : int
    dtype : float32 or float64

    Attributes
    ----------
    weight, bias : Tensor [channels], at first 1 and 0
    """

    def __init__(self, channels, *, dtype=np.float32):
        self.label = f"{type(self).__name__}({channels})"
        self.channels, dtype = count(self.where, "channels", channels), float_type(self.where, dtype)
        self.weight = Tensor(np.ones(self.channels, dtype), requires_grad=True)
        self.bias = Tensor(np.zeros(self.channels, dtype), requires_grad=True)

    def parameters(self):
        return {"weight": self.weight, "bias": self.bias}

    def options(self):
        return {"channels": self.channels}

    def out_shape(self, shape):
        if shape[-1] != self.channels:
            raise ShapeError(f"{self.where}: input has {shape[-1]} channels (shape {shape}), expected {self.channels}")
        return shape

    def scale(self) -> np.ndarray:
        """What each channel is multiplied by, float64 [channels]."""
        return self.weight.data.astype(np.float64)

    def __call__(self, x, training=False):
        a, w = x.data, self.weight.data

        def vjp(g):
            return g * w, channel_sums(g, a), channel_sums(g)

        return record("affine", Tensor(a * w + self.bias.data), (x, self.weight, self.bias), vjp)


class BatchNorm(Affine):
    """Normalisation of each channel: y = weight (x - mean) / sqrt(var + eps) + bias.

    In training mean and (biased) variance are those of the batch, over samples and pixels, and the running ones move
    towards them: running <- (1 - momentum) running + momentum batch, with the unbiased variance. In evaluation the
    running ones are used.

    Parameters
    ----------
    channels : int
    eps : float, > 0
    momentum : float, 0 to 1
    dtype : float32 or float64

    Attributes
    ----------
    weight, bias : Tensor [channels]
    running_mean, running_var : array [channels]

    Source: Ioffe & Szegedy 2015, algorithms 1 and 2; running statistics as in torch.nn.BatchNorm2d.
    """

    def __init__(self, channels, *, eps=1e-5, momentum=0.1, dtype=np.float32):
        super().__init__(channels, dtype=dtype)
        self.eps = number(self.where, "eps", eps, above=0)
        self.momentum = number(self.where, "momentum", momentum, least=0, most=1)
        dtype = self.weight.dtype
        self.running_mean, self.running_var = np.zeros(self.channels, dtype), np.ones(self.channels, dtype)

    def buffers(self):
        return {"running_mean": self.running_mean, "running_var": self.running_var}

    def options(self):
        return {"channels": self.channels, "eps": self.eps, "momentum": self.momentum}

    def scale(self):
        return self.weight.data / np.sqrt(self.running_var.astype(np.float64) + self.eps)

    def __call__(self, x, training=False):
        return self._train(x) if training else self._evaluate(x)

    def _evaluate(self, x):
        a, mean, root = x.data, self.running_mean.copy(), np.sqrt(self.running_var + self.weight.dtype.type(self.eps))
        scale = self.weight.data / root
        y = a * scale
        y += self.bias.data - scale * mean

        def vjp(g):
            return g * scale, channel_sums(g, a - mean) / root, channel_sums(g)

        return record("batch_norm", Tensor(y), (x, self.weight, self.bias), vjp)

    def _train(self, x):
        a, w, number = x.data, self.weight.data, self.weight.dtype.type
        size = a.size // self.channels
        if size < 2:
            raise ShapeError(f"{self.where}: one value a channel has no variance; train with more samples a batch")
        mean = channel_sums(a) / number(size)
        normal = a - mean
        var = channel_sums(normal, normal) / number(size)
        for running, batch in ((self.running_mean, mean), (self.running_var, var * number(size / (size - 1)))):
            running *= number(1 - self.momentum)
            running += number(self.momentum) * batch
        inverse = 1 / np.sqrt(var + number(self.eps))
        normal *= inverse

        def vjp(g):
            dw, db = channel_sums(g, normal), channel_sums(g)
            dx = normal * (-dw / number(size))
            dx += g
            dx -= db / number(size)
            dx *= w * inverse
            return dx, dw, db

        return record("batch_norm", Tensor(normal * w + self.bias.data), (x, self.weight, self.bias), vjp)


class ReLU(Operation):
    """y = max(x, 0). The gradient at 0 is 0."""

    def __call__(self, x, training=False):
        y = np.maximum(x.data, 0)
        return record("relu", Tensor(y), (x,), lambda g: (g * (y > 0),))


class Add(Operation):
    """Sum of two inputs of one shape: where a shortcut meets the main path."""

    arity = 2

    def out_shape(self, one, other):
        if one != other:
            raise ShapeError(f"{self.where}: inputs of shapes {one} and {other}; the two must be equal")
        return one

    def __call__(self, x, y, training=False):
        return record("add", Tensor(x.data + y.data), (x, y), lambda g: (g, g))


class Flatten(Operation):
    """A picture (H, W, C) as a vector (C H W), channel by channel, so that weights trained in other layouts fit."""

    def out_shape(self, shape):
        return (math.prod(shape),)

    def __call__(self, x, training=False):
        a = x.data
        if a.ndim == 2:
            return x
        turned = a.transpose(0, 3, 1, 2).shape

        def vjp(g):
            return (np.ascontiguousarray(g.reshape(turned).transpose(0, 2, 3, 1)),)

        return record("flatten", Tensor(a.transpose(0, 3, 1, 2).reshape(len(a), -1)), (x,), vjp)
