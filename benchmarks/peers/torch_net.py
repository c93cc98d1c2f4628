"""Plain PyTorch: a fair dense loop, and the loop of the paper's own baseline."""

import torch
from torch.nn.functional import cross_entropy

from benchmarks.common import versions
from benchmarks.shapes import LEARNING_RATE


class FastSigmoid(torch.autograd.Function):
    """Spike where u > 0; backward 1 / (slope |u| + 1)^2."""

    @staticmethod
    def forward(ctx, u, slope):
        ctx.save_for_backward(u)
        ctx.slope = slope
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad / (ctx.slope * u.abs() + 1) ** 2, None


class TorchNet:
    """What all peers on PyTorch share; a subclass gives `logits(x)` from the dense batch, [T, B, N].

    `self.scale[l]` is what the framework's surrogates multiply the gradient of layer l by; it is divided out.
    """

    packages = ("torch",)

    def __init__(self, shape, weights, threads):
        torch.set_num_threads(threads)
        self.shape = shape
        self.scale = [1.0] * len(weights)
        self.make(weights)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE, fused=True)

    @property
    def versions(self):
        return versions(*self.packages)

    def make(self, weights):
        self.weights = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in weights]

    def parameters(self):
        return self.weights

    def prepare(self, events):
        return torch.from_numpy(events.dense()), torch.from_numpy(events.labels)

    def forward(self, batch):
        x, labels = batch
        return cross_entropy(self.logits(x), labels)

    def backward(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        for p, scale in zip(self.parameters(), self.scale, strict=True):
            if scale != 1:
                p.grad /= scale

    def step(self, batch):
        loss = self.forward(batch)
        self.backward(loss)
        self.optimizer.step()
        return loss.item()

    def gradients(self, batch):
        loss = self.forward(batch)
        self.backward(loss)
        grads = [p.grad.double().numpy() for p in self.parameters()]
        return loss.item(), [g if g.shape == s else g.T for g, s in zip(grads, self.layer_shapes(), strict=True)]

    def layer_shapes(self):
        return list(zip(self.shape.sizes, self.shape.sizes[1:], strict=False))

    def shifted(self, a):
        """a [T, ...] of which step t is read at step t + delay: the last steps are never read."""
        return a[: self.shape.steps - self.shape.delay]

    def unshifted(self, a):
        """The drive [T - delay, ...] as T steps, silent at first."""
        return [torch.zeros_like(a[0])] * self.shape.delay + list(a.unbind(0))


class Fair(TorchNet):
    """Drive as one product over all steps, `unbind` over time, list and stack, reset detached: cost grows with T."""

    def hidden(self, drive):
        """Spikes [T, B, N] of a layer from its drive, a list of T steps."""
        beta, slope = self.shape.beta, self.shape.slope
        v = s = torch.zeros_like(drive[0])
        spikes = []
        for x_t in drive:
            v = torch.add(x_t - s.detach(), v, alpha=beta)
            s = FastSigmoid.apply(v - 1, slope)
            spikes.append(s)
        return torch.stack(spikes)

    def logits(self, x):
        for w in self.weights[:-1]:
            x = self.hidden(self.unshifted(self.shifted(x) @ w))
        beta = self.shape.beta_out
        o = total = 0
        for x_t in self.unshifted((1 - beta) * (self.shifted(x) @ self.weights[-1])):
            o = x_t + beta * o
            total = total + o
        return total


class PaperLoop(TorchNet):
    """The dense baseline of Perez-Nieves & Goodman 2021 as its published code loops: [B, T, N], `h[:, t]` in the loop.

    The backward of each `h[:, t]` makes a zero tensor of the size of h, so that its cost grows with T^2.
    """

    def prepare(self, events):
        return torch.from_numpy(events.dense(time_first=False)), torch.from_numpy(events.labels)

    def logits(self, x):
        steps, delay = self.shape.steps, self.shape.delay
        for w in self.weights[:-1]:
            h = torch.einsum("abc,cd->abd", (x, w))
            v = s = torch.zeros_like(h[:, 0])
            spikes = []
            for t in range(steps):
                v = self.shape.beta * v - s.detach()
                if t >= delay:
                    v = v + h[:, t - delay]
                s = FastSigmoid.apply(v - 1, self.shape.slope)
                spikes.append(s)
            x = torch.stack(spikes, dim=1)
        h = torch.einsum("abc,cd->abd", (x, self.weights[-1]))
        o = torch.zeros_like(h[:, 0])
        outputs = []
        for t in range(steps):
            o = self.shape.beta_out * o
            if t >= delay:
                o = o + (1 - self.shape.beta_out) * h[:, t - delay]
            outputs.append(o)
        return torch.stack(outputs, dim=1).sum(1)
