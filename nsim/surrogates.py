"""Surrogate gradients g(u), which stand for the derivative of the spike s = [u > 0], with u = v - threshold."""

from __future__ import annotations

import math

import numpy as np

from nsim.checks import number
from nsim.errors import ParameterError


class Surrogate:
    """Base: a subclass checks its options and gives `function(one)`, the scalar g for the number type of `one`: a plain
    function that Numba can compile."""

    def function(self, one):
        raise TypeError(f"{type(self).__name__} must define function(self, one)")

    def __call__(self, u):
        """g at an array of u, for plots and tests."""
        u = np.asarray(u, np.float64)
        return np.vectorize(self.function(np.float64(1)), otypes=[np.float64])(u)

    def describe(self) -> dict:
        return {"name": type(self).__name__, **vars(self)}

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


class FastSigmoid(Surrogate):
    """g(u) = 1 / (slope |u| + 1)^2.

    Parameters
    ----------
    slope : float, per unit of the drive
        g is 1/4 at |u| = 1 / slope.

    Raises
    ------
    ParameterError
        If slope is not positive and finite.

    Source: Zenke & Ganguli 2018; slope 100 as in Perez-Nieves & Goodman 2021.
    """

    def __init__(self, slope=100.0):
        self.slope = number("FastSigmoid", "slope", slope, above=0)

    def function(self, one):
        slope = one * self.slope

        def g(u):
            d = slope * abs(u) + one
            return one / (d * d)

        return g


# Takes the place of a smaller g at the closest approach of a neuron that nothing else reaches, see
# `nsim.sweeps.counts`. Any positive function would do, but one next to 0 would leave the neuron where it is.
STAND_IN = FastSigmoid()


class ATan(Surrogate):
    """g(u) = (alpha / 2) / (1 + (pi alpha u / 2)^2).

    Parameters
    ----------
    alpha : float, per unit of the drive
        g is half its peak of alpha / 2 at |u| = 2 / (pi alpha).

    Raises
    ------
    ParameterError
        If alpha is not positive and finite.

    Source: Fang et al. 2021, their arctangent surrogate.
    """

    def __init__(self, alpha=2.0):
        self.alpha = number("ATan", "alpha", alpha, above=0)

    def function(self, one):
        height, width = one * (self.alpha / 2), one * (math.pi * self.alpha / 2)

        def g(u):
            z = width * u
            return height / (one + z * z)

        return g


class Triangular(Surrogate):
    """g(u) = max(0, 1 - slope |u|).

    Parameters
    ----------
    slope : float, per unit of the drive
        g is 0 from |u| = 1 / slope on.

    Raises
    ------
    ParameterError
        If slope is not positive and finite.

    Source: Esser et al. 2016; Bellec et al. 2018 scale it by 0.3.
    """

    def __init__(self, slope=1.0):
        self.slope = number("Triangular", "slope", slope, above=0)

    def function(self, one):
        slope, zero = one * self.slope, one * 0

        def g(u):
            return max(zero, one - slope * abs(u))

        return g


class Boxcar(Surrogate):
    """g(u) = 1 / (2 width) where |u| < width, else 0.

    Parameters
    ----------
    width : float, units of the drive
        Half of the width of the box, whose area is 1.

    Raises
    ------
    ParameterError
        If width is not positive and finite.

    Source: Kaiser et al. 2020.
    """

    def __init__(self, width=0.5):
        self.width = number("Boxcar", "width", width, above=0)

    def function(self, one):
        width, height, zero = one * self.width, one * (0.5 / self.width), one * 0

        def g(u):
            return height if abs(u) < width else zero

        return g


class Sigmoid(Surrogate):
    """g(u) = slope f (1 - f) with f = 1 / (1 + exp(-slope u)).

    Parameters
    ----------
    slope : float, per unit of the drive
        Its peak is slope / 4, its area 1.

    Raises
    ------
    ParameterError
        If slope is not positive and finite.

    Source: Zenke & Vogels 2021.
    """

    def __init__(self, slope=25.0):
        self.slope = number("Sigmoid", "slope", slope, above=0)

    def function(self, one):
        slope = one * self.slope

        def g(u):
            # exp(-|z|) never overflows; g is even.
            e = math.exp(-abs(slope * u))
            return slope * e / ((one + e) * (one + e))

        return g


class Custom(Surrogate):
    """A surrogate from one function of u: Numba must be able to compile it (arithmetic, math, NumPy scalars).

    Parameters
    ----------
    g : function of one number u, units of the drive, to one number

    Raises
    ------
    ParameterError
        If g is no function; at the first training step, if Numba cannot compile it or it gives no number.

    >>> neuron = nsim.LIF(surrogate=nsim.surrogates.Custom(lambda u: math.exp(-10 * abs(u))))
    """

    def __init__(self, g):
        if not callable(g):
            raise ParameterError(f"Custom surrogate {g!r}: expected a function of u")
        self.g = g

    def function(self, one):
        return self.g

    def describe(self):
        raise ParameterError(
            "a Custom surrogate cannot be written to a file: subclass nsim.surrogates.Surrogate and add the class to "
            "nsim.surrogates.SURROGATES"
        )

    def __repr__(self):
        return f"Custom({getattr(self.g, '__name__', 'function')})"


SURROGATES = {s.__name__: s for s in (FastSigmoid, ATan, Triangular, Boxcar, Sigmoid)}


def build(description: dict) -> Surrogate:
    """The surrogate of a description made by `Surrogate.describe`."""
    options = dict(description)
    name = options.pop("name")
    if name not in SURROGATES:
        raise ParameterError(f"unknown surrogate {name!r}; known: {', '.join(SURROGATES)}")
    return SURROGATES[name](**options)
