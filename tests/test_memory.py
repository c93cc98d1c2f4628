"""What the tape keeps: `saved_bytes` against what is seen to be freed, and its growth with events and not with time."""

import gc
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest

from nsim import LI, LIF, Spikes, arrays, losses, nn, saved_bytes
from tests import cases

SIZES = (200, 100, 100, 20)


def traced():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@contextmanager
def tracing():
    """NumPy tells tracemalloc about every buffer. Not to be on while kernels compile: it slows that down much."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def labels(batch):
    return np.arange(batch) % 20


def forward(net, dense, reduced=True):
    """A loss whose tape alone holds what the backward pass needs, the input included."""
    out = net(Spikes.from_dense(dense, cases.DT, space=(10, 20, 1)))
    return losses.cross_entropy(out, labels(len(dense)), per_step=not reduced)


KINDS = {
    "listed": {},
    "recurrent": {"recurrent": True, "delay": 1, "bias": True},
    "dense gradient": {"neuron": {"band": None}},
    "trace": {"readout": {"reduce": None}},
    "maximum": {"readout": {"reduce": "max"}},
    "dropout": {},
    "convolutions": {},
}


def network(kind):
    if kind == "convolutions":
        return cases.convolutional((10, 20), classes=20)
    net = cases.network(sizes=SIZES, **KINDS[kind])
    return net if kind != "dropout" else nn.Sequential(net[0], nn.Dropout(0.3), *net.layers[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_saved_bytes_are_what_is_freed(kind):
    """Both when the loss is thrown away and when the walk back uses it up."""
    net, dense = network(kind), cases.counts(64, 200, 200, density=0.03)
    reduced = kind != "trace"
    forward(net, dense, reduced).backward()
    with tracing():
        loss = forward(net, dense, reduced)
        saved, held = saved_bytes(loss), traced()
        assert saved > 800_000, "too little to tell it from Python's own objects"
        del loss
        assert abs(held - traced() - saved) < 0.02 * saved

        loss = forward(net, dense, reduced)
        saved, held = saved_bytes(loss), traced()
        loss.backward()
        assert saved_bytes(loss) == 0
        new = sum(tensor.grad.nbytes for tensor in net.parameters())  # the old ones were not traced
        assert abs(held + new - traced() - saved) < 0.02 * saved


def test_saved_bytes_of_large_arrays():
    """Their memory is kept for the next, until it is given back."""
    net, dense = cases.network(sizes=(200, 1000, 20), neuron={"band": None}), cases.counts(64, 200, 200, density=0.03)
    forward(net, dense).backward()
    arrays.release()
    with tracing():
        loss = forward(net, dense)
        saved, held = saved_bytes(loss), traced()
        assert saved > arrays.LARGE
        del loss
        assert held - traced() < 0.5 * saved
        arrays.release()
        assert abs(held - traced() - saved) < 0.02 * saved


def row_pointers(batch, steps, kept):
    return kept * 8 * (batch * steps + 1)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "last"])
def test_the_same_events_in_ten_times_the_steps(reduce, recurrent):
    """The tape grows by the row pointers: those of the input, and of the spikes and sites of each hidden layer."""
    net = cases.network(sizes=SIZES, recurrent=recurrent, readout={"reduce": reduce})
    batch, steps = 16, 100
    short = cases.counts(batch, steps, 200, density=0.05)
    long = np.concatenate([short, np.zeros((batch, 9 * steps, 200), int)], axis=1)
    small, large = (saved_bytes(forward(net, dense)) for dense in (short, long))
    pointers = 1 + 2 * 2
    events_and_sites = small - row_pointers(batch, steps, pointers)
    assert large < 1.5 * events_and_sites + row_pointers(batch, 10 * steps, pointers)
    assert large < 4 * batch * 10 * steps * 100, "less than one dense float32 state of one layer"


def test_the_same_events_spread_over_ten_times_the_steps():
    """Events ten steps apart instead of one, neurons that forget as much between them."""
    batch, steps = 16, 100
    short = cases.counts(batch, steps, 200, density=0.05)
    long = np.zeros((batch, 10 * steps, 200), int)
    long[:, ::10] = short
    net = cases.network(sizes=SIZES, neuron={"tau_mem": 1e-3})
    small, large = (saved_bytes(forward(net, dense)) for dense in (short, long))
    assert large < 1.5 * small + row_pointers(batch, 10 * steps, 5)


def test_the_tape_grows_with_events_and_sites():
    """Its parts, counted: 2 bytes an event, 6 a site, 8 a row pointer; the readout adds [B, N] only."""
    net, dense = cases.network(sizes=SIZES), cases.counts(16, 100, 200, density=0.05)
    given = Spikes.from_dense(dense, cases.DT)
    out, hidden = net(given, hidden=True)
    events = given.n_events + sum(h.n_events for h in hidden)
    sites = sum(h.active.u.size for h in hidden)
    parts = 2 * events + 6 * sites + row_pointers(16, 100, 5)
    assert parts <= saved_bytes(out) <= parts + 4 * 16 * 20 + 4096


def test_convolutions_keep_events_and_sites():
    """Their parts, counted, those of the sum and of the pooled picture too: sites there have no u."""
    net, dense = cases.convolutional((10, 20), classes=20), cases.counts(16, 100, 200, density=0.05)
    given = Spikes.from_dense(dense, cases.DT, space=(10, 20, 1))
    first = net[0](given)
    beside = net[1].parts["body"](first)
    block = first + beside
    pool = net[2](block)
    for kept, size in [(first, 6), (beside, 6), (block, 2), (pool, 2)]:
        sites = kept.active.indices.size
        assert kept.active.nbytes == size * sites + row_pointers(16, 100, 1)
        assert kept.nbytes == kept.active.nbytes + 2 * kept.n_events + row_pointers(16, 100, 1)
        assert sites < 0.5 * np.prod(kept.shape), "the case shows nothing"
    parts = sum(spikes.nbytes for spikes in (given, first, beside, block, pool))
    constants = sum(8 * layer.n_out for layer in net.connections())  # decay and threshold of each neuron
    assert parts <= saved_bytes(net(given)) <= parts + constants + 4 * 16 * 20 + 4096


def test_peak_of_a_step_stays_below_the_dense_states():
    """At 1 % activity, forward and backward together stay below the dense float32 states of the layers alone."""
    batch, steps = 64, 500
    net = cases.network(sizes=SIZES)
    for layer in net.layers[:2]:
        layer.weight.data *= 0.15
    given = Spikes.from_dense(cases.counts(batch, steps, 200, density=0.01), cases.DT)

    def step():
        losses.cross_entropy(net(given), labels(batch)).backward()

    step()
    with tracing():
        step()
        held = traced()
        tracemalloc.reset_peak()
        step()
        peak = tracemalloc.get_traced_memory()[1] - held
    assert peak < 3 * 4 * batch * steps * 100


def test_peak_of_convolutions_stays_below_one_dense_frame():
    """Forward and backward: no array of batch x time x neurons is ever made."""
    batch, steps = 8, 100
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, LIF(), size=28, padding=1, seed=0),
        nn.MaxPool2d(2),
        nn.Residual(nn.Conv2d(8, 8, 3, LIF(), size=14, padding=1, seed=1)),
        nn.Dense(14 * 14 * 8, 5, LI(reduce="sum"), seed=2),
    )
    given = cases.spikes(batch, steps, 784, density=0.02, space=(28, 28, 1))
    cases.enliven(net[:1], given, 0.01)

    def step():
        losses.cross_entropy(net(given), labels(batch) % 5).backward()

    step()
    with tracing():
        step()
        held = traced()
        tracemalloc.reset_peak()
        step()
        peak = tracemalloc.get_traced_memory()[1] - held
    assert peak < 4 * batch * steps * net[0].n_out
