"""Event-driven data sets: recordings in flat, memory-mapped arrays, batches straight into `Spikes`."""

from nsim.datasets import transforms
from nsim.datasets.hdf5 import read_recordings, write_shd
from nsim.datasets.images import MNIST, FashionMNIST, first_spike, latency_events, latency_spikes
from nsim.datasets.nmnist import NMNIST, convert_nmnist
from nsim.datasets.recordings import EventData, Events
from nsim.datasets.shd import SHD, SSC
from nsim.datasets.synthetic import Synthetic

__all__ = [
    "MNIST",
    "NMNIST",
    "SHD",
    "SSC",
    "EventData",
    "Events",
    "FashionMNIST",
    "Synthetic",
    "convert_nmnist",
    "first_spike",
    "latency_events",
    "latency_spikes",
    "read_recordings",
    "transforms",
    "write_shd",
]
