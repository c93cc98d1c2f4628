"""Pooling, flattening and addition of events, and their gradients, against torch and plain loops."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsim import LI, LIF, EventError, ParameterError, ShapeError, Spikes, Tensor, nn, saved_bytes
from nsim.active import Active
from nsim.events import index_dtype
from nsim.spatial import add, flatten, pool2d
from nsim.sweeps import SpikesGrad
from nsim.windows import Windows
from tests import cases

SPACE = (7, 6, 3)
BATCH, STEPS, N = 3, 4, 7 * 6 * 3
KINDS = {"sum": nn.SumPool2d, "mean": nn.AvgPool2d, "max": nn.MaxPool2d}
# kernel_size, stride, padding: beside one another, overlapping, padded, with gaps, uneven, the whole picture.
WINDOWS = [(2, None, 0), (3, 2, 1), (3, 1, 0), (1, 2, 0), ((2, 3), (3, 1), (1, 0)), ((7, 6), None, 0)]


def listed(sites, u):
    """An active set from a mask [B, T, N]."""
    rows, places = np.nonzero(sites.reshape(-1, sites.shape[2]))
    indptr = np.zeros(sites.shape[0] * sites.shape[1] + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(indptr) - 1), out=indptr[1:])
    return Active(indptr, places.astype(index_dtype(sites.shape[2])), u[sites], 0.2)


def source(amounts, form, seed=0, space=SPACE):
    """Events as a layer with gradient gives them, and the mask of their active sites."""
    rng = np.random.default_rng(seed)
    spikes = Spikes.from_dense(amounts.reshape(*amounts.shape[:2], -1), cases.DT, space=space)
    sites, u = rng.random(spikes.shape) < 0.3, rng.normal(size=spikes.shape)
    if form == "dense":
        sites[:] = True
    spikes.active = listed(sites, u) if form == "listed" else Active(None, None, u)
    spikes.requires_grad = True
    return spikes, sites


def amounts(density=0.3, seed=0, graded=False, shape=(BATCH, STEPS, N)):
    """Counts with repeated events, or sizes."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(density, shape)
    return counts * rng.uniform(0.1, 2.0, shape).astype(np.float32) if graded else counts


def on_sites(grad, active):
    """A dense gradient on an active set."""
    if active.dense:
        return grad
    rows = np.repeat(np.arange(len(active.indptr) - 1), np.diff(active.indptr))
    return grad.reshape(-1, grad.shape[2])[rows, active.indices]


def from_torch(spikes, grad, kind, kernel, stride, padding):
    """The pooled amounts [B, T, N_out], and the gradient of the events, for dL/d(pooled) = grad."""
    h, w, c = spikes.space
    x = torch.tensor(spikes.to_dense(), dtype=torch.float64, requires_grad=True)
    frames = x.reshape(-1, h, w, c).permute(0, 3, 1, 2)
    if kind == "max":
        y = torch.nn.functional.max_pool2d(frames, kernel, stride, padding)
    else:
        y = torch.nn.functional.avg_pool2d(frames, kernel, stride, padding)
        y = y if kind == "mean" else y * np.prod(np.broadcast_to(kernel, 2))
    y = y.permute(0, 2, 3, 1).reshape(*spikes.shape[:2], -1)
    (y * torch.tensor(grad(y.shape))).sum().backward()
    return y.detach().numpy(), x.grad.numpy()


def ascending(spikes):
    rows = spikes.rows().astype(np.int64) * spikes.shape[2] + spikes.indices
    return (np.diff(rows) >= 0).all()


@pytest.mark.parametrize("kernel, stride, padding", WINDOWS)
@pytest.mark.parametrize("form", ["listed", "dense"])
@pytest.mark.parametrize("kind", KINDS)
def test_pooling_and_its_gradient_are_torchs(kind, form, kernel, stride, padding):
    layer = KINDS[kind](kernel, stride, padding)
    for density, graded in [(0.3, False), (0.3, True), (0.0, False), (4.0, False)]:
        spikes, sites = source(amounts(density, graded=graded), form)
        out = layer(spikes)
        grads = np.random.default_rng(1).normal(size=out.shape)
        pooled, wanted = from_torch(spikes, lambda shape, g=grads: g.reshape(shape), kind, kernel, stride, padding)
        np.testing.assert_allclose(out.to_dense(), pooled, rtol=1e-5)
        assert ascending(out) and out.space == layer.space_after(SPACE) and out.active.dense == (form == "dense")
        assert (out.values is None) == (kind != "mean" and not graded)
        (found,) = out.node.vjp(SpikesGrad(on_sites(grads, out.active)))
        found = found.active.reshape(wanted.shape) if form == "dense" else found.active
        np.testing.assert_allclose(found, wanted if form == "dense" else wanted[sites], rtol=1e-6, atol=1e-12)


axis = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3)).filter(
    lambda a: a[0] + 2 * a[3] >= a[1]
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(axis, axis, st.integers(1, 3), st.sampled_from(sorted(KINDS)), st.integers(0, 5))
def test_any_window_in_plain_loops(vertical, horizontal, channels, kind, seed):
    size, kernel, stride, padding = zip(vertical, horizontal, strict=True)
    windows = Windows("test", size, kernel, stride, padding)
    counts = amounts(0.5, seed, shape=(2, 2, size[0] * size[1] * channels))
    spikes, _ = source(counts, "listed", seed, (*size, channels))
    out = pool2d(spikes, windows, kind)
    frames = counts.reshape(2, 2, *size, channels)
    pooled = np.zeros((2, 2, *windows.out, channels))
    for oy, ox in itertools.product(*map(range, windows.out)):
        y, x = oy * stride[0] - padding[0], ox * stride[1] - padding[1]
        part = frames[:, :, max(0, y) : max(0, y + kernel[0]), max(0, x) : max(0, x + kernel[1])]
        if part.size:
            pooled[:, :, oy, ox] = part.max((2, 3)) if kind == "max" else part.sum((2, 3))
    pooled = pooled / np.prod(kernel) if kind == "mean" else pooled
    np.testing.assert_allclose(out.to_dense().reshape(pooled.shape), pooled, rtol=1e-6)


def test_sites_below_and_above_belong_together():
    """Every window of an active site is an active site, and no other is."""
    spikes, sites = source(amounts(), "listed")
    out = nn.SumPool2d(3, 2, 1)(spikes)
    touched = Spikes.from_dense(sites.astype(int), cases.DT, space=SPACE)
    wanted = nn.SumPool2d(3, 2, 1)(touched).to_dense() > 0
    found = np.zeros(out.shape, bool).reshape(-1, out.shape[2])
    found[np.repeat(np.arange(BATCH * STEPS), np.diff(out.active.indptr)), out.active.indices] = True
    assert np.array_equal(found.reshape(out.shape), wanted)


def test_the_gradient_of_silent_neurons_goes_through_sums():
    """dL/dcount as `counts(wake=True)` sends it."""
    spikes, _ = source(amounts(), "listed")
    out = nn.AvgPool2d(2)(spikes)
    closest = np.random.default_rng(2).normal(size=(BATCH, out.shape[2]))
    (found,) = out.node.vjp(SpikesGrad(np.zeros(len(out.active.indices)), closest))
    wanted = np.zeros((BATCH, *SPACE))
    wanted[:, :6] = closest.reshape(BATCH, 3, 3, 3).repeat(2, axis=1).repeat(2, axis=2) / 4
    np.testing.assert_allclose(found.closest, wanted.reshape(BATCH, -1), rtol=1e-6)
    assert not found.active.any()


@pytest.mark.parametrize("graded", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("forms", [("listed", "listed"), ("dense", "listed"), ("listed", "dense"), ("dense", "dense")])
def test_addition_and_its_gradient(forms, graded):
    (a, in_a), (b, in_b) = (source(amounts(0.4, k, graded[k]), forms[k], seed=k) for k in (0, 1))
    out = a + b
    np.testing.assert_allclose(out.to_dense(), a.to_dense() + b.to_dense(), rtol=1e-6)
    assert out.n_events == a.n_events + b.n_events and ascending(out) and out.space == SPACE
    grad = np.random.default_rng(3).normal(size=out.shape)
    closest = np.ones((BATCH, N))
    for found, sites in zip(out.node.vjp(SpikesGrad(on_sites(grad, out.active), closest)), (in_a, in_b), strict=True):
        assert np.array_equal(found.active.ravel(), grad[sites]) and found.closest is closest
    if "dense" not in forms:
        both = np.zeros(out.shape, bool).reshape(-1, N)
        both[np.repeat(np.arange(BATCH * STEPS), np.diff(out.active.indptr)), out.active.indices] = True
        assert np.array_equal(both.reshape(out.shape), in_a | in_b)


def test_addition_of_a_layer_and_of_events_without_gradient():
    a, sites = source(amounts(), "listed")
    b = Spikes.from_dense(amounts(seed=1), cases.DT, space=SPACE)
    grad = np.random.default_rng(3).normal(size=a.shape)
    for out, mine in [(add(a, b), 0), (add(b, a), 1)]:
        parts = out.node.vjp(SpikesGrad(on_sites(grad, out.active)))
        assert np.array_equal(parts[mine].active, grad[sites]) and parts[1 - mine] is None
    plain = add(b, b)
    assert plain.node is None and plain.active is None and np.array_equal(plain.to_dense(), 2 * b.to_dense())


def test_addition_refuses_what_does_not_fit():
    a = Spikes.from_dense(amounts(), cases.DT, space=SPACE)
    for other, text in [
        (Spikes.from_dense(amounts(shape=(BATCH, STEPS + 1, N)), cases.DT, space=SPACE), "shape"),
        (Spikes.from_dense(amounts(), cases.DT), "space"),
        (Spikes.from_dense(amounts(), 2 * cases.DT, space=SPACE), "dt"),
        (Spikes.from_dense(amounts(), cases.DT, space=SPACE, lengths=[1, 2, 3]), "true lengths"),
    ]:
        with pytest.raises(ShapeError, match=f"add: .*{text}"):
            a + other


def test_flattening_keeps_events_and_passes_the_gradient():
    a, sites = source(amounts(graded=True), "listed")
    out = flatten(a)
    assert out.space == (N,) and cases.same_events(out, a)
    grad = SpikesGrad(np.arange(sites.sum(), dtype=float))
    assert out.node.vjp(grad) == (grad,)


def test_true_lengths_stay():
    spikes = Spikes.from_dense(amounts(), cases.DT, space=SPACE, lengths=[4, 1, 2])
    for out in (nn.MaxPool2d(2)(spikes), nn.Flatten()(spikes), spikes + spikes):
        assert out.lengths.tolist() == [4, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_grows_with_events_and_sites(kind):
    """The same events and sites among ten times the neurons: row pointers, 2 bytes an event and site."""
    kept = []
    for height in (8, 80):
        frames, sites = np.zeros((4, 10, height, 8, 3), int), np.zeros((4, 10, height, 8, 3), bool)
        frames[:, :, :8] = amounts(0.1, shape=(4, 10, 8, 8, 3))
        sites[:, :, :8] = amounts(0.2, seed=1, shape=(4, 10, 8, 8, 3)) > 0
        spikes = Spikes.from_dense(frames.reshape(4, 10, -1), cases.DT, space=(height, 8, 3))
        spikes.active, spikes.requires_grad = listed(sites.reshape(4, 10, -1), np.zeros((4, 10, height * 24))), True
        out = KINDS[kind](2)(spikes)
        kept.append((saved_bytes(out), out.nbytes))
    assert kept[0] == kept[1]


def test_layers_refuse():
    flat = Spikes.from_dense(np.zeros((1, 2, 12)), cases.DT)
    with pytest.raises(ShapeError, match=r"nn.MaxPool2d: input has space \(12,\), expected .* space=\(H, W, C\)"):
        nn.MaxPool2d(2)(flat)
    with pytest.raises(ShapeError, match=r"nn.Flatten: input is ndarray, expected nsim.Spikes"):
        nn.Flatten()(np.zeros((1, 2, 12)))
    with pytest.raises(ParameterError, match=r"nn\.AvgPool2d: kernel_size = 0"):
        nn.AvgPool2d(0)
    with pytest.raises(ParameterError, match=r"nn\.SumPool2d: stride = 1\.5"):
        nn.SumPool2d(2, 1.5)
    with pytest.raises(ShapeError, match=r"layer 1: nn.SumPool2d: a kernel of \(6, 6\) does not fit"):
        nn.Sequential(nn.Conv2d(1, 2, 1, LIF(), size=5), nn.SumPool2d(6))
    negative = Spikes.from_dense(np.full((1, 1, 4), -0.5), cases.DT, space=(2, 2, 1))
    with pytest.raises(EventError, match=r"nn\.MaxPool2d: an event of size -0\.5"):
        nn.MaxPool2d(2)(negative)


# Residual blocks


def block(**options):
    """Body of two convolutions, one of them strided, and a strided shortcut."""
    layer = {"size": (7, 6), "dtype": np.float64, "seed": 3} | options
    neuron = LIF(band=None, threshold=0.5)
    body = nn.Sequential(
        nn.Conv2d(3, 4, 3, neuron, padding=1, **layer),
        nn.Conv2d(4, 5, 3, neuron, padding=1, stride=2, **layer),
    )
    return nn.Residual(body, nn.Conv2d(3, 5, 1, neuron, stride=2, **layer))


def test_a_block_is_the_sum_of_its_parts():
    residual, given_ = block(), Spikes.from_dense(amounts(), cases.DT, space=SPACE)
    fired = []
    out = residual.through(given_, fired)
    body, shortcut = residual.parts["body"], residual.parts["shortcut"]
    np.testing.assert_array_equal(out.to_dense(), body(given_).to_dense() + shortcut(given_).to_dense())
    assert [f.shape[2] for f in fired] == [layer.n_out for layer in residual.connections()] == [168, 60, 60]
    plain = nn.Residual(nn.Conv2d(3, 3, 3, LIF(threshold=0.3), size=(7, 6), padding=1, seed=0))
    np.testing.assert_array_equal(plain(given_).to_dense(), given_.to_dense() + plain.parts["body"](given_).to_dense())


def test_blocks_in_a_network_by_name():
    net = nn.Sequential(nn.Conv2d(3, 3, 1, LIF(), size=(7, 6)), block(), nn.Dropout(), nn.Dense(60, 2, LIF()))
    names = ["0.weight", "1.body.0.weight", "1.body.1.weight", "1.shortcut.0.weight", "3.weight"]
    assert list(net.named_parameters()) == names == [p.name for p in net.parameters()]
    assert [layer.name for layer in net.connections()] == ["0", "1.body.0", "1.body.1", "1.shortcut.0", "3"]
    with pytest.raises(ShapeError, match=r"layer 1.body.0: nn.Conv2d\(3, 4, \(3, 3\)\): input has space \(6, 6, 3\)"):
        nn.Sequential(nn.Conv2d(1, 3, 1, LIF(), size=6), block())
    again = nn.build(net.describe())
    again.load_state_dict(net.state_dict())
    assert again.describe() == net.describe() and repr(again) == repr(net)
    assert not net.eval()[1].parts["body"].training and net.train()[1].parts["body"][0].training


def test_blocks_refuse():
    with pytest.raises(ParameterError, match="expected a layer such as"):
        nn.Residual(LIF())
    with pytest.raises(ParameterError, match=r"nn.Dense\(9, 9\) has no spikes to add"):
        nn.Residual(nn.Dense(9, 9, LI()))
    odd = nn.Residual(nn.Conv2d(3, 4, 1, LIF(), size=(7, 6)))
    with pytest.raises(ShapeError, match=r"nn\.Residual: input is ndarray, expected nsim\.Spikes"):
        odd(np.zeros((1, 2, 7, 6, 3)))
    with pytest.raises(ShapeError, match=r"nn.Residual: the body gives space \(7, 6, 4\), the shortcut \(7, 6, 3\)"):
        odd(Spikes.from_dense(amounts(), cases.DT, space=SPACE))


def test_tensors_still_add():
    assert (Tensor(np.ones(2)) + 1).data.tolist() == [2, 2]
