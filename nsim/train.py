"""Training and evaluation loops: progress, validation, best model, checkpoints that resume to the same bits."""

from __future__ import annotations

import json
import os
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nsim import io, optim
from nsim.backend import operations
from nsim.blame import bad_gradient, bad_parameter, blame, unreachable
from nsim.checks import functions, number, whole
from nsim.errors import DataError, EventWarning, ParameterError, StepOverflow, TrainingError
from nsim.evaluation import LAYERED, Totals, batches_of, check_inputs, check_space, evaluate, one_number, with_lengths

# What one epoch adds to the history.
KEYS = (
    "epoch", "lr", "loss", "penalty", "accuracy", "val_loss", "val_accuracy", *LAYERED, "samples_per_second", "seconds",
)  # fmt: skip


@dataclass
class History:
    """What `fit` gives back.

    history : dict of lists, one entry an epoch, epochs counted from 0. "epoch", "lr", "loss" (without regularizers),
        "penalty" (the regularizers), "accuracy", "val_loss", "val_accuracy" (NaN without `val`), "samples_per_second"
        (training), "seconds" (with validation); and lists over the hidden spiking layers: "spikes_per_neuron" (for each
        sample), "active_fraction" (active sites for each site), "density" (spikes for each site)
    best_epoch : int, the epoch whose weights the net now has
    stopped_early : bool, whether `patience` ended the training
    out : Path or None, the folder with last.h5 and best.h5
    """

    history: dict[str, list] = field(repr=False)
    best_epoch: int
    stopped_early: bool
    out: Path | None


def fit(
    net, data, *, epochs, batch=256, dt, steps, opt=None, loss=None, val=None, transform=None, regularizers=(),
    schedule=None, clip=None, seed=0, out=None, resume=True, patience=None, progress=True, clamp=False,
    binning="floor", callbacks=(), device=None,
) -> History:  # fmt: skip
    """Train a net.

    Parameters
    ----------
    net : nsim.nn.Sequential
    data : data set with `.batches(batch, dt=, steps=, shuffle=, seed=, epoch=, transform=)`
    epochs : int, in total: a resumed run does what is left of them
    batch : int, samples
    dt : float, seconds; steps : int
    opt : nsim.optim.Optimizer, default Adam(net.parameters(), lr=1e-3)
    loss : function (output, labels) -> Tensor, default `losses.cross_entropy`
        One with a parameter `lengths` is also given the true steps of each sample.
    val : data set, optional
        Held-out part of the training data, evaluated after each epoch. The net ends with the weights of the epoch of
        highest accuracy on it (of equals the lowest loss); without `val`, with those of the last epoch.
    transform : passed on to `data.batches` in training
    regularizers : functions (list of hidden Spikes) -> Tensor, each added to the loss
        For example `functools.partial(losses.spike_rate_upper, limit=10)`.
    schedule : function epoch -> lr, optional
        See `optim.cosine_lr`; sets `opt.lr` at the start of each epoch.
    clip : float, optional
        Largest joint norm of the gradients.
    seed : int
        Order of the samples, transforms and dropout are functions of (seed, epoch).
    out : folder, optional
        After each epoch last.h5 (net, optimiser, history, best weights) and, if it was the best, best.h5 are written.
    resume : bool
        Go on from out/last.h5 if it is there. A run that was killed at any moment and is started again ends with the
        same bits as one that was not (where no epoch was finished, from a net made anew). False starts anew and
        overwrites.
    patience : int, optional
        Stop after so many epochs without a new best one; needs `val`.
    progress : bool
        Show a progress bar.
    clamp : bool
        At most one event for each neuron and step, in training only (Perez-Nieves & Goodman 2021).
    binning : "floor" or "round"
        Step of an event, in training and validation; see `nsim.datasets`.
    callbacks : functions (net, history dict), called after each epoch's checkpoint
    device : "cpu" or "cuda", optional
        Where to train; the net is moved there and stays there. Default: where it lies. A step whose lists prove too
        short on the device is made again, with the same dropout.

    Raises
    ------
    TrainingError
        If the loss or a gradient is no longer finite; the layer is named and the last checkpoint kept.
    EventError
        If an event of the input has a size that is not finite.
    DataError, ParameterError
        If an option is impossible, data are empty or have labels beyond the net's outputs, or `out` holds a run of
        another net or with other settings. Data are told apart by name, choice of samples, labels and sizes, functions
        by name and the options of a `partial`.

    Warns
    -----
    EventWarning
        Once, where a hidden layer had neither a spike nor an active site in an epoch and was therefore not trained.
    """
    parts = {"data": data} | ({} if val is None else {"val": val})
    check_inputs("fit", net, parts, batch=batch, dt=dt, steps=steps)
    if device is not None:
        net.to(device)
    opt = optim.Adam(net.parameters()) if opt is None else opt
    run = _Run(
        net=net, data=data, epochs=epochs, batch=batch, dt=dt, steps=steps, opt=opt, loss=loss, val=val,
        transform=transform, regularizers=regularizers, schedule=schedule, clip=clip, seed=seed, clamp=clamp,
        binning=binning, out=None if out is None else Path(out), patience=patience, progress=progress,
        callbacks=callbacks,
    )  # fmt: skip
    run.check()
    if resume:
        run.resume()
    try:
        with net.modes_kept():
            while not (run.done or run.out_of_patience):
                run.epoch()
                run.keep()
                for callback in callbacks:
                    callback(net, run.history)
    except KeyboardInterrupt as stop:
        stop.add_note(f"training interrupted in epoch {len(run.history['epoch'])}; {run.last_good}")
        raise
    if run.best_weights is not None:
        net.load_state_dict(run.best_weights)
    return History(run.history, run.best_epoch, run.out_of_patience and not run.done, run.out)


def best_epoch(history) -> int:
    """Position of the epoch that `fit` keeps, in a dict with lists or arrays "val_accuracy" and "val_loss".

    Highest validation accuracy, of equals the lowest loss, of equals the first; without validation (NaN) the last.
    """
    accuracy = np.asarray(history["val_accuracy"], np.float64)
    if np.isnan(accuracy).all():
        return len(accuracy) - 1
    return int(np.lexsort((history["val_loss"], -accuracy))[0])


@dataclass
class _Run:
    """One call of `fit`: its options, and what changes from epoch to epoch."""

    net: object
    data: object
    epochs: int
    batch: int
    dt: float
    steps: int
    opt: optim.Optimizer
    loss: object
    val: object
    transform: object
    regularizers: list
    schedule: object
    clip: float | None
    seed: int
    clamp: bool
    binning: str
    out: Path | None
    patience: int | None
    progress: bool
    callbacks: list
    warned: bool = False
    history: dict = field(default_factory=lambda: {key: [] for key in KEYS})
    best_weights: dict | None = None

    def check(self):
        """Refuse impossible options before anything is computed; note the settings that a resumed run must share."""
        patience = 1 if self.patience is None else self.patience
        whole("fit", epochs=(self.epochs, 1), seed=(self.seed, 0), patience=(patience, 1))
        for name in ("epochs", "batch", "steps", "seed"):
            setattr(self, name, int(getattr(self, name)))
        self.check_functions()
        if self.patience is not None and self.val is None:
            raise ParameterError("fit: patience needs val, held-out data to be patient about")
        if self.clip is not None:
            number("fit", "clip", self.clip, above=0, hint=", a norm, or None")
        io.shared_names(self.net, self.opt)
        names = ("seed", "batch", "dt", "steps", "clip", "clamp", "binning")
        optimiser = {k: v for k, v in self.opt.describe().items() if k != "lr" or self.schedule is None}
        made_of = {name: io.named(getattr(self, name)) for name in ("loss", "transform", "schedule", "data", "val")}
        made_of["regularizers"] = [io.named(regularizer) for regularizer in self.regularizers]
        plain = {name: getattr(self, name) for name in names} | {"opt": optimiser}
        self.settings = json.loads(json.dumps(plain | made_of, default=float))
        self.loss = with_lengths(self.loss)
        if self.out is not None:
            try:
                self.out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"fit: out = {self.out}: {error.strerror}; give another folder") from error
            if not os.access(self.out, os.W_OK):
                raise DataError(f"fit: out = {self.out}: no permission to write; give another folder")
            self.net.describe()  # refuses what cannot be written to a file

    def check_functions(self):
        """Refuse what is no function where one is called, or no list of them where several are."""
        if self.schedule is not None and not callable(self.schedule):
            raise ParameterError(
                f"fit: schedule = {self.schedule!r}; expected a function epoch -> lr, such as optim.cosine_lr gives; "
                "a constant lr is set in opt"
            )
        for name in ("regularizers", "callbacks"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not all(map(callable, value)):
                raise ParameterError(f"fit: {name} = {value!r}; expected a list of functions, such as [{name[:-1]}]")
        functions("fit", "transform", self.transform)

    @property
    def done(self):
        return len(self.history["epoch"]) >= self.epochs

    @property
    def best_epoch(self):
        return best_epoch(self.history)

    @property
    def out_of_patience(self):
        epochs = len(self.history["epoch"])
        return self.patience is not None and epochs > 0 and epochs - 1 - self.best_epoch >= self.patience

    @property
    def last_good(self):
        """Where the last checkpoint is, in words."""
        if self.out is None:
            return "nothing was kept (give out= to keep a checkpoint of each epoch)"
        if not self.history["epoch"]:
            return (
                f"no epoch was finished, so {self.out} holds no checkpoint of this run; make the net anew to repeat it"
            )
        return (
            f"{self.out / 'last.h5'} holds the state after epoch {self.history['epoch'][-1]}; call fit again to go on"
        )

    def resume(self):
        """Take over net, optimiser, history and best weights from out/last.h5, if it is there."""
        if self.out is None or not (self.out / "last.h5").exists():
            return
        path, way_out = self.out / "last.h5", "give another out=, or resume=False to overwrite it"
        try:
            meta = io.read_meta(path)
            if "settings" not in meta:
                raise DataError(f"{path} is not a checkpoint of nsim.fit")
            for name, value in self.settings.items():
                if meta["settings"].get(name) != value and name != "opt":
                    raise DataError(
                        f"{path} was made with {name} = {meta['settings'].get(name)}, this call has {value}"
                    )
            if meta["settings"]["opt"] != self.settings["opt"]:
                raise DataError(f"{path} was made with {meta['settings']['opt']}, this call has {self.settings['opt']}")
            io.restore(path, self.net, self.opt)
        except DataError as error:
            raise DataError(f"{error}; {way_out}") from error
        self.history = {key: meta[f"history.{key}"].tolist() for key in KEYS}
        best = {name: meta[f"best.{name}"] for name in self.net.state_dict() if f"best.{name}" in meta}
        self.best_weights = best or None

    def epoch(self):
        """Train on all of the data once, validate, and add an entry to the history."""
        epoch, began = len(self.history["epoch"]), time.perf_counter()
        self.net.seed(self.seed, epoch)
        self.net.train()
        if self.schedule is not None:
            lr = self.schedule(epoch)
            self.opt.lr = number("fit", f"schedule({epoch})", lr, least=0, hint=f"; {self.last_good}")
        totals, size = Totals(self.net), len(self.data) if hasattr(self.data, "__len__") else None
        batches = batches_of(
            self.data, self.batch, self.dt, self.steps, self.clamp, self.binning, self.net.device,
            shuffle=True, seed=self.seed, epoch=epoch, transform=self.transform,
        )  # fmt: skip
        with tqdm(total=size, desc=f"epoch {epoch}/{self.epochs}", unit="sample", disable=not self.progress) as bar:
            for k, (spikes, labels) in enumerate(batches):
                check_space(spikes, self.val)
                self.step(spikes.to(self.net.device), labels, totals, f"epoch {epoch}, batch {k}")
                bar.set_postfix_str(totals.line(), refresh=False)
                bar.update(len(labels))
            totals.check()
            entry = {"epoch": epoch, "lr": self.opt.lr, **totals.means()}
            entry["samples_per_second"] = totals.samples / (time.perf_counter() - began)
            entry |= self.validate(epoch)
            if self.val is not None:
                bar.set_postfix_str(f"{totals.line()}, val {entry['val_accuracy']:.1%}")
        entry["seconds"] = time.perf_counter() - began
        if not self.warned and (silent := unreachable(self.net, self.opt, entry)):
            self.warned = True
            warnings.warn(
                f"{silent}: no spike and no active site in all of epoch {epoch}, so that no loss reaches it "
                "or what is below; enlarge its weights, or add losses.spike_rate_lower to regularizers",
                EventWarning,
                stacklevel=3,
            )
        for key, values in self.history.items():
            values.append(entry[key])

    def step(self, spikes, labels, totals, where):
        """One batch; on a device once more where its lists proved too short, with the same dropout."""
        drawn = {layer: layer.calls for layer in self.net.modules() if hasattr(layer, "calls")}
        while True:
            try:
                self.attempt(spikes, labels, totals, where)
                return
            except StepOverflow:
                for layer, calls in drawn.items():
                    layer.calls = calls

    def attempt(self, spikes, labels, totals, where):
        """Forward, loss, backward, one move of the optimiser, which is not made from NaN or infinity.

        A device is asked for nothing before all of it is under way: it finds out by itself whether the move is to be
        made.
        """
        try:
            output, hidden = self.net(spikes, hidden=True)
        except ParameterError as error:
            if bad := bad_parameter(self.net):
                raise TrainingError(f"{where}: {bad}; {self.last_good}") from error
            raise
        total = loss = self.loss(output, labels, spikes.lengths)
        for regularizer in self.regularizers:
            total = total + one_number(regularizer(hidden), "a regularizer")
        self.opt.zero_grad()
        total.backward()
        grads = {p: p.grad for p in self.opt.params.values() if p.grad is not None}
        device = None if total.device == "cpu" else operations(total.device)
        if device is None:
            self.judge(spikes, output, hidden, total, where)
        else:
            device.guard([total.data, *grads.values()])
        if self.clip is not None:
            optim.clip_grad_norm(self.opt.params, self.clip)
        self.opt.step()
        if device is not None and device.take_bad():
            for p, grad in grads.items():  # as they were before clipping
                p.grad = grad
            self.judge(spikes, output, hidden, total, where)
        totals.add(spikes, labels, output, hidden, loss.item(), total.item() - loss.item())

    def judge(self, spikes, output, hidden, total, where):
        """Stop the training where the loss or a gradient is not finite."""
        if not np.isfinite(total.item()):
            why = blame(self.net, spikes.to("cpu"), [layer.to("cpu") for layer in hidden], output)
            raise TrainingError(f"{where}: the loss is {total.item()}; {why}; lower lr or give clip=; {self.last_good}")
        if bad := bad_gradient(self.net):
            raise TrainingError(f"{where}: {bad}; lower lr or give clip=; {self.last_good}")

    def validate(self, epoch):
        if bad := bad_parameter(self.net):
            raise TrainingError(f"epoch {epoch}: {bad}; lower lr or give clip=; {self.last_good}")
        if self.val is None:
            return {"val_loss": np.nan, "val_accuracy": np.nan}
        result = evaluate(
            self.net, self.val, batch=self.batch, dt=self.dt, steps=self.steps, loss=self.loss, binning=self.binning
        )
        if not np.isfinite(result.loss):
            raise TrainingError(f"epoch {epoch}: the validation loss is {result.loss}; {self.last_good}")
        return {"val_loss": result.loss, "val_accuracy": result.accuracy}

    def keep(self):
        """Remember the best weights; write best.h5 and then last.h5, each whole or not at all.

        A run killed between the two repeats this epoch from the older last.h5 and writes the same best.h5 again.
        """
        epoch = self.history["epoch"][-1]
        if self.val is not None and self.best_epoch == epoch:
            self.best_weights = self.net.state_dict()
            if self.out is not None:
                scores = {key: self.history[key][-1] for key in ("epoch", "val_accuracy", "val_loss")}
                io.save(self.out / "best.h5", self.net, **scores)
        if self.out is not None:
            if self.val is None:
                (self.out / "best.h5").unlink(missing_ok=True)  # of an earlier run
            arrays = {f"history.{key}": np.array(values) for key, values in self.history.items()}
            arrays |= {f"best.{name}": a for name, a in (self.best_weights or {}).items()}
            io.save(self.out / "last.h5", self.net, self.opt, settings=self.settings, **arrays)
