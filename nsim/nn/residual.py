"""A shortcut around layers."""

from __future__ import annotations

from nsim import spatial
from nsim.errors import ParameterError, ShapeError
from nsim.events import Spikes
from nsim.nn.module import Module, Run
from nsim.nn.sequential import Sequential


class Residual(Module):
    """body(s) + shortcut(s): the events of both, one that both have counts twice.

    Parameters
    ----------
    body : Module
        Layers around which the shortcut leads.
    shortcut : Module, optional
        What the shortcut does, for a body that changes the picture: a strided `nn.Conv2d`, say. Default: nothing.

    Raises
    ------
    ParameterError
        If one of them is no layer, or ends in a readout.
    ShapeError
        If both give events of different space; known when the space of the input is, at the latest in a call.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition"; the sum of spikes as ADD in Fang et al.
    2021, "Deep Residual Learning in Spiking Neural Networks", section 3.3.
    """

    def __init__(self, body, shortcut=None):
        super().__init__()
        self.parts = {"body": self._part(body)}
        if shortcut is not None:
            self.parts["shortcut"] = self._part(shortcut)
        self.rename("")

    @staticmethod
    def _part(module):
        if not isinstance(module, Module):
            raise ParameterError(f"nn.Residual: {module!r}: expected a layer such as nn.Conv2d")
        part = module if isinstance(module, Sequential) else Sequential(module)
        if getattr(part[-1], "neuron", None) is not None and not part[-1].neuron.spiking:
            raise ParameterError(f"nn.Residual: {part[-1].kind} has no spikes to add; put a readout after the block")
        return part

    def children(self):
        return self.parts

    def space_after(self, space):
        spaces = [part.space_after(space) for part in self.parts.values()]
        if tuple(spaces[0]) != tuple((*spaces, space)[1]):
            raise ShapeError(
                f"{self.label}: the body gives space {spaces[0]}, the shortcut {(*spaces, space)[1]}; "
                "give a shortcut= that gives the same"
            )
        return spaces[0]

    def __call__(self, spikes: Spikes) -> Spikes:
        return self.through(spikes, [])

    def through(self, spikes, fired):
        self.check(spikes)
        self.space_after(spikes.space)
        sides = [part.through(spikes, fired) for part in self.parts.values()]
        return spatial.add(*(*sides, spikes)[:2])

    def run(self, spikes: Spikes, state=None, record=None) -> Run:
        """Simulate without a tape; see `Sequential.run`. Neurons of the layers inside cannot be recorded."""
        self.check(spikes)
        self.check_record(record)
        self.space_after(spikes.space)
        self.check_state(state, 1)
        before = [None] * len(self.parts) if state is None else state[0]
        self.check_state(before or [], len(self.parts))
        runs = [part.run(spikes, own) for part, own in zip(self.parts.values(), before, strict=True)]
        sides = [run.output for run in runs]
        output = spatial.add(*(*sides, spikes.detach())[:2])
        return Run(output, [fired for run in runs for fired in run.spikes], {}, [[run.state for run in runs]])

    def describe(self):
        return {"layer": "Residual"} | {key: part.describe() for key, part in self.parts.items()}

    def __repr__(self):
        return f"Residual({', '.join(f'{key}={part!r}' for key, part in self.parts.items())})"
