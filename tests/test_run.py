"""`run`: simulation with a state. Any cutting of the time axis gives the bits of the whole run, and of a plain call."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsim import LI, LIF, CubaLIF, ParameterError, ShapeError, Spikes, nn
from nsim.neurons import MODELS
from tests import cases, reference

CUTS = [[5], [1, 2, 3], [11], list(range(1, 12))]


def in_parts(net, spikes, cuts, record=None):
    """The runs of the pieces of `spikes` between the cuts, each from the state of the one before."""
    edges, state, runs = [0, *cuts, spikes.shape[1]], None, []
    for start, stop in itertools.pairwise(edges):
        runs.append(net.run(spikes.cut(start, stop), state=state, record=record))
        state = runs[-1].state
    return runs


def check_cut(net, spikes, cuts, reduced=True):
    """Hidden events, recorded states and output of a run in parts against the whole run."""
    record = {k: list(range(layer.n_out)) for k, layer in enumerate(net) if hasattr(layer, "neuron")}
    whole, parts = net.run(spikes, record=record), in_parts(net, spikes, cuts, record)
    for k, fired in enumerate(whole.spikes):
        edges = [0, *cuts, spikes.shape[1]]
        for run, start, stop in zip(parts, edges[:-1], edges[1:], strict=True):
            assert cases.same_events(run.spikes[k], fired.cut(start, stop)), f"layer {k}, steps {start} to {stop}"
    for k, states in whole.recorded.items():
        for name, values in states.items():
            joined = np.concatenate([run.recorded[k][name] for run in parts], axis=1)
            assert cases.same_bits(joined, values), f"layer {k}: {name}"
    output = parts[-1].output if reduced else np.concatenate([run.output for run in parts], axis=1)
    assert cases.same_bits(output, whole.output)
    return whole


@pytest.mark.parametrize("recurrent, delay, bias", [(False, 0, True), (True, 1, False), (True, 3, True)])
@pytest.mark.parametrize("name", cases.SPIKING)
def test_every_model_cut_anywhere(name, recurrent, delay, bias):
    net = cases.network(name, recurrent=recurrent, delay=delay, bias=bias)
    given = cases.spikes(4, 12, 9, density=0.25)
    for cuts in CUTS:
        whole = check_cut(net, given, cuts)
    assert all(fired.density > 0.01 for fired in whole.spikes), "a silent layer shows nothing"
    out, hidden = net(given, hidden=True)
    assert cases.same_bits(out.data, whole.output), "a plain call gives the same"
    assert all(cases.same_events(a, b) for a, b in zip(hidden, whole.spikes, strict=True))


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_states_at_rest_and_resets(reset):
    net = cases.network(recurrent=True, neuron={"reset": reset, "v_init": np.linspace(0.5, 0.9, 33)}, sizes=(9, 33, 5))
    for cuts in CUTS:
        check_cut(net, cases.spikes(), cuts)


@pytest.mark.parametrize("delay", [0, 1, 3, 20])
@pytest.mark.parametrize("reduce", [None, "sum", "mean", "max", "last"])
def test_every_reduction(reduce, delay):
    net = cases.network(sizes=(9, 33, 5), delay=delay, readout={"reduce": reduce, "v_init": -0.3})
    given = cases.spikes()
    for cuts in CUTS:
        whole = check_cut(net, given, cuts, reduced=reduce is not None)
    assert cases.same_bits(net(given).data, whole.output)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "last"])
def test_reductions_honour_true_lengths_when_cut(reduce):
    """A sample that is over before the cut adds nothing after it."""
    net = cases.network(sizes=(9, 33, 5), readout={"reduce": reduce})
    given = cases.spikes(lengths=[12, 3, 7])
    assert cases.same_bits(net(given).data, net.run(given).output)
    check_cut(net, given, [5])


SHAPES = st.tuples(st.integers(1, 4), st.integers(2, 20), st.floats(0, 0.38))
NETS = {delay: cases.network(sizes=(9, 33, 5), recurrent=True, delay=delay) for delay in (0, 1, 3)}


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(SHAPES, st.sampled_from(sorted(NETS)), st.data())
def test_any_cutting(shape, delay, data):
    batch, steps, density = shape
    dense = np.random.default_rng(steps).random((batch, steps, 9)) < density
    cuts = sorted(data.draw(st.sets(st.integers(1, steps - 1), max_size=steps)))
    check_cut(NETS[delay], Spikes.from_dense(dense, cases.DT), cuts)


@pytest.mark.parametrize("delay", [0, 2])
def test_repeated_graded_and_no_events(delay):
    dense = np.random.default_rng(0).normal(size=(3, 12, 9)) * (cases.counts(density=0.3) > 0)
    half = cases.counts(density=0.3).astype(float)
    half[:, :6] *= 0.5
    for amounts in (cases.counts(density=0.3, seed=4), dense, half, np.zeros((3, 12, 9))):
        # The pieces of one step have fewer events than the first layer has inputs, the others have more.
        check_cut(cases.network(recurrent=True, delay=delay), Spikes.from_dense(amounts, cases.DT), [1, 6, 7])


def test_dropout_does_nothing_in_a_run():
    layers = nn.Dense(9, 33, LIF(), seed=0), nn.Dropout(0.5), nn.Dense(33, 5, LI(reduce="sum"), seed=1)
    net, plain = nn.Sequential(*layers), nn.Sequential(layers[0], layers[2])
    whole = check_cut(net, cases.spikes(), [4])
    assert cases.same_bits(whole.output, plain(cases.spikes()).data)


def test_a_run_leaves_no_tape_and_no_change():
    net = cases.network(recurrent=True)
    before, given = net.state_dict(), cases.spikes()
    first = net.run(given)
    assert isinstance(first.output, np.ndarray)
    assert all(fired.node is None and fired.active is None for fired in first.spikes)
    kept = [None if part is None else part[2][0].copy() for part in first.state]
    again, branch = (net.run(given, state=first.state) for _ in range(2))
    assert cases.same_bits(again.output, branch.output), "a state may be gone on from twice"
    assert all(cases.same_bits(part[2][0], old) for part, old in zip(first.state, kept, strict=True))
    assert all(cases.same_bits(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("name", [name for name in MODELS if name in reference.MODELS])
def test_recorded_states_are_the_oracles(name):
    """Every state of the model, at every step, for the neurons asked for, in the order asked for."""
    model = MODELS[name]
    layer = nn.Dense(9, 33, model(v_init=0.3), seed=0)
    if model.spiking:
        cases.enliven([layer], cases.spikes())
    watched = [32, 0, 7]
    run = layer.run(cases.spikes(), record=watched)
    params = {key: float(value) for key, value in layer.neuron.values.items()}
    oracle = reference.Layer(name, layer.weight.data.astype(float), params, cases.DT, v_init=0.3)
    record = reference.layer_forward(oracle, cases.counts().astype(float))
    assert list(run.recorded[0]) == list(model.states)
    if model.spiking:
        assert np.abs(record.u).min() > 1e-6, "a site is at the threshold: choose another seed"
        np.testing.assert_array_equal(run.output.to_dense(), record.s)
    for values, wanted in zip(run.recorded[0].values(), record.states, strict=True):
        np.testing.assert_allclose(values, wanted[:, 1:, watched], rtol=1e-5, atol=1e-5)


def test_only_what_was_asked_for_is_recorded():
    net = cases.network("CubaLIF")
    run = net.run(cases.spikes(), record={1: [3], 2: [0, 4]})
    assert {k: list(states) for k, states in run.recorded.items()} == {1: ["v", "i"], 2: ["v"]}
    assert run.recorded[1]["i"].shape == (3, 12, 1) and run.recorded[2]["v"].shape == (3, 12, 2)
    assert net.run(cases.spikes()).recorded == {}


def test_records_that_do_not_fit_are_refused():
    net = nn.Sequential(nn.Dense(9, 8, LIF(), seed=0), nn.Dropout(), nn.Dense(8, 5, LI(), seed=1))
    for record, error, text in [
        ({3: [0]}, ParameterError, r"record: \[3\] are not layers with neurons; .* layers 0 to 2"),
        ({1: [0]}, ParameterError, r"record: \[1\]"),
        ({"v": [0]}, ParameterError, r"record: \['v'\]"),
        ({0: [8]}, ShapeError, r"layer 0: .* record = \[8\]: neurons are 0 to 7"),
        ({2: [-1]}, ShapeError, r"layer 2: .* record = \[-1\]"),
        ({0: [0.7]}, ParameterError, r"layer 0: .* record = \[0.7\]: expected a list of neurons, such as"),
        ({0: [True, False]}, ParameterError, "expected a list of neurons"),
        ({0: 3}, ParameterError, "record = 3: expected a list of neurons"),
        ({0: [[0], [1]]}, ParameterError, "expected a list of neurons"),
        ({True: [0]}, ParameterError, r"record: \[True\]"),
        ([0], ParameterError, r"record = \[0\]: expected {layer number: list of neurons}"),
    ]:
        with pytest.raises(error, match=text):
            net.run(cases.spikes(), record=record)


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Residual(nn.Dropout())], ids=repr)
def test_a_layer_without_neurons_has_nothing_to_record_or_to_go_on_from(layer):
    given = Spikes.from_dense(cases.counts(n=8), cases.DT, space=(2, 4, 1))
    whole, state = layer.run(given), layer.run(given).state
    for nothing in (None, {}, (), []):
        assert cases.same_events(layer.run(given, state=state, record=nothing).output, whole.output)
    for record in ([0], {"body": [0]}, np.array([0]), 0):
        with pytest.raises(ParameterError, match=r"record = .*: it has no neurons of its own; leave record out, or"):
            layer.run(given, record=record)
    if not layer.children():
        for wrong in ("nonsense", [], [None, None], [3], 0):
            with pytest.raises(ParameterError, match=r"state = .*: it has none; leave state out"):
                layer.run(given, state=wrong)


@pytest.mark.parametrize("name, delay", [("LIF", 0), ("LIF", 2), ("LI", 0)])
def test_states_that_do_not_fit_are_refused(name, delay):
    """A state of another batch, size, model or delay: refused before a kernel reads past its end."""
    neuron = {"LIF": LIF(), "LI": LI()}[name]
    layer = nn.Dense(9, 33, neuron, delay=delay)
    given = cases.spikes()
    layer.run(given, state=layer.run(given).state)
    for other in (
        nn.Dense(9, 200, neuron, delay=delay),
        nn.Dense(9, 5, neuron, delay=delay),
        nn.Dense(9, 33, CubaLIF(), delay=delay),
        nn.Dense(9, 33, LI() if name == "LIF" else LIF(), delay=delay),
        nn.Dense(9, 33, neuron, delay=delay + 1),
        nn.Dense(9, 33, neuron, delay=delay, dtype=np.float64),
    ):
        with pytest.raises(ShapeError, match="state"):
            layer.run(given, state=other.run(given).state)


def test_layers_and_neurons_to_record_may_be_of_numpy():
    net = cases.network()
    plain = net.run(cases.spikes(), record={0: [1, 3]}).recorded
    for record in ({np.int64(0): np.array([1, 3])}, {np.uint8(0): (np.int16(1), 3)}, {0: range(1, 4, 2)}):
        recorded = net.run(cases.spikes(), record=record).recorded
        assert list(recorded) == [0] and cases.same_bits(recorded[0]["v"], plain[0]["v"])


def test_what_is_no_state_is_refused():
    net, layer = cases.network(), nn.Dense(9, 5, LIF())
    block = nn.Residual(nn.Dense(9, 9, LIF()))
    for part, state in [(net, 3), (net, "abc"), (layer, 3), (layer, [None]), (layer, [3]), (net, [3] * 3), (block, 3)]:
        with pytest.raises(ShapeError, match="the `state` that a run of this network returned"):
            part.run(cases.spikes(), state=state)
    with pytest.raises(ShapeError, match="state has 0 layers, this network has 1"):
        block.run(cases.spikes(), state=[None])


def test_states_of_another_batch_or_depth_are_refused():
    net = cases.network()
    state = net.run(cases.spikes()).state
    with pytest.raises(ShapeError, match=r"layer 0: .* state is of 3 samples, the input has 2"):
        net.run(cases.spikes(batch=2), state=state)
    with pytest.raises(ShapeError, match="state has 2 layers, this network has 3"):
        net.run(cases.spikes(), state=state[:2])
    net[0].set_value("threshold", 2.0)
    with pytest.raises(ShapeError, match=r"layer 0: .* of a neuron with other parameters \(has set_value changed them"):
        net.run(cases.spikes(), state=state)
    with pytest.raises(ShapeError, match="dt"):
        cases.network(delay=1).run(cases.spikes(dt=2e-3), state=cases.network(delay=1).run(cases.spikes()).state)


@pytest.mark.parametrize(("long", "short"), [(1000, 50), (5000, 20)])
def test_a_long_run_leaves_no_room_that_is_too_wide_for_a_short_one(long, short):
    """Lists begin with the room that the last ones needed: never with more than the steps at hand can fill."""
    rng = np.random.default_rng(0)

    def batch(size, steps):
        return Spikes.from_dense((rng.random((size, steps, 40)) < 0.2) * 1, 1e-3)

    net = nn.Sequential(nn.Dense(40, 100, LIF(tau_mem=10e-3), seed=0), nn.Dense(100, 5, LI(reduce="sum"), seed=1))
    fresh = nn.build(net.describe())
    fresh.load_state_dict(net.state_dict())
    net.run(batch(1, long))
    given = batch(4, short)
    np.testing.assert_array_equal(net(given).data, fresh(given).data)
    layer = nn.Dense(20, 500, LIF(tau_mem=5e-3))
    layer.room.spikes = layer.room.active = 1 << 40  # bytes, where a longer run had need of them
    layer(Spikes.from_dense(np.ones((2, 5, 20)), 1e-3))
