"""Batch norm against torch and finite differences, with its own moments and with given ones."""

import numpy as np
import pytest
import torch
from gradcheck import Case, check_against_differences, check_against_torch, check_put_off
from torch.nn import functional

from mpitrain.autograd import Tensor, Weight, ops

MEAN, VARIANCE = np.array([0.5, -2.0, 3.0]), np.array([0.3, 1.0, 7.0])


def fixed(x, weight, bias):
    dtype = x.data.dtype
    return ops.batch_norm(x, weight, bias, eps=1e-3, moments=(MEAN.astype(dtype), VARIANCE.astype(dtype)))[0]


def torch_fixed(x, weight, bias):
    mean, variance = (torch.tensor(moment, dtype=x.dtype) for moment in (MEAN, VARIANCE))
    return functional.batch_norm(x, mean, variance, weight, bias, eps=1e-3)


CASES = [
    Case(
        name=f"own moments of {shape}",
        ours=lambda x, w, b: ops.batch_norm(x, w, b, eps=1e-5)[0],
        theirs=lambda x, w, b: functional.batch_norm(x, None, None, w, b, training=True),
        inputs=(shape,),
        weights=(shape[1:2], shape[1:2]),
    )
    for shape in ((4, 3, 5, 7), (1, 2, 3, 1), (6, 5, 1, 1))
] + [Case(name="given moments", ours=fixed, theirs=torch_fixed, inputs=((2, 3, 4, 5),), weights=((3,), (3,)))]
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 3e-6)])
def test_equals_torch(case, dtype, tolerance):
    check_against_torch(case, dtype, tolerance)  # sums of up to 140 terms


@every_case
def test_gradient_is_the_slope(case):
    check_against_differences(case)


@every_case
def test_input_then_weight_gradients_are_the_same_bits(case):
    check_put_off(case)


def test_it_returns_the_moments_that_it_used():
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 7)) + 10
    weight, bias = Weight(np.ones(3)), Weight(np.zeros(3))
    _, (mean, variance) = ops.batch_norm(Tensor(x), weight, bias, eps=1e-5)
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(variance, x.var((0, 2, 3)), rtol=1e-13)
