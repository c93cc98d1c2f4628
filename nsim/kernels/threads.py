"""Kernels over threads: each is compiled for one range of items and called once for each thread, without the GIL.

Numba's own `prange` costs half of a sweep's compile time, and its OpenMP threads spin between two kernels, against
BLAS and other programs. What a kernel writes for one item (a group, a sample) must not depend on the range around it.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from numba import get_num_threads


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process: those of its parent do not survive a fork."""
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="nsim")


def over(kernel, items: int, *args, scratch=None):
    """Call kernel(first, last, *args) for ranges that cover 0 to items, one for each of Numba's threads.

    `scratch()` makes what one thread needs for itself: kernel(first, last, scratch(), *args).
    """
    threads = max(1, min(get_num_threads(), items))
    ends = [items * k // threads for k in range(threads + 1)]
    calls = [(*ends[k : k + 2], *([] if scratch is None else [scratch()]), *args) for k in range(threads)]
    rest = [_pool(os.getpid()).submit(kernel, *call) for call in calls[1:]]
    kernel(*calls[0])
    for part in rest:
        part.result()
