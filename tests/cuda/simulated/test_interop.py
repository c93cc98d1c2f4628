"""Arrays of other libraries go in and out without a copy. In the simulator NumPy and torch on the CPU stand for them,
as the memory of the device is the host's there."""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nsim import DeviceError, ShapeError, Spikes, Tensor, nn
from nsim.neurons import LIF
from nsim_cuda import interop, memory
from nsim_cuda.shim import SIMULATED
from tests import cases

HOME = "cpu" if SIMULATED else "cuda"


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 1, 3), (0, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint16, np.int64])
def test_out_through_dlpack(shape, dtype):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    ours = memory.put(values)
    theirs = torch.from_dlpack(ours)
    assert tuple(theirs.shape) == shape and np.array_equal(theirs.cpu().numpy(), values)
    if theirs.numel():
        theirs.fill_(7)
        assert (ours.copy_to_host() == 7).all(), "the memory is not shared"


def test_what_is_lent_lives_until_it_is_given_back():
    ours = memory.put(np.arange(6.0))
    watch, theirs = weakref.ref(ours), torch.from_dlpack(ours)
    del ours
    gc.collect()
    assert watch() is not None and float(theirs.sum()) == 15
    del theirs
    gc.collect()
    assert watch() is None and not interop._lent
    ours = memory.put(np.arange(6.0))
    capsule = ours.__dlpack__()
    assert len(interop._lent) == 1
    del capsule
    assert not interop._lent, "a capsule that nobody took"


def test_wishes_that_cannot_be_met():
    ours = memory.put(np.arange(6.0))
    with pytest.raises(BufferError, match=r"use \.copy\(\)"):
        ours.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="lies on device"):
        ours.__dlpack__(dl_device=(10, 0))


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (0, 4)])
def test_in_through_dlpack(shape):
    theirs = torch.rand(shape, device=HOME)
    tensor = Tensor(interop.adopted(theirs))
    assert tensor.device == "cuda" and tensor.shape == shape
    assert np.array_equal(tensor.numpy(), theirs.cpu().numpy())
    if theirs.numel():
        theirs += 1
        assert np.array_equal(tensor.numpy(), theirs.cpu().numpy()), "the memory is not shared"


def test_foreign_memory_is_kept_alive_and_never_pooled():
    values = torch.arange(4.0, device=HOME)
    ours = interop.adopted(values)
    del values
    gc.collect()
    before = memory.POOL.in_use
    assert ours.copy_to_host().tolist() == [0, 1, 2, 3]
    del ours
    assert memory.POOL.in_use == before


def test_arrays_that_cannot_be_adopted():
    with pytest.raises(DeviceError, match="not contiguous"):
        interop.adopted(torch.rand(4, 6, device=HOME).T)
    with pytest.raises(DeviceError, match="convert it to float32"):
        interop.adopted(torch.zeros(3, dtype=torch.complex64, device=HOME))
    assert not interop.is_foreign(np.zeros(3)) and not interop.is_foreign(3.0)


def test_foreign_arrays_as_gradients_weights_and_events():
    net = nn.Sequential(nn.Dense(4, 3, LIF(), dtype=np.float32, seed=0)).to("cuda")
    weights = torch.rand(4, 3, device=HOME)
    net.load_state_dict({"0.weight": interop.adopted(weights)})
    assert np.array_equal(net[0].weight.numpy(), weights.cpu().numpy())
    assert net[0].weight.data.base is None, "parameters are copied, not shared"
    given = cases.spikes(2, 5, 4, density=0.5)
    packed = given.to("cuda")
    ptr, indices = (torch.from_dlpack(a).clone() for a in (packed.ptr, packed.indices))
    there = Spikes.from_device(interop.adopted(ptr), interop.adopted(indices), given.shape, dt=given.dt)
    assert np.array_equal(there.to_dense(), given.to_dense())
    assert np.array_equal(net(there).to_dense(), net(packed).to_dense())
    out = net(there).counts()
    out.backward(interop.adopted(torch.ones(2, 3, device=HOME)))
    assert net[0].weight.grad.shape == (4, 3)
    with pytest.raises(ShapeError, match="ptr has shape"):
        Spikes.from_device(interop.adopted(ptr), interop.adopted(indices), (2, 6, 4), dt=1e-3)
    with pytest.raises(ShapeError, match="expected an array of int32 on the GPU"):
        Spikes.from_device(ptr.cpu().numpy(), interop.adopted(indices), given.shape, dt=1e-3)


class Described:
    """An array that is made on a stream."""

    def __init__(self, stream):
        self.stream = stream

    @property
    def __cuda_array_interface__(self):
        return {"shape": (3,), "typestr": "<f4", "data": (4096, False), "version": 3, "stream": self.stream}


def test_streams_are_waited_for_and_told(monkeypatch):
    """numba would wait for a stream too, but then do all later work on the array there."""
    waited = []
    driver = SimpleNamespace(
        external_stream=lambda stream: SimpleNamespace(synchronize=lambda: waited.append(stream)),
        as_cuda_array=lambda described, sync: described,
    )
    monkeypatch.setattr(interop, "SIMULATED", False)
    monkeypatch.setattr(interop, "cuda", driver)
    for stream in (None, 1, 2, 94000):
        ours = interop.adopted(Described(stream))
        assert ours.__cuda_array_interface__["stream"] == 1, "ours is the legacy default stream"
    assert waited == [2, 94000]


@pytest.mark.skipif(SIMULATED, reason="the memory of the simulator has no address that a GPU could read")
def test_the_cuda_array_interface_both_ways():
    ours = memory.put(np.arange(12.0).reshape(3, 4))
    theirs = torch.as_tensor(ours, device="cuda")
    assert theirs.data_ptr() == ours.__cuda_array_interface__["data"][0]
    back = Tensor(theirs).data
    assert back.__cuda_array_interface__["data"] == ours.__cuda_array_interface__["data"]
