"""The one module that imports Numba's CUDA, so that a successor with the same surface can take its place here alone.

`numba.cuda` is the package numba-cuda where that is installed, or the simulator where NUMBA_ENABLE_CUDASIM=1 was set
before the start. A kernel's module imports `cuda` from here at its top: the simulator swaps names of modules only.
"""

from numba import config, cuda

SIMULATED = bool(config.ENABLE_CUDASIM)

if SIMULATED:
    from nsim_cuda import simulator

    simulator.prepare()

__all__ = ["SIMULATED", "cuda"]
