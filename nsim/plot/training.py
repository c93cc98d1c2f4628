"""Training and its result: activity, learning curves, confusion of classes."""

from __future__ import annotations

import numpy as np

from nsim.errors import ParameterError, ShapeError
from nsim.plot.style import check_labels, check_names, colour, new_axes, open_axes
from nsim.train import best_epoch


def activity(history, ax=None, *, names=None):
    """Density (events for each site) and active-set fraction of the hidden layers over training.

    Parameters
    ----------
    history : what `nsim.fit` gives back, or its dict of lists with one entry an epoch
        "epoch", and "density" and "active_fraction", whose entries are lists over the hidden layers.
    ax : matplotlib Axes, optional
    names : list of str, optional
        One for each hidden layer, in place of "layer 1".

    Returns
    -------
    Axes. For each layer, a solid line (epoch, 100 density) and a dashed one (epoch, 100 active fraction).

    Raises
    ------
    ParameterError, ShapeError
        If `history` is no history, misses an entry, or its lists differ in length.
    """
    from matplotlib.lines import Line2D

    history = _table("activity", history)
    epochs = _curve("activity", history, "epoch", required=True)
    kinds = {"density": {"linestyle": "-"}, "active_fraction": {"linestyle": "--", "markerfacecolor": "white"}}
    curves = {key: _layered(history, key, len(epochs)) for key in kinds}
    count = max(curve.shape[1] for curve in curves.values())
    titles = (
        [f"layer {k + 1}" for k in range(count)] if names is None else check_names("activity", names, count, "layers")
    )
    ax = open_axes("activity", ax, (4.5, 3.0))
    for key, style in kinds.items():
        for k, curve in enumerate(curves[key].T):
            ax.plot(epochs, 100 * curve, color=colour(k), label=f"{titles[k]} {key}", **_pen(epochs), **style)
    _epoch_axis(ax, epochs)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("sites (%)")
    if count:
        layers = [Line2D([], [], color=colour(k), label=title) for k, title in enumerate(titles)]
        what = zip(kinds.values(), ("spikes", "active set"), strict=True)
        lines = [Line2D([], [], color="0.4", label=text, **_pen(epochs), **style) for style, text in what]
        ax.legend(handles=layers + lines, frameon=False, fontsize="small", ncols=2)
    return ax


def learning_curves(history, ax=None, *, metric="accuracy"):
    """Training and validation curves over epochs, the best validation epoch marked.

    For the accuracy this is the epoch that `nsim.fit` keeps: of equals that of the lowest validation loss.

    Parameters
    ----------
    history : what `nsim.fit` gives back, or its dict of lists with one entry an epoch
        "epoch", `metric`, and "val_" + metric unless nothing was held out.
    ax : matplotlib Axes, optional
    metric : str
        "accuracy" (fractions of 1, drawn in %), "loss", or any other entry of the history that is a number.

    Returns
    -------
    Axes. Lines labelled "training" and "validation".

    Raises
    ------
    ParameterError, ShapeError
        If `history` is no history, misses an entry, or its lists differ in length.
    """
    function = "learning_curves"
    history = _table(function, history)
    epochs = _curve(function, history, "epoch", required=True)
    train = _curve(function, history, metric, required=True, count=len(epochs))
    held = _curve(function, history, f"val_{metric}", required=False, count=len(epochs))
    percent = metric == "accuracy"
    scale = 100 if percent else 1
    ax = open_axes(function, ax, (4.5, 3.0))
    ax.plot(epochs, scale * train, color=colour(0), label="training", **_pen(epochs))
    if np.isfinite(held).any():
        ax.plot(epochs, scale * held, color=colour(1), label="validation", **_pen(epochs))
        if metric == "accuracy":
            losses = _curve(function, history, "val_loss", required=False, count=len(epochs))
            best = best_epoch({"val_accuracy": held, "val_loss": losses})
        else:
            best = int(np.nanargmin(held) if "loss" in metric else np.nanargmax(held))
        value = f"{scale * held[best]:.1f} %" if percent else f"{held[best]:.3g}"
        point = {"marker": "o", "markersize": 7, "markerfacecolor": "none", "linestyle": "none"}
        ax.plot(
            epochs[best], scale * held[best], color=colour(1), label=f"best: {value}, epoch {epochs[best]:.0f}", **point
        )
    _epoch_axis(ax, epochs)
    ax.set_ylabel(f"{metric} (%)" if percent else metric)
    if len(epochs):
        ax.legend(frameon=False, fontsize="small")
    return ax


def confusion(labels, predictions, ax=None, classes=None):
    """Confusion matrix: how often a true class (row) is taken for each class (column).

    Colour is the share of the row, so classes of different size compare; up to 20 classes the counts are written in.

    Parameters
    ----------
    labels, predictions : int array [S], 0 to C - 1
    ax : matplotlib Axes, optional
    classes : list of C str, optional
        Names; by default the numbers up to the largest that occurs.

    Returns
    -------
    Axes. Its image holds the shares [C, C] in %, row = true class (NaN for a class without samples).

    Raises
    ------
    ParameterError, ShapeError
        If labels and predictions are not integers, differ in number, or lie outside the classes.
    """
    labels = check_labels("confusion", labels, np.size(labels))
    predictions = check_labels("confusion", predictions, len(labels))
    lowest, highest = min(labels + predictions, default=0), max(labels + predictions, default=0)
    titles = [str(k) for k in range(highest + 1)] if classes is None else check_names("confusion", classes)
    count = len(titles)
    if lowest < 0 or highest >= count:
        raise ParameterError(f"plot.confusion: class {lowest if lowest < 0 else highest}; expected 0 to {count - 1}")
    counts = np.zeros((count, count), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    totals = counts.sum(1, keepdims=True)
    share = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    side = float(np.clip(1.6 + 0.3 * count, 3.0, 7.5))
    ax = open_axes("confusion", new_axes((side + 1.0, side), layout="compressed") if ax is None else ax, None)
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=100)
    ax.set(xlabel="predicted class", ylabel="true class")
    if count <= 20:
        ax.set_xticks(range(count), titles, rotation=45 if max(map(len, titles)) > 3 else 0)
        ax.set_yticks(range(count), titles)
        _write_counts(ax, counts, share)
    ax.figure.colorbar(image, ax=ax, label="share of the true class (%)", fraction=0.05)
    if labels:
        ax.set_title(
            f"{np.trace(counts)} of {len(labels)} correct: {np.trace(counts) / len(labels):.1%}", fontsize="medium"
        )
    return ax


def _write_counts(ax, counts, share):
    """Each count in its cell, light on dark; a 0 is left blank."""
    size = float(np.clip(130 / len(counts), 6.0, 9.0))
    for i, j in np.argwhere(counts):
        ink = "white" if share[i, j] > 55 else "black"
        ax.text(j, i, str(counts[i, j]), ha="center", va="center", color=ink, fontsize=size)


def _table(function, history) -> dict:
    """The dict of lists of a history."""
    table = getattr(history, "history", history)
    if not isinstance(table, dict):
        raise ParameterError(f"plot.{function}: history is a {type(history).__name__}; pass what nsim.fit gives back")
    return table


def _curve(function, history, key, required, count=None):
    """One entry of the history as float64 [epochs]; None inside it, or where it may be missing, becomes NaN."""
    if key not in history and required:
        raise ParameterError(f"plot.{function}: the history has no {key!r}; it has {sorted(map(str, history))}")
    values = history.get(key)
    if values is None or len(values) == 0:
        values = [None] * (count or 0)
    if count is not None and len(values) != count:
        raise ShapeError(f"plot.{function}: {key!r} has {len(values)} entries for {count} epochs")
    try:
        return np.array([np.nan if value is None else value for value in values], np.float64).reshape(len(values))
    except (TypeError, ValueError):
        raise ShapeError(f"plot.{function}: {key!r} does not hold one number an epoch") from None


def _layered(history, key, epochs):
    """One entry of the history as float64 [epochs, hidden layers]."""
    if key not in history:
        raise ParameterError(f"plot.activity: the history has no {key!r}; it has {sorted(map(str, history))}")
    values = history[key]
    widths = {np.size(value) for value in values}
    if len(values) != epochs or len(widths) > 1:
        raise ShapeError(
            f"plot.activity: {key!r} has {len(values)} entries of {sorted(widths)} layers for {epochs} epochs"
        )
    return np.array(values, np.float64).reshape(epochs, widths.pop() if widths else 0)


def _pen(epochs):
    """Line style of a curve; few epochs are marked one by one."""
    return {"linewidth": 1.3, "marker": "o" if len(epochs) <= 12 else None, "markersize": 3.5}


def _epoch_axis(ax, epochs):
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(epochs) == 1:
        ax.set_xlim(epochs[0] - 1, epochs[0] + 1)
    ax.set_xlabel("epoch")
