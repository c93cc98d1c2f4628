"""nsim: spiking neural networks at the cost of their spikes."""

from nsim import ann, convert, cuda, losses, neurons, nn, ops, optim, plot, surrogates
from nsim.active import Active
from nsim.errors import (
    DataError,
    DeviceError,
    EventError,
    EventWarning,
    GradientError,
    MissingDataError,
    MissingPackageError,
    NsimError,
    ParameterError,
    ShapeError,
    StepOverflow,
    TrainingError,
)
from nsim.evaluation import evaluate
from nsim.events import Spikes
from nsim.io import load, read_weights, save
from nsim.neurons import ALIF, IF, LI, LIF, CubaLIF
from nsim.nn import seed
from nsim.surrogates import ATan, Boxcar, FastSigmoid, Sigmoid, Triangular
from nsim.tape import Tensor, no_grad, saved_bytes
from nsim.train import fit

__version__ = "0.1.0"
