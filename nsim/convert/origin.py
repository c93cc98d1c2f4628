"""What a network was when it was converted, so that reports know it again."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from nsim.ann.graph import Graph


class Origin(NamedTuple):
    """graph : its `describe()`; sums : {name of a parameter or of running statistics: CRC-32 of its numbers}"""

    graph: dict
    sums: dict

    @classmethod
    def of(cls, net: Graph) -> Origin:
        return cls(net.describe(), {name: zlib.crc32(np.ascontiguousarray(a)) for name, a in net.arrays().items()})

    def differs(self, net: Graph) -> str:
        """In words what is different now; empty if this is the network as it was."""
        now = Origin.of(net)
        if now.graph != self.graph:
            return "its nodes, their options or their order differ"
        changed = [name for name, value in self.sums.items() if now.sums[name] != value]
        if not changed:
            return ""
        return (
            f"the same nodes, but other numbers in {len(changed)} of {len(self.sums)} arrays, {changed[0]} first: "
            "load what it was converted with, or convert it anew"
        )
