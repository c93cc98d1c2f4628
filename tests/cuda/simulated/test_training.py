"""Whole training steps on the device: losses, optimisers, dropout and `fit` give what the CPU gives."""

import warnings

import numpy as np
import pytest

import nsim
from nsim import LI, LIF, TrainingError, losses, nn, optim
from nsim.datasets.recordings import EventData, Events
from tests import cases

SIZES = (7, 9, 6, 3)
LAYERS = ((7, 9, LIF()), (9, 3, LI(reduce="sum")))
LABELS = np.array([2, 0, 1])


def pair(**options):
    """The same small net twice, on the CPU and on the device, and a batch on both."""
    made = [cases.network("LIF", SIZES, **options) for _ in range(2)]
    given = cases.spikes(3, 6, 7, density=0.3)
    return (made[0], made[1].to("cuda")), (given, given.to("cuda"))


def all_losses(net, given):
    out, hidden = net(given, hidden=True)
    parts = losses.cross_entropy(out, LABELS, label_smoothing=0.1), losses.spike_rate_upper(hidden, limit=0.5)
    return parts[0] + parts[1] + losses.spike_rate_lower(hidden, limit=1.5, strength=2.0)


OPTIMISERS = {
    "adam": lambda p: optim.Adam(p, lr=0.02),
    "adamw": lambda p: optim.AdamW(p, lr=0.02),
    "sgd": lambda p: optim.SGD(p, lr=0.05, weight_decay=0.1),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
}


def same_weights(nets, tolerance=1e-6):
    for (key, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_training_steps_equal_those_of_the_cpu(name):
    nets, given = pair(dtype=np.float64, neuron={"learn": ("tau_mem", "threshold")})
    opts = [OPTIMISERS[name](net.parameters()) for net in nets]
    for _ in range(2):
        values = []
        for net, opt, spikes in zip(nets, opts, given, strict=True):
            loss = all_losses(net, spikes)
            opt.zero_grad()
            loss.backward()
            optim.clip_grad_norm(opt.params, 1.0)
            opt.step()
            values.append(loss.item())
        assert values[0] == pytest.approx(values[1], rel=1e-9)
    same_weights(nets)
    states = [opt.state_dict() for opt in opts]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        np.testing.assert_allclose(value, states[1][key], rtol=0, atol=1e-5, err_msg=key)
    opts[1].load_state_dict(states[0])
    assert opts[1].steps == opts[0].steps


def test_clipping_gives_the_norm_and_the_gradients_of_the_cpu():
    nets, given = pair(dtype=np.float64)
    norms = []
    for net, spikes in zip(nets, given, strict=True):
        losses.cross_entropy(net(spikes), LABELS).backward()
        norms.append(float(optim.clip_grad_norm(net.parameters(), 1e-3)))
        optim.clip_grad_value(net.parameters(), 1e-4)
    assert norms[0] == pytest.approx(norms[1], rel=1e-6) and norms[0] > 1e-3
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        np.testing.assert_allclose(b.grad.copy_to_host(), a.grad, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("per", ["neuron", "event"])
def test_dropout_draws_what_it_draws_on_the_cpu(per):
    given, found = cases.spikes(3, 6, 7, density=0.4), []
    for device in ("cpu", "cuda"):
        net = nn.Sequential(
            nn.Dropout(0.3, per=per), nn.Dense(7, 40, LIF(), dtype=np.float64, seed=0), nn.Dropout(0.5, per=per),
            nn.Dense(40, 3, LI(reduce="sum"), dtype=np.float64, seed=1),
        )  # fmt: skip
        net[1].weight.data *= np.geomspace(0.01, 4, 40)  # so that some are silent
        net.seed(5)
        out = net.to(device)(given.to(device))
        dropped = net[2](net[1](net[0](given.to(device))))
        (out.sum() + losses.spike_rate_lower(dropped, strength=1e4)).backward()
        found.append((out.numpy(), net[1].weight.to("cpu").numpy(), net.to("cpu")[1].weight.grad))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert np.abs(found[0][2]).max() > 0
    dropped = nn.Dropout(0.5, per=per)(given.to("cuda"))
    assert dropped.n_events == dropped.to("cpu").n_events < given.n_events
    fired = net.to("cuda")[1](given.to("cuda"))
    assert nn.Dropout(0.5, per=per)(fired).n_active == fired.n_active > 0


def data(samples=6, seed=0):
    """A few events for each sample, more of them in the units of its class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % 3
    times, units, starts = [], [], [0]
    for label in labels:
        count = int(rng.integers(8, 14))
        times.append(np.sort(rng.integers(0, 6500, count)))
        units.append(
            np.where(rng.random(count) < 0.6, 2 * label + rng.integers(0, 2, count), rng.integers(0, 7, count))
        )
        starts.append(starts[-1] + count)
    events = Events(
        np.concatenate(times).astype(np.int32), np.concatenate(units).astype(np.uint16), np.array(starts), (7,)
    )  # fmt: skip
    return EventData(events, labels, name="a few events", classes="abc")


def test_fit_and_evaluate_give_what_they_give_on_the_cpu():
    """Dropout, regularizers, clipping and a last batch that is smaller; the net ends where it was trained."""
    found = []
    for device in ("cpu", "cuda"):
        net = cases.network("LIF", SIZES)
        net = nn.Sequential(net[0], nn.Dropout(0.2), net[1], net[2])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", nsim.EventWarning)
            history = nsim.fit(
                net, data(), epochs=2, batch=4, dt=1e-3, steps=6, opt=optim.Adam(net.parameters(), lr=0.01), clip=1.0,
                val=data(3, seed=1), progress=False, device=device,
                regularizers=[lambda hidden: losses.spike_rate_upper(hidden, limit=1)],
            ).history  # fmt: skip
            result = nsim.evaluate(net, data(3, seed=1), batch=2, dt=1e-3, steps=6)
        assert net.device == device
        found.append((net, history, result))
    same_weights([net for net, _, _ in found], 1e-5)
    for key in ("loss", "penalty", "accuracy", "val_loss", "val_accuracy", "spikes_per_neuron", "active_fraction"):
        np.testing.assert_allclose(found[0][1][key], found[1][1][key], rtol=1e-4, err_msg=key)
    assert np.array_equal(found[0][2].predictions, found[1][2].predictions)


def test_a_loss_that_is_not_finite_stops_the_training_and_moves_nothing():
    net = cases.network("LIF", SIZES).to("cuda")
    before = net.state_dict()
    opt = optim.Adam(net.parameters())
    with pytest.raises(TrainingError, match="the loss is nan; all layers are finite, so the loss function made it"):
        nsim.fit(
            net, data(3), epochs=1, batch=3, dt=1e-3, steps=7, opt=opt, progress=False,
            loss=lambda out, labels: losses.cross_entropy(out, labels) * np.nan,
        )  # fmt: skip
    assert all(np.array_equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert set(opt.steps.values()) == {0}


def test_a_run_that_goes_on_ends_in_the_same_bits(tmp_path):
    """Checkpoints are written from the device and read back there; they load on the CPU too."""
    ends = []
    for parts in ((2,), (1, 2)):
        out = tmp_path / str(len(parts))
        for epochs in parts:
            net = nn.Sequential(*(nn.Dense(n, m, neuron, seed=n) for n, m, neuron in LAYERS))
            net[0].weight.data *= 4
            nsim.fit(net, data(4), epochs=epochs, batch=2, dt=1e-3, steps=7, out=out, progress=False, device="cuda")
        ends.append(net.state_dict())
        loaded, opt, _ = nsim.load(out / "last.h5")
        assert loaded.device == "cpu" and opt.steps == {"0.weight": 4, "1.weight": 4}
        assert all(np.array_equal(a, b) for a, b in zip(ends[-1].values(), loaded.state_dict().values(), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))
