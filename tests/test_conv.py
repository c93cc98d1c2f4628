"""nn.Conv2d against the oracle with the convolution written out as a matrix, and against torch; shapes and errors."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nsim
from nsim import LI, LIF, ParameterError, ShapeError, Spikes, nn
from nsim.neurons import MODELS
from tests import cases, reference
from tests.test_sweeps import GAIN, SPIKING, check_active, neuron_of
from tests.unrolled import Unrolled

DT = cases.DT

# size, in_channels, then (out_channels, kernel_size, stride, padding, groups) of each layer: odd sizes, pictures that
# the stride does not divide, kernels as wide as the picture, one channel, groups and the depthwise form.
SHAPES = {
    "one channel": ((7, 5), 1, [(3, 3, 1, 1, 1), (4, 3, 2, 0, 1)]),
    "strides": ((9, 8), 2, [(4, 5, 2, 2, 1), (3, (2, 3), (1, 2), (0, 1), 1)]),
    "groups": ((5, 6), 4, [(6, 3, 1, 1, 2), (6, 3, 2, 1, 3)]),
    "depthwise": ((6, 7), 3, [(3, 3, 1, 1, 3), (6, (5, 4), 3, 2, 3)]),
    "stride beyond kernel": ((8, 9), 2, [(8, 1, 3, 0, 1), (5, (3, 1), 1, 2, 1)]),
    "whole picture": ((4, 3), 2, [(17, (4, 3), 1, 0, 1), (70, 1, 1, 0, 1)]),
}


class Stack:
    """Convolutions and a readout (dense, or a convolution too) in nsim, and the same with matrices in the oracle."""

    def __init__(
        self, shape, name="LIF", dtype=np.float64, band=0.2, learn=True, delay=0, bias=False, reduce="sum", gain=3.0,
        readout="dense", seed=0, **spiking,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        size, channels, layers = SHAPES[shape]
        self.space, self.layers, self.oracle, self.unrolled = (*size, channels), [], [], []
        common = {"delay": delay, "bias": bias, "dtype": dtype}
        for k, (out, kernel, stride, padding, groups) in enumerate(layers):
            options = {"size": size, "stride": stride, "padding": padding, "groups": groups, **common, "seed": seed + k}
            probe = nn.Conv2d(channels, out, kernel, LIF(), **options)
            neuron, params = neuron_of(name, probe.n_out, learn, rng, band=band, v_init=0.1, **spiking)
            self.add(nn.Conv2d(channels, out, kernel, neuron, **options), name, params, gain, rng, band=band, **spiking)
            *size, channels = self.layers[-1].space
        last = self.layers[-1]
        neuron, params = neuron_of("LI", last.n_out if readout == "conv" else 5, learn, rng, reduce=reduce)
        if readout == "conv":
            layer = nn.Conv2d(channels, channels, 3, neuron, size=size, padding=1, **common, seed=9)
        else:
            layer = nn.Dense(last.n_out, 5, neuron, **common, seed=9)
        self.add(layer, "LI", params, 1.0, rng, reduce=reduce)
        self.net = nn.Sequential(*self.layers)

    def add(self, layer, name, params, gain, rng, **options):
        layer.weight.data *= gain * GAIN.get(name, 1) / (1 + layer.neuron.spiking)  # which is how it starts
        self.layers.append(layer)
        self.unrolled.append(Unrolled(layer) if isinstance(layer, nn.Conv2d) else None)
        bias = None
        if layer.bias is not None:
            layer.bias.data[:] = rng.normal(0, 0.05, layer.bias.shape)
            bias = np.tile(layer.bias.data, layer.n_out // layer.bias.size).astype(np.float64)
        weight = layer.weight.data.astype(np.float64)
        weight = weight if self.unrolled[-1] is None else self.unrolled[-1].matrix(weight)
        v_init = layer.neuron.v_init
        self.oracle.append(
            reference.Layer(name, weight, params, DT, bias=bias, delay=layer.delay, v_init=v_init, **options)
        )

    def wanted(self, k, name, grads):
        """The oracle's gradient of a parameter of layer k in the shape of the layer's."""
        grad = grads[name.removeprefix("log_")]
        if name == "weight" and self.unrolled[k] is not None:
            return self.unrolled[k].folded(grad)
        return grad.reshape(-1, self.layers[k].bias.size).sum(0) if name == "bias" else grad


def amounts(space, batch=3, steps=25, density=0.1, seed=0):
    """Counts [B, T, N] with repeated events among them."""
    return np.random.default_rng(seed).poisson(density, (batch, steps, int(np.prod(space))))


def compare(stack, counts, tolerance=1e-9, lengths=None):
    """Spikes, active sets, output and every gradient against the oracle, to `tolerance` of the largest entry."""
    rng = np.random.default_rng(99)
    out, hidden = stack.net(Spikes.from_dense(counts, DT, space=stack.space, lengths=lengths), hidden=True)
    grad = rng.normal(size=out.shape)
    on_counts = {k: rng.normal(size=(len(counts), h.shape[2])) for k, h in enumerate(hidden)}
    spread = {k: cases.spread(g, hidden[k].shape, lengths) for k, g in on_counts.items()}
    wanted = reference.net_gradients(stack.oracle, counts, grad, lengths, spread)
    for layer, events, record in zip(stack.layers, hidden, wanted.records, strict=False):
        assert events.space == layer.space
        assert np.array_equal(events.to_dense(), record.s), "spikes differ"
        check_active(events, record, stack.oracle[0].band)
    np.testing.assert_allclose(out.data, wanted.out, rtol=0, atol=tolerance * (1 + np.abs(wanted.out).max()))
    total = (out * grad).sum()
    for k, events in enumerate(hidden):
        total = total + (events.counts() * on_counts[k]).sum()
    total.backward()
    for k, layer in enumerate(stack.layers):
        for name, tensor in layer.named_parameters().items():
            truth = stack.wanted(k, name, wanted.layers[k])
            assert tensor.grad.shape == tensor.shape == truth.shape
            error = np.abs(tensor.grad - truth).max()
            assert error <= tolerance * np.abs(truth).max(), (
                f"layer {k}, {name}: {error:.2e} of {np.abs(truth).max():.2e}"
            )
    return hidden


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("delay, bias", [(0, False), (1, True)])
def test_every_shape(shape, delay, bias):
    stack = Stack(shape, delay=delay, bias=bias, learn=False)
    hidden = compare(stack, amounts(stack.space, density=0.2))
    assert all(events.density > 0.01 for events in hidden), "a silent layer shows nothing"


@pytest.mark.parametrize("reset, detach_reset", [("subtract", True), ("zero", False)])
@pytest.mark.parametrize("name", SPIKING)
def test_every_model_with_trained_parameters(name, reset, detach_reset):
    stack = Stack("strides", name, reset=reset, detach_reset=detach_reset)
    compare(stack, amounts(stack.space))


@pytest.mark.parametrize("reduce", [None, "sum", "mean", "max", "last"])
@pytest.mark.parametrize("readout", ["dense", "conv"])
def test_readouts(readout, reduce):
    stack = Stack("groups", readout=readout, reduce=reduce)
    compare(stack, amounts(stack.space), lengths=np.array([25, 1, 13]))


@pytest.mark.parametrize("band", [0.05, 1.0, None])
@pytest.mark.parametrize("shape", ["strides", "depthwise"])
def test_bands_and_the_dense_active_set(shape, band):
    for delay in (0, 2, 40):
        stack = Stack(shape, band=band, learn=False, delay=delay)
        compare(stack, amounts(stack.space))


@pytest.mark.parametrize("batch, steps", [(1, 1), (1, 25), (37, 3)])
@pytest.mark.parametrize("density", [0.0, 0.1, 2.0])
def test_sizes_and_densities(batch, steps, density):
    """One sample, one step, more samples than groups, no event, more events than places."""
    for shape in ("strides", "whole picture"):
        stack = Stack(shape, gain=3.0 if density < 1 else 0.7, learn=False)
        compare(stack, amounts(stack.space, batch, steps, density))


def test_graded_events():
    stack = Stack("groups")
    sizes = np.random.default_rng(0).normal(size=(3, 25, 120)).astype(np.float32)
    compare(stack, sizes * (amounts(stack.space) > 0))


def test_chunks_of_any_length_give_the_same(monkeypatch):
    """A chunk of the drive is as long as fits into a cache; here it is one step."""
    monkeypatch.setattr("nsim.launch.CHUNK_BYTES", 1)
    stack = Stack("strides", delay=1, bias=True)
    compare(stack, amounts(stack.space))


geometry = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3)).filter(
    lambda axis: axis[0] + 2 * axis[3] >= axis[1]
)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(geometry, geometry, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 10))
def test_any_geometry(vertical, horizontal, groups, inner, outer, seed):
    """The drive and its adjoint for any picture, kernel, stride and padding: a readout that does not integrate."""
    size, kernel, stride, padding = zip(vertical, horizontal, strict=True)
    options = {"size": size, "stride": stride, "padding": padding, "groups": groups, "dtype": np.float64, "seed": seed}
    first = nn.Conv2d(1, groups * inner, 1, LIF(band=None), size=size, dtype=np.float64, seed=seed)
    layer = nn.Conv2d(groups * inner, groups * outer, kernel, LI(tau_mem=1e-6), **options)
    first.weight.data[...] = np.random.default_rng(seed).uniform(0.5, 1.5, first.weight.shape)
    space = (*size, 1)
    fired = first(Spikes.from_dense(amounts(space, 2, 3, 0.4, seed), DT, space=space)).retain_grad()
    out = layer(fired)
    matrix = Unrolled(layer).matrix(layer.weight.data)
    np.testing.assert_allclose(out.data, fired.to_dense() @ matrix, atol=1e-12)
    grad = np.random.default_rng(seed).normal(size=out.shape)
    out.backward(grad)
    wanted = np.einsum("bti,btj->ij", fired.to_dense().astype(np.float64), grad)
    np.testing.assert_allclose(layer.weight.grad, Unrolled(layer).folded(wanted), atol=1e-12)
    np.testing.assert_allclose(fired.grad.active, grad @ matrix.T, atol=1e-12)


# The layer


def test_spaces_names_and_initial_weights():
    layer = nn.Conv2d(8, 24, (3, 5), LIF(), size=(12, 10), stride=(1, 2), padding=(1, 0), groups=2, bias=True, seed=1)
    assert layer.weight.shape == (3, 5, 4, 24) and layer.bias.shape == (24,) and not layer.bias.data.any()
    assert layer.space == (12, 3, 24) and layer.n_out == 12 * 3 * 24 and layer.n_in == 960
    bound = 2 / np.sqrt(3 * 5 * 4)
    assert np.abs(layer.weight.data).max() <= bound
    np.testing.assert_allclose(layer.weight.data.std(), bound / np.sqrt(3), rtol=0.02)
    assert nn.Conv2d(1, 2, 3, LIF(), size=28, padding=1).space == (28, 28, 2)


GOOD = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "neuron": LIF(), "size": (5, 6)}


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"in_channels": 0}, ParameterError, "nn.Conv2d: in_channels = 0: expected a whole number of at least 1"),
        ({"out_channels": 1.5}, ParameterError, "out_channels = 1.5"),
        ({"kernel_size": 0}, ParameterError, r"kernel_size = 0: .* or a pair \(height, width\)"),
        ({"kernel_size": (3, 3, 3)}, ParameterError, r"kernel_size = \(3, 3, 3\)"),
        ({"stride": (1, 0)}, ParameterError, r"stride = \(1, 0\)"),
        ({"stride": "2"}, ParameterError, "stride = '2'"),
        ({"dtype": np.int32}, ParameterError, "nn.Conv2d: dtype = .*int32.*: expected np.float32"),
        ({"padding": -1}, ParameterError, "padding = -1: expected a whole number of at least 0"),
        ({"delay": 0.5}, ParameterError, "delay = 0.5"),
        ({"bias": "no"}, ParameterError, "nn.Conv2d: bias = 'no': expected True or False"),
        ({"groups": 4}, ParameterError, "groups = 4: expected a divisor of in_channels = 4 and out_channels = 6"),
        ({"kernel_size": 7}, ShapeError, r"a kernel of \(7, 7\) does not fit into a picture of \(5, 6\)"),
        ({"neuron": LIF}, ParameterError, "nn.Conv2d: neuron = .* expected a neuron such as"),
        ({"neuron": LIF(tau_mem=[1e-2] * 6)}, ShapeError, r"tau_mem has shape \(6,\), expected a number or \[72\]"),
    ],
    ids=str,
)
def test_conv_refuses(change, error, text):
    nn.Conv2d(**GOOD)
    with pytest.raises(error, match=text):
        nn.Conv2d(**GOOD | change)


def test_wrong_pictures_are_refused_in_the_users_words():
    layer = nn.Conv2d(**GOOD)
    flat = Spikes.from_dense(np.zeros((1, 2, 120)), DT)
    with pytest.raises(
        ShapeError, match=r"nn.Conv2d\(4, 6, \(3, 3\)\): input has space \(120,\), expected .*\(5, 6, 4\)"
    ):
        layer(flat)
    with pytest.raises(ShapeError, match=r"input is ndarray, expected nsim\.Spikes"):
        layer(np.zeros((1, 2, 5, 6, 4)))
    with pytest.raises(ShapeError, match=r"layer 1: .* input has space \(3, 4, 6\), expected .*\(3, 3, 6\)"):
        nn.Sequential(layer, nn.Conv2d(6, 2, 1, LIF(), size=3))
    with pytest.raises(ShapeError, match=r"layer 1: nn.Dense\(71, 5\): input has 72 neurons, expected 71"):
        nn.Sequential(layer, nn.Dense(71, 5, LIF()))
    layer.weight.data = np.zeros((6, 4, 3, 3), np.float32)
    with pytest.raises(ShapeError, match=r"weight.data has shape \(6, 4, 3, 3\), expected a contiguous \(3, 3, 4, 6\)"):
        layer(Spikes.from_dense(np.zeros((1, 2, 5, 6, 4)), DT))


def network(**options):
    stack = Stack("groups", dtype=np.float32, readout="dense", bias=True, **options)
    return nn.Sequential(stack.layers[0], nn.Dropout(0.3), *stack.layers[1:]), stack.space


def test_a_described_network_computes_the_same(tmp_path):
    net, space = network(delay=1)
    again = nn.build(json.loads(json.dumps(net.describe())))
    again.load_state_dict(net.state_dict())
    assert again.describe() == net.describe() and repr(net) == repr(again)
    nsim.save(tmp_path / "net.h5", net)
    loaded, _, _ = nsim.load(tmp_path / "net.h5")
    given = Spikes.from_dense(amounts(space), DT, space=space)
    for other in (again, loaded):
        for each in (net, other):
            each.seed(3)
        assert cases.same_bits(net(given).data, other(given).data)


@pytest.mark.parametrize("name", SPIKING)
@pytest.mark.parametrize("delay", [0, 2])
def test_a_run_may_be_cut_anywhere(name, delay):
    from tests.test_run import check_cut

    stack = Stack("strides", name, dtype=np.float32, delay=delay, bias=True)
    given = Spikes.from_dense(amounts(stack.space), DT, space=stack.space)
    for cuts in ([5], [1, 2, 20]):
        whole = check_cut(stack.net, given, cuts)
    assert cases.same_bits(stack.net(given).data, whole.output), "a plain call gives the same"


def test_every_model_is_tested():
    assert set(SPIKING) == {name for name, model in MODELS.items() if model.spiking}
