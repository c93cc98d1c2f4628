"""Neuron models. One file each; `MODELS` is the registry that kernels, files and tests read."""

from nsim.errors import ParameterError
from nsim.neurons.alif import ALIF
from nsim.neurons.base import Equations, Neuron, Parameter, SpikingNeuron, TimeConstant
from nsim.neurons.cuba_lif import CubaLIF
from nsim.neurons.integrate_fire import IF
from nsim.neurons.li import LI
from nsim.neurons.lif import LIF
from nsim.surrogates import build as build_surrogate

MODELS = {model.__name__: model for model in (LIF, IF, CubaLIF, ALIF, LI)}


def register(model: type[Neuron]) -> type[Neuron]:
    """Add a model to the registry, so that files with it load and the tests cover it. Usable as a decorator."""
    other = MODELS.get(model.__name__, model)
    if other.__module__ != model.__module__:
        raise ParameterError(f"a neuron model named {model.__name__} is registered already, from {other.__module__}")
    MODELS[model.__name__] = model
    return model


def build(description: dict) -> Neuron:
    """The neuron of a description made by `Neuron.describe`."""
    options = dict(description)
    name = options.pop("model")
    if name not in MODELS:
        raise ParameterError(f"unknown neuron model {name!r}; register it first with nsim.neurons.register")
    if "surrogate" in options:
        options["surrogate"] = build_surrogate(options["surrogate"])
    return MODELS[name](**options)


__all__ = [
    "ALIF", "IF", "LI", "LIF", "MODELS", "CubaLIF", "Equations", "Neuron", "Parameter", "SpikingNeuron",
    "TimeConstant", "build", "register",
]  # fmt: skip
