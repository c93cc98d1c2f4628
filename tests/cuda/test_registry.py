"""The list of all kernels is made without a GPU, and leaves nothing behind."""

from nsim.neurons import MODELS
from nsim_cuda import jit, memory, registry, status


def test_every_model_and_direction_is_listed_once():
    before = memory.POOL, memory.STAGING, memory.allocated, jit.launched, status._status
    names = [kernel.name for kernel in registry.kernels()]
    assert before == (memory.POOL, memory.STAGING, memory.allocated, jit.launched, status._status)
    assert len(set(names)) == len(names)
    for name, model in MODELS.items():
        if model.__module__.startswith("nsim."):
            wanted = {f"sweep.forward {name}", f"sweep.backward {name}"} if model.spiking else set()
            assert wanted | {f"{'sweep' if model.spiking else 'readout'}.backward {name} learn"} <= set(names)
    for sweep in ("sweep.forward LIF", "sweep.backward LIF", "sweep.backward LIF learn"):
        assert f"{sweep} conv" in names
    for sweep in ("readout.forward LI", "readout.backward LI", "readout.backward LI learn"):
        assert f"{sweep} conv" in names
    assert {"pool.pool", "pool.pool_adjoint", "merge.merge", "merge.union", "merge.pick"} <= set(names)
    assert all(kernel.types and kernel.threads == jit.BLOCK for kernel in registry.kernels())
