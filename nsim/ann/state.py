"""Parameters, running statistics and description of a graph by name: what files hold and optimisers move."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nsim.errors import ParameterError, ShapeError


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
        if not isinstance(values, Mapping):
            raise ParameterError(
                f"load_state_dict: a {type(values).__name__}; expected arrays by name, as nsim.read_weights gives them"
            )
        own = self.arrays()
        counters = {f"{name[:-12]}num_batches_tracked" for name in own if name.endswith(".running_mean")}
        arrays = {name: np.asarray(value) for name, value in values.items() if name not in counters}
        missing, unknown = sorted(own.keys() - arrays.keys()), sorted(arrays.keys() - own.keys())
        if missing or unknown:
            raise ParameterError(
                f"load_state_dict: missing {_some(missing)}, unknown {_some(unknown)}{_prefix(own, arrays)}"
            )
        wrong = [f"{k} has {a.shape}, expected {own[k].shape}" for k, a in arrays.items() if a.shape != own[k].shape]
        if wrong:
            raise ShapeError(f"load_state_dict: {len(wrong)} shapes differ: {'; '.join(wrong[:5])}")
        for name, a in arrays.items():
            if not np.isfinite(a).all():
                raise ParameterError(f"load_state_dict: {name} holds NaN or infinity")
        for name, a in arrays.items():
            own[name][...] = a

    def describe(self):
        nodes = [[n.name, type(n.operation).__name__, n.operation.options(), [i.name for i in n.inputs]] for n in self]
        return {"layer": "Graph", "nodes": nodes, "output": self.output.name, "dtype": str(self.dtype)}


def _some(names):
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else "none"


def _prefix(own, arrays):
    """The way out where all names carry one prefix more."""
    for name in arrays:
        head, _, rest = name.partition(".")
        if rest in own:
            return (
                f'; the names begin with "{head}.": pass {{k.removeprefix("{head}."): v for k, v in weights.items()}}'
            )
    return ""
