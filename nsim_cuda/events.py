"""Spikes on the device. Their lists lie in rooms with gaps, one for each sample (and tile of neurons), since their
length is known on the device only; on the host they are packed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nsim.active import Active
from nsim.backend import adopted
from nsim.errors import DeviceError, ShapeError
from nsim.events import Spikes, index_dtype
from nsim.times import tick
from nsim_cuda import memory, status
from nsim_cuda.jit import MAX_NEURONS


@dataclass
class DeviceActive:
    """The active set on the device, always listed, in rows as those of `DeviceSpikes`. Sites that are derived from
    others (pooled, united) have no u of their own: it is empty."""

    ptr: memory.DeviceArray
    indices: memory.DeviceArray
    u: memory.DeviceArray
    band: float
    tiles: int
    width: int
    dense = False

    @property
    def arrays(self):
        return [self.ptr, self.indices, self.u]


class DeviceSpikes(Spikes):
    """A batch of events [B, T, N] on the device.

    Parameters
    ----------
    ptr : DeviceArray int32 [B * tiles, T + 1]
        Row b * tiles + k lists the events of tile k of sample b: step t has indices[ptr[row, t]:ptr[row, t + 1]].
    indices : DeviceArray, uint16 or uint32
    shape, dt, values, space, lengths, active
        As in `nsim.Spikes`; values and active on the device, lengths on the host.
    tiles, width : int
        Tiles of a sample, and neurons of a tile.
    needs : DeviceArray int32 [B * tiles, 2], optional
        Number of events and of active sites in each row.
    positive : bool
        Whether it is known that no size is below 0. Default: that there are no sizes.
    """

    device = "cuda"
    _fields = (
        "ptr", "indices", "shape", "dt", "values", "space", "lengths", "active", "tiles", "width", "needs", "positive",
    )  # fmt: skip

    def __init__(
        self, ptr, indices, shape, *, dt, values=None, space=None, lengths=None, active=None, tiles=1, width=None,
        needs=None, positive=None,
    ):  # fmt: skip
        self.ptr, self.indices, self.values, self.active = ptr, indices, values, active
        self.shape, self.dt, self.lengths, self.needs = tuple(shape), dt, lengths, needs
        self.space = (shape[2],) if space is None else space
        self.tiles, self.width = tiles, shape[2] if width is None else width
        self.positive = values is None if positive is None else positive
        self.node = self.grad = None
        self.requires_grad = False
        self._lengths = None

    @property
    def indptr(self):
        raise DeviceError("indptr: events on the device lie in lists with gaps; take spikes.to('cpu').indptr")

    def lengths_on_device(self) -> memory.DeviceArray:
        """True steps of each sample, int64 [B], or an empty array for all."""
        if self._lengths is None:
            self._lengths = memory.put(np.empty(0) if self.lengths is None else self.lengths, np.int64)
        return self._lengths

    @property
    def n_events(self) -> int:
        if self.needs is None:
            ptr = status.read(self.ptr)
            return int((ptr[:, -1] - ptr[:, 0]).sum())
        return int(status.read(self.needs)[:, 0].sum())

    @property
    def n_active(self) -> float:
        if self.active is None:
            return np.nan
        if self.needs is None:
            ptr = status.read(self.active.ptr)
            return int((ptr[:, -1] - ptr[:, 0]).sum())
        return int(status.read(self.needs)[:, 1].sum())

    @property
    def arrays(self):
        own = [a for a in (self.ptr, self.indices, self.values) if a is not None]
        return own + (self.active.arrays if self.active is not None else [])

    def to_cpu(self) -> Spikes:
        """A packed copy on the host, its active set included, without the tape."""
        batch = self.shape[0]
        indptr, order = packing(status.read(self.ptr), batch)
        values = None if self.values is None else memory.fetch(self.values)[order]
        active = None
        if self.active is not None:
            site_ptr, sites = packing(memory.fetch(self.active.ptr), batch)
            u = memory.fetch(self.active.u)
            active = Active(
                site_ptr, memory.fetch(self.active.indices)[sites], u[sites] if u.size else u, self.active.band
            )
        return Spikes(
            indptr, memory.fetch(self.indices)[order], self.shape, dt=self.dt, values=values, space=self.space,
            lengths=self.lengths, active=active,
        )  # fmt: skip

    def to_dense(self):
        return self.to_cpu().to_dense()

    def rows(self):
        return self.to_cpu().rows()

    def sample(self, b):
        return self.to_cpu().sample(b)

    def cut(self, start, stop):
        return put(self.to_cpu().cut(start, stop))

    def __repr__(self):
        return f"Device{super().__repr__()}"


def packing(ptr, batch):
    """From lists with gaps to rows (sample, step): row pointers, and the place that each entry comes from."""
    rows, steps = ptr.shape[0], ptr.shape[1] - 1
    starts = ptr[:, :-1].reshape(batch, rows // batch, steps).transpose(0, 2, 1)
    sizes = np.diff(ptr, axis=1).reshape(batch, rows // batch, steps).transpose(0, 2, 1)
    indptr = np.zeros(batch * steps + 1, np.int64)
    np.cumsum(sizes.sum(axis=2), out=indptr[1:].reshape(batch, steps).reshape(-1))
    ends = np.cumsum(sizes)
    order = np.arange(ends[-1]) + np.repeat(starts.ravel() - ends + sizes.ravel(), sizes.ravel())
    return indptr, order


def check_size(shape, n_events):
    """Refuse a batch whose neurons or events the device cannot number."""
    if shape[2] > MAX_NEURONS or n_events >= 2**31:
        raise DeviceError(
            f"events of shape {tuple(shape)}, {n_events:,} of them: the device takes up to {MAX_NEURONS:,} neurons and "
            "2^31 events in a batch; take a smaller one"
        )


def put(spikes: Spikes) -> DeviceSpikes:
    """Events from the host, without the tape and the active set."""
    batch, steps, n = spikes.shape
    check_size(spikes.shape, spikes.n_events)
    starts = np.arange(batch)[:, None] * steps + np.arange(steps + 1)
    values = None if spikes.values is None else memory.put_roomy(spikes.values, np.float32)
    return DeviceSpikes(
        memory.put(spikes.indptr[starts], np.int32), memory.put_roomy(spikes.indices, index_dtype(n)), spikes.shape,
        dt=spikes.dt, values=values, space=spikes.space, lengths=spikes.lengths,
        positive=values is None or bool((spikes.values >= 0).all()),
    )  # fmt: skip


def given(ptr, indices, shape, *, dt, values, space, lengths) -> DeviceSpikes:
    """Events in arrays that lie on the device already; see `nsim.Spikes.from_device`."""
    tick(dt)
    batch, steps, n = shape
    check_size(shape, 0)
    wanted = {"ptr": (ptr, np.dtype(np.int32)), "indices": (indices, index_dtype(n))}
    if values is not None:
        wanted["values"] = values, np.dtype(np.float32)
    arrays = {}
    for name, (array, dtype) in wanted.items():
        arrays[name] = array = adopted(array)
        if not isinstance(array, memory.DeviceArray) or array.dtype != dtype:
            raise ShapeError(f"from_device: {name} is {array!r}; expected an array of {dtype} on the GPU")
    if arrays["ptr"].shape != (batch, steps + 1):
        raise ShapeError(f"from_device: ptr has shape {arrays['ptr'].shape}, expected {(batch, steps + 1)}")
    return DeviceSpikes(
        arrays["ptr"], arrays["indices"], shape, dt=float(dt), values=arrays.get("values"), space=space, lengths=lengths
    )
