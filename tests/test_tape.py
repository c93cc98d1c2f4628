"""Tensor, its operations against finite differences in float64, and the tape."""

import gc
import weakref

import numpy as np
import pytest

from nsim import GradientError, ParameterError, ShapeError, Tensor, arrays, no_grad, ops, saved_bytes, tape
from tests import cases


def leaf(*shape, seed=0, low=-2.0, high=2.0):
    return Tensor(np.random.default_rng(seed).uniform(low, high, shape), requires_grad=True)


def check(function, *tensors):
    """Gradients of a weighted sum of function(*tensors) against central differences in every entry."""
    weight = np.random.default_rng(9).normal(size=function(*tensors).shape)

    def loss():
        return (function(*tensors) * weight).sum()

    for tensor in tensors:
        tensor.grad = None
    loss().backward()
    for tensor in tensors:
        assert tensor.grad.shape == tensor.shape and tensor.grad.dtype == tensor.dtype
        for k in np.ndindex(tensor.shape):
            kept, h = tensor.data[k], 1e-6
            tensor.data[k] = kept + h
            above = loss().item()
            tensor.data[k] = kept - h
            below = loss().item()
            tensor.data[k] = kept
            np.testing.assert_allclose(tensor.grad[k], (above - below) / (2 * h), rtol=1e-6, atol=1e-8)


UNARY = {
    "negative": lambda x: -x,
    "power": lambda x: (x + 3) ** 2.5,
    "power by a negative number": lambda x: (x + 3) ** -1,
    "power of a number": lambda x: 2**x,
    "square": lambda x: x**2,
    "abs": abs,
    "exp": ops.exp,
    "log": lambda x: ops.log(x + 3),
    "relu": ops.relu,
    "absolute": ops.absolute,
    "log_softmax": ops.log_softmax,
    "log_softmax along 0": lambda x: ops.log_softmax(x, axis=0),
    "sum": lambda x: x.sum(),
    "sum along 0": lambda x: x.sum(0),
    "sum along the last": lambda x: x.sum(axis=-1),
    "sum along two": lambda x: x.reshape((3, 2, 2)).sum(axis=(0, 2)),
    "sum along two, kept": lambda x: x * x.reshape(3, 2, 2).sum(axis=(0, 2), keepdims=True).sum(),
    "sum along 1, kept": lambda x: x / (x + 3).sum(axis=1, keepdims=True),
    "sum, kept": lambda x: x.sum(keepdims=True) * x,
    "mean": lambda x: x.mean(),
    "mean, kept": lambda x: x - x.mean(axis=-1, keepdims=True),
    "max": lambda x: x.max(),
    "max, kept": lambda x: x.max(keepdims=True) * x.max(axis=1, keepdims=True) * x,
    "mean along 1": lambda x: x.mean(axis=1),
    "max along 0": lambda x: x.max(0),
    "max along 1": lambda x: x.max(axis=-1),
    "reshape": lambda x: x.reshape((2, 6)),
    "reshape by numbers": lambda x: x.reshape(2, -1),
    "slice": lambda x: x[1:, ::2],
    "a repeated index": lambda x: x[[0, 2, 0, 0]],
    "take": lambda x: ops.take(x, [3, 0, 1]),
    "used three times": lambda x: x * x + x,
    "number - tensor": lambda x: 2 - x,
    "number / tensor": lambda x: 2 / (x + 3),
    "array * tensor": lambda x: np.arange(4.0) * x,
    "array - tensor": lambda x: np.arange(4.0) - x,
}


@pytest.mark.parametrize("name", UNARY)
def test_gradient_of_operation(name):
    check(UNARY[name], leaf(3, 4))


BINARY = {
    "add": ops.add,
    "subtract": ops.subtract,
    "multiply": ops.multiply,
    "divide": lambda x, y: x / (y + 3),
    "power": lambda x, y: (x + 3) ** y,
}


@pytest.mark.parametrize(
    "shapes", [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2, 3)), ((4, 1, 3), (2, 1))]
)
@pytest.mark.parametrize("name", BINARY)
def test_gradient_of_broadcast_operation(name, shapes):
    first, second = (leaf(*shape, seed=k) for k, shape in enumerate(shapes))
    check(BINARY[name], first, second)
    check(BINARY[name], second, first)


MATRICES = {
    "matrices": ((3, 4), (4, 2)), "one entry": ((1, 1), (1, 5)), "square": ((4, 4), (4, 4)),
    "matrix and vector": ((4, 4), (4,)), "vector and matrix": ((3,), (3, 2)), "vectors": ((4,), (4,)),
    "batches": ((2, 3, 4), (2, 4, 2)), "batch and matrix": ((2, 3, 4), (4, 2)), "matrix and batch": ((3, 4), (2, 4, 3)),
    "batch and vector": ((2, 3, 4), (4,)), "vector and batch": ((3,), (2, 3, 2)),
    "broadcast batches": ((2, 1, 2, 3), (4, 3, 2)), "batch of one": ((1, 2, 3), (5, 3, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", MATRICES)
def test_gradient_of_matrix_product(name):
    first, second = MATRICES[name]
    check(lambda x, y: x @ y, leaf(*first), leaf(*second, seed=1))


def test_gradient_of_matrix_product_with_an_array():
    array = np.arange(6.0).reshape(2, 3)
    check(lambda x: array @ x, leaf(3, 2))
    check(lambda x: x @ array, leaf(2))


def test_of_equal_maxima_the_first_takes_the_gradient():
    x = Tensor(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), requires_grad=True)
    x.max(1).sum().backward()
    np.testing.assert_array_equal(x.grad, [[0, 1, 0], [1, 0, 0]])


def test_log_softmax_of_large_entries_stays_finite():
    x = Tensor(np.array([[1e4, 0.0, -1e4]]), requires_grad=True)
    y = ops.log_softmax(x)
    np.testing.assert_array_equal(y.data, [[0.0, -1e4, -2e4]])
    y[0, 2].backward()
    np.testing.assert_array_equal(x.grad, [[-1, 0, 1]])


def test_number_types():
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    y = ((2 * x + 1) / 3 - x**2).mean()
    y.backward()
    assert y.dtype == x.grad.dtype == np.float32
    assert Tensor(np.arange(3)).dtype == Tensor([True, False]).dtype == np.float32
    assert Tensor(np.zeros(2)).dtype == np.float64


@pytest.mark.parametrize("data", [None, [1 + 2j], "1", ["a"], [1.0, None], [[1], [1, 2]]])
def test_what_is_no_real_number_is_refused(data):
    with pytest.raises(ParameterError, match=r"Tensor: data = .*: expected real numbers"):
        Tensor(data)
    with pytest.raises(ParameterError, match=r"Tensor: data = .*: expected real numbers"):
        Tensor([1.0]) + data


def test_data_is_not_copied_and_detach_cuts():
    array = np.ones((2, 2), np.float32)
    x = Tensor(array, requires_grad=True)
    assert x.data is array and (x * 2).detach().node is None
    assert not (x.detach() * 2).requires_grad


def test_truth_and_conversion():
    assert Tensor(2.0) and not Tensor([0.0]) and float(Tensor([1.5])) == 1.5
    with pytest.raises(ShapeError, match=r"truth of a tensor of shape \(2,\)"):
        bool(Tensor([1.0, 2.0]))


def test_gradients_add_up_over_losses():
    x = leaf(3)
    (x * 2).sum().backward()
    (x * 5).sum().backward()
    np.testing.assert_array_equal(x.grad, [7, 7, 7])


def test_leaves_never_share_a_gradient():
    """Clipping scales gradients in place: two leaves with one array would be scaled twice."""
    x, y, upstream = leaf(2, 3), leaf(2, 3), np.ones((2, 3))
    (x + y).backward(upstream)
    assert not np.shares_memory(x.grad, y.grad)
    assert not np.shares_memory(x.grad, upstream) and not np.shares_memory(y.grad, upstream)


def test_backward_of_an_array_needs_its_gradient():
    x = leaf(2, 3)
    with pytest.raises(ShapeError, match=r"grad has shape \(3, 2\), the tensor \(2, 3\)"):
        (Tensor(np.ones((2, 3)), requires_grad=True) * 2).backward(np.ones((3, 2)))
    with pytest.raises(GradientError, match=r"shape \(2, 3\) needs grad="):
        (x * 2).backward()
    (x * 2).backward(np.full((2, 3), 3.0))
    np.testing.assert_array_equal(x.grad, np.full((2, 3), 6.0))


def test_nothing_is_recorded_inside_no_grad():
    x = leaf(3)
    with no_grad():
        with no_grad():
            pass
        y = (x * 2).sum()
    assert y.node is None and not y.requires_grad
    with pytest.raises(GradientError, match="nothing to walk back"):
        y.backward()
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert (x * 2).requires_grad, "recording goes on after an error inside no_grad"


def test_constants_record_nothing():
    with pytest.raises(GradientError, match="nothing to walk back"):
        (Tensor([1.0]) * 2).backward()


def test_a_second_backward_is_refused_by_name():
    x = leaf(3)
    loss = ops.exp(x).sum()
    loss.backward()
    with pytest.raises(GradientError, match=r"sum: .* already used and freed; run the forward pass again"):
        loss.backward()


def test_a_second_loss_on_a_used_part_is_refused_by_name():
    x = leaf(3)
    shared = ops.exp(x)
    first, second = shared.sum(), (shared * 2).sum()
    first.backward()
    with pytest.raises(GradientError, match="exp: "):
        second.backward()


def test_nodes_are_freed_as_the_walk_goes():
    """When the walk comes to the first operation, what the last one kept is gone already."""
    x, alive = leaf(1000), []

    def vjp(g):
        alive.append(last() is not None)
        return (g,)

    y = tape.record("watch", Tensor(x.data + 1), (x,), vjp)
    kept = ops.exp(y)
    last = weakref.ref(kept.data)
    loss = kept.sum()
    del kept
    assert last() is not None, "the tape keeps the exponential for its gradient"
    loss.backward()
    assert alive == [False]
    assert saved_bytes(loss) == 0


@pytest.mark.parametrize("walk", [True, False])
def test_long_chains_need_no_recursion(walk):
    x = leaf(2)
    y = x
    for k in range(10_000):
        y = -y if k % 2 else y + 1.0
    if walk:
        y.sum().backward()
        np.testing.assert_array_equal(np.abs(x.grad), [1, 1])
    else:
        del y
        gc.collect()


def test_branches_that_meet_again_are_walked_once():
    """2^40 paths lead back from here."""
    x = leaf(2)
    y = x
    for _ in range(40):
        y = y + y
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [2.0**40, 2.0**40])


def test_saved_bytes_counts_each_kept_buffer_once():
    x = leaf(1000)
    assert saved_bytes(x) == 0 and saved_bytes(x.sum()) == 0
    y = ops.exp(x)
    assert saved_bytes(y) == 8000
    assert saved_bytes(-y) == 8000, "a change of sign keeps nothing"
    assert saved_bytes(y[::2] * y[1::2]) == 8000, "two views of one buffer count once"


def test_saved_bytes_leaves_parameters_out():
    weight = leaf(100, 100)
    assert saved_bytes((weight * weight).sum()) == 0


def test_saved_bytes_of_a_layer_is_its_events_and_active_sites():
    layer = cases.network(sizes=(9, 33, 5))[0]
    given = cases.spikes()
    out = layer(given)
    listed = out.indptr.nbytes + out.indices.nbytes + out.active.indptr.nbytes + out.active.indices.nbytes
    parameters = layer.n_out * len(layer.neuron.parameters) * 4 + arrays.LINE
    assert saved_bytes(out) == given.nbytes + listed + out.active.u.nbytes + parameters


def test_numpy_and_format_take_a_tensor():
    x = Tensor(np.arange(3.0), requires_grad=True)
    array = np.asarray(x)
    assert array.dtype == np.float64 and array.shape == (3,)
    assert isinstance(np.arange(3.0) + x, Tensor) and f"{x.sum():.1f} {x.sum()}" == "3.0 Tensor(3.)"
    assert x.sum() < 4 and not x.sum() >= Tensor(4.0)
    np.testing.assert_array_equal(x > 0.5, [False, True, True])


def test_relu_of_minus_infinity_is_zero():
    assert ops.relu(Tensor([-np.inf])).data == 0


def test_a_used_tape_adds_to_no_gradient():
    first, second = leaf(3), leaf(3)
    used = (first * first).sum()
    used.backward()
    kept = first.grad.copy()
    with pytest.raises(GradientError, match="already used and freed"):
        (used + (second * second).sum()).backward()
    assert second.grad is None
    np.testing.assert_array_equal(first.grad, kept)
