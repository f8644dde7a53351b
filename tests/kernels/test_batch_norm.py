"""Batch norm in every float: beside float64, to the rounding of the type."""

from __future__ import annotations

import numpy as np
import pytest

from mpitrain.arrays import FLOATS
from mpitrain.kernels.batch_norm import twin


@pytest.mark.parametrize("name", FLOATS)
def test_forward_and_gradients_are_those_of_float64(name):
    dtype = FLOATS[name]
    rng = np.random.default_rng(0)
    # Sums of 2 x 200 x 200 values overflow float16, their means do not.
    x, dy = (rng.normal(size=(2, 3, 200, 200)).astype(dtype) for _ in range(2))
    weight, bias = (rng.normal(size=3).astype(dtype) for _ in range(2))

    def run(kind):
        a, d, w, b = (array.astype(kind) for array in (x, dy, weight, bias))
        mean, variance = twin.moments(a)
        y, x_hat, inverse = twin.batch_norm(a, w, b, mean, variance, 1e-5)
        scale = np.empty(3, kind)
        twin.scale_grad(d, x_hat, scale)
        return mean, variance, y, twin.batch_norm_grad(d, x_hat, inverse, w), scale

    rounding = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}[name]
    # The weight's gradient is a sum of n terms in float32 or float64: n times the rounding of partial sums of about √n is n.
    summing = min(rounding, 2**-24) * dy[:, 0].size
    for found, exact, summed in zip(run(dtype), run(np.dtype(np.float64)), (0, 0, 0, 0, summing), strict=True):
        assert found.dtype == dtype
        # some ten operations, each rounded, on values up to the largest
        assert np.abs(found.astype(np.float64) - exact).max() <= 20 * rounding * max(1.0, np.abs(exact).max()) + summed
