"""nsim, through its public names only."""

import numpy as np

import nsim
from benchmarks.common import versions
from benchmarks.shapes import LEARNING_RATE
from nsim import losses, nn, optim


class Net:
    """`band`: 0.2, the paper's, or None for the dense surrogate gradient that all peers compute."""

    def __init__(self, shape, weights, threads, band=0.2):
        self.shape, self.band = shape, band
        hidden = {"tau_mem": shape.tau_mem, "surrogate": nsim.FastSigmoid(shape.slope), "band": band}
        neurons = [nsim.LIF(**hidden) for _ in shape.hidden] + [nsim.LI(tau_mem=shape.tau_out, reduce="sum")]
        self.net = nn.Sequential(
            *(nn.Dense(*w.shape, neuron, delay=shape.delay) for w, neuron in zip(weights, neurons, strict=True))
        )
        for layer, w in zip(self.net, weights, strict=True):
            layer.weight.data[...] = w
        self.optimizer = optim.Adam(self.net.parameters(), lr=LEARNING_RATE)

    @property
    def versions(self):
        return versions("nsim-snn", "numba", "numpy")

    def prepare(self, events):
        return nsim.Spikes(events.indptr, events.indices, events.shape, dt=self.shape.dt), events.labels

    def forward(self, batch):
        spikes, labels = batch
        return losses.cross_entropy(self.net(spikes), labels)

    def backward(self, loss):
        self.optimizer.zero_grad()
        loss.backward()

    def step(self, batch):
        loss = self.forward(batch)
        self.backward(loss)
        self.optimizer.step()
        return loss.item()

    def gradients(self, batch):
        loss = self.forward(batch)
        self.backward(loss)
        return loss.item(), [layer.weight.grad.astype(np.float64) for layer in self.net]

    def saved_bytes(self, batch):
        """Bytes that the tape keeps for the backward pass."""
        return nsim.saved_bytes(self.forward(batch))

    def rates(self, batch):
        """Spikes and active sites for each site, of each hidden layer."""
        spikes, _ = batch
        _, hidden = self.net(spikes, hidden=True)
        return [(s.density, s.n_active / np.prod(s.shape)) for s in hidden]
