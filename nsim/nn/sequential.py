"""Layers after one another."""

from __future__ import annotations

from nsim.checks import is_whole
from nsim.errors import ParameterError
from nsim.events import Spikes
from nsim.nn.module import Module, Run


class Sequential(Module):
    """Layers, one after the other. Iterable; layers are named "0", "1", ... A Sequential inside gives its layers.

    Raises ShapeError at construction if neighbouring layers do not fit.
    """

    def __init__(self, *layers):
        super().__init__()
        self.layers = [part for layer in layers for part in (layer if isinstance(layer, Sequential) else [layer])]
        if not layers:
            raise ParameterError("nn.Sequential(): expected at least one layer")
        space = None
        for k, layer in enumerate(self.layers):
            if not isinstance(layer, Module):
                raise ParameterError(f"nn.Sequential: layer {k} is {layer!r}, expected a layer such as nn.Dense")
            if any(layer is other for other in self.layers[:k]) and layer.parameters():
                raise ParameterError(
                    f"nn.Sequential: layer {k} is the same object as one before it, {layer.label}; files and "
                    "optimisers keep the parameters of layers apart: make another layer"
                )
            layer.rename(str(k))
            space = getattr(layer, "space", None) if space is None else layer.space_after(space)
            if k + 1 < len(self) and hasattr(layer, "neuron") and not layer.neuron.spiking:
                raise ParameterError(f"{layer.label}: a readout has no spikes to pass on; put it last")
        self.space = space
        for name, tensor in self.named_parameters().items():
            tensor.name = name

    def children(self):
        return {str(k): layer for k, layer in enumerate(self.layers)}

    def space_after(self, space):
        for layer in self.layers:
            space = layer.space_after(space)
        return space

    def __iter__(self):
        return iter(self.layers)

    def __len__(self):
        return len(self.layers)

    def __getitem__(self, k):
        return self.layers[k]

    def __call__(self, spikes: Spikes, hidden: bool = False):
        """Output of the last layer; with `hidden` also the list of Spikes of the spiking layers before it."""
        fired = []
        output = self.through(spikes, fired)
        if fired and fired[-1] is output:
            fired.pop()
        return (output, fired) if hidden else output

    def through(self, spikes, fired):
        for layer in self.layers:
            spikes = layer.through(spikes, fired)
        return spikes

    def run(self, spikes: Spikes, state=None, record=None) -> Run:
        """Simulate without a tape, from `state` or from rest; any cutting of the time axis gives the same bits.

        Parameters
        ----------
        spikes : Spikes [B, T, N_in]
        state : the `state` of an earlier Run, optional
        record : {layer number: list of neurons}, optional
            Their states come back as `recorded[layer][state]`, arrays [B, T, K].
        """
        if not isinstance(record, (dict, type(None))):
            raise ParameterError(
                f"record = {record!r}: expected {{layer number: list of neurons}}, such as {{0: [0, 5]}}"
            )
        record = {int(k) if is_whole(k) else k: neurons for k, neurons in (record or {}).items()}
        wrong = [k for k in record if not (is_whole(k) and 0 <= k < len(self) and hasattr(self[k], "neuron"))]
        if wrong:
            raise ParameterError(
                f"record: {wrong} are not layers with neurons; this network has layers 0 to {len(self) - 1}"
            )
        self.check_state(state, len(self))
        fired, recorded, after = [], {}, []
        for k, layer in enumerate(self.layers):
            result = layer.run(spikes, None if state is None else [state[k]], record.get(k))
            spikes = result.output
            fired += result.spikes
            after += result.state
            if k in record:
                recorded[k] = result.recorded.get(0, {})
        return Run(spikes, fired, recorded, after)

    def describe(self):
        return {"layer": "Sequential", "layers": [layer.describe() for layer in self.layers]}

    def __repr__(self):
        return "Sequential(\n" + "".join(f"  {layer!r},\n" for layer in self.layers) + ")"
