"""Conversion: accuracy over the steps of a run, and where the error of each layer comes from."""

from __future__ import annotations

import numpy as np

from nsim.checks import is_number
from nsim.errors import ParameterError, ShapeError
from nsim.plot.style import FAINT, check_labels, colour, open_axes

PARTS = ("clipping", "quantisation", "inactivated", "passed")


def accuracy_over_steps(logits, labels, ax=None, *, reference=None):
    """Share of right answers after each step of a run of a converted network.

    Parameters
    ----------
    logits : float [B, steps, C], or dict of such by name
        What a SpikingNetwork gives; steps before the first answer, where all readouts are zero, are left out.
    labels : int [B]
    ax : matplotlib Axes, optional
    reference : float, optional
        Accuracy of the network that was converted, a fraction of 1, drawn as a dashed line.

    Returns
    -------
    Axes. A line (step, accuracy in %) for each run.

    Raises
    ------
    ParameterError, ShapeError
        If logits and labels do not fit, or reference is not between 0 and 1.
    """
    runs = logits if isinstance(logits, dict) else {None: logits}
    if reference is not None and not (is_number(reference) and 0 <= reference <= 1):
        raise ParameterError(f"plot.accuracy_over_steps: reference = {reference!r}; expected a fraction of 1, or None")
    curves = {}
    for name, run in runs.items():
        run = np.asarray(run)
        if run.ndim != 3 or 0 in run.shape:
            raise ShapeError(f"plot.accuracy_over_steps: logits of shape {run.shape}; expected [batch, steps, classes]")
        truth = np.array(check_labels("accuracy_over_steps", labels, len(run)))
        right = 100 * (run.argmax(axis=2) == truth[:, None]).mean(axis=0)
        curves[name] = np.where(run.any(axis=(0, 2)), right, np.nan)
    ax = open_axes("accuracy_over_steps", ax, (4.5, 3.0))
    for k, (name, curve) in enumerate(curves.items()):
        ax.plot(np.arange(1, len(curve) + 1), curve, color=colour(k), linewidth=1.3, label=name)
    if reference is not None:
        ax.axhline(100 * reference, color=FAINT, linestyle="--", linewidth=1, label="network that was converted")
    ax.set(xlabel="steps", ylabel="right answers (%)", ylim=(0, 101))
    if reference is not None or None not in curves:
        ax.legend(frameon=False, fontsize="small")
    return ax


def error_split(split, ax=None):
    """Parts of each layer's error: clipping, quantisation, inactivated neurons, what was passed on.

    Parameters
    ----------
    split : what `nsim.convert.error_split` gives
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes. A line (layer, root mean square in % of the layer's activations) for each part and the total.

    Raises
    ------
    ParameterError
        If split is something else.
    """
    missing = [part for part in ("names", "total", *PARTS) if not hasattr(split, part)]
    if missing:
        raise ParameterError(
            f"plot.error_split: a {type(split).__name__} has no {missing[0]}; pass convert.error_split(...)"
        )
    ax = open_axes("error_split", ax, (max(4.5, 0.28 * len(split.names) + 2), 3.2))
    place = np.arange(len(split.names))
    for k, part in enumerate(PARTS):
        ax.plot(place, 100 * getattr(split, part), "o-", color=colour(k), markersize=3.5, linewidth=1.2, label=part)
    ax.plot(place, 100 * split.total, color="black", linewidth=1, linestyle=":", label="total")
    ax.set_xticks(place, split.names, rotation=90, fontsize="x-small")
    ax.set(ylabel="error (% of activations)")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize="small")
    return ax
