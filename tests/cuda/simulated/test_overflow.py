"""Lists that prove too short on the device: nothing is cut off, and what was cut short is not trained on."""

import numpy as np
import pytest

import nsim
from nsim import losses, optim
from nsim.errors import StepOverflow
from nsim_cuda.launch import Room, room_of
from tests import cases
from tests.cuda.simulated.test_training import LABELS, SIZES, data, pair, same_weights


@pytest.fixture(autouse=True)
def no_slack(monkeypatch):
    """Rooms of exactly what is known to be needed, and of one entry at first."""
    monkeypatch.setattr(
        Room, "entries", lambda self, which, steps, width: min(steps * width, max(1, self.sizes[which]))
    )


def shrink(net, size=1):
    """As after steps in which hardly anything fired."""
    for layer in net:
        if layer.neuron.spiking:
            room_of(layer).sizes = [size, size]


def step(net, opt, spikes):
    out, hidden = net(spikes, hidden=True)
    loss = losses.cross_entropy(out, LABELS) + losses.spike_rate_upper(hidden, limit=0.5)
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss


def test_the_first_call_and_calls_without_a_tape_grow_until_everything_fits():
    (cpu, cuda), (given, there) = pair()
    with nsim.no_grad():
        assert np.array_equal(cpu[0](given).to_dense(), cuda[0](there).to_dense())
        shrink([cuda[0]])
        assert np.array_equal(cpu[0](given).to_dense(), cuda[0](there).to_dense())
    np.testing.assert_allclose(cpu(given).numpy(), cuda(there).numpy(), rtol=1e-5)


def test_a_step_that_did_not_fit_moves_nothing_and_can_be_made_again():
    nets, given = pair(dtype=np.float64)
    opts = [optim.Adam(net.parameters(), lr=0.02) for net in nets]
    for net, opt, spikes in zip(nets, opts, given, strict=True):
        step(net, opt, spikes).item()
    before = nets[1].state_dict()
    shrink(nets[1])
    loss = step(nets[1], opts[1], given[1])
    with pytest.raises(StepOverflow, match="make the step again"):
        loss.item()
    assert all(np.array_equal(a, b) for a, b in zip(before.values(), nets[1].state_dict().values(), strict=True))
    assert set(opts[1].steps.values()) == {1}
    tries = 0
    while True:
        try:
            step(nets[1], opts[1], given[1]).item()
            break
        except StepOverflow:
            tries += 1
    assert tries <= 2
    step(nets[0], opts[0], given[0])
    same_weights(nets)


def test_a_loop_that_never_reads_its_loss_is_told_at_the_next_step():
    (_, net), (_, given) = pair()
    opt = optim.SGD(net.parameters(), lr=0.1)
    step(net, opt, given)
    shrink(net)
    step(net, opt, given)
    with pytest.raises(StepOverflow):
        step(net, opt, given)


def test_events_of_a_sweep_that_did_not_fit_cannot_be_read():
    (_, net), (_, given) = pair()
    net[0](given)
    shrink([net[0]])
    out = net[0](given)
    with pytest.raises(StepOverflow):
        out.to_dense()


def test_fit_makes_such_a_step_again(monkeypatch):
    """The rooms forget all they know before each batch, so that every step after the first has to be made again."""
    found, again = [], []
    for device in ("cpu", "cuda"):
        net = cases.network("LIF", SIZES)
        block = nsim.nn.Residual(nsim.nn.Dropout(0.2))
        net = nsim.nn.Sequential(net[0], nsim.nn.Dropout(0.2), net[1], block, net[2])
        given = data(9)

        def batches(*args, given=given, net=net, device=device, **options):
            for batch in type(given).batches(given, *args, **options):
                if device == "cuda":
                    shrink(layer for layer in net if hasattr(layer, "neuron"))
                yield batch

        given.batches = batches
        train = nsim.train._Run.attempt

        def counted(run, *args, train=train, device=device):
            again.append(device)
            return train(run, *args)

        monkeypatch.setattr(nsim.train._Run, "attempt", counted)
        nsim.fit(net, given, epochs=1, batch=3, dt=1e-3, steps=7, seed=3, progress=False, device=device)
        monkeypatch.setattr(nsim.train._Run, "attempt", train)
        found.append(net)
    assert again.count("cpu") == 3 and again.count("cuda") > 4
    same_weights(found, 1e-5)
