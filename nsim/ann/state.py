"""Parameters, running statistics and description of a graph by name: what files hold and optimisers move."""

from __future__ import annotations

import numpy as np

from nsim.checks import finite_array, fitting_arrays
from nsim.errors import ParameterError


class State:
    """The part of `Graph` that deals with names: <node>.weight, <node>.running_mean, ..."""

    def named_parameters(self):
        return {f"{node.name}.{key}": t for node in self for key, t in node.operation.parameters().items()}

    def named_buffers(self) -> dict[str, np.ndarray]:
        """Running statistics by name."""
        return {f"{node.name}.{key}": a for node in self for key, a in node.operation.buffers().items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """All parameters and running statistics by name, as the network computes with them; `state_dict` copies."""
        return {name: tensor.data for name, tensor in self.named_parameters().items()} | self.named_buffers()

    def state_dict(self):
        """Copies of all parameters and running statistics by name: <node>.weight, <node>.running_mean, ..."""
        return {name: a.copy() for name, a in self.arrays().items()}

    def load_state_dict(self, values: dict):
        """Set all parameters and running statistics.

        `<node>.num_batches_tracked` of a batch norm is left out: nsim has no use for it.

        Raises
        ------
        ParameterError, ShapeError
            If a name is missing or unknown, a shape differs, or a value is not finite. Nothing is changed then.
        """
        own = self.arrays()
        counters = {f"{name[:-12]}num_batches_tracked" for name in own if name.endswith(".running_mean")}
        arrays = fitting_arrays("load_state_dict", values, own, unused=counters)
        arrays = {name: finite_array(f"load_state_dict: {name}", a, own[name].dtype) for name, a in arrays.items()}
        for name, a in arrays.items():
            if name.endswith(".running_var") and a.min() < 0:
                raise ParameterError(f"load_state_dict: {name} holds {a.min():g}; a variance is not negative")
        for name, a in arrays.items():
            own[name][...] = a

    def describe(self):
        nodes = [[n.name, type(n.operation).__name__, n.operation.options(), [i.name for i in n.inputs]] for n in self]
        return {"layer": "Graph", "nodes": nodes, "output": self.output.name, "dtype": str(self.dtype)}
