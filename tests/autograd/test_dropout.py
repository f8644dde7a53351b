"""The dropout mask: its rate, and that it depends on nothing but seed, name and sample number."""

import numpy as np

import mpitrain as mt
from mpitrain.autograd import Context, Tensor, backward, ops


def dropped(samples, *, seed=0, name="a", rate=0.3, train=True, shape=(50, 20)):
    context = Context(samples=tuple(samples), seed=seed, train=train)
    return ops.dropout(Tensor(np.ones((len(samples), *shape)), context=context, needs_grad=True), rate, name=name)


def test_any_split_of_a_batch_has_the_same_mask():
    whole = dropped([4, 5, 9, 2]).data
    np.testing.assert_array_equal(whole[1:3], dropped([5, 9]).data)
    np.testing.assert_array_equal(whole[[3, 0]], dropped([2, 4]).data)


def test_seed_name_and_sample_each_change_the_mask():
    first = dropped([0]).data
    for other in (dropped([1]), dropped([0], seed=1), dropped([0], name="b")):
        # Two independent masks of rate 0.3 agree on 0.58 of the elements; 1000 elements stray by 0.016.
        assert abs(np.mean(first == other.data) - 0.58) < 0.08


def test_each_call_of_a_pass_drops_others():
    """Of a mask on a mask of rate 0.5, a quarter is left; the square of the difference of two has the mean 2 (torch 2.13)."""
    drop = mt.nn.Dropout(0.5)
    x = Tensor(np.ones((200, 500)), context=Context(samples=range(200)))
    assert abs((drop(drop(x)).data == 0).mean() - 0.75) < 0.01
    assert abs(np.square((drop(x) - drop(x)).data).mean() - 2.0) < 0.03


def test_rate_and_scale():
    y = dropped(range(20)).data
    kept = y > 0
    np.testing.assert_allclose(y[kept], 1 / 0.7, rtol=1e-15)
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.7 * 0.3 / y.size)


def test_gradient_is_the_mask():
    x = Tensor(np.ones((2, 100)), context=Context(samples=(3, 4)), needs_grad=True)
    y = ops.dropout(x, 0.3, name="a")
    (dx,) = backward([y], [np.full(y.shape, 2.0)], leaves=[x])
    assert (y.data == 0).any()
    np.testing.assert_array_equal(dx, 2.0 * y.data)


def test_nothing_is_dropped_outside_training_or_at_rate_zero():
    np.testing.assert_array_equal(dropped([0], train=False).data, 1.0)
    np.testing.assert_array_equal(dropped([0], rate=0.0).data, 1.0)
