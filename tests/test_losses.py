"""Losses against plain NumPy and finite differences."""

import numpy as np
import pytest

from nsim import losses, nn, optim
from nsim.errors import ParameterError, ShapeError
from nsim.events import Spikes
from nsim.neurons import LI, LIF
from nsim.tape import Tensor
from tests import cases


class Counted:
    """Stands for the spikes of a layer: counts that are a leaf of the tape."""

    def __init__(self, counts):
        self.tensor, self.woken = Tensor(counts, requires_grad=True), None

    def counts(self, wake=False):
        self.woken = wake
        return self.tensor


def numeric_gradient(function, x, step=1e-6):
    """Central differences of function(x), a float, in every entry of x (float64, changed and restored)."""
    grad = np.zeros_like(x)
    for k in np.ndindex(x.shape):
        old = x[k]
        x[k] = old + step
        above = function()
        x[k] = old - step
        grad[k] = (above - function()) / (2 * step)
        x[k] = old
    return grad


def check_gradient(loss, tensor):
    """The tape's gradient of loss() with respect to tensor against finite differences."""
    expected = numeric_gradient(lambda: loss().item(), tensor.data)
    tensor.grad = None
    loss().backward()
    np.testing.assert_allclose(tensor.grad, expected, rtol=1e-6, atol=1e-8)


def plain_cross_entropy(scores, labels, smoothing=0.0):
    """[R, C], [R] -> [R], straight from the definition."""
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    y = np.full(scores.shape, smoothing / scores.shape[1])
    y[np.arange(len(labels)), labels] += 1 - smoothing
    return -(y * log_p).sum(axis=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(5, 7), (1, 3), (4, 1)])
def test_cross_entropy(shape, smoothing):
    rng = np.random.default_rng(0)
    x, labels = Tensor(rng.normal(size=shape), requires_grad=True), rng.integers(0, shape[1], shape[0])
    value = losses.cross_entropy(x, labels, label_smoothing=smoothing)
    assert value.shape == ()
    np.testing.assert_allclose(
        value.item(), plain_cross_entropy(x.data, labels, smoothing).mean(), rtol=1e-12, atol=1e-15
    )
    check_gradient(lambda: losses.cross_entropy(x, labels, label_smoothing=smoothing), x)


@pytest.mark.parametrize("lengths", [None, [4, 1, 2]])
def test_cross_entropy_per_step(lengths):
    rng = np.random.default_rng(1)
    x, labels = Tensor(rng.normal(size=(3, 4, 5)), requires_grad=True), np.array([4, 0, 2])
    per_sample = [
        plain_cross_entropy(
            x.data[b, : lengths[b] if lengths else 4], np.full(4, labels[b])[: lengths[b] if lengths else 4]
        ).mean()
        for b in range(3)
    ]
    value = losses.cross_entropy(x, labels, per_step=True, lengths=lengths)
    np.testing.assert_allclose(value.item(), np.mean(per_sample), rtol=1e-12)
    check_gradient(lambda: losses.cross_entropy(x, labels, per_step=True, lengths=lengths), x)


def test_cross_entropy_ignores_what_lies_past_the_end():
    x = Tensor(np.zeros((2, 3, 4)), requires_grad=True)
    x.data[0, 1:] = np.nan
    losses.cross_entropy(x, [0, 1], per_step=True, lengths=[1, 3]).backward()
    assert np.isfinite(x.grad).all() and not x.grad[0, 1:].any()


def test_a_readout_at_every_step_knows_the_true_lengths():
    given, labels = cases.spikes(3, 12, 9, lengths=[12, 4, 7], density=0.3), [0, 1, 2]
    layer = nn.Dense(9, 5, LI(reduce=None), seed=0)
    found = []
    for lengths in (None, given.lengths, [12, 12, 12]):
        loss = losses.cross_entropy(layer(given), labels, per_step=True, lengths=lengths)
        loss.backward()
        found.append((loss.item(), layer.weight.grad))
        layer.weight.grad = None
    assert found[0][0] == found[1][0] != found[2][0] and np.array_equal(found[0][1], found[1][1])


def test_cross_entropy_on_counts_and_large_scores():
    dense = np.zeros((2, 6, 3), int)
    dense[0, 2:5, 1] = 1
    dense[1, 0, 2] = 4
    value = losses.cross_entropy(Spikes.from_dense(dense, 1e-3), [1, 0])
    np.testing.assert_allclose(
        value.item(), plain_cross_entropy(dense.sum(axis=1).astype(float), [1, 0]).mean(), rtol=1e-6
    )
    huge = Tensor(np.array([[1e38, -1e38], [0, 1e4]], np.float32))
    assert losses.cross_entropy(huge, [0, 1]).item() == 0.0


def test_float32_stays_float32():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    value = losses.cross_entropy(x, [0, 1], label_smoothing=0.1) + losses.mse(x, np.zeros((2, 3)))
    value.backward()
    assert value.dtype == x.grad.dtype == np.float32


@pytest.mark.parametrize(
    ("labels", "error", "text"),
    [
        ([0, 5, 1], ParameterError, "sample 1 has label 5"),
        ([0, -1, 9], ParameterError, "sample 1 has label -1"),
        ([0.0, 1.5, 2.0], ParameterError, r"cross_entropy: sample 1 has label 1\.5; expected 0 to 4, whole numbers"),
        (["a", "b", "c"], ParameterError, "cross_entropy: labels such as 'a'"),
        ([0, 1], ShapeError, "each of 3 samples"),
        ([[0], [1], [2]], ShapeError, "each of 3 samples"),
    ],
)
def test_labels_are_checked(labels, error, text):
    with pytest.raises(error, match=text):
        losses.cross_entropy(Tensor(np.zeros((3, 5))), labels)


def test_cross_entropy_refuses_what_it_cannot_read():
    steps, reduced = Tensor(np.zeros((2, 4, 3))), Tensor(np.zeros((2, 3)))
    with pytest.raises(ShapeError, match="reduce the readout"):
        losses.cross_entropy(steps, [0, 1])
    with pytest.raises(ShapeError, match="reduce=None"):
        losses.cross_entropy(reduced, [0, 1], per_step=True)
    with pytest.raises(ParameterError, match=r"label_smoothing = 1\.5"):
        losses.cross_entropy(reduced, [0, 1], label_smoothing=1.5)
    with pytest.raises(ParameterError, match="label_smoothing = 'much'"):
        losses.cross_entropy(reduced, [0, 1], label_smoothing="much")
    for loss in (losses.cross_entropy, losses.mse):
        with pytest.raises(ParameterError, match=f"{loss.__name__}: output is ndarray, expected the Tensor or Spikes"):
            loss(reduced.data, [0, 1])
    with pytest.raises(ShapeError, match="lengths"):
        losses.cross_entropy(steps, [0, 1], per_step=True, lengths=[4, 5])


def test_mse():
    rng = np.random.default_rng(2)
    x, target = Tensor(rng.normal(size=(3, 4)), requires_grad=True), rng.normal(size=(3, 4))
    np.testing.assert_allclose(losses.mse(x, target).item(), ((x.data - target) ** 2).mean(), rtol=1e-12)
    assert losses.mse(x, Tensor(target)).item() == losses.mse(x, target).item()
    check_gradient(lambda: losses.mse(x, target), x)
    with pytest.raises(ShapeError, match=r"\(3, 1\)"):
        losses.mse(x, target[:, :1])


def test_rate_regularisers_are_the_papers():
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 3, (6, 5)).astype(float)
    upper = np.mean([0.06 * max(row.mean() - 0.7, 0) for row in counts])
    lower = np.mean([100 / 5 * sum(max(1e-3 - c, 0) ** 2 for c in row) for row in counts])
    assert upper > 0 and lower > 0
    layer = Counted(counts)
    np.testing.assert_allclose(losses.spike_rate_upper(layer, 0.7).item(), upper, rtol=1e-12)
    assert not layer.woken
    np.testing.assert_allclose(losses.spike_rate_lower(layer).item(), lower, rtol=1e-12)
    assert layer.woken
    two = [Counted(counts), Counted(2 * counts)]
    alone = [losses.spike_rate_upper(part, 0.7).item() for part in two]
    np.testing.assert_allclose(losses.spike_rate_upper(two, 0.7).item(), sum(alone), rtol=1e-12)


def test_gradients_of_the_rate_regularisers():
    layer = Counted(np.random.default_rng(4).uniform(0, 2, (6, 5)))
    check_gradient(lambda: losses.spike_rate_upper(layer, 0.9, strength=0.5), layer.tensor)
    check_gradient(lambda: losses.spike_rate_lower(layer, 1.1, strength=3.0), layer.tensor)


@pytest.mark.parametrize("loss", [losses.spike_rate_upper, losses.spike_rate_lower])
def test_rate_regularisers_refuse(loss):
    with pytest.raises(ParameterError, match="no layer"):
        loss([], 1.0)
    with pytest.raises(ParameterError, match="limit = 'few'"):
        loss(Counted(np.zeros((1, 1))), "few")
    for spikes in (3, np.zeros(3), [np.zeros(3)]):
        with pytest.raises(ParameterError, match="expected Spikes or a list of them"):
            loss(spikes, 1.0)
    with pytest.raises(ParameterError, match="limit = -1"):
        loss(Counted(np.zeros((1, 1))), -1)


def test_a_silent_layer_wakes_up():
    """Weights so small that no neuron comes into the band: only the lower-rate loss reaches them."""
    rng = np.random.default_rng(5)
    spikes = Spikes.from_dense((rng.random((8, 30, 20)) < 0.1).astype(int), 1e-3)
    layer = nn.Dense(20, 10, LIF(tau_mem=10e-3), seed=0)
    layer.weight.data[...] = np.abs(layer.weight.data) * 0.05
    assert layer(spikes).n_events == 0 and layer(spikes).active.u.size == 0
    opt = optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(60):
        loss = losses.spike_rate_lower(layer(spikes))
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert (layer(spikes).counts().data.sum(axis=0) > 0).all()


@pytest.mark.parametrize("band", [0.2, None])
def test_losses_on_one_layer_add_up(band):
    """Two rates and the readout meet at the hidden layer; with band=None the gradients of rates are views over time."""
    given = cases.spikes(4, 12, 9, density=0.4, seed=1)

    def gradient(*wanted):
        net = cases.network(neuron={"band": band}, dtype=np.float64)
        out, hidden = net(given, hidden=True)
        terms = {
            "task": lambda: losses.cross_entropy(out, np.array([0, 1, 2, 3])),
            "upper": lambda: losses.spike_rate_upper(hidden, limit=0.1),
            "lower": lambda: losses.spike_rate_lower(hidden, limit=5.0),
        }
        loss = sum((terms[name]() for name in wanted[1:]), terms[wanted[0]]())
        loss.backward()
        return [tensor.grad for tensor in net.parameters()]

    names = ("task", "upper", "lower")
    alone = [gradient(name) for name in names]
    for order in (names, names[::-1]):
        for together, *parts in zip(gradient(*order), *alone, strict=True):
            total = sum(part for part in parts if part is not None)  # rates do not reach the readout
            np.testing.assert_allclose(together, total, rtol=0, atol=1e-12 * np.abs(total).max())


@pytest.mark.parametrize("band", [0.2, None])
def test_counts_are_of_the_true_steps(band):
    """A bias makes the neurons fire at steps that the samples do not have; neither counts nor gradients see them."""
    layer = nn.Dense(9, 5, LIF(band=band), bias=True, seed=0)
    layer.bias.data[...] = 0.2
    found = []
    for lengths in (None, [12, 4, 7]):
        fired = layer(cases.spikes(3, 12, 9, lengths=lengths, density=0.3))
        counted = fired.counts()
        ends = [12] * 3 if lengths is None else lengths
        wanted = [fired.to_dense()[b, :end].sum(axis=0) for b, end in enumerate(ends)]
        np.testing.assert_array_equal(counted.data, wanted)
        counted.sum().backward()
        found.append([counted.data, layer.bias.grad])
        layer.bias.grad = layer.weight.grad = None
    assert (found[0][0] > found[1][0]).any() and np.abs(found[0][1] - found[1][1]).max() > 0
    short = layer(cases.spikes(3, 12, 9, density=0.3).cut(0, 4))  # the second sample alone, cut where it ends
    gradient = np.zeros((3, 5), np.float32)
    gradient[1] = 1
    (short.counts() * gradient).sum().backward()
    cut, layer.bias.grad = layer.bias.grad, None
    (layer(cases.spikes(3, 12, 9, lengths=[12, 4, 7], density=0.3)).counts() * gradient).sum().backward()
    np.testing.assert_allclose(layer.bias.grad, cut, rtol=1e-6)


def test_a_scaled_cross_entropy_has_a_scaled_gradient():
    x = Tensor(np.random.default_rng(0).normal(size=(5, 7)), requires_grad=True)
    check_gradient(lambda: 3 * losses.cross_entropy(x, [0, 1, 2, 3, 4]), x)


@pytest.mark.parametrize("band", [0.2, None])
def test_a_cut_that_begins_past_the_end_of_a_sample(band):
    """It has no step there: its mean is zero, and nothing of it reaches a weight."""
    counts = np.random.default_rng(0).poisson(1.0, (2, 10, 6))
    net = nn.Sequential(nn.Dense(6, 8, LIF(band=band), seed=0), nn.Dense(8, 3, LI(reduce="mean"), seed=1))
    net[0].weight.data *= 3  # so that it fires

    part = Spikes.from_dense(counts, 1e-3, lengths=[3, 10]).cut(5, 10)
    assert part.lengths.tolist() == [0, 5]
    out, (hidden,) = net(part, hidden=True)
    (losses.cross_entropy(out, [0, 1]) + hidden.counts().sum()).backward()
    assert not out.data[0].any()
    assert all(np.isfinite(tensor.grad).all() and tensor.grad.any() for tensor in net.parameters())
    per_step = losses.cross_entropy(Tensor(np.ones((2, 5, 3))), [0, 1], per_step=True, lengths=part.lengths)
    assert np.isfinite(per_step.item())
