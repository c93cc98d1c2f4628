"""Linear maps between populations: convolutions, matrices, and sparse matrices for all that only moves or averages.

Batch norm, thresholds and shortcuts are folded into these as factors of their channels, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import sparse

from nsim import arrays
from nsim.errors import ParameterError
from nsim.kernels.convert import Taps
from nsim.windows import Windows as Reach
from nsim.windows import packed


class Packed(NamedTuple):
    """A map as kernels read it: taps, or, where starts is not empty, sparse rows; see `nsim.kernels.convert.Edge`."""

    taps: Taps
    starts: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    @property
    def fan_out(self) -> np.ndarray:
        """Number of synapses of each neuron that the map reads."""
        if len(self.starts):
            return np.diff(self.starts)
        down, across = self.taps.spots[:, 2].astype(np.int64), self.taps.spots[:, 3]
        return np.repeat(down * across * (self.taps.channels_out // self.taps.groups), self.taps.channels)

    @property
    def nbytes(self) -> int:
        """Memory of the weights, and of the tables that say what they reach."""
        return sum(part.nbytes for part in (*self.taps, *self[1:]) if isinstance(part, np.ndarray))


EXACT = 1 << 40  # neurons times channels up to which places are found by multiplication
NO_TAPS = Taps(np.zeros((1, 1), np.float32), np.zeros((1, 4), np.int32), 1, 1 << 40, 1, 1, 1, 1)
NO_ROWS = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
NOTHING = Packed(NO_TAPS, *NO_ROWS)


@dataclass(frozen=True)
class Window(Reach):
    """Windows over a picture whose padding may differ between two sides: `padding` is top and left."""

    places: tuple[int, int] = (1, 1)

    def count(self, axis):
        return self.places[axis]


def window(label, windows, shape) -> Window:
    """From those of `nsim.ann`, over pictures of this shape."""
    (top, _), (left, _) = windows.padding
    places = windows.out_size(label, shape)
    return Window(label, tuple(shape[:2]), windows.kernel, windows.stride, (top, left), places)


def _inverse(label, neurons, channels):
    """Of division by multiplication, which is exact for all neurons n with n * channels < 2^40."""
    if neurons * channels >= EXACT:
        raise ParameterError(
            f"{label}: {neurons:,} neurons in {channels:,} channels; a convolution can be converted where the product "
            "of the two is below 2^40"
        )
    return EXACT // channels + 1


def along(scale, size):
    """Factors of channels as one for each neuron: channels are innermost."""
    return np.tile(scale, size // len(scale))


@dataclass(frozen=True)
class Convolution:
    """weight float64 [height, width, channels in / groups, channels out]."""

    weight: np.ndarray
    window: Window
    groups: int

    def scaled(self, before, after) -> Convolution:
        """With factors of the channels before and after it."""
        _, _, inner, outer = self.weight.shape
        # Output channel o of group g reads the input channels g inner to (g + 1) inner.
        reads = np.asarray(before).reshape(self.groups, inner).T.repeat(outer // self.groups, axis=1)
        return replace(self, weight=self.weight * reads * after)

    def packed(self) -> Packed:
        """Taps, and no sparse rows."""
        channels_in, channels_out = self.weight.shape[2] * self.groups, self.weight.shape[3]
        rows = arrays.copied(packed(self.weight, self.window, self.groups), np.float32)
        height, width_out = self.weight.shape[0], self.window.places[1]
        down, across = (self.window.reach(axis).astype(np.int64) for axis in (0, 1))
        down, across = down[:, None], across[None]
        first = (down[..., 0] * width_out + across[..., 0]) * channels_out
        tap = down[..., 2] * rows.shape[1] + across[..., 2] * (channels_out // self.groups)
        spots = np.stack(np.broadcast_arrays(first, tap, down[..., 1], across[..., 1]), axis=-1)
        spots = arrays.copied(spots.reshape(-1, 4), np.int32)
        inverse = _inverse(self.window.label, len(spots) * channels_in, channels_in)
        return Packed(Taps(rows, spots, channels_in, inverse, height, channels_out, width_out, self.groups), *NO_ROWS)


@dataclass(frozen=True)
class Matrix:
    """weight float64 or float32 [neurons in, neurons out]."""

    weight: np.ndarray

    def scaled(self, before, after) -> Matrix:
        n_in, n_out = self.weight.shape
        return Matrix(self.weight * along(before, n_in)[:, None] * along(after, n_out))

    def packed(self) -> Packed:
        """A convolution over a picture of one place, whose channels are the neurons."""
        rows = arrays.copied(self.weight, np.float32)
        spots = np.array([[0, 0, 1, 1]], np.int32)
        n_in, n_out = rows.shape
        return Packed(Taps(rows, spots, n_in, 0, 1, n_out, 1, 1), *NO_ROWS)  # inverse 0: every neuron is at place 0


@dataclass(frozen=True)
class Sparse:
    """weight: scipy CSR array [neurons in, neurons out]."""

    weight: sparse.csr_array

    def scaled(self, before, after) -> Sparse:
        n_in, n_out = self.weight.shape
        left, right = sparse.diags_array(along(before, n_in)), sparse.diags_array(along(after, n_out))
        return Sparse((left @ self.weight @ right).tocsr())

    def then(self, other: Sparse) -> Sparse:
        return Sparse((self.weight @ other.weight).tocsr())

    def packed(self) -> Packed:
        w = self.weight
        return Packed(NO_TAPS, w.indptr.astype(np.int64), w.indices.astype(np.int32), w.data.astype(np.float32))


def identity(n) -> Sparse:
    return Sparse(sparse.eye_array(n, format="csr"))


def turned(shape) -> np.ndarray:
    """For each neuron (h, w, c) of a picture its place in the vector (C, H, W) that `ann.Flatten` makes."""
    if len(shape) == 1:
        return np.arange(shape[0])
    height, width, channels = shape
    return np.arange(height * width * channels).reshape(channels, height, width).transpose(1, 2, 0).ravel()


def flatten(shape) -> Sparse:
    place = turned(shape)
    n = len(place)
    return Sparse(sparse.csr_array((np.ones(n), (np.arange(n), place)), shape=(n, n)))


def mean(windows: Window, share, channels) -> Sparse:
    """Averages over windows; `share` [H_out, W_out]: one over the pixels that each is of."""
    down, across = windows.reach(0), windows.reach(1)
    width, wide = windows.size[1], windows.places[1]
    pairs = [
        ((y * width + x) * channels, (v * wide + u) * channels, share[v, u])
        for y in range(windows.size[0])
        for v in range(down[y, 0], down[y, 0] + down[y, 1])
        for x in range(width)
        for u in range(across[x, 0], across[x, 0] + across[x, 1])
    ]
    first, then, value = (np.array(column) for column in zip(*pairs, strict=True))
    every = np.arange(channels)
    place = (first[:, None] + every).ravel(), (then[:, None] + every).ravel()
    shape = windows.size[0] * width * channels, windows.places[0] * wide * channels
    return Sparse(sparse.csr_array((np.repeat(value, channels), place), shape=shape))


def one_tap(convolution: Convolution) -> Sparse:
    """A convolution with a kernel of 1 and few weights other than zero, such as the shortcut without parameters."""
    win, weight = convolution.window, convolution.weight[0, 0]
    c_in, c_out = np.nonzero(weight)
    axes = zip(win.places, win.stride, win.padding, strict=True)
    reads = [np.arange(places) * stride - before for places, stride, before in axes]
    down, across = (np.flatnonzero((at >= 0) & (at < size)) for at, size in zip(reads, win.size, strict=True))
    source = (reads[0][down, None] * win.size[1] + reads[1][across]).ravel() * weight.shape[0]
    target = (down[:, None] * win.places[1] + across).ravel() * weight.shape[1]
    place = (source[:, None] + c_in).ravel(), (target[:, None] + c_out).ravel()
    values = np.tile(weight[c_in, c_out], len(source))
    shape = np.prod(win.size) * weight.shape[0], np.prod(win.places) * weight.shape[1]
    return Sparse(sparse.csr_array((values, place), shape=shape))
