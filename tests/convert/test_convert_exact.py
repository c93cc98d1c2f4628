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
    """Thresholds that are powers of two, so low that some activations are clipped."""
    relus = [node for node in net if isinstance(node.operation, ann.ReLU)]
    _, kept = net.forward(images, keep={node.name for node in relus})
    found = {}
    for node in relus:
        top = 2.0 ** np.floor(np.log2(max(kept[node.name].max(), 0.5)))
        found[node.name] = top * 2.0 ** -rng.integers(0, 2, node.shape[-1] if per_channel else 1)
    return found


class Grower:
    """Draws a graph node by node. `ends` are nodes to go on from, `spiking` those whose values are spikes."""

    def __init__(self, draw):
        self.draw, self.net = draw, ann.Graph(seed=0)
        shape = (draw(st.integers(1, 3)), draw(st.integers(4, 7)), draw(st.integers(4, 7)))
        self.ends, self.spiking = [self.net.input(shape)], []
        self.relu(self.conv(self.ends[0]))
        for _ in range(draw(st.integers(1, 6))):
            getattr(self, draw(st.sampled_from(["block", "block", "join", "join", "loose", "maximum", "mean", "norm"])))()
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
        x = self.net.conv2d(x, groups * self.draw(st.integers(1, 2)), kernel, stride=stride, padding=padding, groups=groups,
                            bias=self.draw(st.booleans()))  # fmt: skip
        return self.net.batch_norm(x) if self.draw(st.booleans()) else x

    def relu(self, x):
        self.spiking.append(self.net.relu(x))
        self.ends.append(self.spiking[-1])

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
        x = self.pick(self.spiking)
        if min(x.shape[:2]) >= 3:
            kernel, stride, padding = self.draw(st.sampled_from([(2, 2, 0), (3, 2, 1), (2, 1, 0), (3, 1, 1)]))
            self.spiking.append(self.net.max_pool(x, kernel, stride=stride, padding=padding))
            self.ends.append(self.spiking[-1])

    def mean(self):
        x = self.pick(self.ends[1:])
        if min(x.shape[:2]) >= 2:
            padding = self.draw(st.sampled_from([0, ((1, 0), (0, 1))]))
            self.ends.append(self.net.avg_pool(x, 2, stride=2, padding=padding, count_padding=self.draw(st.booleans())))

    def norm(self):
        self.ends.append(self.net.batch_norm(self.pick(self.ends[1:])))


@st.composite
def graphs(draw):
    return Grower(draw).net


def check_exactly(net, images, phases, rng, per_channel, pipelined, extra=1):
    """Logits and all layers equal the oracle's; before the first complete answer the readout is zero."""
    scales = powers(net, images, rng, per_channel)
    snn = assemble(net, convert.Bistable(phases, pipelined=pipelined), scales, net.shapes(images.shape[1:]))
    expected = oracle.forward(net, images, scales, phases)
    first = snn.first_answer
    found = snn.activity(images, first + extra * 2 * phases)
    np.testing.assert_array_equal(found.logits[:, : first - 1], 0)
    for t in range(first - 1, found.logits.shape[1]):
        np.testing.assert_array_equal(found.logits[:, t], expected[net.output.name].value)
    for name, value in found.values.items():
        if name in expected:
            np.testing.assert_array_equal(value, expected[name].value, err_msg=name)
        else:  # a relay sends what its source does
            np.testing.assert_array_equal(value, expected[name.rpartition("+")[0]].value, err_msg=name)
    np.testing.assert_array_equal(snn(images, found.logits.shape[1]), found.logits)
    return snn


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 5), st.integers(0, 2**16), st.booleans(), st.booleans())
def test_random_graphs_equal_the_oracle_bit_for_bit(net, phases, seed, per_channel, pipelined):
    rng = np.random.default_rng(seed)
    make_dyadic(net, rng)
    shape = net.nodes[0].shape
    images = quarters(rng, (2, shape[2], *shape[:2]), 8)
    check_exactly(net, images, phases, rng, per_channel, pipelined)
