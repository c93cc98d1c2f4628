"""Layers: a connection (weights, delay, recurrence) onto a neuron model, and Sequential."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np

from nsim import arrays, neurons, sweeps
from nsim.backend import check_device
from nsim.errors import ParameterError, ShapeError
from nsim.events import Spikes, empty, join
from nsim.launch import Room, forward, no_trace, rows_of
from nsim.tape import Tensor, no_grad

_generator = np.random.default_rng(0)


def seed(value: int):
    """Start the generator of initial weights anew. It starts at 0 in each process."""
    global _generator
    _generator = np.random.default_rng(value)


class Run(NamedTuple):
    """What `run` gives back.

    output : Spikes or array, as a call gives it
    spikes : list of Spikes, one for each spiking layer, in order
    recorded : {layer: {state: array [B, T, K]}} for the neurons asked for
    state : to pass to the next `run`
    """

    output: object
    spikes: list
    recorded: dict
    state: list


class Module:
    """What every layer and network has: parameters by name, mode, device, files."""

    def __init__(self):
        self.training = True
        self.name = ""

    def named_parameters(self) -> dict[str, Tensor]:
        return {}

    def parameters(self) -> list[Tensor]:
        """The tensors that an optimiser trains."""
        return list(self.named_parameters().values())

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters by name."""
        return {name: tensor.data.copy() for name, tensor in self.named_parameters().items()}

    def load_state_dict(self, values: dict):
        """Set all parameters; names and shapes must match.

        Raises
        ------
        ParameterError, ShapeError
            If a name is missing or unknown, a shape differs, or a value is not finite. Nothing is changed then.
        """
        own = self.named_parameters()
        missing, unknown = sorted(set(own) - set(values)), sorted(set(values) - set(own))
        if missing or unknown:
            raise ParameterError(
                f"load_state_dict: missing {missing}, unknown {unknown}; this network has {sorted(own)}"
            )
        arrays = {name: np.asarray(value) for name, value in values.items()}
        for name, value in arrays.items():
            if value.shape != own[name].shape:
                raise ShapeError(f"load_state_dict: {name} has shape {value.shape}, expected {own[name].shape}")
            if not np.isfinite(value).all():
                raise ParameterError(f"load_state_dict: {name} holds NaN or infinity")
        for name, value in arrays.items():
            own[name].data[...] = value

    def train(self, on: bool = True):
        """Switch dropout on, here and below."""
        self.training = on
        return self

    def eval(self):
        """Switch dropout off, here and below."""
        return self.train(False)

    def seed(self, seed: int, epoch: int = 0):
        """Make everything random in the coming calls a function of (seed, epoch)."""

    def to(self, device: str):
        """This network on a device; "cpu" is where it is made."""
        check_device(device)
        return self

    def describe(self) -> dict:
        """JSON-able description from which `nn.build` makes the same network, but for its parameters."""
        raise TypeError(f"{type(self).__name__} must define describe()")


class Dense(Module):
    """All-to-all connection onto a layer of neurons: x[t] = W^T s_in[t - delay] + W_rec^T s[t-1] + b.

    Parameters
    ----------
    n_in, n_out : int
    neuron : nsim.neurons.Neuron
        A description: LIF, IF, CubaLIF, ALIF (spiking; a call gives Spikes), LI (readout; a call gives a Tensor), ...
    recurrent : bool
        Whether the layer's own spikes come back through `weight_rec` a step later.
    delay : int, whole steps
        Delay of the input; the layers of Perez-Nieves & Goodman 2021 have 1.
    bias : bool
    dtype : float32, or float64 for checks
    seed : int, optional
        Seed of the initial weights; default: the generator that `nsim.seed` starts.

    Attributes
    ----------
    weight : Tensor [n_in, n_out], weight_rec : Tensor [n_out, n_out] or None, bias : Tensor [n_out] or None
        Start as U(-1/sqrt(n), 1/sqrt(n)), n the number of inputs (n_out for weight_rec), bias 0. `.data` may be
        written in place, not between a forward pass and its backward pass.
    """

    def __init__(self, n_in, n_out, neuron, *, recurrent=False, delay=0, bias=False, dtype=np.float32, seed=None):
        super().__init__()
        for name, value, least in (("n_in", n_in, 1), ("n_out", n_out, 1), ("delay", delay, 0)):
            if int(value) != value or value < least:
                raise ParameterError(f"nn.Dense: {name} = {value}: expected a whole number of at least {least}")
        if not isinstance(neuron, neurons.Neuron):
            raise ParameterError(f"nn.Dense: neuron = {neuron!r}: expected a neuron such as nsim.LIF(tau_mem=10e-3)")
        if recurrent and not neuron.spiking:
            raise ParameterError(
                f"nn.Dense: recurrent=True needs a spiking neuron, {type(neuron).__name__} has no spikes"
            )
        self.n_in, self.n_out, self.delay, self.neuron = int(n_in), int(n_out), int(delay), neuron
        rng = _generator if seed is None else np.random.default_rng(seed)

        def uniform(rows):
            bound = 1 / np.sqrt(rows)
            return Tensor(arrays.copied(rng.uniform(-bound, bound, (rows, self.n_out)), dtype), requires_grad=True)

        self.weight = uniform(self.n_in)
        self.weight_rec = uniform(self.n_out) if recurrent else None
        self.bias = Tensor(np.zeros(self.n_out, dtype), requires_grad=True) if bias else None
        self.raw = {p.name: self._raw(p, neuron.values[p.name]) for p in neuron.parameters}
        self._fits("v_init", neuron.v_init)
        self.room = Room()

    def _fits(self, name, value):
        if value.shape not in ((), (self.n_out,)):
            raise ShapeError(f"{self.label}: {name} has shape {value.shape}, expected a number or [{self.n_out}]")

    def _raw(self, parameter, value):
        """A parameter as it is trained; in the weights' type if it is, else in float64."""
        self._fits(parameter.name, value)
        learned = parameter.name in self.neuron.learn
        raw = parameter.to_raw(value)
        return Tensor(raw.astype(self.weight.dtype) if learned else raw, requires_grad=learned)

    @property
    def label(self) -> str:
        prefix = f"layer {self.name}: " if self.name else ""
        return f"{prefix}nn.Dense({self.n_in}, {self.n_out})"

    def value(self, name: str) -> np.ndarray:
        """A parameter of the neuron in its own unit (seconds for time constants), shape () or [n_out]."""
        parameter = self._parameter(name)
        if name not in self.neuron.learn:
            return self.neuron.values[name]
        return parameter.from_raw(self.raw[name].data.astype(np.float64))

    def set_value(self, name: str, value):
        """Set a parameter of the neuron, in its own unit."""
        parameter = self._parameter(name)
        value = parameter.check(value)
        self._fits(name, value)
        old = self.raw[name]
        if name in self.neuron.learn:
            old.data[...] = parameter.to_raw(value)
        else:
            self.neuron = copy.copy(self.neuron)
            self.neuron.values = self.neuron.values | {name: value}
            self.raw[name] = Tensor(parameter.to_raw(value))

    def _parameter(self, name):
        for parameter in self.neuron.parameters:
            if parameter.name == name:
                return parameter
        raise ParameterError(f"{self.label}: {type(self.neuron).__name__} has {', '.join(self.raw)}, not {name!r}")

    def tensors(self) -> list[Tensor]:
        """The trainable tensors, in the order in which the sweeps give their gradients."""
        return list(self.named_parameters().values())

    def named_parameters(self):
        named = {"weight": self.weight, "weight_rec": self.weight_rec, "bias": self.bias}
        named |= {p.raw_name: self.raw[p.name] for p in self.neuron.parameters if p.name in self.neuron.learn}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def _check(self, spikes):
        if not isinstance(spikes, Spikes):
            raise ShapeError(
                f"{self.label}: input is {type(spikes).__name__}, expected nsim.Spikes; "
                "make it with Spikes.from_dense(a, dt) from counts [B, T, N], or Spikes.from_events(...)"
            )
        if spikes.shape[2] != self.n_in:
            raise ShapeError(f"{self.label}: input has {spikes.shape[2]} neurons, expected {self.n_in}")
        shapes = {"weight": (self.n_in, self.n_out), "weight_rec": (self.n_out, self.n_out), "bias": (self.n_out,)}
        for name, tensor in self.named_parameters().items():
            data = tensor.data
            if name in shapes and (data.shape != shapes[name] or not data.flags.c_contiguous):
                raise ShapeError(
                    f"{self.label}: {name}.data has shape {data.shape}, expected a contiguous {shapes[name]}; "
                    "write into it with .data[...] = values"
                )
            if not np.isfinite(data.sum()) and not np.isfinite(data).all():
                raise ParameterError(f"{self.label}: {name} holds NaN or infinity")

    def __call__(self, spikes: Spikes):
        """Sweep over a batch, from rest: Spikes [B, T, n_in] to Spikes [B, T, n_out], or a Tensor for a readout."""
        self._check(spikes)
        return (sweeps.spiking if self.neuron.spiking else sweeps.integrate)(self, spikes)

    def run(self, spikes: Spikes, state=None, record=None) -> Run:
        """Simulate without a tape, from `state` or from rest, so that time may be cut anywhere.

        Parameters
        ----------
        spikes : Spikes [B, T, n_in]
        state : the `state` of an earlier Run, optional
        record : list of neurons, optional
            Their states (v, and what else the model has) come back in `recorded[0]`.

        Any cutting of the time axis gives the same bits as the whole run.
        """
        self._check(spikes)
        size, steps, _ = spikes.shape
        maker = (self.neuron.describe(), self.n_in, self.n_out, self.delay, str(self.weight.dtype), spikes.dt)
        if state is None:
            line, inner = empty(size, self.delay, self.n_in, spikes.dt), None
        elif len(state) != 1 or state[0][0] != maker:
            raise ShapeError(
                f"{self.label}: state of another layer or another dt than {spikes.dt:g} s; "
                "give the `state` that a run of this network returned"
            )
        else:
            _, line, inner = state[0]
            if len(inner[0]) != size:
                raise ShapeError(f"{self.label}: state is of {len(inner[0])} samples, the input has {size}")
        neurons_ = np.asarray([] if record is None else record, np.int64)
        if neurons_.size and (neurons_.min() < 0 or neurons_.max() >= self.n_out):
            raise ShapeError(f"{self.label}: record = {neurons_.tolist()}: neurons are 0 to {self.n_out - 1}")
        rows = rows_of(spikes)
        if self.delay:
            both = join(line, spikes)
            rows, line = rows_of(both), both.cut(steps, steps + self.delay)
        with no_grad():
            run = self._run_spiking if self.neuron.spiking else self._run_readout
            output, recorded, inner = run(spikes, rows, inner, neurons_)
        fired = [output] if self.neuron.spiking else []
        return Run(output, fired, {0: recorded} if neurons_.size else {}, [(maker, line, inner)])

    def _run_spiking(self, spikes, rows, inner, watch):
        dtype, names = self.weight.dtype, self.neuron.states
        trace = no_trace(dtype)
        if watch.size:
            shape = (*spikes.shape[:2], len(names), len(watch))
            trace = trace._replace(watch=watch, values=np.empty(shape, dtype))
        out, inner = forward(self, spikes, keep=False, state=inner, product=False, trace=trace, rows=rows)
        return out, {name: trace.values[:, :, k] for k, name in enumerate(names)} if watch.size else {}, inner

    def _run_readout(self, spikes, rows, inner, watch):
        recorded = {}
        if watch.size:
            traced = sweeps.readout_forward(self, spikes, inner, product=False, rows=rows, reduce=None)[0]
            recorded = {"v": traced[:, :, watch]}
        output, _, inner = sweeps.readout_forward(self, spikes, inner, product=False, rows=rows)
        return output, recorded, inner

    def describe(self):
        return {
            "layer": "Dense", "n_in": self.n_in, "n_out": self.n_out, "neuron": self.neuron.describe(),
            "recurrent": self.weight_rec is not None, "delay": self.delay, "bias": self.bias is not None,
            "dtype": str(self.weight.dtype),
        }  # fmt: skip

    def __repr__(self):
        options = "".join(f", {k}={v}" for k, v in self.describe().items() if k in ("recurrent", "delay", "bias") and v)
        return f"Dense({self.n_in}, {self.n_out}, {self.neuron!r}{options})"


class Dropout(Module):
    """Leave out events while training, and scale the others by 1 / (1 - p).

    Parameters
    ----------
    p : float, 0 <= p < 1
        Probability that an event is left out.
    per : "neuron" or "event"
        Whether a neuron is silent for the whole sample (the choice holds for all steps), or each event is drawn apart.

    Source: Srivastava et al. 2014; one mask for all steps as in Lee et al. 2020, section 2.4.
    """

    def __init__(self, p=0.5, *, per="neuron"):
        super().__init__()
        if not 0 <= p < 1:
            raise ParameterError(f"nn.Dropout: p = {p}: expected 0 <= p < 1")
        if per not in ("neuron", "event"):
            raise ParameterError(f'nn.Dropout: per = {per!r}: expected "neuron" or "event"')
        self.p, self.per = float(p), per
        self.seed(0)

    def seed(self, seed, epoch=0):
        self._key, self._calls = (int(seed), int(epoch)), 0

    def __call__(self, spikes: Spikes) -> Spikes:
        if not self.training or self.p == 0:
            return spikes
        place = sum(ord(c) * 31**k for k, c in enumerate(self.name))
        draw = np.random.SeedSequence((*self._key, place, self._calls)).generate_state(1, np.uint64)[0]
        self._calls += 1
        return sweeps.dropout(spikes, self.p, draw, self.per == "event")

    def run(self, spikes, state=None, record=None) -> Run:
        """Simulation has no dropout: the input as it is."""
        return Run(spikes, [], {}, [None])

    def describe(self):
        return {"layer": "Dropout", "p": self.p, "per": self.per}

    def __repr__(self):
        return f"Dropout({self.p}, per={self.per!r})"


class Sequential(Module):
    """Layers, one after the other. Iterable; layers are named "0", "1", ... A Sequential inside gives its layers.

    Raises ShapeError at construction if neighbouring layers do not fit.
    """

    def __init__(self, *layers):
        super().__init__()
        self.layers = [part for layer in layers for part in (layer if isinstance(layer, Sequential) else [layer])]
        if not layers:
            raise ParameterError("nn.Sequential(): expected at least one layer")
        width = None
        for k, layer in enumerate(self.layers):
            if not isinstance(layer, Module):
                raise ParameterError(f"nn.Sequential: layer {k} is {layer!r}, expected a layer such as nn.Dense")
            layer.name = str(k)
            if width is not None and getattr(layer, "n_in", width) != width:
                raise ShapeError(f"{layer.label}: the layer before it has {width} neurons, expected {layer.n_in}")
            width = getattr(layer, "n_out", width)
            if k + 1 < len(self) and hasattr(layer, "neuron") and not layer.neuron.spiking:
                raise ParameterError(f"{layer.label}: a readout has no spikes to pass on; put it last")
        for name, tensor in self.named_parameters().items():
            tensor.name = name

    def __iter__(self):
        return iter(self.layers)

    def __len__(self):
        return len(self.layers)

    def __getitem__(self, k):
        return self.layers[k]

    def __call__(self, spikes: Spikes, hidden: bool = False):
        """Output of the last layer; with `hidden` also the list of Spikes of the spiking layers before it."""
        fired = []
        for layer in self.layers[:-1]:
            spikes = layer(spikes)
            if hasattr(layer, "neuron"):
                fired.append(spikes)
        output = self.layers[-1](spikes)
        return (output, fired) if hidden else output

    def run(self, spikes: Spikes, state=None, record=None) -> Run:
        """Simulate without a tape, from `state` or from rest; any cutting of the time axis gives the same bits.

        Parameters
        ----------
        spikes : Spikes [B, T, N_in]
        state : the `state` of an earlier Run, optional
        record : {layer number: list of neurons}, optional
            Their states come back as `recorded[layer][state]`, arrays [B, T, K].
        """
        record = dict(record or {})
        wrong = [k for k in record if not (isinstance(k, int) and 0 <= k < len(self) and hasattr(self[k], "neuron"))]
        if wrong:
            raise ParameterError(
                f"record: {wrong} are not layers with neurons; this network has layers 0 to {len(self) - 1}"
            )
        if state is not None and len(state) != len(self):
            raise ShapeError(f"state has {len(state)} layers, this network has {len(self)}")
        fired, recorded, after = [], {}, []
        for k, layer in enumerate(self.layers):
            result = layer.run(spikes, None if state is None else [state[k]], record.get(k))
            spikes = result.output
            fired += result.spikes
            after += result.state
            if k in record:
                recorded[k] = result.recorded.get(0, {})
        return Run(spikes, fired, recorded, after)

    def named_parameters(self):
        return {f"{layer.name}.{name}": t for layer in self.layers for name, t in layer.named_parameters().items()}

    def train(self, on=True):
        for layer in self.layers:
            layer.train(on)
        return super().train(on)

    def seed(self, seed, epoch=0):
        for layer in self.layers:
            layer.seed(seed, epoch)

    def describe(self):
        return {"layer": "Sequential", "layers": [layer.describe() for layer in self.layers]}

    def __repr__(self):
        return "Sequential(\n" + "".join(f"  {layer!r},\n" for layer in self.layers) + ")"


LAYERS = {"Dense": Dense, "Dropout": Dropout, "Sequential": Sequential}


def build(description: dict) -> Module:
    """The network of a description made by `Module.describe`."""
    options = dict(description)
    name = options.pop("layer")
    if name not in LAYERS:
        raise ParameterError(f"unknown layer {name!r}; known: {', '.join(LAYERS)}")
    if name == "Sequential":
        return Sequential(*(build(layer) for layer in options["layers"]))
    if "neuron" in options:
        options["neuron"] = neurons.build(options["neuron"])
    if "dtype" in options:
        options["dtype"] = np.dtype(options["dtype"])
    return LAYERS[name](**options)
