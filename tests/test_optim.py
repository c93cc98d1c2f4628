"""Optimisers against torch and by hand; state, clipping, schedules."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from nsim import LI, nn, optim
from nsim.errors import GradientError, ParameterError, ShapeError, TrainingError
from nsim.tape import Tensor

SHAPES = ((7, 5), (33,), ())
KINDS = {
    "sgd": (optim.SGD, "SGD", {"lr": 0.1}),
    "decay": (optim.SGD, "SGD", {"lr": 0.1, "weight_decay": 0.01}),
    "momentum": (optim.SGD, "SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "nesterov": (optim.SGD, "SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    "adam": (optim.Adam, "Adam", {"lr": 1e-2}),
    "betas": (optim.Adam, "Adam", {"lr": 1e-2, "betas": (0.5, 0.9), "eps": 1e-3}),
    "adamw": (optim.AdamW, "AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
}


def parameters(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [Tensor(rng.normal(size=s).astype(dtype), requires_grad=True, name=f"p{k}") for k, s in enumerate(SHAPES)]


def gradients(steps, dtype=np.float32, seed=1):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=s).astype(dtype) * 10.0 ** rng.integers(-6, 2) for s in SHAPES] for _ in range(steps)]


def run(opt, params, grads):
    for part in grads:
        for p, g in zip(params, part, strict=True):
            p.grad = None if g is None else np.asarray(g, p.dtype)
        opt.step()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_torch(kind, dtype):
    cls, name, options = KINDS[kind]
    params, grads = parameters(dtype), gradients(40, dtype)
    grads[3][1] = grads[20][1] = None  # a parameter without a gradient stays, and its own clock too
    twins = [torch.nn.Parameter(torch.tensor(p.data)) for p in params]
    theirs = getattr(torch.optim, name)(twins, **options)
    for part in grads:
        for twin, g in zip(twins, part, strict=True):
            twin.grad = None if g is None else torch.tensor(np.asarray(g, dtype))
        theirs.step()
    run(cls(params, **options), params, grads)
    for p, twin in zip(params, twins, strict=True):
        expected = twin.detach().numpy()
        assert p.dtype == expected.dtype
        np.testing.assert_allclose(
            p.data, expected, rtol=0, atol=40 * np.finfo(dtype).eps * max(1, np.abs(expected).max())
        )


def test_adam_first_step_by_hand():
    """At t = 1, m^ = g and v^ = g^2: the step is lr g / (|g| + eps)."""
    p = Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    p.grad = np.array([0.5, -2.0, 0.0])
    optim.Adam([p], lr=0.1).step()
    np.testing.assert_allclose(p.data, [0.9, 2.1, 3.0], atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_state_resumes_to_the_same_bits(kind):
    cls, _, options = KINDS[kind]
    whole, grads = parameters(), gradients(20)
    run(cls(whole, **options), whole, grads)
    cut = parameters()
    opt = cls(cut, **options)
    run(opt, cut, grads[:9])
    again = [Tensor(p.data.copy(), requires_grad=True, name=p.name) for p in cut]
    other = optim.build({"kind": cls.__name__, **options, "lr": 7.0}, again)
    other.load_state_dict(opt.state_dict())
    run(opt, cut, grads[9:12])  # the state is a copy: going on here changes nothing there
    run(other, again, grads[9:])
    assert other.describe() == opt.describe()
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a.data, b.data)


def test_state_of_another_optimiser_is_refused():
    opt = optim.Adam(parameters())
    with pytest.raises(ParameterError, match="momentum_buffer/p0"):
        opt.load_state_dict(optim.SGD(parameters(), 0.1, momentum=0.9).state_dict())
    wrong = opt.state_dict() | {"m/p0": np.zeros((5, 7))}
    with pytest.raises(ShapeError, match=r"Adam.load_state_dict: 1 shapes differ: m/p0 has \(5, 7\)"):
        opt.load_state_dict(wrong)


def test_writes_in_place_and_lr_is_settable():
    params = parameters()
    held = params[0].data
    opt = optim.SGD({"a": params[0]}, lr=1.0)
    params[0].grad = np.ones_like(held)
    opt.lr = 0.25
    before = held.copy()
    opt.step()
    np.testing.assert_array_equal(held, before - np.float32(0.25))
    opt.zero_grad()
    assert params[0].grad is None and "lr=0.25" in repr(opt)


def test_bad_use():
    params = parameters()
    with pytest.raises(ParameterError, match="no parameters"):
        optim.Adam([])
    with pytest.raises(ParameterError, match="given twice"):
        optim.Adam([params[0], params[0]])
    with pytest.raises(ParameterError, match="requires_grad=False"):
        optim.Adam([Tensor(np.zeros(2), name="x")])
    with pytest.raises(ParameterError, match="lr = -1"):
        optim.Adam(params, lr=-1)
    for layer in (nn.Dense(3, 2, LI()), nn.Sequential(nn.Dense(3, 2, LI()))):
        for wrong in (layer, [layer], {"net": layer}):
            with pytest.raises(ParameterError, match=r"Adam: params holds (Dense|Sequential).*; pass net.par"):
                optim.Adam(wrong)
    with pytest.raises(ParameterError, match="params holds ndarray"):
        optim.SGD([np.zeros(3)], 0.1)
    for options, text in [
        ({"lr": "1e-3"}, "Adam: lr = '1e-3'"),
        ({"lr": None}, "lr = None"),
        ({"betas": 0.9}, "betas"),
        ({"betas": ("a", "b")}, "betas"),
        ({"eps": "small"}, "eps = 'small'"),
    ]:
        with pytest.raises(ParameterError, match=text):
            optim.Adam(params, **options)
    with pytest.raises(ParameterError, match="momentum = 'much'"):
        optim.SGD(params, 0.1, "much")
    opt = optim.Adam(params)
    opt.lr = "1e-3"
    with pytest.raises(ParameterError, match="lr = '1e-3'"):
        opt.step()
    with pytest.raises(ParameterError, match="betas"):
        optim.Adam(params, betas=(0.9, 1.0))
    with pytest.raises(ParameterError, match="nesterov"):
        optim.SGD(params, 0.1, nesterov=True)
    with pytest.raises(ParameterError, match="SGD: nesterov = 'no': expected True or False"):
        optim.SGD(params, 0.1, 0.9, nesterov="no")
    with pytest.raises(ParameterError, match="weight_decay = -1"):
        optim.AdamW(params, weight_decay=-1)
    with pytest.raises(ParameterError, match=r"Adam: weight_decay = 0.01: .* use AdamW"):
        optim.Adam(params, weight_decay=0.01)
    for cls in (optim.Adam, optim.AdamW, optim.SGD):
        for unknown in ("learning_rate", "amsgrad", "dampening"):
            with pytest.raises(TypeError, match=unknown):
                cls(params, lr=0.1, **{unknown: 0.1})
    with pytest.raises(ParameterError, match="'RMSprop'"):
        optim.build({"kind": "RMSprop"}, params)
    opt = optim.Adam(params)
    with pytest.raises(GradientError, match="backward"):
        opt.step()
    params[0].grad = np.zeros(3, np.float32)
    with pytest.raises(ShapeError, match="p0"):
        opt.step()


def test_clip_grad_norm():
    params = parameters()
    shared = np.full(SHAPES[0], 3.0, np.float32)
    params[0].grad, params[1].grad = shared, np.full(33, 4.0, np.float32)
    norm = math.sqrt(35 * 9 + 33 * 16)
    assert optim.clip_grad_norm(params, 100.0) == pytest.approx(norm)
    assert params[0].grad is shared and shared.max() == 3
    assert optim.clip_grad_norm(params, 1.0) == pytest.approx(norm)
    clipped = math.sqrt(sum(float((p.grad**2).sum()) for p in params[:2]))
    assert clipped == pytest.approx(1.0, rel=1e-5) and shared.max() == 3
    params[1].grad[7] = np.nan
    with pytest.raises(TrainingError, match="'p1'"):
        optim.clip_grad_norm(params, 1.0)
    with pytest.raises(ParameterError, match="max_norm = '1'"):
        optim.clip_grad_norm(params, "1")
    with pytest.raises(ParameterError, match="max_norm = 0"):
        optim.clip_grad_norm(params, 0)


def test_clip_grad_value():
    params = parameters()
    params[1].grad = np.linspace(-3, 3, 33).astype(np.float32)
    optim.clip_grad_value(params, 0.5)
    np.testing.assert_allclose(params[1].grad, np.clip(np.linspace(-3, 3, 33), -0.5, 0.5), atol=1e-6)


def test_schedules():
    assert [optim.constant_lr(0.1)(k) for k in (0, 9)] == [0.1, 0.1]
    assert [optim.step_lr(1.0, every=2, factor=0.5)(k) for k in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    rate = optim.cosine_lr(1.0, epochs=12, warmup=2, final=0.1)
    np.testing.assert_allclose([rate(k) for k in (0, 1, 2, 7, 12, 99)], [1 / 3, 2 / 3, 1.0, 0.55, 0.1, 0.1])
    with pytest.raises(ParameterError, match="warmup = 5"):
        optim.cosine_lr(1.0, epochs=5, warmup=5)
    for schedule in (optim.constant_lr, partial(optim.step_lr, every=2), partial(optim.cosine_lr, epochs=5)):
        with pytest.raises(ParameterError, match="_lr: lr = 'low'"):
            schedule("low")
    with pytest.raises(ParameterError, match="every = 0"):
        optim.step_lr(1.0, every=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_a_copy_and_fits_exactly(kind):
    cls, _, options = KINDS[kind]
    params, grads = parameters(), gradients(4)
    opt = cls(params, **options)
    run(opt, params, grads[:2])
    state = opt.state_dict()
    before = {key: np.array(value) for key, value in state.items()}
    run(opt, params, grads[2:])
    for key, value in before.items():
        np.testing.assert_array_equal(state[key], value)
    with pytest.raises(ParameterError, match=r"unknown 1 \(more\)"):
        opt.load_state_dict(state | {"more": 1})


def test_a_parameter_that_is_not_contiguous_moves():
    p = Tensor(np.arange(12, dtype=np.float32).reshape(3, 4).T, requires_grad=True, name="w")
    before, p.grad = p.data.copy(), np.ones((4, 3), np.float32)
    optim.SGD([p], lr=0.5).step()
    np.testing.assert_array_equal(p.data, before - 0.5)


@pytest.mark.parametrize(("start", "later"), [(0.0, 0.9), (0.9, 0.0), (0.9, 2.0), (0.9, "0.9")])
def test_momentum_that_cannot_be_set_later(start, later):
    p = Tensor(np.ones(3, np.float32), requires_grad=True, name="w")
    opt, p.grad = optim.SGD([p], 0.1, momentum=start), np.ones(3, np.float32)
    opt.momentum = later
    with pytest.raises(ParameterError, match=f"SGD: momentum = {later!r}"):
        opt.step()
    assert (p.data == 1).all()


def test_buffers_of_another_shape_are_refused():
    p = Tensor(np.ones(2, np.float32), requires_grad=True)
    opt = optim.Adam([p])
    p.grad = np.ones(2, np.float32)
    opt.step()
    p.data, p.grad = np.ones(4, np.float32), np.ones(4, np.float32)
    with pytest.raises(ShapeError, match=r"has shape \(4,\), Adam's m of it \(2,\): make a new optimiser"):
        opt.step()


def test_weights_that_cannot_be_written_are_copied():
    p = Tensor(np.ones(3, np.float32), requires_grad=True)
    p.data.flags.writeable = False
    given, p.grad = p.data, np.ones(3, np.float32)
    optim.SGD([p], lr=0.5).step()
    np.testing.assert_array_equal(p.data, 0.5)
    np.testing.assert_array_equal(given, 1)
