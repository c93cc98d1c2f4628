"""What a model's equations have to give, asked of them in plain Python before Numba compiles them."""

from __future__ import annotations

import numpy as np

from nsim.checks import is_number
from nsim.errors import ParameterError

SIGNATURES = {
    "step": "state, s, x, p",
    "step_adjoint": "d, state, s, x, p",
    "potential": "state, p",
    "potential_adjoint": "du, state, p",
}


def check_equations(neuron, equations, one):
    """Raise ParameterError, with the model's name, where a function of its equations cannot be called, or gives
    something else than numbers for its states and parameters."""
    model, states, names = type(neuron).__name__, neuron.states, [p.name for p in neuron.parameters]
    if not isinstance(equations, tuple) or len(equations) != len(SIGNATURES) or not all(map(callable, equations)):
        raise ParameterError(
            f"{model}.equations(one) gives {equations!r}, expected Equations.of({', '.join(SIGNATURES)})"
        )
    # Numbers of no special size, all between 0 and 1.
    state = tuple(one * 0.7549 ** (k + 1.5) for k in range(len(states)))
    p = tuple(one * 0.5698 ** (k + 0.3) for k in range(len(names)))
    given = {"state": state, "d": state, "s": one, "x": one, "du": one, "p": p}
    dstate, dp = ("dstate", states), ("dp", names)
    wanted = {
        "step": ("state", states),
        "step_adjoint": ("dstate, ds, dx, dp", [dstate, "ds", "dx", dp]),
        "potential": "u",
        "potential_adjoint": ("dstate, dp", [dstate, dp]),
    }
    for (name, signature), function in zip(SIGNATURES.items(), equations, strict=True):
        where = f"{model}.{name}({signature})"
        try:
            with np.errstate(all="ignore"):
                result = function(*(given[argument] for argument in signature.split(", ")))
        except Exception as error:
            if isinstance(error, ArithmeticError) or (isinstance(error, ValueError) and "unpack" not in str(error)):
                continue  # not for these numbers, of which a kernel would make NaN
            raise ParameterError(
                f"{where}: {type(error).__name__}: {error}; of {model}, state has {len(states)} ({', '.join(states)}) "
                f"and p has {len(names)} ({', '.join(names)})"
            ) from error
        _check(where, result, wanted[name])


def _check(where, result, wanted):
    """Refuse a result that is not as `wanted`: a name for a number, or (name, parts) for a tuple."""
    if isinstance(wanted, str):
        if not is_number(result):
            raise ParameterError(f"{where} gives {wanted} = {result!r}, expected a number")
        return
    name, parts = wanted
    if not isinstance(result, tuple) or len(result) != len(parts):
        inside = ", ".join(part if isinstance(part, str) else part[0] for part in parts)
        raise ParameterError(f"{where} gives {name} = {result!r}, expected a tuple of {len(parts)} ({inside})")
    for value, part in zip(result, parts, strict=True):
        _check(where, value, part)
