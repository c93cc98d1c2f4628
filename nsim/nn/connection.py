"""What all layers of neurons share: a connection (weights, delay) onto a neuron model."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from nsim import arrays, neurons, sweeps
from nsim.backend import device_of, moved, on_device, per_device
from nsim.checks import all_finite, float_type, is_whole
from nsim.errors import ParameterError, ShapeError
from nsim.events import Spikes, empty, join
from nsim.launch import Room, forward, no_trace
from nsim.nn.module import Module, Run
from nsim.tape import Tensor, no_grad

_generator = np.random.default_rng(0)


def seed(value: int):
    """Start the generator of initial weights anew. It starts at 0 in each process."""
    global _generator
    _generator = _started(value, "nsim")


@contextmanager
def generator_kept():
    """Context in which initial weights are drawn that nobody will see: at its end the generator is where it was."""
    before = _generator.bit_generator.state
    try:
        yield
    finally:
        _generator.bit_generator.state = before


def generator(value: int | None = None, where: str = "nsim") -> np.random.Generator:
    """The generator of initial weights: one of its own for a seed, else the one that `seed` starts. `where` begins the
    message that refuses a seed."""
    return _generator if value is None else _started(value, where)


def _started(value, where):
    try:
        return np.random.default_rng(value)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{where}: seed = {value!r}: expected a whole number of at least 0") from error


class Connection(Module):
    """Base of the layers of neurons. A subclass gives the numbers of neurons, the shapes of its arrays and `describe`,
    and what its drive reads where that is not the weights as they are.

    Attributes
    ----------
    n_in, n_out : int
        Neurons before and after.
    space : tuple
        Shape of the neurons after; that of the Spikes that a call gives.
    shapes : dict
        Shape of `weight`, and of `weight_rec` and `bias` where the layer has them.
    connection : str
        Kernel module of the drive, of a `drive` and a `drive_adjoint`: "drive" or "conv".
    products : bool
        Whether the drive has a form as a matrix product.
    dtype : float32 or float64
        Of the weights and of all that is computed.
    """

    connection, products = "drive", True

    def __init__(self, neuron, n_in, space, shapes, fan_in, delay, dtype, seed):
        super().__init__()
        layer = type(self).__name__
        if not isinstance(neuron, neurons.Neuron):
            raise ParameterError(f"nn.{layer}: neuron = {neuron!r}: expected a neuron such as nsim.LIF(tau_mem=10e-3)")
        if "weight_rec" in shapes and not neuron.spiking:
            raise ParameterError(
                f"nn.{layer}: recurrent=True needs a spiking neuron, {type(neuron).__name__} has no spikes"
            )
        self.dtype = dtype = float_type(f"nn.{layer}", dtype)
        self.n_in, self.space, self.n_out = n_in, space, int(np.prod(space))
        self.delay, self.neuron, self.shapes = int(delay), neuron, shapes
        rng = generator(seed, f"nn.{layer}")

        def uniform(name, fan_in, gain=1):
            if name not in shapes:
                return None
            bound = gain / np.sqrt(fan_in)
            return Tensor(arrays.copied(rng.uniform(-bound, bound, shapes[name]), dtype), requires_grad=True)

        # With a gain of 1, the second of two layers behind events as sparse as speech is silent and untrained for ever.
        self.weight, self.weight_rec = uniform("weight", fan_in, 1 + neuron.spiking), uniform("weight_rec", self.n_out)
        self.bias = Tensor(np.zeros(shapes["bias"], dtype), requires_grad=True) if "bias" in shapes else None
        self.raw = {p.name: self._raw(p, neuron.values[p.name]) for p in neuron.parameters}
        self._fits("v_init", neuron.v_init)
        self.room = Room()

    def __setattr__(self, name, value):
        if name in ("weight", "weight_rec", "bias") and not isinstance(value, (Tensor, type(None))):
            raise ParameterError(
                f"{self.label}: {name} = {type(value).__name__}: expected a Tensor; write values into it with "
                f".{name}.data[...] = values"
            )
        if value is not None and name in ("weight_rec", "bias") and name not in self.shapes:
            raise ParameterError(f"{self.label}: it was made without {name}; make a layer that has one")
        if name == "neuron" and "raw" in vars(self):
            raise ParameterError(
                f"{self.label}: its neuron is fixed; set_value(name, value) changes a parameter, and another neuron "
                "wants another layer"
            )
        super().__setattr__(name, value)

    def kernel_weight(self):
        """The weights as the kernels of `connection` read them."""
        return self.weight.data

    def kernel_bias(self) -> np.ndarray:
        """The bias of each neuron, [n_out]."""
        return self.bias.data

    def weight_gradient(self, grad):
        """dL/dweight from the gradient of the weights as the kernels read them."""
        return grad

    def bias_gradient(self, grad):
        """dL/dbias from that of each neuron."""
        return grad

    def _fits(self, name, value):
        if value.shape not in ((), (self.n_out,)):
            raise ShapeError(f"{self.label}: {name} has shape {value.shape}, expected a number or [{self.n_out}]")

    def _raw(self, parameter, value):
        """A parameter as it is trained; in the weights' type if it is, else in float64."""
        self._fits(parameter.name, value)
        learned = parameter.name in self.neuron.learn
        raw = parameter.to_raw(value)
        return Tensor(raw.astype(self.weight.dtype) if learned else raw, requires_grad=learned)

    def value(self, name: str) -> np.ndarray:
        """A parameter of the neuron in its own unit (seconds for time constants), shape () or [n_out]."""
        parameter = self._parameter(name)
        if name not in self.neuron.learn:
            return self.neuron.values[name].copy()
        return parameter.from_raw(self.raw[name].numpy().astype(np.float64))

    def set_value(self, name: str, value):
        """Set a parameter of the neuron, in its own unit."""
        parameter = self._parameter(name)
        value = parameter.check(value)
        self._fits(name, value)
        old = self.raw[name]
        if name in self.neuron.learn:
            if value.ndim > old.ndim:
                raise ShapeError(
                    f"{self.label}: {name} is one number that is trained, not [{self.n_out}]; make the neuron with an "
                    "array to train one for each"
                )
            old.set(parameter.to_raw(value))
        else:
            vars(self)["neuron"] = self.neuron.with_value(name, value)
            self.raw[name] = Tensor(parameter.to_raw(value))

    def _parameter(self, name):
        for parameter in self.neuron.parameters:
            if parameter.name == name:
                return parameter
        raise ParameterError(f"{self.label}: {type(self.neuron).__name__} has {', '.join(self.raw)}, not {name!r}")

    def check_for(self, table):
        self._check_parameters()
        table.check_layer(self)

    def named_parameters(self):
        named = {"weight": self.weight, "weight_rec": self.weight_rec, "bias": self.bias}
        named |= {p.raw_name: self.raw[p.name] for p in self.neuron.parameters if p.name in self.neuron.learn}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def _check(self, spikes):
        self.check(spikes)
        _, steps, n = spikes.shape
        if steps == self.n_in != n:
            raise ShapeError(
                f"{self.label}: input has {n} neurons, expected {self.n_in}, which is its number of steps: axes are "
                "[batch, time, neuron], and time and neuron look swapped; give a.transpose(0, 2, 1)"
            )
        self.space_after(spikes.space)
        device_of(spikes, *self.parameters())
        self._check_parameters()

    def _check_parameters(self):
        for name, tensor in self.named_parameters().items():
            data = tensor.data
            if on_device(data):
                continue  # checked before it went there; a look at its values would wait for the device
            if not isinstance(data, (np.ndarray, np.generic)):
                raise ParameterError(
                    f"{self.label}: {name}.data is {type(data).__name__}, expected an array; "
                    "write into it with .data[...] = values"
                )
            if data.dtype != self.dtype:
                raise ParameterError(
                    f"{self.label}: {name}.data has dtype {data.dtype}, expected {self.dtype}; "
                    f"give .astype(np.{self.dtype}), or write into it with .data[...] = values"
                )
            if name in self.shapes and (data.shape != self.shapes[name] or not data.flags.c_contiguous):
                raise ShapeError(
                    f"{self.label}: {name}.data has shape {data.shape}, expected a contiguous {self.shapes[name]}; "
                    "write into it with .data[...] = values"
                )
            if name not in self.shapes:
                self._fits(name, data)
            if not all_finite(data):
                raise ParameterError(f"{self.label}: {name} holds NaN or infinity")

    def __call__(self, spikes: Spikes):
        """Sweep over a batch, from rest: Spikes [B, T, n_in] to Spikes [B, T, n_out], or a Tensor for a readout."""
        self._check(spikes)
        return (sweeps.spiking if self.neuron.spiking else sweeps.integrate)(self, spikes)

    def through(self, spikes, fired):
        output = self(spikes)
        if self.neuron.spiking:
            fired.append(output)
        return output

    def connections(self):
        return [self]

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
        self.check_state(state, 1)
        size, steps, _ = spikes.shape
        maker = (repr(self), str(self.weight.dtype), spikes.dt, self.device)
        if state is None:
            line, inner = empty(size, self.delay, self.n_in, spikes.dt), None
        elif not isinstance(state[0], tuple) or state[0][0] != maker:
            raise ShapeError(
                f"{self.label}: state of another layer or device, of a neuron with other parameters (has set_value "
                f"changed them since?), or another dt than {spikes.dt:g} s; "
                "give the `state` that a run of this network returned"
            )
        else:
            _, line, inner = state[0]
            if len(inner[0]) != size:
                raise ShapeError(f"{self.label}: state is of {len(inner[0])} samples, the input has {size}")
        neurons_ = self._watched(record)
        source = spikes
        if self.delay:
            source = join(line, spikes.to("cpu"))
            line = source.cut(steps, steps + self.delay)
        with no_grad():
            run = self._run_spiking if self.neuron.spiking else self._run_readout
            output, recorded, inner = run(spikes, source.to(spikes.device), inner, neurons_)
        fired = [output] if self.neuron.spiking else []
        return Run(output, fired, {0: recorded} if neurons_.size else {}, [(maker, line, inner)])

    def _watched(self, record):
        """The neurons to record, int64 [K]."""
        chosen = np.asarray([] if record is None else record, object)
        if chosen.ndim != 1 or not all(map(is_whole, chosen)):
            raise ParameterError(f"{self.label}: record = {record!r}: expected a list of neurons, such as [0, 5]")
        chosen = chosen.astype(np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= self.n_out):
            raise ShapeError(f"{self.label}: record = {chosen.tolist()}: neurons are 0 to {self.n_out - 1}")
        return chosen

    @per_device
    def _run_spiking(self, spikes, source, inner, watch):
        """Run over `spikes`, the drive from the events of `source`: output, recorded states, state after the end."""
        dtype, names = self.weight.dtype, self.neuron.states
        trace = no_trace(dtype)
        if watch.size:
            shape = (*spikes.shape[:2], len(names), len(watch))
            trace = trace._replace(watch=watch, values=np.empty(shape, dtype))
        out, inner = forward(self, spikes, keep=False, state=inner, trace=trace, source=source)
        return out, {name: trace.values[:, :, k] for k, name in enumerate(names)} if watch.size else {}, inner

    def _run_readout(self, spikes, source, inner, watch):
        """The same; the output of a readout at each step is its v."""
        recorded = {}
        if watch.size:
            traced = sweeps.readout_forward(self, spikes, inner, source, reduce=None)[0]
            recorded = {"v": moved(traced, "cpu")[:, :, watch]}
        output, _, inner = sweeps.readout_forward(self, spikes, inner, source)
        return output, recorded, inner
