"""Graphs from ONNX files, the exchange format that other frameworks export.

What each node becomes is in `onnx_nodes` and `onnx_layout`. The package `onnx` is imported only when a file is read.
"""

from __future__ import annotations

from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np

from nsim.ann.graph import Graph, Node
from nsim.ann.onnx_layout import BATCH
from nsim.ann.onnx_nodes import NODES
from nsim.checks import float_type, is_whole, real_array
from nsim.errors import DataError, MissingPackageError, NsimError, ParameterError

DOMAINS = ("", "ai.onnx")
GROWING, LARGEST = ("ConstantOfShape", "Expand", "Tile"), 1 << 24  # make much of little; numbers that they may make


def from_onnx(path, *, input_shape=None, output=None, dtype=np.float32) -> Graph:
    """A graph from an ONNX file of a trained network, in evaluation mode.

    Read are Conv, Gemm, MatMul, BatchNormalization, Relu (or Clip and Max at 0), AveragePool, MaxPool,
    GlobalAveragePool, GlobalMaxPool, ReduceMean and ReduceMax over height and width at once, Add and Sum; Add, Sub, Mul
    and Div with constants, one for each channel (such as the normalisation of images); Flatten, Reshape and Squeeze (of
    height and width at once) to vectors, Identity, Dropout (which does nothing in inference), Slice with steps
    (shortcuts of option A), Pad with zeros, and whatever is computed from constants.

    Parameters
    ----------
    path : path of a .onnx file; weights in files beside it are read too
    input_shape : (C, H, W) or (N,), optional
        Needed where the file leaves sizes open; the batch always is.
    output : str, optional
        Name of a value in the file to end at, instead of the file's output: to leave out a Softmax, for example.
    dtype : float32 or float64
        In which the graph computes. Wider weights than that are refused, narrower ones widened.

    Returns
    -------
    Graph, whose nodes are named as their weights in the file (without ".weight"), or as the file's nodes.

    Raises
    ------
    MissingPackageError
        If the package onnx is not installed.
    ParameterError
        If an option has an impossible value, or does not fit the file.
    DataError
        If the file is missing, damaged, or holds something that has no counterpart here; the message names the node
        and says what can be done.
    """
    dtype, input_shape = _options(path, input_shape, output, dtype)
    onnx = _package()
    try:
        model = onnx.load(str(path))
        if model.functions:
            model = _inlined(model)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except Exception as error:  # what a damaged file makes the parser raise is not its to promise
        raise DataError(f"{path}: damaged or no ONNX file: {type(error).__name__}: {error!s:.200}") from error
    if not (model.graph.node or model.graph.output):
        raise DataError(f"{path}: holds no network: the file is empty or no ONNX file")
    reader = Reader(path, model, dtype)
    with _placed(path, path):
        return reader.read(input_shape, output)


def _options(path, input_shape, output, dtype):
    """The number type and the shape of an image, checked before the file is read."""
    if not isinstance(path, (str, PathLike)):
        raise ParameterError(
            f"from_onnx: path is a {type(path).__name__}; expected the path of a .onnx file (onnx.save writes a model)"
        )
    if not (output is None or isinstance(output, str)):
        raise ParameterError(f"from_onnx: output = {output!r:.60}: expected the name of a value in the file")
    dtype = float_type("from_onnx", dtype)
    if input_shape is None:
        return dtype, None
    sizes = real_array(input_shape)
    if sizes is None or sizes.ndim != 1 or not all(is_whole(n) and n >= 1 for n in sizes):
        raise ParameterError(
            f"from_onnx: input_shape = {input_shape!r}: expected (channels, height, width) or (features,), without the "
            "batch"
        )
    return dtype, tuple(int(n) for n in sizes)


def _package():
    try:
        import onnx
        import onnx.reference
    except ImportError as error:
        raise MissingPackageError(
            'from_onnx needs the package onnx, which is not installed: pip install "nsim-snn[onnx]"'
        ) from error
    return onnx


@contextmanager
def _placed(path, where):
    """Errors that do not name the file yet get their place in it; what numbers of the wrong kind raise is damage."""
    try:
        yield
    except NsimError as error:
        if str(path) in str(error):
            raise
        raise DataError(f"{where}: {error}") from error
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise DataError(f"{where}: damaged: {type(error).__name__}: {error!s:.200}") from error


def _inlined(model):
    from onnx import inliner

    return inliner.inline_local_functions(model)


class Reader:
    """One file being read.

    graph : the Graph that is made
    values : {name in the file: Node, or constant array}
    made, uses : {name in the file: the node that makes it}, {name: number of nodes that read it}
    """

    def __init__(self, path, model, dtype):
        self.path, self.model, self.dtype = Path(path), model, dtype
        self.graph, self.values, self.uses = Graph(dtype=dtype), {}, {}
        self.opset = max((o.version for o in model.opset_import if o.domain in DOMAINS), default=1)

    def read(self, input_shape, output) -> Graph:
        items, output = self._needed(output)
        self._constants()
        self._input(input_shape)
        for item in items:
            self._translate(item)
        if not isinstance(self.values.get(output), Node):
            raise DataError(f"{self.path}: its output {output!r} does not depend on the images")
        self.graph.output = self.values[output]
        return self.graph

    def _needed(self, output):
        """The nodes that the output depends on, in the file's order, and the output's name."""
        graph = self.model.graph
        made = self.made = {name: item for item in graph.node for name in item.output if name}
        outputs = [value.name for value in graph.output]
        if output is None:
            if len(outputs) != 1:
                raise DataError(f"{self.path}: has {len(outputs)} outputs, {outputs}; choose one with output=")
            output = outputs[0]
        elif output not in made:
            raise ParameterError(f"{self.path}: output = {output!r}: no such value; there are {', '.join(made)}")
        needed, stack = set(), [output]
        while stack:
            item = made.get(stack.pop())
            if item is not None and id(item) not in needed:
                needed.add(id(item))
                stack.extend(item.input)
        items = [Item(self, item) for item in graph.node if id(item) in needed]
        for item in items:
            for name in item.inputs:
                self.uses[name] = self.uses.get(name, 0) + 1
        self.uses[output] = self.uses.get(output, 0) + 1
        return items, output

    def _constants(self):
        from onnx import numpy_helper

        for tensor in self.model.graph.initializer:
            try:
                self.values[tensor.name] = numpy_helper.to_array(tensor)
                tensor.ClearField("raw_data")  # else large weights would be in memory twice
            except Exception as error:  # as for the file itself
                raise DataError(f"{self.path}: weights {tensor.name!r} are damaged: {error!s:.200}") from error

    def _input(self, shape):
        inputs = [value for value in self.model.graph.input if value.name not in self.values]
        if len(inputs) != 1:
            raise DataError(
                f"{self.path}: has {len(inputs)} inputs, {[i.name for i in inputs]}; expected one, the images"
            )
        dims = inputs[0].type.tensor_type.shape.dim
        sizes = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims]
        if len(sizes) not in (2, 4):
            raise DataError(f"{self.path}: its input has shape {sizes}; expected [batch, channels, height, width]")
        self.batch = sizes[0]
        if shape is None:
            shape = tuple(sizes[1:])
            if any(not isinstance(n, int) or n < 1 for n in shape):
                raise DataError(f"{self.path}: leaves the size of its input open, {sizes}; give input_shape=")
        fixed = [(n, m) for n, m in zip(sizes[1:], shape, strict=False) if isinstance(n, int)]
        if len(shape) + 1 != len(sizes) or any(n != m for n, m in fixed):
            raise ParameterError(f"{self.path}: input_shape = {shape}; the file's input is {sizes}, the batch first")
        self.values[inputs[0].name] = self.graph.input(shape, name=inputs[0].name.replace("/", "."))

    def _translate(self, item):
        """Give a value to each output of a node of the file."""
        unknown = [name for name in item.inputs if name not in self.values]
        if unknown:
            raise DataError(f"{item.where} reads {unknown}, which nothing before it computes: damaged")
        if item.domain not in DOMAINS:
            raise item.refused(f"operations of the domain {item.domain!r} have no counterpart in nsim.ann")
        if item.kind == "Shape" and isinstance(self.values[item.inputs[0]], Node):
            self.values[item.outputs[0]] = self._shape(item)
        elif item.kind == "CastLike" and not isinstance(self.values[item.inputs[0]], Node):
            self.values[item.outputs[0]] = self.values[item.inputs[0]]
        elif not any(isinstance(self.values[name], Node) for name in item.inputs):
            self.values.update(zip(item.outputs, self._evaluated(item), strict=False))
        elif item.kind in NODES:
            extra = [name for name in item.outputs[1:] if self.uses.get(name)]
            if extra:
                raise item.refused(f"its second output, {extra[0]!r}, is read; only the first has a counterpart")
            with _placed(self.path, item.where):
                self.values[item.outputs[0]] = NODES[item.kind](item)
        else:
            raise item.refused("this operation has no counterpart in nsim.ann")

    def _shape(self, item):
        """Shape of a value as a constant, with BATCH for the batch."""
        node = self.values[item.inputs[0]]
        shape = np.array([BATCH, node.shape[-1], *node.shape[:-1]], np.int64)
        return shape[item.get("start", 0) : item.get("end", len(shape))]

    def _evaluated(self, item):
        """What a node gives that reads constants only, by the reference implementation in the package onnx."""
        from onnx.reference import ReferenceEvaluator

        sizes = np.asarray(self.values[item.inputs[-1]], float) if item.kind in GROWING else np.zeros(1)
        if np.abs(sizes).prod() > LARGEST:
            raise item.refused(f"it makes more than {LARGEST:,} numbers of constants")
        try:
            evaluator = ReferenceEvaluator(item.proto, opsets={"": self.opset})
            return evaluator.run(None, {name: self.values[name] for name in item.inputs})
        except Exception as error:  # of any kind, for constants of any kind
            raise item.refused(f"it cannot be computed from its constants: {error!s:.200}") from error

    def free(self, name) -> str:
        """A name that no node of the graph has yet."""
        unique, k = str(name), 1
        while unique in self.graph:
            k += 1
            unique = f"{name}.{k}"
        return unique


class Item:
    """One node of a file: its kind, inputs and outputs by name, and its attributes."""

    def __init__(self, reader, proto):
        self.reader, self.proto = reader, proto
        self.kind, self.domain = proto.op_type, proto.domain
        self.inputs, self.outputs = [name for name in proto.input if name], list(proto.output)

    @property
    def graph(self) -> Graph:
        return self.reader.graph

    @property
    def where(self) -> str:
        return f"{self.reader.path}: node {self.proto.name or self.outputs[0]!r} ({self.kind})"

    def refused(self, why, way_out=None) -> DataError:
        """An error that says why a node is refused, and what can be done."""
        values, made = self.reader.values, self.reader.made
        source = next((name for name in self.inputs if name in made and isinstance(values.get(name), Node)), None)
        before = "" if source is None else f", or end before it with output={source!r}"
        way_out = way_out or f"write it with the operations that `help(from_onnx)` lists and export anew{before}"
        return DataError(f"{self.where}: {why}; {way_out}")

    def get(self, name, default=None):
        """An attribute, or the default where the file does not give it."""
        from onnx import helper

        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def node(self, k=0) -> Node:
        """Input number k, which depends on the images."""
        value = self.value(k)
        if not isinstance(value, Node):
            raise self.refused(f"its input {self.proto.input[k]!r} does not depend on the images")
        return value

    def value(self, k):
        """Input number k, a Node or an array; None where the file leaves it out."""
        name = self.proto.input[k] if k < len(self.proto.input) else ""
        return self.reader.values[name] if name else None

    def constant(self, k, what, needed=True) -> np.ndarray | None:
        """Input number k, which must not depend on the images; None where it is not needed and left out."""
        value = self.value(k)
        if isinstance(value, Node):
            raise self.refused(f"its {what} are computed from the images")
        if value is None and needed:
            raise self.refused(f"it has no {what}", "the file is damaged")
        return value

    def weights(self, k, what, needed=True) -> np.ndarray | None:
        """A constant input in the graph's dtype, without loss."""
        value = self.constant(k, what, needed)
        if value is None:
            return None
        if value.dtype.kind != "f" or value.dtype.itemsize > self.reader.dtype.itemsize:
            raise self.refused(
                f"its {what} are of {value.dtype}, the graph computes in {self.reader.dtype}",
                "pass dtype=np.float64" if value.dtype == np.float64 else "export it in float32",
            )
        if not np.isfinite(value).all():
            raise self.refused(f"its {what} hold NaN or infinity", "train and export the network anew")
        return np.asarray(value, self.reader.dtype)

    def name(self) -> str:
        """Name for the node that is made: that of its weights, or its own, with dots where files have slashes."""
        source = self.proto.input[1] if len(self.proto.input) > 1 else ""
        stem = source.removesuffix(".weight")
        name = stem if stem != source else self.proto.name or self.outputs[0]
        return self.reader.free(name.strip("/").replace("/", "."))

    def alone(self, k=0) -> bool:
        """Whether this node is the only one that reads its input number k, under whatever name."""
        name, values = self.proto.input[k], self.reader.values
        return self.reader.uses[name] == 1 and sum(value is values[name] for value in values.values()) == 1
