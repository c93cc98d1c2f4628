"""Dropout of events."""

from __future__ import annotations

import numpy as np

from nsim import spatial
from nsim.checks import number, one_of
from nsim.events import Spikes
from nsim.nn.module import Stateless


class Dropout(Stateless):
    """Leave out events while training, and scale the others by 1 / (1 - p).

    Parameters
    ----------
    p : float, 0 <= p < 1
        Probability that an event is left out.
    per : "neuron" or "event"
        Whether a neuron is silent for the whole sample (the choice holds for all steps), or each event is drawn apart.

    Source: Srivastava et al. 2014; one mask for all steps as in Lee et al. 2020, section 2.4.
    """

    def __init__(self, p=0.5, *, per="neuron"):
        super().__init__()
        self.p, self.per = number("nn.Dropout", "p", p, least=0, below=1), per
        one_of("nn.Dropout", "per", per, ("neuron", "event"))
        self.seed(0)

    def seed(self, seed, epoch=0):
        self._key, self.calls = (int(seed), int(epoch)), 0

    def __call__(self, spikes: Spikes) -> Spikes:
        self.check(spikes)
        if not self.training or self.p == 0:
            return spikes
        place = sum(ord(c) * 31**k for k, c in enumerate(self.name))
        draw = np.random.SeedSequence((*self._key, place, self.calls)).generate_state(1, np.uint64)[0]
        self.calls += 1
        return spatial.dropout(spikes, self.p, draw, self.per == "event")

    def simulate(self, spikes):
        """Simulation has no dropout: the input as it is."""
        return spikes

    def describe(self):
        return {"layer": "Dropout", "p": self.p, "per": self.per}

    def __repr__(self):
        return f"Dropout({self.p}, per={self.per!r})"
