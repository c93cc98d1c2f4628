"""Graphs: walking them, activations, modes, state dicts, errors, and a small convnet trained in nsim."""

import numpy as np
import pytest
from numba import get_num_threads, set_num_threads
from threadpoolctl import threadpool_limits

import nsim
from nsim import Tensor, ann, losses, no_grad, optim
from nsim.ann import graph as module
from nsim.errors import DataError, DeviceError, ParameterError, ShapeError


def images(batch=5, shape=(3, 8, 8), dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(dtype)


def small(dtype=np.float32, seed=1):
    """A block with a shortcut, pooling and a classifier."""
    net = ann.Graph(dtype=dtype, seed=seed)
    x = net.input((3, 8, 8))
    x = net.relu(net.batch_norm(net.conv2d(x, 6, 3, padding=1, bias=False, name="conv1"), name="bn1"), name="relu1")
    y = net.batch_norm(net.conv2d(x, 6, 3, padding=1, name="conv2"), name="bn2")
    x = net.relu(net.add(y, x, name="add"), name="relu2")
    x = net.max_pool(x, 2, name="pool")
    net.linear(net.flatten(net.global_avg_pool(x, name="mean"), name="flat"), 4, name="fc")
    return net


def trained(dtype=np.float32):
    """With running statistics that are not those of the start."""
    net, rng = small(dtype), np.random.default_rng(2)
    for name, a in net.named_buffers().items():
        a[...] = rng.uniform(0.5, 2, a.shape) if name.endswith("var") else rng.normal(size=a.shape)
    return net


def by_hand(net, x):
    """One operation after the other, over the whole batch; all activations by name."""
    found = {"input": Tensor(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))}
    for node in list(net)[1:]:
        found[node.name] = node.operation(*(found[i.name] for i in node.inputs))
    return {name: tensor.data for name, tensor in found.items()}


def test_nodes_come_in_order_with_names_inputs_and_shapes():
    net = small()
    names = ["input", "conv1", "bn1", "relu1", "conv2", "bn2", "add", "relu2", "pool", "mean", "flat", "fc"]
    assert [node.name for node in net] == names and len(net) == 12
    assert net["add"].inputs == (net["bn2"], net["relu1"]) and net.output is net["fc"]
    assert net.consumers(net["relu1"]) == [net["conv2"], net["add"]] and net.consumers(net["fc"]) == []
    assert net["input"].shape == (8, 8, 3) and net["pool"].shape == (4, 4, 6) and net["flat"].shape == (6,)
    seen = set()
    for node in net:
        assert all(i.name in seen for i in node.inputs)
        seen.add(node.name)
    assert "conv2: Conv2d(" in repr(net) and "(bn2, relu1) -> (8, 8, 6)" in repr(net)


def test_shapes_for_images_of_another_size():
    net = small()
    shapes = net.shapes((3, 12, 10))
    assert shapes["conv1"] == (12, 10, 6) and shapes["pool"] == (6, 5, 6) and shapes["fc"] == (4,)
    assert net(images(2, (3, 12, 10))).shape == (2, 4)
    fixed = ann.Graph()
    fixed.linear(fixed.flatten(fixed.input((3, 8, 8))), 2, name="fc")
    with pytest.raises(ShapeError, match=r"fc: Linear\(192, 2\): input has shape \(300,\), expected \(192,\)"):
        fixed(images(2, (3, 10, 10)))


@pytest.mark.parametrize("batch", [1, 3, 4, 9])
def test_forward_in_parts_is_the_whole(batch, monkeypatch):
    net, x = trained(), images(batch)
    expected = by_hand(net, x)
    for chunk in (1, 1 << 22):
        monkeypatch.setattr(module, "CHUNK", chunk)
        output, kept = net.forward(x, keep={"relu1", "add", "flat", "input", "fc"})
        assert kept.keys() == {"relu1", "add", "flat", "input", "fc"}
        for name, a in kept.items():
            np.testing.assert_allclose(a, expected[name], rtol=1e-5, atol=1e-5)
            assert a.dtype == np.float32
        np.testing.assert_array_equal(output, kept["fc"])


def test_forward_keeps_nothing_that_was_not_asked_for():
    assert trained().forward(images())[1] == {}


def test_threads_change_no_bit():
    """Neither nsim's nor those of BLAS; in inference, and in a training step with batch statistics."""
    x, threads, results = images(70, (3, 32, 32)), get_num_threads(), []
    try:
        for count in (1, threads):
            set_num_threads(count)
            with threadpool_limits(count, user_api="blas"):
                net = trained()
                output, _ = net.forward(x)
                losses.cross_entropy(net.train()(x), np.arange(70) % 4).backward()
            results.append([output, *(p.grad for p in net.parameters()), *net.state_dict().values()])
    finally:
        set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_call_records_what_training_needs_and_no_grad_does_not():
    net, x = trained(), images()
    with no_grad():
        quiet = net(x)
    loud = net(x)
    np.testing.assert_allclose(quiet.data, loud.data, rtol=1e-5, atol=1e-6)
    assert quiet.node is None and loud.node is not None
    loud.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_gradient_of_the_images():
    net, x = trained(np.float64), Tensor(images(2, dtype=np.float64), requires_grad=True)
    weight = np.random.default_rng(3).normal(size=(2, 4))
    net(x).backward(weight)
    direction, h = np.random.default_rng(4).normal(size=x.shape), 1e-6
    above, below = ((net.forward(x.data + s * direction)[0] * weight).sum() for s in (h, -h))
    np.testing.assert_allclose((x.grad * direction).sum(), (above - below) / (2 * h), rtol=1e-6)


def test_a_graph_begins_in_evaluation_and_train_takes_the_batch():
    net, x = trained(), images(16)
    before, evaluated = net.state_dict(), net(x).data
    assert not net.training
    unchanged = net.state_dict()
    net.train()
    with no_grad():
        batch = net(x).data
    assert abs(batch - evaluated).max() > 1e-2
    moved = net.state_dict()
    for name, a in before.items():
        np.testing.assert_array_equal(unchanged[name], a)
        assert np.array_equal(moved[name], a) == ("running" not in name)
    out, _ = net.forward(x)
    np.testing.assert_allclose(out, net.eval()(x).data, rtol=1e-5, atol=1e-6)


def test_state_dict_and_back():
    net, other = trained(), small(seed=7)
    state = net.state_dict()
    assert list(state)[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"] and "bn2.running_var" in state
    assert state["conv1.weight"].shape == (6, 3, 3, 3) and state["fc.weight"].shape == (4, 6)
    other.load_state_dict(state | {"bn1.num_batches_tracked": np.array(7), "bn2.num_batches_tracked": np.array(7)})
    np.testing.assert_array_equal(other(images()).data, net(images()).data)
    state["fc.bias"][...] = 9
    assert not np.array_equal(net.state_dict()["fc.bias"], state["fc.bias"]), "copies"


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda s: s.pop("conv2.bias"), ParameterError, r"missing 1 \(conv2.bias\), unknown none"),
        (lambda s: s.update(extra=np.ones(2)), ParameterError, r"missing none, unknown 1 \(extra\)"),
        (lambda s: s.update({"fc.num_batches_tracked": 1}), ParameterError, "unknown 1 .fc.num_batches_tracked"),
        (lambda s: s.update({"fc.bias": np.ones(3)}), ShapeError, r"fc.bias has \(3,\), expected \(4,\)"),
        (lambda s: s.update({"bn1.running_var": np.full(6, np.nan)}), ParameterError, "bn1.running_var holds NaN"),
        (
            lambda s: [s.update({f"module.{k}": s.pop(k)}) for k in list(s)],
            ParameterError,
            r'names begin with "module.": pass \{k.removeprefix\("module."\)',
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, error, words):
    net = trained()
    before = net.state_dict()
    state = small(seed=5).state_dict()
    change(state)
    with pytest.raises(error, match=words):
        net.load_state_dict(state)
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


def test_weights_from_files(tmp_path):
    state = trained().state_dict()
    np.savez(tmp_path / "weights.npz", **state)
    net = small(seed=9)
    net.load_state_dict(nsim.read_weights(tmp_path / "weights.npz"))
    np.testing.assert_array_equal(net(images()).data, trained()(images()).data)


@pytest.mark.parametrize("make", [small, ann.resnet20, lambda: wide_and_odd(np.float64)])
def test_save_and_load(make, tmp_path):
    net = make()
    opt = optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    nsim.save(tmp_path / "net.h5", net, opt, epoch=3)
    other, again, meta = nsim.load(tmp_path / "net.h5")
    assert meta == {"epoch": 3} and repr(other) == repr(net) and not other.training
    assert again.params.keys() == opt.params.keys()
    x = images(2, (3, 32, 32) if len(net) > 30 else (3, 8, 8), net.dtype)
    np.testing.assert_array_equal(other(x).data, net(x).data)
    np.testing.assert_array_equal(nsim.read_weights(tmp_path / "net.h5")["bn1.weight"], net.state_dict()["bn1.weight"])


def wide_and_odd(dtype):
    """Every operation, with options that are not the default."""
    net = ann.Graph(dtype=dtype, seed=1)
    x = net.batch_norm(net.affine(net.input((3, 8, 8), name="pictures")), eps=1e-3, momentum=0.2, name="bn1")
    x = net.conv2d(x, 6, (3, 1), stride=(1, 2), padding=((1, 0), (0, 2)), groups=3, bias=False, name="c")
    y = net.max_pool(x, (2, 3), stride=1, padding=((1, 0), (1, 0)))
    y = net.identity_shortcut(y, 8, before=0, padding=((0, 0), (1, 0)))
    x = net.add(net.conv2d(net.relu(x), 8, 1), y)
    x = net.flatten(net.avg_pool(x, 2, padding=1, count_include_pad=False))
    x = net.relu(net.linear(x, 5, bias=False))
    net.linear(x, 2)
    return net


def test_a_file_of_an_unknown_operation_is_refused(tmp_path, monkeypatch):
    nsim.save(tmp_path / "net.h5", small())
    monkeypatch.delitem(module.OPERATIONS, "MaxPool")
    with pytest.raises(DataError, match="its net cannot be built: pool: unknown operation 'MaxPool'"):
        nsim.load(tmp_path / "net.h5")


@pytest.mark.parametrize(
    "given, error, words",
    [
        (images().astype(np.float64), ParameterError, "dtype float64, this network computes in float32"),
        (np.zeros((2, 3, 8, 8), np.uint8), ParameterError, "dtype uint8.*normalise"),
        (images(2, (1, 8, 8)), ShapeError, r"\[batch, 1, 8, 8\]: this network takes \[batch, 3, 8, 8\]"),
        (images(2, (8, 8, 3)), ShapeError, r"\[batch, 8, 8, 3\]"),
        (images()[0], ShapeError, r"\[batch, 8, 8\]: this network takes \[batch, 3, 8, 8\]; .* is images\[None\]"),
        (images()[:0], ShapeError, "expected at least one"),
        (images(2, (192,)), ShapeError, r"\[batch, 192\]"),
        (images(2, (3, 1, 1)), ShapeError, "pool: MaxPool"),
        (images() * np.float32(np.inf), ParameterError, "NaN or infinity"),
    ],
)
def test_images_that_do_not_fit(given, error, words):
    for mode in (True, False):
        with pytest.raises(error, match=words):
            small().train(mode)(given)
    with pytest.raises(error, match=words):
        small().forward(given)


def test_mistakes_in_making_a_graph():
    net = small()
    with pytest.raises(ParameterError, match="a node of that name already"):
        net.relu(net["add"], name="relu1")
    with pytest.raises(ParameterError, match="cannot have slashes"):
        net.relu(net["add"], name="a/b")
    with pytest.raises(ParameterError, match="has the input 'input' already"):
        net.input((3, 8, 8))
    with pytest.raises(ParameterError, match="takes 1 nodes of this graph"):
        net.relu(small()["add"])
    with pytest.raises(ParameterError, match="is the operation of relu1 already"):
        net.apply(net["relu1"].operation, net["add"])
    with pytest.raises(ParameterError, match=r"has dtype float64, this graph computes in float32"):
        net.apply(ann.Linear(6, 2, dtype=np.float64), net["flat"])
    with pytest.raises(ShapeError, match=r"add1: Add: inputs of shapes \(8, 8, 6\) and \(4, 4, 6\)"):
        net.add(net["add"], net["pool"])
    with pytest.raises(ShapeError, match="put a flatten before it"):
        net.linear(net["pool"], 3)
    with pytest.raises(ParameterError, match="no such node"):
        net["relu9"]
    with pytest.raises(ParameterError, match="is not a node of this graph"):
        net.output = small()["fc"]
    with pytest.raises(ParameterError, match=r"keep: no names of nodes, \['nowhere'\]"):
        net.forward(images(), keep=["nowhere"])
    with pytest.raises(ParameterError, match=r"keep: no names of nodes, \[Node.*; this network computes input, conv1"):
        net.forward(images(), keep=[net["relu1"], net["relu2"]])
    for keep in ("relu1", net["relu1"], None):
        with pytest.raises(ParameterError, match=r"keep = .*: expected the names of nodes in a list or a set"):
            net.forward(images(), keep=keep)
    for given in ("relu1", None):
        with pytest.raises(ParameterError, match=f"output: {given!r} is not a node of this graph; net.name. is one"):
            net.output = given
    with pytest.raises(ParameterError, match="expected an operation, made as ReLU"):
        net.apply(ann.ReLU, net["add"])
    with pytest.raises(ParameterError, match="operation = 'relu': expected an operation, such as"):
        net.apply("relu", net["add"])
    makers = ((net.conv2d, (16, 3)), (net.linear, (4,)), (net.identity_shortcut, (4,)), (net.batch_norm, ()))
    for given in ("input", 3, None, small()["input"]):  # 3: in the order of torch
        for make, options in makers:
            with pytest.raises(ParameterError, match=f"{make.__name__}: x = .*: expected a node of this graph"):
                make(given, *options)
    for given in (3, "abc", (3, None, None)):
        with pytest.raises(ParameterError, match="shapes: image_shape = "):
            net.shapes(given)
    for given in ("weights.npz", [1], None):
        with pytest.raises(ParameterError, match=f"load_state_dict: a {type(given).__name__}; expected arrays by name"):
            net.load_state_dict(given)
    with pytest.raises(DeviceError, match="computes on the CPU"):
        net.to("cuda")
    assert net.to("cpu") is net
    assert [node.name for node in net] == [node.name for node in small()], "what was refused left nothing behind"
    for dtype in (np.float16, "flaot32", None, int):
        with pytest.raises(ParameterError, match=r"Graph: dtype = .*expected np\.float32"):
            ann.Graph(dtype=dtype)
    for shape in ((3, 8), (3, 0, 8), (0,), (3, None, None), None, "3", (3, np.nan, 8), (3, (8, 8))):
        with pytest.raises(ParameterError, match="expected"):
            ann.Graph().input(shape)
    assert repr(ann.Graph()) == "Graph(\n)"
    with pytest.raises(ParameterError, match="no nodes yet"):
        ann.Graph()(images())


def test_what_the_output_does_not_need_is_no_part_of_the_graph():
    net = small()
    fc = net.output
    net.linear(net["flat"], 9, name="side")
    assert net.output.name == "side" and net(images()).shape == (5, 9)
    net.output = fc
    assert "side" not in [node.name for node in net] and "side.weight" not in net.state_dict()
    net.output = net["relu2"]
    pictures = net(images())
    assert pictures.shape == (5, 6, 8, 8), "pictures come out as they went in"
    np.testing.assert_array_equal(
        pictures.data.transpose(0, 2, 3, 1), net.forward(images(), keep=["relu2"])[1]["relu2"]
    )
    weight = np.random.default_rng(1).normal(size=pictures.shape).astype(np.float32)
    pictures.backward(weight)
    assert net["conv1"].operation.weight.grad is not None


def test_a_node_may_be_read_twice_by_one_operation():
    net = ann.Graph()
    x = net.input((4,))
    net.add(x, x)
    given = images(3, (4,))
    np.testing.assert_array_equal(net(given).data, 2 * given)
    leaf = Tensor(given, requires_grad=True)
    net(leaf).backward(given)
    np.testing.assert_array_equal(leaf.grad, 2 * given)


def test_the_seed_fixes_the_initial_weights():
    a, b, c = (small(seed=s).state_dict() for s in (3, 3, 4))
    assert all(np.array_equal(a[k], b[k]) for k in a) and not np.array_equal(a["conv1.weight"], c["conv1.weight"])
    nsim.seed(5)
    one = small(seed=None).state_dict()
    nsim.seed(5)
    np.testing.assert_array_equal(one["fc.weight"], small(seed=None).state_dict()["fc.weight"])


def bars(count, seed):
    """Noisy pictures of a bar that lies (0), stands (1) or leans (2), anywhere in the picture."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    pictures = rng.normal(0, 0.3, (count, 1, 10, 10)).astype(np.float32)
    for picture, label in zip(pictures, labels, strict=True):
        h, w = rng.integers(0, 5, 2)
        for k in range(5):
            row, column = [(h, w + k), (h + k, w), (h + k, w + k)][label]
            picture[0, row, column] += 1.5
    return pictures, labels


def test_a_small_convnet_learns():
    net = ann.Graph(seed=1)
    x = net.input((1, 10, 10))
    x = net.relu(net.batch_norm(net.conv2d(x, 8, 3, padding=1, bias=False)))
    y = net.batch_norm(net.conv2d(x, 8, 3, padding=1, groups=2, bias=False))
    x = net.avg_pool(net.relu(net.add(x, y)), 2)
    x = net.max_pool(net.relu(net.conv2d(x, 16, 3)), 3)
    net.linear(net.flatten(x), 3)
    opt = optim.Adam(net.parameters(), lr=5e-3)
    pictures, labels = bars(600, seed=2)
    net.train()
    for epoch in range(6):
        order = np.random.default_rng(epoch).permutation(600)
        for chosen in np.split(order, 15):
            loss = losses.cross_entropy(net(pictures[chosen]), labels[chosen])
            opt.zero_grad()
            loss.backward()
            opt.step()
    net.eval()
    pictures, labels = bars(300, seed=3)
    with no_grad():
        right = (net(pictures).data.argmax(axis=1) == labels).mean()
    assert right > 0.95, f"{right:.1%} of new pictures"


def test_weights_that_are_no_numbers_of_this_graph_are_refused():
    net = small()
    kept = net.state_dict()
    name = next(name for name in kept if name.endswith("running_var"))
    weight = next(name for name in kept if name.endswith("weight"))
    for key, value, words in (
        (weight, np.full(kept[weight].shape, 1e39), "or numbers beyond float32"),
        (weight, kept[weight] * 1j, "has dtype complex"),
        (weight, kept[weight].astype(object), "has dtype object"),
        (name, -kept[name], "a variance is not negative"),
    ):
        with pytest.raises(ParameterError, match=words):
            net.load_state_dict(kept | {key: value})
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, kept[key])
