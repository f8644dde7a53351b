"""The MLP against the same network in torch."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mpitrain.arrays import Arrays
from mpitrain.autograd import Tensor, backward
from mpitrain.nn.models import MLP


@pytest.mark.parametrize("sizes", [(64, 128, 10), (20, 3), (12, 7, 5, 4)])
def test_loss_and_gradients_are_torchs(sizes):
    model = MLP(sizes=sizes)
    model.materialize(Arrays(), np.dtype(np.float64), seed=3)
    assert [p.shape for p in model.parameters()] == [shape for i, o in pairwise(sizes) for shape in ((o, i), (o,))]
    rng = np.random.default_rng(0)
    x, targets = rng.standard_normal((5, 2, sizes[0] // 2)), rng.integers(0, sizes[-1], 5)

    weights = [torch.tensor(p.data, requires_grad=True) for p in model.parameters()]
    h = torch.tensor(x).flatten(1)
    for i in range(0, len(weights), 2):
        h = torch.nn.functional.linear(h.relu() if i else h, weights[i], weights[i + 1])
    expected = torch.nn.functional.cross_entropy(h, torch.tensor(targets), reduction="sum")
    expected.backward()

    loss = model.loss(model(Tensor(x)), targets)
    backward([loss], [np.ones(())])
    assert float(loss.data) == pytest.approx(expected.item(), rel=1e-13)
    for p, w in zip(model.parameters(), weights, strict=True):
        np.testing.assert_allclose(p.settled_grad(), w.grad.numpy(), rtol=0, atol=1e-13)
