"""Layers and Sequential: shapes, errors before anything is computed, parameters by name, descriptions."""

import json

import numpy as np
import pytest

import nsim
from nsim import LI, LIF, EventError, ParameterError, ShapeError, Spikes, Tensor, nn, surrogates
from nsim.neurons import MODELS
from tests import cases

# Shapes


def test_spiking_layers_give_spikes_and_readouts_tensors():
    given = cases.spikes()
    layer = nn.Dense(9, 33, LIF())
    out = layer(given)
    assert isinstance(out, Spikes) and out.shape == (3, 12, 33) and out.dt == given.dt
    assert out.active is not None and out.space == (33,)
    for reduce, shape in [(None, (3, 12, 5)), *((how, (3, 5)) for how in ("sum", "mean", "max", "last"))]:
        read = nn.Dense(9, 5, LI(reduce=reduce))(given)
        assert isinstance(read, Tensor) and read.shape == shape and read.dtype == np.float32


def test_weights_start_uniform_and_follow_their_seed():
    layer = nn.Dense(400, 100, LIF(), recurrent=True, bias=True, seed=1)
    readout = nn.Dense(400, 100, LI(), seed=1)
    for tensor, bound in [(layer.weight, 2 / 20), (layer.weight_rec, 1 / 10), (readout.weight, 1 / 20)]:
        assert tensor.dtype == np.float32 and np.abs(tensor.data).max() <= bound
        np.testing.assert_allclose(tensor.data.std(), bound / np.sqrt(3), rtol=0.02)
    assert layer.weight.shape == (400, 100) and layer.weight_rec.shape == (100, 100) and not layer.bias.data.any()
    again = nn.Dense(400, 100, LIF(), seed=1)
    assert cases.same_bits(again.weight.data, layer.weight.data) and again.weight_rec is None and again.bias is None
    nsim.seed(7)
    first = nn.Dense(9, 5, LI()).weight.data
    nsim.seed(7)
    assert cases.same_bits(nn.Dense(9, 5, LI()).weight.data, first)
    assert not cases.same_bits(nn.Dense(9, 5, LI()).weight.data, first)


def test_true_lengths_pass_through_layers():
    net = cases.network()
    given = cases.spikes(lengths=[12, 3, 7])
    _, (first, second) = net(given, hidden=True)
    assert first.lengths.tolist() == second.lengths.tolist() == [12, 3, 7]


def test_hidden_spikes_are_the_layers_own():
    net = cases.network()
    given = cases.spikes()
    out, hidden = net(given, hidden=True)
    first = net[0](given)
    assert len(net) == 3 and [layer.name for layer in net] == ["0", "1", "2"]
    assert cases.same_events(hidden[0], first) and cases.same_events(hidden[1], net[1](first))
    assert cases.same_bits(out.data, net(given).data)


def test_hidden_spikes_leave_out_dropout_and_a_spiking_output():
    net = nn.Sequential(nn.Dense(9, 8, LIF(), seed=0), nn.Dropout(0.5), nn.Dense(8, 7, LIF(), seed=1))
    out, hidden = net(cases.spikes(), hidden=True)
    assert isinstance(out, Spikes) and [h.shape[2] for h in hidden] == [8]
    assert cases.same_events(hidden[0], net[0](cases.spikes()))


# Errors


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"n_in": 0}, ParameterError, "n_in = 0: expected a whole number of at least 1"),
        ({"n_out": 2.5}, ParameterError, "n_out = 2.5"),
        ({"delay": -1}, ParameterError, "delay = -1"),
        ({"delay": 1.5}, ParameterError, "delay = 1.5"),
        ({"n_in": "9"}, ParameterError, "n_in = '9'"),
        ({"n_out": np.inf}, ParameterError, "n_out = inf"),
        ({"dtype": int}, ParameterError, "nn.Dense: dtype = <class 'int'>: expected np.float32, or np.float64"),
        ({"dtype": np.float16}, ParameterError, "dtype = .*float16"),
        ({"dtype": None}, ParameterError, "dtype = None"),
        ({"dtype": "wide"}, ParameterError, "dtype = 'wide'"),
        ({"seed": "a"}, ParameterError, "nn.Dense: seed = 'a': expected a whole number of at least 0"),
        ({"seed": -1}, ParameterError, "nn.Dense: seed = -1"),
        ({"neuron": LIF}, ParameterError, "expected a neuron such as"),
        ({"neuron": LI(), "recurrent": True}, ParameterError, "LI has no spikes"),
        ({"neuron": LIF(tau_mem=[10e-3] * 4)}, ShapeError, r"tau_mem has shape \(4,\), expected a number or \[5\]"),
        ({"neuron": LIF(threshold=np.ones(6))}, ShapeError, r"threshold has shape \(6,\)"),
        ({"neuron": LIF(v_init=np.zeros(6))}, ShapeError, r"v_init has shape \(6,\)"),
    ],
    ids=str,
)
def test_dense_refuses(change, error, text):
    good = {"n_in": 9, "n_out": 5, "neuron": LIF()}
    nn.Dense(**good)
    with pytest.raises(error, match=text):
        nn.Dense(**good | change)


def test_sequential_refuses():
    for layers, error, text in [
        ([], ParameterError, "at least one layer"),
        ([LIF()], ParameterError, "layer 0 is .* expected a layer"),
        ([nn.Dense(9, 8, LIF()), nn.Dense(7, 5, LI())], ShapeError, "layer 1: .* has 8 neurons, expected 7"),
        ([nn.Dense(9, 8, LIF()), nn.Dropout(), nn.Dense(7, 5, LI())], ShapeError, "layer 2: .* 8 neurons, expected 7"),
        ([nn.Dense(9, 8, LI()), nn.Dense(8, 5, LI())], ParameterError, "layer 0: .* a readout has no spikes"),
    ]:
        with pytest.raises(error, match=text):
            nn.Sequential(*layers)


def test_wrong_inputs_are_refused_in_the_users_words():
    net = cases.network()
    with pytest.raises(ShapeError, match=r"layer 0: .*\(9, 33\): input has 12 neurons, expected 9, .* look swapped"):
        net(Spikes.from_dense(cases.counts().transpose(0, 2, 1), cases.DT))
    with pytest.raises(ShapeError, match=r"input has 12 neurons, expected 9$"):
        net(cases.spikes(n=12))
    with pytest.raises(ShapeError, match=r"input is ndarray, expected nsim.Spikes; make it with Spikes.from_dense"):
        net(cases.counts())
    with pytest.raises(ShapeError, match="input has 12 neurons, expected 9"):
        net.run(Spikes.from_dense(cases.counts().transpose(0, 2, 1), cases.DT))


@pytest.mark.parametrize("first", [nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5)], ids=repr)
def test_layers_without_neurons_refuse_arrays(first):
    for call in (nn.Sequential(first).run, nn.Sequential(first)):
        with pytest.raises(ShapeError, match=rf"layer 0: {first.kind}: input is ndarray, expected nsim.Spikes"):
            call(np.zeros((2, 5, 16)))


@pytest.mark.parametrize("value", [-1, 1.0, "a"])
def test_impossible_seeds_are_refused(value):
    with pytest.raises(ParameterError, match=rf"nsim: seed = {value!r}: expected a whole number of at least 0"):
        nsim.seed(value)


@pytest.mark.parametrize("name", ["recurrent", "bias"])
@pytest.mark.parametrize("value", ["no", np.zeros(5)], ids=str)
def test_a_switch_is_true_or_false(name, value):
    with pytest.raises(ParameterError, match=rf"nn.Dense: {name} = .*: expected True or False"):
        nn.Dense(9, 5, LIF(), **{name: value})


@pytest.mark.parametrize("name", ["weight", "weight_rec", "bias"])
def test_an_array_in_place_of_a_parameter_is_refused(name):
    layer = nn.Dense(9, 5, LIF(), recurrent=True, bias=True)
    tensor = getattr(layer, name)
    with pytest.raises(ParameterError, match=rf"nn.Dense\(9, 5\): {name} = ndarray: .*\.{name}\.data\[...\] = values"):
        setattr(layer, name, np.zeros(tensor.shape, np.float32))
    setattr(layer, name, Tensor(np.zeros(tensor.shape, np.float32), requires_grad=True))
    tensor = getattr(layer, name)
    tensor.data = tensor.data.tolist()
    for call in (layer, layer.run):
        with pytest.raises(ParameterError, match=rf"{name}.data is list, expected an array; write into it"):
            call(cases.spikes())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_events_of_a_size_that_is_not_finite_are_refused(value):
    given = Spikes.from_dense(0.5 * cases.counts(), cases.DT)
    sample, step, neuron = np.argwhere(cases.counts())[7]
    given.values[7] = value
    text = rf"layer 0: .*: input: event of size {value} at sample {sample}, step {step}, neuron {neuron};"
    net = cases.network()
    for call in (net, net.run, lambda spikes: net(spikes, hidden=True)):
        with pytest.raises(EventError, match=text):
            call(given)
    picture = Spikes.from_dense(0.5 * cases.counts(n=8), cases.DT, space=(2, 2, 2))
    picture.values[0] = value
    for pool in (nn.SumPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(2)):
        with pytest.raises(EventError, match="must be finite"):
            pool(picture)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["weight", "weight_rec", "bias", "log_tau_mem"])
def test_weights_that_are_not_finite_are_refused_by_name(name, value):
    layer = nn.Dense(9, 5, LIF(learn="tau_mem"), recurrent=True, bias=True)
    tensor = layer.named_parameters()[name]
    tensor.data.reshape(-1)[-1] = value
    for call in (layer, layer.run):
        with pytest.raises(ParameterError, match=rf"nn.Dense\(9, 5\): {name} holds NaN or infinity"):
            call(cases.spikes())


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_large_finite_weights_are_not_mistaken_for_infinite_ones():
    layer = nn.Dense(9, 5, LIF(), seed=0)
    layer.weight.data[:] = 3e38
    assert layer(cases.spikes()).shape == (3, 12, 5)


def test_weights_of_another_shape_are_refused():
    layer = nn.Dense(9, 5, LIF())
    for data in (np.zeros((5, 9), np.float32), np.zeros((5, 9), np.float32).T):
        layer.weight.data = data
        with pytest.raises(ShapeError, match=r"weight.data has shape .* expected a contiguous \(9, 5\)"):
            layer(cases.spikes())


@pytest.mark.parametrize("name", ["weight", "weight_rec", "bias", "log_tau_mem"])
def test_parameters_of_another_type_are_refused_by_name(name):
    layer = nn.Dense(9, 5, LIF(learn="tau_mem"), recurrent=True, bias=True)
    tensor = layer.named_parameters()[name]
    tensor.data = tensor.data * np.float64(4)
    for call in (layer, layer.run):
        with pytest.raises(ParameterError, match=rf"{name}.data has dtype float64, expected float32; .*\.astype"):
            call(cases.spikes())
    tensor.data = tensor.data.astype(np.float32)
    assert layer(cases.spikes()).shape == (3, 12, 5)


def test_unknown_devices_are_refused():
    net = cases.network()
    assert net.to("cpu") is net
    with pytest.raises(nsim.DeviceError, match="device 'tpu': expected one of cpu, cuda"):
        net.to("tpu")


# Parameters


def test_parameters_by_name():
    net = nn.Sequential(
        nn.Dense(9, 8, LIF(learn=("tau_mem", "threshold")), recurrent=True, bias=True),
        nn.Dropout(),
        nn.Dense(8, 5, LI()),
    )
    names = ["0.weight", "0.weight_rec", "0.bias", "0.log_tau_mem", "0.threshold", "2.weight"]
    assert list(net.named_parameters()) == names == [p.name for p in net.parameters()]
    assert all(p.requires_grad for p in net.parameters())


def test_state_dict_is_a_copy_that_loads_back():
    net, other = cases.network(recurrent=True), cases.network(recurrent=True)
    kept = net.state_dict()
    net[0].weight.data += 1
    assert not np.array_equal(kept["0.weight"], net[0].weight.data)
    net.load_state_dict(kept)
    given = cases.spikes()
    for name, value in net.state_dict().items():
        assert cases.same_bits(value, kept[name])
    other.load_state_dict(net.state_dict())
    assert cases.same_bits(net(given).data, other(given).data)


def test_load_state_dict_refuses_and_then_changes_nothing():
    net = cases.network()
    kept = net.state_dict()
    zeros = {name: np.zeros_like(value) for name, value in kept.items()}
    nan = np.full_like(kept["2.weight"], np.nan)
    for change, error, text in [
        ({"2.weight": nan}, ParameterError, "2.weight holds NaN"),
        ({"2.weight": np.full((17, 5), "1")}, ParameterError, "2.weight has dtype <U1, expected numbers"),
        ({"2.weight": np.zeros((17, 5), complex)}, ParameterError, "2.weight has dtype complex128"),
        ({"2.weight": np.zeros((17, 6))}, ShapeError, r"2.weight has \(17, 6\), expected \(17, 5\)"),
        ({"3.weight": nan}, ParameterError, r"missing none, unknown 1 \(3.weight\)"),
    ]:
        with pytest.raises(error, match=text):
            net.load_state_dict(zeros | change)
    with pytest.raises(ParameterError, match=r"missing 3 \(0.weight, 1.weight, 2.weight\), unknown none$"):
        net.load_state_dict({})
    with pytest.raises(ParameterError, match=r'names begin with "module.": pass \{k.removeprefix\("module."\)'):
        net.load_state_dict({f"module.{name}": value for name, value in zeros.items()})
    with pytest.raises(ParameterError, match="load_state_dict: a str; expected arrays by name"):
        net.load_state_dict("weights.npz")
    assert all(cases.same_bits(value, kept[name]) for name, value in net.state_dict().items())


def test_values_are_read_and_written_in_their_own_unit():
    layer = nn.Dense(9, 5, LIF(tau_mem=10e-3, learn="tau_mem"))
    np.testing.assert_allclose(layer.value("tau_mem"), 10e-3, rtol=1e-6)
    layer.set_value("tau_mem", 25e-3)
    np.testing.assert_allclose(layer.value("tau_mem"), 25e-3, rtol=1e-6)
    np.testing.assert_allclose(layer.raw["tau_mem"].data, np.log(25e-3), rtol=1e-6)
    layer.set_value("threshold", np.arange(1.0, 6.0))
    assert layer.value("threshold").tolist() == layer.describe()["neuron"]["threshold"] == [1, 2, 3, 4, 5]
    with pytest.raises(ParameterError, match="LIF has tau_mem, threshold, not 'tau_syn'"):
        layer.value("tau_syn")
    with pytest.raises(ParameterError, match=r"tau_mem = -1.0"):
        layer.set_value("tau_mem", -1.0)


# Descriptions

OPTIONS = [
    {},
    {"v_init": 0.25},
    {"reset": "zero", "detach_reset": False},
    {"band": None, "surrogate": surrogates.ATan(3.0)},
    {"band": 0.05, "surrogate": surrogates.FastSigmoid(10.0)},
    {"surrogate": surrogates.Triangular(2.0)},
    {"surrogate": surrogates.Boxcar(0.25)},
    {"surrogate": surrogates.Sigmoid(5.0)},
]
NEURONS = [pytest.param(m, options, id=f"{m}-{options}") for m in cases.SPIKING for options in OPTIONS]
NEURONS += [pytest.param("LI", {"reduce": reduce, "v_init": 0.5}) for reduce in (None, "sum", "mean", "max", "last")]


def rebuilt(net):
    """The network of a description that went through JSON."""
    return nn.build(json.loads(json.dumps(net.describe())))


@pytest.mark.parametrize("name, options", NEURONS)
def test_every_neuron_and_option_is_described(name, options):
    model = MODELS[name]
    every = {p.name: (np.arange(1, 6) * 1e-2).tolist() for p in model.parameters}
    for values, learn in [({}, ()), (every, ()), ({}, tuple(every)), (every, tuple(every)[:1])]:
        neuron = model(**values, **options, learn=learn)
        layer = nn.Dense(9, 5, neuron, recurrent=model.spiking, delay=2, bias=True, seed=0)
        again = rebuilt(layer)
        assert again.describe() == layer.describe()
        assert type(again.neuron) is model and again.neuron.variant == neuron.variant
        assert vars(again.neuron).keys() == vars(neuron).keys()
        again.load_state_dict(layer.state_dict())
        for key in every:
            np.testing.assert_array_equal(again.value(key), layer.value(key))


def test_a_described_network_computes_the_same():
    net = cases.network(recurrent=True, delay=1, bias=True, neuron={"threshold": 0.8, "v_init": 0.1, "band": 0.5})
    again = rebuilt(net)
    again.load_state_dict(net.state_dict())
    given = cases.spikes()
    assert cases.same_bits(net(given).data, again(given).data) and repr(net) == repr(again)


def test_build_refuses_what_it_does_not_know():
    with pytest.raises(ParameterError, match="unknown layer 'Lstm'; known: Dense, Conv2d, "):
        nn.build({"layer": "Lstm"})
    with pytest.raises(ParameterError, match="unknown neuron model 'Nobody'"):
        nn.build(nn.Dense(9, 5, LI()).describe() | {"neuron": {"model": "Nobody"}})
    layer = nn.Dense(9, 5, LIF(surrogate=surrogates.Custom(abs)))
    with pytest.raises(ParameterError, match="Custom surrogate cannot be written"):
        layer.describe()
    assert "Custom" in repr(layer) and layer.run(cases.spikes(2, 3, 9)).output.shape == (2, 3, 5)


def test_a_neuron_keeps_its_values_when_the_users_array_changes():
    theta, tau = np.full(5, 0.8), np.full(5, 20e-3)
    neuron = LIF(tau, threshold=theta)
    layer = nn.Dense(9, 5, neuron)
    theta[:], tau[:] = 7, 7
    assert (layer.value("threshold") == 0.8).all() and (layer.value("tau_mem") == 20e-3).all()
    layer.set_value("threshold", theta)
    theta[:] = 9
    assert (layer.value("threshold") == 7).all()


def test_a_value_is_a_copy():
    layer = nn.Dense(3, 2, nsim.LIF(tau_mem=10e-3))
    tau = layer.value("tau_mem")
    tau *= 1e3
    assert layer.value("tau_mem") == 10e-3


def test_what_a_layer_was_made_with_stays():
    """What is put on a layer later must be what its kernels read."""
    layer, conv = nn.Dense(6, 5, nsim.LIF(learn="tau_mem")), nn.Conv2d(1, 2, 3, nsim.LIF(), size=5)
    with pytest.raises(ParameterError, match=r"nn.Dense\(6, 5\): it was made without bias; make a layer that has one"):
        layer.bias = nsim.Tensor(np.zeros(5, np.float32))
    with pytest.raises(ParameterError, match="it was made without weight_rec"):
        conv.weight_rec = nsim.Tensor(np.zeros((2, 2), np.float32))
    with pytest.raises(ParameterError, match="its neuron is fixed; set_value"):
        layer.neuron = nsim.LIF()
    with pytest.raises(ShapeError, match=r"tau_mem is one number that is trained, not \[5\]"):
        layer.set_value("tau_mem", np.full(5, 0.02))
    layer.set_value("tau_mem", 0.02)
    np.testing.assert_allclose(layer.value("tau_mem"), 0.02, rtol=1e-6)
    layer.raw["tau_mem"].data = np.full(7, 0.5, np.float32)
    with pytest.raises(ShapeError, match=r"has shape \(7,\), expected a number or \[5\]"):
        layer(nsim.Spikes.from_dense(np.zeros((1, 2, 6)), 1e-3))


def test_a_layer_stands_in_a_network_once():
    layer, pool = nn.Dense(4, 4, nsim.LIF()), nn.MaxPool2d(2)
    with pytest.raises(ParameterError, match="layer 1 is the same object as one before it"):
        nn.Sequential(layer, layer)
    assert len(nn.Sequential(pool, pool)) == 2  # it has nothing to train


def test_numbers_too_large_for_the_weights_are_refused():
    layer = nn.Dense(2, 2, nsim.LIF())
    with pytest.raises(ParameterError, match="weight holds NaN or infinity, or numbers beyond float32"):
        layer.load_state_dict({"weight": np.full((2, 2), 1e300)})
