"""The batch norm layer against torch's: training, evaluation, and what the running moments become."""

import numpy as np
import pytest
import torch

from mpitrain.arrays import Arrays
from mpitrain.autograd import Context, Tensor, checkpoint
from mpitrain.nn import BatchNorm2d
from mpitrain.optim import SGD, OptimizerState


def images(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3, 4, 5)) * [[[2.0]], [[0.1]], [[7.0]]] + 3.0


def layer():
    norm = BatchNorm2d(3)
    norm.materialize(Arrays(), np.dtype(np.float64))
    return norm


def test_training_and_then_evaluating_is_torchs():
    ours, theirs = layer(), torch.nn.BatchNorm2d(3).double()
    state = OptimizerState(SGD(lr=0.0), ours.parameters())
    for step in range(3):
        x = images(6, seed=step)
        expected = theirs(torch.tensor(x)).detach().numpy()
        np.testing.assert_allclose(ours(Tensor(x)).data, expected, rtol=0, atol=1e-12)
        state.step()
    np.testing.assert_allclose(ours.running_mean.data, theirs.running_mean.numpy(), rtol=1e-13)
    np.testing.assert_allclose(ours.running_variance.data, theirs.running_var.numpy(), rtol=1e-13)
    evaluated = ours(Tensor(images(2), context=Context(train=False))).data
    expected = theirs.eval()(torch.tensor(images(2))).detach().numpy()
    np.testing.assert_allclose(evaluated, expected, rtol=0, atol=1e-12)


def test_a_step_of_several_microbatches_observes_their_weighted_mean():
    norm, x = layer(), images(7)
    parts = [x[:4], x[4:]]
    state = OptimizerState(SGD(lr=0.0), norm.parameters())
    for part in parts:
        norm(Tensor(part))
    state.step()
    mean = sum(len(part) * part.mean((0, 2, 3)) for part in parts) / 7
    variance = sum(len(part) * part.var((0, 2, 3), ddof=1) for part in parts) / 7
    np.testing.assert_allclose(norm.running_mean.data, 0.1 * mean, rtol=1e-13)
    np.testing.assert_allclose(norm.running_variance.data, 0.9 + 0.1 * variance, rtol=1e-13)


@pytest.mark.parametrize("context", [Context(record=False), Context(train=False), Context(train=False, record=False)])
def test_passes_that_do_not_train_observe_nothing(context):
    norm = layer()
    norm(Tensor(images(4), context=context))
    np.testing.assert_array_equal(norm.running_mean.settled_grad(), 0.0)
    np.testing.assert_array_equal(norm.running_variance.settled_grad(), 0.0)


def test_recomputing_observes_once():
    norm, other = layer(), layer()
    x = Tensor(images(4), needs_grad=True)
    y = checkpoint(norm)(x)
    y.op.input_grad(np.ones(y.shape))
    other(x)
    np.testing.assert_array_equal(norm.running_mean.settled_grad(), other.running_mean.settled_grad())


def test_one_value_a_channel_is_an_error():
    with pytest.raises(ValueError, match=r"sees one value of each channel \(shape \(1, 3, 1, 1\)\), .* expected two"):
        layer()(Tensor(np.ones((1, 3, 1, 1))))
