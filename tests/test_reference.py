"""The oracle against itself: with a smooth spike its gradient is the derivative of its own forward pass."""

import numpy as np
import pytest

from tests import reference as ref

PARAMS = {
    "tau_mem": np.array([8e-3, 15e-3, 25e-3]),
    "tau_syn": 6e-3,
    "tau_adapt": np.array([30e-3, 40e-3, 90e-3]),
    "a": 0.7,
    "b": 0.4,
    "adaptation": 0.4,
    "threshold": np.array([0.8, 1.0, 1.2]),
}


def smooth(u):
    return 1 / (1 + np.exp(-4.0 * u))


def network(model, reset, rng):
    params = {name: PARAMS[name] for name in ref.MODELS[model][2]}
    hidden = ref.Layer(
        model,
        rng.normal(0.3, 0.5, (4, 3)),
        params,
        1e-3,
        weight_rec=rng.normal(0, 0.3, (3, 3)),
        bias=rng.normal(0.05, 0.05, 3),
        delay=1,
        reset=reset,
        surrogate=lambda u: ref.sigmoid(u, 4.0),
        band=None,
        detach_reset=False,
        v_init=0.2,
        spike=smooth,
    )
    return [hidden, ref.Layer("LI", rng.normal(0, 1, (3, 2)), {"tau_mem": 20e-3}, 1e-3, reduce="mean")]


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("model", ref.SPIKING)
def test_gradient_is_the_derivative_of_the_forward_pass(model, reset):
    rng = np.random.default_rng(3)
    layers = network(model, reset, rng)
    inputs, labels, lengths = rng.poisson(0.4, (2, 7, 4)).astype(float), np.array([0, 1]), [7, 5]

    def loss():
        fresh = [ref.Layer(**{k: v for k, v in vars(layer).items() if k != "p"}) for layer in layers]
        return ref.cross_entropy(ref.net_forward(fresh, inputs, lengths)[-1].out, labels)[0]

    found = ref.net_gradients(layers, inputs, lambda out: ref.cross_entropy(out, labels)[1], lengths)
    for layer, grads in zip(layers, found.layers, strict=True):
        for name, grad in grads.items():
            holder = vars(layer) if name in ("weight", "weight_rec", "bias") else layer.params
            numeric = finite_difference(loss, holder, name, log=name.startswith("tau"))
            np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=1e-9, err_msg=f"{layer.model} {name}")


def finite_difference(loss, holder, name, log, h=1e-5):
    """Central differences of loss() with respect to each entry of holder[name], or to its logarithm."""
    value = np.array(holder[name], np.float64)
    grad = np.zeros_like(value)
    for index in np.ndindex(value.shape):
        ends = []
        for sign in (1, -1):
            moved = value.copy()
            moved[index] = moved[index] * np.exp(sign * h) if log else moved[index] + sign * h
            holder[name] = moved if moved.ndim else float(moved)
            ends.append(loss())
        grad[index] = (ends[0] - ends[1]) / (2 * h)
    holder[name] = value if value.ndim else float(value)
    return grad


@pytest.mark.parametrize("name", ref.SURROGATES)
def test_surrogate_is_even_and_greatest_at_the_threshold(name):
    u = np.linspace(-1, 1, 2001)
    g = ref.SURROGATES[name](u)
    np.testing.assert_allclose(g, g[::-1], atol=1e-12)
    assert g.max() == g[1000] > 0


def test_closed_form_of_one_lif_neuron():
    """A constant drive of 0.4 without leak: 0.4 0.8 1.2 (spike, minus 1) 0.6 1.0 (not above) 1.4 (spike)."""
    layer = ref.Layer("IF", np.array([[0.4]]), {"threshold": 1.0}, 1e-3)
    record = ref.layer_forward(layer, np.ones((1, 6, 1)))
    np.testing.assert_allclose(record.v.ravel(), [0.4, 0.8, 1.2, 0.6, 1.0, 1.4])
    np.testing.assert_array_equal(np.flatnonzero(record.s), [2, 5])
