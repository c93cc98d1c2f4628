"""These tests need a device: the simulator (see `tests/cuda/test_simulated.py`) or a GPU. Else they are not
collected."""

from nsim import cuda
from nsim_cuda.shim import SIMULATED

collect_ignore_glob = [] if cuda.is_available() else ["test_*.py"]

if SIMULATED:
    from nsim_cuda import simulator

    simulator.small_blocks()


def pytest_configure(config):
    # The hash of dropout calculates modulo 2^64, of which the simulator's NumPy warns.
    config.addinivalue_line("filterwarnings", "ignore:overflow encountered in scalar:RuntimeWarning")
