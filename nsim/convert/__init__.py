"""Conversion of trained conventional networks (`nsim.ann`) into spiking ones, without retraining.

snn = convert.to_spiking(net, calibration=images, neuron=convert.Bistable(phases=4), percentile=99.9)
logits = snn(images, steps=80)
"""

from nsim.convert.make import to_spiking
from nsim.convert.network import Activity, Prediction, SpikingNetwork
from nsim.convert.neurons import IF, Bistable, Phase
from nsim.convert.report import Cost, ErrorSplit, Fate, cost, coverage, error_split

__all__ = [
    "IF", "Activity", "Bistable", "Cost", "ErrorSplit", "Fate", "Phase", "Prediction", "SpikingNetwork", "cost",
    "coverage", "error_split", "to_spiking",
]  # fmt: skip
