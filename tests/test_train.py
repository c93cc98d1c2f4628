"""fit and evaluate: exact resume, kills at random moments, best model, early stop, NaN, foreign checkpoints."""

import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nsim import io, losses, nn, optim, surrogates, train
from nsim.datasets import transforms
from nsim.errors import DataError, ParameterError, ShapeError
from nsim.evaluation import evaluate
from nsim.neurons import LI, LIF
from nsim.tape import Tensor
from tests import cases
from tests import tiny_training as tiny

SETTINGS = {"dt": tiny.DT, "steps": tiny.STEPS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run: its folder, net and History."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *tiny.run(folder)


def assert_same_net(a, b):
    for name, value in a.state_dict().items():
        np.testing.assert_array_equal(value, b.state_dict()[name])


def assert_same_run(folder, expected):
    """Weights, optimiser and history of two finished runs, bit for bit (times apart)."""
    for name in ("last.h5", "best.h5"):
        (net, opt, meta), (own_net, own_opt, own) = io.load(folder / name), io.load(expected / name)
        assert_same_net(net, own_net)
        if opt is not None:
            state, own_state = opt.state_dict(), own_opt.state_dict()
            for key in own_state:
                np.testing.assert_array_equal(state[key], own_state[key])
        for key in own:
            if key not in ("history.seconds", "history.samples_per_second"):
                np.testing.assert_equal(meta[key], own[key])


def test_history_and_learning(whole):
    folder, _, result = whole
    history = result.history
    assert set(history) >= {
        "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "spikes_per_neuron", "active_fraction", "density",
        "samples_per_second", "seconds",
    }  # fmt: skip
    assert {len(values) for values in history.values()} == {tiny.EPOCHS}
    assert history["epoch"] == list(range(tiny.EPOCHS))
    assert history["loss"][-1] < 0.7 * history["loss"][0] and max(history["val_accuracy"]) > 0.5
    for key in train.LAYERED:
        assert np.shape(history[key]) == (tiny.EPOCHS, 1) and np.min(history[key]) > 0
    density = np.array(history["density"])
    np.testing.assert_allclose(np.array(history["spikes_per_neuron"]), density * tiny.STEPS)
    assert sorted(os.listdir(folder)) == ["best.h5", "last.h5"] and result.out == folder
    assert np.isclose(history["lr"][0], 2e-2 / 4) and not result.stopped_early


def test_the_best_epoch_is_restored_and_kept(whole):
    folder, net, result = whole
    scores = list(zip(result.history["val_accuracy"], [-x for x in result.history["val_loss"]], strict=True))
    assert result.best_epoch == scores.index(max(scores))
    best, _, meta = io.load(folder / "best.h5")
    assert_same_net(best, net)
    assert meta["epoch"] == result.best_epoch
    found = evaluate(net, tiny.Recordings(40, seed=2), **SETTINGS)
    assert found.accuracy == result.history["val_accuracy"][result.best_epoch] == meta["val_accuracy"]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(whole, tmp_path):
    tiny.run(tmp_path / "again")
    assert_same_run(tmp_path / "again", whole[0])
    other, _ = tiny.run(seed=6)
    assert not np.array_equal(other[0].weight.data, whole[1][0].weight.data)


@pytest.mark.parametrize("first", [1, 7])
def test_resume_equals_the_whole_run(whole, tmp_path, first):
    cosine = optim.cosine_lr(2e-2, tiny.EPOCHS, warmup=3)
    tiny.run(tmp_path, epochs=first, schedule=cosine)
    net, result = tiny.run(tmp_path)
    assert_same_run(tmp_path, whole[0])
    assert_same_net(net, whole[1])
    assert result.best_epoch == whole[2].best_epoch
    before = (tmp_path / "last.h5").read_bytes()
    again, finished = tiny.run(tmp_path)  # nothing left to do
    assert_same_net(again, net)
    assert (tmp_path / "last.h5").read_bytes() == before
    assert finished.history == result.history


def test_killed_20_times_at_random_moments(whole, tmp_path):
    """SIGKILL from outside at random times, and from inside half-way through a random write."""
    rng, kills, finished, reached, out = np.random.default_rng(0), 0, 0, set(), tmp_path / "run"
    per_epoch = sum(whole[2].history["seconds"][1:]) / (tiny.EPOCHS - 1)
    script = Path(tiny.__file__)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(io.__file__).parents[1]), str(script.parent)])}
    while kills < 20 or not finished:
        trap = [str(rng.integers(1, 9))] if kills % 3 == 2 else []
        child = subprocess.Popen(
            [sys.executable, str(script), str(out), *trap],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        with child:
            assert child.stdout.read(5) == b"ready", child.stderr.read().decode()
            if not trap and kills < 20:
                time.sleep(rng.uniform(0, 8 * per_epoch))
                child.kill()
            errors = child.stderr.read().decode()
        assert child.returncode in (0, -9), errors
        assert finished < 40, "the trap in the middle of a write does not close"
        if child.returncode == -9:
            kills += 1
            reached.add(io.read_meta(out / "last.h5")["history.epoch"][-1] if (out / "last.h5").exists() else -1)
        else:
            assert_same_run(out, whole[0])
            shutil.rmtree(out)
            finished += 1
    assert len(reached) >= 5, f"killed only after epochs {reached}"


def test_a_kill_between_best_and_last(whole, tmp_path, monkeypatch):
    """best.h5 may be an epoch ahead of last.h5; the resumed run ends the same."""
    tiny.run(tmp_path, epochs=3)
    save = io.save

    def stop_before_last(path, *arguments, **meta):
        if Path(path).name == "last.h5":
            raise KeyboardInterrupt
        save(path, *arguments, **meta)

    monkeypatch.setattr(io, "save", stop_before_last)
    with pytest.raises(KeyboardInterrupt):
        tiny.run(tmp_path)
    monkeypatch.undo()
    tiny.run(tmp_path)
    assert_same_run(tmp_path, whole[0])


def test_a_keyboard_interrupt_says_where_the_checkpoint_is(tmp_path):
    def interrupt(net, history):
        if len(history["epoch"]) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stop:
        tiny.run(tmp_path, callbacks=[interrupt])
    (note,) = stop.value.__notes__
    assert "last.h5 holds the state after epoch 1" in note
    with pytest.raises(KeyboardInterrupt) as stop:
        tiny.run(callbacks=[interrupt])
    assert "nothing was kept" in stop.value.__notes__[0]


def test_early_stop(tmp_path):
    net, result = tiny.run(tmp_path, patience=2, epochs=50, opt=None, schedule=lambda epoch: 0.0)
    assert result.stopped_early and result.best_epoch == 0
    assert result.history["epoch"] == [0, 1, 2]
    assert_same_net(net, tiny.make_net())
    _, again = tiny.run(tmp_path, patience=2, epochs=50, opt=None, schedule=lambda epoch: 0.0)
    assert again.stopped_early and again.history == result.history


def test_without_validation_the_last_epoch_stays(tmp_path):
    net, result = tiny.run(tmp_path, val=None, epochs=3)
    assert result.best_epoch == 2 and os.listdir(tmp_path) == ["last.h5"]
    assert_same_net(net, io.load(tmp_path / "last.h5")[0])
    assert np.isnan(result.history["val_accuracy"]).all()
    _, again = tiny.run(tmp_path, val=None, epochs=4)
    assert again.best_epoch == 3 and again.history["loss"][:3] == result.history["loss"]


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    tiny.run(tmp_path, epochs=1)
    before, net = (tmp_path / "last.h5").read_bytes(), tiny.make_net(hidden=11)
    with pytest.raises(DataError, match=r"holds another net: net\.layers\[0\]\.n_out is 10 .* 11 here; .*resume=False"):
        tiny.run(tmp_path, net=net)
    with pytest.raises(DataError, match="made with batch = 16, this call has 8; give another out="):
        tiny.run(tmp_path, batch=8)
    other_limit = [functools.partial(losses.spike_rate_upper, limit=2.0), losses.spike_rate_lower]
    for options, text in (
        ({"regularizers": other_limit}, "regularizers = .*limit=1.0.*, this call has .*limit=2.0"),
        ({"transform": None}, "transform = drop_events, this call has None"),
        ({"loss": losses.mse}, "loss = None, this call has mse"),
        ({"val": tiny.Recordings(39, seed=2)}, "val = Recordings, 40 samples .*, this call has Recordings, 39 samples"),
        (
            {"val": tiny.Recordings(40, seed=3)},
            "val = Recordings, 40 samples of digest .*, this call has Recordings",
        ),
        ({"val": None}, "val = Recordings, 40 samples .*, this call has None"),
        ({"schedule": None}, "schedule = cosine_lr"),
    ):
        with pytest.raises(DataError, match=text):
            tiny.run(tmp_path, **options)
    other = tiny.make_net()
    with pytest.raises(DataError, match="'kind': 'SGD'"):
        tiny.run(tmp_path, net=other, opt=optim.SGD(other.parameters(), 0.1))
    assert_same_net(other, tiny.make_net())
    assert (tmp_path / "last.h5").read_bytes() == before
    io.save(tmp_path / "last.h5", tiny.make_net())
    with pytest.raises(DataError, match=r"not a checkpoint of nsim\.fit; give another out=, or resume=False"):
        tiny.run(tmp_path)
    (tmp_path / "last.h5").write_bytes(before[:-7])
    with pytest.raises(DataError, match=r"truncated or damaged .*; give another out=, or resume=False to overwrite"):
        tiny.run(tmp_path)
    _, result = tiny.run(tmp_path, net=net, resume=False, epochs=1)
    assert result.history["epoch"] == [0] and (tmp_path / "best.h5").exists()
    tiny.run(tmp_path, net=net, resume=False, epochs=1, val=None)
    assert not (tmp_path / "best.h5").exists(), "the best of an earlier run beside the last of this one"


def test_what_cannot_be_written_or_evaluated_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(train._Run, "epoch", lambda self: pytest.fail("it began to train"))
    custom = nn.Sequential(nn.Dense(tiny.N_IN, 4, LIF(surrogate=surrogates.Custom(abs))), nn.Dense(4, 4, LI()))
    with pytest.raises(ParameterError, match="Custom surrogate cannot be written"):
        tiny.run(tmp_path, net=custom)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: File exists; give another folder"):
        tiny.run(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="no permission to write; give another folder"):
        tiny.run(tmp_path)
    with pytest.raises(DataError, match="val holds no sample"):
        tiny.run(val=tiny.Recordings(0, seed=2))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"batch": 2.5}, "batch = 2.5"),
        ({"steps": -1}, "steps = -1"),
        ({"dt": 0.0}, "dt = 0"),
        ({"patience": 0}, "patience = 0"),
        ({"patience": 3, "val": None}, "patience needs val"),
        ({"clip": -1.0}, "clip = -1"),
        ({"clip": "1"}, "clip = '1'"),
        ({"dt": "1ms"}, "dt = '1ms'"),
        ({"seed": None}, "seed = None"),
        ({"epochs": np.inf}, "epochs = inf"),
        ({"opt": 1e-3}, "opt = 0.001; expected one such as optim.Adam"),
        ({"loss": "mse"}, "loss = 'mse'; expected a function"),
        ({"schedule": 1e-3}, "schedule = 0.001; expected a function epoch -> lr"),
        ({"transform": "drop"}, "fit: transform = 'drop': expected a function"),
        ({"transform": [tiny.drop_events, 3]}, "transform = .*expected a function"),
        ({"regularizers": losses.spike_rate_lower}, r"regularizers = <function .*expected a list .*\[regularizer\]"),
        ({"regularizers": [3]}, r"regularizers = \[3\]"),
        ({"callbacks": print}, "callbacks = .*expected a list"),
        ({"val": [1, 2]}, "val has no .batches"),
        ({"transform": transforms.DropEvents}, r"transform is the class DropEvents; make one: DropEvents\(...\)"),
        ({"transform": [tiny.drop_events, transforms.DropEvents]}, "transform is the class DropEvents"),
        ({"val": tiny.Recordings}, "val is the class Recordings; make one"),
    ],
)
def test_bad_options(options, text, monkeypatch):
    monkeypatch.setattr(train._Run, "epoch", lambda self: pytest.fail("it began to train"))
    with pytest.raises(ParameterError, match=text):
        tiny.run(**options)


@pytest.mark.parametrize("value", [None, np.nan, -1.0, "1e-3"])
def test_a_schedule_that_gives_no_learning_rate(tmp_path, value):
    with pytest.raises(ParameterError, match=rf"schedule\(1\) = {value!r}: expected .* after epoch 0; call fit again"):
        tiny.run(tmp_path, schedule=lambda epoch: value if epoch else 1e-3)


def test_bad_data_and_nets():
    with pytest.raises(DataError, match="no batch"):
        tiny.run(val=tiny.Recordings(0, seed=0), epochs=1)
    with pytest.raises(ParameterError, match="does not have"):
        tiny.run(opt=optim.Adam(tiny.make_net().parameters()))
    with pytest.raises(ParameterError, match="sample 0 has label 7"):
        data = tiny.Recordings(4, seed=0)
        data.labels[:] = 7
        evaluate(tiny.make_net(), data, **SETTINGS)


@pytest.mark.filterwarnings("ignore::nsim.errors.EventWarning")
def test_a_transform_that_changes_the_neurons_is_refused_before_the_first_step(monkeypatch):
    monkeypatch.setattr(train._Run, "step", lambda *a: pytest.fail("it began to train"))
    data = cases.recordings(np.arange(6) % tiny.CLASSES, tiny.N_IN)
    with pytest.raises(ShapeError, match=r"transform .* have neurons of space .*val has .*data\.transformed"):
        train.fit(tiny.make_net(), data, val=data, epochs=1, transform=transforms.PoolUnits(2), **SETTINGS)


def test_losses_that_the_tape_does_not_know_are_refused():
    def outside(output, labels):
        return float(output.data.sum())

    with pytest.raises(ParameterError, match=r"the loss gave a float; expected a Tensor of one number: .*nsim.losses"):
        tiny.run(loss=outside)
    with pytest.raises(ParameterError, match="the loss gave a float"):
        evaluate(tiny.make_net(), tiny.Recordings(4, seed=0), loss=outside, **SETTINGS)
    with pytest.raises(ParameterError, match=r"the loss gave a Tensor \(.*\); expected a Tensor of one number"):
        tiny.run(loss=lambda output, labels: output)
    with pytest.raises(ParameterError, match="a regularizer gave a float64"):
        tiny.run(regularizers=[lambda hidden: np.float64(1.0)])


def test_options_reach_the_data_and_modes_are_put_back():
    seen = []

    class Spy(tiny.Recordings):
        def batches(self, batch, **options):
            seen.append(dict(options))
            options.pop("binning", None)
            return super().batches(batch, **options)

    net = tiny.make_net().eval()
    train.fit(
        net, Spy(20, 0), val=Spy(20, 1), epochs=2, seed=3, clamp=True, binning="round", progress=False, **SETTINGS
    )
    first, val, second, _ = seen
    assert first == {
        **SETTINGS,
        "shuffle": True,
        "seed": 3,
        "epoch": 0,
        "transform": None,
        "clamp": True,
        "binning": "round",
    }
    assert second["epoch"] == 1 and val == {**SETTINGS, "binning": "round"}
    assert not net.training and not net[1].training
    tiny.run(net=net.train(), epochs=1)
    assert net.training


def test_outputs_at_every_step_and_spikes():
    """A loss per step gets the true lengths; spiking outputs are scored by their counts."""
    rng = np.random.default_rng(0)
    traces = nn.Sequential(nn.Dense(tiny.N_IN, tiny.CLASSES, LI(reduce=None), seed=0))
    loss = functools.partial(losses.cross_entropy, per_step=True)
    data, lengths = tiny.Recordings(16, seed=1), rng.integers(1, tiny.STEPS + 1, 16)

    class Cut:
        def batches(self, batch, **options):
            for spikes, labels in data.batches(batch, **options):
                spikes.lengths = lengths
                yield spikes, labels

    found = evaluate(traces, Cut(), loss=loss, **SETTINGS)
    ((spikes, labels),) = data.batches(16, **SETTINGS)
    output = traces(spikes).data
    sums = [output[b, : lengths[b]].sum(axis=0).argmax() for b in range(16)]
    np.testing.assert_array_equal(found.predictions, sums)
    per_step = losses.cross_entropy(Tensor(output), labels, per_step=True, lengths=lengths)
    np.testing.assert_allclose(found.loss, per_step.item(), rtol=1e-6)
    spiking = nn.Sequential(nn.Dense(tiny.N_IN, tiny.CLASSES, LIF(tau_mem=10e-3), seed=0))
    _, result = tiny.run(net=spiking, epochs=1, regularizers=[])
    assert result.history["spikes_per_neuron"] == [[]]
    with pytest.raises(ParameterError, match="no layer given"):
        tiny.run(net=spiking, epochs=1)


def test_progress_bar(capsys):
    tiny.run(epochs=1, progress=True)
    shown = capsys.readouterr().err
    for part in ("epoch 0/1", "64/64", "sample", "loss", "accuracy", "spikes/neuron", "val"):
        assert part in shown
