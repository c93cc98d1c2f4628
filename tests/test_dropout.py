"""Dropout on spikes: one choice for an event and the site under it, drawn anew at each call, off in evaluation."""

import numpy as np
import pytest

from nsim import LI, LIF, ParameterError, Spikes, losses, nn
from tests import cases, reference


def mask_of(dropout, shape, seed):
    """The factor of every site [B, T, N], read off a batch in which every site has one event."""
    dropout.seed(seed)
    return dropout(Spikes.from_dense(np.ones(shape, int), cases.DT)).to_dense()


@pytest.mark.parametrize("per", ["neuron", "event"])
def test_dropout_scales_what_it_keeps(per):
    drop = nn.Dropout(0.25, per=per)
    mask = mask_of(drop, (20, 30, 40), 3)
    assert set(np.unique(mask)) == {0, np.float32(1 / 0.75)}
    choices = 20 * 40 * (1 if per == "neuron" else 30)
    assert abs(mask.mean() - 1) < 5 * np.sqrt(0.25 / 0.75 / choices)
    assert (mask == mask[:, :1]).all() == (per == "neuron")
    again, other = mask_of(drop, (20, 30, 40), 3), mask_of(drop, (20, 30, 40), 4)
    assert cases.same_bits(mask, again) and not cases.same_bits(mask, other)


def test_dropout_draws_anew_at_each_call_and_place():
    every = Spikes.from_dense(np.ones((2, 3, 50), int), cases.DT)
    drop = nn.Dropout(0.5)
    drop.seed(1)
    first, second = drop(every), drop(every)
    assert not cases.same_events(first, second)
    drop.seed(1, epoch=1)
    assert not cases.same_events(drop(every), first)
    drop.seed(1)
    drop.name = "4"
    assert not cases.same_events(drop(every), first)


def test_dropout_keeps_repeated_and_graded_events_together():
    drop = nn.Dropout(0.5, per="event")
    mask = mask_of(drop, (3, 12, 9), 5)
    dense = np.random.default_rng(0).poisson(1.0, (3, 12, 9))
    for amounts in (dense, dense * 0.5):
        drop.seed(5)
        np.testing.assert_array_equal(drop(Spikes.from_dense(amounts, cases.DT)).to_dense(), amounts * mask)


def test_dropout_is_off_outside_training():
    net = nn.Sequential(nn.Dense(9, 8, LIF(), seed=0), nn.Dropout(0.5), nn.Dense(8, 5, LI(), seed=1))
    given = cases.spikes()
    assert net.training and net.eval() is net and not net[1].training
    assert net[1](given) is given and nn.Dropout(0.0)(given) is given
    assert cases.same_bits(net(given).data, net(given).data)
    assert cases.same_bits(net.run(given).output, net(given).data)
    assert net.train()[1].training
    for p in (-0.1, 1.0, np.nan):
        with pytest.raises(ParameterError, match=r"p = .*: expected a number of at least 0 and below 1"):
            nn.Dropout(p)
    with pytest.raises(ParameterError, match="per = 'step'"):
        nn.Dropout(per="step")


@pytest.mark.parametrize("band", [0.2, None])
@pytest.mark.parametrize("per", ["neuron", "event"])
def test_gradient_through_dropout_is_the_oracles(per, band):
    """The same factor at an event and at the active site under it: exact in float64."""
    neuron = {"tau_mem": 10e-3, "threshold": 1.0}
    first = nn.Dense(9, 33, LIF(**neuron, band=band), dtype=np.float64, seed=0)
    first.weight.data *= 2
    drop, last = nn.Dropout(0.4, per=per), nn.Dense(33, 5, LI(tau_mem=20e-3), dtype=np.float64, seed=1)
    net = nn.Sequential(first, drop, last)
    dense = cases.counts(steps=30)
    mask = mask_of(drop, (3, 30, 33), 6).astype(np.float64)
    drop.seed(6)
    out, (hidden,) = net(Spikes.from_dense(dense, cases.DT), hidden=True)

    lower = reference.Layer("LIF", first.weight.data, neuron, cases.DT, band=band)
    upper = reference.Layer("LI", last.weight.data, {"tau_mem": 20e-3}, cases.DT)
    below = reference.layer_forward(lower, dense.astype(np.float64))
    above = reference.layer_forward(upper, below.out * mask)
    np.testing.assert_array_equal(hidden.to_dense(), below.out)
    np.testing.assert_allclose(out.data, above.out, rtol=1e-6, atol=1e-7)  # dropout's factors are float32

    grad = np.random.default_rng(8).normal(size=out.shape)
    (out * grad).sum().backward()
    upper_grads, grad_in = reference.layer_backward(upper, above, grad)
    lower_grads, _ = reference.layer_backward(lower, below, grad_in * mask)
    for layer, wanted in ((first, lower_grads), (last, upper_grads)):
        np.testing.assert_allclose(
            layer.weight.grad, wanted["weight"], rtol=0, atol=1e-6 * np.abs(wanted["weight"]).max()
        )


@pytest.mark.parametrize("per", ["neuron", "event"])
def test_a_silent_layer_is_reached_through_dropout(per):
    """A neuron that is left out of every sample is not."""
    layer, drop = nn.Dense(9, 33, LIF(), dtype=np.float64, seed=0), nn.Dropout(0.5, per=per)
    layer.weight.data[...] = np.abs(layer.weight.data) * 0.01
    found = []
    for through in (lambda fired: fired, drop):
        drop.seed(6)
        losses.spike_rate_lower(through(layer(cases.spikes()))).backward()
        found.append(layer.weight.grad)
        layer.weight.grad = None
    kept = mask_of(drop, (3, 12, 33), 6)[:, 0].any(axis=0) if per == "neuron" else np.ones(33, bool)
    assert (found[0].any(axis=0)).all() and np.array_equal(found[1].any(axis=0), kept)
    if per == "event":
        np.testing.assert_array_equal(found[1], found[0])
