"""Values over time: membrane traces of single neurons, and the rate of a population."""

from __future__ import annotations

import numpy as np

from nsim.checks import number
from nsim.errors import ParameterError, ShapeError
from nsim.events import step_mask
from nsim.plot.style import (
    FAINT,
    beside,
    check_names,
    check_neurons,
    check_sample,
    colour,
    layers_of,
    marks,
    open_axes,
    points_high,
    time_axis,
)
from nsim.tape import Tensor
from nsim.times import tick


def membrane(v, dt, ax=None, *, threshold=None, spikes=None, sample=0, neurons=None, stacked=True):
    """Membrane traces over time, with the threshold dashed and the spikes as ticks above it.

    Parameters
    ----------
    v : array or Tensor [T], [T, K] or [B, T, K], in units of the drive
        One column a neuron. With `neurons`, its columns are those neurons, or else the whole layer.
    dt : float, seconds
    ax : matplotlib Axes, optional
    threshold : float, array [K] or array [T, K] (an adaptive threshold), optional
    spikes : Spikes [B, T, N], optional
        The layer's events; those of `neurons` are marked.
    sample : int
        Which sample of the batch, of `v` as of `spikes`.
    neurons : int or list of K int, optional
        The numbers of the neurons to draw; by default all columns, from 0.
    stacked : bool
        One row a neuron, or all on one scale with a legend, as for readouts.

    Returns
    -------
    Axes. Trace k is the line labelled "neuron <number>", at (step * dt in seconds, v + k times the height of a row).

    Raises
    ------
    ParameterError, EventError, ShapeError
        If a sample or neuron is out of range, shapes do not match, or dt is not positive.
    """
    tick(dt)
    layer = None if spikes is None else one_layer("membrane", spikes)
    v, neurons = columns("membrane", v, sample, neurons, layer)
    steps, count = v.shape
    theta = None if threshold is None else _thresholds(threshold, steps, count)
    low, high = _limits(v, theta)
    span = high - low
    rows = np.arange(count) * (1.45 * span if stacked else 0.0)
    ax = open_axes("membrane", ax, (6.0, 1.2 + 0.8 * (count if stacked else 2)))
    time = np.arange(steps) * dt
    for k, (neuron, row) in enumerate(zip(neurons, rows, strict=True)):
        if theta is not None:
            ax.plot(time, theta[:, k] + row, color=FAINT, linestyle="--", linewidth=0.8, label="_threshold", zorder=1)
        _line(ax, time, v[:, k] + row, colour(k), f"neuron {neuron}")
        if layer is not None:
            step, unit = layer.sample(sample)
            at = step[unit == neuron] * dt
            marks(ax, at, np.full(len(at), _top(v, theta, k) + 0.14 * span + row), colour(k), 5.0, 1.2, "_spikes")
    time_axis(ax, steps * dt)
    ax.set_ylim(low - 0.08 * span, high + 0.26 * span + rows[-1])
    ax.set_ylabel("membrane v")
    if stacked and count > 1:
        _name_rows(ax, neurons, rows, theta, low, high)
    elif count > 1:
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), ncols=1 + count // 12)
    return ax


def population_rate(spikes, sample=None, ax=None, *, window=None, names=None):
    """Mean rate of a layer's neurons over time: events / (neurons * samples * dt).

    Parameters
    ----------
    spikes : Spikes, or list of Spikes with the same dt
    sample : int, optional
        One sample; by default the mean over the batch. A sample counts up to its true length.
    ax : matplotlib Axes, optional
    window : float, seconds, optional
        Width of a centred moving average, rounded to an odd number of steps. At both ends it averages over the steps
        that exist, so that a constant rate stays constant.
    names : list of str, optional
        One for each layer, in place of "layer 0".

    Returns
    -------
    Axes. Each layer is one line of (step * dt in seconds, rate in Hz); NaN where every sample has ended.

    Raises
    ------
    ParameterError, EventError, ShapeError
        If `spikes` holds anything but Spikes, the sample is out of range, or the window is not positive.
    """
    layers = layers_of("population_rate", spikes)
    if window is not None:
        number("plot.population_rate", "window", window, above=0, hint=", in seconds, or None")
    default = [f"layer {k}" for k in range(len(layers))]
    titles = default if names is None else check_names("population_rate", names, len(layers), "layers")
    rates = [_rate(layer, sample, window) for layer in layers]
    ax = open_axes("population_rate", ax, (6.0, 2.6))
    for k, (layer, rate) in enumerate(zip(layers, rates, strict=True)):
        _line(ax, np.arange(len(rate)) * layer.dt, rate, colour(k), titles[k])
    time_axis(ax, max(len(rate) for rate in rates) * layers[0].dt)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("rate (Hz)")
    if len(layers) > 1 or names is not None:
        ax.legend(frameon=False, fontsize="small")
    return ax


def one_layer(function, spikes):
    """`spikes` as a single layer."""
    layers = layers_of(function, spikes)
    if len(layers) != 1:
        raise ShapeError(f"plot.{function}: {len(layers)} layers; give the one whose membrane is drawn")
    return layers[0]


def columns(function, v, sample, neurons, layer) -> tuple[np.ndarray, list[int]]:
    """The traces to draw, float64 [T, K], and the numbers of their neurons; `layer` (Spikes or None) has to match."""
    v = np.asarray(v.numpy() if isinstance(v, Tensor) else v)
    if v.dtype.kind not in "fiu":
        raise ParameterError(f"plot.{function}: v has dtype {v.dtype}; expected real numbers")
    if v.ndim not in (1, 2, 3) or v.size == 0:
        raise ShapeError(f"plot.{function}: v of shape {v.shape}; expected [T], [T, K] or [B, T, K], not empty")
    if layer is not None:
        check_sample(function, sample, layer.shape[0])
        steps = v.shape[0] if v.ndim < 3 else v.shape[1]
        if steps != layer.shape[1] or (v.ndim == 3 and v.shape[0] != layer.shape[0]):
            raise ShapeError(f"plot.{function}: v of shape {v.shape} and spikes [B, T, N] = {layer.shape} do not match")
    if v.ndim == 3:
        v = v[check_sample(function, sample, v.shape[0])]
    v = v.reshape(len(v), -1).astype(np.float64)
    width = v.shape[1]
    if neurons is None and layer is not None and width != layer.shape[2]:
        raise ShapeError(
            f"plot.{function}: v has {width} columns for {layer.shape[2]} neurons; say which with neurons="
        )
    if neurons is None:
        return v, list(range(width))
    chosen = check_neurons(function, neurons, None if layer is None else layer.shape[2])
    whole_layer = width != len(chosen) if layer is None else width == layer.shape[2]
    if whole_layer:
        return v[:, check_neurons(function, chosen, width)], chosen
    if width != len(chosen):
        raise ShapeError(f"plot.{function}: v has {width} columns for {len(chosen)} chosen neurons")
    return v, chosen


def _thresholds(threshold, steps, count):
    """Threshold of each step and trace, float64 [T, K]."""
    theta = np.asarray(threshold, np.float64)
    if theta.shape not in ((), (1,), (count,), (steps, count)):
        raise ShapeError(
            f"plot.membrane: threshold of shape {theta.shape}; expected a number, [K = {count}] or [T = {steps}, K]"
        )
    return np.broadcast_to(theta, (steps, count))


def _limits(v, theta):
    """Lowest and highest value that is drawn; 0 is always among them."""
    seen = [0.0, *(a[np.isfinite(a)] for a in (v, theta) if a is not None)]
    low, high = (float(f(np.hstack(seen))) for f in (np.min, np.max))
    return (low, high) if high > low else (0.0, 1.0)


def _top(v, theta, k):
    """Highest finite value of trace k and its threshold."""
    seen = v[:, k] if theta is None else np.append(v[:, k], theta[:, k])
    return float(np.max(seen[np.isfinite(seen)], initial=0.0))


def _line(ax, x, y, color, label):
    """A trace; a single value, which has no line, is a dot."""
    ax.plot(x, y, color=color, linewidth=1.0, marker="o" if len(x) == 1 else None, label=label)


def _name_rows(ax, neurons, rows, theta, low, high):
    """The neuron's number beside each row, and ticks at 0 and at its threshold or, if too close to 0, its top."""
    bottom, top = ax.get_ylim()
    line = 9.0 * (top - bottom) / points_high(ax)  # height of a tick's number, in data units
    places, texts = [], []
    for k, (neuron, row) in enumerate(zip(neurons, rows, strict=True)):
        beside(ax, row + (low + high) / 2, f"neuron {neuron}", colour(k))
        fixed = [] if theta is None or np.ptp(theta[:, k]) else [theta[0, k]]
        levels = [level for level in (*fixed, float(f"{high:.0e}"), float(f"{low:.0e}")) if abs(level) >= line]
        for level in [0.0, *levels[:1]]:
            places.append(row + level)
            texts.append(f"{level:g}")
    ax.set_yticks(places, texts)


def _rate(layer, sample, window):
    """Rate in Hz at each step, float64 [T]."""
    batch, steps, n = layer.shape
    counts = np.diff(layer.indptr).reshape(batch, steps)
    lasts = step_mask(layer.lengths, batch, steps)
    chosen = slice(None) if sample is None else [check_sample("population_rate", sample, batch)]
    events, samples = (counts * lasts)[chosen].sum(0), lasts[chosen].sum(0)
    half = 0 if window is None else int(np.rint((window / layer.dt - 1) / 2))
    if half > 0:
        first = np.maximum(np.arange(steps) - half, 0)
        after = np.minimum(np.arange(steps) + half + 1, steps)
        events, samples = (np.append(0, np.cumsum(a)) for a in (events, samples))
        events, samples = (a[after] - a[first] for a in (events, samples))
    return np.where(samples > 0, events, np.nan) / np.maximum(samples, 1) / (n * layer.dt)
