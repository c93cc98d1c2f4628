"""The oracle for nsim.ann: plain loops in float64 over pictures [B, H, W, C], which import nothing of nsim."""

import numpy as np


def padded(x, padding, fill=0.0):
    return np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)), constant_values=fill)


def sizes(x, kernel, stride):
    return [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], kernel, stride, strict=True)]


def conv2d(x, weight, bias, stride, padding, groups):
    """y[b, h, w, o] = bias[o] + sum over i, j and the channels c of o's group, one product at a time."""
    x = padded(x, padding)
    out, depth, *kernel = weight.shape
    high, wide = sizes(x, kernel, stride)
    y = np.zeros((len(x), high, wide, out))
    for b, h, w, o in np.ndindex(y.shape):
        total = 0.0 if bias is None else float(bias[o])
        group = o // (out // groups)
        for c, i, j in np.ndindex(depth, *kernel):
            total += float(weight[o, c, i, j]) * x[b, h * stride[0] + i, w * stride[1] + j, group * depth + c]
        y[b, h, w, o] = total
    return y


def pool(x, kernel, stride, padding, kind, count_padding=True):
    """kind "max" or "avg"; the mean is over the pixels inside of the picture where count_padding is False."""
    inside = padded(np.ones_like(x), padding)
    x = padded(x, padding, -np.inf if kind == "max" else 0.0)
    y = np.zeros((len(x), *sizes(x, kernel, stride), x.shape[3]))
    for b, h, w, c in np.ndindex(y.shape):
        rows = slice(h * stride[0], h * stride[0] + kernel[0])
        window = x[b, rows, w * stride[1] : w * stride[1] + kernel[1], c]
        if kind == "max":
            y[b, h, w, c] = window.max()
        else:
            pixels = inside[b, rows, w * stride[1] : w * stride[1] + kernel[1], c].sum()
            y[b, h, w, c] = window.sum() / (window.size if count_padding else pixels)
    return y


def batch_norm(x, weight, bias, mean, var, eps):
    """With the statistics given, or those of the batch where mean is None."""
    y = np.zeros(np.shape(x))
    for c in range(y.shape[-1]):
        values = np.asarray(x, np.float64)[..., c]
        m = values.mean() if mean is None else mean[c]
        v = ((values - m) ** 2).mean() if mean is None else var[c]
        y[..., c] = weight[c] * (values - m) / np.sqrt(v + eps) + bias[c]
    return y
