"""Active sites of a layer: where its neurons are near their threshold, which is all that gradients pass through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Active:
    """The sites of a layer inside its band, and u = v - threshold there (float32).

    Listed form: `indptr` int64 [B*T + 1], `indices` as in Spikes, `u` [number of sites].
    Dense form: `indptr` and `indices` are None, `u` [B, T, N] holds all sites; the active ones have |u| < band.
    Sites that are derived from others (pooled, united) have no u of their own: it is empty, or a zero for all.
    """

    indptr: np.ndarray | None
    indices: np.ndarray | None
    u: np.ndarray
    band: float = np.inf

    @property
    def dense(self) -> bool:
        return self.indptr is None

    @property
    def size(self) -> int:
        """Number of active sites."""
        if not self.dense:
            return len(self.indices)
        return self.u.size if np.isinf(self.band) else sum(np.count_nonzero(np.abs(u) < self.band) for u in self.u)

    @property
    def arrays(self) -> list[np.ndarray]:
        # A derived dense set has a single u for all its sites, with strides of 0: that one is all there is.
        u = self.u if any(self.u.strides) else self.u[(slice(1),) * self.u.ndim]
        return [a for a in (self.indptr, self.indices, u) if a is not None]

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.arrays)
