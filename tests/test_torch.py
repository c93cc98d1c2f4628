"""With band=None the gradient is the ordinary dense surrogate gradient: that of torch's autograd, in float64."""

import numpy as np
import pytest
import torch

import nsim
from nsim import LI, Spikes, Tensor, losses, nn, optim

DT, SLOPE = 1e-3, 100.0


class Spike(torch.autograd.Function):
    """Step forward, fast sigmoid backward."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad / (SLOPE * u.abs() + 1) ** 2


def torch_layer(x, w, w_rec, tau, delay, detach, reset):
    """LIF with all that autograd needs kept, one step after the other: x [T, B, N] to spikes."""
    beta = np.exp(-DT / tau)
    v = s = torch.zeros(x.shape[1], w.shape[1], dtype=x.dtype)
    spikes = []
    for t in range(len(x)):
        drive = x[t - delay] @ w if t >= delay else torch.zeros_like(v)
        if w_rec is not None:
            drive = drive + s @ w_rec
        r = s.detach() if detach else s
        v = beta * v * (1 - r) + drive if reset == "zero" else beta * v + drive - r
        s = Spike.apply(v - 1)
        spikes.append(s)
    return torch.stack(spikes)


def ours(recurrent, delay, **options):
    """20-33-17-4 in float64, with spikes in both hidden layers."""
    layers = [
        nn.Dense(a, b, nsim.LIF(tau, band=None, **options), recurrent=recurrent, delay=delay, dtype=np.float64, seed=a)
        for a, b, tau in [(20, 33, 10e-3), (33, 17, 5e-3)]
    ]
    for layer in layers:
        layer.weight.data *= 2
    return nn.Sequential(*layers, nn.Dense(17, 4, nsim.LI(20e-3, reduce="sum"), delay=delay, dtype=np.float64, seed=2))


def torch_loss(counts, labels, weights, delay, detach, reset):
    """The same network's loss, from its weights by name."""
    x = torch.tensor(counts, dtype=torch.float64).swapaxes(0, 1)
    for k, tau in enumerate((10e-3, 5e-3)):
        x = torch_layer(x, weights[f"{k}.weight"], weights.get(f"{k}.weight_rec"), tau, delay, detach, reset)
        assert 0.005 < x.mean() < 0.5
    beta, o, total = np.exp(-DT / 20e-3), 0.0, 0.0
    for t in range(len(x)):
        o = beta * o + ((1 - beta) * x[t - delay] @ weights["2.weight"] if t >= delay else 0.0)
        total = total + o
    return torch.nn.functional.cross_entropy(total, torch.tensor(labels))


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("recurrent, delay", [(False, 0), (False, 1), (True, 1)])
def test_gradients_are_those_of_autograd(reset, detach, recurrent, delay):
    rng = np.random.default_rng(0)
    counts, labels = rng.poisson(0.1, (5, 60, 20)), rng.integers(0, 4, 5)
    net = ours(recurrent, delay, reset=reset, detach_reset=detach)
    loss = losses.cross_entropy(net(Spikes.from_dense(counts, DT)), labels)
    loss.backward()
    weights = {name: torch.tensor(t.data, requires_grad=True) for name, t in net.named_parameters().items()}
    theirs = torch_loss(counts, labels, weights, delay, detach, reset)
    theirs.backward()
    assert abs(loss.item() - theirs.item()) < 1e-12
    for name, tensor in net.named_parameters().items():
        truth = weights[name].grad.numpy()
        np.testing.assert_allclose(tensor.grad, truth, rtol=0, atol=1e-9 * np.abs(truth).max(), err_msg=name)


def test_two_trainings_stay_together():
    """Each with its own gradients and Adam. Weights are rounded far above the last bits of a sum, which the surrogate
    and Adam would enlarge tenfold a step."""
    rng = np.random.default_rng(3)
    net = ours(recurrent=True, delay=1)
    opt = optim.Adam(net.parameters(), lr=1e-2)
    weights = {name: torch.tensor(t.data, requires_grad=True) for name, t in net.named_parameters().items()}
    their_opt = torch.optim.Adam(weights.values(), lr=1e-2)
    for _ in range(20):
        counts, labels = rng.poisson(0.1, (5, 60, 20)), rng.integers(0, 4, 5)
        for array in (t.data for t in (*net.parameters(), *weights.values())):
            array[...] = (array * 2**24).round() / 2**24
        for name, tensor in net.named_parameters().items():
            np.testing.assert_array_equal(tensor.data, weights[name].detach().numpy())
        loss = losses.cross_entropy(net(Spikes.from_dense(counts, DT)), labels)
        theirs = torch_loss(counts, labels, weights, delay=1, detach=True, reset="subtract")
        assert abs(loss.item() - theirs.item()) < 1e-12
        for any_opt, any_loss in ((opt, loss), (their_opt, theirs)):
            any_opt.zero_grad()
            any_loss.backward()
            any_opt.step()


def test_tensors_of_torch_on_the_cpu_are_taken_as_arrays():
    layer = nn.Dense(3, 2, LI(reduce="sum"))
    given = torch.arange(6, dtype=torch.float32).reshape(3, 2)
    layer.load_state_dict({"weight": given})
    np.testing.assert_array_equal(layer.weight.data, given.numpy())
    tensor = Tensor(given, requires_grad=True)
    (tensor * 2).backward(torch.ones(3, 2))
    np.testing.assert_array_equal(tensor.grad, np.full((3, 2), 2))
