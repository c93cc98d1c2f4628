"""The sweeps against the oracle: every model, reset, band, delay, surrogate and layer kind, in float64.

For float32 see `test_float32.py`.

Kernels are compiled for each model and once for each surrogate; everything else (sizes, delay, recurrence, bias, band,
density) is data to them, so that the grid below compiles their sum and not their product.
"""

import itertools

import numpy as np
import pytest

import nsim
from nsim import Spikes, launch, nn
from nsim.kernels.drive import IN_L1
from nsim.neurons import MODELS
from nsim.sweeps import SpikesGrad
from tests import cases, reference

DT = 1e-3
SPIKING = [name for name, model in MODELS.items() if model.spiking]
# Factors on what a layer receives that bring every model to rates of a few per cent.
GAIN = {name: 1 / cases.response(MODELS[name]) for name in SPIKING}


def neuron_of(name, n, learn, rng, **options):
    """A model with its own time constants for each neuron, and the same parameters for the oracle."""
    model = MODELS[name]()
    params = {}
    for parameter in model.parameters:
        spread = rng.uniform(0.7, 1.3, n) if parameter.name != "threshold" or name != "IF" else 1.0
        params[parameter.name] = model.values[parameter.name] * spread
    return MODELS[name](**params, learn=tuple(params) if learn else (), **options), params


class Stack:
    """Two spiking layers and a readout in nsim, and the same in the oracle."""

    space = None  # of the input

    def __init__(
        self, name, dtype=np.float64, sizes=(20, 33, 17, 5), learn=True, band=0.2, surrogate=None, gain=(4.0, 4.0),
        recurrent=False, delay=0, bias=False, reduce="sum", seed=0, **spiking_options,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        surrogate = nsim.FastSigmoid() if surrogate is None else surrogate
        spiking = {"band": band, "surrogate": surrogate, **spiking_options}
        self.layers, self.oracle = [], []
        for k, (n_in, n) in enumerate(itertools.pairwise(sizes)):
            last = k == len(sizes) - 2
            v_init = rng.uniform(-0.2, 0.2, n)
            more = {"reduce": reduce} if last else spiking
            neuron, params = neuron_of("LI" if last else name, n, learn, rng, v_init=v_init, **more)
            options = {"recurrent": recurrent and not last, "delay": delay, "bias": bias, "dtype": dtype}
            layer = nn.Dense(n_in, n, neuron, seed=seed + k, **options)
            layer.weight.data *= 1 if last else gain[k] / 2 * GAIN[name]  # it starts as +-2 / sqrt(n_in)
            if layer.weight_rec is not None:
                layer.weight_rec.data *= GAIN[name]
            if bias:
                layer.bias.data[:] = rng.normal(0, 0.05, n) * (1 if last else GAIN[name])
            self.layers.append(layer)
            arrays = {key: None if t is None else t.data.astype(np.float64) for key, t in self.arrays(layer).items()}
            oracle = {} if last else {"band": band, **spiking_options, "surrogate": self.formula(surrogate)}
            self.oracle.append(
                reference.Layer(
                    "LI" if last else name, arrays["weight"], params, DT, weight_rec=arrays["weight_rec"],
                    bias=arrays["bias"], delay=delay, v_init=v_init, reduce=reduce if last else None, **oracle,
                )
            )  # fmt: skip
        self.net = nn.Sequential(*self.layers)

    @staticmethod
    def arrays(layer):
        return {"weight": layer.weight, "weight_rec": layer.weight_rec, "bias": layer.bias}

    @staticmethod
    def formula(surrogate):
        if isinstance(surrogate, nsim.surrogates.Custom):
            return lambda u: np.exp(-10 * np.abs(u))
        options = vars(surrogate)
        return lambda u: reference.SURROGATES[type(surrogate).__name__](u, **options)

    @staticmethod
    def wanted(k, name, grads):
        """The oracle's gradient of a parameter of layer k in the shape of the layer's."""
        return grads[name.removeprefix("log_")]


def inputs(batch=3, steps=40, n=20, density=0.1, seed=0):
    """Counts with repeated events among them."""
    rng = np.random.default_rng(seed)
    return rng.poisson(density, (batch, steps, n))


def rounding(record, dtype):
    """What rounding may do to a potential: some ulps of the largest one, as its errors are remembered for a while."""
    return 8 * np.finfo(dtype).eps * (1 + np.abs(record.v).max())


def losses_of(layers, counts):
    """Gradients of a loss: on the readout's output, and on the counts of each spiking layer."""
    rng, (batch, steps, _) = np.random.default_rng(99), counts.shape
    sizes = [layer.weight.shape[1] for layer in layers]
    on_out = rng.normal(size=(batch, sizes[-1]) if layers[-1].reduce else (batch, steps, sizes[-1]))
    return on_out, [rng.normal(size=(batch, n)) for n in sizes[:-1]]


def oracle_gradients(layers, counts, lengths=None):
    """Records and gradients of the oracle under these losses."""
    on_out, on_counts = losses_of(layers, counts)
    spread = {k: cases.spread(g, (*counts.shape[:2], g.shape[1]), lengths) for k, g in enumerate(on_counts)}
    return reference.net_gradients(layers, counts, on_out, lengths, spread)


def compare(stack, counts, tolerance, lengths=None):
    """Spikes, output and every gradient against the oracle; gradients to `tolerance` of the largest entry."""
    out, hidden = stack.net(Spikes.from_dense(counts, DT, space=stack.space, lengths=lengths), hidden=True)
    wanted = oracle_gradients(stack.oracle, counts, lengths)
    for layer, record in zip(hidden, wanted.records, strict=False):
        assert np.array_equal(layer.to_dense(), record.s), "spikes differ"
        check_active(layer, record, stack.oracle[0].band)
    np.testing.assert_allclose(out.data, wanted.out, rtol=0, atol=tolerance * (1 + np.abs(wanted.out).max()))

    on_out, on_counts = losses_of(stack.oracle, counts)
    weighted = sum(((h.counts() * g).sum() for h, g in zip(hidden, on_counts, strict=True)), start=0.0)
    ((out * on_out).sum() + weighted).backward()
    for k, layer in enumerate(stack.layers):
        for name, tensor in layer.named_parameters().items():
            truth = stack.wanted(k, name, wanted.layers[k])
            scale = max(np.abs(truth).max(), 1e-30)
            error = np.abs(tensor.grad - truth).max() / scale
            assert error < tolerance, f"layer {k} {name}: {error:.2e} of the largest entry {scale:.2e}"
    return wanted, hidden


def check_active(spikes, record, band):
    """The active set is exactly the sites inside the band, with their u."""
    u, shape = spikes.active.u, (-1, record.u.shape[2])
    wanted, atol = record.u.reshape(shape), rounding(record, u.dtype)
    if spikes.active.dense:
        np.testing.assert_allclose(u.reshape(shape), wanted, rtol=0, atol=atol)
    else:
        rows = np.repeat(np.arange(len(spikes.active.indptr) - 1), np.diff(spikes.active.indptr))
        found = np.zeros(wanted.shape, bool)
        found[rows, spikes.active.indices] = True
        edge = np.abs(np.abs(wanted) - band) < atol
        assert np.array_equal(found | edge, (np.abs(wanted) < band) | edge)
        np.testing.assert_allclose(u, wanted[rows, spikes.active.indices], rtol=0, atol=atol)


@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("name", SPIKING)
def test_every_model_and_reset(name, reset, detach_reset):
    for recurrent, delay, bias, band in [(False, 0, False, 0.2), (True, 1, True, 0.2), (True, 0, False, None)]:
        stack = Stack(
            name, reset=reset, detach_reset=detach_reset, recurrent=recurrent, delay=delay, bias=bias, band=band
        )  # fmt: skip
        wanted, hidden = compare(stack, inputs(), 1e-9)
        assert all(0.005 < h.density < 0.6 for h in hidden), "the case has no spikes, or nothing else"
        assert all(np.abs(wanted.layers[k]["weight"]).max() > 1e-6 for k in range(3))


@pytest.mark.parametrize("name", SPIKING)
def test_without_trainable_parameters(name):
    compare(Stack(name, learn=False), inputs(), 1e-9)
    compare(Stack(name, learn=False, recurrent=True, bias=True, delay=2, band=None), inputs(), 1e-9)


@pytest.mark.parametrize("band", [0.02, 0.2, 1.0, None])
@pytest.mark.parametrize("delay", [0, 1, 3, 50])
def test_bands_and_delays(band, delay):
    compare(Stack("LIF", band=band, delay=delay), inputs(), 1e-9)


@pytest.mark.parametrize(
    "surrogate",
    [
        nsim.FastSigmoid(10), nsim.ATan(3), nsim.Triangular(2), nsim.Boxcar(0.1), nsim.Sigmoid(5),
        nsim.surrogates.Custom(lambda u: np.exp(-10 * abs(u))),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("band", [0.2, None])
def test_surrogates(surrogate, band):
    compare(Stack("LIF", surrogate=surrogate, band=band, recurrent=True), inputs(), 1e-9)


@pytest.mark.parametrize("reduce", [None, "sum", "mean", "max", "last"])
@pytest.mark.parametrize("ragged", [False, True])
def test_readout_reductions(reduce, ragged):
    lengths = np.array([40, 1, 17]) if ragged else None
    compare(Stack("LIF", reduce=reduce), inputs(), 1e-9, lengths)
    compare(Stack("LIF", reduce=reduce, learn=False, delay=1, bias=True), inputs(), 1e-9, lengths)


@pytest.mark.parametrize("batch, steps, n", [(1, 1, 1), (1, 1, 20), (1, 40, 20), (37, 7, 3), (2, 300, 20)])
@pytest.mark.parametrize("density", [0.0, 0.1, 3.0])
def test_sizes_and_densities(batch, steps, n, density):
    """One sample, one step, one neuron, more samples than groups, no event; densities past the switch to products."""
    sizes = (n, 33, 64, 5)
    gain = (4.0, 4.0) if density < 1 else (1.5, 4.0)
    for band in (0.2, None):
        compare(Stack("LIF", sizes=sizes, band=band, gain=gain), inputs(batch, steps, n, density), 1e-9)


def test_rows_and_products_give_the_same(monkeypatch):
    counts = inputs(density=0.5)
    grads = []
    for forward, backward, dense in [(0.0, 0.0, 0.0), (9.0, 9.0, 2.0)]:
        monkeypatch.setattr("nsim.launch.PRODUCT_FORWARD", forward)
        monkeypatch.setattr("nsim.sweeps.PRODUCT_BACKWARD", backward)
        monkeypatch.setattr("nsim.launch.DENSE_ACTIVE", dense)
        stack = Stack("LIF", recurrent=True, gain=(1.5, 4.0))
        _, hidden = compare(stack, counts, 1e-9)
        assert hidden[0].active.dense == (dense == 0.0)
        grads.append(stack.layers[0].weight.grad)
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk", [60, 16])
@pytest.mark.parametrize("graded", [False, True])
def test_events_sorted_by_input(monkeypatch, chunk, graded):
    """Enough of them, and weights too large for the first-level cache; rows of 90 numbers, which are widened to 96."""
    monkeypatch.setattr("nsim.sweeps.SORTED_BYTES", chunk * 96 * 8)
    counts = inputs(steps=60, n=100, density=0.25).astype(np.float32)
    if graded:
        counts *= np.random.default_rng(0).uniform(0.5, 1.5, counts.shape).astype(np.float32)
    stack = Stack("LIF", sizes=(100, 90, 90, 5), recurrent=True, delay=1, bias=True, gain=(3.0, 4.0))
    _, hidden = compare(stack, counts, 1e-9)
    assert min(100, 90) * 96 > IN_L1
    assert (counts[:, :chunk] > 0).sum(axis=(1, 2)).min() > 100
    assert chunk < 60 or np.diff(hidden[0].indptr[::60]).min() > 90, "own spikes are sorted too"


def test_fewer_events_than_inputs():
    compare(Stack("LIF", sizes=(100, 90, 17, 5), recurrent=True, gain=(20.0, 4.0)), inputs(n=100, density=0.01), 1e-9)


def test_an_active_set_too_large_for_a_list_becomes_dense_and_back():
    counts = inputs(steps=200)
    stack = Stack("LIF", sizes=(20, 200, 200, 5), band=3.0, gain=(2.0, 2.0))
    assert not stack.layers[0].room.dense
    _, hidden = compare(stack, counts, 1e-9)
    assert hidden[0].active.dense and stack.layers[0].room.dense
    for layer, oracle in zip(stack.layers[:2], stack.oracle[:2], strict=True):
        vars(layer.neuron)["band"] = oracle.band = 0.1  # which a user cannot
        layer.weight.grad = None
        for raw in layer.raw.values():
            raw.grad = None
    for tensor in stack.net.parameters():
        tensor.grad = None
    _, hidden = compare(stack, counts, 1e-9)
    assert not hidden[0].active.dense and not stack.layers[0].room.dense


def test_lists_that_prove_too_small_are_grown():
    counts = inputs(steps=400, density=0.3)
    stack = Stack("LIF", sizes=(20, 33, 17, 5), gain=(20.0, 20.0))
    _, hidden = compare(stack, counts, 1e-9)
    first_guess = launch._slots(3, 400, 33, 0, np.float64, False).indices.shape[1]
    assert np.diff(hidden[0].indptr[::400]).max() > first_guess


def test_graded_events():
    sizes = np.random.default_rng(0).normal(size=(3, 40, 20)).astype(np.float32)
    compare(Stack("LIF"), sizes * (inputs() > 0), 1e-9)


def test_gradient_on_hidden_spikes_is_that_of_the_oracle():
    """dL/ds of a hidden layer exists on its active set, and is the oracle's there."""
    stack, counts = Stack("LIF", learn=False), inputs()
    out, hidden = stack.net(Spikes.from_dense(counts, DT), hidden=True)
    hidden[0].retain_grad()
    grad = np.random.default_rng(1).normal(size=out.shape)
    (out * grad).sum().backward()
    wanted = reference.net_gradients(stack.oracle, counts, grad).ds[0].reshape(-1, 33)
    active = hidden[0].active
    rows = np.repeat(np.arange(len(active.indptr) - 1), np.diff(active.indptr))
    assert isinstance(hidden[0].grad, SpikesGrad)
    np.testing.assert_allclose(hidden[0].grad.active, wanted[rows, active.indices], rtol=1e-9, atol=1e-12)
