"""Tensor, and the tape: an iterative reverse walk that frees each node as soon as it was used.

A node is one operation on whole arrays (one layer over the whole sequence, never one step). Its `vjp`, a closure or an
object, maps the gradient of the output to the gradients of the parents; what it holds is what the tape keeps, so
`saved_bytes` reads exactly that. Gradients are arrays, or any type with `+` (see `sweeps.SpikesGrad`).
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from nsim.backend import adopted, device_of, moved, on_device
from nsim.checks import plain_array
from nsim.errors import GradientError, ParameterError, ShapeError

_recording = ContextVar("nsim_recording", default=True)


@contextmanager
def no_grad():
    """Context in which no operation is recorded."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


class Node:
    """One recorded operation: its name, its parents (nodes or leaves), and the closure that makes their gradients."""

    __slots__ = ("keep", "name", "parents", "vjp")

    def __init__(self, name, parents, vjp):
        self.name, self.parents, self.vjp = name, parents, vjp
        self.keep = None


class Tensor:
    """An array with a gradient.

    For losses of one's own it has + - * / @ ** and abs, indexing, `sum`, `mean`, `max` and `reshape`, as in NumPy;
    `nsim.ops` has the functions `exp`, `log`, `relu`, `absolute`, `log_softmax` and `take`. Each records its gradient.

    Parameters
    ----------
    data : array
        Integers and booleans become float32; float32 and float64 stay as they are and are not copied. Arrays on the
        GPU (nsim's own, or of another library with `__cuda_array_interface__` or DLPack) stay there.
    requires_grad : bool
        Whether `backward` accumulates into `.grad`.
    name : str, optional
        Name in messages and files.

    Attributes
    ----------
    lengths : int64 [B] or None
        True number of steps of each sample, where this is the output of a readout at every step, [B, T, N].

    Raises
    ------
    ParameterError
        If `data` holds anything else, such as None, words or complex numbers.
    """

    __array_ufunc__ = None  # array + tensor is ours

    def __init__(self, data, requires_grad=False, name=None):
        given, data = data, data.data if isinstance(data, Tensor) else adopted(data)
        if not on_device(data) and (data := plain_array(data)) is None:
            raise ParameterError(
                f"Tensor: data = {given!r:.60}: expected real numbers or booleans, or an array of them"
            )
        self.data = data if data.dtype in (np.float32, np.float64) else data.astype(np.float32)
        self.requires_grad, self.name = requires_grad, name
        self.grad = None
        self.node = None
        self.lengths = None

    @property
    def shape(self):
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def ndim(self):
        return self.data.ndim

    @property
    def size(self):
        return self.data.size

    @property
    def device(self) -> str:
        return device_of(self.data)

    def __len__(self):
        return len(self.data)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.numpy(), dtype, copy=copy)

    def __format__(self, spec):
        return format(self.item(), spec) if spec else str(self)

    def numpy(self) -> np.ndarray:
        """The data as a NumPy array: no copy on the CPU; from a device a copy, made once it has finished."""
        return moved(self.data, "cpu")

    def set(self, values):
        """Overwrite the data, in place."""
        values = adopted(values)
        if on_device(self.data):
            self.data.set(values)
        else:
            self.data[...] = values

    def to(self, device: str) -> Tensor:
        """This tensor on a device; the gradient comes back the same way."""
        home = self.device
        if device == home:
            return self
        there = Tensor(moved(self.data, device))
        there.lengths = self.lengths
        return record("to", there, (self,), lambda grad: (moved(grad, home),))

    def item(self) -> float:
        """The value of a tensor of one element, as a float."""
        return float(self.numpy().item())

    __float__ = item

    def detach(self) -> Tensor:
        """The same data, cut off from the tape."""
        return Tensor(self.data)

    def backward(self, grad=None):
        """Add dL/dp to `.grad` of every leaf p that this tensor L was computed from.

        Parameters
        ----------
        grad : array, optional
            dL/d(self), of this tensor's shape; 1 for a single number, else required.

        Raises
        ------
        GradientError
            If nothing was recorded, the tape was used already, or `grad` is missing.
        ShapeError
            If `grad` has another shape.
        """
        if grad is None:
            if self.size != 1:
                raise GradientError(
                    f"backward() of a tensor of shape {self.shape} needs grad=; reduce it to a number first"
                )
            grad = np.ones_like(self.data)
        elif not on_device(grad := adopted(grad)):
            grad = np.asarray(grad, self.dtype)
            grad = grad.reshape(self.shape) if grad.size == self.size == 1 else grad
        if grad.shape != self.shape:
            raise ShapeError(f"backward: grad has shape {grad.shape}, the tensor {self.shape}")
        backward(self, moved(grad, self.device))

    def __repr__(self):
        label = f", name={self.name!r}" if self.name else ""
        if on_device(self.data):
            return f"Tensor({self.shape} on {self.device}{label})"
        return f"Tensor({np.array2string(self.data, precision=4, threshold=8)}{label})"


def record(name, output, parents, vjp):
    """Attach `output` (Tensor or Spikes) to the tape; `vjp(grad)` gives a gradient, or None, for each of `parents`."""
    if _recording.get() and any(p.requires_grad for p in parents):
        output.requires_grad = True
        output.node = Node(name, [p.node or (p if p.requires_grad else None) for p in parents], vjp)
    return output


def recording(*parents) -> bool:
    """Whether an operation on these would be recorded."""
    return _recording.get() and any(p.requires_grad for p in parents)


def backward(root, grad):
    """Walk the tape back from `root`, whose gradient is `grad`."""
    if root.node is None:
        raise GradientError("nothing to walk back: no operation on a parameter was recorded (is it inside no_grad()?)")
    pending, order = {id(root.node): grad}, _order(root.node)
    for node in order:  # before any gradient is added
        if node.vjp is None:
            raise GradientError(
                f"{node.name}: this part of the tape was already used and freed; run the forward pass again"
            )
    for node in reversed(order):
        grad = pending.pop(id(node), None)
        if grad is not None:
            if node.keep is not None:
                node.keep.grad = grad
            for parent, part in zip(node.parents, node.vjp(grad), strict=True):
                if parent is None or part is None:
                    continue
                if isinstance(parent, Node):
                    pending[id(parent)] = pending[id(parent)] + part if id(parent) in pending else part
                else:
                    parent.grad = _own(part) if parent.grad is None else parent.grad + part
        node.vjp, node.parents, node.keep = None, (), None


def _own(part):
    """A gradient that no other node or leaf shares. What lies on another device is never written in place."""
    return part if on_device(part) else np.array(part)


def _order(root):
    """Nodes reachable from root, parents first."""
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((p, False) for p in node.parents if isinstance(p, Node) and id(p) not in seen)
    return order


def _held(vjp) -> list:
    """What a vjp holds: the cells of a closure, or the attributes of an object."""
    if hasattr(vjp, "__closure__"):
        return [cell.cell_contents for cell in vjp.__closure__ or ()]
    return list(vars(vjp).values()) if vjp is not None else []


def saved_bytes(value) -> int:
    """Bytes that the tape behind `value` (Tensor or Spikes) keeps for the backward pass; parameters are not counted.

    The input batch is counted, although the caller may hold it anyway. What is freed in pieces of 32 MB and more is
    kept for the next arrays, up to 512 MB, until `nsim.arrays.release()`.
    """
    if value.node is None:
        return 0
    buffers, parameters = {}, set()
    for node in _order(value.node):
        parameters |= {id(p.data) for p in node.parents if isinstance(p, Tensor)}
        stack = _held(node.vjp)
        while stack:
            held = stack.pop()
            if isinstance(held, np.ndarray) or (on_device(held) and hasattr(held, "base")):
                while hasattr(held.base, "base"):
                    held = held.base
                buffers[id(held)] = held.nbytes
            elif isinstance(held, (tuple, list)):
                stack.extend(held)
            elif hasattr(held, "arrays"):
                stack.extend(held.arrays)
    return sum(size for buffer, size in buffers.items() if buffer not in parameters)
