"""Rasters: one mark for each event, neurons over time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nsim.checks import number
from nsim.errors import ParameterError, ShapeError
from nsim.events import Spikes
from nsim.plot.style import (
    FAINT,
    beside,
    check_labels,
    check_names,
    check_sample,
    colour,
    layers_of,
    marks,
    new_axes,
    open_axes,
    points_high,
    spread,
    time_axis,
)
from nsim.plot.traces import columns, membrane, one_layer


class Band(NamedTuple):
    """One band of a raster: a sample of a layer, its name and its colour, and the neurons drawn below it."""

    spikes: Spikes
    sample: int
    name: str
    color: str
    below: int


def raster(spikes, sample=0, ax=None, *, labels=None, names=None, color=None, size=None):
    """One mark for each event, neurons over time.

    A list of layers is stacked, the first at the bottom, one colour a layer; so is a list of samples. The time after
    the true length of a sample is shaded. Graded and repeated events are marked like any other.

    Parameters
    ----------
    spikes : Spikes, or list of Spikes with the same dt
    sample : int, or list of int with a single Spikes
        Which sample of the batch.
    ax : matplotlib Axes, optional
    labels : int array [B], optional
        Colours and names each sample by its label (with one layer only).
    names : list of str, optional
        One for each band, in place of "layer 0", "sample 0" or "label 0".
    color : matplotlib colour, optional
        One colour for all events.
    size : float, points, optional
        Height of a mark; by default a neuron's share of the axes, within 1.2 to 7.

    Returns
    -------
    Axes. Each band is one line of marks at (step * dt in seconds, neuron + number of neurons in the bands below).

    Raises
    ------
    ParameterError, EventError, ShapeError
        If `spikes` holds anything but Spikes, a sample is out of range, or names or labels do not match in number.
    """
    bands = _bands(spikes, sample, labels, names, color)
    if size is not None:
        number("plot.raster", "size", size, above=0, hint=", in points, or None")
    ax = open_axes("raster", ax, (6.0, 3.6))
    dt, steps = bands[0].spikes.dt, max(band.spikes.shape[1] for band in bands)
    total = bands[-1].below + bands[-1].spikes.shape[2]
    height = float(np.clip(0.8 * points_high(ax) / total, 1.2, 7.0)) if size is None else size
    for band in bands:
        if band.spikes.lengths is not None:
            end = int(band.spikes.lengths[band.sample])
            low, high = band.below - 0.5, band.below + band.spikes.shape[2] - 0.5
            ax.fill_between([end * dt, steps * dt], low, high, color="0.93", linewidth=0, zorder=0)
        step, unit = band.spikes.sample(band.sample)
        marks(ax, step * dt, unit + np.int64(band.below), band.color, height, 0.7 if height < 3 else 1.0, band.name)
    time_axis(ax, steps * dt)
    ax.set_ylim(-0.5 - 0.01 * total, total - 0.5 + 0.01 * total)
    ax.set_ylabel("neuron")
    if len(bands) > 1:
        _name_bands(ax, bands, total)
        return ax
    ax.locator_params(axis="y", integer=True)
    if labels is not None or names is not None:
        ax.set_title(bands[0].name, color=bands[0].color, loc="right", fontsize="medium")
    return ax


def raster_and_membrane(spikes, v, neurons, sample=0, ax=None, *, threshold=1.0):
    """A raster beside the membrane traces of chosen neurons, whose events have the colours of their traces.

    Parameters
    ----------
    spikes : Spikes [B, T, N]
    v : array or Tensor [B, T, K], [B, T, N], [T, K] or [T, N], in units of the drive
        Membrane of the K chosen neurons, or of all N (taken as all N where K = N). Without a batch axis: of `sample`.
    neurons : int or list of K int
    sample : int
    ax : pair of matplotlib Axes, optional
    threshold : float, array [K] or array [T, K] (an adaptive threshold), optional
        Drawn dashed; None draws none.

    Returns
    -------
    (Axes of the raster, Axes of the traces). The first line of the raster holds all events, the next K the chosen
    neurons'; the traces are those of `membrane`.

    Raises
    ------
    ParameterError, EventError, ShapeError
        If a sample or neuron is out of range, or `v` has another shape.
    """
    function = "raster_and_membrane"
    layer = one_layer(function, spikes)
    _, neurons = columns(function, v, sample, neurons, layer)
    if ax is None:
        ax = new_axes((9.0, 3.6), 2, width_ratios=(1, 1.2))
    if np.shape(ax) != (2,):
        raise ParameterError(
            f"plot.{function}: ax is a {type(ax).__name__}; expected a pair of Axes, as of plt.subplots(1, 2)"
        )
    left = raster(layer, sample, ax[0], color=FAINT)
    step, unit = layer.sample(sample)
    height = float(np.clip(points_high(left) / layer.shape[2], 5.0, 10.0))
    for k, neuron in enumerate(neurons):
        own = unit == neuron
        marks(left, step[own] * layer.dt, unit[own].astype(np.int64), colour(k), height, 1.2, f"neuron {neuron}")
        pointer = {"marker": "<", "markersize": 4, "transform": left.get_yaxis_transform(), "clip_on": False}
        left.plot([1.015], [neuron], color=colour(k), label="_pointer", **pointer)
    right = membrane(v, layer.dt, ax[1], threshold=threshold, spikes=layer, sample=sample, neurons=neurons)
    return left, right


def _bands(spikes, sample, labels, names, color) -> list[Band]:
    """The bands of a raster, the lowest first; everything is checked here, before anything is drawn."""
    layers = layers_of("raster", spikes)
    samples = list(sample) if np.ndim(sample) else [sample]
    if len(layers) > 1 and len(samples) > 1:
        raise ShapeError(f"plot.raster: {len(layers)} layers and {len(samples)} samples; stack one or the other")
    if not samples:
        raise ShapeError("plot.raster: an empty list of samples; give at least one")
    if len(layers) > 1 and labels is not None:
        raise ParameterError("plot.raster: labels colour samples of one layer; a stack of layers is coloured by layer")
    pairs = [(layer, check_sample("raster", b, layer.shape[0])) for layer in layers for b in samples]
    if labels is not None:
        labels = check_labels("raster", labels, layers[0].shape[0])
        kinds = [(f"label {labels[b]}", colour(labels[b])) for _, b in pairs]
    elif len(samples) > 1:
        kinds = [(f"sample {b}", colour(k)) for k, (_, b) in enumerate(pairs)]
    else:
        kinds = [(f"layer {k}", colour(k)) for k in range(len(pairs))]
    if names is not None:
        kinds = [
            (name, c) for name, (_, c) in zip(check_names("raster", names, len(pairs), "bands"), kinds, strict=True)
        ]
    below = np.cumsum([0] + [layer.shape[2] for layer, _ in pairs])
    return [
        Band(layer, b, name, c if color is None else color, int(offset))
        for (layer, b), (name, c), offset in zip(pairs, kinds, below, strict=False)
    ]


def _name_bands(ax, bands, total):
    """Names beside the bands, a line between them, and ticks that count each band's neurons from 0."""
    line = 12.0 * total / points_high(ax)  # neurons in the height of a line of text
    step = _round_step(max(2 * line, total / 10))
    places, numbers = [], []
    for band in bands:
        n = band.spikes.shape[2]
        local = [k for k in range(0, n, step) if k == 0 or n - k >= line]
        places += [band.below + k for k in local]
        numbers += local
    ax.set_yticks(places, [str(k) for k in numbers])
    for band in bands[1:]:
        ax.axhline(band.below - 0.5, color="black", linewidth=0.6)
    centres = [band.below + (band.spikes.shape[2] - 1) / 2 for band in bands]
    for band, y in zip(bands, spread(centres, line), strict=True):
        beside(ax, y, band.name, band.color)


def _round_step(least) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is at least `least`."""
    return next(m * 10**e for e in range(20) for m in (1, 2, 5) if m * 10**e >= least)
