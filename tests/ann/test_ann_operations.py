"""Operations of ANN graphs: forward against plain loops, gradients against torch's autograd and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import get_num_threads, set_num_threads
from torch.nn import functional as F

from nsim import Tensor, ann, saved_bytes
from nsim.ann import conv
from nsim.errors import ShapeError
from tests import ann_reference as plain

# Float32 sums of up to 200 products of size 1 agree with float64 ones to some 1e-6 of the largest.
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(*shape, dtype=np.float64, seed=0):
    return rng(seed).normal(size=shape).astype(dtype)


def close(a, b, dtype=np.float64):
    np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * max(1, np.abs(b).max()))


def first_channels(a):
    """[B, H, W, C] as torch's [B, C, H, W], and vectors as they are."""
    return torch.tensor(np.moveaxis(a, -1, 1).copy())


def made_conv(channels, out, kernel, seed=3, dtype=np.float64, **options):
    op = ann.Conv2d(channels, out, kernel, dtype=dtype, rng=rng(seed), **options)
    if op.bias is not None:
        op.bias.data[...] = rng(seed + 1).normal(size=out)
    return op


def torch_conv(x, op, weight, bias):
    (top, bottom), (left, right) = op.windows.padding
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, op.windows.stride, groups=op.groups)


def against_autograd(op, x, function, **mode):
    """Output and the gradients of x and all parameters against torch; function(x, *parameters) is torch's."""
    given_x = Tensor(x, requires_grad=True)
    tensors = list(op.parameters().values())
    for tensor in tensors:
        tensor.grad = None
    y = op(given_x, **mode)
    g = rng(8).normal(size=y.shape)
    y.backward(g)
    leaves = [first_channels(x), *(torch.tensor(t.data.copy()) for t in tensors)]
    for leaf in leaves:
        leaf.requires_grad = True
    theirs = function(*leaves)
    theirs.backward(first_channels(g) if theirs.ndim == g.ndim == 4 else torch.tensor(g.reshape(theirs.shape)))
    close(
        y.data if theirs.ndim < 4 else np.moveaxis(y.data, -1, 1),
        theirs.detach().numpy().reshape(y.shape if theirs.ndim < 4 else theirs.shape),
    )
    close(np.moveaxis(given_x.grad, -1, 1), leaves[0].grad.numpy())
    for tensor, leaf in zip(tensors, leaves[1:], strict=True):
        close(tensor.grad, leaf.grad.numpy())


def against_differences(op, x, **mode):
    """Gradients of a weighted sum of the output against central differences in every entry of x and the parameters."""
    given_x = Tensor(x, requires_grad=True)
    tensors = [given_x, *op.parameters().values()]
    weight = rng(9).normal(size=op(given_x, **mode).shape)
    for tensor in tensors:
        tensor.grad = None
    op(given_x, **mode).backward(weight)
    for tensor in tensors:
        for k in np.ndindex(tensor.shape):
            kept, h, sides = tensor.data[k], 1e-6, []
            for step in (h, -h):
                tensor.data[k] = kept + step
                sides.append((op(given_x, **mode).data * weight).sum())
            tensor.data[k] = kept
            np.testing.assert_allclose(tensor.grad[k], (sides[0] - sides[1]) / (2 * h), rtol=1e-6, atol=1e-7)


CONVS = {
    "3 x 3": ((2, 5, 4, 3), 4, 3, {"padding": 1}),
    "1 x 1": ((2, 3, 3, 5), 2, 1, {}),
    "stride": ((1, 8, 7, 2), 3, 3, {"stride": 2, "padding": 1}),
    "stride past the kernel": ((2, 9, 8, 2), 3, 2, {"stride": (3, 4)}),
    "oblong": ((2, 6, 7, 2), 3, (2, 5), {"stride": (1, 2), "padding": (0, 2)}),
    "lopsided padding": ((1, 5, 5, 2), 2, 3, {"stride": 2, "padding": ((0, 1), (2, 0))}),
    "padding past the kernel": ((1, 2, 3, 1), 2, 2, {"padding": 3}),
    "groups": ((2, 5, 5, 6), 4, 3, {"groups": 2, "padding": 1}),
    "depthwise": ((2, 5, 6, 4), 4, 3, {"groups": 4, "stride": 2, "padding": 1, "bias": False}),
    "two outputs a channel": ((1, 4, 4, 3), 6, 3, {"groups": 3, "padding": 1}),
    "the whole picture": ((3, 4, 5, 2), 7, (4, 5), {}),
    "one pixel": ((1, 1, 1, 1), 1, 1, {"bias": False}),
}


@pytest.mark.parametrize("block", [conv.BLOCK, 4000, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CONVS)
def test_convolution_is_the_plain_one(name, dtype, block, monkeypatch):
    """With blocks of all samples, of a few, and of one row of one sample."""
    monkeypatch.setattr(conv, "BLOCK", block)
    shape, out, kernel, options = CONVS[name]
    op, x = made_conv(shape[-1], out, kernel, dtype=dtype, **options), picture(*shape, dtype=dtype)
    y = op(Tensor(x))
    bias = None if op.bias is None else op.bias.data
    assert y.dtype == dtype and y.shape[1:] == op.out_shape(shape[1:])
    close(y.data, plain.conv2d(x, op.weight.data, bias, op.windows.stride, op.windows.padding, op.groups), dtype)


@pytest.mark.parametrize("block", [conv.BLOCK, 1])
@pytest.mark.parametrize("name", CONVS)
def test_gradients_of_convolution(name, block, monkeypatch):
    monkeypatch.setattr(conv, "BLOCK", block)
    shape, out, kernel, options = CONVS[name]
    op, x = made_conv(shape[-1], out, kernel, **options), picture(*shape)
    against_autograd(op, x, lambda a, w, b=None: torch_conv(a, op, w, b))
    if block == 1:
        against_differences(op, x)


@st.composite
def convolutions(draw):
    small = st.integers(1, 3)
    groups = draw(small)
    kernel = draw(st.tuples(small, small))
    padding = draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2))
    low = [max(1, k - sum(p)) for k, p in zip(kernel, padding, strict=True)]
    shape = (draw(st.integers(1, 20)), *(draw(st.integers(n, n + 6)) for n in low), groups * draw(small))
    options = {
        "stride": draw(st.tuples(small, small)),
        "padding": padding,
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    options["bias"] = draw(st.booleans())
    return shape, groups * draw(small), kernel, options, draw(st.sampled_from([1, 300, 1 << 21]))


@settings(max_examples=80, deadline=None)
@given(convolutions())
def test_any_convolution_is_torchs_with_its_gradients(case):
    shape, out, kernel, options, block = case
    op = made_conv(shape[-1], out, kernel, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "BLOCK", block)
        against_autograd(op, picture(*shape), lambda a, w, b=None: torch_conv(a, op, w, b))


POOLS = {
    "halves": ((2, 4, 6, 3), 2, {}),
    "overlap": ((2, 7, 7, 2), 3, {"stride": 2, "padding": 1}),
    "gaps": ((1, 8, 9, 2), 2, {"stride": 3}),
    "oblong": ((2, 5, 7, 1), (1, 3), {"stride": (2, 1), "padding": (0, 1)}),
    "one side": ((1, 4, 4, 2), 2, {"padding": ((1, 0), (0, 1))}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["max", "avg", "avg without padding"])
@pytest.mark.parametrize("name", POOLS)
def test_pooling_is_the_plain_one(name, kind, dtype):
    shape, kernel, options = POOLS[name]
    if kind == "max":
        op = ann.MaxPool(kernel, **options)
    else:
        op = ann.AvgPool(kernel, count_include_pad=kind == "avg", **options)
    x = picture(*shape, dtype=dtype) - 1.0  # mostly negative: padding must not win a maximum
    x = x.astype(dtype)
    y = op(Tensor(x))
    assert y.dtype == dtype and y.shape[1:] == op.out_shape(shape[1:])
    windows = op.windows
    close(y.data, plain.pool(x, *windows, kind[:3], kind != "avg without padding"), dtype)
    against_differences(op, picture(*shape))


@pytest.mark.parametrize("name", ["halves", "overlap", "gaps", "oblong"])
def test_pooling_is_torchs(name):
    shape, kernel, options = POOLS[name]
    stride, padding = options.get("stride"), options.get("padding", 0)
    x = rng(1).integers(0, 3, shape).astype(np.float64)  # with ties
    against_autograd(ann.MaxPool(kernel, **options), x, lambda a: F.max_pool2d(a, kernel, stride, padding))
    for counted in (True, False):
        op = ann.AvgPool(kernel, count_include_pad=counted, **options)
        against_autograd(op, x, lambda a, c=counted: F.avg_pool2d(a, kernel, stride, padding, count_include_pad=c))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_pooling_is_the_plain_one(data):
    kernel = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(data.draw(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1))) for k in kernel)
    shape = (2, *(data.draw(st.integers(k, k + 5)) for k in kernel), 2)
    x, options = picture(*shape), {"stride": stride, "padding": padding}
    close(ann.MaxPool(kernel, **options)(Tensor(x)).data, plain.pool(x, kernel, stride, padding, "max"))
    for counted in (True, False):
        op = ann.AvgPool(kernel, count_include_pad=counted, **options)
        close(op(Tensor(x)).data, plain.pool(x, kernel, stride, padding, "avg", counted))


def test_of_equal_maxima_the_first_takes_the_gradient():
    x = Tensor(np.ones((1, 2, 4, 1)), requires_grad=True)
    ann.MaxPool(2)(x).backward(np.array([[[[3.0], [5.0]]]]))
    np.testing.assert_array_equal(x.grad[0, :, :, 0], [[3, 0, 5, 0], [0, 0, 0, 0]])


def test_global_average():
    x = picture(2, 3, 5, 4)
    close(ann.GlobalAvgPool()(Tensor(x)).data, x.mean(axis=(1, 2))[:, None, None])
    against_autograd(ann.GlobalAvgPool(), x, lambda a: F.adaptive_avg_pool2d(a, 1))
    against_differences(ann.GlobalAvgPool(), x)


@pytest.mark.parametrize("sizes", [(3, 7, 4), (1, 1, 1), (5, 300, 129)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(sizes, bias):
    batch, n_in, n_out = sizes
    op, x = ann.Linear(n_in, n_out, bias=bias, dtype=np.float64, rng=rng(2)), picture(batch, n_in)
    against_autograd(op, x, F.linear)
    if n_in < 10:
        against_differences(op, x)


def norm(channels, dtype=np.float64):
    op, r = ann.BatchNorm(channels, dtype=dtype, eps=1e-3, momentum=0.3), rng(4)
    for values in (op.weight.data, op.bias.data, op.running_mean):
        values[...] = r.normal(size=channels)
    op.running_var[...] = r.uniform(0.5, 2, channels)
    return op


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (6, 3), (1, 2, 1, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_norm_is_the_plain_one(shape, training, dtype):
    op, x = norm(shape[-1], dtype), picture(*shape, dtype=dtype)
    stats = (None, None) if training else (op.running_mean.copy(), op.running_var.copy())
    expected = plain.batch_norm(x, op.weight.data, op.bias.data, *stats, op.eps)
    y = op(Tensor(x), training=training)
    assert y.dtype == dtype
    close(y.data, expected, dtype)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (6, 3)])
def test_batch_norm_is_torchs(shape, training):
    op, x = norm(shape[-1]), picture(*shape)
    mean, var = torch.tensor(op.running_mean.copy()), torch.tensor(op.running_var.copy())

    def theirs(a, w, b):
        return F.batch_norm(a, mean, var, w, b, training, op.momentum, op.eps)

    against_autograd(op, x, theirs, training=training)
    close(op.running_mean, mean.numpy())
    close(op.running_var, var.numpy())
    against_differences(norm(shape[-1]), x, training=training)


def affine(channels):
    op = ann.Affine(channels, dtype=np.float64)
    op.weight.data[...], op.bias.data[...] = rng(4).normal(size=(2, channels))
    return op


@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (6, 3)])
def test_affine(shape):
    op, x = affine(shape[-1]), picture(*shape)
    against_autograd(op, x, lambda a, w, b: a * w.view(-1, *[1] * (a.ndim - 2)) + b.view(-1, *[1] * (a.ndim - 2)))
    against_differences(op, x)


@pytest.mark.parametrize("make", [norm, affine])
def test_scale_is_what_folding_multiplies_by(make):
    op, x = make(3), picture(4, 2, 2, 3)
    close(op(Tensor(x)).data - op(Tensor(0 * x)).data, x * op.scale())


def test_the_variance_of_one_value_is_refused():
    with pytest.raises(ShapeError, match="one value a channel has no variance"):
        norm(3)(Tensor(picture(1, 3)), training=True)
    with pytest.raises(ShapeError, match="one value a channel"):
        norm(3)(Tensor(picture(1, 1, 1, 3)), training=True)


def test_running_statistics_of_many_pixels_are_exact_in_float32():
    """Added one after the other in float32, a million values near 100 have a mean wrong in the fifth digit."""
    x = (100 + rng(5).normal(size=(64, 128, 128, 2))).astype(np.float32)
    op = ann.BatchNorm(2, momentum=1.0)
    op(Tensor(x), training=True)
    np.testing.assert_allclose(op.running_mean, x.mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(op.running_var, x.var(axis=(0, 1, 2), dtype=np.float64, ddof=1), rtol=1e-5)


def test_relu_and_add():
    x = picture(2, 3, 3, 2)
    against_autograd(ann.ReLU(), x, F.relu)
    a, b = Tensor(x, requires_grad=True), Tensor(2 * x, requires_grad=True)
    y = ann.Add()(a, b)
    y.backward(x)
    np.testing.assert_array_equal(y.data, 3 * x)
    np.testing.assert_array_equal(a.grad, x)
    np.testing.assert_array_equal(b.grad, x)


def test_flatten_has_the_order_of_torch():
    x = picture(2, 3, 4, 5)
    against_autograd(ann.Flatten(), x, lambda a: a.flatten(1))
    vector = Tensor(picture(2, 7))
    assert ann.Flatten()(vector) is vector


@pytest.mark.parametrize("padding", [0, ((1, 0), (2, 3))])
@pytest.mark.parametrize("sizes", [(4, 8, 2, None), (3, 3, 1, None), (2, 7, (1, 2), 0), (2, 7, 3, 5)])
def test_identity_shortcut_is_slicing_and_padding(sizes, padding):
    channels, out, stride, before = sizes
    op = ann.IdentityShortcut(channels, out, stride=stride, before=before, padding=padding, dtype=np.float64)
    front = (out - channels) // 2 if before is None else before
    steps = (stride, stride) if isinstance(stride, int) else stride

    def theirs(a):
        (top, bottom), (left, right) = padding or ((0, 0), (0, 0))
        a = F.pad(a, (left, right, top, bottom))
        return F.pad(a[:, :, :: steps[0], :: steps[1]], (0, 0, 0, 0, front, out - channels - front))

    assert op.parameters() == {}
    against_autograd(op, picture(2, 5, 6, channels), theirs)


def test_the_tape_keeps_the_input_of_a_convolution_and_no_windows():
    x = Tensor(picture(2, 9, 9, 4), requires_grad=True)
    hidden = ann.ReLU()(x)
    assert saved_bytes(made_conv(4, 6, 3, padding=1)(hidden)) == hidden.data.nbytes


def test_threads_change_no_bit():
    op, x = made_conv(8, 16, 3, dtype=np.float32, padding=1), picture(37, 16, 16, 8, dtype=np.float32)
    results, threads = [], get_num_threads()
    try:
        for count in (1, threads):
            set_num_threads(count)
            op.weight.grad = None
            given_x = Tensor(x, requires_grad=True)
            y = op(given_x)
            y.backward(y.data)
            results.append((y.data, given_x.grad, op.weight.grad))
    finally:
        set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "op, shape, words",
    [
        (ann.Conv2d(3, 4, 3), (5, 5, 2), "has 2 channels .*, expected 3"),
        (ann.Conv2d(3, 4, 3), (2, 5, 3), "3 x 3 does not fit into a picture of 2 x 5"),
        (ann.Conv2d(3, 4, 3), (3,), "expected a picture"),
        (ann.Linear(12, 2), (2, 2, 3), "put a flatten before it"),
        (ann.Linear(12, 2), (11,), r"expected \(12,\)"),
        (ann.BatchNorm(4), (2, 2, 3), "has 3 channels"),
        (ann.GlobalAvgPool(), (3,), "expected a picture"),
        (ann.MaxPool(4), (3, 9, 1), "does not fit"),
    ],
)
def test_shapes_that_do_not_fit(op, shape, words):
    with pytest.raises(ShapeError, match=words):
        op.out_shape(shape)
