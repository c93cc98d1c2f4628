"""Layers and how they are put together; `LAYERS` is the registry that files read (`nsim.ann` adds its graphs)."""

import numpy as np

from nsim import neurons
from nsim.errors import ParameterError
from nsim.nn.connection import seed
from nsim.nn.conv import Conv2d
from nsim.nn.dense import Dense
from nsim.nn.dropout import Dropout
from nsim.nn.module import Module, Run
from nsim.nn.pooling import AvgPool2d, Flatten, MaxPool2d, SumPool2d
from nsim.nn.residual import Residual
from nsim.nn.sequential import Sequential

LAYERS = {
    layer.__name__: layer
    for layer in (Dense, Conv2d, SumPool2d, AvgPool2d, MaxPool2d, Flatten, Dropout, Residual, Sequential)
}


def build(description: dict) -> Module:
    """The network of a description made by `Module.describe`."""
    options = dict(description)
    name = options.pop("layer")
    if name not in LAYERS:
        raise ParameterError(f"unknown layer {name!r}; known: {', '.join(LAYERS)}")
    if name == "Sequential":
        return Sequential(*(build(layer) for layer in options["layers"]))
    options = {key: build(value) if _describes_a_layer(value) else value for key, value in options.items()}
    if "neuron" in options:
        options["neuron"] = neurons.build(options["neuron"])
    if "dtype" in options:
        options["dtype"] = np.dtype(options["dtype"])
    return LAYERS[name](**options)


def _describes_a_layer(value):
    return isinstance(value, dict) and "layer" in value


__all__ = [
    "LAYERS", "AvgPool2d", "Conv2d", "Dense", "Dropout", "Flatten", "MaxPool2d", "Module", "Residual", "Run",
    "Sequential", "SumPool2d", "build", "seed",
]  # fmt: skip
