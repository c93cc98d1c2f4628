"""Times in seconds, and the whole microseconds and steps that events are binned by."""

from __future__ import annotations

import numpy as np

from nsim.checks import is_finite
from nsim.errors import EventError, ParameterError

LONGEST = 2**52  # microseconds, 143 years: up to here the binning kernel divides exactly


def tick(dt: float) -> int:
    """A step of dt seconds in whole microseconds, rounded."""
    if not is_finite(dt) or dt <= 0:
        raise ParameterError(f"dt = {dt!r}: a step must be positive and finite, in seconds (for example 1e-3)")
    us = int(np.rint(1e6 * dt))
    if us < 1:
        raise ParameterError(f"dt = {dt} s is shorter than a microsecond, the resolution of event times")
    return us


def step_width(dt: float) -> int:
    """The step that events are binned by, whole microseconds; a dt that is far from them would shift every event."""
    us = tick(dt)
    if abs(us - 1e6 * dt) > 0.01 * 1e6 * dt:
        below = int(1e6 * dt)
        near = " or ".join(f"{k}e-6" for k in (below, below + 1) if k)
        raise ParameterError(
            f"dt = {dt} s is no whole number of microseconds, the resolution of event times; give {near} to bin events"
        )
    return us


def microseconds(times: np.ndarray) -> np.ndarray:
    """Event times in seconds (any float type) as int64 microseconds, rounded to nearest.

    Widened to float64 before scaling: float16 seconds overflow when scaled first.
    """
    times = np.asarray(times)
    if times.dtype.kind != "f":
        raise EventError(f"event times have dtype {times.dtype}; give seconds as floats (microseconds: times * 1e-6)")
    wide = times.astype(np.float64)
    bad = ~np.isfinite(wide) | (wide < 0)
    if bad.any():
        k = int(np.argmax(bad))
        raise EventError(f"event {k} has time {wide[k]}: times must be finite and not negative, in seconds from t = 0")
    if wide.size and wide.max() >= LONGEST * 1e-6:
        k = int(np.argmax(wide))
        raise EventError(
            f"event {k} has time {wide[k]}: times must be below {LONGEST * 1e-6:.3g} s, in seconds from t = 0 "
            "(microseconds: times * 1e-6)"
        )
    return np.rint(wide * 1e6).astype(np.int64)


def bins(us: np.ndarray, dt: float, binning: str) -> np.ndarray:
    """Step of each time (int64 microseconds): whole steps passed ("floor") or the nearest step ("round")."""
    width = step_width(dt)
    if binning == "floor":
        return us // width
    if binning == "round":
        return np.rint(us / width).astype(np.int64)
    raise ParameterError(f'binning = {binning!r}: expected "floor" or "round"')
