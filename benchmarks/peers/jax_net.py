"""JAX: `lax.scan` over time, the whole step with Adam in one jitted function."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.common import versions
from benchmarks.shapes import LEARNING_RATE


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def spike(u, slope):
    """1 where u > 0; backward 1 / (slope |u| + 1)^2."""
    return (u > 0).astype(u.dtype)


def _spike_forward(u, slope):
    return spike(u, slope), u


def _spike_backward(slope, u, grad):
    return (grad / (slope * jnp.abs(u) + 1) ** 2,)


spike.defvjp(_spike_forward, _spike_backward)


def lif(drive, beta, slope, unroll):
    """Spikes of the drive [T, B, N]."""

    def step(state, x):
        v, s = state
        v = beta * v + x - lax.stop_gradient(s)
        s = spike(v - 1, slope)
        return (v, s), s

    zero = jnp.zeros_like(drive[0])
    return lax.scan(step, (zero, zero), drive, unroll=unroll)[1]


def readout(drive, beta):
    """Sum over time of the leaky integrator of the drive."""

    def step(state, x):
        o, total = state
        o = beta * o + (1 - beta) * x
        return (o, total + o), None

    zero = jnp.zeros_like(drive[0])
    return lax.scan(step, (zero, zero), drive)[0][1]


def delayed(drive, delay):
    """Silent for `delay` steps first; as long as before."""
    return drive if delay == 0 else jnp.concatenate([jnp.zeros_like(drive[:delay]), drive[:-delay]])


def logits_hoisted(weights, x, shape, unroll):
    """Each layer's drive as one product over all steps, then a scan of that layer."""
    for w in weights[:-1]:
        x = lif(delayed(x @ w, shape.delay), shape.beta, shape.slope, unroll)
    return readout(delayed(x @ weights[-1], shape.delay), shape.beta_out)


def logits_inside(weights, x, shape, unroll):
    """One scan of the whole network, its products inside, as the equations are written."""
    batch = x.shape[1]

    def layer_line(width):  # what a layer still has to receive: its input of the last `delay` steps
        return jnp.zeros((shape.delay, batch, width), x.dtype)

    def step(state, x_t):
        lines, vs, ss, o, total = state
        new_lines, new_vs, new_ss = [], [], []
        for k, w in enumerate(weights):
            if shape.delay:
                new_lines.append(jnp.concatenate([lines[k][1:], x_t[None]]))
                x_t = lines[k][0]
            drive = x_t @ w
            if k < len(vs):
                v = shape.beta * vs[k] + drive - lax.stop_gradient(ss[k])
                x_t = spike(v - 1, shape.slope)
                new_vs.append(v)
                new_ss.append(x_t)
        o = shape.beta_out * o + (1 - shape.beta_out) * drive
        return (new_lines, new_vs, new_ss, o, total + o), None

    zeros = [jnp.zeros((batch, w.shape[1]), x.dtype) for w in weights]
    lines = [layer_line(w.shape[0]) for w in weights] if shape.delay else []
    state = (lines, zeros[:-1], zeros[:-1], zeros[-1], zeros[-1])
    return lax.scan(step, state, x, unroll=unroll)[0][4]


def adam(p, grad, m, v, t, lr=LEARNING_RATE, b1=0.9, b2=0.999, eps=1e-8):
    m = b1 * m + (1 - b1) * grad
    v = b2 * v + (1 - b2) * grad**2
    return p - lr * (m / (1 - b1**t)) / (jnp.sqrt(v / (1 - b2**t)) + eps), m, v


class Net:
    """`hoist`: the drive outside the scan, as one product. `unroll`: steps of the scan that are compiled together."""

    def __init__(self, shape, weights, threads, hoist=True, unroll=1):
        logits = logits_hoisted if hoist else logits_inside

        def loss(weights, x, labels):
            log_p = jax.nn.log_softmax(logits(weights, x, shape, unroll))
            return -log_p[jnp.arange(len(labels)), labels].mean()

        def step(state, x, labels):
            weights, ms, vs, t = state
            value, grads = jax.value_and_grad(loss)(weights, x, labels)
            new = [adam(*a, t) for a in zip(weights, grads, ms, vs, strict=True)]
            return value, (*(list(a) for a in zip(*new, strict=True)), t + 1)

        weights = [jnp.asarray(w) for w in weights]
        zeros = [jnp.zeros_like(w) for w in weights]
        self.state = (weights, zeros, [jnp.copy(z) for z in zeros], jnp.float32(1))
        self.loss = jax.jit(loss)
        self.value_and_grad = jax.jit(jax.value_and_grad(loss))
        self.jitted_step = jax.jit(step, donate_argnums=0)

    @property
    def versions(self):
        return versions("jax")

    def prepare(self, events):
        return jnp.asarray(events.dense()), jnp.asarray(events.labels)

    def forward(self, batch):
        """The loss without what a gradient needs: JAX runs forward and backward as one program (see `backward`)."""
        self.batch = batch
        return self.loss(self.state[0], *batch).block_until_ready()

    def backward(self, loss):
        """The whole of forward and backward."""
        jax.block_until_ready(self.value_and_grad(self.state[0], *self.batch))

    def step(self, batch):
        value, self.state = self.jitted_step(self.state, *batch)
        return float(jax.block_until_ready((value, self.state))[0])

    def gradients(self, batch):
        value, grads = self.value_and_grad(self.state[0], *batch)
        return float(value), [np.asarray(g, np.float64) for g in grads]
