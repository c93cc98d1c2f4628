"""Stacks of layers on the device against the oracle, shared by the files of this folder."""

import numpy as np

from nsim import Spikes
from nsim.backend import moved
from nsim_cuda import memory
from tests import cases, reference
from tests.test_sweeps import DT, Stack


def stack(name, sizes=(7, 33, 6, 3), gain=(6.0, 4.0), **options):
    """Two spiking layers and a readout on the device, the first of several tiles, and the same in the oracle."""
    made = Stack(name, sizes=sizes, gain=gain, **options)
    made.net.to("cuda")
    return made


def inputs(batch=2, steps=6, n=7, density=0.3, seed=0):
    """Counts with repeated events among them."""
    return np.random.default_rng(seed).poisson(density, (batch, steps, n))


def check_active(active, record, band):
    """The active set is exactly the sites inside the band, with their u."""
    shape, edge = record.u.shape, np.inf if band is None else band
    rows = np.repeat(np.arange(shape[0] * shape[1]), np.diff(active.indptr))
    found = np.full((shape[0] * shape[1], shape[2]), np.nan)
    found[rows, active.indices] = active.u
    inside = np.abs(record.u.reshape(found.shape)) < edge
    assert np.array_equal(~np.isnan(found), inside)
    np.testing.assert_allclose(found[inside], record.u.reshape(found.shape)[inside], atol=1e-5)


def compare(stack, counts, tolerance=1e-9, lengths=None, margin=0.0, wanted_spikes=True):
    """Spikes, active sets, output and every gradient against the oracle; gradients to `tolerance` of the largest
    entry."""
    rng = np.random.default_rng(99)
    spikes = Spikes.from_dense(counts, DT, space=stack.space, lengths=lengths).to("cuda")
    out, hidden = stack.net(spikes, hidden=True)
    records = reference.net_forward(stack.oracle, counts.astype(np.float64), lengths)
    for layer, record in zip(hidden, records, strict=False):
        assert (np.abs(record.u) > margin).all(), "a site is at the threshold: choose another seed"
        packed = layer.to("cpu")
        assert np.array_equal(packed.to_dense(), record.s), "spikes differ"
        check_active(packed.active, record, stack.oracle[0].band)
        assert record.s.any() or not wanted_spikes, "the case has no spikes"
    wanted_out = records[-1].out
    np.testing.assert_allclose(out.numpy(), wanted_out, rtol=0, atol=tolerance * (1 + np.abs(wanted_out).max()))

    grad = rng.normal(size=out.shape)
    hidden_grads = {k: rng.normal(size=(len(counts), h.shape[2])) for k, h in enumerate(hidden)}
    weighted = sum(((h.counts() * hidden_grads[k]).sum() for k, h in enumerate(hidden)), start=0.0)
    ((out * grad).sum() + weighted).backward()
    spread = {k: cases.spread(g, records[k].s.shape, lengths) for k, g in hidden_grads.items()}
    wanted = reference.net_gradients(stack.oracle, counts, grad, lengths, spread)
    for k, layer in enumerate(stack.layers):
        for name, tensor in layer.named_parameters().items():
            truth = stack.wanted(k, name, wanted.layers[k])
            scale, found = max(np.abs(truth).max(), 1e-30), moved(tensor.grad, "cpu")
            assert found.shape == truth.shape
            error = np.abs(found - truth).max() / scale
            assert error < tolerance, f"layer {k} {name}: {error:.2e} of the largest entry {scale:.2e}"
    return wanted, hidden


def check_same_bits(net, given):
    """The same gradients from two runs."""
    found = []
    for _ in range(2):
        for t in net.parameters():
            t.grad = None
        net(given).sum().backward()
        found.append([t.grad.copy_to_host() for t in net.parameters()])
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def check_asks_for_nothing(step, monkeypatch):
    """Once its layers have run, `step`, which gives its loss, launches everything without a look at any result. Where
    nobody reads the loss, the next step begins with a look at the flags."""
    step().item()
    waits = []
    monkeypatch.setattr(memory, "fetch", lambda array, fetch=memory.fetch: waits.append(array.shape) or fetch(array))
    loss = step()
    assert waits == []
    loss.item()
    assert waits == [(3,), ()], "the flags and the loss"
    waits.clear()
    for _ in range(3):
        step()
    assert waits.count((3,)) == 2, "the flags, before each step but the first"
