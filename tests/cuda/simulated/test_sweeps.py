"""The device's sweeps against the oracle: the cases of `tests/test_sweeps.py`, at sizes that can be simulated."""

import numpy as np
import pytest

import nsim
from nsim import Spikes
from nsim.backend import moved
from nsim.neurons import MODELS
from nsim_cuda import jit, simulator
from nsim_cuda.events import packing
from nsim_cuda.shim import SIMULATED
from tests import reference
from tests.cuda.simulated.common import check_same_bits, compare, inputs, stack
from tests.test_sweeps import DT, SPIKING
from tests.test_wake import TAU, lif_gradients

SMALL = (7, 9, 6, 3)


@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("name", SPIKING)
def test_every_model_and_reset(name, reset, detach_reset):
    """With trained parameters, so that the states are recomputed; recurrent layers with delay and bias among them."""
    options = {"reset": reset, "detach_reset": detach_reset}
    if reset == "subtract":
        compare(stack(name, **options), inputs())
    compare(stack(name, recurrent=True, delay=1, bias=True, sizes=SMALL, **options), inputs())


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("name", SPIKING)
def test_without_trainable_parameters(name, reset):
    compare(stack(name, learn=False, reset=reset), inputs())
    compare(
        stack(name, learn=False, reset=reset, detach_reset=False, recurrent=True, bias=True, band=None, sizes=SMALL),
        inputs(batch=2, steps=4),
    )


@pytest.mark.parametrize("name", SPIKING)
def test_float32(name):
    """dg/g is about 200 dv near the threshold: v right to 1e-6 gives gradients right to 3e-4 of the largest entry."""
    compare(stack(name, dtype=np.float32, learn=False, sizes=SMALL), inputs(seed=3), 3e-4, margin=1e-5)
    compare(stack(name, dtype=np.float32, sizes=SMALL), inputs(seed=3), 3e-4, margin=1e-5)


@pytest.mark.parametrize("band, delay", [(0.02, 0), (0.2, 3), (1.0, 1), (None, 0), (0.2, 50)])
def test_bands_and_delays(band, delay):
    compare(stack("LIF", band=band, delay=delay, sizes=SMALL), inputs(), wanted_spikes=delay < 3)


@pytest.mark.parametrize(
    "surrogate",
    [nsim.FastSigmoid(10), nsim.ATan(3), nsim.Triangular(2), nsim.Boxcar(0.1), nsim.Sigmoid(5)],
    ids=repr,
)
def test_surrogates(surrogate):
    compare(stack("LIF", surrogate=surrogate, band=None, recurrent=True, sizes=SMALL), inputs(batch=2))


@pytest.mark.parametrize("reduce", [None, "sum", "mean", "max", "last"])
@pytest.mark.parametrize("learn", [False, True])
def test_readout_reductions(reduce, learn):
    compare(stack("LIF", reduce=reduce, learn=learn, sizes=SMALL, delay=1, bias=True), inputs())
    compare(stack("LIF", reduce=reduce, learn=learn, sizes=SMALL), inputs(batch=3), lengths=np.array([6, 1, 4]))


@pytest.mark.parametrize("batch, steps, n", [(1, 1, 1), (1, 1, 5), (1, 7, 5), (9, 3, 3)])
@pytest.mark.parametrize("density", [0.0, 0.2, 3.0])
def test_sizes_and_densities(batch, steps, n, density, monkeypatch):
    """One sample, one step, one neuron, no event, every input at every step; groups of several samples."""
    monkeypatch.setattr(jit, "FREE_BYTES", 0)
    monkeypatch.setattr(jit, "FILLING", 4)
    gain = (6.0, 4.0) if density < 1 else (1.5, 4.0)
    made = stack("LIF", sizes=(n, 40, 5, 2), gain=gain)
    compare(made, inputs(batch, steps, n, density), wanted_spikes=False)


def test_layers_of_more_neurons_than_threads():
    """Several neurons of a recurrent layer for each thread, several tiles of a layer below, a readout of several
    blocks."""
    compare(stack("LIF", sizes=(4, 70, 40, 33), recurrent=True, learn=False, gain=(4.0, 1.0)), inputs(1, 3, 4))
    compare(stack("LIF", sizes=(4, 40, 70, 33), learn=False, gain=(4.0, 1.0)), inputs(1, 3, 4))


@pytest.mark.skipif(not SIMULATED, reason="on a GPU blocks run at the same time anyway")
@pytest.mark.parametrize("options", [{"learn": True}, {"learn": False, "reset": "zero"}])
def test_blocks_of_a_launch_in_any_order(options):
    """Several tiles, forward and backward, of which the backward ones ask for spikes."""
    for seed in range(2):
        with simulator.interleaved(seed):
            compare(stack("LIF", sizes=(7, 33, 3), gain=(6.0,), **options), inputs(steps=12, seed=seed))


@pytest.mark.parametrize("options", [{"learn": True}, {"learn": False, "reset": "zero"}])
def test_tiles_of_a_wide_layer(options):
    """Tiles that ask for spikes at the size of a GPU's blocks, many at a time there: the same bits again."""
    batch, steps = (2, 3) if SIMULATED else (64, 40)
    made = stack("LIF", sizes=(7, 200, 3), gain=(6.0,), **options)
    compare(made, inputs(batch, steps))
    check_same_bits(made.net, Spikes.from_dense(inputs(batch, steps), DT).to("cuda"))


def test_graded_and_repeated_events():
    sizes = np.random.default_rng(0).normal(size=(2, 6, 7)).astype(np.float32)
    compare(stack("LIF", sizes=SMALL), sizes * (inputs() > 0))
    repeated = np.zeros((2, 4, 7), int)
    repeated[:, :, 2], repeated[0, 1, 3], repeated[1, 2, 6] = 1, 5, 2
    compare(stack("LIF", sizes=SMALL, gain=(9.0, 4.0)), repeated)


def test_gradient_on_hidden_spikes_is_that_of_the_oracle():
    made, counts = stack("LIF", learn=False), inputs()
    out, hidden = made.net(Spikes.from_dense(counts, DT).to("cuda"), hidden=True)
    hidden[0].retain_grad()
    grad = np.random.default_rng(1).normal(size=out.shape)
    (out * grad).sum().backward()
    wanted = reference.net_gradients(made.oracle, counts, grad).ds[0]
    active = hidden[0].active
    indptr, order = packing(active.ptr.copy_to_host(), len(counts))
    rows, sites = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), active.indices.copy_to_host()[order]
    assert len(sites) > 10
    found = hidden[0].grad.active.copy_to_host()[order]
    np.testing.assert_allclose(found, wanted.reshape(-1, 33)[rows, sites], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("recurrent, lengths", [(False, None), (True, None), (True, [6, 2, 4])])
def test_gradient_through_the_closest_approach(recurrent, lengths):
    """Neurons in the band, neurons far below it and neurons far above it, in one layer, against plain loops."""
    layer = nsim.nn.Dense(5, 33, nsim.LIF(**TAU), recurrent=recurrent, dtype=np.float64, seed=0)
    layer.weight.data *= np.geomspace(0.05, 8, 33)
    counts = inputs(batch=3, n=5)
    grad = np.random.default_rng(1).normal(size=(3, 33))
    grad[2] = 0  # a sample that wants nothing
    (wanted, wanted_rec), quiet = lif_gradients(layer, counts, grad, lengths)
    assert 0.1 < quiet.mean() < 0.9
    out = layer.to("cuda")(Spikes.from_dense(counts, DT, lengths=lengths).to("cuda"))
    ((out.counts(wake=True) * (0.25 * grad)).sum() + (out.counts(wake=True) * (0.75 * grad)).sum()).backward()
    found = layer.weight.grad.copy_to_host()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())
    if recurrent:
        error = np.abs(layer.weight_rec.grad.copy_to_host() - wanted_rec).max()
        assert error < 1e-9 * np.abs(wanted_rec).max()


COMPACT = {"surrogate": nsim.surrogates.Boxcar(0.1)}  # 0 at the closest approach


@pytest.mark.parametrize(
    "name, options", [*((name, {}) for name in SPIKING), ("LIF", COMPACT), ("LIF", COMPACT | {"band": None})]
)
def test_a_silent_layer_of_every_model_is_reached(name, options):
    layer = nsim.nn.Dense(5, 6, MODELS[name](learn="threshold", **options), dtype=np.float64, seed=0)
    layer.weight.data[...] = np.abs(layer.weight.data) * 0.02
    given, found = Spikes.from_dense(inputs(batch=2, n=5), DT), []
    for device in ("cpu", "cuda"):
        layer.to(device)
        nsim.losses.spike_rate_lower(layer(given.to(device))).backward()
        found.append([np.array(moved(t.grad, "cpu")) for t in layer.parameters()])
        for t in layer.parameters():
            t.grad = None
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=0)
    assert np.abs(found[0][0]).max() > 0


def test_the_same_bits_from_run_to_run():
    made = stack("LIF", recurrent=True, sizes=SMALL, dtype=np.float32)
    check_same_bits(made.net, Spikes.from_dense(inputs(), DT).to("cuda"))
