"""What each kind of ONNX node that computes becomes in a graph: one function for each, listed in `NODES`.

Those that only move or pass on numbers are in `onnx_layout`. There pictures are [B, C, H, W], here [B, H, W, C].

Source: the operator schemas of ONNX, opsets 7 to 25.
"""

from __future__ import annotations

import numpy as np

from nsim.ann.conv import Conv2d, IdentityShortcut
from nsim.ann.graph import Node
from nsim.ann.onnx_layout import LAYOUT
from nsim.ann.operation import UNSET, Affine, BatchNorm, Linear
from nsim.ann.pooling import AvgPool, MaxPool
from nsim.tape import Tensor


def conv(item):
    x, weight, bias = item.node(), item.weights(1, "weights"), item.weights(2, "biases", needed=False)
    if weight.ndim != 4:
        raise item.refused(f"a convolution in {weight.ndim - 2} dimensions; two are supported")
    kernel, stride, padding = _windows(item, x, weight.shape[2:])
    before, groups = x.operation, item.get("group", 1)
    if isinstance(before, IdentityShortcut) and before.only_pads and item.alone():
        sides = zip(padding, before.windows.padding, strict=True)
        x, padding = x.inputs[0], tuple((a + c, b + d) for (a, b), (c, d) in sides)
    made = Conv2d(
        x.shape[-1], weight.shape[0], kernel, stride=stride, padding=padding, groups=groups,
        bias=_not_zero(bias), dtype=item.graph.dtype, rng=UNSET,
    )  # fmt: skip
    _fill(item, made.weight, weight, "weights")
    if made.bias is not None:
        _fill(item, made.bias, bias, "biases")
    return item.graph.apply(made, x, name=item.name())


def gemm(item):
    """y = alpha x W + beta b, W transposed where transB says so."""
    if item.get("transA", 0):
        raise item.refused("transA = 1: its input is transposed")
    weight, bias = item.weights(1, "weights"), item.weights(2, "biases", needed=False)
    alpha, beta = (item.graph.dtype.type(item.get(name, 1.0)) for name in ("alpha", "beta"))
    weight = weight if alpha == 1 else weight * alpha
    bias = None if bias is None else bias * beta
    return _linear(item, weight if item.get("transB", 0) else weight.T, bias)


def matmul(item):
    return _linear(item, item.weights(1, "weights").T, None)


def _linear(item, weight, bias):
    x = item.node()
    if weight.ndim != 2:
        raise item.refused(f"weights of shape {weight.shape}; expected a matrix")
    size = weight.shape[0]
    if bias is not None and bias.size != 1 and bias.shape not in ((size,), (1, size)):
        raise item.refused(
            f"biases of shape {bias.shape}, expected ({size},): one for each output, the same for all samples",
            "export anew with biases of that shape",
        )
    made = Linear(weight.shape[1], size, bias=_not_zero(bias), dtype=item.graph.dtype, rng=UNSET)
    _fill(item, made.weight, weight, "weights")
    if made.bias is not None:
        _fill(item, made.bias, np.broadcast_to(bias.ravel(), made.bias.shape), "biases")
    return item.graph.apply(made, x, name=item.name())


def batch_norm(item):
    if item.get("training_mode", 0):
        raise item.refused(
            "it was exported in training mode, so that its statistics are not those of training", "export after eval()"
        )
    x, eps = item.node(), item.get("epsilon", 1e-5)
    least = np.finfo(item.graph.dtype).tiny  # adds nothing to any variance
    made = BatchNorm(x.shape[-1], eps=eps or least, momentum=1 - item.get("momentum", 0.9), dtype=item.graph.dtype)
    for k, (what, target) in enumerate(
        (
            ("scale", made.weight.data),
            ("bias", made.bias.data),
            ("mean", made.running_mean),
            ("variance", made.running_var),
        )
    ):
        _fill(item, target, item.weights(k + 1, what), what)
    if made.running_var.min() < 0:
        raise item.refused("its variance is negative", "the file is damaged")
    if eps == 0 and not made.running_var.all():
        raise item.refused("it divides by a variance of 0, as its epsilon is 0", "export it with an epsilon above 0")
    return item.graph.apply(made, x, name=item.name())


def relu(item):
    return item.graph.relu(item.node(), name=item.name())


def clip(item):
    lowest, highest = (item.constant(k, what, needed=False) for k, what in ((1, "minimum"), (2, "maximum")))
    lowest = item.get("min") if lowest is None else lowest
    highest = item.get("max") if highest is None else highest
    if lowest is None or np.any(lowest != 0):
        given = "no minimum" if lowest is None else f"minimum {np.ravel(lowest)[0]:g}"
        why = f"an activation with {given} instead of 0"
    elif highest is not None and np.any(highest < np.finfo(np.float32).max):
        why = "an activation with an upper bound (ReLU6)"
    else:
        return relu(item)
    raise item.refused(f"{why}; only Relu is supported", "train the network with ReLU instead")


def maximum(item):
    """relu(x), written as the larger of x and 0."""
    constants = [value for value in map(item.value, range(len(item.inputs))) if isinstance(value, np.ndarray)]
    if len(item.inputs) != 2 or len(constants) != 1 or constants[0].shape not in ((), (1,)) or constants[0].any():
        raise item.refused("the larger of two values; only of one value and 0, which is Relu, is supported")
    return item.graph.relu(item.node(0 if isinstance(item.value(1), np.ndarray) else 1), name=item.name())


def max_pool(item):
    x = item.node()
    kernel, stride, padding = _windows(item, x, item.get("kernel_shape"))
    return item.graph.apply(MaxPool(kernel, stride=stride, padding=padding), x, name=item.name())


def avg_pool(item):
    x = item.node()
    kernel, stride, padding = _windows(item, x, item.get("kernel_shape"))
    # With ceil_mode and no padding, what windows stand out by is all that there is around, and does not count.
    alone = item.get("ceil_mode", 0) and not (any(item.get("pads", ())) or item.get("auto_pad", "").startswith("SAME"))
    counted = bool(item.get("count_include_pad", 0)) and not alone
    made = AvgPool(kernel, stride=stride, padding=padding, count_include_pad=counted)
    return item.graph.apply(made, x, name=item.name())


def global_avg_pool(item):
    return item.graph.global_avg_pool(item.node(), name=item.name())


def global_max_pool(item):
    x = item.node()
    if len(x.shape) != 3:
        raise item.refused(f"of a value of shape {x.shape}; only pictures are supported")
    return item.graph.apply(MaxPool(x.shape[:2]), x, name=item.name())


def reduce_mean(item):
    return _reduced(item, global_avg_pool)


def reduce_max(item):
    return _reduced(item, global_max_pool)


def _reduced(item, pool):
    """What pools a whole picture."""
    x, axes = item.node(), item.get("axes")
    axes = item.constant(1, "axes", needed=False) if axes is None else axes
    if len(x.shape) != 3 or axes is None or sorted(int(a) % 4 for a in np.ravel(axes)) != [2, 3]:
        raise item.refused(f"over axes {axes}; only over height and width at once, [2, 3], is supported")
    x = pool(item)
    return x if item.get("keepdims", 1) else item.graph.flatten(x, name=item.reader.free(f"{x.name}.flatten"))


def add(item):
    """Of two values, or of a value and constants."""
    if all(isinstance(value, Node) for value in (item.value(0), item.value(1))):
        return item.graph.add(item.node(0), item.node(1), name=item.name())
    k, bias = _by_channel(item, "adds")
    return _affine(item, k, 1, bias)


def subtract(item):
    k, values = _by_channel(item, "subtracts")
    return _affine(item, k, 1, -values) if k == 0 else _affine(item, k, -1, values)


def multiply(item):
    k, values = _by_channel(item, "multiplies")
    return _affine(item, k, values, np.zeros_like(values))


def divide(item):
    k, values = _by_channel(item, "divides")
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / values
    if k == 1 or not np.isfinite(inverse).all():
        raise item.refused("it divides by values of the images, or by 0")
    return _affine(item, k, inverse, np.zeros_like(values))


def _by_channel(item, does):
    """Which input is a value, and the constants that are the other, one for each of its channels."""
    k = 0 if isinstance(item.value(0), Node) else 1
    if isinstance(item.value(1 - k), Node):
        raise item.refused(f"{does} two values that depend on the images")
    x, values = item.node(k), item.weights(1 - k, "constants")
    rank = len(x.shape)  # the channels are at the place where the file's layout has them
    channels = values.size == x.shape[-1] and values.ndim >= rank and values.shape[values.ndim - rank] == values.size
    if values.ndim > rank + 1 or not (channels or values.size == 1):
        raise item.refused(
            f"{does} constants of shape {values.shape}, and the output of {x.name}; only one number, or one for each "
            f"of its {x.shape[-1]} channels, is supported"
        )
    return k, np.broadcast_to(values.reshape(-1), x.shape[-1:])


def _affine(item, k, scale, shift):
    """scale x + shift of input number k. In a node before it that nothing else reads, where that is a scale and shift
    itself, or has a bias that takes the shift."""
    x = item.node(k)
    made, alone = x.operation, item.alone(k)
    scaled = np.any(scale != 1)
    takes_bias = isinstance(made, (Conv2d, Linear, BatchNorm)) and not isinstance(made, IdentityShortcut)
    if not (alone and (type(made) is Affine or (takes_bias and not scaled))):
        made = Affine(x.shape[-1], dtype=item.graph.dtype)
        x = item.graph.apply(made, x, name=item.name())
    if scaled:
        made.weight.data *= scale
        made.bias.data *= scale
    bias = np.array(shift) if made.bias is None else made.bias.data + shift
    made.bias = Tensor(bias, requires_grad=True, name=f"{x.name}.bias")
    return x


def sum_(item):
    """Of any number of values."""
    if len(item.inputs) == 2:
        return add(item)
    total, rest = item.node(), [item.node(k) for k in range(1, len(item.inputs))]
    for k, other in enumerate(rest, start=1):
        total = item.graph.add(total, other, name=item.name() if k == len(rest) else None)
    return total


def _windows(item, x, kernel):
    """Kernel, stride and padding of a Conv or pooling; refused where they have no counterpart."""
    if len(x.shape) != 3 or kernel is None or len(kernel) != 2:
        raise item.refused(f"of a value of shape {x.shape} with a kernel {kernel}; only pictures are supported")
    if any(d != 1 for d in item.get("dilations", [1, 1])):
        raise item.refused(f"dilations = {item.get('dilations')}; only 1 is supported")
    stride, pads = list(item.get("strides", [1, 1])), list(item.get("pads", [0, 0, 0, 0]))
    mode = item.get("auto_pad", "NOTSET")
    if mode.startswith("SAME"):
        pads = [0, 0, 0, 0]
        for axis in (0, 1):
            windows = -(-x.shape[axis] // stride[axis])
            total = max((windows - 1) * stride[axis] + kernel[axis] - x.shape[axis], 0)
            less = total // 2
            pads[axis], pads[axis + 2] = (less, total - less) if mode == "SAME_UPPER" else (total - less, less)
    elif mode == "VALID":
        pads = [0, 0, 0, 0]
    padding = ((pads[0], pads[2]), (pads[1], pads[3]))
    if item.get("ceil_mode", 0):
        more = [_beyond(*axis) for axis in zip(x.shape, kernel, stride, padding, strict=False)]
        if (
            any(more) and any(pads) and item.get("count_include_pad", 0)
        ):  # what stands out does not count there, as padding does
            raise item.refused(
                "ceil_mode = 1 with count_include_pad = 1 and windows that stand out of the picture",
                "use ceil_mode=False, or count_include_pad=False",
            )
        padding = tuple((before, after + m) for (before, after), m in zip(padding, more, strict=True))
    return tuple(int(k) for k in kernel), tuple(stride), padding


def _beyond(size, kernel, stride, padding):
    """How far the last window stands out with ceil_mode: the last one that begins before the padding at the end."""
    last = min(-(-(size + sum(padding) - kernel) // stride), (size + padding[0] - 1) // stride)
    return max(0, last * stride + kernel - size - sum(padding))


def _not_zero(bias):
    """Whether there is a bias: some exporters write zeros where there is none."""
    return bias is not None and bool(np.any(bias))


def _fill(item, target, values, what):
    data = target.data if isinstance(target, Tensor) else target
    if values is None or values.shape != data.shape:
        given = "no" if values is None else f"shape {values.shape} of"
        raise item.refused(f"{given} {what}, expected {data.shape}", "the file is damaged or foreign")
    data[...] = values


NODES = LAYOUT | {
    "Add": add, "AveragePool": avg_pool, "BatchNormalization": batch_norm, "Clip": clip, "Conv": conv, "Div": divide,
    "Gemm": gemm, "GlobalAveragePool": global_avg_pool, "GlobalMaxPool": global_max_pool, "MatMul": matmul,
    "Max": maximum, "MaxPool": max_pool, "Mul": multiply, "ReduceMax": reduce_max, "ReduceMean": reduce_mean,
    "Relu": relu, "Sub": subtract, "Sum": sum_,
}  # fmt: skip
