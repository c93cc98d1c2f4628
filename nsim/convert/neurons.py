"""Codes of converted networks: bistable neurons, integrate-and-fire, plain phase coding.

A code is a time table: what a population at a depth does in each step, and how large the spikes of the step are. All
sizes are in units of the threshold lambda, so that a membrane at 1 stands for lambda.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nsim.checks import flag, is_number, is_whole, whole
from nsim.errors import ParameterError
from nsim.kernels.convert import Steps


class Quantiser(NamedTuple):
    """What neurons make of z: h clip(floor(z / h + 1/2), 0, most), h = lambda / levels."""

    levels: int
    most: int

    def __call__(self, z, threshold):
        """float64, of the shape of z; `threshold` is broadcast."""
        step = threshold / self.levels
        return np.clip(np.floor(z / step + 0.5), 0, self.most) * step


class Code:
    """Base of the codes.

    staged : whether a value takes a cycle from one layer to the next, so that paths of different depth want relays
    cycle : steps in which a value is sent
    burst : most spikes of a neuron in one step; signed : whether there are negative ones too
    """

    staged = signed = False
    cycle = burst = 1

    @property
    def valued(self) -> bool:
        """Whether what neurons send differs in size within a step."""
        return self.signed or self.burst > 1

    def steps(self, total: int, depth: int, stream: int | None = None) -> Steps:
        """What a population at a depth does in `total` steps; `stream`: so many images follow each other."""
        raise TypeError(f"{type(self).__name__} must define steps(total, depth, stream)")

    def ends(self, total: int, depth: int) -> np.ndarray:
        """bool [total]: after which steps the value that a population at this depth takes in is complete."""
        raise TypeError(f"{type(self).__name__} must define ends(total, depth)")

    def sent(self, total: int, depth: int) -> int:
        """How many values a population at this depth has sent after `total` steps."""
        return total // self.cycle

    def quantiser(self, sent: int) -> Quantiser:
        """What the mean of so many values that were sent is rounded to."""
        return Quantiser(self.burst * 2**self.cycle, self.burst * (2**self.cycle - 1))

    def first_answer(self, depth: int) -> int:
        """Steps until a readout at a depth has its first complete value."""
        return (depth + 1) * self.cycle if self.staged else self.cycle

    def __repr__(self):
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"


def _steps(total, size, **known):
    """Steps of which nothing happens but what is given."""
    full = {
        "into": np.full(total, -1, np.int64), "out": np.full(total, -1, np.int64), "clear": np.zeros(total, bool),
        "start": np.zeros(total, np.float32), "share": np.zeros(total, np.float32),
        "picture": np.zeros(total, np.int64), "fresh": np.zeros(total, bool),
    }  # fmt: skip
    for name, value in known.items():
        full[name][...] = value
    return Steps(size=size.astype(np.float32), **full)


def _phases(kind, phases):
    if not (is_whole(phases) and 1 <= phases <= 16):
        raise ParameterError(f"convert.{kind}: phases = {phases!r}; expected a whole number from 1 to 16")
    return int(phases)


def _burst(kind, burst):
    whole(f"convert.{kind}", burst=(burst, 1))
    return int(burst)


class Bistable(Code):
    """Bistable neurons: they take in for one cycle of K steps without a spike, and fire in the next without input.

    A spike of step t stands for lambda Pi, Pi = 2^-(1 + t mod K). In a cycle c with c + l even, l the depth, a neuron
    sums V = lambda 2^-(K+1) + b + sum_j W s_j lambda_j Pi, in the next it fires where V >= lambda Pi and loses as much.
    So a cycle sends the quantised ReLU

        (lambda / 2^K) clip(floor(V 2^K / lambda), 0, 2^K - 1)

    and a neuron whose sum is negative never spikes. Neurons are silent until their first input is complete, c = l + 1;
    shortcuts pass through relays, neurons that take in and fire in step with the path beside them.

    Parameters
    ----------
    phases : int, K
    pipelined : bool
        Two membranes, one that takes in while the other fires, changing places with each cycle: a neuron fires in every
        cycle, and `snn.stream` takes a new image every K steps.
    burst : int, m
        Most spikes in one step, each of lambda Pi / m: a cycle sends steps of lambda / (m 2^K), up to the same largest
        value, in no more time. With 2 the rounding is that of a phase more. m neurons whose sums start at
        (i + 1/2) lambda / (m 2^K), i = 0 ... m - 1, send the same (Hermite's identity: the floors of x + i / m add up
        to that of m x).

    Source: Li, Zhao & Zeng 2021, "BSNN: Towards Faster and Better Conversion of Artificial Neural Networks to Spiking
    Neural Networks with Bistable Neurons", with the phases of Kim, Kim, Huh, Lee & Choi 2018, "Deep neural networks
    with weighted spikes". Reconstructed from the abstract and the literature on phase coding, without the paper's full
    text: rounding to nearest, the relays' timing and the normalisation of the bias are this project's reading. The bias
    and the images enter at once at the beginning of a stage and not spread over it (with weights Pi / (1 - 2^-K), which
    sum to 1), which changes nothing that is sent, since nothing fires before the stage is over. The two-membrane form
    and bursts (known from rate codes: Li & Zeng 2022, see `IF`) are this project's own.
    """

    staged = True

    def __init__(self, phases=4, *, pipelined=False, burst=1):
        self.phases, self.pipelined = _phases("Bistable", phases), flag("convert.Bistable", "pipelined", pipelined)
        self.burst = _burst("Bistable", burst)

    @property
    def cycle(self):
        return self.phases

    def steps(self, total, depth, stream=None):
        t = np.arange(total)
        k, c = t % self.phases, t // self.phases
        taking, firing = self._stages(c, depth)
        if stream is not None:
            taking, firing = taking & (c - depth < stream), firing & (c - depth <= stream)
        row = (c + depth) % 2 if self.pipelined else np.zeros(total, np.int64)
        return _steps(
            total, 0.5 ** (1 + k) / self.burst,
            into=np.where(taking, row, -1), out=np.where(firing, 1 - row if self.pipelined else row, -1),
            clear=taking & (k == 0), start=0.5 ** (self.phases + 1) / self.burst, share=taking & (k == 0),
            picture=0 if stream is None else np.clip(c - depth, 0, stream - 1), fresh=firing & (k == 0),
        )  # fmt: skip

    def ends(self, total, depth):
        t = np.arange(total)
        return self._stages(t // self.phases, depth)[0] & (t % self.phases == self.phases - 1)

    def sent(self, total, depth):
        cycles = np.arange(total // self.phases)
        return int(self._stages(cycles, depth)[1].sum())

    def _stages(self, c, depth):
        """In which cycles a neuron takes in, and in which it fires."""
        if self.pipelined:
            return c >= depth, c > depth
        return (c >= depth) & ((c + depth) % 2 == 0), (c > depth) & ((c + depth) % 2 == 1)


class IF(Code):
    """Integrate-and-fire with reset by subtraction: the number of spikes stands for the activation.

    Each step V += W s + b, a spike where V >= lambda, which V then loses. After T steps a layer has sent the quantised
    ReLU with steps of lambda / T, if its input came evenly; "half" rounds it to nearest.

    Parameters
    ----------
    v_init : "half", "zero" or a number from 0 to 1
        Membrane at the start, in units of the threshold.
    signed : bool
        A neuron whose membrane falls below 0 sends negative spikes, as long as it has sent more positive ones: it takes
        back what unevenly timed input made it send too early.
    burst : int
        Most spikes in one step. More than 1 lets a neuron catch up with input that came late.

    Source: Rueckauer et al. 2017, "Conversion of continuous-valued deep networks to efficient event-driven networks"
    (reset by subtraction, percentile); Bu et al. 2022, "Optimized potential initialization for low-latency spiking
    neural networks" (threshold / 2); signed spikes after Wang et al. 2022, "Signed neuron with memory", bursts after
    Li & Zeng 2022, "Efficient and accurate conversion of spiking neural network with burst spikes", both in the plain
    form given here: whole spikes of one size, in the step in which the membrane holds them.
    """

    def __init__(self, v_init="half", *, signed=False, burst=1):
        value = {"half": 0.5, "zero": 0.0}.get(v_init, v_init) if isinstance(v_init, str) else v_init
        if not (is_number(value) and 0 <= value <= 1):
            raise ParameterError(f'convert.IF: v_init = {v_init!r}; expected "half", "zero" or a number from 0 to 1')
        self.v_init, self.signed, self.burst = float(value), flag("convert.IF", "signed", signed), _burst("IF", burst)

    def steps(self, total, depth, stream=None):
        first = np.arange(total) == 0
        return _steps(total, np.ones(total), into=0, out=0, clear=first, start=self.v_init, share=1, fresh=first)

    def ends(self, total, depth):
        return np.ones(total, bool)

    def quantiser(self, sent):
        return Quantiser(sent, self.burst * sent)


class Phase(Code):
    """Plain phase coding: as integrate-and-fire, with spikes and thresholds of lambda Pi, Pi = 2^-(1 + t mod K).

    Neurons take in and fire in every step, so what comes late in a cycle is sent with another weight than it should.

    Parameters
    ----------
    phases : int, K

    Source: Kim, Kim, Huh, Lee & Choi 2018, "Deep neural networks with weighted spikes".
    """

    def __init__(self, phases=8):
        self.phases = _phases("Phase", phases)

    @property
    def cycle(self):
        return self.phases

    def steps(self, total, depth, stream=None):
        k = np.arange(total) % self.phases
        share = 0.5 ** (1 + k) / (1 - 0.5**self.phases)
        first = np.arange(total) == 0
        return _steps(total, 0.5 ** (1 + k), into=0, out=0, clear=first, share=share, fresh=first)

    def quantiser(self, sent):  # the membrane carries what a cycle did not send over to the next
        return Quantiser(sent * 2**self.phases, sent * (2**self.phases - 1))

    def ends(self, total, depth):
        return np.arange(total) % self.phases == self.phases - 1
