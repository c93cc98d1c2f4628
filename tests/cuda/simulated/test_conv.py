"""nn.Conv2d on the device against the oracle with the convolution written out as a matrix: the shapes and options of
`tests/test_conv.py`, at sizes that can be simulated."""

import numpy as np
import pytest

from nsim import LI, LIF, DeviceError, Spikes, nn
from nsim.backend import moved
from nsim_cuda import drive, jit
from nsim_cuda.events import packing
from tests import cases
from tests.cuda.simulated.common import check_same_bits, compare
from tests.test_conv import SHAPES, SPIKING, Stack, amounts
from tests.unrolled import Unrolled


def stack(shape, *args, **options):
    """Two convolutions and a readout on the device, and the same in the oracle."""
    made = Stack(shape, *args, **options)
    made.net.to("cuda")
    return made


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(shape):
    made = stack(shape, learn=False, bias=True)
    compare(made, amounts(made.space, 2, 4, 0.3))


@pytest.mark.parametrize("reset, detach_reset", [("subtract", True), ("zero", False)])
@pytest.mark.parametrize("name", SPIKING)
def test_every_model_with_trained_parameters(name, reset, detach_reset):
    made = stack("one channel", name, reset=reset, detach_reset=detach_reset, delay=1)
    compare(made, amounts(made.space, 2, 6, 0.3))


@pytest.mark.parametrize("reduce", [None, "max"])
@pytest.mark.parametrize("learn", [False, True])
def test_readouts_that_are_convolutions(reduce, learn):
    made = stack("depthwise", readout="conv", reduce=reduce, learn=learn, bias=True)
    compare(made, amounts(made.space, 2, 4, 0.3), lengths=np.array([4, 1]))


@pytest.mark.parametrize("band, delay", [(0.05, 2), (None, 0), (0.2, 40)])
def test_bands_and_delays(band, delay):
    made = stack("groups", band=band, learn=False, delay=delay)
    compare(made, amounts(made.space, 2, 4, 0.3), wanted_spikes=delay == 0)


@pytest.mark.parametrize("batch, steps", [(1, 1), (3, 2)])
@pytest.mark.parametrize("density", [0.0, 0.3, 2.0])
def test_sizes_and_densities(batch, steps, density, monkeypatch):
    """One sample, one step, no event, more events than places; groups of several samples."""
    monkeypatch.setattr(jit, "FREE_BYTES", 0)
    monkeypatch.setattr(jit, "FILLING", 2)
    for shape in ("strides", "whole picture"):
        made = stack(shape, gain=3.0 if density < 1 else 0.7, learn=False)
        compare(made, amounts(made.space, batch, steps, density), wanted_spikes=False)


def test_graded_events():
    made = stack("groups", learn=False)
    sizes = np.random.default_rng(0).normal(size=(2, 4, 120)).astype(np.float32)
    compare(made, sizes * (amounts(made.space, 2, 4) > 0))


def test_float32():
    made = stack("strides", dtype=np.float32, learn=False)
    compare(made, amounts(made.space, 2, 4, 0.3), 1e-3)


@pytest.mark.parametrize(
    "size, kernel, stride, padding",
    [((1, 4), (1, 2), (1, 3), (0, 3)), ((3, 2), (4, 1), (2, 1), (1, 2)), ((4, 5), (3, 4), (1, 2), (1, 2))],
)
@pytest.mark.parametrize("groups, inner, outer", [(1, 2, 1), (1, 1, 35), (3, 1, 2), (2, 2, 19)])
def test_odd_geometries(size, kernel, stride, padding, groups, inner, outer, monkeypatch):
    """Windows that lie outside of the picture or between places; more and fewer output channels than threads. The
    readout does not integrate, so that the result is one product with the matrix. Teams take all sites below."""
    monkeypatch.setattr(drive, "TEAM_ROUNDS", 1000)
    options = {"size": size, "dtype": np.float64, "seed": 0}
    first = nn.Conv2d(1, groups * inner, 1, LIF(band=None, threshold=0.4), **options)
    layer = nn.Conv2d(
        groups * inner,
        groups * outer,
        kernel,
        LI(tau_mem=1e-6),
        stride=stride,
        padding=padding,
        groups=groups,
        **options,
    )
    first.weight.data[...] = np.random.default_rng(0).uniform(0.5, 1.5, first.weight.shape)
    space = (*size, 1)
    given = Spikes.from_dense(amounts(space, 2, 2, 0.5), cases.DT, space=space)
    matrix = Unrolled(layer).matrix(layer.weight.data)
    fired = first.to("cuda")(given.to("cuda")).retain_grad()
    out = layer.to("cuda")(fired)
    dense = fired.to("cpu").to_dense().astype(np.float64)
    assert dense.any()
    np.testing.assert_allclose(out.numpy(), dense @ matrix, atol=1e-12)
    grad = np.random.default_rng(1).normal(size=out.shape)
    (out * grad).sum().backward()
    wanted = Unrolled(layer).folded(np.einsum("bti,btj->ij", dense, grad))
    np.testing.assert_allclose(layer.weight.grad.copy_to_host(), wanted, atol=1e-12)
    _, order = packing(fired.active.ptr.copy_to_host(), 2)  # all sites are active
    np.testing.assert_allclose(fired.grad.active.copy_to_host()[order], (grad @ matrix.T).ravel(), atol=1e-12)


def test_layers_that_are_too_large():
    net = nn.Sequential(nn.Conv2d(1, 5, 3, LIF(), size=120, padding=1))
    with pytest.raises(DeviceError, match=r"layer 0: nn.Conv2d\(1, 5, \(3, 3\)\): .* up to 65,536 inputs and neurons"):
        net.to("cuda")
    assert net.device == "cpu"


def test_the_same_bits_from_run_to_run():
    made = stack("strides", dtype=np.float32)
    given = Spikes.from_dense(amounts(made.space, 2, 4, 0.3), cases.DT, space=made.space).to("cuda")
    check_same_bits(made.net, given)


@pytest.mark.parametrize("delay", [0, 2])
def test_a_run_may_be_cut_anywhere(delay):
    made = Stack("strides", dtype=np.float32, delay=delay, bias=True)
    given = Spikes.from_dense(amounts(made.space, 2, 6, 0.3), cases.DT, space=made.space)
    wanted = made.net.run(given, record={1: [8, 2]})
    there = given.to("cuda")
    whole = made.net.to("cuda").run(there, record={1: [8, 2]})
    assert cases.same_events(whole.spikes[1].to("cpu"), wanted.spikes[1]) and wanted.spikes[1].n_events
    np.testing.assert_allclose(moved(whole.output, "cpu"), wanted.output, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole.recorded[1]["v"], wanted.recorded[1]["v"], rtol=1e-5, atol=1e-5)
    state, pieces = None, []
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        pieces.append(made.net.run(there.cut(start, stop), state))
        state = pieces[-1].state
    fired = np.concatenate([piece.spikes[1].to_dense() for piece in pieces], axis=1)
    assert np.array_equal(fired, wanted.spikes[1].to_dense())
    assert cases.same_bits(moved(pieces[-1].output, "cpu"), moved(whole.output, "cpu"))
