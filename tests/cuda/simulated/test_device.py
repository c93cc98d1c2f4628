"""The device as a user meets it: where things lie, what is refused, what is waited for, and what memory it takes."""

import gc

import numpy as np
import pytest

import nsim
from nsim import LIF, DeviceError, ParameterError, ShapeError, Spikes, Tensor, losses, nn, ops, optim, surrogates
from nsim_cuda import jit, launch, memory, status
from tests import cases
from tests.cuda.simulated.common import check_asks_for_nothing
from tests.cuda.simulated.test_training import LABELS, SIZES, pair


def test_there_and_back_again():
    net, given = cases.network("LIF", SIZES), cases.spikes(3, 6, 7, density=0.4, lengths=[6, 2, 4])
    before = net.state_dict()
    assert net.to("cuda") is net and net.device == net[0].device == "cuda"
    assert all(isinstance(p.data, memory.DeviceArray) for p in net.parameters())
    there = given.to("cuda")
    assert there.device == "cuda" and there.to("cuda") is there and given.to("cpu") is given
    assert cases.same_events(there.to("cpu"), given) and np.array_equal(there.to("cpu").lengths, given.lengths)
    assert (there.n_events, there.density, there.shape) == (given.n_events, given.density, given.shape)
    assert np.array_equal(there.counts().numpy(), given.counts().numpy())
    assert there.nbytes >= given.indices.nbytes and "DeviceSpikes([B=3" in repr(there)
    assert all(np.array_equal(there.sample(1)[k], given.sample(1)[k]) for k in (0, 1))
    assert cases.same_events(there.cut(1, 4).to("cpu"), given.cut(1, 4))
    net.to("cpu")
    assert all(np.array_equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))


def test_graded_counts_and_wide_layers():
    sizes = np.random.default_rng(0).normal(size=(2, 3, 70)).astype(np.float32)
    given = Spikes.from_dense(sizes * (np.abs(sizes) > 1), 1e-3)
    np.testing.assert_allclose(given.to("cuda").counts().numpy(), given.counts().numpy(), rtol=1e-6)


def test_parts_on_different_devices_are_refused():
    net, given = cases.network("LIF", SIZES), cases.spikes(3, 6, 7)
    with pytest.raises(DeviceError, match="arguments lie on cpu and cuda; bring them together"):
        net(given.to("cuda"))
    with pytest.raises(DeviceError, match="cpu and cuda"):
        net.to("cuda")(given)


@pytest.mark.parametrize("n_in, n, recurrent", [(2, 41, True), (2, 61, False), (61, 2, False)])
def test_layers_that_are_too_large(n_in, n, recurrent, monkeypatch):
    assert (jit.MAX_RECURRENT, jit.MAX_NEURONS) == (4096, 65536)
    monkeypatch.setattr(jit, "MAX_RECURRENT", 40)
    monkeypatch.setattr(jit, "MAX_NEURONS", 60)
    net = nn.Sequential(nn.Dense(n_in, n, LIF(), recurrent=recurrent))
    with pytest.raises(DeviceError, match=r"recurrent layers of up to 40 neurons and others of up to 60"):
        net.to("cuda")
    assert net.device == "cpu"
    nn.Dense(40, 40, LIF(), recurrent=True).to("cuda")


def test_batches_that_are_too_large():
    wide = Spikes(np.zeros(2, np.int64), np.empty(0, np.uint32), (1, 1, 65537), dt=1e-3)
    with pytest.raises(DeviceError, match="up to 65,536 neurons"):
        wide.to("cuda")


def test_weights_that_are_not_finite_do_not_get_there():
    net = cases.network("LIF", SIZES)
    net[1].weight.data[2, 3] = np.nan
    with pytest.raises(ParameterError, match=r"1\.weight holds NaN"):
        net.to("cuda")


def test_a_surrogate_that_cannot_be_compiled_is_refused_before_the_sweep(monkeypatch):
    monkeypatch.setattr("nsim_cuda.launch.forward", lambda *a, **k: pytest.fail("it began to compute"))
    layer = nn.Dense(9, 5, LIF(surrogate=surrogates.Custom(lambda u: "steep"))).to("cuda")
    with pytest.raises(ParameterError, match=r"Custom\(<lambda>\): g\(u\) gives no number but .*steep"):
        layer(cases.spikes().to("cuda"))


def test_kernels_of_a_surrogate_are_those_of_its_options():
    """Equal surrogates share them, and a changed option is seen."""
    one, other = nsim.FastSigmoid(7), nsim.FastSigmoid(7)
    kernels = launch.compiled_surrogate(one, np.float32)
    assert launch.compiled_surrogate(other, np.float32) is kernels
    one.slope = 3.0
    assert launch.compiled_surrogate(one, np.float32) is not kernels


def test_weights_are_written_in_place():
    """As on the CPU; a part of them cannot be."""
    net = nn.Sequential(nn.Dense(3, 2, LIF(tau_mem=[1e-2, 2e-2], learn="tau_mem"))).to("cuda")
    weight, values = net[0].weight, np.arange(6.0).reshape(3, 2)
    weight.data[...] = values
    assert np.array_equal(weight.numpy(), values)
    weight.data[:] = weight.data * 2.0
    assert np.array_equal(weight.numpy(), 2 * values)
    weight.set(0.5)
    assert (weight.numpy() == 0.5).all()
    net[0].set_value("tau_mem", 5e-3)
    np.testing.assert_allclose(net[0].value("tau_mem"), 5e-3, rtol=1e-6)
    with pytest.raises(DeviceError, match="assignment to a part"):
        weight.data[0] = 1
    with pytest.raises(ShapeError, match=r"of float32 \(3, 2\) cannot take one of float64 \(2,\)"):
        weight.data[...] = memory.put(np.zeros(2))


UNARY = {"exp": ops.exp, "log": ops.log, "absolute": ops.absolute, "relu": ops.relu, "negative": lambda x: -x}
BINARY = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "power": lambda x, y: x**y,
}
REDUCED = {
    "all": lambda x: x.sum(),
    "first": lambda x: x.sum(axis=0),
    "last": lambda x: x.mean(axis=-1),
    "mean": lambda x: x.mean(),
    "power": lambda x: (x**3).sum(axis=1),
    "power of a number": lambda x: (2.0**x).sum(),
    "kept": lambda x: x / (4.0 + x.sum(axis=1, keepdims=True)),
    "number": lambda x: (2.0 - x / 3.0 + 1.0) * 0.5,
    "reshape": lambda x: x.reshape((6, 2)).sum(axis=0),
    "shifted": lambda x: ops.relu(x - 1.0),
}


def both(function, *arrays):
    """Result and gradients of a function of tensors, on the CPU and on the device."""
    for device in ("cpu", "cuda"):
        given = [Tensor(a.copy(), requires_grad=True) for a in arrays]
        out = function(*(x.to(device) for x in given))
        out.backward(np.random.default_rng(1).normal(size=out.shape) if out.ndim else None)
        yield [out.numpy(), *(x.grad for x in given)]


@pytest.mark.parametrize("name", [*UNARY, *REDUCED])
def test_operations_on_a_tensor(name):
    x = np.random.default_rng(0).uniform(0.2, 2, (3, 4)) * (1 if name == "log" else np.tile([1, -1], (3, 2)))
    for a, b in zip(*both((UNARY | REDUCED)[name], x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((2, 3, 4), (3, 1)), ((), (3,))]
)
def test_operations_on_two_tensors(name, shapes):
    x, y = (np.random.default_rng(k).uniform(0.5, 2, shape) for k, shape in enumerate(shapes))
    for a, b in zip(*both(BINARY[name], x, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_what_the_device_cannot_do_says_so():
    x = Tensor(np.ones((3, 4)), requires_grad=True).to("cuda")
    for wrong, name in (
        (lambda: ops.matmul(x, x), "numpy.matmul"),
        (lambda: ops.log_softmax(x), "numpy.ndarray.max"),
        (lambda: x[0], "this use of an array"),
        (lambda: np.asarray(x.data), "this use of an array"),
        (lambda: np.concatenate([x.data, x.data]), "numpy.concatenate"),
    ):
        with pytest.raises(
            DeviceError, match=rf"{name}.* is not there on the device; move the tensor with .to\('cpu'\)"
        ):
            wrong()


@pytest.mark.parametrize("per_step", [False, True])
def test_cross_entropy_of_counts_and_of_every_step(per_step):
    """Rows past the end of a sample may hold anything, NaN included."""
    rng, lengths = np.random.default_rng(0), [2, 5, 4]
    scores = rng.normal(size=(3, 5, 4) if per_step else (3, 4))
    if per_step:
        scores[0, 3] = np.nan
    found = list(
        both(
            lambda x: 3 * losses.cross_entropy(x, LABELS, label_smoothing=0.2, per_step=per_step, lengths=lengths),
            scores,
        )
    )
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


def test_a_readout_at_every_step_knows_the_true_lengths():
    net, given = cases.network("LIF", SIZES, readout={"reduce": None}), cases.spikes(3, 6, 7, lengths=[6, 2, 4])
    found = []
    for device in ("cpu", "cuda"):
        out = net.to(device)(given.to(device))
        assert out.to("cpu").lengths.tolist() == [6, 2, 4]
        found.append(losses.cross_entropy(out, LABELS, per_step=True).item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_training_step_asks_the_device_for_nothing(monkeypatch):
    """Once a layer has run, forward, loss, backward and optimiser are launched without a look at any result."""
    (_, net), (_, given) = pair(neuron={"learn": "tau_mem"})
    opt = optim.Adam(net.parameters())

    def step():
        out, hidden = net(given, hidden=True)
        loss = losses.cross_entropy(out, LABELS) + losses.spike_rate_lower(hidden) + losses.spike_rate_upper(hidden, 1)
        opt.zero_grad()
        loss.backward()
        optim.clip_grad_norm(opt.params, 1.0)
        opt.step()
        return loss

    check_asks_for_nothing(step, monkeypatch)


def test_memory_is_used_again_and_freed():
    (_, net), (_, given) = pair()
    opt = optim.SGD(net.parameters(), lr=0.1)

    def step():
        loss = losses.cross_entropy(net(given), LABELS)
        opt.zero_grad()
        loss.backward()
        opt.step()
        loss.item()

    for _ in range(2):
        step()
    gc.collect()
    taken, allocated, memory.allocated = [], memory.allocated, lambda *a: taken.append(a) or allocated(*a)
    try:
        in_use = memory.POOL.in_use
        step()
        gc.collect()
        assert memory.POOL.in_use == in_use and not taken, "a step takes the memory of the one before"
    finally:
        memory.allocated = allocated
    memory.POOL.release()
    assert memory.POOL.idle == 0 and not memory.POOL.free
    memory.POOL.reset_peak()
    assert memory.POOL.peak == memory.POOL.in_use


def test_a_full_device_is_told_of(monkeypatch):
    def full(shape, dtype):
        raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")

    monkeypatch.setattr(memory, "allocated", full)
    with pytest.raises(DeviceError, match="no room for 4,000,000 bytes more"):
        memory.empty((1000, 1000), np.float32)


def test_the_tape_keeps_spikes_and_active_sites_and_nothing_dense():
    """The same events in ten times the steps: as much memory, but for the row pointers."""
    sizes = []
    for steps in (6, 60):
        dense = np.zeros((2, steps, 7), int)
        dense[:, :6] = cases.counts(2, 6, 7, density=0.3)
        net = cases.network("LIF", SIZES).to("cuda")
        with nsim.no_grad():
            net(Spikes.from_dense(dense, 1e-3).to("cuda"))
        out, hidden = net(Spikes.from_dense(dense, 1e-3).to("cuda"), hidden=True)
        needs = [h.needs.copy_to_host() for h in hidden]
        pointers = sum(h.ptr.nbytes + h.active.ptr.nbytes for h in hidden) + given_bytes(dense, steps)
        sizes.append(nsim.saved_bytes(out) - pointers)
        assert all(n.sum() < 0.5 * h.shape[0] * h.shape[1] * h.shape[2] for n, h in zip(needs, hidden, strict=True))
    assert sizes[0] > 0 and sizes[1] < 3 * sizes[0]


def given_bytes(dense, steps):
    return 4 * dense.shape[0] * (steps + 1)


def test_reading_the_flags_costs_nothing_where_nothing_ran():
    status.status().settle()
    memory.put(np.ones(3)).copy_to_host()
    assert not status.status().sweeps and jit.blocks(0) == 1
