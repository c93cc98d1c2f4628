"""What stops training or leaves a layer untrained: NaN and infinity are traced to their place, silent layers named."""

import warnings

import numpy as np
import pytest

from nsim import io, losses, nn, optim, train
from nsim.errors import EventError, EventWarning, TrainingError
from nsim.evaluation import evaluate
from nsim.neurons import LI, LIF
from tests import tiny_training as tiny

SETTINGS = {"dt": tiny.DT, "steps": tiny.STEPS}


def nan_loss_at(batch):
    """Cross-entropy that is NaN in the batch of that number."""
    calls = iter(range(10**6))

    def loss(output, labels):
        value = losses.cross_entropy(output, labels)
        return value * np.nan if next(calls) == batch else value

    return loss


def test_a_loss_of_nan_stops_and_keeps_the_last_checkpoint(tmp_path):
    net = tiny.make_net()
    with pytest.raises(TrainingError, match=r"epoch 2, batch 1: the loss is nan; all layers are finite.*after epoch 1"):
        tiny.run(tmp_path, net=net, loss=nan_loss_at(9), val=None)
    kept = io.load(tmp_path / "last.h5")
    assert kept[2]["history.epoch"].tolist() == [0, 1]
    assert all(np.isfinite(a).all() for a in net.state_dict().values())


def test_nan_names_the_layer(tmp_path):
    def poison(name):
        def callback(net, history):
            net.named_parameters()[name].data.flat[3] = np.nan

        return callback

    for name, layer in (("0.weight_rec", "0"), ("2.weight", "2")):
        with pytest.raises(
            TrainingError, match=f"epoch 1, batch 0: layer '{layer}': parameter {name} holds nan.*epoch 0"
        ):
            tiny.run(tmp_path / name, callbacks=[poison(name)])
        assert all(np.isfinite(a).all() for a in io.read_weights(tmp_path / name / "last.h5").values())


def test_infinity_of_an_output_or_gradient_names_the_layer():
    net = tiny.make_net()
    net[2].weight.data[...] = 3e38
    with pytest.raises(TrainingError, match=r"epoch 0, batch 0: the loss is nan; layer 2: its output holds (inf|nan)"):
        tiny.run(net=net, regularizers=[])

    def steep(output, labels):
        return losses.cross_entropy(output, labels) + (output * 0.0).sum() ** 0.5  # finite, with an infinite slope

    with (
        np.errstate(all="ignore"),
        pytest.raises(TrainingError, match=r"layer '2': the gradient of 2\.weight holds nan"),
    ):
        tiny.run(loss=steep, regularizers=[])


def test_bad_weights_from_the_start_are_the_users():
    net = tiny.make_net()
    net[0].weight.data[0, 0] = np.inf
    with pytest.raises(TrainingError, match=r"layer '0': parameter 0\.weight holds inf"):
        tiny.run(net=net)


@pytest.mark.parametrize("val", [None, tiny.Recordings(8, seed=2)])
def test_bad_weights_after_the_last_step_of_an_epoch(tmp_path, val):
    net = tiny.make_net()

    class Spoiled(tiny.Recordings):
        def batches(self, *args, epoch, **options):
            yield from super().batches(*args, epoch=epoch, **options)
            if epoch == 1:
                net[0].weight.data[0, 0] = np.nan

    words = r"epoch 1: layer '0': parameter 0\.weight holds nan; .*last\.h5 holds the state after epoch 0; call fit"
    with pytest.raises(TrainingError, match=words):
        train.fit(net, Spoiled(20, seed=0), val=val, epochs=3, out=tmp_path, progress=False, **SETTINGS)


def silent_net(bad=(0,), hidden=((tiny.N_IN, 10), (10, 8)), **options):
    """Two hidden layers, of which those in `bad` have weights too small to come near their threshold."""
    layers = [nn.Dense(*size, LIF(threshold=0.1, **options), seed=k) for k, size in enumerate(hidden)]
    for k in bad:
        layers[k].weight.data[...] *= 1e-3
        layers[k].set_value("threshold", 1.0)
    return nn.Sequential(*layers, nn.Dense(8, tiny.CLASSES, LI(reduce="sum"), seed=2))


def warnings_of(net, opt=None, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train.fit(net, tiny.Recordings(64, seed=1), epochs=3, batch=16, opt=opt, progress=False, **SETTINGS, **options)
    return [str(w.message) for w in caught if issubclass(w.category, EventWarning)]


def test_a_silent_layer_is_named_once():
    (said,) = warnings_of(silent_net([1]))
    assert said.startswith("layer 1: nn.Dense(10, 8): no spike and no active site in all of epoch 0, so that no loss")
    assert "enlarge its weights" in said and "losses.spike_rate_lower" in said
    (said,) = warnings_of(silent_net([0, 1]))
    assert said.startswith("layer 0: nn.Dense(16, 10): no spike")


def test_a_silent_layer_above_what_is_trained_is_named_when_frozen_itself():
    net = silent_net([1])
    (said,) = warnings_of(net, opt=optim.Adam(net[0].parameters() + net[2].parameters()))
    assert said.startswith("layer 1: nn.Dense(10, 8): no spike")


def test_no_layer_is_called_silent_wrongly():
    assert not warnings_of(silent_net([]))
    assert not warnings_of(silent_net([0, 1]), regularizers=[losses.spike_rate_lower]), "it is reached"
    assert not warnings_of(silent_net([0, 1], band=None)), "every site is active"
    net = silent_net([0, 1])
    assert not warnings_of(net, opt=optim.Adam(net[2].parameters())), "only the readout is trained"
    for layer in net[:2]:
        layer.weight.requires_grad = False
    assert not warnings_of(net, opt=optim.Adam(net[2].parameters())), "all before the readout is frozen"
    around = nn.Residual(nn.Dense(16, 16, LIF(), seed=0))
    around.parts["body"][0].weight.data[...] *= 1e-3
    below = nn.Dense(tiny.N_IN, 16, LIF(threshold=0.1), seed=1)
    net = nn.Sequential(below, around, nn.Dense(16, tiny.CLASSES, LI(reduce="sum"), seed=2))
    assert not warnings_of(net, opt=optim.Adam(below.parameters())), "the shortcut leads around it"


def test_an_input_of_nan_is_the_inputs_fault():
    class Graded(tiny.Recordings):
        def batches(self, *args, **options):
            for spikes, labels in super().batches(*args, **options):
                spikes.values = np.full(spikes.n_events, np.nan, np.float32)
                yield spikes, labels

    data, net = Graded(20, seed=0), tiny.make_net()
    for use in (train.fit, evaluate):
        options = {"epochs": 1, "progress": False} if use is train.fit else {}
        with pytest.raises(EventError, match=r"layer 0: nn.Dense\(16, 10\): input: event of size nan at sample 0"):
            use(net, data, **SETTINGS, **options)
