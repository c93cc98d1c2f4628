"""Work over threads, each with single-threaded BLAS: for samples in inference, for blocks of a convolution in training.

How work is cut depends on shapes alone, so that the bits do not depend on the number of threads.
"""

from __future__ import annotations

from contextvars import ContextVar

from nsim.backend import single_threaded_blas
from nsim.kernels import threads

_inside = ContextVar("nsim_ann_inside", default=False)


def each(work, count: int):
    """Call work(k) for k = 0 to count - 1, over threads; in order on this one if it is one of ours already."""

    def part(first, last):
        token = _inside.set(True)
        try:
            for k in range(first, last):
                work(k)
        finally:
            _inside.reset(token)

    if _inside.get():
        part(0, count)
    else:
        with single_threaded_blas(True):
            threads.over(part, count)
