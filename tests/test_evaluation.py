"""evaluate: its counts, and what it refuses together with fit before anything is computed."""

import functools

import numpy as np
import pytest

from nsim import ann, convert, losses, nn, optim, train
from nsim.datasets import ImageData
from nsim.datasets.pictures import UNIT
from nsim.errors import DataError, ParameterError
from nsim.evaluation import evaluate
from nsim.neurons import LI, LIF
from tests import cases
from tests import tiny_training as tiny

SETTINGS = {"dt": tiny.DT, "steps": tiny.STEPS}


def test_evaluate_counts():
    net, data = tiny.make_net(), tiny.Recordings(23, seed=7)
    found = evaluate(net, data, batch=5, **SETTINGS)
    ((spikes, labels),) = data.batches(23, **SETTINGS)
    output, (hidden,) = net.eval()(spikes, hidden=True)
    np.testing.assert_array_equal(found.predictions, output.data.argmax(axis=1))
    np.testing.assert_array_equal(found.labels, labels)
    assert found.accuracy == (found.predictions == labels).mean()
    np.testing.assert_allclose(found.loss, losses.cross_entropy(output, labels).item(), rtol=1e-6)
    assert found.confusion.sum() == 23 and np.trace(found.confusion) == (found.predictions == labels).sum()
    assert found.confusion.shape == (4, 4) and found.confusion[labels[0], found.predictions[0]] > 0
    np.testing.assert_allclose(found.spikes_per_neuron, [hidden.n_events / (23 * 10)])


PICTURES = ImageData(np.zeros((3, 1, 2, 2), np.uint8), [0, 1, 2], name="own", classes="abc", normalize=UNIT)
DENSE = nn.Dense(tiny.N_IN, tiny.CLASSES, LI())
GRAPH = ann.Graph()
CONVERTED = convert.SpikingNetwork.__new__(convert.SpikingNetwork)


@pytest.mark.parametrize("call", ["fit", "evaluate"])
@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"net": DENSE}, ParameterError, r"the net is a Dense; put it into nn\.Sequential"),
        ({"net": [DENSE]}, ParameterError, r"the net is a list; put it into nn\.Sequential"),
        ({"net": nn.Sequential}, ParameterError, r"net is the class Sequential; make one: Sequential\("),
        ({"net": GRAPH}, ParameterError, r"the net is a Graph; .* nsim\.ann has a loop of its own: losses\."),
        ({"net": CONVERTED}, ParameterError, r"is a SpikingNetwork; .*answers with predict\(images, steps\)"),
        ({"net": None}, ParameterError, "the net is a NoneType; expected nn.Sequential"),
        ({"data": PICTURES}, ParameterError, "data: the batches of ImageData take no dt: pictures"),
        ({"data": tiny.Recordings}, ParameterError, "data is the class Recordings; make one"),
        ({"data": [1, 2]}, ParameterError, "data has no .batches"),
        ({"data": tiny.Recordings(0, seed=0)}, DataError, "data holds no sample, so there is no batch"),
        ({"batch": "8"}, ParameterError, "batch = '8'"),
        ({"steps": 2.5}, ParameterError, "steps = 2.5"),
        ({"dt": "1ms"}, ParameterError, "dt = '1ms'"),
        ({"loss": "mse"}, ParameterError, "loss = 'mse'; expected a function"),
    ],
)
def test_what_fit_and_evaluate_both_refuse(call, given, error, text):
    given = {"net": tiny.make_net(), "data": tiny.Recordings(4, seed=0), **SETTINGS} | given
    with pytest.raises(error, match=text):
        train.fit(**given, epochs=1, progress=False) if call == "fit" else evaluate(**given)


@pytest.mark.parametrize("batch", [(np.zeros((2, 3, 4)), [0, 1]), np.zeros((2, 3, 4)), (1, 2, 3)])
def test_own_data_whose_batches_are_no_spikes(batch):
    class Own:
        def batches(self, size, **options):
            yield batch

    for call in (evaluate, functools.partial(train.fit, epochs=1, progress=False)):
        with pytest.raises(ParameterError, match=r"batches of Own gave .*; expected pairs \(Spikes, labels\)"):
            call(tiny.make_net(), Own(), **SETTINGS)


@pytest.mark.parametrize("band", [0.2, None, 5.0])
def test_a_history_by_hand(band):
    hidden = nn.Dense(tiny.N_IN, 10, LIF(band=band), seed=0)
    net = nn.Sequential(hidden, nn.Dense(10, tiny.CLASSES, LI(reduce="sum"), seed=1))
    data, rates = tiny.Recordings(23, seed=3), functools.partial(losses.spike_rate_upper, limit=0.0, strength=2.0)
    ((spikes, labels),) = data.batches(23, **SETTINGS)
    output, (fired,) = net(spikes, hidden=True)
    u, sites = fired.active.u, np.prod(fired.shape)
    inside = np.count_nonzero(np.abs(u) < (band or np.inf)) if fired.active.dense else u.size
    wanted = {
        "loss": losses.cross_entropy(output, labels).item(), "penalty": rates([fired]).item(),
        "active_fraction": [inside / sites], "density": [fired.n_events / sites],
    }  # fmt: skip
    opt = optim.SGD(net.parameters(), lr=0.0)
    found = train.fit(net, data, epochs=1, batch=5, opt=opt, regularizers=[rates], progress=False, **SETTINGS).history
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key][0], value, rtol=1e-5, err_msg=key)
    assert wanted["penalty"] > 0


def test_evaluate_keeps_the_mode_makes_no_tape_and_passes_options_on():
    net, seen, taped = tiny.make_net().eval(), [], []

    class Spy(tiny.Recordings):
        def batches(self, batch, **options):
            seen.append(options)
            return super().batches(batch, **options)

    def loss(output, labels):
        taped.append(output.requires_grad)
        return losses.cross_entropy(output, labels)

    data = Spy(8, seed=0)
    data.labels[:] = 1  # classes that do not occur have their rows too
    found = evaluate(net, data, clamp=True, loss=loss, **SETTINGS)
    assert not net.training and taped == [False] and seen[0]["clamp"] is True and found.confusion.shape == (4, 4)


def test_data_that_give_no_batch_are_refused():
    class Empty:
        def batches(self, batch, **options):
            return iter(())

    with pytest.raises(DataError, match="the data set gave no batch"):
        evaluate(tiny.make_net(), Empty(), **SETTINGS)


@pytest.mark.parametrize("name, place", [("data", 0), ("val", 1)])
def test_labels_beyond_the_outputs_are_refused_before_training(monkeypatch, name, place):
    monkeypatch.setattr(train._Run, "epoch", lambda self: pytest.fail("it began to train"))
    parts = [cases.recordings([0, 1, 2, 3], tiny.N_IN), cases.recordings([0, 1, 2, 3], tiny.N_IN)]
    parts[place] = cases.recordings([0, 3, 6, 4], tiny.N_IN)
    words = f"{name}: sample 2 has label 6; expected 0 to 3, .*: the net has 4 outputs; give its last layer 7 outputs"
    with pytest.raises(ParameterError, match=f"fit: {words}"):
        train.fit(tiny.make_net(), parts[0], val=parts[1], epochs=1, **SETTINGS)
    with pytest.raises(ParameterError, match=f"evaluate: {words.replace('val', 'data')}"):
        evaluate(tiny.make_net(), parts[place], **SETTINGS)


@pytest.mark.filterwarnings("ignore::nsim.errors.EventWarning")
def test_parts_that_were_switched_stay_so():
    net = nn.Sequential(nn.Dropout(0.5), nn.Dense(9, 3, LI(reduce="sum")))
    net[0].eval()
    evaluate(net, cases.recordings([0, 1, 2]), dt=1e-3, steps=10)
    assert [part.training for part in net.modules()] == [True, False, True]
