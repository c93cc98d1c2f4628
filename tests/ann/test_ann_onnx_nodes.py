"""Single nodes of ONNX files: against the reference implementation of ONNX, or refused by name and place."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from nsim import ann
from nsim.errors import DataError
from tests.ann.onnx_models import close, ints, node, saved, weight

CONV = {"w": weight(4, 3, 3, 2), "b": weight(4, seed=1)}
NORM = {"s": weight(3), "c": weight(3, seed=1), "m": weight(3, seed=2), "v": abs(weight(3, seed=3)) + 0.5}
INTS = {"starts": ints(0, 0), "ends": ints(2**40, 7), "axes": ints(2, -1), "steps": ints(2, 3)}
PAD = {"n": ints(0, 2, 0, 0, 0, 1, 0, 0)}
STEPS = node("Slice", "x", "starts", "ends", "axes", "steps")
NODES = {
    "conv": ([node("Conv", "x", "w", "b", pads=[1, 0, 0, 1], strides=[2, 1])], CONV),
    "conv without bias": ([node("Conv", "x", "w", kernel_shape=[3, 2])], CONV),
    "same upper": ([node("Conv", "x", "w", "b", auto_pad="SAME_UPPER", strides=[2, 3])], CONV),
    "same lower": ([node("Conv", "x", "w", "b", auto_pad="SAME_LOWER", strides=[2, 2])], CONV),
    "valid": ([node("Conv", "x", "w", "b", auto_pad="VALID")], CONV),
    "conv and a bias": ([node("Conv", "x", "w", out="h"), node("Add", "h", "b")], CONV | {"b": weight(1, 4, 1, 1)}),
    "bias first": ([node("Conv", "x", "w", out="h"), node("Add", "b", "h")], CONV | {"b": weight(4, 1, 1)}),
    "batch norm": ([node("BatchNormalization", "x", *"scmv", epsilon=0.01)], NORM),
    "conv and another bias": (
        [node("Conv", "x", "w", "b", out="h"), node("Sum", "h", "c")], CONV | {"c": weight(1, 4, 1, 1, seed=2)},
    ),
    "batch norm and a bias": (
        [node("BatchNormalization", "x", *"scmv", out="h"), node("Add", "b", "h")], NORM | {"b": weight(3, 1, 1)},
    ),
    "batch norm, epsilon 0": ([node("BatchNormalization", "x", *"scmv", epsilon=0.0)], NORM),
    "normalisation": (
        [node("Sub", "x", "m", out="h"), node("Div", "h", "s", out="k"), node("Conv", "k", "w", "b", pads=[1] * 4)],
        CONV | {"m": weight(1, 3, 1, 1, seed=2), "s": weight(3, 1, 1, seed=3)},
    ),
    "one scale for all": ([node("Mul", "half", "x")], {"half": np.float32(0.5)}),
    "scale and shift of one channel": (
        [node("Conv", "x", "w", out="h"), node("Mul", "h", "a", out="k"), node("Add", "k", "a")],
        {"w": weight(1, 3, 2, 2), "a": weight(1, seed=1)},
    ),
    "twice the same, and 1 - x": (
        [
            node("Mul", "x", "a", out="h"), node("Sub", "one", "h", out="k"), node("Add", "h", "k", out="l"),
            node("Sub", "l", "a", out="m"), node("Mul", "m", "m0"),
        ],
        {"a": weight(3, 1, 1), "one": np.ones(1, np.float32), "m0": weight(1, 3, 1, 1, seed=1)},
    ),
    "a factor of 1": ([node("Conv", "x", "w", out="h"), node("Mul", "h", "one")], CONV | {"one": np.float32(1)}),
    "scale after batch norm": (
        [node("BatchNormalization", "x", *"scmv", out="h"), node("Mul", "h", "b")], NORM | {"b": weight(3, 1, 1)},
    ),
    "scale of a vector": ([node("Flatten", "x", out="h"), node("Div", "h", "b")], {"b": weight(105)}),
    "constants": ([node("Add", "x", "b")], {"b": weight(3, 1, 1)}),
    "a bias on one of two ways": (
        [node("Conv", "x", "w", out="h"), node("Add", "h", "b", out="k"), node("Add", "h", "k")],
        CONV | {"b": weight(4, 1, 1)},
    ),
    "a bias on one of two ways, renamed": (
        [
            node("Conv", "x", "w", out="h"), node("Identity", "h", out="i"), node("Add", "i", "b", out="k"),
            node("Add", "h", "k"),
        ],
        CONV | {"b": weight(4, 1, 1)},
    ),
    "a bias after a shortcut": (
        [node("Pad", "x", "n", out="h"), node("Add", "h", "b")], PAD | {"b": weight(6, 1, 1)},
    ),
    "cast": ([node("Cast", "x", to=onnx.TensorProto.FLOAT)], {}),
    "pixels of zeros": ([node("Pad", "x", "n")], {"n": ints(0, 0, 1, 2, 0, 0, 3, 0)}),
    "zeros on all sides": ([node("Pad", "x", "n")], {"n": ints(0, 1, 1, 2, 0, 2, 3, 0)}),
    "pad, then conv": (
        [node("Pad", "x", "n", out="h"), node("Conv", "h", "w", "b", pads=[0, 1, 0, 0], strides=[2, 2])],
        CONV | {"n": ints(0, 0, 0, 1, 0, 0, 1, 2)},
    ),
    "pad, then conv, and read again": (
        [node("Pad", "x", "n", out="h"), node("Conv", "h", "w", out="k"), node("Add", "k", "h")],
        {"w": weight(3, 3, 1, 1), "n": ints(0, 0, 0, 1, 0, 0, 1, 2)},
    ),
    "pad, then maximum": (
        [node("Pad", "x", "n", out="h"), node("MaxPool", "h", kernel_shape=[3, 3], strides=[2, 2])],
        {"n": ints(0, 0, 1, 1, 0, 0, 1, 1)},
    ),
    "pad pixels, then slice": (
        [node("Pad", "x", "n", out="h"), node("Slice", "h", "starts", "ends", "axes", "steps")],
        INTS | {"n": ints(0, 0, 1, 1, 0, 0, 1, 1), "ends": ints(2**40, 2**40)},
    ),
    "max pool": ([node("MaxPool", "x", kernel_shape=[2, 3], pads=[1, 0, 0, 2], strides=[1, 2])], {}),
    "max pool, ceil_mode of no effect": ([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}),
    "max pool, ceil_mode": ([node("MaxPool", "x", kernel_shape=[2, 3], strides=[2, 3], ceil_mode=1)], {}),
    "max pool, ceil_mode and padding": (
        [node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 3], pads=[1, 1, 1, 0], ceil_mode=1)], {},
    ),
    "max pool, ceil_mode, no window in the padding": (
        [node("MaxPool", "x", kernel_shape=[2, 2], strides=[3, 4], pads=[0, 1, 1, 1], ceil_mode=1)], {},
    ),
    "average pool, ceil_mode": ([node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}),
    "average pool, ceil_mode, which does not count what stands out": (
        [node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1)], {},
    ),
    "average pool": ([node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 1, 1, 1])], {}),
    "average pool with zeros": (
        [node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 1, 0, 0], count_include_pad=1)], {},
    ),
    "global": ([node("GlobalAveragePool", "x")], {}),
    "mean": ([node("ReduceMean", "x", "axes", keepdims=0)], {"axes": ints(3, 2)}),
    "mean, kept": ([node("ReduceMean", "x", "axes")], {"axes": ints(-1, -2)}),
    "global maximum": ([node("GlobalMaxPool", "x")], {}),
    "maximum": ([node("ReduceMax", "x", "axes", keepdims=0)], {"axes": ints(2, 3)}),
    "larger of it and 0": ([node("Max", "x", "z")], {"z": np.float32(0)}),
    "larger of 0 and it": ([node("Max", "z", "x")], {"z": weight(1) * 0}),
    "sum": ([node("Relu", "x", out="h"), node("Sum", "h", "x", "h")], {}),
    "sum of one": ([node("Relu", "x", out="h"), node("Sum", "h")], {}),
    "add twice": ([node("Relu", "x", out="h"), node("Add", "h", "x", out="k"), node("Add", "k", "k")], {}),
    "flatten": ([node("Flatten", "x")], {}),
    "flatten from behind": ([node("Flatten", "x", axis=-3)], {}),
    "reshape": ([node("Reshape", "x", "n")], {"n": ints(0, -1)}),
    "reshape to what it is": ([node("Reshape", "x", "n")], {"n": ints(-1, 3, 5, 7)}),
    "squeeze": (
        [node("GlobalAveragePool", "x", out="h"), node("Squeeze", "h", "axes")], {"axes": ints(2, 3)},
    ),
    "squeeze whatever is 1": ([node("GlobalAveragePool", "x", out="h"), node("Squeeze", "h")], {}),
    "gemm": (
        [node("Flatten", "x", out="h"), node("Gemm", "h", "w", "b", alpha=0.5, beta=2.0)],
        {"w": weight(105, 4), "b": weight(1, 4)},
    ),
    "gemm, transposed": (
        [node("Flatten", "x", out="h"), node("Gemm", "h", "w", "b", transB=1)], {"w": weight(4, 105), "b": weight(1)},
    ),
    "matmul and a bias": (
        [node("Flatten", "x", out="h"), node("MatMul", "h", "w", out="k"), node("Add", "k", "b")],
        {"w": weight(105, 4), "b": weight(4)},
    ),
    "slice": ([STEPS], INTS),
    "slice of everything": ([node("Slice", "x", "starts", "ends", "axes")], INTS),
    "pad": ([node("Pad", "x", "n")], PAD),
    "pad by an axis": ([node("Pad", "x", "n", "z", "a")], {"n": ints(1, 2), "z": np.float32(0), "a": ints(-3)}),
    "pad, then slice": (
        [node("Pad", "x", "n", out="h"), node("Slice", "h", "starts", "ends", "axes", "steps")],
        INTS | PAD,
    ),
    "slice, read twice": (
        [
            node("Slice", "x", "starts", "ends", "axes", "steps", out="h"),
            node("Pad", "h", "n", out="k"), node("Pad", "h", "n", out="l"), node("Add", "k", "l"),
        ],
        INTS | PAD,
    ),
    "clip without an upper bound": ([node("Clip", "x", "low")], {"low": np.float32(0)}),
    "dropout and identity": ([node("Dropout", "x", out="h"), node("Identity", "h", out="k"), node("Relu", "k")], {}),
    "computed constants": (
        [
            node("Shape", "x", out="s"), node("Gather", "s", "zero", out="g"), node("Unsqueeze", "g", "zeros", out="u"),
            node("Concat", "u", "minus", out="n", axis=0), node("Relu", "x", out="h"), node("Reshape", "h", "n"),
        ],
        {"zero": np.array(0), "zeros": ints(0), "minus": ints(-1)},
    ),
    "weights from constants": (
        [node("Constant", out="two", value_float=2.0), node("Mul", "w", "two", out="v"), node("Conv", "x", "v", "b")],
        CONV,
    ),
}  # fmt: skip


def test_a_cast_to_float32_in_a_graph_of_float64(tmp_path):
    x = weight(2, 3, 5, 7, dtype=np.float64)
    net = ann.from_onnx(saved(tmp_path, [node("Cast", "x", to=onnx.TensorProto.FLOAT)]), dtype=np.float64)
    np.testing.assert_array_equal(net(x).data, x)


@pytest.mark.parametrize("name", NODES)
def test_nodes_are_those_of_the_reference(name, tmp_path):
    nodes, weights = NODES[name]
    path = saved(tmp_path, nodes, weights)
    x = weight(2, 3, 5, 7, seed=5)
    (expected,) = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    found = ann.from_onnx(path)(x).data
    assert found.shape == expected.shape
    close(found, expected)


def test_reduce_mean_with_axes_as_an_attribute(tmp_path):
    path = saved(tmp_path, [node("ReduceMean", "x", axes=[2, 3], keepdims=0)], opset=11)
    x = weight(2, 3, 5, 7)
    close(ann.from_onnx(path)(x).data, x.mean(axis=(2, 3)))


def test_filling_as_an_attribute(tmp_path):
    around = node("Pad", "x", pads=[0, 1, 0, 0, 0, 1, 0, 0], value=1.0)
    with pytest.raises(DataError, match="else than zeros"):
        ann.from_onnx(saved(tmp_path, [around], opset=9))


LINEAR = [node("Flatten", "x", out="h"), node("Gemm", "h", "w")]
WRONG = {
    "dilations": ([node("Conv", "x", "w", dilations=[2, 2])], CONV, r"dilations = \[2, 2\]; only 1"),
    "one dimension": ([node("Conv", "x", "w")], {"w": weight(4, 3, 3)}, "a convolution in 1 dimensions"),
    "weights of the images": ([node("Conv", "x", "x")], {}, "its weights are computed from the images"),
    "channels": ([node("Conv", "x", "w")], {"w": weight(4, 2, 3, 3)}, r"weights, expected \(4, 3, 3, 3\)"),
    "bias of another size": ([node("Conv", "x", "w", "b")], CONV | {"b": weight(5)}, r"shape \(5,\) of biases"),
    "larger of two": ([node("Relu", "x", out="h"), node("Max", "h", "x")], {}, "only of one value and 0"),
    "larger than 1": ([node("Max", "x", "z")], {"z": np.float32(1)}, "only of one value and 0, which is Relu"),
    "one axis": ([node("ReduceMax", "x", "a")], {"a": ints(2)}, r"over axes \[2\]; only over height and width at once"),
    "behind the images": ([node("Sigmoid", "x")], {}, r"no counterpart .* export anew$"),
    "transA": ([LINEAR[0], node("Gemm", "h", "w", transA=1)], {"w": weight(105, 4)}, "transA = 1"),
    "biases that differ between samples": (
        [LINEAR[0], node("Gemm", "h", "w", "b")], {"w": weight(105, 2), "b": weight(2, 1)},
        r"\(Gemm\): biases of shape \(2, 1\), expected \(2,\): one for each output, the same for all samples; export",
    ),
    "biases for each sample and output": (
        [LINEAR[0], node("Gemm", "h", "w", "b")], {"w": weight(105, 4), "b": weight(2, 4)}, r"biases of shape \(2, 4\)",
    ),
    "linear on pictures": ([node("MatMul", "x", "w")], {"w": weight(7, 4)}, "put a flatten before it"),
    "matmul of two": ([node("MatMul", "x", "x")], {}, "computed from the images"),
    "training": ([node("BatchNormalization", "x", *"scmv", training_mode=1)], NORM, "export after eval"),
    "variance": ([node("BatchNormalization", "x", *"scmv")], NORM | {"v": weight(4)}, "variance, expected"),
    "clip from below zero": ([node("Clip", "x", "low")], {"low": np.float32(-1)}, "minimum -1 instead of 0; only Relu"),
    "clip from above zero": ([node("Clip", "x", "low")], {"low": np.float32(0.1)}, r"minimum 0\.1 instead of 0"),
    "clip from above alone": ([node("Clip", "x", "", "top")], {"top": np.float32(6)}, "no minimum instead of 0"),
    "product": ([node("Relu", "x", out="h"), node("Mul", "h", "x")], {}, "multiplies two values that depend on"),
    "divided by almost 0": ([node("Div", "x", "b")], {"b": np.float32([1e-40])}, "or by 0"),
    "larger than zeros of another shape": (
        [node("Max", "x", "z")], {"z": np.zeros((1, 2, 3, 5, 7), np.float32)}, "only of one value and 0",
    ),
    "negative variance": (
        [node("BatchNormalization", "x", *"scmv")], NORM | {"v": -NORM["v"]}, "variance is negative; .* damaged",
    ),
    "indices of a maximum": (
        [
            onnx.helper.make_node("MaxPool", ["x"], ["h", "i"], name="the pool", kernel_shape=[2, 2]),
            node("Cast", "i", to=1, out="k"), node("Add", "h", "k"),
        ], {}, "its second output, 'i', is read",
    ),
    "channels last": ([node("Transpose", "x", perm=[0, 2, 3, 1])], {}, r"\[0, 2, 3, 1\]; images are .* channels first"),
    "half of the batch": (
        [
            node("Shape", "x", out="s"), node("Gather", "s", "zero", out="g"), node("Div", "g", "two", out="d"),
            node("Unsqueeze", "d", "zeros", out="u"), node("Concat", "u", "minus", out="n", axis=0),
            node("Relu", "x", out="h"), node("Reshape", "h", "n"),
        ],
        {"zero": np.array(0), "two": np.array(2), "zeros": ints(0), "minus": ints(-1)}, "only to vectors",
    ),
    "divided by 0": ([node("Div", "x", "b")], {"b": np.float32([[[1]], [[0]], [[1]]])}, "or by 0"),
    "divided by the images": ([node("Div", "b", "x")], {"b": weight(3, 1, 1)}, "divides by values of the images"),
    "scale of pixels": ([node("Mul", "x", "b")], {"b": weight(5, 7)}, r"multiplies constants of shape \(5, 7\)"),
    "cast to integers": ([node("Cast", "x", to=onnx.TensorProto.INT32)], {}, "other numbers than float32"),
    "clip": ([node("Clip", "x", "low", "high")], {"low": np.float32(0), "high": np.float32(1)}, "an upper bound"),
    "ceil_mode": (
        [
            node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0], ceil_mode=1,
                 count_include_pad=1)
        ], {},
        "ceil_mode = 1 with count_include_pad = 1 and windows that stand out",
    ),
    "variance of 0": (
        [node("BatchNormalization", "x", *"scmv", epsilon=0.0)], NORM | {"v": np.float32([1, 0, 1])}, "a variance of 0",
    ),
    "squeeze a picture": ([node("Squeeze", "x")], {}, "only a picture of one pixel"),
    "large kernel": ([node("MaxPool", "x", kernel_shape=[9, 9])], {}, "9 x 9 does not fit into a picture of 5 x 7"),
    "mean over channels": ([node("ReduceMean", "x", "a")], {"a": ints(1)}, r"over axes \[1\]"),
    "constants along the width": (
        [node("Add", "x", "b")], {"b": weight(3)}, r"adds constants of shape \(3,\), and .* of x; only one number",
    ),
    "bias along the width": (
        [node("Conv", "x", "w", out="h"), node("Add", "h", "b")], {"w": weight(7, 3, 1, 1), "b": weight(7)}, "adds",
    ),
    "no weights": ([node("Conv", "x")], {}, "it has no weights; the file is damaged"),
    "a kernel of no number": ([node("MaxPool", "x", kernel_shape=["a", "b"])], {}, "damaged: "),
    "flatten": ([node("Flatten", "x", axis=2)], {}, "axis = 2; only 1"),
    "reshape": ([node("Reshape", "x", "n")], {"n": ints(-1, 15, 7)}, r"to \[-1, 15, 7\]; only to .*\[batch, 105\]"),
    "reshape across samples": ([node("Reshape", "x", "n")], {"n": ints(6, 35)}, "only to vectors"),
    "squeeze": ([node("Squeeze", "x", "n")], {"n": ints(2, 3)}, "only a picture of one pixel"),
    "slice": ([STEPS], INTS | {"starts": ints(1, 0)}, "takes 1:"),
    "a part": ([node("Slice", "x", "starts", "ends", "axes")], INTS | {"ends": ints(5, 6)}, "takes 0:6:1 of axis 3"),
    "channels in steps": ([STEPS], INTS | {"axes": ints(2, 1)}, "of axis 1"),
    "pad samples": ([node("Pad", "x", "n")], {"n": ints(1, 0, 0, 0, 0, 0, 0, 0)}, "only channels and pixels"),
    "crop": ([node("Pad", "x", "n")], {"n": ints(0, 0, -1, 0, 0, 0, 0, 0)}, "only channels and pixels"),
    "pad with ones": ([node("Pad", "x", "n", "v")], {"n": ints(*[0, 1] * 4), "v": np.float32(1)}, "else than zeros"),
    "pad by reflection": ([node("Pad", "x", "n", mode="reflect")], {"n": ints(*[0, 1] * 4)}, "else than zeros"),
    "dropout": (
        [node("Dropout", "x", "r", "t")], {"r": np.float32(0.5), "t": np.array(True)}, "exported in training mode",
    ),
    "float64": ([node("Conv", "x", "w")], {"w": weight(4, 3, 1, 1, dtype=np.float64)}, "of float64.*pass dtype="),
    "integers": ([node("Conv", "x", "w")], {"w": np.ones((4, 3, 1, 1), int)}, "are of int64.*export it in float32"),
    "not finite": ([node("Conv", "x", "w")], {"w": weight(4, 3, 1, 1) * np.inf}, "weights hold NaN or infinity"),
    "no constants": ([node("Constant", out="y", value_float=1.0)], {}, "output 'y' does not depend on the images"),
    "unknown": ([node("Relu", "nowhere")], {}, r"reads \['nowhere'\], which nothing before it computes"),
    "of others": ([node("Blend", "x", domain="ours")], {}, "operations of the domain 'ours'"),
    "constants of others": (
        [node("Blend", "w", domain="ours", out="v"), node("Conv", "x", "v")], CONV, "operations of the domain 'ours'",
    ),
    "very many constants": (
        [node("ConstantOfShape", "n", out="v"), node("Conv", "x", "v")], {"n": ints(1 << 20, 1 << 20)}, "makes more",
    ),
    "impossible constants": (
        [node("MatMul", "w", "w", out="v"), node("Conv", "x", "v")], CONV, "cannot be computed from its constants",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", WRONG)
def test_nodes_that_have_no_counterpart(name, tmp_path):
    nodes, weights, words = WRONG[name]
    with pytest.raises(DataError, match=words) as caught:
        ann.from_onnx(saved(tmp_path, nodes, weights))
    assert "made.onnx" in str(caught.value)
    assert name == "no constants" or "node 'the " in str(caught.value)
