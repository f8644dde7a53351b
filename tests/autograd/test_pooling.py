"""Pooling against torch and finite differences."""

from functools import partial

import numpy as np
import pytest
import torch
from gradcheck import Case, check_against_differences, check_against_torch
from torch.nn import functional

from mpitrain.autograd import Tensor, backward, ops

SETTINGS = [
    ((2, 3, 4, 6), 2, {}),
    ((2, 3, 7, 5), 2, {}),
    ((2, 3, 5, 7), 3, {"stride": 2, "padding": 1}),
    ((1, 2, 6, 6), 3, {"stride": 1}),
    ((1, 2, 9, 8), 2, {"stride": 3}),
]
CASES = [
    Case(
        name=f"{ours.__name__} of {shape}, {size=}, {settings}",
        ours=partial(ours, size=size, **settings),
        theirs=partial(theirs, kernel_size=size, **settings),
        inputs=(shape,),
    )
    for ours, theirs in ((ops.max_pool, functional.max_pool2d), (ops.average_pool, functional.avg_pool2d))
    for shape, size, settings in SETTINGS
]
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-15), (np.float32, 1e-6)])
def test_equals_torch(case, dtype, tolerance):
    check_against_torch(case, dtype, tolerance)  # sums of at most 9 terms


@every_case
def test_gradient_is_the_slope(case):
    check_against_differences(case)


def test_of_equal_values_the_first_gets_the_gradient_as_in_torch():
    x = np.random.default_rng(0).integers(0, 2, (2, 2, 6, 6)).astype(np.float64)
    ours, theirs = Tensor(x, needs_grad=True), torch.tensor(x, requires_grad=True)
    y = ops.max_pool(ours, 3, stride=2, padding=1)
    (dx,) = backward([y], [np.ones(y.shape)], leaves=[ours])
    functional.max_pool2d(theirs, 3, 2, 1).sum().backward()
    np.testing.assert_array_equal(dx, theirs.grad.numpy())


def test_what_is_not_a_number_is_handed_on():
    x = np.zeros((1, 1, 4, 4))
    x[0, 0, 0, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(ops.max_pool(Tensor(x), 2).data), [[[[True, False], [False, False]]]])
