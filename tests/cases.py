"""Small random inputs, lively layers and bit-for-bit comparisons, for several test files."""

import hashlib
import itertools

import numpy as np

from nsim import LI, LIF, Spikes, nn, no_grad
from nsim.datasets import EventData, Events
from nsim.neurons import MODELS

DT = 1e-3
SPIKING = [name for name, model in MODELS.items() if model.spiking]


def counts(batch=3, steps=12, n=9, density=0.15, seed=0):
    """Random event counts [B, T, N], repeated events among them."""
    return np.random.default_rng(seed).poisson(density, (batch, steps, n))


def spikes(*size, lengths=None, dt=DT, space=None, **options):
    """The same as Spikes."""
    return Spikes.from_dense(counts(*size, **options), dt, lengths=lengths, space=space)


def recordings(labels, n=9):
    """A data set with ten events, in the first 9 ms, of each sample."""
    rng, count = np.random.default_rng(0), 10 * len(labels)
    times, units = np.sort(rng.integers(0, 9000, count)), rng.integers(0, n, count)
    events = Events(times, units, np.arange(0, count + 1, 10), (n,))
    return EventData(events, labels, name="few", classes=range(max(labels) + 1))


def spread(grads, shape, lengths=None):
    """Gradients of counts [B, N] at every true step, [B, T, N]."""
    true = np.arange(shape[1]) < (np.full(shape[0], shape[1]) if lengths is None else lengths)[:, None]
    return np.where(true[:, :, None], grads[:, None, :], 0)


def network(name="LIF", sizes=(9, 33, 17, 5), *, neuron=None, readout=None, dtype=np.float32, **options):
    """Layers of a registered model and a readout, whose weights are enlarged until every layer fires.

    `neuron` and `readout` are options of the models, `options` those of the connections.
    """
    pairs = list(itertools.pairwise(sizes))
    layers = [
        nn.Dense(n_in, n, MODELS[name](**(neuron or {})), dtype=dtype, seed=k, **options)
        for k, (n_in, n) in enumerate(pairs[:-1])
    ]
    last = LI(**({"reduce": "sum"} | (readout or {})))
    shared = {key: value for key, value in options.items() if key != "recurrent"}
    net = nn.Sequential(*layers, nn.Dense(*pairs[-1], last, dtype=dtype, seed=len(layers), **shared))
    for k, layer in enumerate(net):
        if layer.bias is not None:
            layer.bias.data[:] = np.random.default_rng(k).normal(0, 0.05, layer.n_out)
    enliven(net, spikes(4, 30, sizes[0], density=0.2, seed=99))
    return net


def convolutional(size=(3, 3), dtype=np.float32, channels=4, classes=5):
    """A convolution, a residual block, pooling and a readout, for pictures of one channel."""

    def layer(n_in, seed):
        return nn.Conv2d(n_in, channels, 3, LIF(), size=size, padding=1, bias=True, dtype=dtype, seed=seed)

    pool = nn.MaxPool2d(2, 1)
    n = int(np.prod(pool.space_after((*size, channels))))
    readout = nn.Dense(n, classes, LI(reduce="sum"), dtype=dtype, seed=2)
    return nn.Sequential(layer(1, 0), nn.Residual(layer(channels, 1)), pool, nn.Flatten(), readout)


def response(model, steps=100):
    """The most that a unit of drive at one step raises the potential of a model with its default parameters, at rest.

    Weights divided by it give models of all kinds about the same activity.
    """
    neuron, one = model(), np.float64(1)
    step, _, potential, _ = neuron.equations(one)
    p = tuple(
        parameter.discretise(parameter.to_raw(neuron.values[parameter.name]), DT) for parameter in model.parameters
    )
    state = rest = (one - one,) * len(model.states)
    raised = []
    for t in range(steps):
        state = step(state, one - one, one * (t == 0), p)
        raised.append(potential(state, p) - potential(rest, p))
    return max(raised)


def enliven(net, sample, density=0.05):
    """Double the weights of each spiking layer until it fires at that density."""
    with no_grad():
        for layer in net:
            if not layer.neuron.spiking:
                return
            fired = layer(sample)
            while fired.density < density:
                layer.weight.data *= 2
                fired = layer(sample)
            sample = fired


def gradients(net):
    """Copies of all gradients by name, which are then cleared."""
    found = {name: np.array(tensor.grad) for name, tensor in net.named_parameters().items()}
    for tensor in net.parameters():
        tensor.grad = None
    return found


def same_bits(a, b):
    """Whether two arrays (or None) are of one type and shape and hold the same bits."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def same_events(a, b):
    """Whether two Spikes hold the same events of the same sizes, bit for bit."""
    return a.shape == b.shape and all(
        same_bits(getattr(a, name), getattr(b, name)) for name in ("indptr", "indices", "values")
    )


def digest(arrays):
    """One number for the bits of many arrays."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()
