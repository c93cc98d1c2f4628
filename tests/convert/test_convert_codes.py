"""Codes step by step: the whole network against neurons that are stepped one after the other, written out in NumPy."""

from functools import partial

import numpy as np
import pytest

from nsim import ann, convert
from nsim.convert.make import assemble
from nsim.errors import ParameterError
from tests.convert.small import images, network, with_pools

CODES = {
    "half": convert.IF(), "zero": convert.IF("zero"), "signed": convert.IF(signed=True), "phase": convert.Phase(3),
    "burst": convert.IF(burst=3), "signed burst": convert.IF(0.25, signed=True, burst=2),
    "bistable": convert.Bistable(3), "pipelined": convert.Bistable(2, pipelined=True),
    "bistable burst": convert.Bistable(2, burst=3), "pipelined burst": convert.Bistable(3, pipelined=True, burst=2),
}  # fmt: skip


def dyadic(shape, rng, largest=6):
    return (rng.integers(-largest, largest + 1, shape) / 8).astype(np.float32)


def chain(rng):
    """Three linear layers; weights and thresholds with exact sums."""
    net = ann.Graph()
    x = net.input((5,))
    for k, n in enumerate((7, 6)):
        x = net.relu(net.linear(x, n), name=f"relu{k}")
    net.linear(x, 4)
    for tensor in net.parameters():
        tensor.data[...] = dyadic(tensor.shape, rng)
    return net, {"relu0": np.array([1.0]), "relu1": np.array([2.0])}


def step_by_step(net, scales, x, steps, code):
    """Spikes of both layers and drive of the readout, one image, one step and one layer after the other."""
    linear = [node.operation for node in net if isinstance(node.operation, ann.Linear)]
    weights = [(op.weight.data.astype(float), op.bias.data.astype(float)) for op in linear]
    thresholds = [scales["relu0"][0], scales["relu1"][0]]
    bistable, phase = isinstance(code, convert.Bistable), isinstance(code, convert.Phase)
    phases, half = code.cycle, 0.5 ** (code.cycle + 1) / code.burst
    v = [
        np.full(len(b), 0.0 if phase or bistable else code.v_init * t)
        for (_, b), t in zip(weights, thresholds, strict=False)
    ]
    waiting, sent = [np.zeros_like(a) for a in v], [np.zeros_like(a) for a in v]
    spikes, drives = [[], []], []
    for t in range(steps):
        k, c = t % phases, t // phases
        size = 0.5 ** (1 + k) / code.burst if bistable or phase else 1.0
        share = 0.5 ** (1 + k) / (1 - 0.5**phases) if bistable or phase else 1.0
        below = None
        for layer, (w, b) in enumerate(weights):
            came = share * (b + (w @ x if layer == 0 else 0)) + (0 if below is None else w @ below)
            if bistable:
                came = came if c >= layer and (code.pipelined or (c + layer) % 2 == 0) else 0 * came
            if layer == 2:
                drives.append(came)
                break
            theta = thresholds[layer] * size
            if not bistable:
                v[layer] = v[layer] + came
                if code.valued:
                    number = np.clip(
                        np.floor(v[layer] / theta),
                        -np.minimum(sent[layer], code.burst if code.signed else 0),
                        code.burst,
                    )
                else:
                    number = (v[layer] >= theta) * 1.0
            else:
                if k == 0 and code.pipelined:
                    waiting[layer], v[layer] = v[layer] + half * thresholds[layer], 0 * v[layer]
                elif k == 0 and (c + layer) % 2 == 0:
                    v[layer] = 0 * v[layer]
                elif k == 0:
                    waiting[layer] = v[layer] + half * thresholds[layer]
                v[layer] = v[layer] + came
                fires = c > layer and (code.pipelined or (c + layer) % 2 == 1)
                number = np.clip(np.floor(waiting[layer] / theta), 0, code.burst) * fires
                waiting[layer] = waiting[layer] - number * theta
            if not bistable:
                v[layer] = v[layer] - number * theta
            sent[layer] = sent[layer] + number
            below = number * theta
            spikes[layer].append(number)
    return [np.array(s) for s in spikes], np.array(drives)


@pytest.mark.parametrize("name", CODES)
def test_every_step_is_that_of_neurons_written_out(name):
    rng, code, steps = np.random.default_rng(5), CODES[name], 24
    net, scales = chain(rng)
    images = dyadic((6, 5), rng, 12)
    if code.cycle > 1:  # their shares of the bias, Pi / (1 - 2^-K), are not exact, so that ties must not occur
        for a in (*(tensor.data for tensor in net.parameters()), images):
            a += rng.normal(scale=0.1, size=a.shape)
    snn = assemble(net, code, scales, net.shapes((5,)))
    found = snn.activity(images, steps)
    some = 0
    for b, x in enumerate(images):
        spikes, drives = step_by_step(net, scales, x.astype(float), steps, code)
        for layer in range(2):
            assert found.spikes[f"relu{layer}"][b] == np.abs(spikes[layer]).sum(), (b, layer)
            some += np.count_nonzero(spikes[layer])
        ends = code.ends(steps, 2)
        for t in range(steps):
            complete = ends[: t + 1]
            last = np.flatnonzero(complete)[-1] + 1 if complete.any() else 0
            expected = drives[:last].sum(0) / max(1, complete.sum())
            np.testing.assert_allclose(found.logits[b, t], expected, rtol=1e-6, atol=1e-6)
    assert some > 50


def test_negative_spikes_undo_what_came_too_early():
    """Input that drives first and inhibits later: the count ends at the quantised sum, where plain IF keeps more."""
    net = ann.Graph()
    x = net.relu(net.linear(net.input((1,)), 2), name="relu0")
    net.linear(net.relu(net.linear(x, 1), name="relu1"), 1)
    first, second, last = (node.operation for node in net if isinstance(node.operation, ann.Linear))
    first.weight.data[...], second.weight.data[...], last.weight.data[...] = [[1], [0.5]], [[1, -2]], 1
    scales = {"relu0": np.ones(1), "relu1": np.ones(1)}
    images = np.full((1, 1), 0.5, np.float32)  # rates 1/2 and 1/4, whose sum is 0; the first spike drives
    ends = {
        signed: assemble(net, convert.IF("half", signed=signed), scales, net.shapes((1,))).activity(images, 16)
        for signed in (False, True)
    }
    assert ends[False].values["relu1"].item() == 1 / 16
    assert ends[True].values["relu1"].item() == 0
    assert ends[True].spikes["relu1"] >= 4


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("code", [convert.Bistable(2, pipelined=True), convert.Bistable(5, pipelined=True)])
def test_a_stream_gives_what_single_runs_give(code, size):
    rng = np.random.default_rng(6)
    net, scales = chain(rng)
    images = dyadic((size, 5), rng, 12)
    snn = assemble(net, code, scales, net.shapes((5,)))
    np.testing.assert_array_equal(snn.stream(images), snn(images, snn.first_answer)[:, -1])


def test_a_stream_longer_than_one_block_of_drives(monkeypatch):
    monkeypatch.setattr(convert.network, "BLOCK_BYTES", 1)
    rng = np.random.default_rng(6)
    net, scales = chain(rng)
    images = dyadic((7, 5), rng, 12)
    snn = assemble(net, convert.Bistable(2, pipelined=True), scales, net.shapes((5,)))
    np.testing.assert_array_equal(snn.stream(images), snn(images, snn.first_answer)[:, -1])


def test_only_two_membranes_can_stream():
    net, scales = chain(np.random.default_rng(0))
    snn = assemble(net, convert.Bistable(2), scales, net.shapes((5,)))
    with pytest.raises(ParameterError, match="pipelined=True"):
        snn.stream(np.zeros((1, 5), np.float32))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: convert.Bistable(0), "phases = 0"), (lambda: convert.Bistable(2.5), "phases = 2.5"),
        (lambda: convert.Phase(17), "phases = 17"), (lambda: convert.IF("full"), "v_init = 'full'"),
        (lambda: convert.IF(1.5), "v_init = 1.5"), (lambda: convert.IF(burst=0), "burst = 0"),
        (lambda: convert.Bistable(None), "phases = None"), (lambda: convert.Bistable(np.nan), "phases = nan"),
        (lambda: convert.IF(None), "v_init = None"), (lambda: convert.IF(True), "v_init = True"),
        (lambda: convert.Bistable(pipelined="no"), "pipelined = 'no'"),
        (lambda: convert.IF(signed="no"), "signed = 'no'"), (lambda: convert.IF(signed=np.zeros(2)), "signed = array"),
        (lambda: convert.Bistable(burst=0), r"convert.Bistable: burst = 0"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(make, text):
    with pytest.raises(ParameterError, match=text):
        make()


def test_codes_print_their_options():
    assert repr(convert.Bistable(4)) == "Bistable(phases=4, pipelined=False, burst=1)"
    assert repr(convert.IF()) == "IF(v_init=0.5, signed=False, burst=1)"


@pytest.mark.parametrize("make", [network, partial(with_pools, "before norm"), partial(with_pools, "two readers")])
def test_a_stream_through_pools_and_relays_gives_what_single_runs_give(make):
    net, x = make(), images(7)
    snn = convert.to_spiking(net, x, convert.Bistable(4, pipelined=True), percentile=100)
    expected = snn(x, snn.first_answer)[:, -1]
    np.testing.assert_allclose(snn.stream(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_first_answer_of_phase_coding_comes_after_a_cycle():
    assert convert.to_spiking(network(), images(), convert.Phase(4)).first_answer == 4
