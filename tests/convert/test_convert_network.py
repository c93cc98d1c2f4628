"""to_spiking and what it gives: folding, pools, errors at the API, prediction with an early end."""

import numpy as np
import pytest
from numba import get_num_threads, set_num_threads

from nsim import ann, convert
from nsim.convert import maps
from nsim.convert.lower import _linear_part
from nsim.errors import ParameterError, ShapeError
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
