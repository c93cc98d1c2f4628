"""The networks that are measured, random events of a wanted density, and weights that fire at a wanted rate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# Of Adam, in every peer: all of its work, but what fires stays at the wanted rate while steps are timed. With 1e-3 the
# rates of the SHD shape fell from 1 % to 0.45 and 0.17 % within eight steps.
LEARNING_RATE = 1e-12


@dataclass(frozen=True)
class Shape:
    """A network n_in-hidden-n_out of LIF layers with a summed leaky readout, and random events for it."""

    name: str
    n_in: int
    hidden: tuple[int, ...]
    n_out: int
    steps: int
    dt: float  # seconds
    density: float  # input events for each site
    tau_mem: float = 10e-3  # seconds
    tau_out: float = 20e-3  # seconds
    batch: int = 256
    delay: int = 1
    slope: float = 100.0  # of the FastSigmoid surrogate
    seed: int = 0

    @property
    def sizes(self):
        return (self.n_in, *self.hidden, self.n_out)

    @property
    def beta(self):
        return float(np.exp(-self.dt / self.tau_mem))

    @property
    def beta_out(self):
        return float(np.exp(-self.dt / self.tau_out))

    def __str__(self):
        sizes = "-".join(map(str, self.sizes))
        return f"{self.name} {sizes}, B={self.batch}, T={self.steps}, density {self.density:.1%}, delay {self.delay}"


# Settings of Perez-Nieves & Goodman 2021; densities as counted on the real data.
SHAPES = {
    "shd": Shape("SHD", 700, (200, 200), 20, 500, 2e-3, 0.022),
    "fashion": Shape("Fashion-MNIST", 784, (200, 200), 10, 100, 1e-3, 0.004, tau_out=10e-3),
    "nmnist": Shape("N-MNIST", 1156, (200, 200), 10, 300, 1e-3, 0.012, tau_out=10e-3),
}


@dataclass(frozen=True)
class ConvShape(Shape):
    """A network of convolutions over pictures (kernel // 2 of padding) and a readout; `layers` are (channels, kernel,
    stride), `n_in` and `hidden` follow from them."""

    space: tuple[int, int, int] = (28, 28, 1)
    layers: tuple[tuple[int, int, int], ...] = ()

    def convolutions(self):
        """(size of the picture, channels in, channels out, kernel, stride) of each."""
        (*size, channels), found = self.space, []
        for out, kernel, stride in self.layers:
            found.append((tuple(size), channels, out, kernel, stride))
            size, channels = [-(-n // stride) for n in size], out
        return found

    def __str__(self):
        layers = " - ".join(f"{out} of {kernel}x{kernel}/{stride}" for out, kernel, stride in self.layers)
        return (
            f"{self.name} {'x'.join(map(str, self.space))} - {layers} - {self.n_out}, B={self.batch}, T={self.steps}, "
            f"density {self.density:.1%}"
        )


def conv_shape(name, space, layers, density, batch, steps=25, dt=4e-3):
    n_in = int(np.prod(space))
    return ConvShape(name, n_in, (), 10, steps, dt, density, 20e-3, 40e-3, batch, 0, space=space, layers=layers)


CONV_SHAPES = {
    "fashion": conv_shape("the example's", (28, 28, 1), ((32, 5, 2), (64, 5, 2)), 0.017, 128),
    "deep": conv_shape("two channels", (32, 32, 2), ((32, 3, 1), (64, 3, 2), (64, 3, 1)), 0.02, 32),
}


@dataclass
class Events:
    """A batch in plain arrays: compressed rows as in `nsim.Spikes` (int64 indptr, neurons ascending) and labels."""

    indptr: np.ndarray
    indices: np.ndarray
    labels: np.ndarray
    shape: tuple[int, int, int]

    def dense(self, time_first=True):
        """Counts, float32 [T, B, N] (or [B, T, N])."""
        batch, steps, n = self.shape
        a = np.zeros(self.shape, np.float32)
        a.reshape(batch * steps, n)[np.repeat(np.arange(batch * steps), np.diff(self.indptr)), self.indices] = 1
        return np.ascontiguousarray(a.swapaxes(0, 1)) if time_first else a

    def sample(self, b):
        """Counts of one sample, float32 [T, N]."""
        _, steps, n = self.shape
        a = np.zeros((steps, n), np.float32)
        first, last = b * steps, (b + 1) * steps
        rows = np.repeat(np.arange(steps), np.diff(self.indptr[first : last + 1]))
        a[rows, self.indices[self.indptr[first] : self.indptr[last]]] = 1
        return a


def make_events(shape):
    """Independent events of the shape's density, one generator for each sample: the same in every process."""
    counts, indices = [], []
    for b in range(shape.batch):
        rng = np.random.default_rng((shape.seed, b))
        hit = rng.random((shape.steps, shape.n_in), np.float32) < shape.density
        counts.append(hit.sum(1))
        indices.append(np.nonzero(hit)[1].astype(np.uint16))
    indptr = np.zeros(shape.batch * shape.steps + 1, np.int64)
    np.cumsum(np.concatenate(counts), out=indptr[1:])
    labels = np.random.default_rng(shape.seed).integers(0, shape.n_out, shape.batch)
    return Events(indptr, np.concatenate(indices), labels, (shape.batch, shape.steps, shape.n_in))


def lif_spikes(drive, beta, delay):
    """Spikes of LIF neurons, threshold 1, from their drive [T, B, N]."""
    s = np.zeros_like(drive)
    v = last = np.zeros_like(drive[0])
    for t in range(len(drive)):
        v = beta * v - last + (drive[t - delay] if t >= delay else 0)
        last = s[t] = v > 1
    return s


def make_weights(shape, rate, samples=4):
    """Weights uniform in +-gain / sqrt(fan-in), the gain of each hidden layer found so that it fires at `rate`.

    Returns the weights [n_pre, n_post] float32 of each layer and the reached rates (spikes for each site), both
    measured on `samples` samples.
    """
    rng = np.random.default_rng(shape.seed + 1)
    events = make_events(replace(shape, batch=samples))
    s = events.dense()
    weights, rates = [], []
    for n_pre, n_post in zip(shape.sizes, shape.sizes[1:], strict=False):
        w = rng.uniform(-1, 1, (n_pre, n_post)).astype(np.float32) / np.float32(np.sqrt(n_pre))
        if len(weights) < len(shape.hidden):
            drive = s @ w
            low, high = 0.0, 1.0
            while lif_spikes(high * drive, shape.beta, shape.delay).mean() < rate:
                low, high = high, 2 * high
                if high > 1e4:
                    raise ValueError(f"{shape}: no gain makes layer {len(weights)} fire at {rate:.1%}")
            tried = {}  # the rate may jump with the gain (a constant drive does that): keep the nearest
            for _ in range(12):
                gain = (low + high) / 2
                tried[gain] = lif_spikes(gain * drive, shape.beta, shape.delay).mean()
                low, high = (gain, high) if tried[gain] < rate else (low, gain)
            gain = min(tried, key=lambda g: abs(tried[g] - rate))
            s = lif_spikes(gain * drive, shape.beta, shape.delay)
            w *= np.float32(gain)
            rates.append(float(s.mean()))
        weights.append(w)
    return weights, rates
