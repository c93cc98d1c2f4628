"""Surrogates of one's own, and what is refused before a sweep begins."""

import numba
import numpy as np
import pytest

import nsim
from nsim import LI, LIF, FastSigmoid, ParameterError, nn, surrogates
from tests import cases


def test_a_surrogate_whose_option_is_changed_is_the_changed_one():
    grads = []
    for slope in (100.0, 5.0, None):
        layer = nn.Dense(9, 5, LIF(surrogate=FastSigmoid(slope or 100.0), band=None), seed=0)
        net = nn.Sequential(layer, nn.Dense(5, 2, LI(reduce="sum"), seed=1))
        if slope is None:
            net(cases.spikes(2, 6, 9)).sum().backward()
            layer.neuron.surrogate.slope, layer.weight.grad = 5.0, None
        net(cases.spikes(2, 6, 9)).sum().backward()
        grads.append(layer.weight.grad)
    assert np.abs(grads[0] - grads[1]).max() > 0
    np.testing.assert_array_equal(grads[1], grads[2])
    layer.neuron.surrogate.slope = [5.0]
    with pytest.raises(ParameterError, match=r"slope=\[5.0\]\): .*numbers or tuples"):
        net(cases.spikes(2, 6, 9)).sum().backward()


def unbound(u):
    return u * undefined_factor  # noqa: F821


def triangle(u):
    if abs(u) < 1:
        return 1 - abs(u)


def nothing(u):
    u + 1


@pytest.mark.parametrize(
    "g, text",
    [
        (unbound, r"Custom\(unbound\): Numba cannot compile g\(u\): .*undefined_factor"),
        (lambda u: "steep", r"Custom\(<lambda>\): g\(u\) gives no number but .*steep"),
        (triangle, r"Custom\(triangle\): g\(u\) gives no number where it ends without a return"),
        (nothing, r"Custom\(nothing\): g\(u\) gives no number where it ends"),
        (lambda u: (u, u), r"g\(u\) gives no number but .*Tuple"),
        (lambda u: np.linalg.nothing(u), "cannot compile g.*nothing"),
        (lambda u, v: u, "cannot compile g.*"),
    ],
)
def test_a_surrogate_that_cannot_be_compiled_is_refused_before_the_sweep(g, text, monkeypatch):
    monkeypatch.setattr(nsim.sweeps, "forward", lambda *a, **k: pytest.fail("it began to compute"))
    with pytest.raises(ParameterError, match=text):
        nn.Dense(9, 5, LIF(surrogate=surrogates.Custom(g)))(cases.spikes())


class Plain(surrogates.Surrogate):
    """A surrogate of one's own; nothing in it is Numba's."""

    def __init__(self, g):
        self.g = g

    def function(self, one):
        return self.g


@pytest.mark.parametrize("wrapped", [surrogates.Custom, Plain])
@pytest.mark.parametrize("jit", [lambda g: g, numba.njit])
def test_a_plain_function_serves_as_a_surrogate(wrapped, jit):
    grads = []
    for surrogate in (surrogates.Boxcar(0.5), wrapped(jit(lambda u: abs(u) < 0.5))):
        net = cases.network(sizes=(9, 33, 5), neuron={"surrogate": surrogate, "band": None})
        net(cases.spikes()).sum().backward()
        grads.append(net[0].weight.grad)
    assert np.abs(grads[0]).max() > 0
    np.testing.assert_array_equal(*grads)


def test_a_surrogate_without_a_function_is_refused():
    with pytest.raises(ParameterError, match=r"Plain\(g=3\): function\(one\) gives 3, expected a function of u"):
        cases.network(neuron={"surrogate": Plain(3)})(cases.spikes())
