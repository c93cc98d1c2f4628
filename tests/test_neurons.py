"""Every registered model: its adjoints against complex steps (exact to rounding), its checks, its description."""

import numpy as np
import pytest

from nsim import ParameterError, ShapeError, neurons
from nsim.neurons import MODELS
from nsim.surrogates import ATan, Boxcar, FastSigmoid, Sigmoid, Triangular

H = 1e-30
SPIKING = [name for name, model in MODELS.items() if model.spiking]


def variants(name):
    if not MODELS[name].spiking:
        return [{}]
    return [{"reset": r, "detach_reset": d} for r in ("subtract", "zero") for d in (True, False)]


CASES = [pytest.param(name, options, id=f"{name}-{options}") for name in MODELS for options in variants(name)]


def pulled_back(function, arguments, cotangent):
    """sum over outputs of cotangent * d(output)/d(argument), one complex step for each scalar of `arguments`."""
    result = []
    for k in range(len(arguments)):
        moved = [a + 1j * H * (j == k) for j, a in enumerate(arguments)]
        result.append(sum(c * o.imag / H for c, o in zip(cotangent, function(*moved), strict=True)))
    return result


@pytest.mark.parametrize("name, options", CASES)
@pytest.mark.parametrize("seed", range(5))
def test_adjoints_agree_with_complex_steps(name, options, seed):
    model = MODELS[name](**options)
    equations = model.equations(np.complex128(1))
    rng = np.random.default_rng(seed)
    n, m = len(model.states), len(model.parameters)
    state, p, d = rng.normal(size=n), rng.uniform(0.2, 0.9, m), rng.normal(size=n)
    s, x, du = float(seed % 2), rng.normal(), rng.normal()

    def step(*a):
        return equations.step(a[:n], a[n], a[n + 1], a[n + 2 :])

    wanted = pulled_back(step, [*state, s, x, *p], d)
    dstate, ds, dx, dp = equations.step_adjoint(tuple(d), tuple(state), s, x, tuple(p))
    got = [*dstate, ds, dx, *dp]
    if options.get("detach_reset"):
        got[n] = wanted[n]  # which part of ds is the reset's is for the oracle to say, see test_sweeps
    np.testing.assert_allclose(np.array(got).real, wanted, rtol=1e-14, atol=1e-14)

    wanted = pulled_back(lambda *a: [equations.potential(a[:n], a[n:])], [*state, *p], [du])
    dstate, dp = equations.potential_adjoint(du, tuple(state), tuple(p))
    np.testing.assert_allclose(np.array([*dstate, *dp]).real, wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", MODELS)
def test_time_constants_pull_back_to_their_logarithm(name):
    for parameter in MODELS[name].parameters:
        raw, dt, h = np.array(parameter.to_raw(np.array(0.7))), 0.05, 1e-6
        slope = (parameter.discretise(raw + h, dt) - parameter.discretise(raw - h, dt)) / (2 * h)
        np.testing.assert_allclose(parameter.pullback(raw, dt, 1.0), slope, rtol=1e-8)
        np.testing.assert_allclose(parameter.from_raw(raw), 0.7, rtol=1e-12)


@pytest.mark.parametrize("name, options", CASES)
def test_description_makes_the_same_neuron(name, options):
    model = MODELS[name](**options)
    assert neurons.build(model.describe()).describe() == model.describe()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("value", [0.0, -1e-3, np.nan, np.inf])
def test_impossible_time_constants_are_refused(name, value):
    for parameter in MODELS[name].parameters:
        if parameter.positive:
            with pytest.raises(ParameterError, match=rf"{parameter.name} = .*positive and finite, in seconds"):
                MODELS[name](**{parameter.name: value})


@pytest.mark.parametrize("name", SPIKING)
def test_other_impossible_options_are_refused(name):
    for options, message in [
        ({"reset": "soft"}, "reset = 'soft'"),
        ({"band": 0}, "band = 0"),
        ({"band": "wide"}, "band = 'wide'"),
        ({"surrogate": 3}, "surrogate = 3"),
        ({"learn": "tau"}, r"learn = \('tau',\)"),
        ({"threshold": np.nan}, "threshold = nan"),
        ({"threshold": "1"}, "threshold = '1': expected a number, or one for each neuron"),
        ({"threshold": [[1.0], [1.0, 2.0]]}, r"threshold = .*expected a number"),
        ({"v_init": None}, "v_init = None: expected a number"),
    ]:
        with pytest.raises(ParameterError, match=message):
            MODELS[name](**options)
    with pytest.raises(ShapeError, match="threshold has shape"):
        MODELS[name](threshold=np.ones((2, 2)))


@pytest.mark.parametrize("name", MODELS)
def test_time_constants_that_are_no_numbers_are_refused(name):
    for parameter in MODELS[name].parameters:
        for value in ("10ms", None, [1e-2, "20ms"]):
            if parameter.positive:
                with pytest.raises(ParameterError, match=rf"{parameter.name} = .*expected a number.*, in seconds"):
                    MODELS[name](**{parameter.name: value})


@pytest.mark.parametrize("value", ["steep", None, 0, np.nan])
def test_impossible_options_of_surrogates_are_refused(value):
    for surrogate in (FastSigmoid, ATan, Triangular, Boxcar, Sigmoid):
        with pytest.raises(ParameterError, match=rf"= {value!r}: must be positive and finite"):
            surrogate(value)


def test_registry_refuses_a_second_model_of_the_same_name():
    class LIF(neurons.SpikingNeuron):
        pass

    with pytest.raises(ParameterError, match="LIF is registered already"):
        neurons.register(LIF)
    with pytest.raises(ParameterError, match="unknown neuron model 'Nobody'"):
        neurons.build({"model": "Nobody"})
