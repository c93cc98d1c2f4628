"""From a graph of `nsim.ann` to populations: what spikes, what each reads, how deep it lies, where relays stand.

Depth counts spiking layers from the images. What fires at depth d is read one cycle later, at depth d + 1. Where an
addition joins paths of different depth, the shorter one passes through relays (synchronous neurons), one for each
level of difference, so that all that a neuron sums is of the same cycle. This holds for any directed acyclic graph:
each population is delayed to the depth of whoever reads it, and readers of one depth share the relays.

A maximum is passed on by a gate, which needs spikes to look at. Where what it is of are no spikes yet, there are three
ways: its readers' ReLUs come first, as max(relu(x)) = relu(max(x)); it is left in the analog drive, if only the images
lie before it; or neurons of its own send x + floor, which is not negative, and their readers take the floor off again.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np

from nsim import ann
from nsim.ann.graph import Graph, Node
from nsim.convert import maps
from nsim.errors import ParameterError
from nsim.tape import Tensor, no_grad


@dataclass(eq=False)
class Population:
    """One row of neurons, or of what stands for them, in the order in which they are computed.

    name : str, of the node, with "+1", "+2", ... for relays and ".raised" for neurons that send x + floor; unique
    kind : "neuron", "relay", "pool" (a gate that passes the largest of a window), "sum" (a linear node between two
        others, whose value is passed on as graded events) or "readout"
    shape : (H, W, C) or (N,)
    depth : int, number of spiking layers before it
    scale : float64 [C] or [1], what one spike of size 1 stands for: the threshold
    edges : list of (Population, `maps.Packed`), scaled to units of 1; of a pool its source and None
    drive : the node whose value without spikes is the analog drive, or None
    windows : of a pool
    holds : str, the node of the network whose value it sends; None of relays, and of neurons that a gate is behind
    gate : Population, of neurons whose spikes reach their readers through a gate that belongs to them
    floor : float64 [C] or 0, what it sends more than that value
    """

    name: str
    kind: str
    shape: tuple
    depth: int
    scale: np.ndarray = field(repr=False)
    edges: list = field(repr=False)
    drive: Node | None = field(default=None, repr=False)
    windows: maps.Window | None = field(default=None, repr=False)
    holds: str | None = None
    gate: Population | None = field(default=None, repr=False)
    floor: np.ndarray | float = field(default=0.0, repr=False)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


def lower(net: Graph, shapes: dict, thresholds: dict, floors: dict, staged: bool) -> list[Population]:
    """Populations of a network, the readout last.

    Parameters
    ----------
    shapes : {name of a node: (H, W, C) or (N,)}, of `net.shapes`
    thresholds : {name of a ReLU, or of a raised pool: float64 [C] or [1]}
    floors : {name of a raised pool: float64 [C] or [1]}; see `pools`
    staged : bool
        Whether firing takes a cycle of its own, so that paths of different depth want relays.

    Raises
    ------
    ParameterError
        If an operation cannot be converted; it is named.
    """
    return _Lowering(net, shapes, thresholds, floors, staged).populations


def pools(net: Graph) -> dict[str, str]:
    """What each maximum pooling becomes, by name: a gate ("gates"), a gate behind the neurons of those who read it
    ("waits"), part of the analog drive ("analog"), or a gate behind neurons of its own ("raised").

    Raises
    ------
    ParameterError
        If an operation of the network cannot be converted; it is named.
    """
    spiking, found = set(), {}
    for node in net:
        rule = _rule(node)
        if rule == POOLS:
            found[node.name] = _pool_kind(net, node, spiking)
        if rule == SPIKES or found.get(node.name) in ("gates", "raised"):
            spiking.add(node.name)
    return found


def _pool_kind(net, node, spiking):
    readers = [_rule(reader) for reader in net.consumers(node)]
    if node.inputs[0].name in spiking:
        return "gates"
    if node is not net.output and all(rule == SPIKES for rule in readers):
        return "waits"
    return "raised" if any(other.name in spiking for other in _linear_part(node, spiking)) else "analog"


def without_spikes(node: Node, spiking: dict, shapes: dict, images=None) -> np.ndarray:
    """Value of a node where no population fires: biases, and the images if it reads them; [1 or B, *shape].

    Parameters
    ----------
    spiking : {name of a node that is a population: its floor}
    images : float32 [B, H, W, C] or [B, N], default: zeros
    """
    values = {}
    with no_grad():
        for other in _linear_part(node, spiking):
            if other.name in spiking or (not other.inputs and images is None):
                level = np.asarray(-spiking.get(other.name, 0.0), np.float32)
                values[other.name] = Tensor(np.broadcast_to(level, (1, *shapes[other.name])))
            elif not other.inputs:
                values[other.name] = Tensor(images)
            else:
                values[other.name] = other.operation(*(values[i.name] for i in other.inputs), training=False)
    return values[node.name].data


def detached(node: Node, spiking: dict, made: dict) -> Node:
    """A copy of a node and of what it is computed from without spikes, so that training the network further changes
    nothing of it. `made` {name: copy} holds those that are there already, and receives the others."""
    for other in _linear_part(node, spiking):
        if other.name not in made:
            inputs = () if other.name in spiking else tuple(made[i.name] for i in other.inputs)
            made[other.name] = replace(other, operation=deepcopy(other.operation), inputs=inputs)
    return made[node.name]


def reads_images(node: Node, spiking: dict) -> bool:
    """Whether the images reach a node without passing a population."""
    return any(not other.inputs and other.name not in spiking for other in _linear_part(node, spiking))


def analog_part(node: Node, spiking: dict) -> set[str]:
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

    def __init__(self, net, shapes, thresholds, floors, staged):
        self.net, self.shapes, self.thresholds, self.floors, self.staged = net, shapes, thresholds, floors, staged
        self.populations, self.spiking, self.ready, self._made, self._pools = [], {}, {}, {}, pools(net)
        for node in net:
            self.ready[node.name] = max((self.ready[i.name] for i in node.inputs), default=0)
            if _rule(node) == SPIKES:
                self._neuron(node)
            elif self._pools.get(node.name) == "gates":
                source = self.spiking[node.inputs[0].name]
                self.spiking[node.name] = self._gate(node, source, holds=node.name, floor=source.floor)
            elif self._pools.get(node.name) == "raised":
                self._raised(node)
        if not self.spiking:
            raise ParameterError("to_spiking: this network has no ReLU, so that nothing of it can spike")
        end, depth = net.output, self.ready[net.output.name]
        self._add(end.name, "readout", self.shapes[end.name], depth, np.ones(1), self.edges(end, depth), drive=end)

    def _add(self, name, kind, shape, depth, scale, edges, **more):
        after, packed = np.broadcast_to(1 / scale, shape[-1]), []
        for source, link in edges:
            before = np.broadcast_to(source.scale, source.shape[-1])
            packed.append((source, link.scaled(before, after).packed()))
        population = Population(name, kind, shape, depth, scale, packed, **more)
        self.populations.append(population)
        return population

    def _free(self, name, *, node=None):
        """The name for a population of this node, or of none, that no other population and no other node has."""
        taken = {p.name for p in self.populations} | {other.name for other in self.net if other is not node}
        unique, k = name, 1
        while unique in taken:
            k += 1
            unique = f"{name}.{k}"
        return unique

    # What spikes

    def _neuron(self, node):
        (source,) = node.inputs
        waiting = self._pools.get(source.name) == "waits"
        before = source.inputs[0] if waiting else source
        depth, scale = self.ready[before.name], self.thresholds[node.name]
        self.ready[node.name] = depth + 1
        made = self._add(
            node.name, "neuron", self.shapes[before.name], depth, scale, self.edges(before, depth), drive=before,
            holds=None if waiting else node.name,
        )  # fmt: skip
        if waiting:
            made.gate = self._gate(source, made, holds=node.name)
        self.spiking[node.name] = made.gate or made

    def _raised(self, node):
        (source,) = node.inputs
        depth, scale, floor = self.ready[source.name], self.thresholds[node.name], self.floors[node.name]
        self.ready[node.name] = depth + 1
        made = self._add(
            self._free(f"{node.name}.raised"), "neuron", self.shapes[source.name], depth, scale,
            self.edges(source, depth), drive=source, floor=floor,
        )  # fmt: skip
        self.spiking[node.name] = made.gate = self._gate(node, made, holds=node.name, floor=floor)

    def _gate(self, node, source, **more):
        made = Population(
            self._free(node.name, node=node), "pool", self.shapes[node.name], source.depth, source.scale,
            [(source, None)], windows=self.window(node), **more,
        )  # fmt: skip
        self.populations.append(made)
        return made

    def delayed(self, source: Population, ready: int, depth: int) -> Population:
        """A population as it is read at a depth: itself, or the last of its relays. `ready`: where it can be read."""
        if not self.staged or depth == ready:
            return source
        key = source, depth
        if key not in self._made:
            before = self.delayed(source, ready, depth - 1)
            edges, name = [(before, maps.identity(source.size))], self._free(f"{source.name}+{depth - ready}")
            self._made[key] = self._add(name, "relay", source.shape, depth - 1, source.scale, edges, floor=source.floor)
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
        rule = _rule(node)
        return [] if rule == POOLS else rule(self, node, depth)  # a pool that does not spike is of the images alone

    def carrier(self, node: Node, depth: int) -> Population | None:
        """One population that holds a node's value at a depth; None if that has no part that spikes."""
        if node.name in self.spiking:
            return self.delayed(self.spiking[node.name], self.ready[node.name], depth)
        key = node.name, "sum", depth
        if key not in self._made:
            edges = self.edges(node, depth)
            name = self._free(node.name, node=node)
            self._made[key] = (
                self._add(name, "sum", self.shapes[node.name], depth, np.ones(1), edges) if edges else None
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


def _affine(lowering, node, depth):
    edges, scale = lowering.edges(node.inputs[0], depth), node.operation.scale()
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


SPIKES, POOLS = "spikes", "pools"  # what these kinds become is made by _neuron and _gate
RULES = {
    ann.Input: _image, ann.Conv2d: _convolution, ann.IdentityShortcut: _shortcut, ann.Linear: _linear,
    ann.Affine: _affine, ann.BatchNorm: _affine, ann.Add: _add, ann.AvgPool: _mean, ann.GlobalAvgPool: _global_mean,
    ann.Flatten: _flatten, ann.ReLU: SPIKES, ann.MaxPool: POOLS,
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
