"""ONNX files: those of torch against its outputs; functions, options, damage. Nodes have a file of their own."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from nsim import ann
from nsim.errors import DataError, MissingPackageError, ParameterError
from tests.ann.onnx_models import close, model, node, saved, weight

DATA = Path(__file__).resolve().parents[1] / "data"
ARRAYS = np.load(DATA / "onnx.npz")
REFUSED = {"softmax", "relu6", "sigmoid", "imagenet_open"}
NAMES = sorted({key.rpartition(".")[0] for key in ARRAYS})


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
    made = model([node("Conv", "x", "w", "b")], {"w": weight(4, 3, 3, 2), "b": weight(4, seed=1)})
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
