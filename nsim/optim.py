"""Optimisers (SGD, Adam, AdamW), gradient clipping and learning-rate schedules.

Each update is one fused pass over a parameter, its gradient and its buffers. The formulas are those of torch.optim,
in the parameter's own dtype.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from nsim.backend import moved, on_device, operations, per_device
from nsim.checks import fitting_arrays, flag, is_finite, is_number, number, whole
from nsim.errors import GradientError, ParameterError, ShapeError, TrainingError
from nsim.kernels.jit import exact_kernel, kernel
from nsim.tape import Tensor


@per_device
@exact_kernel
def _sgd(w, grad, buffer, lr, momentum, decay, nesterov):
    """buffer <- momentum buffer + g; w <- w - lr (g + momentum buffer if nesterov else buffer)."""
    for k in range(w.size):
        g = grad[k] + decay * w[k]
        buffer[k] = momentum * buffer[k] + g
        w[k] -= lr * (g + momentum * buffer[k] if nesterov else buffer[k])


@per_device
@exact_kernel
def _sgd_plain(w, grad, lr, decay):
    for k in range(w.size):
        w[k] -= lr * (grad[k] + decay * w[k])


@per_device
@exact_kernel
def _adam(w, grad, m, v, rest1, beta2, rest2, size, root, eps, keep):
    """rest = 1 - beta; size = lr / (1 - beta1^t); root = sqrt(1 - beta2^t); keep = 1 - lr weight_decay."""
    for k in range(w.size):
        g = grad[k]
        m[k] += rest1 * (g - m[k])
        v[k] = beta2 * v[k] + rest2 * g * g
        w[k] = keep * w[k] - size * (m[k] / (np.sqrt(v[k]) / root + eps))


@kernel
def _square_sum(x):
    """Sum of squares in float64, in an order that depends on the size only."""
    total = 0.0
    for k in range(x.size):
        value = np.float64(x[k])
        total += value * value
    return total


class Optimizer:
    """What all optimisers share: named parameters, their buffers, and an exact state.

    Parameters
    ----------
    params : list of Tensor, or dict of named ones
        Parameters to move. In a list the tensors' own names are used where all have one and no two agree.
    options : numbers
        Settings by name; `lr` and the others stay readable and settable as attributes.
    """

    buffers: tuple[str, ...] = ()

    def __init__(self, params, **options):
        self.params = _named(type(self).__name__, params)
        self.options = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)
        self._check()
        self.steps = dict.fromkeys(self.params, 0)
        self.state = {b: {name: np.zeros_like(p.data) for name, p in self.params.items()} for b in self.buffers}

    def _check(self):
        for name in ("lr", "weight_decay"):
            if name in self.options:
                number(type(self).__name__, name, getattr(self, name), least=0)

    def zero_grad(self):
        """Forget the gradients; call it before each backward pass."""
        for p in self.params.values():
            p.grad = None

    def step(self):
        """Move each parameter that has a gradient, once.

        Raises
        ------
        GradientError
            If no parameter has a gradient.
        ShapeError
            If a gradient, or a buffer of this optimiser, has another shape than its parameter.
        """
        self._check()
        named = {name: p for name, p in self.params.items() if p.grad is not None}
        if not named:
            raise GradientError(
                f"{type(self).__name__}.step(): no parameter has a gradient; call loss.backward() first"
            )
        for name, p in named.items():
            if p.grad.shape != p.shape:
                raise ShapeError(f"parameter {name!r} has shape {p.shape}, its gradient {p.grad.shape}")
            for buffer, arrays in self.state.items():
                if arrays[name].shape != p.shape:
                    raise ShapeError(
                        f"parameter {name!r} has shape {p.shape}, {type(self).__name__}'s {buffer} of it "
                        f"{arrays[name].shape}: make a new optimiser for parameters of other shapes"
                    )
                arrays[name] = moved(arrays[name], p.device)
            self.steps[name] += 1
            if on_device(p.data):
                self._move(name, p.data.reshape(-1), p.grad.reshape(-1), p.dtype.type)
                continue
            if not (p.data.flags.c_contiguous and p.data.flags.writeable):
                p.data = np.array(p.data, order="C")
            grad = np.ascontiguousarray(p.grad, p.dtype)
            self._move(name, p.data.reshape(-1), grad.reshape(-1), p.dtype.type)
        for device in {p.device for p in named.values()} - {"cpu"}:
            operations(device).when_not_made(partial(self._take_back, list(named)))

    def _take_back(self, names):
        """Count a step as not made: the device has found that it must not be."""
        for name in names:
            self.steps[name] -= 1

    def _flat(self, buffer, name):
        return self.state[buffer][name].reshape(-1)

    def describe(self) -> dict:
        """Kind and settings, JSON-able: `build(description, params)` makes the optimiser anew."""
        return {"kind": type(self).__name__, **{name: getattr(self, name) for name in self.options}}

    def state_dict(self) -> dict:
        """All numbers that a step depends on, as a flat dict of arrays (copies) and numbers.

        Keys: each setting; "steps/<parameter>"; "<buffer>/<parameter>" (Adam: "m", "v"; SGD: "momentum_buffer").
        """
        flat = {name: getattr(self, name) for name in self.options}
        flat |= {f"steps/{name}": count for name, count in self.steps.items()}
        for buffer, arrays in self.state.items():
            flat |= {f"{buffer}/{name}": np.array(moved(a, "cpu")) for name, a in arrays.items()}
        return flat

    def load_state_dict(self, state: dict):
        """Take over a state of `state_dict`, settings included.

        Raises
        ------
        ParameterError, ShapeError
            If a key is missing or unknown, or an array has the wrong shape; nothing is changed then.
        """
        fitting_arrays(f"{type(self).__name__}.load_state_dict", state, self.state_dict())
        for name in self.options:
            value = np.asarray(state[name]).tolist()
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        self.steps = {name: int(state[f"steps/{name}"]) for name in self.params}
        for buffer, arrays in self.state.items():
            for name, a in arrays.items():
                Tensor(a).set(state[f"{buffer}/{name}"])

    def __repr__(self):
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.options)
        return f"{type(self).__name__}({len(self.params)} parameters, {settings})"


class SGD(Optimizer):
    """Stochastic gradient descent: g <- g + weight_decay w; b <- momentum b + g; w <- w - lr b.

    Parameters
    ----------
    params : list of Tensor, or dict of named ones
    lr : float
    momentum : float, 0 to 1
    nesterov : bool
        Step along g + momentum b instead of b.
    weight_decay : float

    Source: Sutskever et al. 2013, in torch.optim.SGD's form (momentum applied before lr, no dampening).
    """

    def __init__(self, params, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        self.buffers = ("momentum_buffer",) if momentum else ()
        super().__init__(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def _check(self):
        super()._check()
        momentum, nesterov = self.momentum, flag("SGD", "nesterov", self.nesterov)
        number("SGD", "momentum", momentum, least=0, below=1)
        if nesterov and momentum == 0:
            raise ParameterError("SGD: nesterov = True with momentum = 0: expected a momentum above 0")
        if bool(momentum) != bool(self.buffers):
            raise ParameterError(
                f"SGD: momentum = {momentum!r}: it cannot be switched on or off after the start; make a new optimiser"
            )

    def _move(self, name, w, grad, dtype):
        lr, decay = dtype(self.lr), dtype(self.weight_decay)
        if self.buffers:
            _sgd(w, grad, self._flat("momentum_buffer", name), lr, dtype(self.momentum), decay, bool(self.nesterov))
        else:
            _sgd_plain(w, grad, lr, decay)


class Adam(Optimizer):
    """Adam: m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; w <- w - lr m^ / (sqrt(v^) + eps), m^, v^ unbiased.

    Parameters
    ----------
    params : list of Tensor, or dict of named ones
    lr : float
    betas : (float, float), each 0 to 1
    eps : float

    Source: Kingma & Ba 2015, algorithm 1.
    """

    buffers = ("m", "v")

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, *, weight_decay=None):
        if weight_decay is not None:
            raise ParameterError(f"Adam: weight_decay = {weight_decay!r}: Adam has none; use AdamW")
        super().__init__(params, lr=lr, betas=betas, eps=eps)

    def _check(self):
        super()._check()
        self.betas = tuple(np.ravel(self.betas).tolist())
        good = len(self.betas) == 2 and all(is_number(b) and 0 <= b < 1 for b in self.betas)
        if not (good and is_finite(self.eps) and self.eps > 0):
            raise ParameterError(
                f"{type(self).__name__}: betas = {self.betas}, eps = {self.eps!r}; expected 0 <= beta < 1, eps > 0"
            )

    def _move(self, name, w, grad, dtype, decay=0.0):
        t, (b1, b2) = self.steps[name], self.betas
        size, root = self.lr / (1 - b1**t), math.sqrt(1 - b2**t)
        scalars = (1 - b1, b2, 1 - b2, size, root, self.eps, 1 - self.lr * decay)
        _adam(w, grad, self._flat("m", name), self._flat("v", name), *map(dtype, scalars))


class AdamW(Adam):
    """Adam with decoupled weight decay: w <- (1 - lr weight_decay) w before Adam's step.

    Parameters
    ----------
    params, lr, betas, eps
        As in Adam.
    weight_decay : float

    Source: Loshchilov & Hutter 2019, algorithm 2 (decay scaled by lr, as in torch.optim.AdamW).
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        Optimizer.__init__(self, params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _move(self, name, w, grad, dtype):
        super()._move(name, w, grad, dtype, decay=self.weight_decay)


def build(description: dict, params) -> Optimizer:
    """The optimiser of a `describe()`, with fresh buffers."""
    kinds = {cls.__name__: cls for cls in (SGD, Adam, AdamW)}
    options = dict(description)
    kind = options.pop("kind", None)
    if kind not in kinds:
        raise ParameterError(f"optimiser {kind!r}: expected one of {', '.join(kinds)}")
    return kinds[kind](params, **options)


def clip_grad_norm(params, max_norm: float) -> float:
    """Scale all gradients so that their joint 2-norm is at most max_norm.

    Parameters
    ----------
    params : list of Tensor, or dict of named ones
    max_norm : float, > 0

    Returns
    -------
    float, the norm before; on a device a Tensor of it, which nothing waits for until it is read.

    Raises
    ------
    TrainingError
        If a gradient is not finite; the parameter is named. Not on a device, where the gradients then become NaN.
    """
    number("clip_grad_norm", "max_norm", max_norm, above=0, most=math.inf)
    params = {name: p for name, p in _named("clip_grad_norm", params).items() if p.grad is not None}
    if device := next((p.device for p in params.values() if on_device(p.grad)), None):
        grads, squares = operations(device).clipped([p.grad for p in params.values()], max_norm)
        for p, grad in zip(params.values(), grads, strict=True):
            p.grad = grad
        return Tensor(np.sqrt(squares))
    norm = math.sqrt(sum(_square_sum(np.ascontiguousarray(p.grad).reshape(-1)) for p in params.values()))
    if not math.isfinite(norm):
        name = next((n for n, p in params.items() if not np.isfinite(p.grad).all()), "(none: the norm overflowed)")
        raise TrainingError(f"clip_grad_norm: the gradient of parameter {name!r} is not finite")
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        for p in params.values():  # out of place: two leaves may share one gradient array
            p.grad = p.grad * p.grad.dtype.type(factor)
    return norm


def clip_grad_value(params, max_value: float):
    """Clip each entry of each gradient to [-max_value, max_value]."""
    number("clip_grad_value", "max_value", max_value, above=0, most=math.inf)
    for p in _named("clip_grad_value", params).values():
        if p.grad is not None:
            p.grad = np.minimum(np.maximum(p.grad, -max_value), max_value)


def constant_lr(lr: float):
    """Schedule: lr(epoch) = lr."""
    number("constant_lr", "lr", lr, least=0)
    return lambda epoch: lr


def step_lr(lr: float, every: int, factor: float = 0.1):
    """Schedule: lr(epoch) = lr * factor^(epoch // every)."""
    number("step_lr", "lr", lr, least=0)
    number("step_lr", "factor", factor, least=0)
    whole("step_lr", every=(every, 1))
    return lambda epoch: lr * factor ** (epoch // every)


def cosine_lr(lr: float, epochs: int, warmup: int = 0, final: float = 0.0):
    """Schedule: a straight rise over `warmup` epochs to lr, then half a cosine down to `final` at `epochs`.

    lr(epoch) = lr (epoch + 1) / (warmup + 1) below warmup; then, with x = (epoch - warmup) / (epochs - warmup),
    final + (lr - final) (1 + cos(pi x)) / 2. Source: Loshchilov & Hutter 2017, equation 5, without restarts.
    """
    number("cosine_lr", "lr", lr, least=0)
    number("cosine_lr", "final", final, least=0)
    number("cosine_lr", "epochs", epochs, above=0, most=math.inf)
    number("cosine_lr", "warmup", warmup, least=0, below=epochs, hint=", epochs")

    def rate(epoch):
        if epoch < warmup:
            return lr * (epoch + 1) / (warmup + 1)
        x = min((epoch - warmup) / (epochs - warmup), 1.0)
        return final + (lr - final) * (1 + math.cos(math.pi * x)) / 2

    return rate


def _named(where, params) -> dict:
    """Parameters by name, each once."""
    named = dict(params) if isinstance(params, dict) else None
    params = list(params if named is None else named.values()) if hasattr(params, "__iter__") else [params]
    if wrong := [type(p).__name__ for p in params if not isinstance(p, Tensor)]:
        raise ParameterError(f"{where}: params holds {wrong[0]}, expected parameters (Tensor); pass net.parameters()")
    if named is None:
        names = [p.name for p in params]
        if None in names or len(set(names)) < len(names):
            names = [str(k) for k in range(len(params))]
        named = dict(zip(names, params, strict=True))
    if not named:
        raise ParameterError(f"{where}: no parameters given")
    if len({id(p) for p in named.values()}) < len(named):
        raise ParameterError(f"{where}: a parameter is given twice, among {', '.join(named)}")
    frozen = [name for name, p in named.items() if not p.requires_grad]
    if frozen:
        raise ParameterError(f"{where}: {', '.join(frozen)} has requires_grad=False; leave it out or make it trainable")
    return named
