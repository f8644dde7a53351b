"""The walk over the graph: fan-out, unused parts, several outputs, accumulation."""

import weakref

import numpy as np
import torch

from mpitrain.autograd import Op, Tensor, Weight, WeightWork, backward, ops, run_weights


def leaf(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape), needs_grad=True)


def test_a_tensor_used_three_times_sums_its_gradients():
    x = leaf(3, 4)
    y = x * x + ops.exp(x) - x
    t = torch.tensor(x.data, requires_grad=True)
    (t * t + t.exp() - t).sum().backward()
    (dx,) = backward([y], [np.ones(y.shape)], leaves=[x])
    np.testing.assert_allclose(dx, t.grad.numpy(), rtol=1e-14, atol=1e-14)


def test_the_gradient_that_came_in_is_not_written_to():
    x = leaf(3)
    dy = np.ones(3)
    (dx,) = backward([x + x + x], [dy], leaves=[x])
    np.testing.assert_array_equal(dy, 1.0)
    np.testing.assert_array_equal(dx, 3.0)


def test_a_leaf_that_nothing_uses_has_no_gradient():
    x, unused = leaf(3), leaf(3)
    assert backward([x * 2.0], [np.ones(3)], leaves=[x, unused])[1] is None


def test_a_weight_that_nothing_uses_settles_at_zero():
    weight = Weight(np.ones((2, 2)))
    weight.grad = np.full((2, 2), 7.0)  # of the step before
    np.testing.assert_array_equal(weight.settled_grad(), 0.0)


def test_two_outputs_at_once():
    x = leaf(4)
    first, second = ops.tanh(x), ops.exp(x)
    (dx,) = backward([first, second], [np.full(4, 2.0), np.full(4, 3.0)], leaves=[x])
    np.testing.assert_allclose(dx, 2.0 * (1 - np.tanh(x.data) ** 2) + 3.0 * np.exp(x.data), rtol=1e-14)


def test_microbatches_add_up_to_the_batch():
    x = np.random.default_rng(0).standard_normal((6, 5))
    whole, parts = Weight(np.ones((3, 5))), Weight(np.ones((3, 5)))
    for weight, pieces in ((whole, [x]), (parts, [x[:1], x[1:4], x[4:]])):
        for piece in pieces:
            y = ops.linear(Tensor(piece), weight)
            backward([y], [np.ones(y.shape)])
    np.testing.assert_allclose(parts.grad, whole.grad, rtol=1e-14)
    parts.clear_grad()
    y = ops.linear(Tensor(x), parts)
    backward([y], [np.ones(y.shape)])
    np.testing.assert_array_equal(parts.grad, whole.grad)


def test_a_weight_used_twice_in_one_pass():
    table = Weight(np.random.default_rng(0).standard_normal((5, 3)))
    ids = np.array([[1, 4], [1, 0]])
    t = torch.tensor(table.data, requires_grad=True)
    torch.nn.functional.linear(t[torch.tensor(ids)], t).exp().sum().backward()
    work: WeightWork = []
    y = ops.exp(ops.linear(ops.embedding(Tensor(ids), table), table))
    backward([y], [np.ones(y.shape)], put_off=work)
    assert table.fresh
    run_weights(work)
    assert work == []
    np.testing.assert_allclose(table.grad, t.grad.numpy(), rtol=1e-13)


def test_a_part_without_gradients_is_not_recorded():
    constant = ops.exp(Tensor(np.ones(3)))
    assert constant.op is None
    x = leaf(3)
    (dx,) = backward([x * constant], [np.ones(3)], leaves=[x])
    np.testing.assert_array_equal(dx, np.full(3, np.e))


def test_an_output_that_no_op_saved_is_freed():
    x = leaf(3)
    y = x + 1.0
    freed = weakref.ref(y.data.base if y.data.base is not None else y.data)
    z = y + 1.0  # the gradient of a sum needs neither
    del y
    assert freed() is None
    (dx,) = backward([z], [np.ones(3)], leaves=[x])
    np.testing.assert_array_equal(dx, 1.0)


def test_what_is_under_way_moves_on_between_an_ops_two_gradients():
    log = []

    class Scale(Op):
        def forward(self, x, w):
            self.x, self.w = x, w
            return x * w

        def input_grad(self, dy):
            log.append("dx")
            return (dy * self.w,)

        def weight_grad(self, dy, *out):
            log.append("dw")
            out[0][...] = (dy * self.x).sum(0)

    def scaled_twice():
        x = Tensor(np.ones((2, 3)), needs_grad=True)
        return Scale()(Scale()(x, weights=[Weight(np.ones(3))]), weights=[Weight(np.ones(3))])

    backward([scaled_twice()], [np.ones((2, 3))], between=lambda: log.append("-"))
    assert log == ["dx", "-", "dw"] * 2
    log.clear()
    work: WeightWork = []
    backward([scaled_twice()], [np.ones((2, 3))], put_off=work, between=lambda: log.append("-"))
    assert log == ["dx", "-", "dx"]  # what was asked for goes out at once
    run_weights(work, between=lambda: log.append("-"))
    assert log[3:] == ["dw", "-", "dw"]
