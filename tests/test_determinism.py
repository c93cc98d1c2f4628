"""The same bits from run to run, for 1, 2 or 3 threads, and whatever room the lists start with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from nsim import Spikes, launch, losses, nn, optim
from nsim.backend import single_threaded_blas
from tests import cases

ROOT = Path(__file__).resolve().parents[1]
BATCH = 37  # more than the groups of samples, and no multiple of them

# What changes the way through the kernels: rows or products, listed or dense active sets, history, recurrence.
NETWORKS = {
    "rows": {},
    "recurrent": {"recurrent": True, "delay": 1, "bias": True},
    "learned": {"neuron": {"learn": ("tau_mem", "threshold")}, "readout": {"learn": "tau_mem", "reduce": "max"}},
    "dense gradient": {"neuron": {"band": None}, "recurrent": True},
    "trace": {"readout": {"reduce": None}},
    "sorted events": {"sizes": (9, 1000, 17, 5)},
}


def step(net, density, reduced=True):
    """Everything that one training step computes: events, active sets, output, gradients, weights after two of them."""
    given = cases.spikes(BATCH, 20, 9, density=density, seed=1, space=(3, 3, 1))
    labels = np.random.default_rng(2).integers(0, 5, BATCH)
    opt, found = optim.Adam(net.parameters(), lr=1e-2), []
    for _ in range(2):
        out, hidden = net(given, hidden=True)
        loss = losses.cross_entropy(out, labels, per_step=not reduced)
        loss = loss + losses.spike_rate_lower(hidden, limit=3.0) + losses.spike_rate_upper(hidden, limit=0.1)
        opt.zero_grad()
        loss.backward()
        opt.step()
        found += [out.data, loss.data, *(tensor.grad for tensor in net.parameters())]
        found += [array for spikes in hidden for array in spikes.arrays]
    return found + list(net.state_dict().values())


def with_dropout(net):
    return nn.Sequential(net[0], nn.Dropout(0.3), *net.layers[1:])


def digests():
    """A digest of a training step of each network, at a low and a high input density."""
    found = {}
    for name, options in NETWORKS.items():
        for density in (0.1, 1.5):
            net = with_dropout(cases.network(**options))
            found[f"{name}, density {density}"] = cases.digest(step(net, density, reduced=name != "trace"))
    for density in (0.1, 1.5):
        found[f"convolutions, density {density}"] = cases.digest(step(cases.convolutional(), density))
    return found


@pytest.fixture
def threads():
    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)


def test_same_bits_from_run_to_run_and_for_any_threads_of_this_process(threads):
    first = digests()
    assert len(set(first.values())) == len(first), "the cases differ from one another"
    for count in range(1, numba.config.NUMBA_NUM_THREADS + 1):
        threads(count)
        assert digests() == first


def test_same_bits_for_one_two_and_three_threads():
    """In a process of its own, since the number of threads cannot grow in this one."""
    script = (
        "import numba, json\nfrom tests.test_determinism import digests\nfound = []\n"
        "for count in (1, 2, 3):\n    numba.set_num_threads(count)\n    found.append(digests())\n"
        "print(json.dumps(found))"
    )
    environment = os.environ | {"NUMBA_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    expected = digests()
    for count, found in enumerate(json.loads(done.stdout), start=1):
        assert found == expected, f"{count} threads"


@pytest.mark.parametrize("band", [0.2, 1.5, None])
@pytest.mark.parametrize("recurrent", [False, True])
def test_room_does_not_change_bits(recurrent, band, monkeypatch):
    """Lists that are too small are grown and their samples redone; hints, right or wrong, leave no trace."""
    wanted = None
    for room in ({}, {"spikes": 10**5, "active": 10**5}, {"dense": True}, "tiny"):
        net = cases.network(recurrent=recurrent, neuron={"band": band})
        if room == "tiny":
            shrink_first_lists(monkeypatch)
        for layer in net.layers[:2]:
            layer.room = launch.Room(**(room if room != "tiny" else {}))
        found = step(net, density=0.3)
        wanted = found if wanted is None else wanted
        assert all(cases.same_bits(a, b) for a, b in zip(found, wanted, strict=True)), room


def shrink_first_lists(monkeypatch):
    """Let every sweep begin with lists that hold hardly more than one step, whatever the last one needed."""
    make, grown, calls = launch._slots, launch._grown, []

    def tiny(size, steps, n, room, dtype, with_u):
        slots = make(size, steps, n, 0, dtype, with_u)
        width = launch.padded(n) + 1
        return launch.Slots(slots.ptr, slots.indices[:, :width].copy(), slots.u[:, :width].copy())

    def counted(*arguments):
        calls.append(arguments)
        return grown(*arguments)

    monkeypatch.setattr(launch, "_slots", tiny)
    monkeypatch.setattr(launch, "_grown", counted)
    return calls


def test_some_samples_grow_and_others_do_not(monkeypatch):
    """A batch of quiet and busy samples: only the busy ones are redone, and none of them is cut off."""
    dense = cases.counts(BATCH, 40, 9, density=0.3)
    dense[::2] = 0
    net = cases.network(recurrent=True)
    wanted, hidden = net(Spikes.from_dense(dense, cases.DT), hidden=True)
    calls = shrink_first_lists(monkeypatch)
    out, again = net(Spikes.from_dense(dense, cases.DT), hidden=True)
    assert calls, "no list had to grow: the case shows nothing"
    assert cases.same_bits(out.data, wanted.data)
    assert all(cases.same_events(a, b) for a, b in zip(again, hidden, strict=True))


def test_kernels_call_blas_on_one_thread():
    """SciPy's BLAS too, which a process loads at the first product: two threads that each call one on all cores wait
    for each other."""
    code = """
from nsim.backend import single_threaded_blas
with single_threaded_blas(True):
    import scipy.linalg.cython_blas
    from threadpoolctl import threadpool_info
    libraries = [one for one in threadpool_info() if one["user_api"] == "blas"]
    assert libraries and all(one["num_threads"] == 1 for one in libraries), libraries
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_blas_gets_its_threads_back_when_several_threads_sweep():
    """The first that enters limits it, the last that leaves gives back, whichever these are."""
    first, second = single_threaded_blas(True), single_threaded_blas(True)
    with threadpool_limits(2, "blas"):
        first.__enter__(), second.__enter__()
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
        first.__exit__(), second.__exit__()
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {2}
