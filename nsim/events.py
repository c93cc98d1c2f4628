"""Spikes: a batch of events in compressed rows, one row for each (sample, step)."""

from __future__ import annotations

import warnings

import numpy as np

from nsim.checks import all_finite, is_whole, plain_array, real_array
from nsim.errors import EventError, EventWarning, GradientError, ShapeError
from nsim.kernels.assemble import assemble
from nsim.times import bins, microseconds, tick

MOST = np.float64(2**31)  # events of one neuron and step


def index_dtype(n: int) -> np.dtype:
    """The smallest type of `Spikes.indices` for n neurons: uint16 below 65,536, else uint32."""
    return np.dtype(np.uint16 if n < 65_536 else np.uint32)


class Spikes:
    """A batch of events [B, T, N] in compressed rows.

    Row b*T + t lists the neurons of sample b that spike at step t: `indices[indptr[row]:indptr[row + 1]]`,
    ascending. A repeated index is an event counted twice. The same events always give the same bits.

    Parameters
    ----------
    indptr : int64 [B*T + 1]
        Row pointers. Trusted, like `indices`: use `from_dense` or `from_events` for data from outside.
    indices : uint16 or uint32 [number of events]
        Neurons, ascending within a row; uint16 below 65,536 neurons.
    shape : (B, T, N)
    dt : float, seconds
        Length of a step.
    values : float32 [number of events], optional
        Graded events; None means 1 each. May be set anew, like `lengths`; both are checked.
    space : tuple, optional
        Shape of the N neurons: (N,) or (H, W, C), channels last. Default (N,).
    lengths : int64 [B], optional
        True number of steps of each sample, 1 to T; readouts and losses honour it, layers run to T.
        A cut that begins past the end of a sample has 0 there.
    active : Active, optional
        The active set, carried by the output of a layer.

    Source: nsim's own format; the active set is that of Perez-Nieves & Goodman 2021, section 3.2.
    """

    device = "cpu"
    _fields = ("indptr", "indices", "shape", "dt", "values", "space", "lengths", "active")

    def __init__(self, indptr, indices, shape, *, dt, values=None, space=None, lengths=None, active=None):
        self.shape = _shape(shape)
        batch, steps, n = self.shape
        if len(indptr) != batch * steps + 1:
            raise ShapeError(f"Spikes of shape {self.shape}: indptr has {len(indptr)} entries, not B*T + 1")
        tick(dt)
        self.dt = float(dt)
        self.indptr, self.indices, self.values = _in_one_piece(indptr), _in_one_piece(indices), values
        self.space = (n,) if space is None else _space(space, n)
        self.lengths = lengths
        self.active = active
        self.node = None
        self.grad = None
        self.requires_grad = False

    @property
    def values(self):
        return self._values

    @values.setter
    def values(self, values):
        # On a device lists have gaps, and what a batch from outside brings was checked on the host.
        self._values = values if self.device != "cpu" else _sizes(values, len(self.indices))

    @property
    def lengths(self):
        return self._true_steps

    @lengths.setter
    def lengths(self, lengths):
        self._true_steps = lengths if self.device != "cpu" else _checked(lengths, self.shape, least=0)

    @classmethod
    def from_dense(cls, a, dt, *, space=None, lengths=None):
        """Spikes from an array of counts.

        Parameters
        ----------
        a : array [B, T, N] or [B, T, H, W, C]
            Non-negative whole counts become repeated events; other values (graded events) become `values`.
        dt : float, seconds

        Raises
        ------
        ShapeError, EventError
            If `a` has another number of axes, is empty, or holds NaN, infinity, what is too large to keep, or is no
            array of real numbers.
        """
        given, a = a, plain_array(a)
        if a is None:
            raise EventError(f"from_dense: {given!r:.60}: expected an array of real numbers")
        if a.ndim == 5 and space is None:
            space = a.shape[2:]
        if a.ndim not in (3, 5) or a.size == 0:
            raise ShapeError(
                f"from_dense: array of shape {a.shape}; expected counts [B, T, N] or [B, T, H, W, C], not empty"
            )
        a = a.reshape(a.shape[0], a.shape[1], -1)
        if a.dtype.kind == "f" and not np.isfinite(a).all():
            b, t, k = np.argwhere(~np.isfinite(a))[0]
            raise EventError(f"from_dense: {a[b, t, k]} at sample {b}, step {t}, neuron {k}; counts must be finite")
        batch, steps, n = a.shape
        rows = a.reshape(batch * steps, n)
        row, unit = np.nonzero(rows)
        amount = rows[row, unit]
        values = None
        if amount.size and (amount.min() < 0 or np.any(amount != np.floor(amount))):
            with np.errstate(over="ignore"):  # refused below
                values = amount.astype(np.float32)
            wrong, why = ~np.isfinite(values), "sizes of events are kept as float32, up to 3.4e38"
        else:
            wrong, why = amount >= MOST, f"a whole count becomes that many events, and must be below {MOST:,.0f}"
        if wrong.any():
            k = int(np.argmax(wrong))
            place = f"sample {row[k] // steps}, step {row[k] % steps}, neuron {unit[k]}"
            raise EventError(f"from_dense: {amount[k]} at {place}; {why}: scale the array down")
        if values is None:
            repeat = amount.astype(np.int64)
            row, unit = np.repeat(row, repeat), np.repeat(unit, repeat)
        indptr = np.zeros(batch * steps + 1, np.int64)
        np.cumsum(np.bincount(row, minlength=batch * steps), out=indptr[1:])
        return cls(
            indptr,
            unit.astype(index_dtype(n)),
            a.shape,
            dt=dt,
            values=values,
            space=space,
            lengths=_checked(lengths, a.shape),
        )

    @classmethod
    def from_events(cls, samples, times, units, *, batch, n, steps, dt, binning="floor", space=None, lengths=None):
        """Spikes from a flat list of events, in any order.

        Parameters
        ----------
        samples : int array [E], 0 to batch - 1
        times : float array [E], seconds from t = 0, not negative
        units : int array [E], 0 to n - 1
        batch, n, steps : int
            B, N and T of the result.
        dt : float, seconds
            Length of a step; the step of an event is rint(1e6 time) // rint(1e6 dt).
        binning : "floor" or "round"
            "round" takes the nearest step instead, as the code of Perez-Nieves & Goodman 2021 does.

        Events at or after steps * dt are left out, with an `EventWarning` that counts them.

        Raises
        ------
        EventError, ShapeError, ParameterError
            If arrays differ in length, or a sample, unit or time is out of range.
        """
        shape = batch, steps, n = _shape((batch, steps, n))
        samples, units = np.asarray(samples), np.asarray(units)
        us = microseconds(times)
        if not samples.shape == us.shape == units.shape or us.ndim != 1:
            raise ShapeError(
                f"from_events: samples {samples.shape}, times {us.shape}, units {units.shape}; expected three [E]"
            )
        for name, a, bound in (("sample", samples, batch), ("unit", units, n)):
            if a.size and a.dtype.kind not in "iu":
                raise EventError(f"from_events: {name}s have dtype {a.dtype}; expected integers")
            wrong = (a < 0) | (a >= bound)
            if wrong.any():
                k = int(np.argmax(wrong))
                raise EventError(f"from_events: event {k} has {name} {a[k]}; expected 0 to {bound - 1}")
        samples, units = samples.astype(np.int64), units.astype(index_dtype(n))
        if samples.size and np.any(np.diff(samples) < 0):
            order = np.argsort(samples, kind="stable")
            samples, us, units = samples[order], us[order], units[order]
        starts, at = np.searchsorted(samples, np.arange(batch + 1)), bins(us, dt, binning)
        indptr, indices, late, _ = assemble(at, units, starts[:-1], starts[1:], width=1, steps=steps, n=n)
        if late.any():
            warnings.warn(
                f"{late.sum()} of {us.size} events lie at or after {steps} steps of {dt} s and were left out; "
                f"give steps >= {int(at.max()) + 1} to keep them",
                EventWarning,
                stacklevel=2,
            )
        return cls(indptr, indices, shape, dt=dt, space=space, lengths=_checked(lengths, shape))

    def to_dense(self) -> np.ndarray:
        """Counts (or sums of values), float32 [B, T, N]."""
        batch, steps, n = self.shape
        key = self.rows().astype(np.int64) * n + self.indices
        dense = np.bincount(key, weights=self.values, minlength=batch * steps * n)
        return dense.astype(np.float32).reshape(self.shape)

    def check_values(self, where: str):
        """Refuse graded events whose size is not finite; `where` begins the message."""
        if self.values is None or self.device != "cpu" or all_finite(self.values):
            return
        k = int(np.argmax(~np.isfinite(self.values)))
        sample, step = divmod(int(np.searchsorted(self.indptr, k, side="right")) - 1, self.shape[1])
        raise EventError(
            f"{where}: event of size {self.values[k]} at sample {sample}, step {step}, neuron {self.indices[k]}; "
            "sizes of events (Spikes.values) must be finite"
        )

    def rows(self) -> np.ndarray:
        """The row b*T + t of each event, int64 [number of events]."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    def sample(self, b: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps and neurons of the events of sample b, in order of time."""
        batch, steps, _ = self.shape
        if not 0 <= b < batch:
            raise EventError(f"sample {b}: this batch has samples 0 to {batch - 1}")
        first, last = b * steps, (b + 1) * steps
        events = slice(self.indptr[first], self.indptr[last])
        return np.repeat(np.arange(steps), np.diff(self.indptr[first : last + 1])), self.indices[events]

    def cut(self, start: int, stop: int) -> Spikes:
        """Steps start to stop of every sample, without the tape."""
        batch, steps, n = self.shape
        if not 0 <= start < stop <= steps:
            raise ShapeError(f"cut({start}, {stop}): expected 0 <= start < stop <= {steps} steps")
        rows = (np.arange(batch)[:, None] * steps + np.arange(start, stop)).ravel()
        indptr, kept = _picked(self.indptr, rows)
        values = None if self.values is None else self.values[kept]
        shape = (batch, stop - start, n)
        lengths = None if self.lengths is None else np.clip(self.lengths - start, 0, stop - start)
        return self._like(
            indptr=indptr, indices=self.indices[kept], shape=shape, values=values, lengths=lengths, active=None
        )

    @property
    def n_events(self) -> int:
        return len(self.indices)

    @property
    def n_active(self) -> float:
        """Number of active sites; NaN where none were kept, outside training."""
        return np.nan if self.active is None else self.active.size

    @property
    def density(self) -> float:
        """Events for each site: n_events / (B T N)."""
        return self.n_events / float(np.prod(self.shape))

    @property
    def arrays(self) -> list[np.ndarray]:
        own = [a for a in (self.indptr, self.indices, self.values, self.lengths) if a is not None]
        return own + (self.active.arrays if self.active is not None else [])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, the active set included."""
        return sum(a.nbytes for a in self.arrays)

    def _like(self, **changes) -> Spikes:
        """These events without the tape, but for what `changes`; nothing is copied."""
        return type(self)(**{name: getattr(self, name) for name in self._fields} | changes)

    def retain_grad(self) -> Spikes:
        """Keep the gradient of the next backward() in `.grad`: on the active set, in its order. Returns self.

        Raises
        ------
        GradientError
            If these events were not made by a layer whose operations are recorded.
        """
        if self.node is None:
            raise GradientError("retain_grad(): these events come from no recorded layer, they have no gradient")
        self.node.keep = self
        return self

    def detach(self) -> Spikes:
        """The same events, cut off from the tape and without the active set."""
        return self._like(active=None)

    def __repr__(self):
        b, t, n = self.shape
        return f"Spikes([B={b}, T={t}, N={n}], dt={self.dt:g} s, {self.n_events:,} events, density {self.density:.3%})"


def join(first: Spikes, second: Spikes) -> Spikes:
    """`second` after `first` in time, sample by sample."""
    (batch, t1, n), t2 = first.shape, second.shape[1]
    if second.shape[0] != batch or second.shape[2] != n or second.dt != first.dt:
        raise ShapeError(f"join: {first!r} and {second!r} differ in more than their steps")
    graded = first.values is not None or second.values is not None
    order = np.arange(batch)[:, None]
    rows = np.concatenate([order * t1 + np.arange(t1), batch * t1 + order * t2 + np.arange(t2)], axis=1).ravel()
    indptr, kept = _picked(np.concatenate([first.indptr, first.indptr[-1] + second.indptr[1:]]), rows)
    values = None
    if graded:
        parts = [np.ones(s.n_events, np.float32) if s.values is None else s.values for s in (first, second)]
        values = np.concatenate(parts)[kept]
    indices = np.concatenate([first.indices, second.indices])[kept]
    return Spikes(indptr, indices, (batch, t1 + t2, n), dt=first.dt, values=values, space=second.space)


def empty(batch: int, steps: int, n: int, dt: float) -> Spikes | None:
    """A batch without events; None for no steps."""
    if steps == 0:
        return None
    return Spikes(np.zeros(batch * steps + 1, np.int64), np.empty(0, index_dtype(n)), (batch, steps, n), dt=dt)


def _picked(indptr, rows):
    """Row pointers of the chosen rows, and the places of their events."""
    sizes = indptr[rows + 1] - indptr[rows]
    ends = np.concatenate(([0], np.cumsum(sizes)))
    return ends, np.arange(ends[-1]) + np.repeat(indptr[rows] - ends[:-1], sizes)


def step_mask(lengths, batch: int, steps: int) -> np.ndarray:
    """True where a step belongs to its sample, bool [B, T]; everywhere if `lengths` is None."""
    if lengths is None:
        return np.ones((batch, steps), bool)
    return np.arange(steps) < _checked(lengths, (batch, steps), least=0)[:, None]


def _shape(shape):
    """The shape of a batch, as whole numbers (B, T, N)."""
    if len(shape) != 3 or not all(is_whole(k) and k >= 1 for k in shape):
        raise ShapeError(f"Spikes of shape {tuple(shape)}: expected [B, T, N], whole numbers with at least one of each")
    return tuple(int(k) for k in shape)


def _space(space, n):
    """Shape of n neurons that a user gave, as whole numbers."""
    if not isinstance(space, (tuple, list, np.ndarray)) or not all(is_whole(k) and k >= 1 for k in space):
        raise ShapeError(f"space = {space!r}: expected (N,) or (H, W, C), whole numbers of at least 1")
    space = tuple(int(k) for k in space)
    if int(np.prod(space)) != n:
        raise ShapeError(f"space {space} has {int(np.prod(space))} neurons, the events have {n}")
    return space


def _in_one_piece(array):
    """What kernels read as such; arrays of a device are."""
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array


def _sizes(values, n_events):
    """Sizes of events that a user gave, as float32 [number of events]."""
    if values is None:
        return None
    if isinstance(values, np.ndarray) and values.dtype == np.float32 and values.shape == (n_events,):
        return _in_one_piece(values)
    if (sizes := real_array(values)) is None:
        raise EventError(f"values = {values!r}: expected a size for each event, as numbers, or None for 1 each")
    if sizes.shape != (n_events,):
        raise ShapeError(f"values of shape {sizes.shape}: expected one size for each of {n_events} events")
    return sizes.astype(np.float32)


def _checked(lengths, shape, least=1):
    """Lengths that a user gave, as int64 [B]."""
    if lengths is None:
        return None
    batch, steps = shape[:2]
    lengths = np.asarray(lengths)
    if lengths.dtype.kind not in "iu" and (lengths.dtype.kind != "f" or np.any(lengths != np.floor(lengths))):
        raise ShapeError(f"lengths {lengths.tolist()}: expected whole numbers of steps")
    if lengths.shape != (batch,):
        raise ShapeError(f"lengths of shape {lengths.shape}: expected one number of steps for each of {batch} samples")
    if lengths.min() < least or lengths.max() > steps:
        raise ShapeError(f"lengths from {lengths.min()} to {lengths.max()}: expected {least} to {steps} steps")
    return lengths.astype(np.int64)
