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

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from nsim.checks import is_finite, real_array
from nsim.errors import ParameterError, ShapeError
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
    """

    states: tuple[str, ...] = ("v",)
    parameters: tuple[Parameter, ...] = ()
    spiking = True
    nonlinear = False

    def __init__(self, values: dict, *, v_init=0.0, learn=()):
        self.values = {p.name: p.check(values[p.name]) for p in self.parameters}
        self.v_init = Parameter("v_init").check(v_init)
        self.learn = (learn,) if isinstance(learn, str) else tuple(learn)
        unknown = set(self.learn) - set(self.values)
        if unknown:
            raise ParameterError(f"learn = {self.learn}: {type(self).__name__} has {', '.join(self.values)}")

    @property
    def needs_history(self) -> bool:
        """Whether the backward pass has to recompute the states."""
        return self.nonlinear or bool(self.learn)

    @property
    def variant(self) -> tuple:
        """The options that change the equations: neurons of one class and variant share their kernels."""
        return ()

    @property
    def forward_variant(self) -> tuple:
        """The part of `variant` that changes step and potential."""
        return self.variant

    def equations(self, one) -> Equations:
        raise TypeError(f"{type(self).__name__} must define equations(self, one)")

    def describe(self) -> dict:
        """JSON-able description from which `nsim.neurons.build` makes the same neuron."""
        plain = {name: value.tolist() for name, value in self.values.items()}
        return {"model": type(self).__name__, **plain, **self.options()}

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
    band : float or None
        g counts only where |u| < band; None means everywhere.
    detach_reset : bool
        Whether the gradient leaves out the path through the spike in the reset term.
    v_init : float or array [N]
        v before the first step.
    learn : tuple of parameter names
        Parameters to train.

    Source: Perez-Nieves & Goodman 2021, equations 1-3 and section 3.1; band is their B_th, default 0.2.
    """

    def __init__(self, values, *, reset="subtract", surrogate=None, band=0.2, detach_reset=True, v_init=0.0, learn=()):
        super().__init__(values, v_init=v_init, learn=learn)
        if reset not in ("subtract", "zero"):
            raise ParameterError(f'reset = {reset!r}: expected "subtract" or "zero"')
        self.reset, self.detach_reset = reset, bool(detach_reset)
        self.surrogate = FastSigmoid() if surrogate is None else surrogate
        if not isinstance(self.surrogate, Surrogate):
            raise ParameterError(f"surrogate = {surrogate!r}: expected a surrogate such as nsim.FastSigmoid(slope=100)")
        if band is not None and not (is_finite(band) and band > 0):
            raise ParameterError(f"band = {band!r}: must be positive, or None for the whole (dense) gradient")
        self.band = None if band is None else float(band)

    @property
    def needs_history(self):
        # The gradient through a reset to zero is -beta v[t-1]: it needs v.
        return super().needs_history or (self.reset == "zero" and not self.detach_reset)

    @property
    def variant(self):
        return (self.reset, self.detach_reset)

    @property
    def forward_variant(self):
        return (self.reset,)

    def options(self):
        own = {"reset": self.reset, "band": self.band, "detach_reset": self.detach_reset}
        return super().options() | own | {"surrogate": self.surrogate}

    def describe(self):
        return super().describe() | {"surrogate": self.surrogate.describe()}
