"""Impossible options and graphs are refused, in words that name the option and its value."""

import numpy as np
import pytest

from nsim import ann
from nsim.errors import ParameterError


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: ann.Conv2d(0, 3, 3), "in_channels = 0"),
        (lambda: ann.Conv2d(3, 2.5, 3), "out_channels = 2.5"),
        (lambda: ann.Conv2d(3, 4, 0), "kernel_size = 0"),
        (lambda: ann.Conv2d(3, 4, (3, 3, 3)), r"kernel_size = \(3, 3, 3\)"),
        (lambda: ann.Conv2d(3, 4, 3, stride=0), "stride = 0"),
        (lambda: ann.Conv2d(3, 4, 3, padding=-1), "padding = -1"),
        (lambda: ann.Conv2d(3, 4, 3, padding=((1, 2), (0,))), "padding"),
        (lambda: ann.Conv2d(3, 4, 3, padding=((1, 2), (0, -1))), r"padding = \(0, -1\)"),
        (lambda: ann.Conv2d(4, 6, 3, groups=4), "groups = 4 must divide"),
        (lambda: ann.Linear(3, 0), "out_features = 0"),
        (lambda: ann.BatchNorm(3, eps=0), "eps = 0"),
        (lambda: ann.BatchNorm(3, momentum=2), "momentum = 2"),
        (lambda: ann.MaxPool(2, padding=2), "padding = 2: must be less"),
        (lambda: ann.IdentityShortcut(3, 5, before=3), "before = 3"),
        (lambda: ann.IdentityShortcut(3, 5, before=0.5), "before = 0.5"),
        (lambda: ann.IdentityShortcut(5, 3), "out_channels must be at least in_channels"),
        (lambda: ann.Conv2d(3, None, 3), "out_channels = None"),
        (lambda: ann.Conv2d(3, np.nan, 3), "out_channels = nan"),
        (lambda: ann.Conv2d(3, "4", 3), "out_channels = '4'"),
        (lambda: ann.Conv2d(3, 4, None), "kernel_size = None"),
        (lambda: ann.Conv2d(3, 4, "3"), "kernel_size = '3': expected a whole number"),
        (lambda: ann.Conv2d(3, 4, 3, stride=None), "stride = None"),
        (lambda: ann.Conv2d(3, 4, 3, padding="same"), "expected whole numbers; kernel_size // 2 keeps"),
        (lambda: ann.Conv2d(3, 4, 3, groups=None), "groups = None"),
        (lambda: ann.Conv2d(3, 4, 3, bias=np.zeros(4)), r"bias = array\(.*expected True or False"),
        (lambda: ann.Conv2d(3, 4, 3, dtype="flaot32"), "dtype = 'flaot32'"),
        (lambda: ann.Linear(3, 2, bias="no"), "bias = 'no'"),
        (lambda: ann.Linear(3, 2, dtype="flaot32"), "dtype = 'flaot32'"),
        (lambda: ann.BatchNorm(3, eps=None), "eps = None"),
        (lambda: ann.BatchNorm(3, eps=np.inf), "eps = inf"),
        (lambda: ann.BatchNorm(3, dtype="flaot32"), "dtype = 'flaot32'"),
        (lambda: ann.AvgPool(2, count_include_pad="no"), "count_include_pad = 'no'"),
    ],
)
def test_impossible_options(make, words):
    with pytest.raises(ParameterError, match=words):
        make()
