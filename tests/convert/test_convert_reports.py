"""Fates of nodes, parts of the error, costs, pictures; what a run is counted as."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from nsim import ann, convert, nn, plot
from nsim.convert.lower import RULES
from nsim.convert.make import assemble
from nsim.convert.report import FOLDED
from nsim.convert.simulate import Schedule
from nsim.errors import ParameterError, ShapeError
from tests import convert_reference as oracle
from tests.convert.small import POOLS, images, network, with_pools


def test_every_node_has_a_fate():
    net = network()
    snn = convert.to_spiking(net, images())
    fates = {fate.name: fate for fate in convert.coverage(net, snn)}
    assert [*fates] == [*(node.name for node in net), "pool+1"]
    assert {name for name, fate in fates.items() if fate.spiking} == {"relu1", "relu2", "relu3", "pool", "pool+1"}
    assert fates["norm1"].became == "analog: folded into the weights of relu1"
    assert fates["add"].became == "summed by relu3" and "depth 2" in fates["relu3"].became
    graded = "graded: passes on real values, sums of weighted spikes, in each step; read by the readout"
    assert fates["mean"].became == graded and not fates["mean"].spiking
    assert fates["input"].became == "analog: constant drive of relu1"


@pytest.mark.parametrize("kind", POOLS)
def test_reports_know_every_population(kind):
    """Also where a maximum has neurons of its own, is analog, or has a gate for each of its readers."""
    net, x = with_pools(kind), images(8)
    snn = convert.to_spiking(net, x, convert.Bistable(8), percentile=100)
    steps = snn.first_answer
    fates = {fate.name: fate for fate in convert.coverage(net, snn)}
    assert {p.name for p in snn.populations} <= fates.keys()
    graded = {p.name for p in snn.populations if p.kind == "sum"}
    assert graded == {name for name, fate in fates.items() if fate.became.startswith("graded")}
    analog = {name for name, fate in fates.items() if fate.became.startswith("analog")}
    assert analog == {node.name for node in net if net.nodes.index(node) < net.nodes.index(net["relu1"])}
    split = convert.error_split(net, snn, x, steps)
    assert len(split.names) == sum(p.kind == "neuron" for p in snn.populations)
    assert (split.total < 0.05).all() and (split.total > 0).all()
    found = convert.cost(net, snn, x, steps)
    activity = snn.activity(x, steps)
    assert found.spikes == sum(spikes.mean() for spikes in activity.spikes.values())
    assert graded == activity.graded_macs.keys() and found.graded_macs == sum(
        n.mean() for n in activity.graded_macs.values()
    )
    assert len(found.by_layer) == len(snn.populations) - 1
    if kind == "two readers":  # each has a gate of its own
        assert {"pool", "pool.2"} <= fates.keys() and found.by_layer["pool"][0] == found.by_layer["pool.2"][0] > 0


def reports(net, snn, x=None):
    """Calls of each report, by name."""
    x = images() if x is None else x
    return {
        "coverage": lambda: convert.coverage(net, snn), "cost": lambda: convert.cost(net, snn, x, 16),
        "error_split": lambda: convert.error_split(net, snn, x, 16),
    }  # fmt: skip


def changed(net):
    net["norm1"].operation.running_mean[2] += 1e-3
    return net


def other_window(net):
    """The same names and shapes, and another window for the pool."""
    pool = net["pool"].operation
    pool.windows = pool.windows._replace(kernel=(1, 1))
    return net


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda net: with_pools("images"), "its nodes, their options or their order"), (other_window, "their options"),
        (lambda net: network(seed=1), r"the same nodes, but other numbers in 6 of 12 arrays, conv1.weight first"),
        (changed, r"the same nodes, but other numbers in 1 of 12 arrays, norm1.running_mean first"),
    ],
)  # fmt: skip
def test_reports_refuse_another_network(make, text):
    net = network()
    snn = convert.to_spiking(net, images())
    for call in reports(network(), snn).values():
        call()  # equal numbers are the same network
    for name, call in reports(make(net), snn).items():
        with pytest.raises(ParameterError, match=f"{name}: this is not the network that was converted: .*{text}"):
            call()


@pytest.mark.parametrize("steps", ["40", None, 0, 2.5, np.nan])
def test_reports_refuse_what_is_no_number_of_steps(steps):
    net = network()
    snn = convert.to_spiking(net, images())
    for name, report in (("cost", convert.cost), ("error_split", convert.error_split)):
        with pytest.raises(ParameterError, match=f"{name}: steps = {steps!r}: expected a whole number"):
            report(net, snn, images(), steps)


def test_reports_refuse_what_is_no_network():
    net = network()
    snn = convert.to_spiking(net, images())
    for given in ((snn, net), (net, None), (None, snn), (nn.Sequential(nn.Flatten()), snn)):
        kinds = " and ".join(type(one).__name__ for one in given)
        for name, call in reports(*given).items():
            with pytest.raises(ParameterError, match=f"{name}: of {kinds}; expected an nsim.ann.Graph, then what"):
                call()


@pytest.mark.parametrize("pool_first", [False, True])
@pytest.mark.parametrize("code", [convert.Bistable(4), convert.IF()])
def test_the_parts_of_the_error_are_what_they_are_called(code, pool_first):
    net, x = network(pool_first), images(8)
    snn = convert.to_spiking(net, x, code, percentile=97)
    steps = max(16, snn.first_answer)
    split = convert.error_split(net, snn, x, steps)
    assert split.names == ("relu1", "relu2", "relu3")
    assert (split.clipping > 0).all() and (split.quantisation > 0).all()
    whole = convert.error_split(net, convert.to_spiking(net, x, code, percentile=100), x, steps)
    assert (whole.clipping < split.clipping).all()
    if code.staged:
        assert (
            split.passed[0] < 1e-6 and split.inactivated[0] == split.inactivated_share[0] == 0
        )  # nothing came in late
        fine = convert.error_split(net, convert.to_spiking(net, x, convert.Bistable(8), percentile=97), x, 64)
        assert (fine.quantisation < 0.2 * split.quantisation).all()
        with pytest.raises(ParameterError, match="first complete answer comes after 16"):
            convert.error_split(net, snn, x, 15)


def test_costs_are_counted():
    """By hand: what each spike of a layer reaches, from the oracle's spikes."""
    net, x = network(), images(4)
    snn = convert.to_spiking(net, x, convert.Bistable(3))
    found = convert.cost(net, snn, x, snn.first_answer)
    assert found.analog_macs == 64 * 6 * 18 and found.ann_macs == 64 * 6 * 18 + 2 * 16 * 6 * 54 + 24
    values = oracle.forward(net, x, snn.thresholds, 3)
    level = np.rint(values["relu2"].value * 8 / snn.thresholds["relu2"])
    reach = np.outer([2, 3, 3, 2], [2, 3, 3, 2])[None, :, :, None] * 6
    # The first stage of a run is the only one in which this layer has fired.
    spikes, synops, graded = found.by_layer["relu2"]
    assert spikes == oracle.bits(level).sum() / 4
    assert synops == (oracle.bits(level) * reach).sum() / 4 and graded == 0
    totals = tuple(sum(column) for column in zip(*found.by_layer.values(), strict=True))
    assert totals == (found.spikes, found.synops, found.graded_macs) and 0 < found.rate < 1


def test_operations_behind_an_average_are_counted():
    """By hand: each spike is averaged once, and what comes out of a window meets its weights once a step."""
    net = ann.Graph(seed=0)
    x = net.relu(net.conv2d(net.input((2, 8, 8)), 6, 3, padding=1), name="relu1")
    x = net.conv2d(net.avg_pool(x, 2, name="mean"), 5, 1, name="conv2")
    net.linear(net.flatten(net.relu(x, name="relu2")), 3)
    given = images(2)
    snn = convert.to_spiking(net, given, convert.Bistable(3))
    found = convert.cost(net, snn, given, snn.first_answer)
    level = np.rint(oracle.forward(net, given, snn.thresholds, 3)["relu1"].value * 8 / snn.thresholds["relu1"]).astype(
        int
    )
    sent = [(level >> k) & 1 for k in range(3)]
    windows = sum((s.reshape(2, 4, 2, 4, 2, 6).sum(axis=(2, 4)) > 0).sum() for s in sent)
    assert found.by_layer["relu1"] == (sum(s.sum() for s in sent) / 2, sum(s.sum() for s in sent) / 2, 0)
    assert found.by_layer["mean"] == (0, 0, 5 * windows / 2)
    assert found.synops == sum(found.by_layer[name][1] for name in ("relu1", "relu2"))


def test_a_linear_layer_that_another_one_reads_is_graded():
    """A bottleneck without ReLU: what is narrow is sent on as real numbers, whose operations are no spike's."""
    net = ann.Graph(seed=0)
    x = net.relu(net.conv2d(net.input((2, 8, 8)), 6, 3, padding=1), name="relu1")
    x = net.batch_norm(net.conv2d(x, 3, 1, name="narrow"), name="norm")
    x = net.relu(net.conv2d(x, 6, 1, name="wide"), name="relu2")
    net.linear(net.linear(net.flatten(x), 2, name="first"), 3, name="second")
    snn, x = convert.to_spiking(net, images()), images(2)
    fates = {fate.name: fate for fate in convert.coverage(net, snn)}
    words = "graded: passes on real values, sums of weighted spikes, in each step; read by "
    assert fates["norm"].became == f"{words}relu2" and fates["first"].became == f"{words}the readout"
    assert fates["narrow"].became == "weights of norm" and fates["wide"].became == "weights of relu2"
    assert not fates["norm"].spiking and fates["relu2"].spiking
    found = convert.cost(net, snn, x, snn.first_answer)
    assert found.by_layer["relu1"][1:] == (3 * found.by_layer["relu1"][0], 0)
    assert found.by_layer["relu2"][1:] == (2 * found.by_layer["relu2"][0], 0)
    relu1 = oracle.forward(net, x, snn.thresholds, 4)["relu1"].value
    level = np.rint(relu1 * 16 / snn.thresholds["relu1"]).astype(int)
    places = sum(((level >> k) & 1).any(axis=3).sum() for k in range(4))  # at which something came in during a step
    assert found.by_layer["norm"] == (0, 0, 3 * 6 * places / 2) and found.by_layer["first"][2] <= 2 * 3 * 4
    assert found.graded_macs == found.by_layer["norm"][2] + found.by_layer["first"][2]


def test_phase_coding_rounds_less_with_each_cycle():
    """Its membranes carry what a cycle did not send over to the next."""
    net = ann.Graph(seed=0)
    net.linear(net.relu(net.linear(net.input((10,)), 50)), 3)
    x = images(20, (10,))
    split = convert.error_split(net, convert.to_spiking(net, x, convert.Phase(3), percentile=100), x, 300)
    assert split.quantisation[0] < 0.005 and split.passed[0] < 0.005


def test_each_event_of_a_gate_is_a_spike():
    """With phase coding a window may overtake another by a part of a spike."""
    net = ann.Graph(seed=0)
    x = net.conv2d(net.conv2d(net.input((2, 8, 8)), 6, 3, padding=1), 6, 3, padding=1)
    net.linear(net.flatten(net.max_pool(net.relu(x), 2, name="pool")), 3)
    snn, x = convert.to_spiking(net, images(), convert.Phase(4)), images(10)
    events = 0

    def visit(sample, came, space, first, last):
        nonlocal events
        events += space.events[pool].indptr[last - first]

    (pool,) = (p for p in snn.populations if p.kind == "pool")
    snn._run(x, Schedule(snn.code, snn.populations, 40), visit)
    assert snn.activity(x, 40).spikes["pool"].sum() >= events > 0


@pytest.mark.parametrize("code", [convert.Bistable(4), convert.Phase(4)])
def test_a_cycle_that_is_not_complete_changes_no_value(code):
    net, x = network(), images(3)
    snn = convert.to_spiking(net, x, code, percentile=100)
    whole, more = (snn.activity(x, snn.first_answer + extra).values for extra in (0, 2))
    for name, value in whole.items():
        np.testing.assert_array_equal(more[name], value)


def test_a_pool_that_keeps_the_size_is_compared_with_itself():
    net = ann.Graph(seed=0)
    x = net.conv2d(net.input((2, 8, 8)), 6, 3, padding=1)
    x = net.relu(net.max_pool(x, 3, stride=1, padding=1, name="pool"), name="relu1")
    net.linear(net.flatten(x), 3)
    x = images(4)
    split = convert.error_split(net, convert.to_spiking(net, x, convert.Bistable(12), percentile=100), x, 24)
    assert split.total[0] < 1e-3


def test_a_network_that_ends_in_a_relu_gets_its_correction_once():
    net, x = network(), images(16)
    net.output = net["relu3"]
    snn = convert.to_spiking(net, x, convert.Bistable(5), percentile=100, correct_bias=True)
    assert np.abs(snn.shifts["relu3"]).max() > 0
    logits, sent = snn(x, snn.first_answer)[:, -1], snn.activity(x, snn.first_answer).values["relu3"]
    np.testing.assert_allclose(logits, sent.transpose(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize("code", [convert.IF(1), convert.IF(1, signed=True), convert.IF(1, burst=2)])
def test_a_membrane_that_starts_at_the_threshold_fires_neurons_only(code):
    """Of 6 neurons, whose memory is padded to 64."""
    net = ann.Graph(seed=0)
    net.linear(net.relu(net.linear(net.input((3,)), 6), name="relu1"), 2)
    x = images(5, (3,))
    sent = convert.to_spiking(net, x, code).activity(x, 4)
    assert (sent.spikes["relu1"] <= 6 * 4).all() and sent.spikes["relu1"].all()


def test_pictures_of_accuracy_and_error():
    net, x = network(), images(8)
    snn = convert.to_spiking(net, x)
    labels, logits = net.forward(x)[0].argmax(1), snn(x, 24)
    ax = plot.accuracy_over_steps({"bistable": logits, "other": logits[:, :20]}, labels, reference=1.0)
    line = ax.lines[0].get_ydata()
    assert np.isnan(line[:15]).all() and line[15] == 100 * (logits[:, -1].argmax(1) == labels).mean()
    assert len(ax.lines) == 3 and ax.get_xlabel() == "steps"
    _, own = plt.subplots()
    split = convert.error_split(net, snn, x, 24)
    assert plot.error_split(split, ax=own) is own and len(own.lines) == 5
    np.testing.assert_array_equal(own.lines[1].get_ydata(), 100 * split.quantisation)
    with pytest.raises(ShapeError, match="logits of shape"):
        plot.accuracy_over_steps(logits[0], labels)
    with pytest.raises(ParameterError, match="has no names"):
        plot.error_split(logits)
    plt.close("all")


def test_thresholds_may_be_given():
    net, x = network(), images(3)
    scales = {name: np.ones(1) for name in ("relu1", "relu2", "relu3")}
    snn = assemble(net, convert.Bistable(6), scales, net.shapes((2, 8, 8)))
    np.testing.assert_allclose(
        snn(x, snn.first_answer)[:, -1], oracle.forward(net, x, scales, 6)["fc"].value, atol=2e-2
    )


def test_the_quantiser_knows_of_bursts():
    net, x = network(), images(8)
    snn = convert.to_spiking(net, x, convert.Bistable(3, burst=2), percentile=90)
    split = convert.error_split(net, snn, x, snn.first_answer)
    assert split.passed[0] < 1e-6 and split.clipping[0] > 0.01  # the first layer errs by its quantiser alone
    single, burst = (
        convert.error_split(net, convert.to_spiking(net, x, convert.IF(burst=m), percentile=90), x, 16) for m in (1, 3)
    )
    assert burst.clipping[0] < 0.2 * single.clipping[0]


def test_every_operation_that_can_be_converted_has_its_words():
    for kind in RULES:
        assert kind in (ann.Input, ann.ReLU) or issubclass(kind, tuple(FOLDED)), kind
