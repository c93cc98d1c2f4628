"""to_spiking and what it gives: folding, pools, errors at the API, prediction with an early end."""

import tracemalloc

import numpy as np
import pytest
from numba import get_num_threads, set_num_threads

from nsim import Tensor, ann, convert
from nsim.convert import maps
from nsim.convert.calibrate import Histogram
from nsim.convert.lower import _linear_part
from nsim.convert.neurons import Quantiser
from nsim.errors import EventWarning, ParameterError, ShapeError
from tests.convert.small import POOLS, images, network, with_pools


@pytest.mark.parametrize("pool_first", [False, True])
def test_many_phases_give_the_network_itself(pool_first):
    net, x = network(pool_first), images()
    snn = convert.to_spiking(net, x, convert.Bistable(12), percentile=100)
    expected, _ = net.forward(x)
    found = snn(x, snn.first_answer)[:, -1]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=3e-3 * np.abs(expected).max())


def test_integrate_and_fire_comes_near_with_time():
    net, x = network(), images()
    snn = convert.to_spiking(net, x, convert.IF(signed=True), percentile=100)
    expected, logits = net.forward(x)[0], snn(x, 400)
    errors = np.abs(logits[:, [9, 39, 399]] - expected[:, None]).mean(axis=(0, 2))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02 * np.abs(expected).mean()


@pytest.mark.parametrize("kind", POOLS)
def test_a_maximum_may_stand_anywhere(kind):
    """What it is of may be negative; relays and biases behind it know of the floor that is sent besides."""
    net, x = with_pools(kind), images(40)
    expected, spread = net.forward(x)[0], net.forward(x)[0].std()
    for options in ({"percentile": 100}, {"percentile": 100, "correct_bias": True}):
        snn = convert.to_spiking(net, x, convert.Bistable(12), **options)
        np.testing.assert_allclose(snn(x, snn.first_answer)[:, -1], expected, atol=2e-3 * spread * 4)
    default = convert.to_spiking(net, x, convert.Bistable(6))
    assert np.abs(default(x, default.first_answer)[:, -1] - expected).mean() < 0.05 * spread
    for code in (convert.IF(), convert.Phase(8)):
        late = convert.to_spiking(net, x, code, percentile=100)(x, 1024)
        assert np.abs(late[:, -1] - expected).mean() < min(0.03 * spread, np.abs(late[:, 63] - expected).mean())


def test_the_readout_is_zero_before_the_first_stage_and_held_between_stages():
    net, x = network(), images(2)
    snn = convert.to_spiking(net, x, convert.Bistable(phases=4), percentile=99.9)
    assert snn.first_answer == 16
    logits = snn(x, steps=31)
    assert logits.shape == (2, 31, 4) and not logits[:, :15].any() and logits[:, 15].any()
    np.testing.assert_array_equal(logits[:, 15:23], np.repeat(logits[:, 15:16], 8, axis=1))
    assert not snn(x, steps=1).any()


def test_a_change_of_the_network_does_not_reach_what_was_converted():
    net, x = network(), images(2)
    snn = convert.to_spiking(net, x)
    before = snn(x, 24)
    for tensor in net.parameters():
        tensor.data[...] = 0
    np.testing.assert_array_equal(snn(x, 24), before)


@pytest.mark.parametrize("code", [convert.Bistable(3), convert.IF(signed=True, burst=2)])
def test_the_same_bits_with_any_number_of_threads_and_batch(code):
    net, x, threads = network(), images(5), get_num_threads()
    snn = convert.to_spiking(net, x, code)
    whole = snn(x, 20)
    try:
        set_num_threads(1)
        np.testing.assert_array_equal(snn(x, 20), whole)
    finally:
        set_num_threads(threads)
    for b in range(5):
        np.testing.assert_array_equal(snn(x[b : b + 1], 20)[0], whole[b])


def test_images_of_another_size_than_the_graph_was_made_for():
    net = ann.Graph(seed=0)
    x = net.relu(net.conv2d(net.input((2, 8, 8)), 3, 3))
    net.linear(net.flatten(net.global_avg_pool(x)), 2)
    x = images(2, (2, 11, 6))
    snn = convert.to_spiking(net, x, convert.Bistable(12), percentile=100)
    np.testing.assert_allclose(snn(x, 24)[:, -1], net.forward(x)[0], atol=1e-3)
    with pytest.raises(ShapeError, match=r"converted for \[batch, 2, 11, 6\]"):
        snn(images(), 24)


def test_regression_values_come_decoded():
    """A network whose output is a picture."""
    net = ann.Graph(seed=1)
    net.conv2d(net.relu(net.conv2d(net.input((1, 5, 4)), 8, 3, padding=1)), 2, 3, padding=1)
    x = images(3, (1, 5, 4))
    snn = convert.to_spiking(net, x, convert.Bistable(10), percentile=100)
    expected = net.forward(x)[0]
    assert snn(x, 20).shape == snn.activity(x, 20).logits.shape == (3, 20, 2, 5, 4)
    np.testing.assert_allclose(snn(x, 20)[:, -1], expected, atol=0.01)
    both = convert.to_spiking(net, x, convert.Bistable(10, pipelined=True), percentile=100)
    np.testing.assert_allclose(both.stream(x), expected, atol=0.01)


def test_early_end_decides_at_the_first_clear_step():
    net, x, steps = network(), images(8), 48
    snn = convert.to_spiking(net, x, convert.IF())
    logits = snn(x, steps)
    whole = snn.predict(x, steps)
    np.testing.assert_array_equal(whole.classes, logits[:, -1].argmax(1))
    assert (whole.steps == steps).all()
    top = np.sort(logits, axis=2)
    lead = top[:, :, -1] - top[:, :, -2]
    margin = np.quantile(lead, 0.9)  # so much that some images lead by it late and some never
    clear = lead >= margin
    expected = np.where(clear.any(1), clear.argmax(1) + 1, steps)
    for every in (1, 4, 100):
        found = snn.predict(x, steps, margin=float(margin), every=every)
        np.testing.assert_array_equal(found.steps, expected)
        np.testing.assert_array_equal(found.classes, logits[np.arange(8), expected - 1].argmax(1))
    assert len(set(expected)) > 2
    earliest = int(np.median(expected)) + 1
    clear[:, : earliest - 1] = False
    later = np.where(clear.any(1), clear.argmax(1) + 1, steps)
    found = snn.predict(x, steps, margin=float(margin), earliest=earliest)
    np.testing.assert_array_equal(found.steps, later)
    np.testing.assert_array_equal(found.classes, logits[np.arange(8), later - 1].argmax(1))
    assert (later > expected).any() and (later[expected >= earliest] == expected[expected >= earliest]).all()


def spoiled(value):
    net = network()
    net["conv2"].operation.weight.data[1, 2, 0, 0] = value
    return net


def overflowing(name):
    """A network with a layer that leaves the range of float32 where images are large."""
    net = network()
    net[name].operation.weight.data[...] = 1e20
    return net


beyond = [images(5), images(4) * np.array([1, 1, 1e19, 1], np.float32)[:, None, None, None]]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"neuron": 3}, "neuron = 3"), ({"percentile": 0}, "percentile = 0"), ({"percentile": 101}, "percentile = 101"),
        ({"net": 5}, "net is a int"), ({"net": ann.Graph(dtype=np.float64)}, "float64"),
        ({"percentile": True}, "percentile = True"), ({"percentile": "99"}, "percentile = '99'"),
        ({"percentile": 0.999}, r"= 0\.999.*99\.9, not 0\.999"), ({"correct_bias": "no"}, "correct_bias = 'no'"),
        ({"per_channel": "no"}, "per_channel = 'no'"), ({"per_channel": np.zeros(3)}, "per_channel = array"),
        ({"net": spoiled(np.nan)}, "conv2.weight holds NaN"), ({"net": spoiled(np.inf)}, "conv2.weight holds NaN or"),
        ({"calibration": []}, "no images"), ({"calibration": 7}, "calibration is a int"),
        ({"calibration": "images"}, "calibration is a str"),
        ({"net": overflowing("fc"), "calibration": beyond}, "^fc: NaN or infinity for calibration image 7:"),
        ({"net": overflowing("conv2"), "calibration": beyond}, "^relu2: NaN or infinity for calibration image 7:"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_impossible_conversions_are_refused(change, text):
    arguments = {"net": network(), "calibration": images(), "neuron": convert.Bistable()} | change
    with pytest.raises(ParameterError, match=text):
        convert.to_spiking(**arguments)


def test_what_cannot_be_converted_is_named():
    class Sigmoid(ann.Operation):
        def __call__(self, x, training=False):
            return x

    net = network()
    net.apply(Sigmoid(), net.output, name="last")
    with pytest.raises(ParameterError, match=r"last: Sigmoid: this operation cannot be converted"):
        convert.to_spiking(net, images())

    class Leaky(ann.ReLU):
        def __call__(self, x, training=False):
            return x

    net = ann.Graph(seed=0)
    net.linear(net.flatten(net.apply(Leaky(), net.conv2d(net.input((2, 8, 8)), 2, 3), name="leaky")), 2)
    with pytest.raises(ParameterError, match=r"leaky: Leaky: this operation cannot be converted"):
        convert.to_spiking(net, images())
    net = ann.Graph(seed=0)
    net.linear(net.flatten(net.input((2, 8, 8))), 2)
    with pytest.raises(ParameterError, match="no ReLU"):
        convert.to_spiking(net, images())


@pytest.mark.parametrize("given", [(images(), np.zeros(6)), [()], [[]], [None], list("ab"), images()[0, 0, 0]])
def test_calibration_that_is_no_images_is_refused(given):
    with pytest.raises(
        ShapeError, match=r"calibration of shape \(.*: expected images \[batch, channels, height, width\]"
    ):
        convert.to_spiking(network(), given)


@pytest.mark.parametrize(
    ("x", "steps", "error", "text"),
    [
        (images().astype(np.float64), 9, ParameterError, "float64"), (images()[:0], 9, ShapeError, "at least one"),
        (images(), 0, ParameterError, "steps = 0"), (images(), 2.5, ParameterError, "steps = 2.5"),
        (np.full((1, 2, 8, 8), np.nan, np.float32), 9, ParameterError, "NaN"),
    ],
)  # fmt: skip
def test_impossible_runs_are_refused(x, steps, error, text):
    snn = convert.to_spiking(network(), images())
    with pytest.raises(error, match=text):
        snn(x, steps)


@pytest.mark.parametrize("code", [convert.Bistable(4), convert.IF(), convert.Phase(4)])
@pytest.mark.parametrize("steps", [40.0, np.float64(40), np.int16(40), np.array(40)])
def test_whole_floats_are_numbers_of_steps(code, steps):
    net, x = network(), images(3)
    snn = convert.to_spiking(net, x, code)
    np.testing.assert_array_equal(snn(x, steps), snn(x, 40))
    for options in ({}, {"margin": 1, "every": np.float32(8), "earliest": 3.0}):
        for found, expected in zip(snn.predict(x, steps, **options), snn.predict(x, 40, **options), strict=True):
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(snn.activity(x, steps).logits, snn(x, 40))
    assert convert.cost(net, snn, x, steps) == convert.cost(net, snn, x, 40)
    np.testing.assert_array_equal(
        convert.error_split(net, snn, x, steps).total, convert.error_split(net, snn, x, 40).total
    )


def test_predict_refuses_what_it_cannot_decide():
    snn = convert.to_spiking(network(), images(), convert.IF())
    for name, value in (("every", 0), ("every", "x"), ("earliest", 0), ("earliest", None), ("steps", 2.5)):
        for margin in (None, 1.0):
            with pytest.raises(ParameterError, match=f"predict: {name} = {value!r}: expected a whole number"):
                snn.predict(images(), **{"steps": 8, "margin": margin} | {name: value})
    with pytest.raises(ParameterError, match="predict: earliest = 9; the run ends before, after steps = 8"):
        snn.predict(images(), 8, earliest=9)
    for margin in (0, "2", np.nan):
        with pytest.raises(ParameterError, match=f"margin = {margin!r}"):
            snn.predict(images(), 8, margin=margin)
    with pytest.raises(ParameterError, match="predict: steps = 15; the first complete answer comes after 16"):
        convert.to_spiking(network(), images(), convert.Bistable(4)).predict(images(), 15)
    net = ann.Graph(seed=1)
    net.linear(net.relu(net.linear(net.input((3,)), 2)), 1)
    snn = convert.to_spiking(net, images(4, (3,)), convert.IF())
    with pytest.raises(ParameterError, match="expected classes"):
        snn.predict(images(4, (3,)), 8)


def test_what_the_weights_take():
    """Those of the convolutions once, though many places share them; as sparse rows, each weight with its target."""
    net = network()
    snn = convert.to_spiking(net, images())
    seen = sum(net[name].operation.weight.data.nbytes for name in ("conv2", "conv3"))
    assert seen < snn.engine.weight_bytes < seen + 64 * 1024


# Calibration


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


# Sizes


@pytest.mark.parametrize("features", [(1 << 20) + 1, 3_000_017])
def test_a_linear_layer_of_very_many_inputs(features):
    net, x = ann.Graph(), np.zeros((2, features), np.float32)
    net.linear(net.relu(net.input((features,))), 3, name="last")
    x[:, -1] = 1
    net["last"].operation.weight.data[...] = 0
    net["last"].operation.weight.data[:, -1] = 1, 2, 3
    snn = convert.to_spiking(net, x, convert.Bistable(8), percentile=100, per_channel=False)
    np.testing.assert_allclose(snn(x, snn.first_answer)[:, -1], [[1, 2, 3]] * 2, rtol=0.005)


def test_a_convolution_of_too_many_neurons_is_refused(monkeypatch):
    monkeypatch.setattr(maps, "EXACT", 96 * 6)
    with pytest.raises(ParameterError, match=r"conv2: Conv2d.*: 96 neurons in 6 channels"):
        convert.to_spiking(network(), images())


def test_images_that_enter_late_in_a_deep_network():
    """Of what lies between the images and a population there is one copy, however deep it is and many read it."""
    net = ann.Graph(seed=0)
    x = start = net.input((2, 4, 4))
    for _ in range(90):
        x = net.relu(net.add(net.conv2d(x, 2, 3, padding=1), net.conv2d(start, 2, 1)))
    net.linear(net.flatten(x), 2)
    snn = convert.to_spiking(net, images(4, (2, 4, 4)), convert.Bistable(2))
    before = snn(images(4, (2, 4, 4)), 8)
    copies = {id(node.operation) for top in snn._seen.values() for node in _linear_part(top, snn._spiking)}
    assert len(copies) <= len(net)
    for tensor in net.parameters():
        tensor.data[...] = 0
    np.testing.assert_array_equal(snn(images(4, (2, 4, 4)), 8), before)


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
