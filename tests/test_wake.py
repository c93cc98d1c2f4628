"""The closest approach: the way by which a layer that is silent, outside its band, can be reached by one loss."""

import numpy as np
import pytest

from nsim import LIF, Sigmoid, Spikes, losses, nn, optim
from nsim.neurons import MODELS
from nsim.surrogates import SURROGATES, Triangular
from tests import cases, reference

TAU = {"tau_mem": 10e-3, "threshold": 1.0}


def silent(layer):
    """Weights so small that no neuron comes near its threshold."""
    layer.weight.data[...] = np.abs(layer.weight.data) * 0.01
    return layer


def train(net, given, loss, steps, lr):
    opt = optim.Adam(net.parameters(), lr=lr)
    for _ in range(steps):
        value = loss(net(given, hidden=True)[1])
        opt.zero_grad()
        value.backward()
        opt.step()


@pytest.mark.parametrize("name", cases.SPIKING)
def test_a_silent_layer_of_every_model_wakes_up(name):
    net = nn.Sequential(silent(nn.Dense(20, 10, MODELS[name](), seed=0)), nn.Dense(10, 3, MODELS["LI"](reduce="sum")))
    given = cases.spikes(4, 40, 20)
    (before,) = net(given, hidden=True)[1]
    assert before.n_events == 0 and before.active.u.size == 0
    train(net, given, losses.spike_rate_lower, 40, 0.05)
    (after,) = net(given, hidden=True)[1]
    assert (after.counts().data > 0).all(), "every neuron fires in every sample"


@pytest.mark.parametrize("band", [0.2, None, 3.0])
@pytest.mark.parametrize("name", SURROGATES)
def test_a_silent_layer_wakes_up_with_every_surrogate(name, band):
    """Also where g, at every step, is 0 or too small for a normal number."""
    narrow = {"Boxcar": {"width": 0.1}, "Triangular": {"slope": 10}, "Sigmoid": {"slope": 200}}.get(name, {})
    hidden = silent(nn.Dense(20, 10, LIF(surrogate=SURROGATES[name](**narrow), band=band), seed=0))
    net, given = nn.Sequential(hidden, nn.Dense(10, 3, MODELS["LI"](reduce="sum"))), cases.spikes(4, 40, 20)
    train(net, given, losses.spike_rate_lower, 40, 0.05)
    assert (hidden(given).counts().data > 0).all()


def test_a_neuron_in_the_band_but_outside_of_its_surrogate_wakes_up():
    """Its sites are listed, and g is 0 at each of them."""
    layer = nn.Dense(1, 1, LIF(surrogate=Triangular(slope=10)), seed=0)
    layer.weight.data[...] = 0.85
    out = layer(Spikes.from_dense(np.eye(1, 20)[:, :, None], cases.DT))
    assert not out.active.dense and len(out.active.u) == 1
    losses.spike_rate_lower(out).backward()
    assert layer.weight.grad.item() < 0


def test_two_silent_layers_wake_one_after_the_other():
    """The second has no input before the first wakes, and is reached from then on."""
    hidden = [silent(nn.Dense(n_in, n, LIF(), seed=n)) for n_in, n in ((20, 15), (15, 10))]
    net = nn.Sequential(*hidden, nn.Dense(10, 3, MODELS["LI"](reduce="sum"), seed=2))
    given = cases.spikes(4, 40, 20)
    assert not any(h.n_events for h in net(given, hidden=True)[1])
    train(net, given, losses.spike_rate_lower, 120, 0.05)
    assert all((h.counts().data.sum(0) > 0).all() for h in net(given, hidden=True)[1])


def test_no_other_loss_reaches_a_silent_layer():
    """Cross-entropy and the upper rate leave it as it is: their gradient stays that of the band, which is zero here."""
    net = nn.Sequential(silent(nn.Dense(20, 10, LIF(), seed=0)), nn.Dense(10, 3, MODELS["LI"](reduce="sum"), seed=1))
    given, labels = cases.spikes(4, 40, 20), [0, 1, 2, 0]
    out, hidden = net(given, hidden=True)
    loss = losses.cross_entropy(out, labels) + losses.spike_rate_upper(hidden, limit=0.0)
    (loss + (hidden[0].counts() * 3.0).sum()).backward()
    assert not cases.gradients(net)["0.weight"].any()
    losses.spike_rate_lower(net(given, hidden=True)[1]).backward()
    gradient = net[0].weight.grad
    assert (gradient[given.counts().data.sum(0) > 0] < 0).all(), "descent makes every weight grow that has an input"


def lif_gradients(layer, counts, grad_count, lengths=None):
    """Gradients of sum(grad_count * count) for a LIF layer with closest approaches, by plain loops in float64; every
    sample is cut to its length.

    Written from design section 1: lam enters at active sites as g dL/ds, with the recurrence, and at the closest
    approach of a neuron without active sites as g dL/dcount, with nothing else.
    """
    weight, band = layer.weight.data, layer.neuron.band
    recurrent = None if layer.weight_rec is None else layer.weight_rec.data
    beta, (batch, whole, n_in), n = np.exp(-cases.DT / TAU["tau_mem"]), counts.shape, weight.shape[1]
    grads = np.zeros((n_in, n)), np.zeros((n, n))
    quiet = np.zeros((batch, n), bool)
    for b in range(batch):
        steps = whole if lengths is None else lengths[b]
        u, s, v = np.zeros((steps, n)), np.zeros((steps + 1, n)), np.zeros(n)
        for t in range(steps):
            x = counts[b, t] @ weight + (s[t] @ recurrent if recurrent is not None else 0)
            v = beta * v + x - s[t]
            u[t] = v - 1
            s[t + 1] = u[t] > 0
        active = np.abs(u) < band
        quiet[b] = ~active.any(0)
        closest = np.where(quiet[b], u.argmax(0), -1)
        lam, asked = np.zeros(n), np.zeros(n)
        for t in reversed(range(steps)):
            lam = beta * lam
            lam += reference.fast_sigmoid(u[t]) * (active[t] * (grad_count[b] + asked) + (closest == t) * grad_count[b])
            grads[0][...] += np.outer(counts[b, t], lam)
            if recurrent is not None:
                grads[1][...] += np.outer(s[t], lam)
                asked = recurrent @ lam
    return grads, quiet


@pytest.mark.parametrize("lengths", [None, [4, 30, 1, 12, 7]])
@pytest.mark.parametrize("recurrent", [False, True])
def test_gradient_through_the_closest_approach(recurrent, lengths):
    """Against plain loops; neurons in the band, neurons far below it and neurons far above it, in one layer. What lies
    behind the end of a sample, where most neurons come closer, has no part in it."""
    layer = nn.Dense(9, 33, LIF(**TAU), recurrent=recurrent, dtype=np.float64, seed=0)
    layer.weight.data *= np.geomspace(0.025, 4, 33)
    dense = cases.counts(5, 30, 9)
    grad = np.random.default_rng(1).normal(size=(5, 33))
    out = layer(Spikes.from_dense(dense, cases.DT, lengths=lengths))
    assert not out.active.dense
    (out.counts(wake=True) * grad).sum().backward()
    (wanted, wanted_rec), quiet = lif_gradients(layer, dense, grad, lengths)
    assert 0.1 < quiet.mean() < 0.9
    np.testing.assert_allclose(layer.weight.grad, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())
    if recurrent:
        error = np.abs(layer.weight_rec.grad - wanted_rec).max()
        assert error < 1e-9 * np.abs(wanted_rec).max()


def test_only_neurons_without_an_active_site_are_touched():
    layer = nn.Dense(9, 33, LIF(**TAU), dtype=np.float64, seed=0)
    layer.weight.data *= np.geomspace(0.025, 4, 33)
    given, found = cases.spikes(5, 30, 9), []
    for wake in (False, True):
        out = layer(given)
        out.counts(wake=wake).sum().backward()
        found.append(layer.weight.grad)
        layer.weight.grad = None
    reached = np.zeros((5, 33), bool)
    rows = np.repeat(np.arange(5 * 30), np.diff(out.active.indptr))
    reached[rows // 30, out.active.indices] = True
    never_quiet = reached.all(0)
    assert never_quiet.any() and not never_quiet.all()
    difference = np.abs(found[1] - found[0]).max(0)
    assert not difference[never_quiet].any() and difference[~never_quiet].all()


def test_a_dense_active_set_wakes_its_neurons_too():
    """A wide band keeps u of every site; a neuron that never enters it is silent all the same."""
    v_init = np.where(np.arange(10) == 0, -50.0, 0.0)
    neuron = LIF(**TAU, band=3.0, surrogate=Sigmoid(0.1), v_init=v_init)
    layer = nn.Dense(9, 10, neuron, seed=0)
    out = layer(cases.spikes())
    assert out.active.dense and (out.active.u[:, :, 0] < -3).all()
    losses.spike_rate_lower(out, limit=5.0).backward()
    assert np.abs(layer.weight.grad[:, 0]).max() > 0


def test_of_equal_approaches_the_first_counts_and_no_input_does_no_harm():
    layer = silent(nn.Dense(9, 5, LIF(), seed=0))
    losses.spike_rate_lower(layer(Spikes.from_dense(np.zeros((2, 6, 9)), cases.DT))).backward()
    assert not layer.weight.grad.any()
    dense = np.zeros((1, 400, 9))
    dense[0, [2, 350], [3, 4]] = 1  # so far apart that the second finds v at rest again, to float32
    layer.weight.grad, layer.weight.data[...] = None, 0.1
    losses.spike_rate_lower(layer(Spikes.from_dense(dense, cases.DT))).backward()
    assert layer.weight.grad[3].all() and not np.delete(layer.weight.grad, 3, axis=0).any()
