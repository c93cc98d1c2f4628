"""Checks of values from outside: what passes, and the words in which the rest is refused."""

import math

import numpy as np
import pytest

from nsim.checks import class_labels, functions, is_finite, number, one_of
from nsim.errors import DataError, ParameterError, ShapeError


@pytest.mark.parametrize(
    "value, bounds, words",
    [
        ("1", {"above": 0}, "f: x = '1': expected a finite number above 0"),
        (0, {"above": 0}, "f: x = 0: expected a finite number above 0"),
        (math.nan, {}, "f: x = nan: expected a finite number"),
        (math.inf, {"least": 0}, "f: x = inf: expected a finite number of at least 0"),
        (10**400, {"above": 0, "most": math.inf}, "f: x = 10+: expected a number above 0"),
        (math.nan, {"most": math.inf}, "f: x = nan: expected a number"),
        (1, {"least": 0, "below": 1}, "f: x = 1: expected a number of at least 0 and below 1"),
        (-0.5, {"least": 0, "most": 1}, "f: x = -0.5: expected a number of at least 0 and at most 1"),
        (True, {"least": 0}, "f: x = True: expected a finite number of at least 0"),
        (None, {"above": 0, "hint": ", or 7"}, "f: x = None: expected a finite number above 0, or 7"),
    ],
)
def test_numbers_out_of_bounds(value, bounds, words):
    with pytest.raises(ParameterError, match=f"^{words}$"):
        number("f", "x", value, **bounds)


def test_numbers_within_bounds():
    assert number("f", "x", np.float32(0.5), above=0, below=1) == 0.5
    assert number("f", "x", 0, least=0, most=1) == 0 and number("f", "x", math.inf, above=0, most=math.inf) == math.inf
    assert not is_finite(10**400)


def test_words_and_functions():
    one_of("f", "x", "b", ("a", "b", "c"))
    for wrong in ("d", None, ["a"], np.zeros(2)):
        with pytest.raises(ParameterError, match=r'f: x = .*: expected "a", "b" or "c"'):
            one_of("f", "x", wrong, ("a", "b", "c"))
    assert functions("f", "x", None) == [] and functions("f", "x", abs) == functions("f", "x", (abs,)) == [abs]
    with pytest.raises(ParameterError, match="f: x = 0: expected a function"):
        functions("f", "x", 0)
    with pytest.raises(ParameterError, match="f: x is the class dict; make one"):
        functions("f", "x", [dict])


def test_labels():
    np.testing.assert_array_equal(class_labels("f", [0.0, 2.0], 3, samples=2), [0, 2])
    assert class_labels("f", np.ones(2, np.uint8), 3).dtype == np.int64 and class_labels("f", [], 3).shape == (0,)
    with pytest.raises(ShapeError, match=r"f: labels of shape \(2,\); expected one number for each of 3 samples"):
        class_labels("f", [0, 1], 3, samples=3)
    with pytest.raises(DataError, match="f: sample 1 has age 3; expected 0 to 2, whole numbers: too old"):
        class_labels("f", [0, 3], 3, what="age", hint=": too old", error=DataError)
