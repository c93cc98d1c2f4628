"""The methods of `Graph` that add a node of each kind; numbers of channels come from the node that it reads."""

from __future__ import annotations

import math

from nsim.ann.conv import Conv2d, IdentityShortcut
from nsim.ann.operation import Add, Affine, BatchNorm, Flatten, Linear, ReLU
from nsim.ann.pooling import AvgPool, GlobalAvgPool, MaxPool
from nsim.errors import ParameterError


class Builder:
    """Adds nodes with `self.apply`. Each method takes the nodes it reads, options, and `name=`, and gives a node."""

    def conv2d(self, x, out_channels, kernel_size, *, stride=1, padding=0, groups=1, bias=True, name=None):
        """See `Conv2d`."""
        options = {"stride": stride, "padding": padding, "groups": groups, "bias": bias}
        channels = self._shape("conv2d", x)[-1]
        return self.apply(Conv2d(channels, out_channels, kernel_size, **options, **self._new), x, name=name)

    def identity_shortcut(self, x, out_channels, *, stride=1, before=None, padding=0, name=None):
        """See `IdentityShortcut`."""
        channels, options = self._shape("identity_shortcut", x)[-1], {"stride": stride, "padding": padding}
        made = IdentityShortcut(channels, out_channels, before=before, **options, dtype=self.dtype)
        return self.apply(made, x, name=name)

    def linear(self, x, out_features, *, bias=True, name=None):
        """See `Linear`."""
        features = math.prod(self._shape("linear", x))
        return self.apply(Linear(features, out_features, bias=bias, **self._new), x, name=name)

    def affine(self, x, *, name=None):
        """See `Affine`."""
        return self.apply(Affine(self._shape("affine", x)[-1], dtype=self.dtype), x, name=name)

    def batch_norm(self, x, *, eps=1e-5, momentum=0.1, name=None):
        """See `BatchNorm`."""
        channels = self._shape("batch_norm", x)[-1]
        return self.apply(BatchNorm(channels, eps=eps, momentum=momentum, dtype=self.dtype), x, name=name)

    def relu(self, x, *, name=None):
        """See `ReLU`."""
        return self.apply(ReLU(), x, name=name)

    def avg_pool(self, x, kernel_size, *, stride=None, padding=0, count_include_pad=True, name=None):
        """See `AvgPool`."""
        made = AvgPool(kernel_size, stride=stride, padding=padding, count_include_pad=count_include_pad)
        return self.apply(made, x, name=name)

    def max_pool(self, x, kernel_size, *, stride=None, padding=0, name=None):
        """See `MaxPool`."""
        return self.apply(MaxPool(kernel_size, stride=stride, padding=padding), x, name=name)

    def global_avg_pool(self, x, *, name=None):
        """See `GlobalAvgPool`."""
        return self.apply(GlobalAvgPool(), x, name=name)

    def add(self, x, y, *, name=None):
        """See `Add`."""
        return self.apply(Add(), x, y, name=name)

    def flatten(self, x, *, name=None):
        """See `Flatten`."""
        return self.apply(Flatten(), x, name=name)

    def _shape(self, kind, x):
        """Shape of what a new node reads, from which its numbers of channels follow."""
        if not self._has(x):
            raise ParameterError(f"{kind}: x = {x!r:.60}: expected a node of this graph; net[name] is one by its name")
        return x.shape

    @property
    def _new(self):
        return {"dtype": self.dtype, "rng": self.rng}
