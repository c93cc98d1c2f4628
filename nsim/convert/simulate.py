"""Running populations: one sample at a time on each thread, one population after the other over a chunk of steps.

Within a chunk a population's membranes and weights stay in the cache while the steps go by. Between chunks only
membranes are kept, so that memory does not grow with the number of steps, and a sample can end early.
"""

from __future__ import annotations

import numpy as np

from nsim import arrays
from nsim.convert.lower import Population
from nsim.convert.maps import NOTHING
from nsim.convert.neurons import Code
from nsim.kernels import convert as kernels
from nsim.kernels.jit import LANES, padded

CHUNK_BYTES = 1 << 23  # room for the events of the largest population in one chunk, if all of it fired in each step
NO_VALUES = np.zeros(0, np.float32)


class Schedule:
    """The time tables of all depths for a run of `total` steps, and how the run is cut into chunks."""

    def __init__(self, code: Code, populations: list[Population], total: int, *, stream=None, every=None):
        self.total = total
        self.steps = {p.depth: code.steps(total, p.depth, stream) for p in populations}
        self.ends = code.ends(total, populations[-1].depth)
        widest = max(p.size for p in populations) * 4
        # Whole cycles: a chunk then is empty for every second layer, or for none.
        cycles = max(1, min(CHUNK_BYTES // (widest * code.cycle), -(-total // code.cycle)))
        self.chunk = code.cycle * (cycles if every is None else max(1, min(cycles, every // code.cycle)))

    def chunks(self):
        return [(first, min(first + self.chunk, self.total)) for first in range(0, self.total, self.chunk)]


class Engine:
    """Populations and their code; shared by all threads."""

    def __init__(self, populations: list[Population], code: Code):
        self.populations, self.code = populations, code
        self.pooling = {p: _pooling(p) for p in populations if p.kind == "pool"}

    @property
    def weight_bytes(self) -> int:
        """Memory of all weights, and of the tables that say what they reach."""
        return sum(link.nbytes for p in self.populations if p.kind != "pool" for _, link in p.edges)


def _pooling(p):
    w = p.windows
    return kernels.Pooling(w.reach(0), w.reach(1), p.edges[0][0].shape, p.shape, w.kernel, w.stride, w.padding)


class Workspace:
    """What one thread needs to run samples: membranes, and events of one chunk."""

    def __init__(self, engine: Engine, schedule: Schedule):
        self.engine, self.schedule, code = engine, schedule, engine.code
        self.events, self.state, self.edges = {}, {}, {}
        for p in engine.populations:
            if p.kind != "readout":
                self.events[p] = self._events(p, code.valued or p.kind in ("pool", "sum"))
            self.state[p] = self._state(p)
            if p.kind != "pool":
                self.edges[p] = tuple(kernels.Edge(self.events[source], *link) for source, link in p.edges)
                if not p.edges:  # reads the images alone; kernels take no empty tuple
                    self.edges[p] = (kernels.Edge(self._events(p, False), *NOTHING),)
        self.lanes = np.zeros(2 * LANES, np.float32)

    def _events(self, p, valued):
        room = p.size * self.schedule.chunk  # each neuron once a step: pages that stay unused cost nothing
        values = np.empty(room, np.float32) if valued else NO_VALUES
        return kernels.Events(np.zeros(self.schedule.chunk + 1, np.int64), np.empty(room, np.uint32), values)

    def _state(self, p):
        code = self.engine.code
        if p.kind == "readout":
            return arrays.zeros((self.schedule.chunk, p.size), np.float32)
        if p.kind == "sum":
            return arrays.zeros((1, p.size), np.float32)
        if p.kind == "pool":
            return np.zeros(p.edges[0][0].size, np.float32), np.zeros(p.size, np.float32)
        rows = 2 if getattr(code, "pipelined", False) else 1
        return arrays.zeros((rows, padded(p.size)), np.float32), np.zeros(padded(p.size), np.float32)

    def begin(self):
        """Forget the sample before. Membranes are set by the time table."""
        for state in self.state.values():
            if isinstance(state, tuple):
                state[1][...] = 0

    def advance(self, drives: dict, first: int, last: int) -> np.ndarray:
        """Steps first to last of one sample; returns what came into the readout, [last - first, N], to be copied.

        `drives` are analog drives by population, float32 [pictures, N padded].
        """
        for p in self.engine.populations:
            steps, state = self.schedule.steps[p.depth], self.state[p]
            if p.kind == "readout":
                kernels.read_out(state, self.edges[p], drives[p], steps, first, last)
            elif p.kind == "sum":
                kernels.pass_on(state, self.edges[p], steps, first, last, self.events[p])
            elif p.kind == "pool":
                source = self.events[p.edges[0][0]]
                kernels.pool_maximum(*state, source, self.engine.pooling[p], steps, first, last, self.events[p])
            else:
                self._neurons(p, state, drives[p], steps, first, last)
        return self.state[self.engine.populations[-1]][: last - first]

    def _neurons(self, p, state, drive, steps, first, last):
        (v, sent), code = state, self.engine.code
        common = (v, self.edges[p], drive, steps, first, last)
        if code.valued:
            most, back = np.float32(code.burst), np.float32(code.burst if code.signed else 0)
            kernels.advance_valued(*common, most, back, sent, self.lanes, self.events[p])
        else:
            kernels.advance(*common, self.lanes, self.events[p])
