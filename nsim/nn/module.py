"""What every layer and network has."""

from __future__ import annotations

from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from nsim.backend import adopted, check_device, moved, operations
from nsim.checks import finite_array, fitting_arrays
from nsim.errors import ParameterError, ShapeError
from nsim.events import Spikes
from nsim.tape import Tensor


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

    def rename(self, name: str):
        """Take a place in a network: "2", or "2.body.0" for a layer within layer 2."""
        self.name = name
        for key, part in self.children().items():
            part.rename(f"{name}.{key}" if name else key)

    def children(self) -> dict[str, Module]:
        """The layers right inside, by the names that their parameters begin with."""
        return {}

    @property
    def label(self) -> str:
        """The layer in messages."""
        prefix = f"layer {self.name}: " if self.name else ""
        return prefix + self.kind

    @property
    def kind(self) -> str:
        return f"nn.{type(self).__name__}"

    def check(self, spikes):
        """Refuse what is no batch of events, or holds events of a size that is not finite."""
        if not isinstance(spikes, Spikes):
            raise ShapeError(
                f"{self.label}: input is {type(spikes).__name__}, expected nsim.Spikes; "
                "make it with Spikes.from_dense(a, dt) from counts [B, T, N], or Spikes.from_events(...)"
            )
        spikes.check_values(f"{self.label}: input")

    def check_state(self, state, layers: int):
        """Refuse what is no `state` of an earlier run, or one of another number of layers."""
        if not isinstance(state, (list, tuple, type(None))):
            given = type(state).__name__
            raise ShapeError(
                f"{self.label}: state is {given}, expected the `state` that a run of this network returned"
            )
        if state is not None and len(state) != layers:
            raise ShapeError(f"{self.label}: state has {len(state)} layers, this network has {layers}")

    def check_record(self, record):
        """Refuse neurons to record where this layer has none of its own."""
        if record is not None and not (hasattr(record, "__len__") and len(record) == 0):
            raise ParameterError(
                f"{self.label}: record = {record!r:.60}: it has no neurons of its own; leave record out, or record in "
                "layers of neurons: nn.Sequential(...).run(spikes, record={layer number: list of neurons})"
            )

    def through(self, spikes, fired: list):
        """The output for `spikes`; what each layer of spiking neurons inside fires is appended to `fired`."""
        return self(spikes)

    def connections(self) -> list:
        """The layers of neurons inside, in the order of `through`."""
        return [inner for part in self.children().values() for inner in part.connections()]

    def modules(self) -> list:
        """This module and all inside it."""
        return [self, *(inner for part in self.children().values() for inner in part.modules())]

    def named_parameters(self) -> dict[str, Tensor]:
        parts = self.children().items()
        return {f"{key}.{name}": t for key, part in parts for name, t in part.named_parameters().items()}

    def parameters(self) -> list[Tensor]:
        """The tensors that an optimiser trains."""
        return list(self.named_parameters().values())

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters by name."""
        return {name: np.array(tensor.numpy()) for name, tensor in self.named_parameters().items()}

    def load_state_dict(self, values: dict):
        """Set all parameters; names and shapes must match.

        Raises
        ------
        ParameterError, ShapeError
            If a name is missing or unknown, a shape differs, or a value is no finite number. Nothing is changed then.
        """
        own = self.named_parameters()
        values = {name: adopted(value) for name, value in fitting_arrays("load_state_dict", values, own).items()}
        for name, value in values.items():
            finite_array(f"load_state_dict: {name}", moved(value, "cpu"), own[name].dtype)
        for name, value in values.items():
            own[name].set(value)

    def train(self, on: bool = True):
        """Switch dropout on, here and below."""
        for module in self.modules():
            module.training = on
        return self

    def eval(self):
        """Switch dropout off, here and below."""
        return self.train(False)

    @contextmanager
    def modes_kept(self):
        """Context at whose end dropout is on or off in each part as it was before."""
        before = [(module, module.training) for module in self.modules()]
        try:
            yield
        finally:
            for module, on in before:
                module.training = on

    def seed(self, seed: int, epoch: int = 0):
        """Make everything random in the coming calls a function of (seed, epoch)."""
        for part in self.children().values():
            part.seed(seed, epoch)

    def space_after(self, space: tuple) -> tuple:
        """The space of the events that come out where those that go in have `space`; refuses what does not fit."""
        return space

    @property
    def device(self) -> str:
        """Where the parameters lie."""
        return next((tensor.device for tensor in self.parameters()), "cpu")

    def to(self, device: str):
        """Move this network to a device, parameters and gradients; "cpu" is where it is made. Returns self.

        Raises
        ------
        DeviceError
            If there is no such device here (the message says what is missing), or a layer is too large for it.
        ParameterError
            If a parameter holds NaN or infinity; on a device, no call looks for them.
        """
        check_device(device)
        for name, tensor in self.named_parameters().items():
            if device != "cpu" and tensor.device == "cpu" and not np.isfinite(tensor.data).all():
                raise ParameterError(f"{name} holds NaN or infinity")
        if device != "cpu":
            self.check_for(operations(device))
        for tensor in self.parameters():
            tensor.data = moved(tensor.data, device)
            tensor.grad = None if tensor.grad is None else moved(tensor.grad, device)
        return self

    def check_for(self, table):
        """Raise a DeviceError if a device, given by its table of operations, cannot take this layer."""
        for part in self.children().values():
            part.check_for(table)

    def describe(self) -> dict:
        """JSON-able description from which `nn.build` makes the same network, but for its parameters."""
        raise TypeError(f"{type(self).__name__} must define describe()")


class Stateless(Module):
    """Base of layers that treat each step by itself and keep nothing: a run is a call."""

    def run(self, spikes: Spikes, state=None, record=None) -> Run:
        """Simulate without a tape. There is nothing to go on from or to record; see `Sequential.run`."""
        self.check(spikes)
        self.check_record(record)
        if state is not None and not (isinstance(state, (list, tuple)) and len(state) == 1 and state[0] is None):
            raise ParameterError(f"{self.label}: state = {state!r:.60}: it has none; leave state out")
        return Run(self.simulate(spikes), [], {}, [None])

    def simulate(self, spikes: Spikes) -> Spikes:
        return self(spikes.detach())
