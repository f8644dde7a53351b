"""Weights that are not trained: torch's gradients for the others with `requires_grad=False` for these, and nothing computed."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np
import pytest
import torch

from mpitrain.autograd import Op, Tensor, Weight, WeightWork, backward, checkpoint, ops, run_weights
from mpitrain.autograd.saved import saved_bytes

rng = np.random.default_rng(0)
X, IMAGES, IDS = rng.standard_normal((3, 5, 4)), rng.standard_normal((2, 3, 6, 6)), rng.integers(0, 7, (3, 5))
F = torch.nn.functional
#: What an op takes, the shapes of its weights, ours and torch's.
OPS = {
    "linear": (X, [(2, 4), (2,)], ops.linear, F.linear),
    "convolution": (IMAGES, [(4, 3, 3, 3), (4,)], ops.convolution, F.conv2d),
    "layer norm": (
        X,
        [(4,), (4,)],
        lambda x, w, b: ops.layer_norm(x, w, b, eps=1e-5),
        lambda x, w, b: F.layer_norm(x, (4,), w, b),
    ),
    "RMS norm": (X, [(4,)], lambda x, w: ops.rms_norm(x, w, eps=1e-5), lambda x, w: F.rms_norm(x, (4,), w, 1e-5)),
    "batch norm": (
        IMAGES,
        [(3,), (3,)],
        lambda x, w, b: ops.batch_norm(x, w, b, eps=1e-5)[0],
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    ),
    "embedding": (IDS, [(7, 4)], ops.embedding, F.embedding),
}
CASES = [
    (name, trained, wanted)
    for name, (x, shapes, *_) in OPS.items()
    for trained in itertools.product([True, False], repeat=len(shapes))
    for wanted in ([True, False] if x.dtype.kind == "f" else [False])
]


@pytest.mark.parametrize(("name", "trained", "wanted"), CASES)
def test_gradients_are_torchs_where_some_weights_are_trained(name, trained, wanted):
    x, shapes, ours, theirs = OPS[name]
    values = [np.random.default_rng(1).standard_normal(shape) for shape in shapes]
    weights = [Weight(value) for value in values]
    for weight, wants in zip(weights, trained, strict=True):
        weight.trained = wants
    tensor = Tensor(x, needs_grad=wanted)
    y = ours(tensor, *weights)
    expected = [torch.tensor(value, requires_grad=wants) for value, wants in zip(values, trained, strict=True)]
    x_torch = torch.tensor(x, requires_grad=wanted)
    y_torch = theirs(x_torch, *expected)
    dy = np.random.default_rng(2).standard_normal(y.shape)
    assert (y.op is not None) == y_torch.requires_grad == (wanted or any(trained))
    (dx,) = backward([y], [dy], leaves=[tensor])
    if y_torch.requires_grad:
        y_torch.backward(torch.tensor(dy))
    for found, grad in [(dx, x_torch.grad), *((w.grad, t.grad) for w, t in zip(weights, expected, strict=True))]:
        assert (found is None) == (grad is None)
        if found is not None:
            np.testing.assert_allclose(found, grad.numpy(), rtol=1e-9, atol=1e-12)
    assert [weight.reached for weight in weights] == list(trained)


def test_below_the_lowest_trained_weight_nothing_is_recorded():
    frozen, trained = Weight(np.eye(4)), Weight(np.eye(4))
    frozen.trained = False
    below = ops.gelu_tanh(ops.linear(Tensor(X), frozen))
    assert below.op is None
    assert saved_bytes([below], [frozen]) == 0
    y = ops.linear(below, trained)
    assert y.op is not None
    # What a frozen layer above keeps is nothing: the gradient of its input needs its weight alone.
    before = saved_bytes([y], [frozen, trained])
    assert saved_bytes([ops.linear(y, frozen)], [frozen, trained]) == before < 2 * X.nbytes


class Counting(Op):
    """A product with a weight of shape () that counts its gradients."""

    counts: ClassVar = {"input": 0, "weight": 0}

    def forward(self, x, weight):
        self.x = x
        return x * weight

    def input_grad(self, dy):
        self.counts["input"] += 1
        return (dy * self.weights[0].data,)

    def weight_grad(self, dy, out):
        self.counts["weight"] += 1
        out[...] = (dy * self.x).sum()


@pytest.mark.parametrize("put_off", [False, True], ids=["B", "I then W"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_frozen_op_between_trained_ones_has_an_input_gradient_alone(put_off, recompute):
    Counting.counts = {"input": 0, "weight": 0}
    weights = [Weight(np.array(value)) for value in (2.0, 3.0, 5.0, 7.0)]
    for weight, trained in zip(weights, (False, True, False, True), strict=True):
        weight.trained = trained
    y = Tensor(np.array([1.0, 2.0]))
    for weight in weights:

        def apply(x, weight=weight):
            return Counting()(x, weights=(weight,))

        y = checkpoint(apply)(y) if recompute else apply(y)
    work: WeightWork | None = [] if put_off else None
    backward([y], [np.ones(2)], put_off=work)
    if work is not None:
        assert Counting.counts["weight"] == 0
        run_weights(work)
    # The lowest trained op's input gradient is wanted by nobody; this op does not look, and torch's would not be asked.
    assert Counting.counts == {"input": 3, "weight": 2}
    assert [weight.grad if weight.grad is None else float(weight.grad) for weight in weights] == [None, 210.0, None, 90.0]
