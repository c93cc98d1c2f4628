"""Graph: a conventional network as named nodes in the order in which they are computed.

    net = ann.Graph()
    x = net.input((3, 32, 32))
    x = net.relu(net.batch_norm(net.conv2d(x, 16, 3, padding=1, bias=False)))
    y = net.batch_norm(net.conv2d(x, 16, 3, padding=1, bias=False))
    x = net.relu(net.add(x, y))
    net.linear(net.flatten(net.global_avg_pool(x)), 10)

Each line makes a node from nodes; numbers of channels follow from them. The last node made is the output.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from nsim.ann import parallel
from nsim.ann.build import Builder
from nsim.ann.conv import Conv2d, IdentityShortcut
from nsim.ann.operation import Add, Affine, BatchNorm, Flatten, Input, Linear, Operation, ReLU
from nsim.ann.pooling import AvgPool, GlobalAvgPool, MaxPool
from nsim.ann.state import State
from nsim.checks import float_type, is_whole, real_array
from nsim.errors import DeviceError, ParameterError, ShapeError
from nsim.nn.connection import generator
from nsim.nn.module import Module
from nsim.tape import Tensor, no_grad, record, recording

# What files may name; an operation of one's own is added here.
OPERATIONS = {
    kind.__name__: kind
    for kind in (
        Add, Affine, AvgPool, BatchNorm, Conv2d, Flatten, GlobalAvgPool, IdentityShortcut, Input, Linear, MaxPool, ReLU
    )
}  # fmt: skip
CHUNK, LEAST = 1 << 22, 4  # bytes of the largest activation of the samples that go through together; their least number


@dataclass(frozen=True, eq=False)
class Node:
    """One operation in a graph.

    name : str, before its parameters' in a state dict
    operation : nsim.ann.Operation
    inputs : tuple of Node
    shape : (H, W, C) or (N,), of one sample's output, for images of the shape that the graph was made for
    """

    name: str
    operation: Operation
    inputs: tuple[Node, ...] = field(repr=False)
    shape: tuple[int, ...]


class Graph(Builder, State, Module):
    """A conventional network: a directed acyclic graph of operations, called on images.

    It begins in evaluation mode, since most graphs come with trained weights; call `train()` before training one.

    Parameters
    ----------
    dtype : float32, or float64 for checks
    seed : int, optional
        Seed of the initial weights; default: the generator that `nsim.seed` starts.

    Iterating gives the nodes that the output depends on, inputs before what reads them; `net[name]` is one of them.
    """

    def __init__(self, *, dtype=np.float32, seed=None):
        super().__init__()
        self.training = False
        self.dtype, self.rng = float_type("Graph", dtype), generator(seed)
        self._nodes: dict[str, Node] = {}
        self._output = None

    # Making

    def input(self, shape, name="input") -> Node:
        """The node of the images: shape (C, H, W), or (N,) for vectors. The first of a graph, and the only input."""
        if self._nodes:
            raise ParameterError(f"input: this graph has the input {next(iter(self._nodes))!r} already")
        sizes = real_array(shape)
        if sizes is None or sizes.shape not in ((), (1,), (3,)) or not all(is_whole(n) and n >= 1 for n in sizes.flat):
            raise ParameterError(f"input: shape = {shape!r}: expected (channels, height, width) or (features,)")
        return self.apply(Input(_channels_last(tuple(sizes.flat))), name=name)

    def apply(self, operation: Operation, *inputs: Node, name=None) -> Node:
        """A node that computes `operation` from `inputs`; without a name it gets one from the operation's kind."""
        if not isinstance(operation, Operation):
            way_out = f"made as {operation.__name__}(...)" if isinstance(operation, type) else "such as ann.ReLU()"
            raise ParameterError(f"apply: operation = {operation!r:.60}: expected an operation, {way_out}")
        kind = type(operation).__name__.lower()
        name = self._free(kind) if name is None else str(name)
        if "/" in name:
            raise ParameterError(f"{name}: names cannot have slashes, which part groups in files; use dots")
        if name in self:
            raise ParameterError(f"{name}: this graph has a node of that name already: {self._nodes[name]}")
        if any(node.operation is operation for node in self._nodes.values()):
            raise ParameterError(f"{name}: {operation} is the operation of {operation.name} already; make another one")
        if len(inputs) != operation.arity or not all(map(self._has, inputs)):
            raise ParameterError(
                f"{name}: {kind} takes {operation.arity} nodes of this graph as inputs, not {inputs!r:.200}"
            )
        for key, tensor in operation.parameters().items():
            if tensor.dtype != self.dtype:
                raise ParameterError(f"{name}: {key} has dtype {tensor.dtype}, this graph computes in {self.dtype}")
            tensor.name = f"{name}.{key}"
        operation.name = name
        node = Node(name, operation, inputs, operation.out_shape(*(node.shape for node in inputs)))
        self._nodes[name] = self._output = node
        return node

    def _has(self, node) -> bool:
        """Whether this is a node, and one of this graph."""
        return isinstance(node, Node) and self._nodes.get(node.name) is node

    def _free(self, kind):
        k = 1
        while f"{kind}{k}" in self:
            k += 1
        return f"{kind}{k}"

    # Walking

    @property
    def output(self) -> Node:
        """The node whose value a call gives: the last one made, or the one set here."""
        if self._output is None:
            raise ParameterError("this graph has no nodes yet; begin with net.input((channels, height, width))")
        return self._output

    @output.setter
    def output(self, node: Node):
        if not self._has(node):
            raise ParameterError(f"output: {node!r:.60} is not a node of this graph; net[name] is one by its name")
        self._output = node

    @property
    def nodes(self) -> list[Node]:
        """The nodes that the output depends on, inputs before what reads them."""
        needed, stack = set(), [self.output]
        while stack:
            node = stack.pop()
            if node.name not in needed:
                needed.add(node.name)
                stack.extend(node.inputs)
        return [node for name, node in self._nodes.items() if name in needed]

    def __iter__(self):
        return iter(self.nodes)

    def __len__(self):
        return len(self.nodes)

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def __getitem__(self, name: str) -> Node:
        if name not in self._nodes:
            raise ParameterError(f"{name!r}: no such node; this graph has {', '.join(self._nodes)}")
        return self._nodes[name]

    def consumers(self, node: Node) -> list[Node]:
        """The nodes that read this one, in order."""
        return [other for other in self if node in other.inputs]

    def shapes(self, image_shape=None) -> dict[str, tuple]:
        """Shape (H, W, C) or (N,) of each node's output, for images (C, H, W) of another size than the graph's.

        Raises
        ------
        ShapeError
            If a node cannot take what comes to it; it is named.
        """
        nodes = self.nodes
        if nodes[0].inputs or not isinstance(nodes[0].operation, Input):
            raise ParameterError("the output of this graph does not depend on its input")
        if image_shape is None:
            sizes = nodes[0].shape
        elif np.ndim(image_shape) == 1 and all(map(is_whole, image_shape)):
            sizes = _channels_last(tuple(image_shape))
        else:
            raise ParameterError(f"shapes: image_shape = {image_shape!r:.60}: expected (channels, height, width)")
        if len(sizes) != len(nodes[0].shape) or sizes[-1] != nodes[0].shape[-1]:
            given, own = (", ".join(map(str, s)) for s in (image_shape, _channels_first(nodes[0].shape)))
            hint = "; one image alone is images[None]" if len(sizes) + 1 == len(nodes[0].shape) else ""
            raise ShapeError(f"images of shape [batch, {given}]: this network takes [batch, {own}]{hint}")
        found = {nodes[0].name: sizes}
        for node in nodes[1:]:
            found[node.name] = node.operation.out_shape(*(found[other.name] for other in node.inputs))
        return found

    # Computing

    def __call__(self, images) -> Tensor:
        """Output for a batch: Tensor [B, classes], recorded on the tape where parameters are trained.

        Parameters
        ----------
        images : float array or Tensor [B, C, H, W], normalised as the network expects, of the graph's dtype

        Raises
        ------
        ShapeError, ParameterError
            If the images have another number of channels, a size that some node cannot take, another dtype (uint8
            pixels are not normalised), or are not finite.
        """
        data = self._checked(images.data if isinstance(images, Tensor) else images)
        images = images if isinstance(images, Tensor) else Tensor(data)
        if not self.training and not recording(images, *self.parameters()):
            return Tensor(self.forward(data)[0])
        nodes = self.nodes
        values = {nodes[0].name: _turned(images)}
        self._compute(nodes, values, {self.output.name}, self.training)
        return _turned_back(values[self.output.name])

    def forward(self, images, keep: Iterable[str] = ()) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Output and chosen activations for a batch, without a tape and always with running statistics.

        Samples go through the graph a few at a time, on all threads; of what is between only `keep` is kept whole.

        Parameters
        ----------
        images : float array [B, C, H, W]
        keep : names of nodes

        Returns
        -------
        output : array [B, classes]
        kept : {name: array [B, H, W, C] or [B, N]}
        """
        images = self._checked(images)
        shapes = self.shapes(images.shape[1:])
        if not isinstance(keep, Iterable) or isinstance(keep, str):
            raise ParameterError(f"keep = {keep!r:.60}: expected the names of nodes in a list or a set")
        keep = list(keep)
        unknown = [name for name in keep if not isinstance(name, str) or name not in shapes]
        if unknown:
            raise ParameterError(f"keep: no names of nodes, {unknown}; this network computes {', '.join(shapes)}")
        keep = set(keep)
        wanted = keep | {self.output.name}
        found = {name: np.empty((len(images), *shapes[name]), self.dtype) for name in wanted}
        largest = max(int(np.prod(shape)) for shape in shapes.values()) * self.dtype.itemsize
        size, nodes = max(LEAST, CHUNK // largest), self.nodes

        def work(k):
            part = slice(k * size, (k + 1) * size)
            with no_grad():
                values = {nodes[0].name: _turned(Tensor(images[part]))}
                self._compute(nodes, values, wanted, False)
            for name in wanted:
                found[name][part] = values[name].data

        chunks = -(-len(images) // size)
        if chunks > 1:
            parallel.each(work, chunks)
        else:  # each operation then has the threads to itself
            work(0)
        output = _turned_back(Tensor(found[self.output.name])).data
        return output, {name: found[name] for name in keep}

    def _compute(self, nodes, values, keep, training):
        """Fill `values` in order; what nobody reads any more and is not in `keep` is dropped at once."""
        last = {other.name: node.name for node in nodes for other in node.inputs}
        for node in nodes[1:]:
            values[node.name] = node.operation(*(values[other.name] for other in node.inputs), training=training)
            for other in node.inputs:
                if last[other.name] == node.name and other.name not in keep:
                    values.pop(other.name, None)

    def _checked(self, images):
        images = np.asarray(images)
        if images.dtype != self.dtype:
            raise ParameterError(
                f"images have dtype {images.dtype}, this network computes in {self.dtype}: normalise them as it "
                f"expects and pass images.astype(np.{self.dtype})"
            )
        if images.ndim < 2 or len(images) == 0:
            raise ShapeError(f"images of shape {images.shape}: expected at least one, [batch, channels, height, width]")
        self.shapes(images.shape[1:])
        if not np.isfinite(images).all():
            raise ParameterError("the images hold NaN or infinity")
        return images

    def to(self, device: str):
        """An ANN computes on the CPU; DeviceError for any other device."""
        if device != "cpu":
            raise DeviceError(f"device {device!r}: an ann.Graph computes on the CPU; convert it, and move the result")
        return self

    @classmethod
    def build(cls, *, nodes, output, dtype) -> Graph:
        """The graph of a `describe()`, with parameters of its own; what `nsim.load` calls."""
        net = cls(dtype=dtype)
        for name, kind, options, inputs in nodes:
            if kind not in OPERATIONS:
                raise ParameterError(f"{name}: unknown operation {kind!r}; known: {', '.join(OPERATIONS)}")
            net.apply(OPERATIONS[kind].build(options, net.dtype), *(net[i] for i in inputs), name=name)
        net.output = net[output]
        return net

    def __repr__(self):
        lines = (
            f"  {node.name}: {node.operation!r}({', '.join(i.name for i in node.inputs)}) -> {node.shape}\n"
            for node in (self if self._nodes else ())
        )
        return f"Graph(\n{''.join(lines)})"


def _channels_last(shape):
    return (*shape[1:], shape[0]) if len(shape) == 3 else tuple(shape)


def _channels_first(shape):
    return (shape[-1], *shape[:-1])


def _turned(x):
    """[B, C, H, W] as [B, H, W, C]; vectors as they are."""
    if x.ndim == 2:
        return x
    y = Tensor(np.ascontiguousarray(x.data.transpose(0, 2, 3, 1)))
    return record("input", y, (x,), lambda g: (g.transpose(0, 3, 1, 2),))


def _turned_back(x):
    if x.ndim == 2:
        return x
    return record("output", Tensor(x.data.transpose(0, 3, 1, 2)), (x,), lambda g: (g.transpose(0, 2, 3, 1),))
