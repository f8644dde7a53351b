"""The convolution layer against torch's."""

import numpy as np
import torch

from mpitrain.arrays import Arrays
from mpitrain.autograd import Tensor
from mpitrain.nn import Conv2d
from mpitrain.nn.init import Constant


def test_settings_reach_the_op():
    ours, theirs = Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.Conv2d(3, 4, 3, stride=2, padding=1).double()
    ours.materialize(Arrays(), np.dtype(np.float64), seed=1)
    np.testing.assert_array_equal(ours.bias.data, 0.0)
    ours.bias.data[...] = np.arange(4)
    theirs.weight.data, theirs.bias.data = torch.tensor(ours.weight.data), torch.tensor(ours.bias.data)
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 6))
    expected = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours(Tensor(x)).data, expected, rtol=0, atol=1e-14)  # sums of 27 terms of size 1


def test_the_weight_starts_within_its_bound_and_fills_it():
    layer = Conv2d(4, 50, 3, bias=False)
    layer.materialize(Arrays(), np.dtype(np.float64))
    bound = 1 / np.sqrt(4 * 9)
    assert bound * 0.99 < np.abs(layer.weight.data).max() <= bound  # of 1800 numbers, all below 0.99 once in 70 million
    assert layer.bias is None


def test_an_initializer_can_be_given():
    layer = Conv2d(1, 1, 2, init=Constant(0.5))
    layer.materialize(Arrays(), np.dtype(np.float32))
    np.testing.assert_array_equal(layer(Tensor(np.ones((1, 1, 2, 2), np.float32))).data, [[[[2.0]]]])
