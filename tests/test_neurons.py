"""Every registered model: its adjoints against complex steps (exact to rounding), its checks, its description."""

import copy
import math
import pickle

import numba
import numpy as np
import pytest

from nsim import LIF, ParameterError, ShapeError, backend, neurons, nn
from nsim.neurons import MODELS, Equations
from nsim.surrogates import ATan, Boxcar, FastSigmoid, Sigmoid, Triangular
from tests import cases

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
        ({"detach_reset": "no"}, f"{name}: detach_reset = 'no': expected True or False"),
        ({"learn": "tau"}, r"learn = \('tau',\)"),
        ({"learn": True}, r"learn = \(True,\): .* has .*threshold"),
        ({"learn": None}, r"learn = \(None,\): "),
        ({"learn": [["threshold"]]}, r"learn = \(\['threshold'\],\): "),
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
        with pytest.raises(ParameterError, match=rf"= {value!r}: expected a finite number above 0"):
            surrogate(value)


def test_registry_refuses_a_second_model_of_the_same_name():
    class LIF(neurons.SpikingNeuron):
        pass

    with pytest.raises(ParameterError, match="LIF is registered already"):
        neurons.register(LIF)
    with pytest.raises(ParameterError, match="unknown neuron model 'Nobody'"):
        neurons.build({"model": "Nobody"})


@pytest.mark.parametrize("name", MODELS)
def test_a_neuron_keeps_the_values_that_it_was_made_with(name):
    layer = nn.Dense(3, 2, MODELS[name]())
    neuron, parameter = layer.neuron, MODELS[name].parameters[0].name
    for attribute in (parameter, "values"):
        with pytest.raises(ParameterError, match=rf"{name}: {attribute} = 3.0: .*layer.set_value"):
            setattr(neuron, attribute, 3.0)
    for attribute in sorted(neuron.apart - {"_values"}):  # the layer has read some of them, and would not see a change
        with pytest.raises(ParameterError, match=rf"{name}: {attribute} = 3.0: .*make another"):
            setattr(neuron, attribute, 3.0)
    with pytest.raises(TypeError, match="does not support item assignment"):
        neuron.values[parameter] = 3.0
    layer.set_value(parameter, 0.5)
    assert layer.value(parameter) == layer.neuron.values[parameter] == 0.5 != neuron.values[parameter]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.describe() == layer.describe()
        twin.set_value(parameter, 0.25)
        assert layer.value(parameter) == 0.5


@numba.njit
def product(a, b):
    return a * b


class Driven(LIF):
    """LIF with a gain on its drive, which is no parameter."""

    def __init__(self, tau_mem=10e-3, *, gain=1.0, **options):
        super().__init__(tau_mem, **options)
        self.gain = gain

    def equations(self, one):
        step, *others = super().equations(one)
        gain = one * self.gain

        def driven(state, s, x, p):
            return step(state, s, product(gain, x), p)

        return Equations.of(driven, *others)


def test_attributes_that_equations_use_tell_kernels_apart():
    given = cases.spikes(density=0.5)
    made = [nn.Dense(9, 33, neuron, seed=0).run(given).output for neuron in (LIF(), Driven(gain=1.0), Driven(gain=9.0))]
    assert cases.same_events(made[0], made[1]) and made[2].n_events > made[1].n_events
    assert product(np.float32(3), np.float32(2)) == 6  # Python can still call what a kernel was compiled with


@pytest.mark.parametrize("name", MODELS)
def test_layers_of_one_model_share_their_kernels(name):
    first, second = MODELS[name](), MODELS[name](**{MODELS[name].parameters[0].name: 0.5}, v_init=0.1)
    for direction in ("forward", "backward"):
        kernels = [backend.compiled(nn.Dense(2, 3, neuron), direction) for neuron in (first, second)]
        assert kernels[0] is kernels[1]


@pytest.mark.parametrize("name", SPIKING)
def test_kernels_of_a_model_are_not_compiled_for_each_surrogate(name):
    """Nor for bands, sizes, delays and recurrence: one kernel of each direction, compiled once for all of them."""
    seen = []
    for k, surrogate in enumerate((FastSigmoid(), FastSigmoid(50), ATan(), Boxcar())):
        neuron = MODELS[name](surrogate=surrogate, band=0.1 * k or None)
        layer = nn.Dense(9, 3 + k, neuron, recurrent=bool(k % 2), delay=k, bias=k > 1)
        layer(cases.spikes()).counts().sum().backward()
        kernels = [backend.compiled(layer, direction) for direction in ("forward", "backward")]
        seen.append([(kernel, len(kernel.signatures)) for kernel in kernels])
    assert all(each == seen[0] for each in seen)


@pytest.mark.parametrize(
    "one, other",
    [(1, 1.0), (1, True), ("a", "b"), (np.zeros(2), np.zeros(3)), (np.zeros(2), np.ones(2)), ([1, 2], [1, 3]),
     ((1, 2), [1, 2]), ({"a": 1}, {"a": 2})],
)  # fmt: skip
def test_variants_of_attributes(one, other):
    assert Driven(gain=one).variant == Driven(gain=copy.copy(one)).variant != Driven(gain=other).variant
    assert hash(Driven(gain=one).variant) and Driven(gain=one).forward_variant != Driven(gain=other).forward_variant


def test_a_description_holds_all_attributes(monkeypatch):
    monkeypatch.setitem(MODELS, "Driven", Driven)
    for gain in (3.0, np.float32(3), np.full(2, 3.0), [3.0]):
        description = Driven(gain=gain).describe()
        assert np.all(neurons.build(description).gain == np.asarray(3.0))
    neuron = Driven()
    neuron.shift = 2.0
    with pytest.raises(ParameterError, match=r"Driven: a file would not hold its attribute 'shift'; .*name it _shift"):
        neuron.describe()
    with pytest.raises(ParameterError, match=r"attribute gain = <function.*not JSON"):
        Driven(gain=lambda x: x).describe()
    with pytest.raises(ParameterError, match=r"Driven: attribute gain = \{1\}: expected numbers.*`apart`"):
        _ = Driven(gain={1}).variant


def broken(**changed):
    """LIF with some of its equations changed."""

    class Mine(LIF):
        def equations(self, one):
            return Equations.of(*super().equations(one)._replace(**changed))

    return Mine()


@pytest.mark.parametrize(
    "name, function, message",
    [
        ("step", lambda state, s, x, p: state[0], r"state, s, x, p\) gives state = .*a tuple of 1 \(v\)"),
        ("step", lambda state, s, x, p: None, "gives state = None, expected a tuple of 1"),
        ("step", lambda state, s, x, p: (state[0], x), "a tuple of 1"),
        ("step", lambda state, s, x, p: (x > 0,), r"gives v = .*, expected a number"),
        ("step", lambda state, s, x: state, r"TypeError: .*3 positional.*state has 1 \(v\) and p has 2 \(tau_mem, thr"),
        ("step", lambda state, s, x, p: (state[1],), "IndexError: .*p has 2"),
        ("step", lambda state, s, x, p: (undefined,), "NameError: name 'undefined'"),  # noqa: F821
        (
            "step_adjoint",
            lambda d, state, s, x, p: (d, s, x),
            r"gives dstate, ds, dx, dp = .* 4 \(dstate, ds, dx, dp\)",
        ),
        ("step_adjoint", lambda d, state, s, x, p: (d, s, x, (s,)), r"gives dp = .* 2 \(tau_mem, threshold\)"),
        ("potential", lambda state, p: state, r"gives u = \(.*expected a number"),
        ("potential_adjoint", lambda du, state, p: (du, p), r"gives dstate = .* 1 \(v\)"),
        ("potential_adjoint", lambda du, state, p: du, r"gives dstate, dp = .* 2 \(dstate, dp\)"),
    ],
)
def test_equations_of_ones_own_are_checked_before_they_are_compiled(name, function, message):
    neuron = broken(**{name: function})
    with pytest.raises(ParameterError, match=rf"Mine\.{name}\(.*{message}"):
        nn.Dense(9, 5, neuron)(cases.spikes()).counts().sum().backward()


def test_equations_that_unpack_too_much_are_refused():
    def step(state, s, x, p):
        v, w = state
        return (v + w,)

    with pytest.raises(ParameterError, match=r"Mine\.step\(.*ValueError: not enough values to unpack"):
        nn.Dense(9, 5, broken(step=step)).run(cases.spikes())


def test_equations_that_are_no_four_functions_are_refused():
    class Mine(LIF):
        def equations(self, one):
            return super().equations(one)[:3]

    with pytest.raises(ParameterError, match=r"Mine\.equations\(one\) gives .*expected Equations.of\(step, step_adj"):
        nn.Dense(9, 5, Mine()).run(cases.spikes())


def test_equations_are_not_refused_for_numbers_that_plain_python_does_not_take():
    neuron = broken(potential=lambda state, p: math.sqrt(state[0] - p[1] - 9))
    assert neuron.checked_equations(np.float32(1)).potential
