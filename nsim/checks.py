"""What a value from outside has to be, asked in one place: the number types of Python and NumPy, and no others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nsim.errors import DataError, ParameterError, ShapeError


def is_number(value) -> bool:
    """Whether this is one real number, NaN and infinity included: of Python, of NumPy, or in an array without axes."""
    if isinstance(value, (int, float)):
        return not isinstance(value, bool)
    return isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 and value.dtype.kind in "iuf"


def is_finite(value) -> bool:
    """Whether this is one finite number."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def is_whole(value) -> bool:
    """Whether this is one whole number that an int64 can hold; 2.0 is, True is not."""
    return is_number(value) and -(2**63) <= value < 2**63 and int(value) == value


def whole(where: str, **values):
    """Refuse numbers that are not whole or below their least value; `values` are (value, least) by name."""
    for name, (value, least) in values.items():
        if not is_whole(value) or value < least:
            raise ParameterError(f"{where}: {name} = {value!r}: expected a whole number of at least {least}")


def number(where, name, value, *, above=None, least=None, below=None, most=None, hint="") -> float:
    """The value as a float; refuses what is no finite number within these bounds. `most=math.inf` lets infinity pass.

    `hint` ends the message, for example with what else could be given.
    """
    good = is_finite(value) or (is_number(value) and value == most == math.inf)
    good = good and (above is None or value > above) and (least is None or value >= least)
    good = good and (below is None or value < below) and (most is None or value <= most)
    if not good:
        kind = "finite number" if below is None and most is None else "number"
        bounds = {"above": above, "of at least": least, "below": below, "at most": None if most == math.inf else most}
        words = " and".join(f" {word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        raise ParameterError(f"{where}: {name} = {value!r:.60}: expected a {kind}{words}{hint}")
    return float(value)


def one_of(where, name, value, choices):
    """Refuse what is none of these words."""
    if not isinstance(value, str) or value not in choices:
        words = [f'"{word}"' for word in choices]
        raise ParameterError(f"{where}: {name} = {value!r:.60}: expected {', '.join(words[:-1])} or {words[-1]}")


def functions(where, name, value) -> list:
    """One function, a list of them or None as a list."""
    found = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    if not all(map(callable, found)):
        raise ParameterError(f"{where}: {name} = {value!r}: expected a function, a list of them, or None")
    for part in found:
        no_class(where, **{name: part})
    return found


def class_labels(where, labels, count, *, samples=None, what="label", hint="", error=None) -> np.ndarray:
    """Labels, or other numbers one for each sample, as int64 [S]; refuses any but whole ones from 0 to count - 1.

    The first wrong one is named, in a ParameterError (of a wrong shape in a ShapeError), or in an `error`.
    """
    try:
        labels = np.asarray(labels)
    except ValueError:  # rows of different lengths
        labels = np.asarray(labels, object)
    if labels.size and labels.dtype.kind not in "biuf":
        strange = next((value for value in labels.ravel().tolist() if not is_number(value)), labels.dtype)
        raise (error or ParameterError)(
            f"{where}: {what}s such as {strange!r}; expected whole numbers, 0 to {count - 1} (of names, their "
            "places in the list of classes)"
        )
    if labels.ndim != 1 or len(labels) != (len(labels) if samples is None else samples):
        each = "sample" if samples is None else f"of {samples} samples"
        raise (error or ShapeError)(
            f"{where}: {what}s of shape {labels.shape}; expected one number for each {each} (of one-hot rows, "
            ".argmax(axis=1))"
        )
    wrong = ~((labels >= 0) & (labels < count) & (labels == np.floor(labels)))  # NaN is neither
    if wrong.any():
        k = int(np.argmax(wrong))
        raise (error or ParameterError)(
            f"{where}: sample {k} has {what} {labels[k]}; expected 0 to {count - 1:,}, whole numbers{hint}"
        )
    return labels.astype(np.int64)


def no_class(where: str, **values):
    """Refuse a class where an object of it is meant; `values` by name."""
    for name, value in values.items():
        if isinstance(value, type):
            raise ParameterError(f"{where}: {name} is the class {value.__name__}; make one: {value.__name__}(...)")


def replaceable(path):
    """Refuse the path of a folder, device or pipe: a file written elsewhere and renamed to it would take its place."""
    if Path(path).exists() and not Path(path).is_file():
        raise DataError(f"{path} is no regular file but a folder, device or pipe; name a file, old or new")


def flag(where: str, name: str, value) -> bool:
    """A switch, True or False; 1, 0 and None pass for these, but no word or array: "no" would be taken for True."""
    if not (value is None or isinstance(value, (bool, np.bool_)) or (is_number(value) and value in (0, 1))):
        raise ParameterError(f"{where}: {name} = {value!r:.60}: expected True or False")
    return bool(value)


def plain_array(value) -> np.ndarray | None:
    """A real number or a boolean, or an array of them, as it is where it is one already; None for anything else."""
    try:
        a = np.asarray(value)
    except ValueError:  # rows of different lengths
        return None
    return a if a.dtype.kind in "biuf" else None


def real_array(value) -> np.ndarray | None:
    """A number, or an array of them, as a new float64 array; None for anything else."""
    a = plain_array(value)
    return None if a is None or a.dtype.kind == "b" else a.astype(np.float64)


def all_finite(a: np.ndarray) -> bool:
    """Whether all of an array is finite. Their sum says so where it is: one pass, and nothing is made."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = a.sum()
    return bool(np.isfinite(total) or np.isfinite(a).all())


def float_type(where: str, dtype) -> np.dtype:
    """The number type of a layer, float32 or float64."""
    try:
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    if found not in (np.float32, np.float64):
        raise ParameterError(f"{where}: dtype = {dtype!r}: expected np.float32, or np.float64 for checks")
    return found


def finite_array(where: str, value, dtype) -> np.ndarray:
    """An array in this type; refused where it holds no real numbers, or, in this type, any that is not finite."""
    a = plain_array(value)
    if a is None:
        raise ParameterError(f"{where} has dtype {getattr(value, 'dtype', type(value).__name__)}, expected numbers")
    with np.errstate(over="ignore"):
        a = a.astype(dtype, copy=False)
    if not all_finite(a):
        raise ParameterError(f"{where} holds NaN or infinity, or numbers beyond {dtype}")
    return a


def fitting_arrays(where: str, values, own: dict, unused=()) -> dict:
    """Arrays (or numbers) by name, in the order of our own; refused where a name is missing, or unknown and not among
    the `unused`, or where a shape is not that of our own."""
    if not isinstance(values, Mapping):
        raise ParameterError(
            f"{where}: a {type(values).__name__}; expected arrays by name, as nsim.read_weights gives them"
        )
    missing, unknown = sorted(own.keys() - values.keys()), sorted(values.keys() - own.keys() - set(unused))
    if missing or unknown:
        raise ParameterError(f"{where}: missing {_some(missing)}, unknown {_some(unknown)}{_prefix(own, values)}")
    shapes = {name: (_shape(values[name]), _shape(a)) for name, a in own.items()}
    wrong = [f"{name} has {given}, expected {right}" for name, (given, right) in shapes.items() if given != right]
    if wrong:
        raise ShapeError(f"{where}: {len(wrong)} shapes differ: {'; '.join(wrong[:5])}")
    return {name: values[name] for name in own}


def _shape(a):
    return tuple(a.shape) if hasattr(a, "shape") else np.shape(a)  # of a list; NumPy knows no arrays on a device


def _some(names):
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else "none"


def _prefix(own, values):
    """The way out where all names carry one prefix more."""
    for name in values:
        head, _, rest = name.partition(".")
        if rest in own:
            return (
                f'; the names begin with "{head}.": pass {{k.removeprefix("{head}."): v for k, v in weights.items()}}'
            )
    return ""
