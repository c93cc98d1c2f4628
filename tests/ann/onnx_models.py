"""Small ONNX models, made node by node, and how near their outputs are to be."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(nodes, weights=None, shape=(2, 3, 5, 7), output=None, opset=18, inputs=(), outputs=()):
    """A model of one input x and the last node's output."""
    value = helper.make_tensor_value_info
    output = nodes[-1].output[0] if output is None else output
    graph = helper.make_graph(
        nodes,
        "made",
        [value("x", TensorProto.FLOAT, shape), *inputs],
        [value(output, TensorProto.FLOAT, None), *outputs],
        [numpy_helper.from_array(a, name) for name, a in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ours", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def saved(tmp_path, *args, **options):
    path = tmp_path / "made.onnx"
    onnx.save(model(*args, **options), path)
    return path


def node(kind, *inputs, out="y", **attributes):
    return helper.make_node(kind, inputs, [out], name=f"the {kind}", **attributes)


def ints(*values):
    return np.array(values)


def weight(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def close(found, expected):
    """Float32 rounding: some 1e-6 of the largest number on the way."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))
