"""`checkpoint` and `no_grad`."""

import numpy as np
import pytest

from mpitrain.autograd import Context, Tensor, Weight, WeightWork, backward, checkpoint, no_grad, ops, run_weights

rng = np.random.default_rng(0)
X, W = rng.standard_normal((4, 5)).astype(np.float32), rng.standard_normal((5, 5)).astype(np.float32)


def block(weight):
    return lambda x: x + ops.dropout(ops.gelu_tanh(ops.linear(x, weight)), 0.4, name="block")


def gradients(wrap, *, put_off):
    weight = Weight(W.copy())
    x = Tensor(X, context=Context(seed=1, samples=(3, 1, 4, 5)), needs_grad=True)
    f = wrap(block(weight))
    y = f(f(x))
    work: WeightWork | None = [] if put_off else None
    (dx,) = backward([y], [np.ones_like(y.data)], leaves=[x], put_off=work)
    if work is not None:
        run_weights(work)
    return y.data, dx, weight.grad


@pytest.mark.parametrize("put_off", [False, True], ids=["B", "I then W"])
def test_checkpoint_gives_the_same_bits_as_the_function(put_off):
    for ours, plain in zip(gradients(checkpoint, put_off=put_off), gradients(lambda f: f, put_off=False), strict=True):
        np.testing.assert_array_equal(ours, plain)


def test_checkpoint_keeps_only_its_input():
    calls = []

    def f(x):
        calls.append(x.context.record)
        return ops.exp(x)

    x = Tensor(X, needs_grad=True)
    y = checkpoint(f)(x)
    assert calls == [False]
    backward([y], [np.ones_like(X)])
    assert calls == [False, True]


def test_no_grad_is_a_constant_for_backward():
    weight = Weight(W)
    x = Tensor(X, needs_grad=True)
    y = no_grad(block(weight))(Tensor(X, context=Context(samples=(0, 1, 2, 3))))
    assert y.op is None
    assert y.context.record
    (dx,) = backward([x * y], [np.ones_like(X)], leaves=[x])
    np.testing.assert_array_equal(dx, y.data)
    assert weight.grad is None
