"""Operations on Tensors, each with its gradient beside it. Those on Spikes are in `nsim.sweeps`."""

from __future__ import annotations

import operator

import numpy as np

from nsim.checks import plain_array
from nsim.errors import ShapeError
from nsim.tape import Tensor, record


def as_tensor(x, like: Tensor) -> Tensor:
    """x as a Tensor of the dtype of `like`, so that a plain number never widens float32."""
    if isinstance(x, Tensor):
        return x
    a = plain_array(x)
    return Tensor(x if a is None else a.astype(like.dtype, copy=False))  # refused there, if it is no number


def _fit(grad, shape):
    """Sum a gradient over the axes along which an operand of `shape` was broadcast."""
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    stretched = tuple(k for k, size in enumerate(shape) if size == 1 and grad.shape[k] != 1)
    return grad.sum(axis=stretched, keepdims=True) if stretched else grad


def _binary(name, x, y, forward, grad_x, grad_y):
    x = x if isinstance(x, Tensor) else as_tensor(x, y)
    y = as_tensor(y, x)
    a, b = x.data, y.data

    def vjp(g):
        return (
            _fit(grad_x(g, a, b), a.shape) if x.requires_grad else None,
            _fit(grad_y(g, a, b), b.shape) if y.requires_grad else None,
        )

    return record(name, Tensor(forward(a, b)), (x, y), vjp)


def add(x, y):
    return _binary("add", x, y, np.add, lambda g, a, b: g, lambda g, a, b: g)


def subtract(x, y):
    return _binary("subtract", x, y, np.subtract, lambda g, a, b: g, lambda g, a, b: -g)


def multiply(x, y):
    return _binary("multiply", x, y, np.multiply, lambda g, a, b: g * b, lambda g, a, b: g * a)


def divide(x, y):
    return _binary("divide", x, y, np.divide, lambda g, a, b: g / b, lambda g, a, b: -g * a / (b * b))


def matmul(x, y):
    """Matrix product as numpy.matmul takes it: of matrices, of vectors, and of batches of them that broadcast."""

    def matrices(g, a, b):
        # A vector on the left is a row, one on the right a column; the product leaves their axes of one out.
        g = g if b.ndim > 1 else g[..., None]
        g = g if a.ndim > 1 else g[..., None, :]
        return g, np.atleast_2d(a), b if b.ndim > 1 else b[:, None]

    def grad_x(g, a, b):
        g, _, columns = matrices(g, a, b)
        return g @ np.swapaxes(columns, -1, -2)

    def grad_y(g, a, b):
        g, rows, _ = matrices(g, a, b)
        grad = np.swapaxes(rows, -1, -2) @ g
        return grad if b.ndim > 1 else grad[..., 0]

    return _binary("matmul", x, y, np.matmul, grad_x, grad_y)


def negative(x):
    return record("negative", Tensor(-x.data), (x,), lambda g: (-g,))


def power(x, y):
    return _binary(
        "power", x, y, operator.pow, lambda g, a, b: g * b * a ** (b - 1), lambda g, a, b: g * a**b * np.log(a)
    )


def exp(x):
    y = np.exp(x.data)
    return record("exp", Tensor(y), (x,), lambda g: (g * y,))


def log(x):
    a = x.data
    return record("log", Tensor(np.log(a)), (x,), lambda g: (g / a,))


def relu(x):
    positive = x.data > 0
    return record("relu", Tensor(np.maximum(x.data, 0)), (x,), lambda g: (g * positive,))


def absolute(x):
    sign = np.sign(x.data)
    return record("absolute", Tensor(np.abs(x.data)), (x,), lambda g: (g * sign,))


def reshape(x, *shape):
    """x in another shape, given as a tuple or as several numbers."""
    old = x.shape
    return record("reshape", Tensor(x.data.reshape(*shape)), (x,), lambda g: (g.reshape(old),))


def getitem(x, index):
    """x[index], any NumPy index."""
    shape, dtype = x.shape, x.dtype

    def vjp(g):
        grad = np.zeros(shape, dtype)
        np.add.at(grad, index, g)
        return (grad,)

    return record("getitem", Tensor(x.data[index]), (x,), vjp)


def take(x, labels):
    """x[b, labels[b]] for each b: [B, C] and [B] to [B]."""
    labels = np.asarray(labels)
    return getitem(x, (np.arange(len(labels)), labels))


def total(x, axis=None, keepdims=False):
    """Sum over all entries, or along one axis or several."""
    shape, inserted = x.shape, axis is not None and not keepdims

    def vjp(g):
        return (np.broadcast_to(np.expand_dims(g, axis) if inserted else g, shape).copy(),)

    return record("sum", Tensor(x.data.sum(axis=axis, keepdims=keepdims)), (x,), vjp)


def mean(x, axis=None, keepdims=False):
    """Mean of all entries, or along one axis or several."""
    y = total(x, axis, keepdims)
    return multiply(y, y.size / x.size)


def maximum(x, axis=None, keepdims=False):
    """Largest of all entries, or along an axis; the gradient goes to the first of equals."""
    if axis is None:
        y = maximum(x.reshape(-1), 0)
        return y.reshape((1,) * x.ndim) if keepdims else y
    shape, where = x.shape, np.expand_dims(x.data.argmax(axis=axis), axis)

    def vjp(g):
        grad = np.zeros(shape, g.dtype)
        np.put_along_axis(grad, where, g if keepdims else np.expand_dims(g, axis), axis)
        return (grad,)

    return record("max", Tensor(x.data.max(axis=axis, keepdims=keepdims)), (x,), vjp)


def log_softmax(x, axis=-1):
    """x - log sum exp(x) along an axis, the largest entry taken out first."""
    shifted = x.data - x.data.max(axis=axis, keepdims=True)
    y = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return record("log_softmax", Tensor(y), (x,), lambda g: (g - np.exp(y) * g.sum(axis=axis, keepdims=True),))


def _no_truth(self):
    if self.size == 1:
        return bool(self.data)
    raise ShapeError(f"the truth of a tensor of shape {self.shape} is not defined; use .data with any() or all()")


def _comparison(compare):
    return lambda x, y: compare(x.numpy(), y.numpy() if isinstance(y, Tensor) else y)


# Arithmetic on Tensor: the methods are the operations above. Comparisons of size give arrays, and have no gradient.
Tensor.__lt__, Tensor.__le__ = _comparison(operator.lt), _comparison(operator.le)
Tensor.__gt__, Tensor.__ge__ = _comparison(operator.gt), _comparison(operator.ge)
Tensor.__add__, Tensor.__radd__ = add, lambda x, y: add(y, x)
Tensor.__sub__, Tensor.__rsub__ = subtract, lambda x, y: subtract(y, x)
Tensor.__mul__, Tensor.__rmul__ = multiply, lambda x, y: multiply(y, x)
Tensor.__truediv__, Tensor.__rtruediv__ = divide, lambda x, y: divide(y, x)
Tensor.__matmul__, Tensor.__rmatmul__ = matmul, lambda x, y: matmul(y, x)
Tensor.__pow__, Tensor.__rpow__ = power, lambda x, y: power(y, x)
Tensor.__neg__, Tensor.__abs__ = negative, absolute
Tensor.__getitem__, Tensor.__bool__ = getitem, _no_truth
Tensor.sum, Tensor.mean, Tensor.max, Tensor.reshape = total, mean, maximum, reshape
