"""What a neuron model is made of: parameters with their discretisation, and the scalar equations of one step.

A model is one file with one class. The class lists its `states` and `parameters`, and its method `equations(one)`
returns four scalar functions, built for the number type of `one` (float32, float64, or complex in the tests):

    step(state, s, x, p) -> state                   one step: previous state, own spike of the previous step, drive
    step_adjoint(d, state, s, x, p) -> (dstate, ds, dx, dp)    its vector-Jacobian product; d = dL/d(new state)
    potential(state, p) -> u                        distance to the threshold (spike where u > 0), or the readout
    potential_adjoint(du, state, p) -> (dstate, dp) its vector-Jacobian product

`state`, `p` and their gradients are tuples, in the order of `states` and `parameters`. The CPU and CUDA sweeps, the
gradient checks and the tests take all they need from here. The functions must use `one` and not `1.0`, which would
turn float32 arithmetic into float64.
"""

from __future__ import annotations

import copy
import inspect
import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from nsim.checks import flag, number, one_of, real_array
from nsim.errors import ParameterError, ShapeError
from nsim.neurons.contract import check_equations
from nsim.surrogates import FastSigmoid, Surrogate


class Equations(NamedTuple):
    """The four scalar functions of a model, usable in plain Python and in any Numba kernel."""

    step: callable
    step_adjoint: callable
    potential: callable
    potential_adjoint: callable

    @classmethod
    def of(cls, *functions):
        return cls(*(register_jitable(f) for f in functions))


@dataclass(frozen=True)
class Parameter:
    """A parameter that enters the equations as it is (a threshold, a coupling). Trained in its own unit."""

    name: str
    unit: str = ""
    positive: bool = False

    @property
    def raw_name(self):
        return self.name

    def check(self, value):
        """A copy of the value as float64 of shape () or [N], or a ParameterError that names it."""
        given, value = value, real_array(value)
        if value is None:
            unit = f", in {self.unit}" if self.unit else ""
            raise ParameterError(f"{self.name} = {given!r}: expected a number, or one for each neuron{unit}")
        wrong = ~np.isfinite(value) | ((value <= 0) if self.positive else False)
        if wrong.any():
            kind = "positive and finite" if self.positive else "finite"
            unit = f", in {self.unit}" if self.unit else ""
            raise ParameterError(f"{self.name} = {value[wrong].flat[0]}: must be {kind}{unit}")
        if value.ndim > 1:
            raise ShapeError(f"{self.name} has shape {value.shape}: expected a number or one value for each neuron [N]")
        return value

    def to_raw(self, value):
        """From the user's unit to what is trained."""
        return value

    def from_raw(self, raw):
        return raw

    def discretise(self, raw, dt):
        """What the equations use, from what is trained."""
        return raw

    def pullback(self, raw, dt, grad):
        """dL/draw from the gradient of the discretised value."""
        return grad


@dataclass(frozen=True)
class TimeConstant(Parameter):
    """A time constant tau > 0 in seconds; the equations use exp(-dt / tau). Trained as log tau: it cannot cross 0."""

    unit: str = "seconds"
    positive: bool = True

    @property
    def raw_name(self):
        return f"log_{self.name}"

    def to_raw(self, value):
        return np.log(value)

    def from_raw(self, raw):
        return np.exp(raw)

    def discretise(self, raw, dt):
        return np.exp(-dt / np.exp(raw))

    def pullback(self, raw, dt, grad):
        return grad * self.discretise(raw, dt) * dt / np.exp(raw)


class Neuron:
    """Base of all models: holds and checks what the user wrote; owns no arrays of the layer.

    A model sets `states`, `parameters` and `equations`, and passes the values of its parameters by name.
    `nonlinear` tells that the adjoint needs the state of the previous step, which the backward pass then recomputes.
    `apart` names the attributes that `equations` does not use, which are set once; all others belong to `variant`.
    """

    states: tuple[str, ...] = ("v",)
    parameters: tuple[Parameter, ...] = ()
    spiking = True
    nonlinear = False
    apart = frozenset({"_values", "v_init", "learn"})

    def __init__(self, values: dict, *, v_init=0.0, learn=()):
        self._values = {p.name: p.check(values[p.name]) for p in self.parameters}
        self.v_init = Parameter("v_init").check(v_init)
        self.learn = (learn,) if isinstance(learn, str) or not hasattr(learn, "__iter__") else tuple(learn)
        if any(name not in tuple(self._values) for name in self.learn):
            raise ParameterError(f"learn = {self.learn}: {type(self).__name__} has {', '.join(self._values)}")

    @property
    def values(self) -> MappingProxyType:
        """The parameters by name, each in its own unit; to be read only."""
        return MappingProxyType(self._values)

    def __setattr__(self, name, value):
        is_value = name in vars(self).get("_values", ()) or name == "values"
        if is_value or (name in self.apart and name in vars(self)):
            way_out = "in a layer, layer.set_value(name, value) changes one" if is_value else "make another"
            raise ParameterError(
                f"{type(self).__name__}: {name} = {value!r}: a neuron keeps the values that it was made with; {way_out}"
            )
        super().__setattr__(name, value)

    def with_value(self, name: str, value) -> Neuron:
        """A copy with another value, checked already, of one parameter."""
        other = copy.copy(self)
        vars(other)["_values"] = self._values | {name: value}
        return other

    @property
    def needs_history(self) -> bool:
        """Whether the backward pass has to recompute the states."""
        return self.nonlinear or bool(self.learn)

    @property
    def variant(self) -> tuple:
        """What changes the equations: neurons of one class and variant share their kernels."""
        return tuple((name, _frozen(self, name, value)) for name, value in self.own.items())

    @property
    def own(self) -> dict:
        """The attributes that only this model has, which its equations may use."""
        return {name: value for name, value in vars(self).items() if name not in self.apart}

    @property
    def forward_variant(self) -> tuple:
        """The part of `variant` that changes step and potential."""
        return self.variant

    def equations(self, one) -> Equations:
        raise TypeError(f"{type(self).__name__} must define equations(self, one)")

    def checked_equations(self, one) -> Equations:
        """The same, after a look at what each function gives: Numba's errors would not name the model."""
        equations = self.equations(one)
        check_equations(self, equations, one)
        return equations

    def describe(self) -> dict:
        """JSON-able description from which `nsim.neurons.build` makes the same neuron.

        An attribute that `options` leaves out is written where the constructor takes an argument of its name, and
        refused elsewhere: the file would make another neuron. Those with an underscore are the constructor's affair.
        """
        plain = {name: value.tolist() for name, value in self.values.items()}
        options = self.options()
        taken = inspect.signature(type(self)).parameters
        for name, value in self.own.items():
            if name in options or (name.startswith("_") and name not in taken):
                continue
            if name not in taken:
                raise ParameterError(
                    f"{type(self).__name__}: a file would not hold its attribute {name!r}; let __init__ take an "
                    f"argument of that name, or name it _{name} if __init__ makes it from the others"
                )
            plain[name] = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
            try:
                json.dumps(plain[name])
            except TypeError as error:
                raise ParameterError(f"{type(self).__name__}: attribute {name} = {value!r}: {error}") from error
        return {"model": type(self).__name__, **plain, **options}

    def options(self) -> dict:
        """Everything but the values of its parameters that makes this neuron what it is."""
        return {"v_init": self.v_init.tolist(), "learn": list(self.learn)}

    def __repr__(self):
        plain = {name: value.tolist() for name, value in self.values.items()}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in (plain | self.options()).items())})"


class SpikingNeuron(Neuron):
    """A model that fires where u > 0.

    Parameters
    ----------
    reset : "subtract" or "zero"
        At a spike the threshold is subtracted from v, or v is set to zero.
    surrogate : Surrogate
        g(u), which takes the place of the derivative of the spike; default FastSigmoid(100).
    band : float or None, units of the drive
        g counts only where |u| < band, which does not grow with the threshold; None means everywhere.
    detach_reset : bool
        Whether the gradient leaves out the path through the spike in the reset term.
    v_init : float or array [N]
        v before the first step.
    learn : tuple of parameter names
        Parameters to train.

    Source: Perez-Nieves & Goodman 2021, equations 1-3 and section 3.1; band is their B_th, default 0.2.
    """

    apart = Neuron.apart | {"reset", "detach_reset", "surrogate", "band"}

    def __init__(self, values, *, reset="subtract", surrogate=None, band=0.2, detach_reset=True, v_init=0.0, learn=()):
        super().__init__(values, v_init=v_init, learn=learn)
        one_of(type(self).__name__, "reset", reset, ("subtract", "zero"))
        self.reset, self.detach_reset = reset, flag(type(self).__name__, "detach_reset", detach_reset)
        self.surrogate = FastSigmoid() if surrogate is None else surrogate
        if not isinstance(self.surrogate, Surrogate):
            raise ParameterError(f"surrogate = {surrogate!r}: expected a surrogate such as nsim.FastSigmoid(slope=100)")
        hint = ", or None for the whole (dense) gradient"
        self.band = None if band is None else number(type(self).__name__, "band", band, above=0, hint=hint)

    @property
    def needs_history(self):
        # The gradient through a reset to zero is -beta v[t-1]: it needs v.
        return super().needs_history or (self.reset == "zero" and not self.detach_reset)

    @property
    def variant(self):
        return (self.reset, self.detach_reset, *super().variant)

    @property
    def forward_variant(self):
        return (self.reset, *super().variant)

    def options(self):
        own = {"reset": self.reset, "band": self.band, "detach_reset": self.detach_reset}
        return super().options() | own | {"surrogate": self.surrogate}

    def describe(self):
        return super().describe() | {"surrogate": self.surrogate.describe()}


def _frozen(neuron, name, value):
    """An attribute as part of a key: equal where the equations made with it are."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, (list, tuple)):
        return type(value), *(_frozen(neuron, name, part) for part in value)
    if isinstance(value, dict):
        return dict, *((key, _frozen(neuron, name, part)) for key, part in value.items())
    if value.__hash__ is None:
        raise ParameterError(
            f"{type(neuron).__name__}: attribute {name} = {value!r}: expected numbers, strings, arrays, or lists of "
            "them; if the equations do not use it, name it in the class attribute `apart`"
        )
    return type(value), value  # 1 and 1.0 and True are equal, but make other code
