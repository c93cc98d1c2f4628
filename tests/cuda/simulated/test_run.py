"""`net.run` on the device: what the CPU gives, and the same bits wherever time is cut."""

import numpy as np
import pytest

from nsim import ShapeError
from nsim.backend import moved
from tests import cases

SIZES = (7, 9, 3)


@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("reduce", [None, "sum", "mean", "max", "last"])
def test_cut_anywhere(reduce, delay):
    net = cases.network("LIF", SIZES, recurrent=True, delay=delay, readout={"reduce": reduce, "v_init": -0.3})
    given = cases.spikes(3, 6, 7, density=0.4)
    wanted = net.run(given, record={0: [8, 2], 1: [1]})
    there = given.to("cuda")
    net.to("cuda")
    whole = net.run(there, record={0: [8, 2], 1: [1]})
    assert np.array_equal(whole.spikes[0].to_dense(), wanted.spikes[0].to_dense()) and whole.spikes[0].n_events
    np.testing.assert_allclose(moved(whole.output, "cpu"), wanted.output, rtol=1e-5, atol=1e-5)
    for layer, states in wanted.recorded.items():
        for name, values in states.items():
            np.testing.assert_allclose(whole.recorded[layer][name], values, rtol=1e-5, atol=1e-5)
    state, pieces = None, []
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        pieces.append(net.run(there.cut(start, stop), state))
        state = pieces[-1].state
    fired = np.concatenate([piece.spikes[0].to_dense() for piece in pieces], axis=1)
    assert np.array_equal(fired, whole.spikes[0].to_dense())
    outputs = [moved(piece.output, "cpu") for piece in pieces]
    found = np.concatenate(outputs, axis=1) if reduce is None else outputs[-1]
    assert cases.same_bits(found, moved(whole.output, "cpu"))


@pytest.mark.parametrize("name", cases.SPIKING)
def test_every_model(name):
    net, given = cases.network(name, (7, 40, 3)), cases.spikes(2, 4, 7, density=0.4)
    wanted = net.run(given, record={0: [0, 39]})
    found = net.to("cuda").run(given.to("cuda"), record={0: [0, 39]})
    assert np.array_equal(found.spikes[0].to_dense(), wanted.spikes[0].to_dense())
    for state, values in wanted.recorded[0].items():
        np.testing.assert_allclose(found.recorded[0][state], values, rtol=1e-5, atol=1e-5)


def test_a_state_of_the_other_device_is_refused():
    net, given = cases.network("LIF", SIZES), cases.spikes(3, 6, 7)
    state = net.run(given).state
    with pytest.raises(ShapeError, match="state of another layer or device"):
        net.to("cuda").run(given.to("cuda"), state)
