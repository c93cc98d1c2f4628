"""What all pictures share: colours, axes, marks, and the checks of what is to be drawn."""

from __future__ import annotations

from operator import index

import numpy as np

from nsim.errors import EventError, ParameterError, ShapeError
from nsim.events import Spikes

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers tell apart too. Source: Okabe & Ito 2008, without the pale yellow."""

MORE = (
    "#550099", "#88CC00", "#FF0066", "#555500", "#DD00AA", "#771122", "#AA88FF",
    "#BBCC77", "#FFAA88", "#00DD77", "#005555", "#553366", "#117700",
)  # fmt: skip
"""Colours for an eighth to a twentieth thing, neither pale nor glaring. Each was chosen as far as it can be (in CIE
L*a*b*) from white, FAINT and all colours before it: at least 38, where the nearest two of PALETTE are 26 apart."""

FAINT = "#999999"
"""Grey of thresholds, and of events that are only background."""


def colour(k: int) -> str:
    """Colour of the k-th layer, neuron or label; they start again after twenty."""
    colours = PALETTE + MORE
    return colours[k % len(colours)]


def new_axes(size, columns=1, **options):
    """Axes on a new figure of `size` (width, height in inches); an array of them where columns > 1."""
    import matplotlib.pyplot as plt

    return plt.subplots(1, columns, figsize=size, **{"layout": "constrained"} | options)[1]


def open_axes(function, ax, size):
    """`ax`, or new axes of `size` (inches) where it is None, without the top and right frame."""
    from matplotlib.axes import Axes

    if ax is None:
        ax = new_axes(size)
    if not isinstance(ax, Axes):
        raise ParameterError(
            f"plot.{function}: ax is a {type(ax).__name__}; expected one matplotlib Axes, or None for a new one"
        )
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def time_axis(ax, duration):
    """0 to `duration` seconds, with a margin that keeps marks at both ends whole."""
    ax.set_xlim(-0.01 * duration, 1.01 * duration)
    ax.locator_params(axis="x", nbins=7)
    ax.set_xlabel("time (s)")


def points_high(ax) -> float:
    """Height of the axes in points."""
    return 72.0 * ax.bbox.height / ax.figure.dpi


def marks(ax, x, y, color, height, width, label):
    """Events as upright ticks of `height` and `width` points: one line, rasterized so that a PDF stays small."""
    ax.plot(
        x,
        y,
        linestyle="none",
        marker="|",
        markersize=height,
        markeredgewidth=width,
        color=color,
        rasterized=True,
        label=label,
    )


def beside(ax, y, text, color):
    """Text to the right of the axes at height y, in data units."""
    ax.text(1.015, y, text, color=color, transform=ax.get_yaxis_transform(), va="center", fontsize="small")


def layers_of(function, spikes) -> list[Spikes]:
    """A Spikes, or a sequence of them with the same dt, as a list."""
    layers = list(spikes) if isinstance(spikes, (list, tuple)) else [spikes]
    if not layers:
        raise ShapeError(f"plot.{function}: an empty list of layers; expected Spikes or a list of Spikes")
    for layer in layers:
        if not isinstance(layer, Spikes):
            raise ParameterError(
                f"plot.{function}: got a {type(layer).__name__}; expected Spikes or a list of Spikes "
                "(nsim.Spikes.from_dense makes them from an array)"
            )
        if layer.dt != layers[0].dt:
            raise ParameterError(f"plot.{function}: layers with dt = {layers[0].dt} s and {layer.dt} s in one picture")
    return layers


def check_sample(function, sample, batch) -> int:
    """`sample` as an int from 0 to batch - 1."""
    sample = whole(function, "sample", sample)
    if not 0 <= sample < batch:
        raise EventError(f"plot.{function}: sample {sample}; this batch has samples 0 to {batch - 1}")
    return sample


def check_neurons(function, neurons, n=None) -> list[int]:
    """One neuron or a sequence of them as a list of ints from 0 to n - 1 (to any number where n is None)."""
    chosen = [whole(function, "neuron", k) for k in np.atleast_1d(np.asarray(neurons, dtype=object))]
    span = "0 and up" if n is None else f"0 to {n - 1}"
    if not chosen:
        raise EventError(f"plot.{function}: no neuron chosen; give at least one of {span}")
    for k in chosen:
        if k < 0 or (n is not None and k >= n):
            raise EventError(f"plot.{function}: neuron {k}; there are neurons {span}")
    return chosen


def check_names(function, names, count=None, what="") -> list[str]:
    """`names` as strings, one for each of `count`, or any number of them."""
    if not hasattr(names, "__iter__"):
        raise ParameterError(f"plot.{function}: got {names!r}; expected a list of names (str)")
    names = [str(name) for name in names]
    if count is not None and len(names) != count:
        raise ShapeError(f"plot.{function}: {len(names)} names for {count} {what}; give one for each")
    return names


def check_labels(function, labels, count) -> list[int]:
    """`labels` as a list of `count` ints."""
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise ShapeError(f"plot.{function}: labels of shape {labels.shape}; expected one for each of {count} samples")
    if labels.dtype.kind not in "iu" and count:
        raise ParameterError(f"plot.{function}: labels have dtype {labels.dtype}; expected integers")
    return labels.astype(np.int64).tolist()


def whole(function, name, value) -> int:
    """`value` as an int."""
    try:
        return index(value)
    except TypeError:
        raise ParameterError(f"plot.{function}: {name} = {value!r}; expected a whole number") from None


def spread(heights, gap) -> np.ndarray:
    """Rising `heights` moved down as little as it takes for neighbours to be `gap` apart."""
    placed = np.array(heights, float)
    for k in range(len(placed) - 2, -1, -1):
        placed[k] = min(placed[k], placed[k + 1] - gap)
    return placed
