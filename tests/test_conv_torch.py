"""A small spiking residual network, band=None, against torch: convolutions, pooling, addition, one autograd."""

import numpy as np
import torch

import nsim
from nsim import Spikes, losses, nn
from tests.test_torch import Spike

F = torch.nn.functional
DT, BETA, BETA_OUT = 1e-3, np.exp(-1e-3 / 10e-3), np.exp(-1e-3 / 20e-3)


def lif(drive):
    """[T, B, C, H, W] to spikes."""
    v = s = torch.zeros_like(drive[0])
    spikes = []
    for x in drive:
        v = BETA * v + x - s.detach()
        s = Spike.apply(v - 1)
        spikes.append(s)
    return torch.stack(spikes)


def conv(x, weight, bias=None, **options):
    """All steps at once; the weight as nsim has it, [kh, kw, C_in / groups, C_out]."""
    y = F.conv2d(x.flatten(0, 1), weight.permute(3, 2, 0, 1), bias, **options)
    return y.unflatten(0, x.shape[:2])


def pooled(pool, x, *options):
    return pool(x.flatten(0, 1), *options).unflatten(0, x.shape[:2])


def network(size=(9, 8)):
    """A stem, a block with the input as shortcut, pooling, a depthwise and strided block, pooling, a readout."""

    def layer(n_in, n_out, kernel, size, seed, **options):
        built = nn.Conv2d(
            n_in, n_out, kernel, nsim.LIF(10e-3, band=None), size=size, dtype=np.float64, seed=seed, **options
        )
        built.weight.data *= 1.5
        return built

    half = (4, 4)
    return nn.Sequential(
        layer(2, 4, 3, size, 0, padding=1, bias=True),
        nn.Residual(nn.Sequential(layer(4, 4, 3, size, 1, padding=1), layer(4, 4, 3, size, 2, padding=1, bias=True))),
        nn.MaxPool2d(2),
        nn.Residual(layer(4, 6, 3, half, 3, padding=1, stride=2, groups=2), layer(4, 6, 1, half, 4, stride=2)),
        nn.AvgPool2d(2, 1),
        nn.Flatten(),
        nn.Dense(6, 3, nsim.LI(20e-3, reduce="sum"), dtype=np.float64, seed=5),
    )


def torch_network(w, x):
    x = lif(conv(x, w["0.weight"], w["0.bias"], padding=1))
    body = lif(conv(x, w["1.body.0.weight"], padding=1))
    x = x + lif(conv(body, w["1.body.1.weight"], w["1.body.1.bias"], padding=1))
    x = pooled(F.max_pool2d, x, 2)
    body = lif(conv(x, w["3.body.0.weight"], padding=1, stride=2, groups=2))
    x = body + lif(conv(x, w["3.shortcut.0.weight"], stride=2))
    x = pooled(F.avg_pool2d, x, 2, 1)
    x = x.permute(0, 1, 3, 4, 2).flatten(2)
    o = total = 0
    for s in x:
        o = BETA_OUT * o + (1 - BETA_OUT) * s @ w["6.weight"]
        total = total + o
    return total


def test_a_residual_network_has_torchs_loss_and_gradients():
    rng = np.random.default_rng(0)
    net, labels = network(), np.array([0, 2, 1])
    counts = rng.poisson(0.15, (3, 25, 9, 8, 2))
    for bias in (net[0].bias, net[1].parts["body"][1].bias):
        bias.data[:] = rng.normal(0, 0.05, bias.shape)
    out, hidden = net(Spikes.from_dense(counts, DT), hidden=True)
    assert len(hidden) == 5 and all(0.02 < fired.density < 0.6 for fired in hidden)
    loss = losses.cross_entropy(out, labels)
    loss.backward()

    weights = {name: torch.tensor(t.data, requires_grad=True) for name, t in net.named_parameters().items()}
    x = torch.tensor(counts, dtype=torch.float64).permute(1, 0, 4, 2, 3)
    theirs = F.cross_entropy(torch_network(weights, x), torch.tensor(labels))
    theirs.backward()
    assert abs(loss.item() - theirs.item()) < 1e-10
    for name, tensor in net.named_parameters().items():
        truth = weights[name].grad.numpy()
        assert np.abs(truth).max() > 1e-6, f"{name}: nothing to compare"
        np.testing.assert_allclose(tensor.grad, truth, rtol=0, atol=1e-9 * np.abs(truth).max(), err_msg=name)


def test_a_residual_network_may_be_cut_anywhere():
    from tests.test_run import in_parts

    net = network()
    given = Spikes.from_dense(np.random.default_rng(1).poisson(0.15, (3, 12, 9, 8, 2)), DT)
    whole = net.run(given)
    assert np.array_equal(whole.output, net(given).data) and len(whole.spikes) == 5
    for cuts in ([5], [1, 2, 3, 11]):
        assert np.array_equal(in_parts(net, given, cuts)[-1].output, whole.output)
