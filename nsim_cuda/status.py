"""What the device has to tell the host: that lists were too short, or that numbers are no longer finite.

Kernels set flags; the host reads them where it waits for the device anyway, which is where it reads a result. An
optimiser does nothing while a flag is set, so that a step whose lists were cut short changes nothing and can be made
again.
"""

from __future__ import annotations

import numpy as np

from nsim.errors import StepOverflow
from nsim_cuda import memory
from nsim_cuda.elementwise import fill

FULL, TIGHT, BAD = 0, 1, 2  # a list was too short; one is more than half full; a number is not finite


class Status:
    def __init__(self):
        self.flags = memory.put(np.zeros(3, np.int32))
        self.sweeps, self.undo = [], []  # since the flags were last read: (room, needs) of sweeps; moves to take back
        self.bad = False

    def settle(self):
        """Read the flags. Rooms learn what sweeps needed, where it was more than half of what they had.

        Raises
        ------
        StepOverflow
            If lists of a sweep were too short. The rooms have grown, and optimisers count the step as not made.
        """
        if not (self.sweeps or self.undo):
            return
        full, tight, bad = memory.fetch(self.flags)
        sweeps, undo, self.sweeps, self.undo = self.sweeps, self.undo, [], []
        if full or tight or bad:
            fill(self.flags, 0)
        if full or tight:
            for room, needs in sweeps:
                room.learn(memory.fetch(needs))
        self.bad = self.bad or bool(bad)
        if full or bad:
            for take_back in undo:
                take_back()
        if full:
            raise StepOverflow(
                "more spikes or active sites came than the lists on the device had room for. The lists have grown and "
                "no parameter was changed: make the step again, from its batch on (nsim.fit does so by itself)"
            )

    def take_bad(self) -> bool:
        """Whether a number was not finite since the last call."""
        self.settle()
        bad, self.bad = self.bad, False
        return bad


_status = None


def status() -> Status:
    """The one status of this process and its device."""
    global _status
    if _status is None:
        _status = Status()
    return _status


def flags() -> memory.DeviceArray:
    return status().flags


def read(array: memory.DeviceArray) -> np.ndarray:
    """A copy on the host of a result, or StepOverflow if it rests on lists that were too short."""
    status().settle()
    return memory.fetch(array)


memory.DeviceArray.copy_to_host = read
