"""Pictures of spikes, of training and of conversion.

Each function draws on `ax`, or on a new figure where `ax` is None, and returns the axes. matplotlib is loaded at the
first picture, so `import nsim` stays quick and no backend is chosen for the user.
"""

from nsim.plot.conversion import accuracy_over_steps, error_split
from nsim.plot.rasters import raster, raster_and_membrane
from nsim.plot.style import PALETTE
from nsim.plot.traces import membrane, population_rate
from nsim.plot.training import activity, confusion, learning_curves

__all__ = [
    "PALETTE",
    "accuracy_over_steps",
    "activity",
    "confusion",
    "error_split",
    "learning_curves",
    "membrane",
    "population_rate",
    "raster",
    "raster_and_membrane",
]
