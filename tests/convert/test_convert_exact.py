"""The simulated network equals the quantised-ReLU oracle at the end of a cycle.

With weights, thresholds and images that are small multiples of powers of two all sums are exact in float32, ties of the
rounding included: then the two are compared bit for bit, on random graphs. With arbitrary weights each layer is given
what the layers before it sent, and must agree wherever the sum is further from a rounding edge than float32 can err.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsim import ann, convert
from nsim.convert.lower import pools
from nsim.convert.make import assemble
from tests import convert_reference as oracle

ROUNDING = 2.0**-24


def quarters(rng, shape, largest=4):
    return (rng.integers(-largest, largest + 1, shape) / 4).astype(np.float32)


def make_dyadic(net, rng):
    """Parameters with which float32 sums are exact; some weights are 0, and batch norm divides by 1."""
    for node in net:
        op = node.operation
        if isinstance(op, ann.BatchNorm):
            op.eps = 2.0**-10
            op.running_var[...] = 1 - 2.0**-10
            op.running_mean[...] = quarters(rng, op.channels)
            op.weight.data[...] = rng.choice([-0.5, 0.5, 1, 2], op.channels)
            op.bias.data[...] = quarters(rng, op.channels)
        else:
            for tensor in op.parameters().values():
                tensor.data[...] = quarters(rng, tensor.shape)


def powers(net, images, rng, per_channel):
    """Thresholds, and floors of raised pools, that are powers of two, so low that some activations are clipped."""
    raised = {name for name, kind in pools(net).items() if kind == "raised"}
    nodes = [node for node in net if isinstance(node.operation, ann.ReLU) or node.name in raised]
    _, kept = net.forward(images, keep={node.name for node in nodes})

    def power(values, size):
        top = 2.0 ** np.floor(np.log2(max(values.max(), 0.5)))
        return top * 2.0 ** -rng.integers(0, 2, size)

    scales, floors = {}, {}
    for node in nodes:
        size = node.shape[-1] if per_channel else 1
        scales[node.name] = power(kept[node.name], size)
        if node.name in raised:
            floors[node.name] = power(-kept[node.name], size)
            scales[node.name] = 2 * np.maximum(scales[node.name], floors[node.name])
    return scales, floors


class Grower:
    """Draws a graph node by node. `ends` are nodes to go on from, the images first."""

    def __init__(self, draw):
        self.draw, self.net = draw, ann.Graph(seed=0)
        shape = (draw(st.integers(1, 3)), draw(st.integers(4, 7)), draw(st.integers(4, 7)))
        self.ends = [self.net.input(shape)]
        self.relu(self.conv(self.ends[0]))
        for _ in range(draw(st.integers(1, 6))):
            grow = (
                self.block,
                self.block,
                self.join,
                self.join,
                self.loose,
                self.maximum,
                self.mean,
                self.scale,
                self.pad,
            )
            draw(st.sampled_from(grow))()
        self.head()

    def head(self):
        """The sum of what every end gives that nobody else reads, so that all of the graph matters."""
        read = {node.name for other in self.net._nodes.values() for node in other.inputs}
        last = [self.net.linear(self.net.flatten(x), 3) for x in self.ends[1:] if x.name not in read]
        total = last[0]
        for other in last[1:]:
            total = self.net.add(total, other)

    def conv(self, x):
        height, width, channels = x.shape
        kernel = self.draw(st.tuples(st.integers(1, min(3, height)), st.integers(1, min(3, width))))
        groups = self.draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
        padding = self.draw(st.sampled_from([0, (0, 1), ((1, 0), (0, 1)), 1]))
        stride = self.draw(st.sampled_from([1, 1, (2, 1), 2])) if min(height, width) > 3 else 1
        options = {"stride": stride, "padding": padding, "groups": groups, "bias": self.draw(st.booleans())}
        x = self.net.conv2d(x, groups * self.draw(st.integers(1, 2)), kernel, **options)
        return self.net.batch_norm(x) if self.draw(st.booleans()) else x

    def relu(self, x):
        self.ends.append(self.net.relu(x))

    def pick(self, nodes):
        return self.draw(st.sampled_from(nodes))

    def block(self):
        self.relu(self.conv(self.pick(self.ends[1:])))

    def join(self):
        """A path of any depth meets another: of the same shape, or brought to it by a kernel of 1."""
        x, y = self.pick(self.ends[1:]), self.pick(self.ends[1:])
        if x.shape != y.shape:
            if x.shape[:2] != y.shape[:2]:
                return
            y = self.net.conv2d(y, x.shape[2], 1)
        total = self.net.add(x, y)
        if self.draw(st.booleans()):
            self.relu(total)
        else:
            self.ends.append(total)

    def loose(self):
        """A convolution without a ReLU behind it."""
        self.ends.append(self.conv(self.pick(self.ends[1:])))

    def maximum(self):
        """Of spikes, of the images, of anything else; with a ReLU behind it or without."""
        x = self.pick(self.ends)
        if min(x.shape[:2]) >= 3:
            kernel, stride, padding = self.draw(st.sampled_from([(2, 2, 0), (3, 2, 1), (2, 1, 0), (3, 1, 1)]))
            x = self.net.max_pool(x, kernel, stride=stride, padding=padding)
            if self.draw(st.booleans()):
                self.relu(x)
            else:
                self.ends.append(x)

    def mean(self):
        x = self.pick(self.ends[1:])
        if min(x.shape[:2]) >= 2:
            padding = self.draw(st.sampled_from([0, ((1, 0), (0, 1))]))
            self.ends.append(
                self.net.avg_pool(x, 2, stride=2, padding=padding, count_include_pad=self.draw(st.booleans()))
            )

    def scale(self):
        x = self.pick(self.ends)
        self.ends.append(self.net.affine(x) if self.draw(st.booleans()) else self.net.batch_norm(x))

    def pad(self):
        """Zeros around, and every so many pixels."""
        x = self.pick(self.ends)
        padding = self.draw(st.sampled_from([0, 1, ((2, 0), (0, 1))]))
        stride, more = self.draw(st.sampled_from([1, 2, (1, 3)])), self.draw(st.integers(0, 2))
        self.ends.append(self.net.identity_shortcut(x, x.shape[2] + more, stride=stride, padding=padding))


@st.composite
def graphs(draw):
    return Grower(draw).net


def check_exactly(net, images, phases, rng, per_channel, pipelined, extra=1, burst=1):
    """Logits and all layers equal the oracle's; before the first complete answer the readout is zero."""
    scales, floors = powers(net, images, rng, per_channel)
    code, shapes = convert.Bistable(phases, pipelined=pipelined, burst=burst), net.shapes(images.shape[1:])
    snn = assemble(net, code, scales, shapes, floors=floors)
    expected = oracle.forward(net, images, scales, phases, floors=floors, burst=burst)
    first = snn.first_answer
    found = snn.activity(images, first + extra * 2 * phases)
    np.testing.assert_array_equal(found.logits[:, : first - 1], 0)
    for t in range(first - 1, found.logits.shape[1]):
        np.testing.assert_array_equal(found.logits[:, t], expected[net.output.name].value)
    holds = {p.name: p.holds for p in snn.populations[:-1]}
    assert len(holds) == len(snn.populations) - 1  # names are unique
    for p in snn.populations:
        if p.kind in ("neuron", "pool", "relay") and p.gate is None:
            known = p.holds or holds[p.name.rpartition("+")[0]]  # a relay sends what its source does
            np.testing.assert_array_equal(found.values[p.name], expected[known].value, err_msg=p.name)
    np.testing.assert_array_equal(snn(images, found.logits.shape[1]), found.logits)
    return snn


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 5), st.sampled_from([1, 2, 4]), st.integers(0, 2**16), st.booleans(), st.booleans())
def test_random_graphs_equal_the_oracle_bit_for_bit(net, phases, burst, seed, per_channel, pipelined):
    rng = np.random.default_rng(seed)
    make_dyadic(net, rng)
    shape = net.nodes[0].shape
    images = quarters(rng, (2, shape[2], *shape[:2]), 8)
    check_exactly(net, images, phases, rng, per_channel, pipelined, burst=burst)


def small_residual(shortcut=1, stride=1):
    """A main path of three layers beside a shortcut; shortcut > 1: through a convolution."""
    net = ann.Graph(seed=0)
    x = net.relu(net.conv2d(net.input((2, 6, 5)), 4, 3, padding=1), name="first")
    y = x
    for k in range(3):
        y = net.conv2d(y, 4, 3, padding=1, stride=stride if k == 0 else 1)
        y = net.relu(y) if k < 2 else y
    x = net.conv2d(x, 4, 1, stride=stride) if shortcut > 1 else x
    net.relu(net.add(y, x), name="joined")
    net.linear(net.flatten(net.output), 3)
    return net


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize(("shortcut", "stride"), [(1, 1), (2, 2)])
def test_a_residual_block_has_a_relay_for_each_level(shortcut, stride, pipelined):
    net, rng = small_residual(shortcut, stride), np.random.default_rng(3)
    make_dyadic(net, rng)
    snn = check_exactly(net, quarters(rng, (3, 2, 6, 5), 8), 4, rng, False, pipelined, extra=2)
    relays = [p for p in snn.populations if p.kind == "relay"]
    assert [(p.name, p.depth) for p in relays] == [("first+1", 1), ("first+2", 2)]
    assert snn.first_answer == (4 + 1) * 4


@pytest.mark.parametrize(("phases", "burst"), [(1, 1), (4, 1), (8, 1), (1, 2), (3, 4), (1, 8)])
def test_ties_round_up(phases, burst):
    """One weight of 1: the input is the activation, on every edge of the quantiser and beside it."""
    net = ann.Graph()
    net.linear(net.relu(net.linear(net.input((1,)), 1, bias=False)), 1, bias=False)
    for tensor in net.parameters():
        tensor.data[...] = 1
    scales = {"relu1": np.ones(1)}
    edges = (np.arange(-1, burst * 2**phases + 2) + 0.5) / (burst * 2**phases)
    images = np.concatenate([edges, edges - 2.0**-12, edges + 2.0**-12]).astype(np.float32)[:, None]
    snn = assemble(net, convert.Bistable(phases, burst=burst), scales, net.shapes((1,)))
    expected, _ = oracle.quantised(images.astype(float), 1.0, phases, burst)
    np.testing.assert_array_equal(snn(images, snn.first_answer)[:, -1], expected)


def vgg(rng):
    return ann.vgg16(batch_norm=True, seed=1), rng.normal(size=(1, 3, 32, 32)).astype(np.float32)


def resnet(rng):
    return ann.resnet34(10, seed=1), rng.normal(size=(1, 3, 40, 33)).astype(np.float32)


@pytest.mark.parametrize("make", [vgg, resnet])
@pytest.mark.parametrize("per_channel", [False, True])
def test_every_layer_of_deep_networks_agrees_but_for_rounding(make, per_channel):
    """VGG-16 and ResNet-34 with random weights: each layer, given what the layers before it sent."""
    rng, phases = np.random.default_rng(0), 3
    net, images = make(rng)
    for node in net:
        if isinstance(node.operation, ann.BatchNorm):
            node.operation.running_mean[...] = rng.normal(size=node.shape[-1]) / 8
            node.operation.running_var[...] = rng.uniform(0.5, 2, node.shape[-1])
    snn = convert.to_spiking(net, images, convert.Bistable(phases), per_channel=per_channel)
    found = snn.activity(images, snn.first_answer)
    relus = [node for node in net if isinstance(node.operation, ann.ReLU)]
    sent = {node.name: found.values[node.name] for node in relus}
    expected = oracle.forward(net, images, snn.thresholds, phases, forced=sent)
    total = wrong = 0
    for node in relus:
        z, threshold = expected[node.inputs[0].name], snn.thresholds[node.name]
        _, levels = oracle.quantised(z.value, threshold, phases)
        here = np.rint(sent[node.name] * 2.0**phases / threshold)
        position = z.value * 2.0**phases / threshold + 0.5
        distance = np.abs(position - np.rint(position)) * threshold / 2.0**phases
        error = (z.terms + 8) * ROUNDING * (z.size + threshold)
        np.testing.assert_array_equal(here[distance > error], levels[distance > error], err_msg=node.name)
        assert np.abs(here - levels).max() <= 1
        total, wrong = total + here.size, wrong + np.count_nonzero(here != levels)
        assert levels.max() > 0
    assert wrong <= 1e-4 * total
    end = expected[net.output.name]
    assert (np.abs(found.logits[:, -1] - end.value) <= (end.terms + 8) * ROUNDING * end.size).all()
