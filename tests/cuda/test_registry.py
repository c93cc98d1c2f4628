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
            kind = "sweep" if model.spiking else "readout"
            wanted |= {f"{kind}.forward {name} conv", f"{kind}.backward {name} conv"}
            assert wanted | {f"{kind}.backward {name} learn{form}" for form in ("", " conv")} <= set(names)
    assert {"pool.pool", "pool.pool_adjoint", "merge.merge", "merge.union", "merge.pick"} <= set(names)
    assert all(kernel.types and kernel.threads == jit.BLOCK for kernel in registry.kernels())
