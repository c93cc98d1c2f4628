"""A training run of a fraction of a second, for tests of `nsim.fit`; as a script, a child process to be killed.

    python tiny_training.py OUT [WRITE]

trains into the folder OUT, says "ready" when it begins, and with WRITE kills itself half-way through that write.
"""

import functools
import os
import signal
import sys

import numpy as np

from nsim import io, losses, nn, optim, train
from nsim.events import Spikes
from nsim.neurons import LI, LIF

DT, STEPS, N_IN, CLASSES = 1e-3, 12, 16, 4
EPOCHS = 24


class Recordings:
    """Noisy events of four classes, each with its own active inputs, behind the interface of `nsim.datasets`."""

    def __init__(self, samples, seed):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, CLASSES, samples)
        rate = np.where(np.arange(N_IN) // 4 == self.labels[:, None], 0.25, 0.12)
        self.counts = (rng.random((samples, STEPS, N_IN)) < rate[:, None, :]).astype(np.int64)

    def __len__(self):
        return len(self.labels)

    def batches(self, batch, *, dt, steps, shuffle=False, seed=0, epoch=0, transform=None, clamp=False):
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(self)) if shuffle else np.arange(len(self))
        for first in range(0, len(self), batch):
            chosen = order[first : first + batch]
            counts = self.counts[chosen, :steps]
            if transform is not None:
                counts = transform(counts, rng)
            yield Spikes.from_dense(np.minimum(counts, 1) if clamp else counts, dt), self.labels[chosen]


def drop_events(counts, rng):
    return counts * (rng.random(counts.shape) < 0.9)


def make_net(hidden=10):
    return nn.Sequential(
        nn.Dense(N_IN, hidden, LIF(tau_mem=10e-3, learn="tau_mem"), recurrent=True, seed=0),
        nn.Dropout(0.1),
        nn.Dense(hidden, CLASSES, LI(tau_mem=10e-3, reduce="sum"), seed=1),
    )


def run(out=None, *, net=None, **options):
    """(net, History) of a run with everything that a resumed one has to take up again."""
    net = make_net() if net is None else net
    settings = {
        "epochs": EPOCHS, "batch": 16, "dt": DT, "steps": STEPS, "opt": optim.Adam(net.parameters(), lr=2e-2),
        "val": Recordings(40, seed=2), "transform": drop_events, "schedule": optim.cosine_lr(2e-2, EPOCHS, warmup=3),
        "regularizers": [functools.partial(losses.spike_rate_upper, limit=1.0), losses.spike_rate_lower],
        "clip": 1.0, "seed": 5, "out": out, "progress": False,
    }  # fmt: skip
    return net, train.fit(net, Recordings(64, seed=1), **settings | options)


def kill_in_write(number):
    """Make the write of that number (from 1) stop half-way by SIGKILL."""
    written = 0

    class Trap:
        def __init__(self, *arguments):
            self.file = open(*arguments)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            nonlocal written
            written += 1
            if written == number:
                self.file.write(content[: len(content) // 2])
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            self.file.write(content)

    io.open = Trap


if __name__ == "__main__":
    if len(sys.argv) > 2:
        kill_in_write(int(sys.argv[2]))
    run(epochs=1)  # loads the kernels
    print("ready", flush=True)
    run(sys.argv[1])
