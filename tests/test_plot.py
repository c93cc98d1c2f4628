"""Plots: what is drawn are the events, and bad input is told. Pictures are drawn without a screen."""

import subprocess
import sys
import time
import types

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from nsim import plot
from nsim.errors import EventError, ParameterError, ShapeError
from nsim.events import Spikes

DT = 2e-3


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def counts(b=3, t=40, n=33, rate=0.05, seed=0):
    return np.random.default_rng(seed).poisson(rate, (b, t, n))


def events(*args, **kwargs):
    return Spikes.from_dense(counts(*args, **kwargs), DT)


def expected(a, b, offset=0):
    """(time, height) of each event of sample b of counts, repeated ones repeated, sorted."""
    step, unit = np.nonzero(a[b])
    times = a[b][step, unit]
    return np.repeat(np.stack([step * DT, unit + offset], axis=1), times, axis=0)


def drawn(line):
    """Points of a line, in order of time, then height."""
    x, y = line.get_data()
    order = np.lexsort((y, x))
    return np.stack([np.asarray(x)[order], np.asarray(y)[order]], axis=1)


def line(ax, label):
    (found,) = [k for k in ax.lines if k.get_label() == label]
    return found


# raster


@pytest.mark.parametrize("sample", [0, 2, np.int64(1)])
def test_raster_draws_each_event_once(sample):
    a = counts()
    ax = plot.raster(Spikes.from_dense(a, DT), sample)
    assert isinstance(ax, Axes) and ax.get_xlabel() == "time (s)"
    np.testing.assert_allclose(drawn(ax.lines[0]), expected(a, sample))


def test_raster_draws_on_the_given_axes():
    ax = plt.subplots()[1]
    assert plot.raster(events(), ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_raster_stacks_layers_in_their_own_colours():
    parts = [counts(n=33), counts(n=7, seed=1), counts(n=200, seed=2)]
    ax = plot.raster([Spikes.from_dense(a, DT) for a in parts], 1, names=["in", "hidden", "out"])
    for name, a, offset in zip(("in", "hidden", "out"), parts, (0, 33, 40), strict=True):
        np.testing.assert_allclose(drawn(line(ax, name)), expected(a, 1, offset))
    assert len({to_hex(line(ax, name).get_color()) for name in ("in", "hidden", "out")}) == 3
    separators = [k.get_ydata()[0] for k in ax.lines if k.get_label().startswith("_child")]
    assert separators == [32.5, 39.5]


def test_stacked_indices_do_not_wrap_around():
    a = np.zeros((1, 2, 65_000), np.int64)
    a[0, 1, [5, 64_999]] = 1
    ax = plot.raster([Spikes.from_dense(a, DT)] * 2)
    assert line(ax, "layer 1").get_ydata().tolist() == [65_005, 129_999]


def test_raster_stacks_samples_coloured_by_label():
    a = counts(b=4)
    ax = plot.raster(Spikes.from_dense(a, DT), [0, 2, 3], labels=np.array([5, 1, 5, 2]))
    colours = [k.get_color() for k in ax.lines[:3]]
    assert colours == [plot.PALETTE[5], plot.PALETTE[5], plot.PALETTE[2]]
    for k, b in enumerate((0, 2, 3)):
        np.testing.assert_allclose(drawn(ax.lines[k]), expected(a, b, 33 * k))


def test_twenty_labels_have_twenty_colours():
    ax = plot.raster(Spikes.from_dense(counts(b=20), DT), list(range(20)), labels=np.arange(20))
    colours = [k.get_color() for k in ax.lines[:20]]
    assert tuple(colours[:7]) == plot.PALETTE and len({to_hex(c) for c in colours}) == 20


@pytest.mark.parametrize("events_in", [0, 1])
@pytest.mark.parametrize("steps", [1, 12])
def test_every_picture_of_almost_nothing(events_in, steps):
    a = np.zeros((1, steps, 5), np.int64)
    a[0, 0, 3] = events_in
    spikes = Spikes.from_dense(a, DT)
    axes = [plot.raster(spikes), plot.raster([spikes, spikes]), plot.population_rate(spikes, window=5 * DT)]
    axes += plot.raster_and_membrane(spikes, np.zeros((1, steps, 5)), [3, 0])
    for ax in axes:
        ax.figure.canvas.draw()
    assert len(axes[0].lines[0].get_xdata()) == events_in


def test_padding_after_the_true_length_is_shaded_and_its_events_still_drawn():
    a = counts(rate=0.5)
    ax = plot.raster(Spikes.from_dense(a, DT, lengths=[40, 25, 40]), 1)
    (shade,) = ax.collections
    box = shade.get_paths()[0].get_extents()
    np.testing.assert_allclose([box.x0, box.x1], [25 * DT, 40 * DT])
    np.testing.assert_allclose(drawn(ax.lines[0]), expected(a, 1))


def test_100_000_events_draw_in_under_a_second():
    rng = np.random.default_rng(0)
    a = (np.zeros(100_000, np.int64), rng.random(100_000), rng.integers(0, 1000, 100_000))
    spikes = Spikes.from_events(*a, batch=1, n=1000, steps=1000, dt=1e-3)
    plot.raster(events()).figure.canvas.draw()  # fonts are loaded once a process
    taken = []
    for _ in range(3):  # the best of three: other processes may hold the cores
        start = time.perf_counter()
        ax = plot.raster(spikes)
        ax.figure.canvas.draw()
        taken.append(time.perf_counter() - start)
    assert min(taken) < 1.0
    assert len(ax.lines[0].get_xdata()) == 100_000


# membrane


def test_raster_and_membrane_show_the_same_neurons():
    a = counts(rate=0.2)
    spikes, v = Spikes.from_dense(a, DT), np.random.default_rng(1).normal(size=(3, 40, 2))
    left, right = plot.raster_and_membrane(spikes, v, [20, 4], sample=1)
    np.testing.assert_allclose(drawn(left.lines[0]), expected(a, 1))
    for k, neuron in enumerate((20, 4)):
        step = np.repeat(np.arange(40), a[1, :, neuron])
        points, trace = line(left, f"neuron {neuron}"), line(right, f"neuron {neuron}")
        np.testing.assert_allclose(points.get_data(), [step * DT, np.full(len(step), neuron)])
        row = trace.get_ydata()[0] - v[1, 0, k]
        assert (row == 0) == (k == 0)
        np.testing.assert_allclose(trace.get_data(), [np.arange(40) * DT, v[1, :, k] + row])
        np.testing.assert_allclose(right.lines[3 * k].get_ydata(), 1 + row)
        np.testing.assert_allclose(right.lines[3 * k + 2].get_xdata(), step * DT)
        assert points.get_color() == trace.get_color()


@pytest.mark.parametrize("shape", [(3, 40, 33), (40, 33), (3, 40, 2), (40, 2)])
def test_membrane_of_the_layer_or_of_the_chosen_neurons(shape):
    v = np.random.default_rng(0).normal(size=shape)
    pair = plt.subplots(1, 2)[1]
    left, right = plot.raster_and_membrane(events(), v, [7, 31], 2, pair, threshold=None)
    assert left is pair[0] and right is pair[1]
    one = v[2] if v.ndim == 3 else v
    np.testing.assert_allclose(line(right, "neuron 7").get_ydata(), one[:, 7 if shape[-1] == 33 else 0])


def test_membrane_on_one_scale_with_a_moving_threshold():
    v = np.random.default_rng(0).normal(size=(9, 3))
    theta = 1 + np.arange(27).reshape(9, 3) / 27
    ax = plot.membrane(v, DT, threshold=theta, stacked=False)
    for k in range(3):
        np.testing.assert_allclose(line(ax, f"neuron {k}").get_ydata(), v[:, k])
        np.testing.assert_allclose(ax.lines[2 * k].get_ydata(), theta[:, k])


def test_membrane_of_one_trace_is_on_its_own_scale():
    v = np.linspace(-1, 2, 30)
    ax = plot.membrane(v, DT, threshold=1.5)
    np.testing.assert_allclose(line(ax, "neuron 0").get_data(), [np.arange(30) * DT, v])


def test_membrane_takes_a_readout_tensor():
    from nsim.tape import Tensor

    o = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    ax = plot.membrane(Tensor(o), DT, sample=1, stacked=False)
    np.testing.assert_allclose(line(ax, "neuron 3").get_ydata(), o[1, :, 3])


# population rate


def test_population_rate_is_events_a_neuron_and_second():
    a = counts()
    layers = [Spikes.from_dense(a, DT), events(n=5)]
    ax = plot.population_rate(layers, names=["in", "out"])
    np.testing.assert_allclose(line(ax, "in").get_data(), [np.arange(40) * DT, a.mean(axis=(0, 2)) / DT])
    single = plot.population_rate(layers[0], 2)
    np.testing.assert_allclose(single.lines[0].get_ydata(), a[2].mean(axis=1) / DT)


@pytest.mark.parametrize("half", [1, 3, 100])
def test_window_averages_over_the_steps_that_exist(half):
    a = counts(rate=0.3)
    ax = plot.population_rate(Spikes.from_dense(a, DT), 0, window=(2 * half + 1) * DT)
    mean = [a[0, max(t - half, 0) : t + half + 1].mean() / DT for t in range(40)]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), mean)


def test_population_rate_counts_a_sample_up_to_its_length():
    spikes = Spikes.from_dense(np.ones((2, 6, 4), np.int64), 1e-3, lengths=[3, 5])
    rate = plot.population_rate(spikes).lines[0].get_ydata()
    np.testing.assert_allclose(rate, [1000] * 5 + [np.nan])


# training


def history(epochs=6):
    e = np.arange(1, epochs + 1)
    return {
        "epoch": e.tolist(),
        "loss": (1 / e).tolist(),
        "val_loss": (1 / e + 0.1).tolist(),
        "accuracy": (1 - 0.5 / e).tolist(),
        "val_accuracy": [0.5, 0.9, *[0.7] * epochs][:epochs],
        "density": [[0.01 * k, 0.005] for k in e.tolist()],
        "active_fraction": [[0.02 * k, 0.01] for k in e.tolist()],
    }


def test_activity_draws_density_and_active_set_in_percent():
    h = history()
    ax = plot.activity(h, names=["a", "b"])
    for key in ("density", "active_fraction"):
        for k, name in enumerate("ab"):
            drawn_line = line(ax, f"{name} {key}")
            np.testing.assert_allclose(drawn_line.get_data(), [h["epoch"], 100 * np.array(h[key])[:, k]])
            assert drawn_line.get_color() == plot.PALETTE[k]


@pytest.mark.parametrize(("metric", "scale", "best"), [("accuracy", 100, (2, 90)), ("loss", 1, (6, 1 / 6 + 0.1))])
def test_learning_curves(metric, scale, best):
    h = history()
    ax = plot.learning_curves(h, metric=metric)
    np.testing.assert_allclose(line(ax, "training").get_ydata(), scale * np.array(h[metric]))
    np.testing.assert_allclose(line(ax, "validation").get_ydata(), scale * np.array(h[f"val_{metric}"]))
    np.testing.assert_allclose(np.ravel(ax.lines[2].get_data()), best)


def test_the_marked_epoch_is_the_one_that_fit_keeps_where_accuracies_tie():
    h = history() | {"val_accuracy": [None, 0.9, 0.7, 0.9, 0.9, 0.7], "val_loss": [0.1, 3.0, 0.2, 2.0, 2.0, 0.3]}
    marked = plot.learning_curves(h).lines[2]
    np.testing.assert_allclose(np.ravel(marked.get_data()), (h["epoch"][3], 90))


def test_histories_are_taken_as_fit_gives_them_back():
    given = types.SimpleNamespace(history=history())
    for picture in (plot.activity, plot.learning_curves):
        np.testing.assert_array_equal(drawn(picture(given).lines[0]), drawn(picture(history()).lines[0]))


def test_histories_are_taken_as_a_checkpoint_holds_them():
    arrays = {key: np.array(values) for key, values in history().items()}
    for picture in (plot.activity, plot.learning_curves):
        np.testing.assert_array_equal(drawn(picture(arrays).lines[0]), drawn(picture(history()).lines[0]))


@pytest.mark.parametrize("missing", ["absent", "none", "empty"])
def test_learning_curves_without_validation(missing):
    h = history()
    del h["val_accuracy"]
    h |= {"absent": {}, "none": {"val_accuracy": [None] * 6}, "empty": {"val_accuracy": []}}[missing]
    ax = plot.learning_curves(h)
    assert [k.get_label() for k in ax.lines] == ["training"]


@pytest.mark.parametrize("epochs", [0, 1, 40])
def test_histories_of_any_length_draw(epochs):
    for ax in (plot.activity(history(epochs)), plot.learning_curves(history(epochs))):
        ax.figure.canvas.draw()


def test_confusion_counts_each_pair():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 4, (2, 200))
    ax = plot.confusion(labels, predictions, classes=["a", "b", "c", "d", "never"])
    table = np.array([[np.sum((labels == i) & (predictions == j)) for j in range(5)] for i in range(5)], float)
    shares = ax.images[0].get_array().filled(np.nan)
    np.testing.assert_allclose(shares[:4], 100 * table[:4] / table[:4].sum(1, keepdims=True))
    assert np.isnan(shares[4]).all()
    written = {t.get_position(): int(t.get_text()) for t in ax.texts}
    assert written == {(j, i): table[i, j] for i, j in np.argwhere(table)}


def test_confusion_of_nothing_and_of_many_classes():
    assert plot.confusion([], []).images[0].get_array().shape == (1, 1)
    ax = plot.confusion(np.arange(50), np.arange(50))
    assert not ax.texts and ax.images[0].get_array().shape == (50, 50)


# what is refused

BAD = {
    "array for spikes": (lambda: plot.raster(counts()), ParameterError, "ndarray; expected Spikes"),
    "array in a list": (lambda: plot.raster([events(), 3]), ParameterError, "got a int"),
    "no layers": (lambda: plot.raster([]), ShapeError, "empty list"),
    "no samples": (lambda: plot.raster(events(), []), ShapeError, "empty list of samples"),
    "sample out of range": (lambda: plot.raster(events(), 3), EventError, "sample 3; this batch has samples 0 to 2"),
    "negative sample": (lambda: plot.population_rate(events(), -1), EventError, "sample -1"),
    "broken sample": (lambda: plot.raster(events(), 1.5), ParameterError, "sample = 1.5"),
    "layers and samples": (lambda: plot.raster([events(), events()], [0, 1]), ShapeError, "stack one or the other"),
    "two time steps": (
        lambda: plot.raster([events(), Spikes.from_dense(counts(), 1e-3)]),
        ParameterError,
        "dt = 0.002 s and 0.001 s",
    ),
    "names": (lambda: plot.raster([events(), events()], names=["a"]), ShapeError, "1 names for 2"),
    "one name": (lambda: plot.raster(events(), names=3), ParameterError, "got 3; expected a list of names"),
    "classes": (lambda: plot.confusion([0], [0], classes=3), ParameterError, "got 3; expected a list of names"),
    "size": (lambda: plot.raster(events(), size="big"), ParameterError, "size = 'big': expected a finite number"),
    "no size": (lambda: plot.raster(events(), size=0), ParameterError, "size = 0"),
    "labels short": (lambda: plot.raster(events(), labels=[1, 2]), ShapeError, r"labels of shape \(2,\)"),
    "labels real": (lambda: plot.raster(events(), labels=[1.0, 2, 3]), ParameterError, "dtype float64"),
    "labels of layers": (lambda: plot.raster([events()] * 2, labels=[1, 2, 3]), ParameterError, "coloured by layer"),
    "wrong ax": (lambda: plot.raster(events(), ax=plt.figure()), ParameterError, "ax is a Figure"),
    "one ax for two": (
        lambda: plot.raster_and_membrane(events(), np.zeros((3, 40, 33)), 2, ax=plt.subplots()[1]),
        ParameterError,
        "pair of Axes",
    ),
    "neuron": (lambda: plot.raster_and_membrane(events(), np.zeros((3, 40, 33)), [33]), EventError, "neuron 33"),
    "no neuron": (lambda: plot.raster_and_membrane(events(), np.zeros((3, 40, 33)), []), EventError, "no neuron"),
    "two layers": (lambda: plot.raster_and_membrane([events()] * 2, np.zeros((3, 40, 33)), 0), ShapeError, "2 layers"),
    "v too short": (lambda: plot.raster_and_membrane(events(), np.zeros((3, 39, 33)), 0), ShapeError, "do not match"),
    "v columns": (lambda: plot.raster_and_membrane(events(), np.zeros((40, 3)), [1, 2]), ShapeError, "3 columns"),
    "v which": (lambda: plot.membrane(np.zeros((40, 3)), DT, spikes=events()), ShapeError, "neurons="),
    "v empty": (lambda: plot.membrane(np.zeros((0, 3)), DT), ShapeError, "not empty"),
    "v complex": (lambda: plot.membrane(np.zeros(3, complex), DT), ParameterError, "complex128"),
    "dt": (lambda: plot.membrane(np.zeros(3), 0.0), ParameterError, "dt = 0.0"),
    "threshold": (lambda: plot.membrane(np.zeros((9, 3)), DT, threshold=[1, 2]), ShapeError, "threshold of shape"),
    "window": (lambda: plot.population_rate(events(), window=-1.0), ParameterError, "window = -1.0"),
    "window str": (
        lambda: plot.population_rate(events(), window="5ms"),
        ParameterError,
        "window = '5ms': expected a finite number above 0, in sec",
    ),
    "reference": (
        lambda: plot.accuracy_over_steps(np.ones((1, 2, 3)), [0], reference="0.9"),
        ParameterError,
        "reference = '0.9'; expected a fraction of 1",
    ),
    "history list": (lambda: plot.activity([]), ParameterError, "history is a list"),
    "history lacks": (lambda: plot.activity({"epoch": [1]}), ParameterError, "no 'density'"),
    "history ragged": (lambda: plot.activity(history() | {"density": [[1], [1, 2]]}), ShapeError, "'density'"),
    "metric": (lambda: plot.learning_curves(history(), metric="f1"), ParameterError, "no 'f1'"),
    "metric short": (lambda: plot.learning_curves(history() | {"loss": [1]}, metric="loss"), ShapeError, "1 entries"),
    "metric lists": (lambda: plot.learning_curves(history(), metric="density"), ShapeError, "one number an epoch"),
    "more labels": (lambda: plot.confusion([0, 1], [0]), ShapeError, "expected one for each of 2"),
    "class": (lambda: plot.confusion([0, 2], [0, 1], classes=["a", "b"]), ParameterError, "class 2; expected 0 to 1"),
    "class -1": (lambda: plot.confusion([0, -1], [0, 1]), ParameterError, "class -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_import_loads_no_matplotlib():
    check = "import sys, nsim.plot; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
