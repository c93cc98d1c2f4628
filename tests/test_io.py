"""Files: exact round trips, foreign and damaged files, writes that are whole or not at all."""

import functools
import os
import pickle

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from nsim import io, losses, nn, optim
from nsim.datasets import convert_nmnist, write_shd
from nsim.errors import DataError, NsimError, ParameterError
from nsim.files import atomic
from nsim.neurons import ALIF, LI, LIF
from tests import cases


def make_net(hidden=7, seed=0):
    return nn.Sequential(
        nn.Dense(12, hidden, LIF(tau_mem=10e-3, learn="tau_mem"), recurrent=True, bias=True, seed=seed),
        nn.Dropout(0.2),
        nn.Dense(hidden, 6, ALIF(tau_mem=np.linspace(5e-3, 9e-3, 6), band=None), delay=2, seed=seed + 1),
        nn.Dense(6, 3, LI(tau_mem=20e-3, reduce="max"), seed=seed + 2),
    )


def make_opt(net, kind=optim.Adam, **options):
    opt = kind(net.parameters(), **options)
    for k, p in enumerate(net.parameters()):
        p.grad = np.full_like(p.data, 0.1 * k - 0.2)
    opt.step()
    return opt


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize(
    ("kind", "options"),
    [(optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}), (optim.Adam, {}), (optim.AdamW, {})],
)
def test_round_trip(tmp_path, kind, options):
    net = make_net()
    opt = make_opt(net, kind, **options)
    meta = {
        "epoch": 3,
        "name": "ü/ n",
        "nested": {"a": [1, 2.5, None]},
        "curve": np.arange(6.0).reshape(2, 3),
        "f": np.float32(0.5),
    }
    io.save(tmp_path / "net.h5", net, opt, **meta)
    other, again, found = io.load(tmp_path / "net.h5")
    assert other.describe() == net.describe() and again.describe() == opt.describe()
    assert_same(other.state_dict(), net.state_dict())
    assert_same(again.state_dict(), opt.state_dict())
    np.testing.assert_array_equal(found.pop("curve"), meta.pop("curve"))
    assert found == meta and io.read_meta(tmp_path / "net.h5").keys() == meta.keys() | {"curve"}
    assert list(again.params.values()) == other.parameters()
    assert_same(io.read_weights(tmp_path / "net.h5"), net.state_dict())
    assert os.listdir(tmp_path) == ["net.h5"]


def test_the_file_is_hdf5_without_pickle_and_its_bytes_do_not_vary(tmp_path):
    net = make_net()
    for name in ("a.h5", "b.h5"):
        io.save(tmp_path / name, net, optim.Adam(net.parameters()), epoch=1)
    content = (tmp_path / "a.h5").read_bytes()
    assert content == (tmp_path / "b.h5").read_bytes()
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["parameters/0.weight"][()], net[0].weight.data)
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(content)


def test_without_optimiser(tmp_path):
    io.save(tmp_path / "net.h5", make_net())
    _, opt, meta = io.load(tmp_path / "net.h5")
    assert opt is None and meta == {}
    net = make_net()
    with pytest.raises(DataError, match="holds no optimiser"):
        io.restore(tmp_path / "net.h5", net, optim.Adam(net.parameters()))


def test_restore_into_what_exists(tmp_path):
    net, other = make_net(), make_net(seed=9)
    opt, again = make_opt(net), optim.Adam(other.parameters(), lr=0.5)
    io.save(tmp_path / "net.h5", net, opt, epoch=4)
    held = other[0].weight.data
    assert io.restore(tmp_path / "net.h5", other, again) == {"epoch": 4}
    assert held is other[0].weight.data
    assert_same(other.state_dict(), net.state_dict())
    assert_same(again.state_dict(), opt.state_dict())
    with pytest.raises(DataError, match=r"net\.layers\[0\]\.n_out is 7 in the file, 8 here"):
        io.restore(tmp_path / "net.h5", make_net(hidden=8))
    with pytest.raises(DataError, match="state of Adam over"):
        io.restore(tmp_path / "net.h5", other, optim.SGD(other.parameters(), 0.1))


def test_what_cannot_be_saved_is_refused_and_the_old_file_kept(tmp_path):
    net, path = make_net(), tmp_path / "net.h5"
    io.save(path, net, epoch=1)
    with pytest.raises(ParameterError, match="meta 'when'"):
        io.save(path, net, when=object())
    with pytest.raises(ParameterError, match="meta 'words'"):
        io.save(path, net, words=np.array(["a"]))
    with pytest.raises(ParameterError, match="does not have"):
        io.save(path, net, optim.Adam(make_net().parameters()))
    for opt in ("adam", optim.Adam):
        with pytest.raises(ParameterError, match=r"opt = .*; expected one such as optim\.Adam\(net\.parameters"):
            io.save(path, net, opt)
    assert io.load(path)[2] == {"epoch": 1}


def test_a_path_that_names_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"^nofolder/net\.h5 could not be written: there is no folder nofolder; make it f"
    ):
        io.save("nofolder/net.h5", make_net())
    for path in ("", tmp_path, None):
        with pytest.raises(DataError, match="names no file; give one such as"):
            io.save(path, make_net())
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        for write in (
            lambda path: io.save(path, make_net()),
            lambda path: write_shd(path, [[0.1]], [[1]], [0]),
            lambda path: convert_nmnist(tmp_path / "not looked for", path),
            lambda path: atomic(path).__enter__(),
        ):
            with pytest.raises(DataError, match=f"{path} is no regular file but a folder, device or pipe"):
                write(path)
    assert pipe.is_fifo() and link.is_symlink() and len(os.listdir(tmp_path)) == 2


def test_what_was_there_is_spoken_of_only_where_something_was(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path / ".net.h5.hidden.tmp"))

    for end in ("net.h5 could not be written: Permission denied", "; what was there before is kept"):
        with monkeypatch.context() as patch, pytest.raises(DataError, match=f"{end}$") as caught:
            patch.setattr(os, "fsync", refused)
            io.save(tmp_path / "net.h5", make_net())
        assert "hidden" not in str(caught.value)
        io.save(tmp_path / "net.h5", make_net())


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    net, path = make_net(), tmp_path / "net.h5"
    io.save(path, net, epoch=1)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        io.save(path, net, epoch=2)
    assert io.load(path)[2] == {"epoch": 1} and os.listdir(tmp_path) == ["net.h5"]


def test_an_interrupted_write_leaves_nothing_and_two_writers_do_not_mix(tmp_path, monkeypatch):
    net, path, flush = make_net(), tmp_path / "net.h5", os.fsync
    io.save(path, net, epoch=1)

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        io.save(path, net, epoch=2)
    assert io.load(path)[2] == {"epoch": 1} and os.listdir(tmp_path) == ["net.h5"]

    def overtaken(file):
        monkeypatch.setattr(os, "fsync", flush)
        io.save(path, net, epoch=3)
        flush(file)

    monkeypatch.setattr(os, "fsync", overtaken)
    io.save(path, net, epoch=4)
    assert io.load(path)[2] == {"epoch": 4} and os.listdir(tmp_path) == ["net.h5"]


def test_a_file_that_does_not_fit_itself(tmp_path):
    """A right digest over wrong contents: parameters that are missing or of another shape are named."""
    net = make_net()

    def saved(**changes):
        state = net.state_dict() | changes
        state = {name: a for name, a in state.items() if a is not None}
        net_like = type("Net", (nn.Module,), {"describe": net.describe, "state_dict": lambda self: state})()
        io.save(tmp_path / "net.h5", net_like)
        return tmp_path / "net.h5"

    with pytest.raises(DataError, match=r"its net cannot be built: .*missing 1 \(0.bias\), unknown none"):
        io.load(saved(**{"0.bias": None}))
    with pytest.raises(DataError, match=r"0.bias has \(3,\), expected \(7,\)"):
        io.load(saved(**{"0.bias": np.zeros(3)}))
    with pytest.raises(DataError, match=r"unknown 1 \(9.bias\)"):
        io.load(saved(**{"9.bias": np.zeros(3)}))


@pytest.mark.parametrize(
    "part, change, words",
    [
        ("layer", {"colour": 3}, "net cannot be built: TypeError: .*'colour'"),
        ("neuron", {"colour": 3}, "net cannot be built: TypeError: .*'colour'"),
        ("surrogate", {"colour": 3}, "net cannot be built: TypeError: .*'colour'"),
        ("surrogate", {"name": None}, "net cannot be built: unknown surrogate None"),
        ("optimiser", {"colour": 3}, "optimiser cannot be built: TypeError: .*'colour'"),
        ("optimiser", {"kind": "AdamW"}, r"optimiser cannot be built: .*missing 1 \(weight_decay\), unknown none"),
        ("state", {"m/0.weight": 3.0}, r"optimiser cannot be built: .*m/0.weight has \(\), expected \(12, 7\)"),
        ("names", {"0.weight": "9.weight"}, "optimiser cannot be built: KeyError: '9.weight'"),
    ],
)
def test_a_description_that_this_version_cannot_follow(tmp_path, monkeypatch, part, change, words):
    """As of a file from an nsim that knows other options: always a DataError with the path."""
    net = make_net()
    opt = optim.Adam(net.parameters())
    description = net.describe()
    layer = description["layers"][0]
    found = {"layer": layer, "neuron": layer["neuron"], "surrogate": layer["neuron"]["surrogate"]}
    found |= {"optimiser": opt.describe(), "state": opt.state_dict(), "names": io.shared_names(net, opt)}
    found[part].update(change)
    monkeypatch.setattr(net, "describe", lambda: description)
    monkeypatch.setattr(opt, "describe", lambda: found["optimiser"])
    monkeypatch.setattr(opt, "state_dict", lambda: found["state"])
    monkeypatch.setattr(io, "shared_names", lambda *_: found["names"])
    io.save(tmp_path / "net.h5", net, opt)
    with pytest.raises(DataError, match=f"net.h5: its {words}"):
        io.load(tmp_path / "net.h5")


def test_foreign_files(tmp_path):
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["group/w"] = np.arange(6, dtype=np.float16).reshape(2, 3)
        file["n"] = 5
    for reader in (io.load, io.read_meta):
        with pytest.raises(DataError, match="HDF5 file of another program"):
            reader(tmp_path / "foreign.h5")
        with pytest.raises(DataError, match="No such file"):
            reader(tmp_path / "none.h5")
    weights = io.read_weights(tmp_path / "foreign.h5")
    assert weights["group/w"].dtype == np.float16 and weights["n"] == 5
    np.testing.assert_array_equal(weights["group/w"], np.arange(6).reshape(2, 3))
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file["t"] = "text"
    (tmp_path / "text.txt").write_text("no weights")
    with pytest.raises(DataError, match=r"array 't' has dtype .*, not numbers"):
        io.read_weights(tmp_path / "text.h5")
    with pytest.raises(DataError, match=r"neither HDF5, nor \.npz"):
        io.read_weights(tmp_path / "text.txt")


def test_a_later_version(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "VERSION", 2)
    io.save(tmp_path / "net.h5", make_net())
    monkeypatch.undo()
    with pytest.raises(DataError, match="format version 2, this nsim reads up to 1"):
        io.load(tmp_path / "net.h5")


def test_only_networks_are_saved(tmp_path):
    with pytest.raises(ParameterError, match=r"save: net is a dict; .* converted network"):
        io.save(tmp_path / "net.h5", {})


@pytest.mark.parametrize("name", ["net.h5", "w.npz", "w.safetensors"])
def test_mutated_files(tmp_path, name):
    """1,000 damaged files of each format: an nsim error or a dict of arrays; of an nsim file never the wrong ones."""
    net, rng = make_net(), np.random.default_rng(0)
    if name == "net.h5":
        io.save(tmp_path / name, net)
    elif name == "w.npz":
        np.savez(tmp_path / name, **net.state_dict())
    else:
        save_file(net.state_dict(), tmp_path / name)
    content = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
    bad, refused = tmp_path / ("bad" + name[name.index(".") :]), 0
    for k in range(1000):
        mutant = content[: rng.integers(len(content))].copy() if k % 4 == 0 else content.copy()
        if k % 4 and len(mutant):
            header = k % 4 == 3 and (name != "net.h5" or k < 100)  # a lost nsim header costs a child process each
            size = min(700, len(mutant)) if header else len(mutant)
            places = rng.integers(0, size, rng.integers(1, 4))
            mutant[places] ^= rng.integers(1, 256, len(places)).astype(np.uint8)
        bad.write_bytes(mutant.tobytes())
        try:
            found = io.read_weights(bad)
        except NsimError:
            refused += 1
            continue
        if name == "net.h5":
            assert_same(found, net.state_dict())
    assert refused > 300
    if name == "net.h5":
        assert refused >= 990  # all but those whose changes undo each other


def test_another_split_of_the_same_size_is_other_data():
    data = cases.recordings(np.arange(48) % 4)
    (rest, held), (same, _), (other, _) = (data.split(0.25, seed) for seed in (0, 0, 1))
    assert io.named(rest) == io.named(same) != io.named(other) and io.named(held).startswith("few, 12 samples of")
    reversed_index = rest.subset(np.arange(36)[::-1])
    assert len({io.named(part) for part in (rest, other, reversed_index, cases.recordings(np.arange(36) % 4))}) == 4
    relabelled, shorter = cases.recordings(np.arange(48) % 4), cases.recordings(np.arange(48) % 4)
    relabelled._labels[0] = 3
    shorter.events.starts[1] = 9
    assert len({io.named(part) for part in (data, relabelled, shorter)}) == 3


def test_functions_among_options_are_noted_by_name():
    """Their addresses differ from process to process, and a run would not be resumed."""
    rate = functools.partial(losses.spike_rate_upper, limit=3)
    assert io.named(functools.partial(max, key=rate)) == "max(key=spike_rate_upper(limit=3))"
    assert io.named(functools.partial(max, len, 2)) == "max(len, 2)"


def test_loading_leaves_the_generator_of_weights_where_it_was(tmp_path):
    io.save(tmp_path / "net.h5", cases.network())
    drawn = []
    for load in (False, True):
        nn.seed(5)
        if load:
            io.load(tmp_path / "net.h5")
        drawn.append(nn.Dense(3, 2, LIF()).weight.data)
    np.testing.assert_array_equal(*drawn)
