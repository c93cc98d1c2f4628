"""Calibration: a threshold for each ReLU from its activations on example images, in one pass: their maximum, a high
percentile, or what makes the error of a quantised ReLU least.

Activations go into histograms over the leading bits of their float32 pattern, which rises with the number: each power
of two is cut into equal bins, so that the accuracy is relative and no range has to be known before. The memory does not
grow with the number of images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np

from nsim import ann
from nsim.ann import parallel
from nsim.ann.graph import Graph
from nsim.checks import all_finite, number
from nsim.convert.neurons import Quantiser
from nsim.errors import EventWarning, ParameterError, ShapeError
from nsim.kernels import calibrate as kernels
from nsim.kernels.threads import over
from nsim.tape import Tensor

LOWEST, HIGHEST = -32, 32  # powers of two that have bins of their own
BATCH = 64  # images that go through at once where they come as one array
KEPT_BYTES = 1 << 28  # of activations that are kept at once
PARTS = 1 << 12  # of a power of two, layer-wise
CHANNEL_PARTS, FEWEST = 1 << 7, 1 << 3  # the same channel-wise; fewer where there are so many channels that
HISTOGRAM_BYTES = 1 << 27  # their counts would take more than this
TRIED = np.geomspace(0.1, 1.6, 70)  # thresholds among which the least error is looked for, in units of the maximum


class Histogram:
    """Counts of activations of C channels (or of a layer, C = 1) by their leading bits.

    Bins are 1 / parts of a power of two wide and interpolated: a percentile is off by at most a factor of 1 + 1 / parts
    from that of numpy.percentile. Below 2^-32 all counts as zero, and from 2^32 on as the maximum.
    """

    def __init__(self, channels: int, parts: int):
        self.parts, self.shift = parts, 23 - (parts.bit_length() - 1)
        self.low = np.float32(2.0**LOWEST).view(np.int32) >> self.shift
        self.bins = ((HIGHEST - LOWEST) * parts) + 2  # zero first, what is too large last
        self.counts = np.zeros((channels, self.bins), np.int64)
        self.largest = np.zeros(channels, np.float32)

    def add(self, values: np.ndarray):
        """Activations float32 [any, C], none negative."""
        channels = len(self.counts)
        values = np.ascontiguousarray(values.reshape(-1, channels))
        np.maximum(self.largest, values.max(axis=0), out=self.largest)
        place = np.clip((values.view(np.int32) >> self.shift) - (self.low - 1), 0, self.bins - 1)
        place += np.arange(channels, dtype=place.dtype) * self.bins
        self.counts += np.bincount(place.ravel(), minlength=self.counts.size).reshape(self.counts.shape)

    def _edges(self, bins):
        """Where these bins begin."""
        return ((bins - 1 + self.low).astype(np.int64) << self.shift).astype(np.int32).view(np.float32).astype(float)

    def least_error(self, quantiser: Quantiser) -> np.ndarray:
        """float64 [C]: the threshold with which the mean square of a - quantiser(a, threshold) is least, to 4 %.
        Activations count as evenly spread over their bin."""
        # The first bin holds zeros and the last what is beyond the powers of two that have bins: neither has a width.
        edges, best = self._edges(np.arange(1, self.bins)), np.empty(len(self.counts))
        over(
            kernels.least_error, len(best), self.counts[:, 1:-1], edges, self.largest.astype(np.float64), TRIED,
            float(quantiser.levels), float(quantiser.most), best,
        )  # fmt: skip
        within = (self.largest >= 2.0 ** (LOWEST + 4)) & (self.largest < 2.0**HIGHEST)
        return np.where(within, best, self.largest)  # where nearly all is beyond the bins, nothing tells errors apart

    def percentile(self, percent: float) -> np.ndarray:
        """float64 [C]; 100 gives the maximum, which is exact; 0 also where it is between 0 and the least activation."""
        total = self.counts.cumsum(axis=1)
        rank = percent / 100 * (total[:, -1] - 1)
        below, above = self._sorted(total, np.floor(rank)), self._sorted(total, np.ceil(rank))
        return np.where(below > 0, below + (rank - np.floor(rank)) * (above - below), 0.0)

    def _sorted(self, total, k):
        """float64 [C]: the k-th smallest activation of each channel, k [C] from 0 on; `total`: sums of counts."""
        rows, at = np.arange(len(total)), (total <= k[:, None]).sum(axis=1)
        before = np.where(at > 0, total[rows, at - 1], 0)
        share = (k - before + 0.5) / self.counts[rows, at]  # those of a bin count as evenly spread over it
        lower, upper = self._edges(at), self._edges(at + 1)
        value = np.where(at == 0, 0.0, np.minimum(lower + share * (upper - lower), self.largest))
        return np.where((k == total[:, -1] - 1) | (at == self.bins - 1), self.largest, value)


def batches(calibration) -> Iterable[np.ndarray]:
    """Calibration images as batches: of an array, or those of an iterable, or the first of each of its pairs."""
    if isinstance(calibration, np.ndarray):
        _images(calibration)
        return (calibration[k : k + BATCH] for k in range(0, len(calibration), BATCH))
    if not isinstance(calibration, Iterable) or isinstance(calibration, (str, bytes)):
        raise ParameterError(f"calibration is a {type(calibration).__name__}; expected an array or batches of images")
    return (_images(np.asarray(_first(batch))) for batch in calibration)


def _first(batch):
    batch = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    return batch.data if isinstance(batch, Tensor) else batch


def _images(batch):
    if batch.ndim < 2 or len(batch) == 0:
        raise ShapeError(
            f"calibration of shape {batch.shape}: expected images [batch, channels, height, width] or batches of them, "
            "and of one pair (images, labels) the images alone"
        )
    return batch


def _histogram(channels):
    parts = CHANNEL_PARTS
    while parts > FEWEST and 8 * channels * (HIGHEST - LOWEST) * parts > HISTOGRAM_BYTES:
        parts //= 2
    return Histogram(channels, parts)


def thresholds(
    net: Graph, parts: Iterable[np.ndarray], percentile: float | None, per_channel: bool,
    quantiser: Quantiser | None = None, raised: Iterable[str] = (),
) -> tuple[dict, dict, tuple]:  # fmt: skip
    """Thresholds of ReLUs and raised pools and floors of the latter, each {name: float64 [1] or [C]}, and the shape of
    an image; see `to_spiking` and `nsim.convert.lower`. Without a percentile, thresholds of least error for this
    quantiser; for raised pools then from the 99.9 percentile on both sides.

    A channel of which the percentile is 0 takes its maximum; one that never was active takes its layer's threshold; a
    layer that never was active, with a warning, the largest magnitude that came into it.

    Raises
    ------
    ParameterError
        If percentile is not above 1 and at most 100, there are no images, or an activation or an output is not finite.
    """
    if percentile is not None:
        number("to_spiking", "percentile", percentile, above=1, most=100, hint=" (the maximum): 99.9, not 0.999")
    raised = set(raised)
    nodes = [node for node in net if isinstance(node.operation, ann.ReLU) or node.name in raised]
    found, below = (
        {node.name: _histogram(node.shape[-1]) if per_channel else Histogram(1, PARTS) for node in some}
        for some in (nodes, [node for node in nodes if node.name in raised])
    )
    seen, shape = 0, None
    for images in parts:
        if shape not in (None, images.shape[1:]):
            raise ShapeError(f"calibration images of shapes {shape} and {images.shape[1:]}: all must be of one size")
        shape = images.shape[1:]
        sizes = net.shapes(shape)
        most = max(1, KEPT_BYTES // sum(4 * int(np.prod(sizes[name])) for name in found)) if found else len(images)
        for start in range(0, len(images), most):
            output, kept = net.forward(images[start : start + most], keep=found)
            for name, values in *((node.name, kept[node.name]) for node in nodes), (net.output.name, output):
                _finite(name, values, seen + start)

            def work(k, kept=kept):
                name = nodes[k].name
                if name in below:
                    below[name].add(np.maximum(-kept[name], 0))
                found[name].add(np.maximum(kept[name], 0) if name in below else kept[name])

            parallel.each(work, len(nodes))
        seen += len(images)
    if seen == 0:
        raise ParameterError("calibration holds no images; give some that the network was trained on")
    percent = 99.9 if percentile is None else percentile
    floors = {name: histogram.percentile(percent) for name, histogram in below.items()}
    values = {}
    for name, histogram in found.items():
        least = percentile is None and name not in below
        value = histogram.least_error(quantiser) if least else histogram.percentile(percent)
        value = np.where(value > 0, value, histogram.largest) + floors.get(name, 0.0)
        values[name] = np.where(value > 0, value, value.max())
    if silent := [name for name, value in values.items() if not value.max() > 0]:
        values |= _unseen(net, silent, images[start:])
        warnings.warn(
            f"{', '.join(silent)}: never active on {seen} calibration images. Where such a layer becomes active, its "
            "values are coarse: a guess, the largest magnitude that came into it, is its threshold. Give more or other "
            "images, unless it is known to be silent",
            EventWarning,
            stacklevel=3,
        )
    return values, floors, shape


def _finite(name, values, before):
    """Refuse what a node gave for a batch, after so many images, if it is not finite."""
    if not all_finite(values):
        image = before + np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0]
        raise ParameterError(
            f"{name}: NaN or infinity for calibration image {image}: sums beyond float32's range; normalise the images "
            "as the network expects, or train it anew"
        )


def _unseen(net, names, images):
    """Thresholds of layers that never were active. Any is exact as long as they stay silent. What they send if they do
    not is bounded best by what came into them: neurons rounded to zero err by a fraction of a threshold, while those
    clipped by a threshold too small err without bound."""
    sources = {name: net[name].inputs[0].name for name in names}
    _, kept = net.forward(images, keep=sources.values())
    # Of zeros alone nothing is known, not even a scale.
    return {name: np.array([float(np.abs(kept[source]).max()) or 1.0]) for name, source in sources.items()}
