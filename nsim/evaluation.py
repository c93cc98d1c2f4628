"""Evaluation of a net over a data set, and the sums over batches that training keeps too."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

import numpy as np

from nsim import losses
from nsim.checks import class_labels, no_class, whole
from nsim.errors import DataError, ParameterError, ShapeError
from nsim.events import Spikes, step_mask
from nsim.tape import Tensor, no_grad
from nsim.times import tick

LAYERED = ("spikes_per_neuron", "active_fraction", "density")  # lists over the hidden spiking layers


@dataclass
class Result:
    """What `evaluate` found.

    accuracy : float, fraction of the samples; loss : float, mean over the samples
    predictions, labels : int64 [S], in the order of the data
    confusion : int64 [C, C], samples of true class (row) taken for a class (column)
    spikes_per_neuron : list of float, spikes for each neuron and sample of each hidden spiking layer
    """

    accuracy: float
    loss: float
    predictions: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    confusion: np.ndarray = field(repr=False)
    spikes_per_neuron: list[float]


def evaluate(net, data, *, batch=256, dt, steps, loss=None, clamp=False, binning="floor", device=None) -> Result:
    """Run a net over a data set in evaluation mode, without a tape.

    Parameters
    ----------
    net : nsim.nn.Sequential
    data : data set with `.batches(batch, dt=, steps=, ...)`, read in its own order
    batch : int, samples
    dt : float, seconds; steps : int
    loss : function (output, labels) -> Tensor, default `losses.cross_entropy`
    clamp, binning : passed on to `data.batches`
        Whether to keep at most one event for each neuron and step; "floor" or "round".
    device : "cpu" or "cuda", optional
        Where to run; the net is moved there. Default: where it lies.

    Raises
    ------
    DataError
        If the data set is empty.
    ParameterError
        If `net` is no network of events or has no output for a label, `data` is no data set of events, or an option is
        impossible.
    """
    check_inputs("evaluate", net, {"data": data}, batch=batch, dt=dt, steps=steps)
    loss, totals = with_lengths(loss), Totals(net)
    if device is not None:
        net.to(device)
    with net.modes_kept(), no_grad():
        net.eval()
        for spikes, labels in batches_of(data, int(batch), dt, int(steps), clamp, binning, net.device):
            output, hidden = net(spikes.to(net.device), hidden=True)
            value = loss(output, labels, spikes.lengths).item()
            totals.add(spikes, labels, output, hidden, value)
    totals.check()
    predictions, labels = np.concatenate(totals.predictions), np.concatenate(totals.labels)
    confusion = np.zeros((totals.classes, totals.classes), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    means = totals.means()
    return Result(means["accuracy"], means["loss"], predictions, labels, confusion, means["spikes_per_neuron"])


def check_inputs(where, net, data: dict, *, batch, dt, steps):
    """Refuse a net, data sets (by name) and sizes of batches that `fit` and `evaluate` cannot work with."""
    whole(where, batch=(batch, 1), steps=(steps, 1))
    tick(dt)
    no_class(where, net=net, **data)
    if not (hasattr(net, "__iter__") and hasattr(net, "connections") and net.connections()):
        kind = type(net).__name__
        if isinstance(net, (list, tuple)) or (hasattr(net, "connections") and net.connections()):
            raise ParameterError(f"{where}: the net is a {kind}; put it into nn.Sequential(...)")
        raise ParameterError(
            f"{where}: the net is a {kind}; expected nn.Sequential(...) with layers of neurons. A graph of nsim.ann "
            "has a loop of its own: losses.cross_entropy(net(images), labels).backward(), opt.step(); a converted "
            "network answers with predict(images, steps)"
        )
    for name, part in data.items():
        if not hasattr(part, "batches"):
            raise ParameterError(f"{where}: {name} has no .batches(batch, dt=, steps=, ...); see nsim.datasets")
        taken = inspect.signature(part.batches).parameters.values()
        if not any(option.name == "dt" or option.kind == option.VAR_KEYWORD for option in taken):
            raise ParameterError(
                f"{where}: {name}: the batches of {type(part).__name__} take no dt: pictures for nsim.ann? Expected "
                "events, such as those of FashionMNIST(), or EventData(latency_events(images), labels, ...)"
            )
        if hasattr(part, "__len__") and len(part) == 0:
            raise DataError(f"{where}: {name} holds no sample, so there is no batch")
        _check_classes(where, net, name, part)


def _check_classes(where, net, name, part):
    """Refuse labels beyond the outputs; of data other than those of `nsim.datasets` only the batches have labels."""
    if getattr(net, "space", None) is None or not hasattr(part, "n_classes"):
        return
    labels, outputs = part.labels, int(np.prod(net.space))
    hint = f": the net has {outputs} outputs; give its last layer {np.max(labels) + 1} outputs or more"
    class_labels(f"{where}: {name}", labels, outputs, hint=hint)


class Totals:
    """Sums over the batches of an epoch."""

    def __init__(self, net):
        count = sum(layer.neuron.spiking for layer in net.connections())
        self.samples = self.classes = self.right = 0
        self.loss = self.penalty = 0.0
        self.predictions, self.labels = [], []
        self.events, self.active, self.sites, self.neurons = (np.zeros(count) for _ in range(4))
        self.layers = 0

    def add(self, spikes, labels, output, hidden, loss, penalty=0.0):
        scores = _class_scores(output, spikes.lengths)
        labels = class_labels("labels of a batch", labels, scores.shape[1], samples=len(scores))
        predictions = scores.argmax(axis=1)
        self.predictions.append(predictions)
        self.labels.append(labels)
        self.classes, self.layers = scores.shape[1], len(hidden)
        self.samples += len(labels)
        self.right += int((predictions == labels).sum())
        self.loss += loss * len(labels)
        self.penalty += penalty * len(labels)
        for k, layer in enumerate(hidden):
            self.events[k] += layer.n_events
            self.active[k] += layer.n_active
            self.sites[k] += np.prod(layer.shape)
            self.neurons[k] += layer.shape[0] * layer.shape[2]

    def check(self):
        if not self.samples:
            raise DataError("the data set gave no batch; it is empty, or its selection of samples is")

    def means(self):
        own = slice(self.layers)
        layered = (
            self.events[own] / self.neurons[own],
            self.active[own] / self.sites[own],
            self.events[own] / self.sites[own],
        )
        scores = {"loss": self.loss, "penalty": self.penalty, "accuracy": self.right}
        means = {key: value / self.samples for key, value in scores.items()}
        return means | {key: values.tolist() for key, values in zip(LAYERED, layered, strict=True)}

    def line(self):
        means = self.means()
        spikes = "/".join(f"{value:.3g}" for value in means["spikes_per_neuron"]) or "-"
        return f"loss {means['loss']:.4f}, accuracy {means['accuracy']:.1%}, spikes/neuron {spikes}"


def batches_of(data, batch, dt, steps, clamp, binning, device, **options):
    """The batches of a data set; clamp and binning are passed only where they differ from the default, the device where
    the data set can make its batches there."""
    special = {"clamp": clamp} if clamp else {}
    special |= {} if binning == "floor" else {"binning": binning}
    if device != "cpu" and "device" in inspect.signature(data.batches).parameters:
        special["device"] = device
    for given in data.batches(batch, dt=dt, steps=steps, **special, **options):
        if not isinstance(given, (tuple, list)) or len(given) != 2 or not isinstance(given[0], Spikes):
            found = (
                [type(part).__name__ for part in given] if isinstance(given, (tuple, list)) else type(given).__name__
            )
            raise ParameterError(
                f"batches of {type(data).__name__} gave {found}; expected pairs (Spikes, labels): "
                "Spikes.from_dense(counts, dt) makes Spikes of an array [B, T, N]"
            )
        yield given


def check_space(spikes, val):
    """Refuse, before the first step, training data whose transform makes other neurons than validation data have."""
    space = tuple(getattr(val, "space", spikes.space))
    if spikes.space != space:
        raise ShapeError(
            f"fit: after its transform the training data have neurons of space {spikes.space}; val has {space} and is "
            "read without transform: change both once, with data.transformed(...)"
        )


def with_lengths(loss):
    """The loss as a function of (output, labels, lengths); lengths are passed on to a loss that takes them."""
    loss = losses.cross_entropy if loss is None else loss
    if not callable(loss):
        raise ParameterError(f"loss = {loss!r}; expected a function (output, labels) -> Tensor, such as cross_entropy")
    options = ("lengths",) if "lengths" in inspect.signature(loss).parameters else ()
    return lambda output, labels, lengths: one_number(
        loss(output, labels, **dict.fromkeys(options, lengths)), "the loss"
    )


def one_number(value, what) -> Tensor:
    """What a loss or a regularizer gave, which the tape must know."""
    if not isinstance(value, Tensor) or value.data.size != 1:
        found = f"a Tensor {value.shape}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ParameterError(
            f"{what} gave {found}; expected a Tensor of one number: calculate with Tensors (nsim.losses, sums, means, "
            "+, *) and not with their .data"
        )
    return value


def _class_scores(output, lengths):
    """[B, C] from a readout, a readout at every step (its sum over true steps) or spikes (their counts)."""
    scores = (output.counts() if hasattr(output, "counts") else output).numpy()
    if scores.ndim == 3:
        scores = np.where(step_mask(lengths, *scores.shape[:2])[:, :, None], scores, 0).sum(axis=1)
    return scores
