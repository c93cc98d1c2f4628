"""ONNX files: those of torch against its outputs, single nodes against the reference implementation of ONNX."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from nsim import ann
from nsim.errors import DataError, MissingPackageError, ParameterError
from tests.ann.onnx_models import ints, model, node, saved, weight

DATA = Path(__file__).resolve().parents[1] / "data"
ARRAYS = np.load(DATA / "onnx.npz")
REFUSED = {"softmax", "relu6", "sigmoid", "imagenet_open"}
NAMES = sorted({key.rpartition(".")[0] for key in ARRAYS})


def close(found, expected):
    """Float32 rounding: some 1e-6 of the largest number on the way."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))


def test_every_file_has_its_arrays():
    assert [path.stem for path in sorted(DATA.glob("*.onnx"))] == NAMES and len(NAMES) == 16


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_files_of_torch(name):
    x, y = ARRAYS[f"{name}.x"], ARRAYS[f"{name}.y"]
    net = ann.from_onnx(DATA / f"{name}.onnx")
    assert not net.training
    close(net(x).data, y)
    close(net.forward(x[:1])[0], y[:1])
    wide = ann.from_onnx(DATA / f"{name}.onnx", dtype=np.float64)
    close(wide(x.astype(np.float64)).data, y)


def test_names_are_those_of_the_weights():
    net = ann.from_onnx(DATA / "residual_a_raw.onnx")
    assert net["conv1"].shape == (8, 8, 4) and net["linear"] is net.output
    weights = ["conv1.weight", "bn1.weight", "bn1.bias", "bn3.running_mean", "linear.bias"]
    assert set(weights) <= net.state_dict().keys()
    other = ann.from_onnx(DATA / "residual_a_raw.onnx")
    other.load_state_dict({k: 0.5 * v for k, v in net.state_dict().items()})
    other.load_state_dict(net.state_dict())
    x = ARRAYS["residual_a_raw.x"]
    np.testing.assert_array_equal(other(x).data, net(x).data)


@pytest.mark.parametrize("name", ["residual_a", "residual_a_old", "residual_a_raw"])
def test_slices_and_zeros_become_one_shortcut(name):
    net = ann.from_onnx(DATA / f"{name}.onnx")
    (node,) = (node for node in net if isinstance(node.operation, ann.IdentityShortcut))
    op = node.operation
    assert (op.in_channels, op.out_channels, op.before, op.windows.stride) == (4, 8, 1, (2, 2))


def test_sizes_that_the_file_leaves_open():
    path = DATA / "imagenet_open.onnx"
    x, y = ARRAYS["imagenet_open.x"], ARRAYS["imagenet_open.y"]
    with pytest.raises(
        DataError, match=r"leaves the size of its input open, \['batch', 3, 'height', 'width'\]; give input_shape="
    ):
        ann.from_onnx(path)
    close(ann.from_onnx(path, input_shape=(3, 20, 24))(x).data, y)
    other = ann.from_onnx(path, input_shape=(3, 31, 17))
    close(other(x).data, y)
    for shape in ((2, 20, 24), (3, 20)):
        with pytest.raises(ParameterError, match=r"input_shape = .*; the file's input is \['batch', 3"):
            ann.from_onnx(path, input_shape=shape)


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "relu6",
            r"relu6.onnx: node '/1/Clip' \(Clip\): an activation with an upper bound .*train .* with ReLU",
        ),
        (
            "sigmoid",
            r"node '/1/Sigmoid' \(Sigmoid\): this operation has no counterpart in nsim.ann; write",
        ),
        ("softmax", r"\(Softmax\): this operation .* end before it with output='linear_1'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name_and_place(name, words):
    with pytest.raises(DataError, match=words):
        ann.from_onnx(DATA / f"{name}.onnx")


def test_a_graph_may_end_before_the_end_of_the_file():
    net, x = ann.from_onnx(DATA / "softmax.onnx", output="linear_1"), ARRAYS["softmax.x"]
    scores = np.exp(net(x).data)
    close(scores / scores.sum(axis=1, keepdims=True), ARRAYS["softmax.y"])
    with pytest.raises(ParameterError, match=r"output = 'nowhere': no such value; there are .*linear_1"):
        ann.from_onnx(DATA / "softmax.onnx", output="nowhere")


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
    "max pool": ([node("MaxPool", "x", kernel_shape=[2, 3], pads=[1, 0, 0, 2], strides=[1, 2])], {}),
    "max pool, ceil_mode of no effect": ([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}),
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
    "linear on pictures": ([node("MatMul", "x", "w")], {"w": weight(7, 4)}, "put a flatten before it"),
    "matmul of two": ([node("MatMul", "x", "x")], {}, "computed from the images"),
    "training": ([node("BatchNormalization", "x", *"scmv", training_mode=1)], NORM, "export after eval"),
    "variance": ([node("BatchNormalization", "x", *"scmv")], NORM | {"v": weight(4)}, "variance, expected"),
    "clip from below zero": ([node("Clip", "x", "low")], {"low": np.float32(-1)}, "minimum -1 instead of 0; only Relu"),
    "clip from above zero": ([node("Clip", "x", "low")], {"low": np.float32(0.1)}, r"minimum 0\.1 instead of 0"),
    "clip from above alone": ([node("Clip", "x", "", "top")], {"top": np.float32(6)}, "no minimum instead of 0"),
    "a bias after a shortcut": (
        [node("Pad", "x", "n", out="h"), node("Add", "h", "b")], PAD | {"b": weight(6, 1, 1)}, "adds",
    ),
    "clip": ([node("Clip", "x", "low", "high")], {"low": np.float32(0), "high": np.float32(1)}, "an upper bound"),
    "ceil_mode": ([node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}, "ceil_mode = 1"),
    "large kernel": ([node("MaxPool", "x", kernel_shape=[9, 9])], {}, "9 x 9 does not fit into a picture of 5 x 7"),
    "mean over channels": ([node("ReduceMean", "x", "a")], {"a": ints(1)}, r"over axes \[1\]"),
    "constants": ([node("Add", "x", "b")], {"b": weight(3, 1, 1)}, "adds constants .* to the output of x; only a bias"),
    "bias along the width": (
        [node("Conv", "x", "w", out="h"), node("Add", "h", "b")], {"w": weight(7, 3, 1, 1), "b": weight(7)}, "adds",
    ),
    "a bias on one of two ways": (
        [node("Conv", "x", "w", out="h"), node("Add", "h", "b", out="k"), node("Add", "h", "k")],
        CONV | {"b": weight(4, 1, 1)}, "adds constants",
    ),
    "a bias on one of two ways, renamed": (
        [
            node("Conv", "x", "w", out="h"), node("Identity", "h", out="i"), node("Add", "i", "b", out="k"),
            node("Add", "h", "k"),
        ],
        CONV | {"b": weight(4, 1, 1)}, "adds constants",
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
    "pad pixels": ([node("Pad", "x", "n")], {"n": ints(0, 0, 1, 1, 0, 0, 1, 1)}, "only channels .*; give the padding"),
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


def test_float16_is_widened_and_float64_read_where_asked_for(tmp_path):
    half = weight(4, 3, 1, 1).astype(np.float16)
    net = ann.from_onnx(saved(tmp_path, [node("Conv", "x", "w")], {"w": half}))
    np.testing.assert_array_equal(net.output.operation.weight.data, half.astype(np.float32))
    wide = weight(4, 3, 1, 1, dtype=np.float64)
    net = ann.from_onnx(saved(tmp_path, [node("Conv", "x", "w")], {"w": wide}), dtype=np.float64)
    np.testing.assert_array_equal(net.output.operation.weight.data, wide)


def test_functions_of_the_file_are_looked_into(tmp_path):
    made = model([node("Twice", "x", domain="ours")])
    body = [node("Add", "a", "a", out="b")]
    made.functions.append(helper.make_function("ours", "Twice", ["a"], ["b"], body, made.opset_import[:1]))
    onnx.save(made, tmp_path / "f.onnx")
    x = weight(2, 3, 5, 7)
    close(ann.from_onnx(tmp_path / "f.onnx")(x).data, 2 * x)


def test_inputs_and_outputs(tmp_path):
    value = helper.make_tensor_value_info
    other = value("x2", TensorProto.FLOAT, (2, 3))
    with pytest.raises(DataError, match=r"has 2 inputs, \['x', 'x2'\]; expected one"):
        ann.from_onnx(saved(tmp_path, [node("Relu", "x")], inputs=[other]))
    two = [node("Relu", "x", out="h"), node("Relu", "h")]
    path = saved(tmp_path, two, outputs=[value("h", TensorProto.FLOAT, None)])
    with pytest.raises(DataError, match=r"has 2 outputs, \['y', 'h'\]; choose one with output="):
        ann.from_onnx(path)
    assert [n.name for n in ann.from_onnx(path, output="h")] == ["x", "the Relu"]
    assert [n.name for n in ann.from_onnx(path, output="y")] == ["x", "the Relu", "the Relu.2"]
    with pytest.raises(
        DataError, match=r"its input has shape \[2, 3, 5\]; expected \[batch, channels, height, width\]"
    ):
        ann.from_onnx(saved(tmp_path, [node("Relu", "x")], shape=(2, 3, 5)))


def test_an_unsupported_node_that_the_output_does_not_need_is_no_obstacle(tmp_path):
    path = saved(tmp_path, [node("Sigmoid", "x", out="s"), node("Relu", "x")])
    assert [n.name for n in ann.from_onnx(path)] == ["x", "the Relu"]


def test_weights_in_a_file_beside(tmp_path):
    made = model([node("Conv", "x", "w", "b")], CONV)
    x = weight(2, 3, 5, 7)
    (expected,) = ReferenceEvaluator(made).run(None, {"x": x})
    path = tmp_path / "outside.onnx"
    onnx.save(made, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    close(ann.from_onnx(path)(x).data, expected)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(DataError, match=r"outside.onnx: .*weights.bin"):
        ann.from_onnx(path)


def test_files_that_are_not_right(tmp_path):
    path = tmp_path / "bad.onnx"
    with pytest.raises(DataError, match=r"bad.onnx: cannot be read"):
        ann.from_onnx(path)
    whole = (DATA / "residual_b.onnx").read_bytes()
    for content, words in ((b"not an ONNX file", ""), (whole[: len(whole) // 2], ""), (b"", ".*holds no network")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"bad\.onnx{words}"):
            ann.from_onnx(path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["residual_a_old", "residual_b", "depthwise_old"])
def test_damage_anywhere_is_a_clear_error_or_another_graph(name, tmp_path):
    whole, rng = np.frombuffer((DATA / f"{name}.onnx").read_bytes(), np.uint8), np.random.default_rng(1)
    path, refused = tmp_path / "damaged.onnx", 0
    for _ in range(100):
        content = whole.copy()
        places = rng.integers(0, len(whole), rng.integers(1, 4))
        content[places] = rng.integers(0, 256, len(places))
        path.write_bytes(content.tobytes())
        try:
            ann.from_onnx(path)
        except DataError as error:
            assert "damaged.onnx" in str(error)
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_shape": 12}, r"input_shape = 12: expected \(channels, height, width\) or \(features,\), without"),
        ({"input_shape": (3, None, 7)}, r"input_shape = \(3, None, 7\): expected"),
        ({"input_shape": (2, 3, 5, 7)}, r"input_shape = \(2, 3, 5, 7\); the file's input is \[2, 3, 5, 7\], the batch"),
        ({"output": ["y"]}, r"output = \['y'\]: expected the name of a value"),
        ({"dtype": "flaot32"}, "from_onnx: dtype = 'flaot32'"), ({"dtype": None}, "from_onnx: dtype = None"),
        ({"path": model([node("Relu", "x")])}, r"path is a ModelProto; expected the path .*onnx\.save"),
        ({"path": None}, "path is a NoneType"),
    ],
)  # fmt: skip
def test_impossible_options(options, words, tmp_path):
    with pytest.raises(ParameterError, match=words) as caught:
        ann.from_onnx(**{"path": saved(tmp_path, [node("Relu", "x")])} | options)
    assert len(str(caught.value)) < 300


def test_without_the_package_the_way_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match=r'pip install "nsim-snn\[onnx\]"'):
        ann.from_onnx(DATA / "mlp.onnx")
    assert issubclass(MissingPackageError, ImportError)
