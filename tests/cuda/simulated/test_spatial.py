"""Pooling, flattening and addition on the device: cases of `tests/test_spatial.py`, against torch and the CPU."""

import numpy as np
import pytest

import nsim
from nsim import DeviceError, EventError, ShapeError, Spikes, losses, nn, optim
from nsim.spatial import add, flatten
from nsim.sweeps import SpikesGrad
from nsim_cuda import launch, memory
from nsim_cuda.events import DeviceActive, DeviceSpikes, packing
from tests import cases
from tests.cuda.simulated.common import check_asks_for_nothing
from tests.test_spatial import KINDS, SPACE, WINDOWS, N, from_torch, source
from tests.test_spatial import amounts as drawn

BATCH, STEPS = 2, 2


def amounts(density=0.3, seed=0, graded=False):
    """Counts with repeated events, or sizes."""
    return drawn(density, seed, graded, (BATCH, STEPS, N))


def tiled(indptr, indices, values, tiles, width):
    """Rows of (sample, step) as lists of tiles with gaps between them, in which there is rubbish."""
    sizes, parts = np.zeros((BATCH, tiles, STEPS), int), []
    for b in range(BATCH):
        for k in range(tiles):
            for t in range(STEPS):
                row = b * STEPS + t
                own = np.arange(indptr[row], indptr[row + 1])
                parts.append(own[indices[own] // width == k])
                sizes[b, k, t] = len(parts[-1])
    room = sizes.sum(axis=2).max() + 3
    ptr = np.zeros((BATCH * tiles, STEPS + 1), np.int32)
    ptr[:, 1:] = sizes.reshape(-1, STEPS).cumsum(axis=1)
    filled = np.concatenate([np.arange(lo, hi) for lo, hi in zip(ptr[:, 0], ptr[:, -1], strict=True)])
    filled += np.repeat(np.arange(len(ptr)), ptr[:, -1]) * room
    ptr += (np.arange(len(ptr)) * room)[:, None].astype(np.int32)
    order = np.concatenate(parts)

    def placed(array, rubbish):
        out = np.full(len(ptr) * room, rubbish, array.dtype)
        out[filled] = array[order]
        return memory.put(out)

    return memory.put(ptr), placed(indices, 60000), None if values is None else placed(values, np.nan), order


def there(spikes, width=None):
    """The same events and active sites on the device, in tiles."""
    width = N if width is None else width
    tiles = -(-N // width)
    ptr, indices, values, _ = tiled(spikes.indptr, spikes.indices, spikes.values, tiles, width)
    active = None
    if spikes.active is not None:
        own = spikes.active
        site_ptr, sites, u, _ = tiled(own.indptr, own.indices, own.u, tiles, width)
        active = DeviceActive(site_ptr, sites, u, own.band, tiles, width)
    out = DeviceSpikes(
        ptr, indices, spikes.shape, dt=spikes.dt, values=values, space=spikes.space, active=active, tiles=tiles,
        width=width, positive=spikes.values is None or bool((spikes.values >= 0).all()),
    )  # fmt: skip
    out.requires_grad = spikes.requires_grad
    return out


def dense_on(grad, active):
    """A dense gradient [B, T, N] on the sites of an active set of the device."""
    indptr, order = packing(active.ptr.copy_to_host(), BATCH)
    rows = np.repeat(np.arange(BATCH * STEPS), np.diff(indptr))
    out = np.full(active.indices.size, np.nan)
    out[order] = grad.reshape(BATCH * STEPS, -1)[rows, active.indices.copy_to_host()[order]]
    return memory.put(out)


def packed(grad, active):
    """A gradient on an active set of the device as that of the same one on the CPU."""
    return grad.copy_to_host()[packing(active.ptr.copy_to_host(), BATCH)[1]]


DENSITIES = [(0.4, False, 32), (0.4, True, 64), (0.0, False, 64), (3.0, False, None)]  # density, graded, width


@pytest.mark.parametrize("kernel, stride, padding", WINDOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_pooling_and_its_gradient_are_torchs(kind, kernel, stride, padding):
    layer = KINDS[kind](kernel, stride, padding)
    for density, graded, width in DENSITIES if kernel == 3 and stride == 2 else DENSITIES[: 1 + (kind == "max")]:
        host, sites = source(amounts(density, graded=graded), "listed")
        given = there(host, width)
        out, on_cpu = layer(given), layer(host)
        assert (
            cases.same_events(out.to("cpu"), on_cpu) and out.space == on_cpu.space and out.n_events == on_cpu.n_events
        )
        found, wanted = out.to("cpu").active, on_cpu.active
        assert np.array_equal(found.indptr, wanted.indptr) and np.array_equal(found.indices, wanted.indices)
        assert out.n_active == wanted.indices.size
        grads = np.random.default_rng(1).normal(size=out.shape)
        pooled, truth = from_torch(host, lambda shape, g=grads: g.reshape(shape), kind, kernel, stride, padding)
        np.testing.assert_allclose(out.to_dense(), pooled, rtol=1e-5)
        (below,) = out.node.vjp(SpikesGrad(dense_on(grads, out.active)))
        np.testing.assert_allclose(packed(below.active, given.active), truth[sites], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("graded", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("widths", [(32, 64), (None, 32), (64, 64)])
def test_addition_and_its_gradient(widths, graded):
    hosts, sites = zip(*(source(amounts(0.4, k, graded[k]), "listed", seed=k) for k in (0, 1)), strict=True)
    a, b = (there(host, width) for host, width in zip(hosts, widths, strict=True))
    out, on_cpu = a + b, hosts[0] + hosts[1]
    assert cases.same_events(out.to("cpu"), on_cpu) and out.space == SPACE
    found = out.to("cpu").active
    assert np.array_equal(found.indptr, on_cpu.active.indptr) and np.array_equal(found.indices, on_cpu.active.indices)
    grad = np.random.default_rng(3).normal(size=out.shape)
    closest = object()
    parts = out.node.vjp(SpikesGrad(dense_on(grad, out.active), closest))
    for part, own, mine in zip(parts, (a, b), sites, strict=True):
        assert np.array_equal(packed(part.active, own.active), grad[mine]) and part.closest is closest


def test_addition_of_a_layer_and_of_events_without_gradient():
    host, sites = source(amounts(), "listed")
    a, b = there(host, 32), Spikes.from_dense(amounts(seed=1), cases.DT, space=SPACE).to("cuda")
    grad = np.random.default_rng(3).normal(size=a.shape)
    for out, mine in [(add(a, b), 0), (add(b, a), 1)]:
        parts = out.node.vjp(SpikesGrad(dense_on(grad, out.active)))
        assert np.array_equal(packed(parts[mine].active, a.active), grad[sites]) and parts[1 - mine] is None
        (below,) = nn.SumPool2d(2)(out).node.vjp(SpikesGrad(memory.put(np.zeros(BATCH * STEPS * N))))
        assert below.active.shape == a.active.indices.shape
    plain = add(b, b)
    assert plain.node is None and plain.active is None and plain.n_events == 2 * b.n_events


def test_what_does_not_fit_is_refused():
    host, _ = source(amounts(), "listed")
    a = there(host)
    with pytest.raises(DeviceError, match="cpu and cuda"):
        a + host
    with pytest.raises(DeviceError, match="cpu and cuda"):
        host + a
    with pytest.raises(ShapeError, match="add: space"):
        a + flatten(a)
    for graded in (np.full((1, 1, 4), -0.5), np.array([[[0, 2.5, 0, -0.5]]])):
        negative = Spikes.from_dense(graded, cases.DT, space=(2, 2, 1)).to("cuda")
        with pytest.raises(EventError, match=r"nn\.MaxPool2d: an event of size -0\.5"):
            nn.MaxPool2d(2)(nn.SumPool2d(1)(negative))


def test_flattening_is_a_view():
    host, _ = source(amounts(graded=True), "listed")
    a = there(host, 32)
    out = flatten(a)
    assert out.space == (N,) and out.indices is a.indices and cases.same_events(out.to("cpu"), host)
    grad = SpikesGrad(memory.put(np.zeros(3)))
    assert out.node.vjp(grad)[0] is grad


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_silent_neurons_is_that_of_the_cpu(kind):
    """dL/dcount as `counts(wake=True)` sends it."""
    host, _ = source(amounts(), "listed")
    grad, found = np.random.default_rng(2).normal(size=(BATCH, 4 * 3 * 3)), []
    (wanted,) = KINDS[kind](3, 2, 1)(host).node.vjp(SpikesGrad(None, grad))
    out = KINDS[kind](3, 2, 1)(there(host, 32))
    (found,) = out.node.vjp(SpikesGrad(None, memory.put(grad)))
    np.testing.assert_allclose(found.closest.copy_to_host(), wanted.closest, rtol=1e-12)
    assert found.active is None


SIZE = (5, 4)


def network(pool, dtype=np.float64):
    """A convolution, a block with a block in it and a shortcut, pooling, dropout, flattening and a readout."""

    def conv(n_in, kernel, seed, **options):
        neuron = nsim.LIF(threshold=0.5)
        return nn.Conv2d(n_in, 3, kernel, neuron, size=SIZE, bias=True, dtype=dtype, seed=seed, **options)

    body = nn.Sequential(conv(3, 3, 1, padding=1), nn.Residual(conv(3, 3, 2, padding=1, groups=3)))
    block = nn.Residual(body, conv(3, 1, 3))
    n_in = int(np.prod(pool.space_after((*SIZE, 3))))
    readout = nn.Dense(n_in, 3, nsim.LI(reduce="sum"), dtype=dtype, seed=4)
    return nn.Sequential(conv(1, 3, 0, padding=1), block, pool, nn.Dropout(0.2), nn.Flatten(), readout)


@pytest.mark.parametrize(
    "pool, optimiser", [(nn.MaxPool2d(2, (1, 2), (0, 1)), optim.Adam), (nn.AvgPool2d((3, 2), 1), optim.SGD)]
)
def test_training_steps_equal_those_of_the_cpu(pool, optimiser):
    """Gradients of the counts too, which reach silent neurons through their closest approach."""
    rng = np.random.default_rng(0)
    given = Spikes.from_dense(rng.poisson(0.4, (2, 3, 20)), cases.DT, space=(*SIZE, 1))
    nets = [network(pool), network(pool).to("cuda")]
    opts = [optimiser(net.parameters(), lr=0.02) for net in nets]
    on_counts = rng.normal(size=(4, 2, 60))
    for _ in range(2):
        values = []
        for net, opt in zip(nets, opts, strict=True):
            out, hidden = net(given.to(net.device), hidden=True)
            assert all(fired.n_events > 0 for fired in hidden)
            loss = losses.cross_entropy(out, [0, 2])
            for fired, grad in zip(hidden, on_counts, strict=True):
                loss = loss + (fired.counts(wake=True) * grad).sum()
            opt.zero_grad()
            loss.backward()
            opt.step()
            values.append(loss.item())
        assert values[0] == pytest.approx(values[1], rel=1e-9)
    for (key, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9, err_msg=key)


def test_a_training_step_asks_the_device_for_nothing(monkeypatch):
    """Rooms of lists that no sweep makes are known without a look at them."""
    net = network(nn.MaxPool2d(2)).to("cuda")
    given = Spikes.from_dense(np.random.default_rng(0).poisson(0.4, (2, 2, 20)), cases.DT, space=(*SIZE, 1)).to("cuda")
    opt = optim.SGD(net.parameters(), lr=0.05)

    def step():
        out, hidden = net(given, hidden=True)
        loss = losses.cross_entropy(out, [0, 2]) + losses.spike_rate_lower(hidden, limit=1)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    check_asks_for_nothing(step, monkeypatch)


def test_lists_that_are_cut_short_are_pooled_and_added_and_the_step_made_again(monkeypatch):
    def no_slack(room, which, steps, width):
        return min(steps * width, max(1, room.sizes[which]))

    monkeypatch.setattr(launch.Room, "entries", no_slack)
    given = Spikes.from_dense(np.random.default_rng(0).poisson(0.4, (2, 2, 20)), cases.DT, space=(*SIZE, 1))
    nets, tries = [network(nn.MaxPool2d(2)), network(nn.MaxPool2d(2)).to("cuda")], 0
    for net in nets:
        opt = optim.SGD(net.parameters(), lr=0.05)
        for done in range(2):
            if done and net.device == "cuda":
                for layer in net.connections()[:-1]:
                    launch.room_of(layer).sizes = [1, 1]
            while True:
                net.seed(done)
                try:
                    loss = losses.cross_entropy(net(given.to(net.device)), [0, 2])
                    opt.zero_grad()
                    loss.backward()
                    opt.step()
                    loss.item()
                    break
                except nsim.StepOverflow:
                    tries += 1
    assert tries > 0
    for (key, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9, err_msg=key)


def test_a_run_is_that_of_the_cpu():
    given = Spikes.from_dense(np.random.default_rng(0).poisson(0.4, (2, 4, 20)), cases.DT, space=(*SIZE, 1))
    net = network(nn.AvgPool2d(2))
    wanted = net.run(given)
    net.to("cuda")
    first = net.run(given.to("cuda").cut(0, 1))
    second = net.run(given.to("cuda").cut(1, 4), first.state)
    for found, rest, truth in zip(first.spikes, second.spikes, wanted.spikes, strict=True):
        assert np.array_equal(np.concatenate([found.to_dense(), rest.to_dense()], axis=1), truth.to_dense())
    np.testing.assert_allclose(second.output.copy_to_host(), wanted.output, rtol=1e-9)
