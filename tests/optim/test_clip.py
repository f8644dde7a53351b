"""Clipping against torch's."""

import math

import numpy as np
import pytest
import torch

from mpitrain import optim
from mpitrain.arrays import BFLOAT16, Arrays
from mpitrain.nn import Parameter
from mpitrain.nn.init import ZEROS


def with_grad(grad):
    parameter = Parameter(grad.shape, ZEROS)
    parameter.materialize(Arrays(), grad.dtype, 0)
    parameter.settled_grad()[...] = grad
    return parameter


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_the_clipped_gradient_is_torchs(limit):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape) for shape in ((300, 200), (), (7,))]
    norm = math.sqrt(sum(float(square) for square in optim.squared_norms([with_grad(grad) for grad in grads])))
    theirs = [torch.zeros(grad.shape, dtype=torch.float64, requires_grad=True) for grad in grads]
    for tensor, grad in zip(theirs, grads, strict=True):
        tensor.grad = torch.tensor(grad)
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, limit)), rel=1e-12)
    for tensor, grad in zip(theirs, grads, strict=True):
        # torch adds 1e-6 to the norm before it divides
        np.testing.assert_allclose(optim.clip_scale(norm, limit) * grad, tensor.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(300, 200), (40, 3, 5, 5), (7,), (), (1, 100_000)])
def test_a_rows_square_is_the_same_wherever_the_others_are(shape):
    grad = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    (rows,) = optim.squared_row_norms([with_grad(grad)])
    squares = np.square(grad.astype(np.float64)).reshape(-1, math.prod(shape[1:]))
    # n additions of positive numbers, each rounded once at most
    np.testing.assert_allclose(rows, [math.fsum(row) for row in squares], rtol=squares.shape[1] * 2.0**-53)
    for replicas in (2, 3):
        parts = np.array_split(grad, replicas) if shape else [grad]
        found = [optim.squared_row_norms([with_grad(np.ascontiguousarray(part))])[0] for part in parts if part.size]
        assert np.concatenate(found).tobytes() == rows.tobytes()


def test_without_a_limit_nothing_is_scaled():
    assert optim.clip_scale(1e30, None) == 1.0


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32])
def test_squares_of_short_floats_are_summed_in_longer_ones(dtype):
    grad = np.full((1000, 1000), 0.5, dtype)  # 250,000: above float16's largest number
    assert [float(square) for square in optim.squared_norms([with_grad(grad)])] == pytest.approx([250_000.0], rel=1e-5)
