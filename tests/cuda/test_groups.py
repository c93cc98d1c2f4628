"""Groups of a backward sweep: enough blocks for a large card, and memory within bounds."""

import numpy as np
import pytest

from benchmarks.shapes import SHAPES
from nsim_cuda import jit

TILE = 64  # of a GPU; the simulator's are smaller
MIB = 1 << 20


def grid(batch, steps, n, inputs, whole=True, recurrent=False, learn=False):
    """Groups, tiles, and bytes of partial sums and of history, of a dense LIF layer in float32."""
    weights, history = 4 * n * (inputs + n * recurrent), 2 * learn
    groups, tiles, width = jit.backward_grid((batch, steps, n), 4, weights, history, whole)
    assert tiles * width >= n and 1 <= groups <= batch
    return groups, tiles, groups * weights, groups * history * (steps + 1) * n * 4


@pytest.fixture(autouse=True)
def of_a_gpu(monkeypatch):
    monkeypatch.setattr(jit, "TILE_BACKWARD", TILE)


@pytest.mark.parametrize(
    "key, n, first, second",
    [
        ("shd", 200, (32, 4), (128, 1)),
        ("shd", 400, (18, 7), (128, 1)),
        ("shd", 1000, (8, 16), (32, 1)),
        ("nmnist", 200, (32, 4), (128, 1)),
        ("nmnist", 1000, (8, 16), (20, 1)),
        ("fashion", 200, (32, 4), (128, 1)),
        ("fashion", 1000, (8, 16), (20, 1)),
    ],
)
def test_layers_of_the_paper(key, n, first, second):
    """A first layer wants no gradient of its input; see the table in nsim_cuda/jit.py."""
    shape = SHAPES[key]
    assert grid(shape.batch, shape.steps, n, shape.n_in, whole=False)[:2] == first
    assert grid(shape.batch, shape.steps, n, n)[:2] == second
    assert grid(shape.batch, shape.steps, shape.n_out, n)[0] >= 128, "the readout"


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("n", [200, 400, 1000, 2048])
@pytest.mark.parametrize("key", SHAPES)
def test_memory_is_bounded(key, n, learn, recurrent):
    """To a quarter of a dense trace each, or 80 MiB, and where it is less than that by far, the card is full."""
    shape = SHAPES[key]
    bound = max(80 * MIB, shape.batch * shape.steps * n * 4 // 4)
    for inputs, whole in ((shape.n_in, recurrent), (n, True)):
        groups, tiles, partial, history = grid(shape.batch, shape.steps, n, inputs, whole, recurrent, learn)
        assert partial <= bound and history <= bound
        assert groups * tiles >= 126 or 2 * max(partial, history) > 0.9 * bound


def test_no_shape_is_left_without_groups():
    assert grid(256, 500, 1000, 1000, learn=True)[0] == 29
    assert grid(256, 500, 700, 65536)[0] == 1, "one partial sum is larger than all that is allowed"
    assert grid(1, 1, 1, 1)[:2] == (1, 1) and grid(3, 7, 65536, 9, whole=False)[:2] == (3, 1024)
    for history, wanted in ((0, 128), (2, 29)):  # of a convolution
        assert jit.backward_grid((256, 100, 28 * 28 * 32), 4, 4 * 9 * 32 * 32, history, True)[0] == wanted


@pytest.mark.parametrize("given", [np.int64(3), (np.int64(3), np.int32(2))])
def test_launches_are_of_pythons_own_numbers(monkeypatch, given):
    """A GPU refuses others, which the simulator takes."""
    seen = []
    monkeypatch.setattr(jit, "launched", lambda kernel, grid, block, args: seen.extend((grid, block)))
    jit.start(None, given, np.int64(32))
    assert seen == [given, 32]
    assert {type(k) for k in (*(seen[0] if isinstance(given, tuple) else seen[:1]), seen[1])} == {int}
