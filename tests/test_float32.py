"""The float32 kernels against the oracle: every model, reset, surrogate and layer kind, to 3e-4 of the largest entry.

A result in float32 is at best what exact arithmetic makes of inputs that are off by an ulp or so. How far that is, the
case decides: dg/g is about 200 dv near the threshold, and the error of v is a few ulps of its largest value. So each
case takes the first input that the oracle finds well conditioned; nsim has no part in the choice:

- no potential comes within rounding of the threshold, of the band's edge or of a jump of the surrogate;
- one float32 ulp on every weight and parameter moves no gradient by more than half of the tolerance.
"""

import dataclasses

import numpy as np
import pytest

import nsim
from nsim import surrogates
from tests import test_conv
from tests.test_sweeps import SPIKING, Stack, compare, inputs, oracle_gradients, rounding

TOLERANCE = 3e-4
GAIN = (2.0, 2.0)  # potentials of a few thresholds
CONNECTIONS = [
    {"band": 0.2},
    {"band": 0.2, "recurrent": True, "delay": 1, "bias": True},
    {"band": None, "recurrent": True, "delay": 2, "bias": True},
]
RESETS = [("subtract", True), ("subtract", False), ("zero", True), ("zero", False)]  # and whether it is detached


def nudged(layer, rng):
    """An oracle's layer with every number that it is given an ulp higher or lower."""

    def moved(a):
        return None if a is None else a * (1 + np.finfo(np.float32).eps * rng.choice([-1, 1], np.shape(a)))

    arrays = {name: moved(getattr(layer, name)) for name in ("weight", "weight_rec", "bias", "v_init")}
    return dataclasses.replace(layer, **arrays, params={name: moved(a) for name, a in layer.params.items()})


def clear(record, layer, jump):
    """Whether every site is beyond rounding on one side of the threshold, the band's edge and the surrogate's jump."""
    edges = [edge for edge in (0.0, layer.band, jump) if edge is not None]
    distance = min(np.abs(np.abs(record.u) - edge).min() for edge in edges)
    return distance > rounding(record, np.float32)


def well_conditioned(layers, counts, jump=None):
    truth = oracle_gradients(layers, counts)
    if not all(clear(record, layer, jump) for record, layer in zip(truth.records[:-1], layers, strict=False)):
        return False
    for seed in range(3):
        rng = np.random.default_rng(seed)
        found = oracle_gradients([nudged(layer, rng) for layer in layers], counts)
        for one, other in zip(truth.layers, found.layers, strict=True):
            if any(2 * np.abs(other[name] - one[name]).max() > TOLERANCE * np.abs(one[name]).max() for name in one):
                return False
    return True


def check(stack, draw, jump=None):
    """The stack against the oracle, with the first of the inputs draw(seed) that is well conditioned."""
    counts = next((c for c in map(draw, range(20)) if well_conditioned(stack.oracle, c, jump)), None)
    assert counts is not None, "no well-conditioned input: choose smaller weights"
    _, hidden = compare(stack, counts, TOLERANCE)
    assert all(0.005 < h.density < 0.6 for h in hidden), "the case has no spikes, or nothing else"


def short(seed):
    return inputs(steps=20, seed=seed)


@pytest.mark.parametrize(
    ("name", "reset", "detach_reset"),
    [(name, *reset) for name in SPIKING for reset in (RESETS if name == "LIF" else RESETS[:1])],
)
def test_every_model_and_reset(name, reset, detach_reset):
    """Each reset is a kernel that takes seconds to compile, more with trained parameters: LIF has all, with trained
    parameters but for the default; the others have the default. In float64 every model has all."""
    learn = name == "LIF" and (reset, detach_reset) != RESETS[0]
    for connection in CONNECTIONS:
        stack = Stack(name, np.float32, gain=GAIN, learn=learn, reset=reset, detach_reset=detach_reset, **connection)
        check(stack, short)


@pytest.mark.parametrize(
    "surrogate",
    [*(kind() for kind in surrogates.SURROGATES.values()), nsim.surrogates.Custom(lambda u: np.exp(-10 * abs(u)))],
    ids=repr,
)
def test_surrogates(surrogate):
    for connection in CONNECTIONS[1:]:
        stack = Stack("LIF", np.float32, gain=GAIN, learn=False, surrogate=surrogate, **connection)
        check(stack, short, jump=getattr(surrogate, "width", None))


@pytest.mark.parametrize("shape", ["strides", "depthwise"])
@pytest.mark.parametrize("band", [0.2, None])
def test_convolution(shape, band):
    stack = test_conv.Stack(shape, dtype=np.float32, learn=False, band=band, delay=1, bias=True)
    check(stack, lambda seed: test_conv.amounts(stack.space, seed=seed))
