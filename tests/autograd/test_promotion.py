"""Integers promote as torch's do."""

import numpy as np
import pytest
import torch

from mpitrain.autograd import Tensor

NUMBERS = np.array([121, 131, 193], np.uint8)
FUNCTIONS = [
    lambda x: x * (1 / 255),
    lambda x: x - 128.0,
    lambda x: 1.0 - x,
    lambda x: x - 128,
    lambda x: x / x,
    lambda x: x + x,
    lambda x: (x / 2) * x,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_integers_and_numbers(function):
    ours, theirs = function(Tensor(NUMBERS)).data, function(torch.tensor(NUMBERS)).numpy()
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
