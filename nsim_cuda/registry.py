"""All kernels of nsim_cuda with the types that they are launched with, for `nsim_cuda.check`.

The types are those of real launches: small training steps of each neuron model are gone through on the host with
launching left out, and what would have been launched is noted. So a kernel that a step needs cannot be forgotten.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numba import typeof

from nsim import LI, LIF, Spikes, losses, nn, optim, surrogates
from nsim.datasets.recordings import Events
from nsim.neurons import MODELS
from nsim_cuda import elementwise, events, jit, launch, memory, operations, status


@dataclass(frozen=True)
class Kernel:
    """A kernel as it is launched: `types` of its arguments, `threads` of a block, declared `shared` and `stack`
    bytes."""

    name: str
    kernel: object
    types: tuple
    threads: int
    shared: int = 0
    stack: int = 0


class _OnHost(np.ndarray):
    """Host memory in the place of Numba's device array."""

    def copy_to_host(self):
        return np.array(self)

    def copy_to_device(self, source, stream=0):
        self[...] = source


class _NoStaging:
    def send(self, values, target):
        target[...] = values

    def landed(self):
        pass


def _plain(x):
    if isinstance(x, tuple):
        return type(x)(*map(_plain, x)) if hasattr(x, "_fields") else tuple(map(_plain, x))
    return x.view(np.ndarray) if isinstance(x, _OnHost) else x


@contextmanager
def _noted(note):
    """Launch nothing, but give each launch to `note`; memory of the device is memory of the host meanwhile."""
    ours = {
        (memory, "POOL"): memory.Pool(),
        (memory, "STAGING"): _NoStaging(),
        (memory, "allocated"): lambda shape, dtype: np.zeros(shape, dtype).view(_OnHost),
        (status, "_status"): None,
        (jit, "launched"): note,
    }
    kept = {(module, name): getattr(module, name) for module, name in ours}
    _replace(ours)
    try:
        yield
    finally:
        _replace(kept)


def _replace(values):
    """Set attributes of modules, and forget what was made with the ones before."""
    for cache in (launch.nothing, elementwise.kept_zero):
        cache.cache_clear()
    for (module, name), value in values.items():
        setattr(module, name, value)


def _on_device(net):
    for tensor in net.parameters():
        tensor.data = memory.put(tensor.data)
    return net


def _spikes():
    return events.put(Spikes.from_dense(np.ones((2, 3, 4), int), 1e-3, space=(2, 2, 1)))


def _step(net, opt=optim.Adam):
    """One training step with everything that a loss may be made of."""
    opt = opt(_on_device(net).parameters())
    out, hidden = net(_spikes(), hidden=True)
    loss = losses.cross_entropy(out, [0, 1])
    if hidden:
        loss = loss + losses.spike_rate_upper(hidden, 1) + losses.spike_rate_lower(hidden)
    loss.backward()
    operations.guard([loss.data])
    optim.clip_grad_norm(opt.params, 1.0)
    opt.step()


def _cases():
    """Label and training step of each neuron model, with the adjoint that needs no history and with the one that
    does, in a dense layer and in a convolution."""
    for name, model in MODELS.items():
        forms = {"": {}, " learn": {"learn": [p.name for p in model.parameters]}}
        if name == "LIF":
            forms[" zero"] = {"reset": "zero"}
        for label, options in forms.items():
            neuron = model(**options) if model.spiking else model(**options, reduce="sum")
            for where, layer in {"": nn.Dense(4, 3, neuron), " conv": nn.Conv2d(1, 3, 1, neuron, size=2)}.items():
                after = [nn.Dense(layer.n_out, 2, LI(reduce="sum"))] if model.spiking else []
                yield f"{name}{label}{where}", nn.Sequential(layer, *after)
    for surrogate in list(surrogates.SURROGATES.values())[1:]:
        yield (
            surrogate.__name__,
            nn.Sequential(nn.Dense(4, 3, LIF(surrogate=surrogate())), nn.Dense(3, 2, LI(reduce="sum"))),
        )


def _others():
    """What no training step of `_cases` reaches."""
    net = nn.Sequential(nn.Dense(4, 3, LIF()), nn.Dropout(0.5), nn.Dense(3, 2, LI(reduce="sum")))
    _step(net, lambda params: optim.SGD(params, 0.1))
    below, above = (_on_device(nn.Conv2d(1, 1, 1, LIF(), size=2)) for _ in range(2))
    losses.spike_rate_lower([nn.MaxPool2d(2)(nn.Residual(above)(below(_spikes())))]).backward()
    operations.latency(np.zeros((1, 2, 2), np.uint8), np.zeros(256), width=1, steps=3, dt=1e-3)
    recording = Events(np.zeros(3, np.int32), np.zeros(3, np.uint16), np.array([0, 3]), (4,))
    operations.assemble(
        recording, recording.starts[:-1], recording.starts[1:], width=1, steps=3, dt=1e-3, nearest=False, clamp=True,
        tally=operations.new_tally(),
    )  # fmt: skip


def kernels() -> list[Kernel]:
    """Every kernel, in float32."""
    found, label = {}, ""

    def note(kernel, grid, block, args):
        function = kernel.py_func
        types = tuple(typeof(_plain(a)) for a in args)
        name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        own = f"{name} {label}" if "<locals>" in function.__qualname__ and "make_" in function.__qualname__ else name
        same = [entry for (other, _), entry in found.items() if other is function]
        if same:
            own = f"{same[0].name} ({len(same) + 1})"
        found.setdefault((function, types), Kernel(own, kernel, types, jit.BLOCK))

    with _noted(note):
        for label, net in _cases():  # noqa: B007  (the name is read where kernels are noted)
            _step(net)
        label = ""
        _others()
    return list(found.values())
