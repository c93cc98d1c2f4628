"""Thresholds: percentiles and least errors against NumPy, rare and silent channels, activations of any size."""

import tracemalloc

import numpy as np
import pytest

from nsim import Tensor, ann, convert
from nsim.convert.calibrate import Histogram
from nsim.convert.neurons import Quantiser
from nsim.errors import EventWarning, ParameterError, ShapeError
from tests.convert.small import images, network


def test_a_channel_that_is_rarely_active_keeps_its_own_scale():
    """Of 1,024 pixels one is active in it, beside a channel a hundred times as large."""
    net = ann.Graph()
    net.conv2d(net.relu(net.input((3, 32, 32)), name="relu"), 1, 1)
    x = np.zeros((4, 3, 32, 32), np.float32)
    x[:, 0], x[:, 1, 5, 7] = np.linspace(-100, 100, 1024).reshape(32, 32), [0.25, 1, 0.5, 0.75]
    for options in ({"percentile": 99.9}, {}):
        large, rare, silent = convert.to_spiking(net, x, **options).thresholds["relu"]
        assert 90 < large < 110 and silent == large and 0.9 < rare < 1.6
    assert convert.to_spiking(net, x, percentile=99.9).thresholds["relu"][1] == 1


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("options", [{}, {"percentile": 99.9}, {"correct_bias": True}])
def test_a_layer_that_is_never_active_is_silent_and_may_wake(options, per_channel):
    """Its threshold comes from what came into it: that it wakes with other images costs precision and no more."""
    net, x = network(), images(12)
    net["norm1"].operation.bias.data[...] = -20
    for name in ("conv2", "conv3"):
        net[name].operation.bias.data[...] = 1
    with pytest.warns(EventWarning, match=r"^relu1: never active on 12 calibration images\. .* Give more") as caught:
        snn = convert.to_spiking(net, [x[:7], x[7:]], convert.Bistable(12), per_channel=per_channel, **options)
    assert len(caught) == 1 and caught[0].filename == __file__
    (threshold,) = snn.thresholds["relu1"]
    _, kept = net.forward(x[7:], keep=["norm1"])
    assert threshold == np.abs(kept["norm1"]).max() > 20
    found = snn.activity(x, snn.first_answer)
    assert not found.spikes["relu1"].any()
    np.testing.assert_allclose(found.logits[:, -1], net.forward(x)[0], atol=2e-3)
    awake = 12 * x
    sent, (_, kept) = snn.activity(awake, snn.first_answer).values["relu1"], net.forward(awake, keep=["relu1"])
    assert kept["relu1"].max() > 1
    np.testing.assert_allclose(sent, np.minimum(kept["relu1"], threshold), atol=threshold / 2**11)


def test_a_layer_that_gets_zeros_alone_has_a_threshold_too():
    net = ann.Graph(seed=0)
    net.linear(net.flatten(net.relu(net.input((2, 8, 8)), name="relu1")), 2)
    with pytest.warns(EventWarning, match="relu1: never active on 6"):
        snn = convert.to_spiking(net, images() * 0)
    assert snn.thresholds["relu1"] == 1
    assert snn.activity(images(), snn.first_answer).spikes["relu1"].all()


@pytest.mark.parametrize("parts", [1 << 7, 1 << 12])
def test_percentiles_are_as_near_as_stated(parts):
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(size=(20_000, 3)) * [1e-3, 1, 50], 0).astype(np.float32)
    histogram = Histogram(3, parts)
    for part in np.array_split(values, 7):
        histogram.add(part)
    for percent in (20, 60, 99, 99.9):
        expected = np.percentile(values, percent, axis=0)
        np.testing.assert_allclose(histogram.percentile(percent), expected, rtol=1.01 / parts)
    np.testing.assert_array_equal(histogram.percentile(100), values.max(axis=0))


def test_percentiles_of_few_values():
    """A percentile lies between two of them, and not in the bin of either."""
    values = np.abs(np.random.default_rng(1).normal(size=(51, 20))).astype(np.float32)
    histogram = Histogram(20, 1 << 7)
    histogram.add(values)
    for percent in (50, 90, 99, 99.9):
        np.testing.assert_allclose(histogram.percentile(percent), np.percentile(values, percent, axis=0), rtol=0.008)


@pytest.mark.parametrize("scale", [1e-30, 1e-11, 1e11, 1e30])
@pytest.mark.parametrize("percentile", [None, 99.9])
def test_activations_of_any_size_have_thresholds(scale, percentile):
    """Those that no bin holds take the maximum."""
    net, x = ann.Graph(seed=0), images(40)
    y = net.relu(net.conv2d(net.input((2, 8, 8)), 6, 3, bias=False, name="first"), name="relu")
    net.linear(net.flatten(y), 3, bias=False, name="last")
    net["first"].operation.weight.data *= np.float32(scale)
    net["last"].operation.weight.data /= np.float32(scale)
    snn = convert.to_spiking(net, x, convert.Bistable(8), percentile=percentile)
    _, kept = net.forward(x, keep=["relu"])
    np.testing.assert_allclose(snn.thresholds["relu"], kept["relu"].max(axis=(0, 1, 2)), rtol=1e-12)
    expected = net(x).data
    assert np.abs(snn(x, snn.first_answer)[:, -1] - expected).max() < 0.02 * np.abs(expected).max()


def test_many_channels_are_counted_in_fewer_bins():
    net, x = ann.Graph(seed=0), np.random.default_rng(0).uniform(1, 2, (64, 40_000)).astype(np.float32)
    net.linear(net.relu(net.input((40_000,)), name="relu"), 2)
    tracemalloc.start()
    snn = convert.to_spiking(net, x, percentile=90)
    assert tracemalloc.get_traced_memory()[1] < 1 << 29
    tracemalloc.stop()
    np.testing.assert_allclose(snn.thresholds["relu"], np.percentile(x, 90, axis=0), rtol=0.12)


def test_calibration_images_may_be_tensors():
    net, x = network(), images(4)
    expected = convert.to_spiking(net, x).thresholds
    np.testing.assert_equal(convert.to_spiking(net, [Tensor(x)]).thresholds, expected)


@pytest.mark.parametrize("parts", [1 << 7, 1 << 12])
@pytest.mark.parametrize(("levels", "most"), [(2, 1), (4, 3), (16, 15), (64, 63), (8, 6)])
def test_thresholds_of_least_error(parts, levels, most):
    """Against every threshold of a fine grid, on the values themselves, with light tails and heavy ones."""
    rng = np.random.default_rng(0)
    values = np.stack([rng.uniform(0, 3, 20_000), rng.exponential(1e-3, 20_000), rng.pareto(3, 20_000)], axis=1)
    values[rng.random(values.shape) < 0.5] = 0
    values = np.hstack([values, np.zeros((20_000, 1))]).astype(np.float32)
    histogram = Histogram(4, parts)
    histogram.add(values)
    found = histogram.least_error(Quantiser(levels, most))
    assert found[3] == 0

    def error(a, scale):
        step = scale / levels
        return np.square(a - step * np.clip(np.round(a / step), 0, most)).mean()

    for a, scale in zip(values.T[:3], found, strict=False):
        best = min(error(a, s) for s in np.geomspace(0.02, 1.2, 400) * a.max())
        assert error(a, scale) < 1.05 * best


@pytest.mark.parametrize("per_channel", [False, True])
def test_calibration_data_may_come_in_batches(per_channel):
    net, x = network(), images(20)
    whole = convert.to_spiking(net, x, percentile=99, per_channel=per_channel).thresholds
    pairs = ((x[k : k + 7], np.zeros(len(x[k : k + 7]))) for k in range(0, 20, 7))
    parts = convert.to_spiking(net, pairs, percentile=99, per_channel=per_channel).thresholds
    _, kept = net.forward(x, keep=whole)
    for name, value in whole.items():
        assert value.shape == ((6,) if per_channel else (1,))
        np.testing.assert_array_equal(value, parts[name])
        axes = (0, 1, 2) if per_channel else None
        np.testing.assert_allclose(value, np.percentile(kept[name], 99, axis=axes), rtol=0.01)
    with pytest.raises(ShapeError, match="one size"):
        convert.to_spiking(net, [x, x[:, :, :6]], percentile=99)


def test_corrected_biases_bring_means_back():
    """By the oracle, layer after layer: means of channels, on the images that were looked at and on others."""
    net, x = network(), images(64)
    plain, corrected = (
        convert.to_spiking(net, x, convert.Bistable(3), percentile=99, correct_bias=correct)
        for correct in (False, True)
    )
    assert not plain.shifts and corrected.shifts.keys() == corrected.thresholds.keys()
    for seen in (x, images(64, seed=1)):
        _, kept = net.forward(seen, keep=plain.thresholds)
        off = []
        for snn in (plain, corrected):
            sent = snn.activity(seen, snn.first_answer).values
            off.append(np.array([np.abs((sent[name] - a).mean(axis=(0, 1, 2))).mean() for name, a in kept.items()]))
        assert (off[1] < 0.5 * off[0]).all() and off[1].sum() < off[0].sum() / 3
    with pytest.raises(ParameterError, match=r"correct_bias is for convert\.Bistable"):
        convert.to_spiking(net, x, convert.IF(), correct_bias=True)
