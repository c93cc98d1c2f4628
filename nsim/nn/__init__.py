"""Layers: Dense, Conv2d, Dropout, Sequential; `LAYERS` is the registry that files read (`nsim.ann` adds its graphs)."""

import numpy as np

from nsim import neurons
from nsim.errors import ParameterError
from nsim.nn.connection import seed
from nsim.nn.conv import Conv2d
from nsim.nn.dense import Dense
from nsim.nn.module import Module, Run
from nsim.nn.sequential import Dropout, Sequential

LAYERS = {"Dense": Dense, "Conv2d": Conv2d, "Dropout": Dropout, "Sequential": Sequential}


def build(description: dict) -> Module:
    """The network of a description made by `Module.describe`."""
    options = dict(description)
    name = options.pop("layer")
    if name not in LAYERS:
        raise ParameterError(f"unknown layer {name!r}; known: {', '.join(LAYERS)}")
    if name == "Sequential":
        return Sequential(*(build(layer) for layer in options["layers"]))
    if "neuron" in options:
        options["neuron"] = neurons.build(options["neuron"])
    if "dtype" in options:
        options["dtype"] = np.dtype(options["dtype"])
    return LAYERS[name](**options)


__all__ = ["LAYERS", "Conv2d", "Dense", "Dropout", "Module", "Run", "Sequential", "build", "seed"]
