"""Convolutional networks of one shape (benchmarks.shapes.ConvShape) in nsim and in torch; see benchmarks/conv.py."""

import time

import numpy as np
import torch

import nsim
from benchmarks.peers import nsim_net, torch_net
from benchmarks.shapes import LEARNING_RATE
from nsim import nn, optim


class Measured:
    """What benchmarks/conv.py asks besides a step."""

    def loss(self, batch):
        return self.forward(batch).item()

    def processor_time(self, batch):
        """Seconds that all threads of the process compute in a step: what others run meanwhile hardly changes it."""
        start = time.process_time()
        self.step(batch)
        return time.process_time() - start


class Nsim(Measured, nsim_net.Net):
    """`nn.Conv2d`, event by event."""

    def __init__(self, shape, weights, threads, band=0.2):
        self.shape, self.band = shape, band
        hidden = {"tau_mem": shape.tau_mem, "surrogate": nsim.FastSigmoid(shape.slope), "band": band}
        layers = [
            nn.Conv2d(c_in, c_out, kernel, nsim.LIF(**hidden), size=size, stride=stride, padding=kernel // 2)
            for size, c_in, c_out, kernel, stride in shape.convolutions()
        ]
        layers.append(nn.Dense(*weights[-1].shape, nsim.LI(tau_mem=shape.tau_out, reduce="sum")))
        self.net = nn.Sequential(*layers)
        for layer, w in zip(self.net, weights, strict=True):
            layer.weight.data[...] = w
        self.optimizer = optim.Adam(self.net.parameters(), lr=LEARNING_RATE)

    def prepare(self, events):
        spikes = nsim.Spikes(events.indptr, events.indices, events.shape, dt=self.shape.dt, space=self.shape.space)
        return spikes, events.labels


class Torch(Measured, torch_net.TorchNet):
    """conv2d over all steps at once, then the steps of the neurons with `unbind`, list and stack; reset detached."""

    def make(self, weights):
        moved = [w.transpose(3, 2, 0, 1) for w in weights[:-1]] + [weights[-1]]
        self.weights = [torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(w))) for w in moved]

    def prepare(self, events):
        height, width, channels = self.shape.space
        x = events.dense().reshape(self.shape.steps, self.shape.batch, height, width, channels)
        x = np.ascontiguousarray(x.transpose(0, 1, 4, 2, 3))
        return torch.from_numpy(x), torch.from_numpy(events.labels)

    def logits(self, x):
        beta, slope = self.shape.beta, self.shape.slope
        for w, (_, _, _, kernel, stride) in zip(self.weights, self.shape.convolutions(), strict=False):
            drive = torch.nn.functional.conv2d(x.flatten(0, 1), w, stride=stride, padding=kernel // 2)
            drive = drive.unflatten(0, x.shape[:2]).unbind(0)
            v = s = torch.zeros_like(drive[0])
            spikes = []
            for x_t in drive:
                v = torch.add(x_t - s.detach(), v, alpha=beta)
                s = torch_net.FastSigmoid.apply(v - 1, slope)
                spikes.append(s)
            x = torch.stack(spikes)
        x = x.permute(0, 1, 3, 4, 2).flatten(2)
        beta = self.shape.beta_out
        o = total = 0
        for x_t in ((1 - beta) * (x @ self.weights[-1])).unbind(0):
            o = x_t + beta * o
            total = total + o
        return total
