"""Pooling layers and `Flatten` against torch's."""

import numpy as np
import pytest
import torch

from mpitrain.autograd import Tensor, backward
from mpitrain.nn import AvgPool2d, Flatten, GlobalAvgPool, MaxPool2d

PAIRS = [
    (MaxPool2d(2), torch.nn.MaxPool2d(2)),
    (MaxPool2d(3, stride=2, padding=1), torch.nn.MaxPool2d(3, 2, 1)),
    (AvgPool2d(2), torch.nn.AvgPool2d(2)),
    (AvgPool2d(3, stride=1, padding=1), torch.nn.AvgPool2d(3, 1, 1)),
    (GlobalAvgPool(), torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())),
    (Flatten(), torch.nn.Flatten()),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=[type(ours).__name__ for ours, _ in PAIRS])
def test_equals_torch(ours, theirs):
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((2, 3, 7, 5)), needs_grad=True)
    tx = torch.tensor(x.data, requires_grad=True)
    y, ty = ours(x), theirs(tx)
    dy = rng.standard_normal(y.shape)
    (dx,) = backward([y], [dy], leaves=[x])
    ty.backward(torch.tensor(dy))
    np.testing.assert_allclose(y.data, ty.detach().numpy(), rtol=0, atol=1e-15)  # means of at most 35 terms of size 1
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=0, atol=1e-15)
