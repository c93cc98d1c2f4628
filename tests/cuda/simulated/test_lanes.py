"""Blocks of several warps: lanes that share a column's events, and teams that take an active site below each."""

import sys

import numpy as np
import pytest

from nsim_cuda.shim import SIMULATED
from tests.cuda.simulated import test_conv
from tests.cuda.simulated.common import compare, inputs, stack

pytestmark = pytest.mark.skipif(not SIMULATED, reason="a GPU's blocks have 256 threads anyway")


@pytest.fixture(params=[64, 96, 128], autouse=True)
def block(request, monkeypatch):
    """Threads of a block; the simulator's kernels read the number when they run."""
    for name, module in list(sys.modules.items()):
        if name.startswith("nsim_cuda.") and hasattr(module, "BLOCK"):
            monkeypatch.setattr(module, "BLOCK", request.param)


def repeated(batch=2, steps=3, n=9):
    """More events a step than lanes take at a time, most of them repeated."""
    return inputs(batch, steps, n, density=1.5)


@pytest.mark.parametrize("band", [0.2, None])
def test_dense(band):
    """Few active sites below, for which teams work, and many, of which each thread takes one."""
    compare(stack("LIF", sizes=(9, 33, 6, 3), gain=(2.0, 4.0), band=band, delay=1, bias=True), repeated())


def test_recurrent():
    compare(stack("LIF", sizes=(9, 40, 6, 3), gain=(2.0, 4.0), recurrent=True, learn=False, reset="zero"), repeated())


@pytest.mark.parametrize("learn", [True, False])
def test_readout(learn):
    made = stack("LIF", sizes=(9, 33, 35), gain=(2.0,), reduce="max", learn=learn, band=None)
    compare(made, repeated(), lengths=np.array([3, 2]))


def test_convolution():
    made = test_conv.stack("groups", learn=False)
    compare(made, test_conv.amounts(made.space, 2, 3, 0.3))
