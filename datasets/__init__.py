"""Data sets: event recordings, with batches straight into `Spikes`, and pictures for conventional networks."""

from nsim.datasets import transforms
from nsim.datasets.cifar import CIFAR10, CIFAR100
from nsim.datasets.folder import ImageFolder
from nsim.datasets.hdf5 import read_recordings, write_shd
from nsim.datasets.images import MNIST, FashionMNIST, first_spike, latency_events, latency_spikes
from nsim.datasets.nmnist import NMNIST, convert_nmnist
from nsim.datasets.pictures import IMAGENET, Flip, ImageData, Normalize, Shift
from nsim.datasets.recordings import EventData, Events
from nsim.datasets.shd import SHD, SSC
from nsim.datasets.synthetic import Synthetic

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "IMAGENET",
    "MNIST",
    "NMNIST",
    "SHD",
    "SSC",
    "EventData",
    "Events",
    "FashionMNIST",
    "Flip",
    "ImageData",
    "ImageFolder",
    "Normalize",
    "Shift",
    "Synthetic",
    "convert_nmnist",
    "first_spike",
    "latency_events",
    "latency_spikes",
    "read_recordings",
    "transforms",
    "write_shd",
]
