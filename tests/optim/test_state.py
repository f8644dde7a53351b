"""What is kept for parameters, and how statistics move."""

import numpy as np

from mpitrain import optim
from mpitrain.arrays import Arrays
from mpitrain.nn import Parameter, Statistic
from mpitrain.nn.init import ONES, ZEROS


def stage():
    parts = {"w": Parameter((4, 3), ONES), "b": Parameter((3,), ZEROS), "mean": Statistic((3,), ZEROS, momentum=0.1)}
    for name, parameter in parts.items():
        parameter.name = name
        parameter.materialize(Arrays(), np.dtype(np.float64), 0)
    return parts


def test_slots_are_named_after_their_parameters_and_statistics_have_none():
    parts = stage()
    state = optim.OptimizerState(optim.AdamW(lr=0.1), list(parts.values()))
    arrays = state.arrays()
    assert sorted(arrays) == ["exp_avg/b", "exp_avg/w", "exp_avg_sq/b", "exp_avg_sq/w"]
    for name, (array, parameter) in arrays.items():
        assert parameter is parts[name.split("/")[1]]
        assert array.shape == parameter.shape
    assert optim.OptimizerState(optim.SGD(lr=0.1), list(parts.values())).arrays() == {}


def test_a_statistic_follows_the_mean_over_all_rows_of_a_step():
    parts = stage()
    state = optim.OptimizerState(optim.SGD(lr=0.1), list(parts.values()))
    parts["mean"].observe(np.array([1.0, 2.0, 3.0]), 3)
    parts["mean"].observe(np.array([5.0, 6.0, 7.0]), 1)
    state.step(grad_scale=0.123)  # the gradient's scale (averaging, clipping) is none of a statistic's
    np.testing.assert_allclose(parts["mean"].data, 0.1 * np.array([2.0, 3.0, 4.0]), rtol=1e-14)


def test_a_step_forgets_the_gradients_keeps_their_buffers_and_counts():
    parts = stage()
    state = optim.OptimizerState(optim.SGD(lr=1.0, schedule=optim.Linear(steps=4)), list(parts.values()))
    buffer = parts["w"].settled_grad()
    buffer[...] = 1.0
    state.step()
    assert (state.step_count, state.lr) == (1, 0.75)
    assert parts["w"].fresh
    assert parts["w"].settled_grad() is buffer
    assert not buffer.any()
    np.testing.assert_array_equal(parts["w"].data, np.zeros((4, 3)))


def test_a_restored_state_goes_on_as_if_nothing_had_happened():
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((6, 4, 3))
    optimizer = optim.Adam(lr=0.1, schedule=optim.Cosine(steps=6, warmup=2))

    def run(parts, state, some):
        for grad in some:
            parts["w"].settled_grad()[...] = grad
            state.step()

    whole, first, second = stage(), stage(), stage()
    run(whole, optim.OptimizerState(optimizer, list(whole.values())), grads)
    left = optim.OptimizerState(optimizer, list(first.values()))
    run(first, left, grads[:3])
    right = optim.OptimizerState(optimizer, list(second.values()))
    right.step_count = left.step_count
    second["w"].data[...] = first["w"].data
    for name, (array, _) in left.arrays().items():
        right.arrays()[name][0][...] = array
    run(second, right, grads[3:])
    np.testing.assert_array_equal(second["w"].data, whole["w"].data)
