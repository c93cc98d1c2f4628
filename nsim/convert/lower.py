"""From a graph of `nsim.ann` to populations: what spikes, what each reads, how deep it lies, where relays stand.

Depth counts spiking layers from the images. What fires at depth d is read one cycle later, at depth d + 1. Where an
addition joins paths of different depth, the shorter one passes through relays (synchronous neurons), one for each
level of difference, so that all that a neuron sums is of the same cycle. This holds for any directed acyclic graph:
each population is delayed to the depth of whoever reads it, and readers of one depth share the relays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nsim import ann
from nsim.ann.graph import Graph, Node
from nsim.convert import maps
from nsim.errors import ParameterError
from nsim.tape import Tensor, no_grad


@dataclass(eq=False)
class Population:
    """One row of neurons, or of what stands for them, in the order in which they are computed.

    name : str, of the node, with "+1", "+2", ... for relays
    kind : "neuron", "relay", "pool" (a gate that passes the largest of a window), "sum" (a linear node between two
        others, whose value is passed on as graded events) or "readout"
    shape : (H, W, C) or (N,)
    depth : int, number of spiking layers before it
    scale : float64 [C] or [1], what one spike of size 1 stands for: the threshold
    edges : list of (Population, map), scaled to units of 1
    drive : the node whose value without spikes is the analog drive, or None
    windows : of a pool
    """

    name: str
    kind: str
    shape: tuple
    depth: int
    scale: np.ndarray = field(repr=False)
    edges: list = field(repr=False)
    drive: Node | None = field(default=None, repr=False)
    windows: maps.Window | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


def lower(net: Graph, shapes: dict, thresholds: dict, staged: bool) -> list[Population]:
    """Populations of a network, the readout last.

    Parameters
    ----------
    shapes : {name of a node: (H, W, C) or (N,)}, of `net.shapes`
    thresholds : {name of a ReLU: float64 [C] or [1]}
    staged : bool
        Whether firing takes a cycle of its own, so that paths of different depth want relays.

    Raises
    ------
    ParameterError
        If an operation cannot be converted; it is named.
    """
    return _Lowering(net, shapes, thresholds, staged).populations


def without_spikes(node: Node, spiking: set[str], shapes: dict, images=None) -> np.ndarray:
    """Value of a node where no population fires: biases, and the images if it reads them; [1 or B, *shape].

    Parameters
    ----------
    spiking : names of nodes that are populations
    images : float32 [B, H, W, C] or [B, N], default: zeros
    """
    values = {}
    with no_grad():
        for other in _linear_part(node, spiking):
            if other.name in spiking or (not other.inputs and images is None):
                values[other.name] = Tensor(np.zeros((1, *shapes[other.name]), np.float32))
            elif not other.inputs:
                values[other.name] = Tensor(images)
            else:
                values[other.name] = other.operation(*(values[i.name] for i in other.inputs), training=False)
    return values[node.name].data


def reads_images(node: Node, spiking: set[str]) -> bool:
    """Whether the images reach a node without passing a population."""
    return any(not other.inputs and other.name not in spiking for other in _linear_part(node, spiking))


def analog_part(node: Node, spiking: set[str]) -> set[str]:
    """Names of the nodes between the images and a node that no population stands between."""
    found = set()
    for other in _linear_part(node, spiking):
        if other.name not in spiking and (not other.inputs or any(i.name in found for i in other.inputs)):
            found.add(other.name)
    return found


def _linear_part(node, spiking):
    """A node and what it depends on, down to populations and the images; inputs before what reads them."""
    order, stack = {}, [(node, False)]
    while stack:
        other, done = stack.pop()
        if done:
            order[other.name] = other
        elif other.name not in order:
            stack.append((other, True))
            if other.name not in spiking:
                stack.extend((i, False) for i in other.inputs)
    return list(order.values())


class _Lowering:
    """Walks the graph once. `ready` is the depth at which a node's value can first be read; `spiking` the population
    of each node that is one."""

    def __init__(self, net, shapes, thresholds, staged):
        self.net, self.shapes, self.thresholds, self.staged = net, shapes, thresholds, staged
        self.populations, self.spiking, self.ready, self._made = [], {}, {}, {}
        for node in net:
            self.ready[node.name] = max((self.ready[i.name] for i in node.inputs), default=0)
            rule = _rule(node)
            if rule == SPIKES:
                self._neuron(node)
            elif rule == POOLS:
                self._pool(node)
        if not self.spiking:
            raise ParameterError("to_spiking: this network has no ReLU, so that nothing of it can spike")
        end, depth = net.output, self.ready[net.output.name]
        self._add(end.name, "readout", self.shapes[end.name], depth, np.ones(1), self.edges(end, depth), drive=end)

    def _add(self, name, kind, shape, depth, scale, edges, **more):
        scaled = [
            (
                source,
                link.scaled(np.broadcast_to(source.scale, source.shape[-1]), np.broadcast_to(1 / scale, shape[-1])),
            )
            for source, link in edges
        ]
        population = Population(name, kind, shape, depth, scale, scaled, **more)
        self.populations.append(population)
        return population

    # What spikes

    def _neuron(self, node):
        (source,) = node.inputs
        waiting = _rule(source) == POOLS and source.name not in self.spiking
        before = source.inputs[0] if waiting else source
        depth = self.ready[before.name]
        self.ready[node.name] = depth + 1
        scale = self.thresholds[node.name]
        made = self._add(
            node.name, "neuron", self.shapes[before.name], depth, scale, self.edges(before, depth), drive=before
        )
        self.spiking[node.name] = self._gate(source, made) if waiting else made

    def _pool(self, node):
        """max(relu(x)) = relu(max(x)): a pool that only ReLUs read waits for them, and each pools what it fires."""
        (source,) = node.inputs
        if source.name in self.spiking:
            self.spiking[node.name] = self._gate(node, self.spiking[source.name])
        elif node is self.net.output or any(_rule(reader) != SPIKES for reader in self.net.consumers(node)):
            raise ParameterError(
                f"{node.operation.where}: a maximum of values that are not spikes cannot be converted; put a ReLU "
                "before it, or right behind it"
            )

    def _gate(self, node, source):
        edges = [(source, maps.identity(source.size))]
        made = Population(
            node.name, "pool", self.shapes[node.name], source.depth, source.scale, edges, windows=self.window(node)
        )
        self.populations.append(made)
        return made

    def delayed(self, source: Population, ready: int, depth: int) -> Population:
        """A population as it is read at a depth: itself, or the last of its relays. `ready`: where it can be read."""
        if not self.staged or depth == ready:
            return source
        key = source.name, depth
        if key not in self._made:
            before = self.delayed(source, ready, depth - 1)
            edges, name = [(before, maps.identity(source.size))], f"{source.name}+{depth - ready}"
            self._made[key] = self._add(name, "relay", source.shape, depth - 1, source.scale, edges)
        return self._made[key]

    # What is summed

    def window(self, node: Node) -> maps.Window:
        """The windows of a convolution or a pool."""
        return maps.window(node.operation.where, node.operation.windows, self.shapes[node.inputs[0].name])

    def edges(self, node: Node, depth: int) -> list:
        """What a node's value at a depth is the sum of: (population, map from it)."""
        if node.name in self.spiking:
            source = self.delayed(self.spiking[node.name], self.ready[node.name], depth)
            return [(source, maps.identity(source.size))]
        return _rule(node)(self, node, depth)

    def carrier(self, node: Node, depth: int) -> Population | None:
        """One population that holds a node's value at a depth; None if that has no part that spikes."""
        if node.name in self.spiking:
            return self.delayed(self.spiking[node.name], self.ready[node.name], depth)
        key = node.name, "sum", depth
        if key not in self._made:
            edges = self.edges(node, depth)
            self._made[key] = (
                self._add(node.name, "sum", self.shapes[node.name], depth, np.ones(1), edges) if edges else None
            )
        return self._made[key]


# One rule for each kind of operation: the edges of a node at a depth


def _image(lowering, node, depth):
    return []


def _convolution(lowering, node, depth):
    op, source = node.operation, lowering.carrier(node.inputs[0], depth)
    if source is None:
        return []
    out, inner, high, wide = op.weight.shape
    weight = op.weight.data.astype(np.float64).transpose(2, 3, 1, 0).reshape(high, wide, inner, out)
    return [(source, maps.Convolution(weight, lowering.window(node), op.groups))]


def _shortcut(lowering, node, depth):
    return [(source, maps.one_tap(link)) for source, link in _convolution(lowering, node, depth)]


def _linear(lowering, node, depth):
    before = node.inputs[0]
    while _rule(before) is _flatten:
        before = before.inputs[0]
    source = lowering.carrier(before, depth)
    if source is None:
        return []
    return [
        (
            source,
            maps.Matrix(node.operation.weight.data.T[maps.turned(lowering.shapes[before.name])].astype(np.float64)),
        )
    ]


def _norm(lowering, node, depth):
    op = node.operation
    scale = op.weight.data / np.sqrt(op.running_var.astype(np.float64) + op.eps)
    edges = lowering.edges(node.inputs[0], depth)
    return [(source, link.scaled(np.ones(source.shape[-1]), scale)) for source, link in edges]


def _add(lowering, node, depth):
    return [edge for before in node.inputs for edge in lowering.edges(before, depth)]


def _moved(lowering, node, depth, move):
    """Edges through an operation that averages or moves: composed with what is sparse itself, else after a sum."""
    before = node.inputs[0]
    edges = lowering.edges(before, depth)
    if all(isinstance(link, maps.Sparse) for _, link in edges):
        return [(source, link.then(move)) for source, link in edges]
    return [(lowering.carrier(before, depth), move)]


def _mean(lowering, node, depth):
    shape = lowering.shapes[node.inputs[0].name]
    return _moved(
        lowering, node, depth, maps.mean(lowering.window(node), node.operation.share(shape)[..., 0], shape[2])
    )


def _global_mean(lowering, node, depth):
    height, width, channels = lowering.shapes[node.inputs[0].name]
    windows = maps.Window(node.operation.where, (height, width), (height, width), (1, 1), (0, 0))
    return _moved(lowering, node, depth, maps.mean(windows, np.full((1, 1), 1 / (height * width)), channels))


def _flatten(lowering, node, depth):
    return _moved(lowering, node, depth, maps.flatten(lowering.shapes[node.inputs[0].name]))


SPIKES, POOLS = "spikes", "pools"  # what these kinds become is made by _neuron and _pool
RULES = {
    ann.Input: _image, ann.Conv2d: _convolution, ann.IdentityShortcut: _shortcut, ann.Linear: _linear,
    ann.BatchNorm: _norm, ann.Add: _add, ann.AvgPool: _mean, ann.GlobalAvgPool: _global_mean, ann.Flatten: _flatten,
    ann.ReLU: SPIKES, ann.MaxPool: POOLS,
}  # fmt: skip


def _rule(node: Node):
    own = type(node.operation)
    for kind in own.__mro__:
        if kind in RULES and own.__call__ is kind.__call__:  # what computes in another way is another operation
            return RULES[kind]
    known = ", ".join(kind.__name__ for kind in RULES if kind is not ann.Input)
    raise ParameterError(
        f"{node.operation.where}: this operation cannot be converted; what can is {known}. Express it by these, or "
        "convert the parts of the network before and after it on their own"
    )
